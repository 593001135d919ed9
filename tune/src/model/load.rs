//! From a Hugging Face model folder to a [`Decoder`].
//!
//! Everything is checked before anything large is read: the configuration, then names and shapes of all tensors against it.

use std::path::Path;

use thiserror::Error;

use super::config::{MODULES, ModelConfig};
use super::decoder::Decoder;
use super::family;
use super::layer::Layer;
use super::linear::Linear;
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
    let reader = Reader { files: &files, stored_as };
    let sites = config.sites();
    let mut layers = Vec::with_capacity(config.layers);
    for (index, sites) in sites.chunks(MODULES.len()).enumerate() {
        layers.push(reader.layer(&config, index, sites)?);
    }
    let shape = (config.vocab_size, config.hidden_size);
    let embedding = reader.matrix("model.embed_tokens.weight", shape.0, shape.1)?;
    let head = if config.tied { None } else { Some(reader.matrix("lm_head.weight", shape.0, shape.1)?) };
    let norm = files.read("model.norm.weight")?;
    Ok(Decoder { config, embedding, layers, norm, head })
}

/// Tensors that older writers left in a folder and that change nothing: rotary tables, and the copy of a tied head.
fn is_harmless_extra(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight")
}

struct Reader<'a> {
    files: &'a TensorFiles,
    stored_as: StoredAs,
}

impl Reader<'_> {
    fn layer<T: Real>(&self, config: &ModelConfig, index: usize, sites: &[Site]) -> Result<Layer<T>, LoadError> {
        let path = format!("model.layers.{index}");
        let mut linears = Vec::with_capacity(MODULES.len());
        for (module, site) in sites.iter().enumerate() {
            let weight = self.matrix(&format!("{}.weight", site.name), site.d_out, site.d_in)?;
            let bias = match config.module_bias(module) {
                true => Some(self.files.read(&format!("{}.bias", site.name))?),
                false => None,
            };
            linears.push(Linear::new(site.clone(), weight, bias));
        }
        let Ok(linears) = linears.try_into() else { unreachable!("one site for each module") };
        Ok(Layer {
            attention_norm: self.files.read(&format!("{path}.input_layernorm.weight"))?,
            mlp_norm: self.files.read(&format!("{path}.post_attention_layernorm.weight"))?,
            linears,
            heads: config.heads,
            kv_heads: config.kv_heads,
            norm_eps: T::from_f64(config.norm_eps),
        })
    }

    fn matrix<T: Real>(&self, name: &str, rows: usize, cols: usize) -> Result<Weight<T>, LoadError> {
        let bf16 = match self.stored_as {
            StoredAs::File => self.files.info(name)?.dtype == Dtype::Bf16,
            StoredAs::Compute => false,
            StoredAs::Bf16 => true,
        };
        let storage =
            if bf16 { Storage::Bf16(self.files.read_bf16(name)?) } else { Storage::Dense(self.files.read(name)?) };
        Ok(Weight::new(storage, rows, cols))
    }
}
