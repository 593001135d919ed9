//! Adapter folders: `adapter_config.json` beside `adapter_model.safetensors`, tensors named `base_model.model.<module path>.<parameter>`, as PEFT has
//! them. A run with several entries writes one such folder for each, in sub-folders `0`, `1`, ...; modules that train beside a method that PEFT knows go into
//! its folder, as PEFT's `modules_to_save`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::peft_config::{FILE as CONFIG, together};
use super::{AdapterConfig, CheckpointError};
use crate::adapter::{Kind, Parameters, Site, Sites, Tensor};
use crate::model::{AttachError, Attachment, Decoder, ModelConfig, resolve};
use crate::tensor::Real;
use crate::weights::write_file;
use crate::weights::{
    Dtype, Staging, TensorFiles, TensorSpec, TensorWriter, WeightsError, check_inventory, default_metadata,
};

pub(super) const TENSORS: &str = "adapter_model.safetensors";

pub(super) fn tensor_name(site: &Site, tensor: &Tensor) -> String {
    // a prefix belongs to no module
    if site.kind == Kind::Attention {
        return tensor.name.clone();
    }
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
    let (mut first, mut parts) = (0, Vec::new());
    while first < attachments.len() {
        let entries = first..first + together(&attachments[first..]);
        first = entries.end;
        parts.push(entries);
    }
    for (index, entries) in parts.iter().enumerate() {
        let part = match parts.len() {
            1 => staging.path().to_owned(),
            _ => staging.path().join(index.to_string()),
        };
        std::fs::create_dir_all(&part).map_err(|source| CheckpointError::Io {
            action: "create",
            path: part.clone(),
            source,
        })?;
        let (mut attachments, base) = (attachments[entries.clone()].to_vec(), Some(base.to_owned()));
        attachments.iter_mut().skip(1).for_each(|saved| name_exactly(saved, model.config()));
        let config = AdapterConfig { attachments, base, classifies: model.config().labels.is_some() };
        write_file(&part.join(CONFIG), config.text(Dtype::of::<T>()).as_bytes())?;
        write_tensors(&part.join(TENSORS), model, entries)?;
    }
    Ok(staging.commit_replacing()?)
}

/// Names the modules of an entry so that PEFT's `modules_to_save` chooses the same: it takes every module whose path ends with the text, so that `norm` would
/// choose `input_layernorm` as well. Names that mean more there become whole paths.
fn name_exactly(saved: &mut Attachment, config: &ModelConfig) {
    let modules = config.modules();
    let Sites::Names(names) = &saved.selection.sites else { return };
    let Ok(chosen) = saved.selection.resolve(&modules) else { return };
    let is_chosen = |index: usize| chosen.contains(&index);
    let ends = |site: &Site| names.iter().any(|name| site.name.ends_with(name.as_str()));
    if modules.iter().enumerate().any(|(index, site)| ends(site) && !is_chosen(index)) {
        saved.selection.sites = Sites::Names(chosen.iter().map(|&index| modules[index].name.clone()).collect());
    }
}

/// Writes an adapter folder of one entry from values: for each site its trainable parameters, flat, in the order of the method's layout.
///
/// # Errors
/// When something cannot be written; `folder` is then as it was.
///
/// # Panics
/// When values have another number than the layout.
pub fn write_adapter<T: Real>(
    folder: &Path,
    config: &AdapterConfig,
    sites: &[(Site, Vec<T>)],
) -> Result<(), CheckpointError> {
    let staging = Staging::create(folder)?;
    let dtype = Dtype::of::<T>();
    write_file(&staging.path().join(CONFIG), config.text(dtype).as_bytes())?;
    let method = &config.attachments[0].method;
    let all: Vec<(&Site, Parameters<T>)> = sites
        .iter()
        .map(|(site, values)| (site, Parameters::new(method.layout(site), values.clone(), Vec::new())))
        .collect();
    let pieces = || all.iter().flat_map(|(site, own)| own.tensors().iter().map(move |tensor| (*site, own, tensor)));
    let specs =
        pieces().map(|(site, _, tensor)| TensorSpec::new(tensor_name(site, tensor), dtype, tensor.shape.clone()));
    let mut writer = TensorWriter::create(&staging.path().join(TENSORS), &default_metadata(), specs.collect())?;
    for (site, own, tensor) in pieces() {
        writer.write_values(&tensor_name(site, tensor), own.values(tensor))?;
    }
    writer.finish()?;
    Ok(staging.commit()?)
}

fn write_tensors<T: Real>(path: &Path, model: &Decoder<T>, entries: &Range<usize>) -> Result<(), WeightsError> {
    let dtype = Dtype::of::<T>();
    let trained = model.trained();
    let of_entry = || trained.iter().filter(|trained| entries.contains(&trained.entry));
    let pieces = || of_entry().flat_map(|trained| trained.tensors.iter().map(|piece| (trained.site, piece)));
    let specs =
        pieces().map(|(site, (tensor, _))| TensorSpec::new(tensor_name(site, tensor), dtype, tensor.shape.clone()));
    let mut writer = TensorWriter::create(path, &default_metadata(), specs.collect())?;
    for (site, (tensor, values)) in pieces() {
        writer.write_values(&tensor_name(site, tensor), values)?;
    }
    writer.finish()
}

