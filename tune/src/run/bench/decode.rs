//! `quanta bench decode`: greedy generation for several prompts together, on random weights: seconds of the prompts, seconds of a token for all of them, and
//! the weights' bytes over that time beside what reading as many bytes takes on this machine.
//!
//! With few rows a token costs one reading of the weights, so memory is the limit. What follows from a token does not depend on the values. An adapter is
//! merged as `quanta generate` merges it, or left beside the weights, which shows what that costs.

use std::time::Instant;

use serde_json::{Map, Value};

use super::adapter::attachment;
use super::clock::median;
use super::limit;
use super::shapes::shape;
use crate::eval::{GenerateOptions, Sampling, generate};
use crate::model::{Attachment, Cost, Decoder, ModelConfig, Training, beside_bytes, cache_bytes, random, resolve};
use crate::run::source::workspace;
use crate::run::{RunError, memory};
use crate::tensor::{Stream, Workspace};

/// What to measure.
#[derive(Clone, Debug)]
pub struct DecodeBench {
    /// Name of the model's shape.
    pub shape: String,
    /// A method's name, or `none`.
    pub adapter: String,
    /// Settings of the adapter, as a config entry has them; to them come the shape's axes, where the method takes and they name none.
    pub settings: Map<String, Value>,
    /// Whether the adapter is merged where it can be, as `quanta generate` does.
    pub merged: bool,
    /// Whether weights are held as bf16.
    pub bf16: bool,
    /// Prompts that are continued together.
    pub rows: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// First tokens that are the same in all prompts.
    pub shared: usize,
    /// Tokens that are generated for each.
    pub tokens: usize,
    /// Generations; medians count.
    pub repeats: usize,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// Medians of what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeTimes {
    /// Threads in use.
    pub threads: usize,
    /// Sites with an adapter.
    pub sites: usize,
    /// How many of them were merged.
    pub merged_sites: usize,
    /// Seconds that merging took.
    pub merge: f64,
    /// Seconds from the prompts to the first token of each.
    pub prefill: f64,
    /// Seconds from one token of every row to the next.
    pub step: f64,
    /// Bytes of weights that a step reads.
    pub weight_bytes: u64,
    /// Bytes a second at which all threads read a buffer of that size.
    pub bandwidth: f64,
    /// Most bytes of the process at one time, where the system tells.
    pub peak_resident_bytes: Option<u64>,
}

/// Generates from random weights and measures.
///
/// # Errors
/// When the shape or the adapter is unknown or does not fit, the lengths mean nothing or exceed the model's, or memory is short.
pub fn decode(bench: &DecodeBench) -> Result<DecodeTimes, RunError> {
    let shape = shape(&bench.shape)?;
    let config = shape.config();
    let attachments = match bench.adapter.as_str() {
        "none" => Vec::new(),
        name => vec![attachment(name, &bench.settings, shape)?],
    };
    let origin = "bench decode".to_owned();
    let chosen = resolve(&attachments, &config).map_err(|errors| RunError::Attach { origin, errors })?;
    check(bench, &config, &attachments, &chosen)?;
    let weight_bytes = step_bytes(&config, bench.bf16);
    let workspace = workspace::<f32>(bench.threads)?;
    let prompts = prompts(bench, config.vocab_size as u64);
    let mut model: Decoder<f32> = random(config, 0.02, 0, bench.bf16);
    // initial values, on which speed does not depend
    let kept = |_: usize, _: &_, _: &mut _| Ok::<(), RunError>(());
    workspace.run(|| model.attach(&attachments, &chosen, 0, kept))?;
    let sites = model.linears().filter(|linear| !linear.attached().is_empty()).count();
    let clock = Instant::now();
    let merged_sites = if bench.merged { workspace.run(|| model.merge()) } else { 0 };
    let merge = clock.elapsed().as_secs_f64();
    let buffer = vec![1.0; weight_bytes as usize / size_of::<f32>()];
    let (mut prefills, mut steps, mut bandwidths) = (Vec::new(), Vec::new(), Vec::new());
    // the first round warms caches and buffers and is not counted
    for round in 0..=bench.repeats {
        let marks = marks(&model, &prompts, if round == 0 { 2 } else { bench.tokens }, &workspace)?;
        let bandwidth = workspace.run(|| limit::reading(&buffer));
        if round > 0 {
            prefills.extend(marks.first());
            steps.extend(marks.windows(2).map(|pair| pair[1] - pair[0]));
            bandwidths.push(bandwidth);
        }
    }
    Ok(DecodeTimes {
        threads: workspace.threads(),
        sites,
        merged_sites,
        merge,
        prefill: median(&mut prefills),
        step: median(&mut steps),
        weight_bytes,
        bandwidth: median(&mut bandwidths),
        peak_resident_bytes: memory::peak_resident_bytes(),
    })
}

