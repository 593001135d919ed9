//! Names of hub models where a model's folder can stand: `hub:org/name@revision`.
//!
//! A name becomes the folder of a snapshot in the cache as soon as it is read; what is missing there is fetched first. A configuration's model is fetched in
//! two steps, so that planning takes no weights. What is fetched is told to one observer of the process, because names appear where no caller waits for
//! progress.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::RunError;
use crate::hub::{HubModel, Need, Progress, Settings, Snapshot, cached, fetch};

static OBSERVER: OnceLock<fn(&Progress)> = OnceLock::new();

/// Tells all downloads of this process to `observer`; the first one given stays.
pub fn observe_downloads(observer: fn(&Progress)) {
    let _ = OBSERVER.set(observer);
}

/// The folder that a path or a hub name stands for, after fetching what is needed.
///
/// # Errors
/// When a name is wrong or the model cannot be had.
pub(super) fn model_folder(path: &Path, need: Need) -> Result<PathBuf, RunError> {
    match path.to_str().and_then(HubModel::from_path) {
        None => Ok(path.to_owned()),
        Some(model) => Ok(snapshot(&model?, need)?.folder),
    }
}

/// Fetches a model, or what is missing of it.
///
/// # Errors
/// When it cannot be had.
pub(super) fn snapshot(model: &HubModel, need: Need) -> Result<Snapshot, RunError> {
    let mut observe = |progress: &Progress| OBSERVER.get().into_iter().for_each(|observer| observer(progress));
    Ok(fetch(model, need, &Settings::from_environment()?, &mut observe)?)
}

/// Replaces a hub name in a configuration's `model.path` by its folder; gives back the model at the commit that the folder holds.
///
/// # Errors
/// As [`model_folder`].
pub(super) fn replace_name(table: &mut Map<String, Value>) -> Result<Option<HubModel>, RunError> {
    let Some(path) = table.get_mut("model").and_then(|model| model.get_mut("path")) else { return Ok(None) };
    let Some(model) = path.as_str().and_then(HubModel::from_path) else { return Ok(None) };
    let snapshot = snapshot(&model?, Need::Description)?;
    *path = Value::String(snapshot.folder.display().to_string());
    Ok(Some(snapshot.model))
}

/// The folder of a base model that an adapter calls by its name on the hub, where the cache has it complete.
pub(super) fn cached_base(name: &str) -> Option<PathBuf> {
    let settings = Settings::from_environment().ok()?;
    Some(cached(&name.parse().ok()?, &settings)?.folder)
}
