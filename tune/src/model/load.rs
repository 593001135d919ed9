//! From a Hugging Face model folder to a [`Decoder`].
//!
//! Everything is checked before anything large is read: the configuration, then names and shapes of all tensors against it.

use std::path::Path;

use thiserror::Error;

use super::assemble::{Values, assemble, initial_values};
use super::config::{HeadNames, ModelConfig};
use super::decoder::Decoder;
use super::family;
use super::file_names::FileNames;
use crate::adapter::Site;
use crate::config::{ConfigError, Problems, read_json};
use crate::ops::{Storage, Weight};
use crate::tensor::Real;
use crate::weights::{Dtype, TensorFiles, WeightsError, check_inventory};

/// How the matrices of the model are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// bf16 where the file holds bf16, the compute type otherwise.
    File,
    /// In the compute type.
    Compute,
    /// As bf16, rounded once where the file holds more.
    Bf16,
}

/// Why a model folder cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// `config.json` cannot be read, or asks for something this program does not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor file is missing, broken, or does not hold what the configuration says.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A task asks for a head over whole sequences, which the model has no place for.
    #[error("this model predicts tokens and has no head over whole sequences: choose an encoder")]
    NoHead,
    /// The folder's head has another number of outputs than the task asks for.
    #[error(
        "the folder's head has {labels} outputs and the task asks for {wanted}: choose a folder without a head, or another task"
    )]
    Labels {
        /// Outputs of the folder's head.
        labels: usize,
        /// Outputs that are asked for.
        wanted: usize,
    },
}

/// Reads and checks `config.json` of a model folder.
///
/// # Errors
/// When it is missing, is not JSON, or holds anything unhandled; all problems at once.
pub fn read_folder_config(folder: &Path) -> Result<ModelConfig, ConfigError> {
    let path = folder.join("config.json");
    let problems = Problems::new();
    let config = family::read_config(read_json(&path)?, &problems);
    problems.check(&path.display().to_string())?;
    // the reader gives a configuration whenever it found no problem
    Ok(config.expect("a configuration without problems"))
}

/// A head over whole sequences as a task wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedHead {
    /// Its outputs.
    pub labels: usize,
    /// Names the random stream that it is drawn from where the folder has none.
    pub seed: u64,
}

/// Loads a model folder. A head over whole sequences that the folder lacks is drawn with seed 0 and as many outputs as the configuration says.
///
/// # Errors
/// [`LoadError`]; nothing is left behind.
pub fn load<T: Real>(folder: &Path, stored_as: StoredAs) -> Result<Decoder<T>, LoadError> {
    load_with_head(folder, stored_as, None)
}

/// Loads a model folder with the head that a task wants: the folder's own where it has one, otherwise a new one with weights
/// `N(0, initializer_range)` and biases 0, see [`super::initial_values`].
///
/// # Errors
/// [`LoadError`], also where the folder's head has another number of outputs, or the model has no place for such a head.
pub fn load_with_head<T: Real>(
    folder: &Path,
    stored_as: StoredAs,
    wanted: Option<WantedHead>,
) -> Result<Decoder<T>, LoadError> {
    let mut config = read_folder_config(folder)?;
    let files = TensorFiles::open_folder(folder)?;
    let names = FileNames::of(&files, &config);
    let held = |site: &Site| site.own().iter().any(|(name, _)| files.get(&format!("{}.{name}", site.name)).is_some());
    let has_head = config.head_sites().iter().any(held);
    if let Some(WantedHead { labels: wanted, .. }) = wanted {
        let labels = config.labels.ok_or(LoadError::NoHead)?;
        if has_head && labels != wanted {
            return Err(LoadError::Labels { labels, wanted });
        }
        config.labels = Some(wanted);
    }
    let drawn = if has_head { Vec::new() } else { config.head_sites() };
    let in_files = |(name, shape): (String, Vec<usize>)| (names.in_files(&name).to_owned(), shape);
    let is_drawn = |name: &str| drawn.iter().any(|site| name.starts_with(&format!("{}.", site.name)));
    let expected: Vec<(String, Vec<usize>)> =
        config.inventory().into_iter().filter(|(name, _)| !is_drawn(name)).map(in_files).collect();
    check_inventory(&files, &expected, |name| is_harmless_extra(&names.in_model(name), name, &config))?;
    let seed = wanted.map_or(0, |wanted| wanted.seed);
    let range = config.initializer_range;
    assemble(config, &Reader { files: &files, names, stored_as, drawn: &drawn, range, seed })
}

/// Tensors that a folder may hold and nothing here uses: rotary tables and the copy of a tied head that older writers left, and what the family names.
pub(crate) fn is_harmless_extra(in_model: &str, in_file: &str, config: &ModelConfig) -> bool {
    let tied = match config.names.head {
        HeadNames::Vocabulary(head) => config.tied && in_file.strip_suffix(".weight") == Some(head),
        HeadNames::Classes { .. } => false,
    };
    let unused = config.names.unused.iter().any(|start| in_model.starts_with(start) || in_file.starts_with(start));
    in_file.ends_with(".rotary_emb.inv_freq") || tied || unused
}

struct Reader<'a> {
    files: &'a TensorFiles,
    names: FileNames,
    stored_as: StoredAs,
    /// Modules that the files do not hold.
    drawn: &'a [Site],
    /// Standard deviation of their weights.
    range: f64,
    /// Names the streams of their weights.
    seed: u64,
}

impl Reader<'_> {
    fn is_drawn(&self, site: &Site) -> bool {
        self.drawn.iter().any(|drawn| drawn.name == site.name)
    }
}

impl<T: Real> Values<T> for Reader<'_> {
    type Error = LoadError;

    fn vector(&self, site: &Site, name: &str) -> Result<Vec<T>, LoadError> {
        if self.is_drawn(site) {
            return Ok(initial_values(site, name, self.range, self.seed));
        }
        Ok(self.files.read(self.names.in_files(&format!("{}.{name}", site.name)))?)
    }

    fn matrix(&self, site: &Site) -> Result<Weight<T>, LoadError> {
        if self.is_drawn(site) {
            let values = initial_values(site, "weight", self.range, self.seed);
            return Ok(Weight::new(Storage::Dense(values), site.d_out, site.d_in));
        }
        let name = format!("{}.weight", site.name);
        let name = self.names.in_files(&name);
        let bf16 = match self.stored_as {
            StoredAs::File => self.files.info(name)?.dtype == Dtype::Bf16,
            StoredAs::Compute => false,
            StoredAs::Bf16 => true,
        };
        let storage =
            if bf16 { Storage::Bf16(self.files.read_bf16(name)?) } else { Storage::Dense(self.files.read(name)?) };
        Ok(Weight::new(storage, site.d_out, site.d_in))
    }
}