/// Seconds from the start until every row has its n-th token, for each n.
fn marks(
    model: &Decoder<f32>,
    prompts: &[Vec<u32>],
    tokens: usize,
    workspace: &Workspace<f32>,
) -> Result<Vec<f64>, RunError> {
    let options = GenerateOptions {
        max_new_tokens: tokens,
        sampling: Sampling::default(),
        end_tokens: Vec::new(),
        sequences: prompts.len(),
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
    };
    let (mut marks, mut said) = (Vec::with_capacity(tokens), 0);
    let clock = Instant::now();
    generate(model, prompts, &options, workspace, |_, _| {
        said += 1;
        if said % prompts.len() == 0 {
            marks.push(clock.elapsed().as_secs_f64());
        }
        false
    })?;
    Ok(marks)
}

/// Refuses lengths that mean nothing, and what would not fit in memory.
fn check(
    bench: &DecodeBench,
    config: &ModelConfig,
    attachments: &[Attachment],
    chosen: &[Vec<usize>],
) -> Result<(), RunError> {
    let DecodeBench { rows, prompt, shared, tokens, .. } = *bench;
    let usage = |text: String| Err(RunError::Usage(text));
    if rows == 0 || prompt == 0 || bench.repeats == 0 {
        return usage("rows, prompt and repeats are at least 1".into());
    }
    if tokens < 2 {
        return usage("tokens is at least 2: the first comes with the prompts, the others are measured".into());
    }
    if shared > prompt {
        return usage(format!("the prompts have {prompt} tokens and cannot share {shared}: shared is at most prompt"));
    }
    if prompt.saturating_add(tokens) > config.max_length {
        return usage(format!(
            "{prompt} tokens and {tokens} more are beyond the {} of this shape: shorten one of them",
            config.max_length
        ));
    }
    let pass = Training {
        tokens: rows.saturating_mul(prompt),
        length: prompt,
        labels: rows,
        number_bytes: size_of::<f32>(),
        weight_bytes: if bench.bf16 { 2 } else { 4 },
        recompute: true,
    };
    let cache = cache_bytes(config, pass.tokens, rows, tokens, size_of::<f32>());
    let buffer = step_bytes(config, bench.bf16);
    let beside = beside_bytes(config, attachments, chosen, size_of::<f32>(), pass.weight_bytes);
    let parts = [Cost::of(config, &[], &[], pass).peak_bytes(), cache, buffer].into_iter().chain(beside);
    memory::check_generation(parts.fold(0, u64::saturating_add))
}

/// Bytes of weights that a step reads: all of them, but of an embedding that is no head only a row for each token.
fn step_bytes(config: &ModelConfig, bf16: bool) -> u64 {
    let gathered = if config.tied { 0 } else { config.vocab_size * config.hidden_size };
    (config.parameters() - gathered) as u64 * if bf16 { 2 } else { 4 }
}

fn prompts(bench: &DecodeBench, vocab: u64) -> Vec<Vec<u32>> {
    let mut stream = Stream::new(1, "bench", "prompts");
    let mut tokens = |count: usize| -> Vec<u32> { (0..count).map(|_| stream.below(vocab) as u32).collect() };
    let shared = tokens(bench.shared);
    (0..bench.rows).map(|_| [&shared[..], &tokens(bench.prompt - bench.shared)].concat()).collect()
}
