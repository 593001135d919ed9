//! `quanta bench train`: seconds of training steps on random weights and random tokens, with the lengths of real prompts.
//!
//! Speed does not depend on the values. Prompts are log-normal around a mean length, clipped to 64..512, answers are five tokens, and the loss is on the
//! answers only; [`Layout`](super::Layout) leaves out one saving of training's at a time. Real questions can stand in for the random tokens. `none` trains
//! next to nothing, at the bottom of the model: what the frozen model costs by itself, with its gradient running all the way down.

use std::time::Instant;

use serde_json::{Map, Value};

use super::adapter;
use super::clock::median;
use super::questions::Questions;
use super::samples::{Batches, Samples, Source, Work};
use super::shapes::{Shape, shape};
use crate::adapter::{Kind, Layers, Selection, methods};
use crate::model::{Attachment, Cost, Decoder, ModelConfig, Training, random, resolve};
use crate::ops::Batch;
use crate::run::RunError;
use crate::run::memory::{self, peak_resident_bytes};
use crate::run::source::training_workspace;
use crate::tensor::Stream;
use crate::train::{AdamW, AdamWSettings, Step, StepSettings};

/// What to measure.
#[derive(Clone, Debug)]
pub struct TrainBench {
    /// Name of the model's shape.
    pub shape: String,
    /// A method's name, or `none`.
    pub adapter: String,
    /// Whether weights are held as bf16.
    pub bf16: bool,
    /// Whether rows are rounded to bf16 before they meet them, and attention's operands with them.
    pub rounded: bool,
    /// Samples of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Steps that are measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// What is trained on.
    pub source: Source,
    /// Settings of the adapter, as a config entry has them; to them come the shape's axes, where the method takes and they name none.
    pub settings: Map<String, Value>,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTiming {
    /// Threads in use.
    pub threads: usize,
    /// Trainable parameters.
    pub trainable: usize,
    /// Median seconds of a step.
    pub median_step_seconds: f64,
    /// Tokens of all measured steps, padding left out, over their seconds.
    pub tokens_per_second: f64,
    /// Samples of all measured steps over their seconds.
    pub samples_per_second: f64,
    /// Tokens of all measured steps, padding left out, over their samples.
    pub tokens_per_sample: f64,
    /// Mean tokens of a micro-batch, padding among them.
    pub micro_batch_tokens: f64,
    /// Floating-point operations of the measured steps over their tokens, as [`Cost`] counts them.
    pub flops: TokenFlops,
    /// Most bytes of the process at one time, where the system tells.
    pub peak_resident_bytes: Option<u64>,
    /// Loss of each measured step.
    pub losses: Vec<f64>,
    /// Norm of the gradient of each measured step, before clipping.
    pub gradient_norms: Vec<f64>,
}

/// Floating-point operations of a training step for one token that is no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenFlops {
    /// Linears and attention, forward.
    pub forward: f64,
    /// Linears and attention, backward.
    pub backward: f64,
    /// The head, forward and backward, for the rows that it computes.
    pub head: f64,
    /// The adapter, forward and backward.
    pub adapter: f64,
}

impl TokenFlops {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.forward + self.backward + self.head + self.adapter
    }
}

