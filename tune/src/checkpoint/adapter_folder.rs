//! Adapter folders: `adapter_config.json` beside `adapter_model.safetensors`, tensors named `base_model.model.<module path>.<parameter>`, as PEFT has
//! them. A run with several entries writes one such folder for each, in sub-folders `0`, `1`, ...

use std::path::{Path, PathBuf};

use super::peft_config::FILE as CONFIG;
use super::{AdapterConfig, CheckpointError};
use crate::adapter::{Parameters, Site, Tensor};
use crate::model::{Attachment, Decoder};
use crate::tensor::Real;
use crate::weights::write_file;
use crate::weights::{
    Dtype, Staging, TensorFiles, TensorSpec, TensorWriter, WeightsError, check_inventory, default_metadata,
};

const TENSORS: &str = "adapter_model.safetensors";

fn tensor_name(site: &Site, tensor: &Tensor) -> String {
    format!("base_model.model.{}.{}", site.name, tensor.name)
}

/// Writes the adapters of `model` to `folder`, replacing what stands there only when everything is written.
///
/// Values are written in the compute type, so that reading gives the same bits.
///
/// # Errors
/// When something cannot be written; what stood at `folder` is then untouched.
pub fn save_adapters<T: Real>(
    folder: &Path,
    model: &Decoder<T>,
    attachments: &[Attachment],
    base: &str,
) -> Result<(), CheckpointError> {
    let staging = Staging::create(folder)?;
    for (entry, attachment) in attachments.iter().enumerate() {
        let part = match attachments.len() {
            1 => staging.path().to_owned(),
            _ => staging.path().join(entry.to_string()),
        };
        std::fs::create_dir_all(&part).map_err(|source| CheckpointError::Io {
            action: "create",
            path: part.clone(),
            source,
        })?;
        let config = AdapterConfig { attachment: attachment.clone(), base: Some(base.to_owned()) };
        write_file(&part.join(CONFIG), config.text(Dtype::of::<T>()).as_bytes())?;
        write_tensors(&part.join(TENSORS), model, entry)?;
    }
    Ok(staging.commit_replacing()?)
}

fn write_tensors<T: Real>(path: &Path, model: &Decoder<T>, entry: usize) -> Result<(), WeightsError> {
    let dtype = Dtype::of::<T>();
    let trained = model.trained();
    let of_entry = || trained.iter().filter(|trained| trained.entry == entry);
    let pieces = || of_entry().flat_map(|trained| trained.tensors.iter().map(|piece| (trained.site, piece)));
    let specs =
        pieces().map(|(site, (tensor, _))| TensorSpec::new(tensor_name(site, tensor), dtype, tensor.shape.clone()));
    let mut writer = TensorWriter::create(path, &default_metadata(), specs.collect())?;
    for (site, (tensor, values)) in pieces() {
        writer.write_values(&tensor_name(site, tensor), values)?;
    }
    writer.finish()
}

/// An adapter folder, opened: one entry, or several in sub-folders.
pub struct AdapterFolder {
    entries: Vec<(AdapterConfig, TensorFiles)>,
}

impl AdapterFolder {
    /// Opens the adapters below `folder`.
    ///
    /// # Errors
    /// When there is none, or a configuration or tensor file cannot be read.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let parts: Vec<PathBuf> = if folder.join(CONFIG).exists() {
            vec![folder.to_owned()]
        } else {
            (0..).map(|entry| folder.join(entry.to_string())).take_while(|part| part.join(CONFIG).exists()).collect()
        };
        if parts.is_empty() {
            return Err(CheckpointError::NoAdapter { path: folder.to_owned() });
        }
        let open = |part: &PathBuf| Ok((AdapterConfig::read(part)?, TensorFiles::open_file(&part.join(TENSORS))?));
        Ok(Self { entries: parts.iter().map(open).collect::<Result<_, CheckpointError>>()? })
    }

    /// Opens an adapter folder, or the adapter of a run folder.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_run_or_adapter(folder: &Path) -> Result<Self, CheckpointError> {
        let inner = folder.join("adapter");
        if inner.is_dir() && !folder.join(CONFIG).exists() { Self::open(&inner) } else { Self::open(folder) }
    }

    /// Refuses a folder whose entries are not of the methods and numbers wanted: its values would mean something else.
    ///
    /// # Errors
    /// With the first entry that differs.
    pub fn check_entries(&self, wanted: &[Attachment]) -> Result<(), CheckpointError> {
        let names = |list: &[Attachment]| list.iter().map(|a| a.method.name()).collect::<Vec<_>>();
        let (theirs, ours) = (names(&self.attachments()), names(wanted));
        match theirs == ours {
            true => Ok(()),
            false => Err(CheckpointError::OtherMethods { theirs: theirs.join(", "), ours: ours.join(", ") }),
        }
    }

    /// The methods and sites of all entries.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.entries.iter().map(|(config, _)| config.attachment.clone()).collect()
    }

    /// Folder or hub name of the base model, as the first entry has it.
    pub fn base(&self) -> Option<&str> {
        self.entries.iter().find_map(|(config, _)| config.base.as_deref())
    }

    /// Shape of a saved parameter of a site, whichever entry holds it.
    pub fn shape(&self, site: &Site, parameter: &str) -> Option<&[usize]> {
        let name = format!("base_model.model.{}.{parameter}", site.name);
        self.entries.iter().find_map(|(_, files)| files.get(&name)).map(|info| &info.shape[..])
    }

    /// Replaces the parameters that `entry` attached to `site` by the folder's.
    ///
    /// # Errors
    /// When a tensor cannot be read; [`Self::check`] reports missing and wrong ones before.
    pub fn fill<T: Real>(
        &self,
        entry: usize,
        site: &Site,
        parameters: &mut Parameters<T>,
    ) -> Result<(), CheckpointError> {
        for tensor in parameters.tensors().to_vec() {
            let values = self.entries[entry].1.read(&tensor_name(site, &tensor))?;
            parameters.set(&tensor.name, &values);
        }
        Ok(())
    }

    /// Compares every entry's tensors with what its method has at its sites.
    ///
    /// # Errors
    /// All missing, surplus and wrong-shaped tensors of the first entry that has any.
    pub fn check(&self, modules: &[Site], chosen: &[Vec<usize>]) -> Result<(), CheckpointError> {
        for ((config, files), list) in self.entries.iter().zip(chosen) {
            let expected: Vec<(String, Vec<usize>)> = list
                .iter()
                .flat_map(|&index| {
                    let site = &modules[index];
                    let layout = config.attachment.method.layout(site);
                    layout.into_iter().map(move |tensor| (tensor_name(site, &tensor), tensor.shape))
                })
                .collect();
            check_inventory(files, &expected, |_| false)?;
        }
        Ok(())
    }
}
