//! `quanta init`: what a user starts from: a commented configuration, a tokenizer made from text, a model folder with random weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::RunError;
use super::plan::named_dtype;
use crate::adapter::methods;
use crate::config::read_json;
use crate::data::task::{self, TASKS, Task};
use crate::data::train_tokenizer::{Marks, TrainedTokenizer, train_tokenizer};
use crate::model::{ModelConfig, initial_values, read_folder_config};
use crate::weights::{Dtype, Staging, TensorSpec, TensorWriter, default_metadata, write_file};

/// What the new folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The folder.
    pub out: PathBuf,
    /// Tokens of the tokenizer, where one was made.
    pub vocab_size: Option<usize>,
    /// Parameters of the model, where one was made.
    pub parameters: Option<usize>,
}

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct InitSettings {
    /// Text files to train a tokenizer on; none: no tokenizer.
    pub text: Vec<PathBuf>,
    /// Most tokens of the tokenizer; without it `vocab_size` of the model's configuration, or 4096.
    pub vocab_size: Option<usize>,
    /// `config.json` of a model to fill with random weights; none: no model.
    pub model: Option<PathBuf>,
    /// Seed of the weights.
    pub seed: u64,
}

/// Vocabulary of a tokenizer where nothing says another.
const VOCABULARY: usize = 4096;

/// Makes a folder `out`, which must not exist, with a tokenizer, a model, or both: what `quanta train` pretrains from.
///
/// Weights are those of transformers' initialisation: norms 1, biases 0, matrices normal with `initializer_range` of the configuration (0.02 where it is
/// silent), in the type that the configuration names (`dtype` or `torch_dtype`; f32 where it is silent), written one after another. An encoder's folder has no head: that is the task's, and is drawn when training begins. Its tokenizer parts two sentences. A padding to the configuration's `vocab_size` is not needed: the tokenizer may be smaller, never larger.
///
/// # Errors
/// When a file cannot be read or written, or tokenizer and model do not fit.
pub fn init_folder(settings: &InitSettings, out: &Path) -> Result<InitReport, RunError> {
    Staging::refuse_existing(out)?;
    let config = settings.model.as_deref().map(read_json).transpose().map_err(RunError::Config)?;
    let wanted = config.as_ref().and_then(|config| config.get("vocab_size")).and_then(Value::as_u64);
    let vocab_size = settings.vocab_size.or(wanted.map(|size| size as usize)).unwrap_or(VOCABULARY);
    let staging = Staging::create(out)?;
    let folder = staging.path();
    let mut report = InitReport { out: out.to_owned(), vocab_size: None, parameters: None };
    let mut marks = Marks::Begin;
    if let Some(config) = &config {
        let text = serde_json::to_string_pretty(config).unwrap_or_default() + "\n";
        write_file(&folder.join("config.json"), text.as_bytes())?;
        let shape = read_folder_config(folder).map_err(|error| RunError::Load(error.into()))?;
        marks = if shape.labels.is_some() { Marks::Sentences } else { Marks::Begin };
        report.parameters =
            Some(write_weights(folder, &shape, named_dtype(config).unwrap_or(Dtype::F32), settings.seed)?);
    }
    if !settings.text.is_empty() {
        let smallest = marks.smallest_vocabulary();
        if vocab_size < smallest {
            return Err(RunError::Usage(format!(
                "a vocabulary of {vocab_size} tokens cannot hold all bytes: choose at least {smallest}"
            )));
        }
        let tokenizer: TrainedTokenizer = train_tokenizer(&settings.text, vocab_size, marks)?;
        if let Some(rows) = wanted.filter(|&rows| tokenizer.vocab_size > rows as usize) {
            return Err(RunError::Usage(format!(
                "the tokenizer has {} tokens and the model's vocab_size is {rows}: choose --vocab-size up to {rows}",
                tokenizer.vocab_size
            )));
        }
        for (name, text) in tokenizer.files() {
            write_file(&folder.join(name), text.as_bytes())?;
        }
        report.vocab_size = Some(tokenizer.vocab_size);
    }
    staging.commit()?;
    Ok(report)
}

/// Writes random weights for the `config.json` of `folder`; the number of parameters.
fn write_weights(folder: &Path, config: &ModelConfig, dtype: Dtype, seed: u64) -> Result<usize, RunError> {
    let (range, head) = (config.initializer_range, config.head_sites());
    let modules = || config.modules().into_iter().filter(|site| !head.contains(site));
    let pieces: Vec<(String, Vec<usize>)> = modules()
        .flat_map(|site| site.own().into_iter().map(move |(name, shape)| (format!("{}.{name}", site.name), shape)))
        .collect();
    let parameters = pieces.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let specs = pieces.into_iter().map(|(name, shape)| TensorSpec::new(name, dtype, shape));
    let mut writer = TensorWriter::create(&folder.join("model.safetensors"), &default_metadata(), specs.collect())?;
    for site in modules() {
        for (name, _) in site.own() {
            let values = initial_values::<f32>(&site, name, range, seed);
            writer.write_values(&format!("{}.{name}", site.name), &values)?;
        }
    }
    writer.finish()?;
    Ok(parameters)
}

/// A commented configuration to start from.
///
/// # Errors
/// When there is no such task.
pub fn starter(task: Option<&str>, model: Option<&Path>) -> Result<String, RunError> {
    let task: &Task = task::find(task.unwrap_or(TASKS[0].name))?;
    let model = model.map_or("path/to/model".to_owned(), |path| path.display().to_string());
    // TOML's basic strings escape as JSON's do
    let quoted = |text: &str| Value::from(text).to_string();
    Ok(format!(
        r#"# A configuration for `quanta train`. Every key: docs/config.md

[model]
path = {model}           # a Hugging Face folder: config.json, safetensors, tokenizer.json
# dtype = "auto"            # f32, f64, or bf16 to hold the weights in half the memory

[data]
task = {name}            # {summary}
path = "path/to/data"
dev = 100                   # rows kept for validation; they choose the best adapter
# max_length = 2048         # longer samples are cut from the left

[[adapter]]
type = {method}
dims = [16, 8, 8, 4]        # axes whose product is the hidden size (this is 4096); `quanta plan` shows what they give
sites = ["q_proj", "v_proj"]

[train]
lr = 1e-4
epochs = 3
batch = 4
# products = "rounded"      # beside bf16 weights: activations rounded to bf16, faster and coarser
# batch_tokens = 4096       # pack a step's samples into micro-batches of so many tokens, by their lengths
seed = 1
"#,
        model = quoted(&model),
        method = quoted(methods()[0].name),
        name = quoted(task.name),
        summary = task.summary,
    ))
}
