//! From a Hugging Face model folder to a [`Decoder`].
//!
//! Everything is checked before anything large is read: the configuration, then names and shapes of all tensors against it.

use std::path::Path;

use thiserror::Error;

use super::assemble::{Values, assemble};
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::family;
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

/// Loads a model folder.
///
/// # Errors
/// [`LoadError`]; nothing is left behind.
pub fn load<T: Real>(folder: &Path, stored_as: StoredAs) -> Result<Decoder<T>, LoadError> {
    let config = read_folder_config(folder)?;
    let files = TensorFiles::open_folder(folder)?;
    check_inventory(&files, &config.inventory(), |name| is_harmless_extra(name, &config))?;
    assemble(config, &Reader { files: &files, stored_as })
}

/// Tensors that older writers left in a folder and that change nothing: rotary tables, and the copy of a tied head.
pub(crate) fn is_harmless_extra(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight")
}

struct Reader<'a> {
    files: &'a TensorFiles,
    stored_as: StoredAs,
}

impl<T: Real> Values<T> for Reader<'_> {
    type Error = LoadError;

    fn vector(&self, site: &Site, name: &str) -> Result<Vec<T>, LoadError> {
        Ok(self.files.read(&format!("{}.{name}", site.name))?)
    }

    fn matrix(&self, site: &Site) -> Result<Weight<T>, LoadError> {
        let name = format!("{}.weight", site.name);
        let bf16 = match self.stored_as {
            StoredAs::File => self.files.info(&name)?.dtype == Dtype::Bf16,
            StoredAs::Compute => false,
            StoredAs::Bf16 => true,
        };
        let storage =
            if bf16 { Storage::Bf16(self.files.read_bf16(&name)?) } else { Storage::Dense(self.files.read(&name)?) };
        Ok(Weight::new(storage, site.d_out, site.d_in))
    }
}
