//! Downloads of hub models as the user sees them: a bar for each file on a terminal, one line for each elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use quanta_tune::hub::Progress;

/// The file on its way and its bar.
static SHOWN: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);

/// Shows how far a file is.
pub fn show(progress: &Progress) {
    let Ok(mut shown) = SHOWN.lock() else { return };
    let is_new = shown.as_ref().is_none_or(|(file, _)| *file != progress.file);
    if is_new {
        let bar = ProgressBar::new(progress.size.unwrap_or(0)).with_message(progress.file.clone());
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} [{elapsed} < {eta}]") {
            bar.set_style(style);
        }
        if !std::io::stderr().is_terminal() {
            match progress.size {
                Some(size) => eprintln!("fetching {} ({size} bytes)", progress.file),
                None => eprintln!("fetching {}", progress.file),
            }
        }
        *shown = Some((progress.file.clone(), bar));
    }
    let Some((_, bar)) = shown.as_ref() else { return };
    bar.set_position(progress.done);
    if progress.size == Some(progress.done) {
        bar.finish();
    }
}