/// An adapter folder, opened: one part, or several in sub-folders.
pub struct AdapterFolder {
    parts: Vec<(AdapterConfig, TensorFiles)>,
}

impl AdapterFolder {
    /// Opens the adapters below `folder`.
    ///
    /// # Errors
    /// When there is none, or a configuration or tensor file cannot be read; all of that at once.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let parts: Vec<PathBuf> = if folder.join(CONFIG).exists() {
            vec![folder.to_owned()]
        } else {
            (0..).map(|entry| folder.join(entry.to_string())).take_while(|part| part.join(CONFIG).exists()).collect()
        };
        if parts.is_empty() {
            return Err(CheckpointError::NoAdapter { path: folder.to_owned() });
        }
        let (mut opened, mut errors) = (Vec::new(), Vec::new());
        for part in &parts {
            match (AdapterConfig::read(part), TensorFiles::open_file(&part.join(TENSORS))) {
                (Ok(config), Ok(files)) => opened.push((config, files)),
                (config, files) => {
                    errors.extend(config.err());
                    errors.extend(files.err().map(CheckpointError::from));
                }
            }
        }
        CheckpointError::all(errors).map_or(Ok(Self { parts: opened }), Err)
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
        self.parts.iter().flat_map(|(config, _)| config.attachments.clone()).collect()
    }

    /// Folder or hub name of the base model, as the first entry has it.
    pub fn base(&self) -> Option<&str> {
        self.parts.iter().find_map(|(config, _)| config.base.as_deref())
    }

    /// Shape of a saved parameter of a site, whichever entry holds it.
    pub fn shape(&self, site: &Site, parameter: &str) -> Option<&[usize]> {
        let name = format!("base_model.model.{}.{parameter}", site.name);
        self.parts.iter().find_map(|(_, files)| files.get(&name)).map(|info| &info.shape[..])
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
            let values = self.files(entry).read(&tensor_name(site, &tensor))?;
            parameters.set(&tensor.name, &values);
        }
        Ok(())
    }

    /// The tensors of the part that holds an entry.
    fn files(&self, entry: usize) -> &TensorFiles {
        let mut parts = self.parts.iter().flat_map(|(config, files)| config.attachments.iter().map(move |_| files));
        parts.nth(entry).expect("an entry of the folder")
    }

    /// The sites of every entry among [`ModelConfig::attachable`], once the folder's tensors were found to be what the entries ask for there.
    ///
    /// # Errors
    /// Everything that does not fit the model, sites and tensors together.
    pub fn fit(&self, config: &ModelConfig) -> Result<Vec<Vec<usize>>, Misfit> {
        let modules = config.attachable();
        match resolve(&self.attachments(), config) {
            Ok(chosen) => match self.check(&modules, &chosen) {
                Ok(()) => Ok(chosen),
                Err(error) => Err(Misfit { sites: Vec::new(), tensors: Some(error.into()) }),
            },
            Err(sites) => {
                // the tensors of the parts whose sites are known can be judged all the same
                let known = |attachment: &Attachment| resolve(std::slice::from_ref(attachment), config).ok()?.pop();
                let wrong = |(config, files): &(AdapterConfig, TensorFiles)| {
                    let chosen: Vec<Vec<usize>> = config.attachments.iter().map(known).collect::<Option<_>>()?;
                    check_part(config, files, &modules, &chosen).err()
                };
                let tensors = CheckpointError::all(self.parts.iter().filter_map(wrong).collect());
                Err(Misfit { sites, tensors: tensors.map(Box::new) })
            }
        }
    }

    /// Compares every entry's tensors with what its method has at its sites: `chosen` among `modules`, as [`crate::model::resolve`] gives them.
    ///
    /// # Errors
    /// All missing, surplus and wrong-shaped tensors.
    pub fn check(&self, modules: &[Site], chosen: &[Vec<usize>]) -> Result<(), CheckpointError> {
        let (mut errors, mut entry) = (Vec::new(), 0);
        for (config, files) in &self.parts {
            errors.extend(check_part(config, files, modules, &chosen[entry..]).err());
            entry += config.attachments.len();
        }
        CheckpointError::all(errors).map_or(Ok(()), Err)
    }
}

/// What does not fit a model.
#[derive(Debug)]
pub struct Misfit {
    /// Sites.
    pub sites: Vec<AttachError>,
    /// Tensors.
    pub tensors: Option<Box<CheckpointError>>,
}

/// Compares the tensors of one part with what its entries have at their sites.
fn check_part(
    config: &AdapterConfig,
    files: &TensorFiles,
    modules: &[Site],
    chosen: &[Vec<usize>],
) -> Result<(), CheckpointError> {
    let mut expected: Vec<(String, Vec<usize>)> = Vec::new();
    for (attachment, list) in config.attachments.iter().zip(chosen) {
        for site in list.iter().map(|&index| &modules[index]) {
            let layout = attachment.method.layout(site);
            expected.extend(layout.into_iter().map(|tensor| (tensor_name(site, &tensor), tensor.shape)));
        }
    }
    Ok(check_inventory(files, &expected, |_| false)?)
}
