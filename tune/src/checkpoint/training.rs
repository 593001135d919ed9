//! Checkpoints: everything that continuing a run needs, in a folder `checkpoints/step-N` that is complete or absent.
//!
//! `adapter/` holds the parameters as they are now, in the layout of any adapter folder; `moments.safetensors` the optimiser's two moments slot by slot;
//! `state.json` the rest, as the training loop has it. All numbers keep their bits.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{AdapterFolder, CheckpointError, save_adapters};
use crate::adapter::Gradients;
use crate::config::{Problems, Section, read_json};
use crate::model::{Attachment, Decoder};
use crate::tensor::Real;
use crate::weights::{
    Dtype, Staging, TensorFiles, TensorSpec, TensorWriter, check_inventory, default_metadata, write_file,
};

/// Version of the folder's layout.
const FORMAT: usize = 1;

/// Folder of all checkpoints of a run.
const FOLDER: &str = "checkpoints";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.json";

/// The optimiser's part of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a, T> {
    /// First moments, laid out as the gradients.
    pub first: &'a Gradients<T>,
    /// Second moments.
    pub second: &'a Gradients<T>,
    /// Steps taken.
    pub steps: u64,
}

fn tensor_name(slot: usize, moment: &str) -> String {
    format!("slot.{slot}.{moment}")
}

/// Writes the checkpoint of step `step` of the run in `run`; where it lies.
///
/// # Errors
/// When something cannot be written; nothing is left behind then, and older checkpoints are as they were.
pub fn save_checkpoint<T: Real>(
    run: &Path,
    step: usize,
    model: &Decoder<T>,
    (attachments, base): (&[Attachment], &str),
    moments: Moments<'_, T>,
    state: &Value,
) -> Result<PathBuf, CheckpointError> {
    let path = run.join(FOLDER).join(format!("step-{step}"));
    let staging = Staging::create(&path)?;
    save_adapters(&staging.path().join("adapter"), model, attachments, base)?;
    let dtype = Dtype::of::<T>();
    let both = [("first", moments.first), ("second", moments.second)];
    let slots =
        || (0..moments.first.slots()).flat_map(|slot| both.map(|(name, moment)| (slot, name, moment.slot(slot))));
    let specs = slots().map(|(slot, name, values)| TensorSpec::new(tensor_name(slot, name), dtype, vec![values.len()]));
    let mut writer = TensorWriter::create(&staging.path().join(MOMENTS), &default_metadata(), specs.collect())?;
    for (slot, name, values) in slots() {
        writer.write_values(&tensor_name(slot, name), values)?;
    }
    writer.finish()?;
    let text = json!({ "format": FORMAT, "step": step, "optimizer_steps": moments.steps, "state": state }).to_string();
    write_file(&staging.path().join(STATE), text.as_bytes())?;
    staging.commit_replacing()?;
    Ok(path)
}

/// The checkpoints of a run, oldest first: steps and folders.
///
/// # Errors
/// When the folder cannot be read.
pub fn list_checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>, CheckpointError> {
    let folder = run.join(FOLDER);
    let failed = |source| CheckpointError::Io { action: "read", path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut list = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        list.extend(name.strip_prefix("step-").and_then(|step| step.parse().ok()).map(|step| (step, entry.path())));
    }
    list.sort_unstable();
    Ok(list)
}

/// Removes all but the newest `keep` checkpoints of a run.
///
/// # Errors
/// When a folder cannot be removed.
pub fn prune_checkpoints(run: &Path, keep: usize) -> Result<(), CheckpointError> {
    let list = list_checkpoints(run)?;
    for (_, path) in &list[..list.len().saturating_sub(keep)] {
        let failed = |source| CheckpointError::Io { action: "remove", path: path.clone(), source };
        // out of sight first: a process killed while removing leaves no half of a checkpoint under its name
        let hidden = path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()));
        std::fs::rename(path, &hidden).map_err(failed)?;
        std::fs::remove_dir_all(&hidden).map_err(failed)?;
    }
    Ok(())
}

/// A checkpoint, opened.
pub struct Checkpoint {
    /// Its parameters.
    pub adapter: AdapterFolder,
    /// Steps taken when it was written.
    pub step: usize,
    /// The loop's state.
    pub state: Value,
    optimizer_steps: u64,
    moments: TensorFiles,
}

impl Checkpoint {
    /// Opens a checkpoint folder.
    ///
    /// # Errors
    /// When a file is missing or broken, or the format is newer than this program.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(STATE);
        let map: Map<String, Value> = read_json(&path)?;
        let problems = Problems::new();
        let mut section = Section::new("", map, &problems);
        let format = section.usize("format").required();
        if format > FORMAT {
            section.problem("format", format!("{format} is newer than {FORMAT}, which this program knows: update it"));
        }
        let step = section.usize("step").required();
        let optimizer_steps = section.u64("optimizer_steps").required();
        let state = section.value("state").unwrap_or_default();
        section.finish();
        problems.check(&path.display().to_string())?;
        let moments = TensorFiles::open_file(&folder.join(MOMENTS))?;
        Ok(Self { adapter: AdapterFolder::open(&folder.join("adapter"))?, step, state, optimizer_steps, moments })
    }

    /// First and second moments in the layout of `like`, and the optimiser's steps.
    ///
    /// # Errors
    /// When the file holds other slots.
    pub fn moments<T: Real>(&self, like: &Gradients<T>) -> Result<(Gradients<T>, Gradients<T>, u64), CheckpointError> {
        let slots = 0..like.slots();
        let names =
            slots.clone().flat_map(|slot| ["first", "second"].map(|m| (tensor_name(slot, m), like.slot(slot).len())));
        let expected: Vec<(String, Vec<usize>)> = names.map(|(name, len)| (name, vec![len])).collect();
        check_inventory(&self.moments, &expected, |_| false)?;
        let (mut first, mut second) = (like.clone(), like.clone());
        for slot in slots {
            first.slot_mut(slot).copy_from_slice(&self.moments.read::<T>(&tensor_name(slot, "first"))?);
            second.slot_mut(slot).copy_from_slice(&self.moments.read::<T>(&tensor_name(slot, "second"))?);
        }
        Ok((first, second, self.optimizer_steps))
    }
}
