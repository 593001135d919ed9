//! What a folder on the command line is: a run, an adapter or a model; and loading it.
//!
//! What only runs forward loads it merged: where every adapter of a site is a matrix and the weight is held in the compute type, the site is one
//! product again, as in the base model. Weights held as bf16 stay as they are, with their adapters beside: the sum would be rounded to bf16, or take twice the
//! memory; `quanta merge` writes it for those who want its speed. What judges merging loads it unmerged.

use std::path::{Path, PathBuf};

use super::hub::{cached_base, model_folder, snapshot};
use super::{ModelDtype, RunConfig, RunError};
use crate::checkpoint::{AdapterFolder, Change};
use crate::hub::Need;
use crate::model::{
    Attachment, Decoder, ModelConfig, StoredAs, WantedHead, beside_bytes, load_with_head, read_folder_config,
};
use crate::tensor::{BF16_PRODUCTS, Bf16Products, Real, Workspace};
use crate::weights::TensorFiles;

/// A base model, with or without an adapter.
pub struct Source {
    /// The base model's folder.
    pub base: PathBuf,
    /// Its configuration.
    pub config: ModelConfig,
    /// The adapter and where it lies.
    pub adapter: Option<(PathBuf, AdapterFolder)>,
    /// What a run trained in; `auto` for adapters and models.
    pub dtype: ModelDtype,
}

impl Source {
    /// Finds out what `folder` is. `base` overrides where an adapter's base model lies.
    ///
    /// # Errors
    /// When it is none of the three, its base cannot be found, or a configuration cannot be read.
    pub fn open(folder: &Path, base: Option<&Path>) -> Result<Self, RunError> {
        let folder = &model_folder(folder, Need::Weights)?;
        let base = base.map(|base| model_folder(base, Need::Weights)).transpose()?;
        let base = base.as_deref();
        std::fs::read_dir(folder).map_err(RunError::io("open", folder))?;
        let mut dtype = ModelDtype::Auto;
        let (base, adapter) = if folder.join("config.toml").exists() {
            let config = RunConfig::read(&folder.join("config.toml"), &[])?;
            let adapter = folder.join("adapter");
            if !adapter.exists() {
                return Err(RunError::UnfinishedRun { path: folder.to_owned() });
            }
            dtype = config.dtype;
            if let (Some(model), None) = (&config.hub, base) {
                snapshot(model, Need::Weights)?;
            }
            let opened = AdapterFolder::open(&adapter)?;
            (base.map_or(config.model, Path::to_owned), Some((adapter, opened)))
        } else if folder.join("adapter_config.json").exists() || folder.join("0/adapter_config.json").exists() {
            let opened = AdapterFolder::open(folder)?;
            (base_of(folder, &opened, base)?, Some((folder.to_owned(), opened)))
        } else if folder.join("config.json").exists() {
            (folder.to_owned(), None)
        } else {
            return Err(RunError::UnknownFolder { path: folder.to_owned() });
        };
        let mut config = read_folder_config(&base).map_err(|error| RunError::Load(error.into()))?;
        // a head that was trained has the task's number of outputs, whatever the base folder says
        if let (Some((_, adapter)), Some(output)) = (&adapter, config.head_sites().pop()) {
            config.labels = adapter.shape(&output, "weight").and_then(|shape| shape.first().copied()).or(config.labels);
        }
        Ok(Self { base, config, adapter, dtype })
    }

    /// Whether a head over whole sequences was trained: it lies with the adapter or in the base folder.
    ///
    /// # Errors
    /// When the base's tensor files cannot be opened.
    pub fn has_head(&self) -> Result<bool, RunError> {
        let Some(output) = self.config.head_sites().pop() else { return Ok(false) };
        let trained = self.adapter.as_ref().is_some_and(|(_, adapter)| adapter.shape(&output, "weight").is_some());
        Ok(trained || TensorFiles::open_folder(&self.base)?.get(&format!("{}.weight", output.name)).is_some())
    }

    /// What the adapter makes of the base's weights.
    ///
    /// # Errors
    /// When there is no adapter, it does not fit the base, or it is no change of weights.
    pub fn change(&self) -> Result<Change, RunError> {
        let Some((path, _)) = &self.adapter else {
            return Err(RunError::Usage(format!("{} is a model without an adapter", self.base.display())));
        };
        let folder = AdapterFolder::open(path)?;
        let chosen = folder.fit(&self.config).map_err(|misfit| RunError::misfit(path, misfit))?;
        Ok(Change::new(folder, &self.config.attachable(), &chosen)?)
    }

