//! `quanta plan`: what a configuration would attach and cost, from `config.json` alone.

use std::path::Path;

use serde_json::{Map, Value};

use super::memory::resident_bytes;
use super::samples::within;
use super::{ModelDtype, RunConfig, RunError};
use crate::config::read_json;
use crate::data::objective::{Objective, Outcome};
use crate::model::{Cost, ModelConfig, Training, resolve};
use crate::weights::Dtype;

/// Sites of one entry that have the same module name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedShape {
    /// Module name, such as `q_proj`.
    pub module: String,
    /// Output features.
    pub d_out: usize,
    /// Input features.
    pub d_in: usize,
    /// Number of such sites.
    pub sites: usize,
    /// Trainable parameters of one of them.
    pub parameters: usize,
    /// Operations of one application to one token.
    pub flops_per_token: u64,
    /// What the method says of it: labels and texts.
    pub description: Vec<(&'static str, String)>,
}

/// One `[[adapter]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAdapter {
    /// The method's name.
    pub method: &'static str,
    /// Its sites by shape.
    pub shapes: Vec<PlannedShape>,
    /// Full names of its sites.
    pub sites: Vec<String>,
}

impl PlannedAdapter {
    /// Trainable parameters of the entry.
    pub fn parameters(&self) -> usize {
        self.shapes.iter().map(|shape| shape.sites * shape.parameters).sum()
    }
}

/// What a configuration comes to.
#[derive(Clone, Debug)]
pub struct PlanReport {
    /// The model's shape.
    pub model: ModelConfig,
    /// Parameters of the base model.
    pub base_parameters: usize,
    /// The entries.
    pub adapters: Vec<PlannedAdapter>,
    /// What an encoder is trained for, and what it answers; none for a decoder, and without data.
    pub whole: Option<(Objective, Outcome)>,
    /// The part of the run's settings that the cost below assumes.
    pub training: Training,
    /// Operations and bytes.
    pub cost: Cost,
}

impl PlanReport {
    /// Trainable parameters of all entries.
    pub fn trainable(&self) -> usize {
        self.adapters.iter().map(PlannedAdapter::parameters).sum()
    }

    /// Trainable parameters in percent of the base model's.
    pub fn percent_of_base(&self) -> f64 {
        100.0 * self.trainable() as f64 / self.base_parameters as f64
    }

    /// Trainable parameters in percent of base and adapters together.
    pub fn percent_of_total(&self) -> f64 {
        100.0 * self.trainable() as f64 / (self.base_parameters + self.trainable()) as f64
    }
}

/// Plans a configuration. Reads nothing but the configuration and the model's `config.json`.
///
/// # Errors
/// When the model's configuration cannot be read or the adapters do not fit it.
pub fn plan(config: &RunConfig) -> Result<PlanReport, RunError> {
    let model = config.model_config()?;
    let config = &within(config, &model);
    let stored = weight_bytes(config.dtype, &config.model)?;
    let sites = model.attachable();
    let attach = |errors| RunError::Attach { origin: config.origin.clone(), errors };
    let chosen = resolve(&config.attachments, &model).map_err(attach)?;
    let mut adapters = Vec::new();
    for (attachment, list) in config.attachments.iter().zip(&chosen) {
        let mut shapes: Vec<PlannedShape> = Vec::new();
        for &index in list {
            let site = &sites[index];
            let same = |shape: &&mut PlannedShape| {
                (shape.module.as_str(), shape.d_out, shape.d_in) == (site.module(), site.d_out, site.d_in)
            };
            match shapes.iter_mut().find(same) {
                Some(shape) => shape.sites += 1,
                None => shapes.push(PlannedShape {
                    module: site.module().to_owned(),
                    d_out: site.d_out,
                    d_in: site.d_in,
                    sites: 1,
                    parameters: attachment.method.parameters(site),
                    flops_per_token: attachment.method.flops_per_token(site)
                        + attachment.method.frozen_flops_per_token(site, stored == 2),
                    description: attachment.method.describe(site),
                }),
            }
        }
        let names = list.iter().map(|&index| sites[index].name.clone()).collect();
        adapters.push(PlannedAdapter { method: attachment.method.name(), shapes, sites: names });
    }
    let length = config.data.as_ref().map_or(2048, |data| data.options.max_length).min(model.max_length);
    let data = config.data.as_ref().filter(|data| data.objective.is_of_whole_rows());
    let whole = data.and_then(|data| Some((data.objective, data.task.outcome?)));
    let (tokens, samples) = config.fit.most_of_micro_batch(length);
    let training = Training {
        tokens,
        length,
        labels: if whole.is_some() { samples } else { tokens },
        number_bytes: if config.dtype == ModelDtype::F64 { 8 } else { 4 },
        weight_bytes: stored,
        recompute: config.fit.recompute,
    };
    let mut cost = Cost::of(&model, &config.attachments, &chosen, training);
    cost.program_bytes = program_bytes(config);
    Ok(PlanReport { base_parameters: model.parameters(), model, adapters, whole, training, cost })
}

/// Bytes in memory for each byte of `tokenizer.json`: its text and its parsed form while it is read, then its tables. Measured with `quanta inspect` on
/// vocabularies of 32,000 and 50,000 tokens.
const TOKENIZER: u64 = 12;

/// Bytes in memory for each byte of the data: the rows' text, and their tokens of four bytes for about as many letters.
const DATA: u64 = 2;

/// What the process takes before it has a model: as much as now, the tokenizer and the data. Files that are not there yet, and data in folders, count as
/// nothing; a run counts anew when it has read both.
fn program_bytes(config: &RunConfig) -> u64 {
    let size = |path: &Path| path.metadata().ok().filter(std::fs::Metadata::is_file).map_or(0, |file| file.len());
    let data = config.data.as_ref().map_or(0, |data| size(&data.path));
    resident_bytes().unwrap_or(0) + TOKENIZER * size(&config.model.join("tokenizer.json")) + DATA * data
}

/// Bytes a stored weight takes in memory: `auto` goes by the type that `config.json` names.
pub fn weight_bytes(dtype: ModelDtype, model: &Path) -> Result<usize, RunError> {
    Ok(match dtype {
        ModelDtype::F32 => 4,
        ModelDtype::F64 => 8,
        ModelDtype::Bf16 => 2,
        ModelDtype::Auto => {
            let map = read_json(&model.join("config.json")).map_err(|error| RunError::Load(error.into()))?;
            if named_dtype(&map) == Some(Dtype::Bf16) { 2 } else { 4 }
        }
    })
}

/// The type of weights that a `config.json` names.
pub fn named_dtype(config: &Map<String, Value>) -> Option<Dtype> {
    config.get("dtype").or_else(|| config.get("torch_dtype"))?.as_str()?.parse().ok()
}
