//! Ctrl-C and the request to terminate: the first asks the command to end in good order, the second ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static RAISED: AtomicBool = AtomicBool::new(false);

/// Exit status of a process that a user interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// The flag that the first interrupt raises. To be asked for once.
pub fn flag() -> Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if RAISED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("stopping after this step with a checkpoint; once more stops at once");
    })
    .context("cannot listen for interrupts")?;
    Ok(&RAISED)
}