    /// Loads the model and attaches the adapter with its saved values.
    ///
    /// # Errors
    /// When a file is broken or the adapter does not fit the base.
    pub fn load<T: Real>(&self, stored_as: StoredAs) -> Result<Decoder<T>, RunError> {
        let plan = self.plan()?;
        let head = self.config.labels.map(|labels| WantedHead { labels, seed: 0 });
        let mut model = load_with_head(&self.base, stored_as, head)?;
        if let Some((adapter, attachments, chosen)) = plan {
            model.attach(&attachments, &chosen, 0, |entry, site, parameters| adapter.fill(entry, site, parameters))?;
        }
        Ok(model)
    }

    /// As [`Self::load`], merged as far as [`Decoder::merge`] does.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_merged<T: Real>(&self, stored_as: StoredAs, workspace: &Workspace<T>) -> Result<Decoder<T>, RunError> {
        workspace.run(|| {
            let mut model = self.load(stored_as)?;
            model.merge();
            Ok(model)
        })
    }

    /// The adapter's entries, and their sites among [`ModelConfig::attachable`].
    fn plan(&self) -> Result<Option<Plan<'_>>, RunError> {
        let Some((path, adapter)) = &self.adapter else { return Ok(None) };
        let chosen = adapter.fit(&self.config).map_err(|misfit| RunError::misfit(path, misfit))?;
        Ok(Some((adapter, adapter.attachments(), chosen)))
    }

    /// Bytes that the adapter takes besides the stored weights, held and for a while: see [`beside_bytes`].
    ///
    /// # Errors
    /// When the adapter does not fit the base.
    pub fn adapter_bytes(&self, number_bytes: usize, weight_bytes: usize) -> Result<[u64; 2], RunError> {
        let Some((_, attachments, chosen)) = self.plan()? else { return Ok([0; 2]) };
        Ok(beside_bytes(&self.config, &attachments, &chosen, number_bytes, weight_bytes))
    }
}

/// An adapter with its entries and the sites of each.
type Plan<'a> = (&'a AdapterFolder, Vec<Attachment>, Vec<Vec<usize>>);

/// Refuses a model that predicts no tokens.
///
/// # Errors
/// [`RunError::Encoder`] with what it is asked to do.
pub fn needs_decoder(config: &ModelConfig, action: &'static str) -> Result<(), RunError> {
    match config.labels {
        None => Ok(()),
        Some(_) => Err(RunError::Encoder { action }),
    }
}

/// [`workspace`] whose products with bf16 weights are of rows rounded to bf16, where something has asked for that, which is named.
///
/// # Errors
/// As [`workspace`], and when that cannot be done here.
pub fn training_workspace<T: Real>(threads: usize, rounded: Option<&str>) -> Result<Workspace<T>, RunError> {
    let workspace = workspace(threads)?;
    let Some(name) = rounded else { return Ok(workspace) };
    let products = workspace.bf16_products().rounded().ok_or_else(|| {
        RunError::Usage(format!(
            "{name} needs AMX or AVX-512-BF16, and neither can be used here: leave it out; with {BF16_PRODUCTS}=portable plain code does it, slowly"
        ))
    })?;
    Ok(workspace.with_bf16_products(products))
}

/// A workspace with the given number of threads (0: one for each processor).
///
/// # Errors
/// When the threads cannot be started, or the environment asks for products that there are not.
pub fn workspace<T: Real>(threads: usize) -> Result<Workspace<T>, RunError> {
    Bf16Products::of_process().map_err(RunError::Usage)?;
    Workspace::new(threads).map_err(|error| RunError::Threads { threads, reason: error.to_string() })
}

/// The base model of an adapter folder: as given, as the folder says, or as it says seen from the folder.
fn base_of(folder: &Path, adapter: &AdapterFolder, given: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let named = adapter.base().map(PathBuf::from);
    let candidates = named.iter().flat_map(|base| [base.clone(), folder.join(base)]);
    let found = candidates.into_iter().find(|base| base.join("config.json").exists());
    let found = found.or_else(|| cached_base(adapter.base()?));
    found.ok_or_else(|| RunError::NoBase { adapter: folder.to_owned(), base: adapter.base().map(str::to_owned) })
}