/// Trains random weights for some steps and measures each.
///
/// # Errors
/// When the shape or the adapter is unknown or does not fit, memory is short, or a number is not finite.
pub fn train_bench(bench: &TrainBench) -> Result<TrainTiming, RunError> {
    let shape = shape(&bench.shape)?;
    let config = shape.config();
    let attachment = attachment(bench, shape, &config)?;
    let origin = "bench train".to_owned();
    let chosen =
        resolve(std::slice::from_ref(&attachment), &config).map_err(|errors| RunError::Attach { origin, errors })?;
    let mut samples = batches(bench, &config)?;
    let (tokens, length) = samples.most_tokens();
    let training = Training {
        tokens,
        length,
        labels: samples.most_labels(),
        number_bytes: 4,
        weight_bytes: if bench.bf16 { 2 } else { 4 },
        recompute: false,
    };
    let attachments = [attachment];
    let cost = |training| Cost::of(&config, &attachments, &chosen, training);
    memory::check(&cost(training))?;
    let workspace = training_workspace::<f32>(bench.threads, bench.rounded.then_some("--rounded"))?;
    let mut model: Decoder<f32> = random(config.clone(), 0.02, 0, bench.bf16);
    let kept = |_: usize, _: &_, _: &mut _| Ok::<(), RunError>(());
    workspace.run(|| model.attach(&attachments, &chosen, 0, kept))?;
    let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 0 };
    let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
    let (mut seconds, mut losses, mut gradient_norms, mut work) = (vec![], vec![], vec![], Work::default());
    for index in 0..bench.warmup + bench.steps {
        let mut drawn = Work::default();
        let batches: Vec<Batch> = (0..bench.accumulate).map(|_| samples.draw(&mut drawn)).collect();
        let clock = Instant::now();
        let report = step
            .take(&mut model, &batches, index, 1e-4, &workspace)
            .map_err(|source| RunError::Diverged { source, saved: None })?;
        if index >= bench.warmup {
            seconds.push(clock.elapsed().as_secs_f64());
            losses.push(report.loss);
            gradient_norms.push(report.gradient_norm);
            work.add(drawn);
        }
    }
    let trainable = model.trained().iter().map(|trained| trained.trainable()).sum();
    let total: f64 = seconds.iter().sum();
    let micro_batches = (bench.steps * bench.accumulate).max(1);
    Ok(TrainTiming {
        threads: workspace.threads(),
        trainable,
        median_step_seconds: median(&mut seconds),
        tokens_per_second: work.tokens as f64 / total,
        samples_per_second: (micro_batches * bench.batch) as f64 / total,
        tokens_per_sample: work.tokens as f64 / (micro_batches * bench.batch) as f64,
        micro_batch_tokens: work.computed as f64 / micro_batches as f64,
        flops: token_flops(work, training, cost),
        peak_resident_bytes: peak_resident_bytes(),
        losses,
        gradient_norms,
    })
}

/// What is trained on, before the first micro-batch.
fn batches(bench: &TrainBench, config: &ModelConfig) -> Result<Batches, RunError> {
    match &bench.source {
        &Source::Random { mean_length, layout } => {
            let samples = Samples { batch: bench.batch, mean_length, vocab: config.vocab_size as u64, layout };
            Ok(Batches::Random(samples, Box::new(Stream::new(1, "bench", "lengths"))))
        }
        Source::Questions(source) => {
            let count = bench.batch.saturating_mul(bench.accumulate).saturating_mul(bench.warmup + bench.steps);
            Questions::read(source, config, bench.batch, count).map(Batches::Questions)
        }
    }
}

/// Operations of `work` over its tokens, for a pass whose cost is known.
fn token_flops(work: Work, training: Training, cost: impl Fn(Training) -> Cost) -> TokenFlops {
    // a causal sequence sees half its length in the mean: the length whose half is what these tokens see
    let length = (2.0 * work.seen as f64 / work.computed.max(1) as f64).round() as usize;
    let cost = cost(Training { tokens: work.computed, labels: work.read, length, ..training });
    let each = |flops: u64, rows: f64| flops as f64 * rows / work.tokens.max(1) as f64;
    let computed = work.computed as f64;
    TokenFlops {
        forward: each(cost.forward_flops, computed),
        backward: each(cost.backward_flops, computed),
        head: each(cost.head_flops, work.head_rows),
        adapter: each(cost.adapter_flops, computed),
    }
}

/// The method on q and v of every layer; for `none` the norm of the lowest layer, which costs next to nothing beside the gradient that reaches it.
fn attachment(bench: &TrainBench, shape: &Shape, config: &ModelConfig) -> Result<Attachment, RunError> {
    if bench.adapter != "none" {
        return adapter::attachment(&bench.adapter, &bench.settings, shape);
    }
    let own = methods().iter().find(|info| info.unfreezes()).expect("a method that trains modules themselves");
    let method = adapter::read(own, Map::new()).map_err(RunError::Config)?;
    let norm = config
        .modules()
        .into_iter()
        .find(|module| matches!(module.kind, Kind::Norm { .. }))
        .expect("a layer with a norm");
    let selection = Selection { sites: adapter::sites(&[&norm.name]), layers: Layers::only([0]) };
    Ok(Attachment { method, selection })
}
