//! `quanta generate`: what a model writes after a prompt.

use std::path::{Path, PathBuf};

use super::plan::weight_bytes;
use super::source::{Source, needs_decoder, workspace};
use super::{ModelDtype, RunError, memory};
use crate::data::tokenizer::Tokenizer;
use crate::eval::{GenerateOptions, GeneratedText, StopRule, check_prompts, generate_texts};
use crate::model::{Cost, Training, cache_bytes};
use crate::tensor::Real;

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompts {
    /// One text.
    Text(String),
    /// Every line of a file.
    File(PathBuf),
}

/// How to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSettings {
    /// Lengths and sampling; the tokenizer's end tokens come to those given here.
    pub options: GenerateOptions,
    /// What ends a text besides.
    pub rule: StopRule,
    /// Type of compute and weights; none: a run's own.
    pub dtype: Option<ModelDtype>,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// A prompt with what was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continued {
    /// The prompt.
    pub prompt: String,
    /// Its tokens, with the begin token.
    pub prompt_tokens: Vec<u32>,
    /// What follows.
    pub generated: GeneratedText,
}

/// Continues `prompts` with the model, run or adapter in `folder`; `show(i, piece)` is given each piece of text i as it comes. Adapters are merged in memory, see
/// [`Decoder::merge`](crate::model::Decoder::merge); beside weights held as bf16 they stay as they are.
///
/// # Errors
/// When settings or prompts mean nothing, the folder cannot be loaded, the memory is too small, or the model computes no numbers.
pub fn generate(
    folder: &Path,
    base: Option<&Path>,
    prompts: &Prompts,
    settings: &GenerateSettings,
    show: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Continued>, RunError> {
    settings.options.check()?;
    let texts: Vec<String> = match prompts {
        Prompts::Text(text) => vec![text.clone()],
        Prompts::File(path) => {
            let text = std::fs::read_to_string(path).map_err(RunError::io("read", path))?;
            text.lines().map(str::to_owned).collect()
        }
    };
    if texts.is_empty() {
        return Err(RunError::Usage("there is no prompt: write one a line".into()));
    }
    let source = Source::open(folder, base)?;
    needs_decoder(&source.config, "go on with a text")?;
    let tokenizer = Tokenizer::from_folder(&source.base)?;
    let encoded: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>()?;
    check_prompts(&source.config, &encoded)?;
    let dtype = settings.dtype.unwrap_or(source.dtype);
    memory::check_generation(bytes(&source, &encoded, &settings.options, dtype)?)?;
    let mut options = settings.options.clone();
    options.end_tokens.extend(tokenizer.end_tokens());
    let job = Job { source: &source, tokenizer: &tokenizer, prompts: &encoded, options: &options, settings, dtype };
    let generated = match dtype {
        ModelDtype::F64 => job.run::<f64>(show)?,
        _ => job.run::<f32>(show)?,
    };
    let parts = texts.into_iter().zip(encoded).zip(generated);
    Ok(parts.map(|((prompt, prompt_tokens), generated)| Continued { prompt, prompt_tokens, generated }).collect())
}

struct Job<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    prompts: &'a [Vec<u32>],
    options: &'a GenerateOptions,
    settings: &'a GenerateSettings,
    dtype: ModelDtype,
}

impl Job<'_> {
    fn run<T: Real>(&self, show: &mut dyn FnMut(usize, &str)) -> Result<Vec<GeneratedText>, RunError> {
        let workspace = workspace(self.settings.threads)?;
        let model = self.source.load_merged::<T>(self.dtype.stored_as(), &workspace)?;
        let Self { tokenizer, prompts, options, .. } = self;
        Ok(generate_texts(&model, tokenizer, prompts, self.settings.rule, options, &workspace, show)?)
    }
}

/// Bytes of weights, adapter, temporaries, keys and values at most: as many of the longest prompts as are continued together, none sharing anything.
fn bytes(source: &Source, prompts: &[Vec<u32>], options: &GenerateOptions, dtype: ModelDtype) -> Result<u64, RunError> {
    let config = &source.config;
    let mut lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(options.sequences);
    let (prefilled, longest) = (lengths.iter().sum::<usize>(), lengths.first().copied().unwrap_or(0));
    let number_bytes = if dtype == ModelDtype::F64 { 8 } else { 4 };
    let stored_bytes = weight_bytes(dtype, &source.base)?;
    let pass = Training {
        tokens: prefilled.min(options.prompt_tokens.max(longest)),
        length: longest,
        labels: lengths.len(),
        number_bytes,
        weight_bytes: stored_bytes,
        recompute: true,
    };
    let own = options.max_new_tokens.min(config.max_length);
    let cache = cache_bytes(config, prefilled, lengths.len(), own, number_bytes);
    let cost = Cost::of(config, &[], &[], pass);
    let [held, merging] = source.adapter_bytes(number_bytes, stored_bytes)?;
    // what merging takes has gone when the first pass begins
    let running = (cost.peak_bytes() - cost.weight_bytes).saturating_add(cache);
    Ok((cost.weight_bytes + held).saturating_add(running.max(merging)))
}
