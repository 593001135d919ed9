//! `quanta report`: one page about one or several runs.

use std::path::{Path, PathBuf};

use super::{RunConfig, RunError, plan};
use crate::analysis::{Report, RunView};

/// Writes a page about the runs in `folders` to `out`, or to `report.html` in the folder where there is only one; where it was written.
///
/// # Errors
/// [`RunError::Usage`] where `out` is missing; when a run cannot be read, or what stands at the page's place is no report.
pub fn report(folders: &[PathBuf], out: Option<&Path>) -> Result<PathBuf, RunError> {
    let out = match (out, folders) {
        (Some(out), _) => out.to_owned(),
        (None, [folder]) => folder.join("report.html"),
        _ => {
            return Err(RunError::Usage(
                "several runs have no folder in common: say where the report goes with --out".into(),
            ));
        }
    };
    let mut runs = folders.iter().map(|folder| view(folder)).collect::<Result<Vec<RunView>, RunError>>()?;
    tell_apart(&mut runs, folders);
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    Report::of_runs(names.join(", "), runs).write(&out)?;
    Ok(out)
}

/// A run folder, with its counts of parameters where the base model can still be found.
///
/// # Errors
/// When the folder is no run folder, or its files cannot be read.
pub fn view(folder: &Path) -> Result<RunView, RunError> {
    let mut run = RunView::read(folder)?;
    let config = RunConfig::read(&folder.join("config.toml"), &[])?;
    if let Ok(plan) = plan(&config) {
        (run.trainable, run.base_parameters) = (Some(plan.trainable()), Some(plan.base_parameters));
    }
    Ok(run)
}

/// Runs with the same folder name are called by the paths that were given.
fn tell_apart(runs: &mut [RunView], folders: &[PathBuf]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, folder) in runs.iter_mut().zip(folders) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = folder.display().to_string();
        }
    }
}
