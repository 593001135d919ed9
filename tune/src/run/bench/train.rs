//! `quanta bench train`: seconds of training steps on random weights and random tokens, with the lengths of real prompts.
//!
//! Speed does not depend on the values. Prompts are log-normal around a mean length, clipped to 64..512, answers are five tokens, and the loss is on the
//! answers only. `none` trains next to nothing, at the bottom of the model: what the frozen model costs by itself, with its gradient running all the way
//! down.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::clock::median;
use super::shapes::{Shape, shape};
use crate::adapter::{Kind, Layers, MethodInfo, Selection, Sites, method_named, methods};
use crate::config::{Problems, Section};
use crate::data::batch::{Weighting, pack};
use crate::data::example::Encoded;
use crate::model::{Attachment, Cost, Decoder, ModelConfig, Training, random, resolve};
use crate::ops::Batch;
use crate::run::RunError;
use crate::run::memory::{self, peak_resident_bytes};
use crate::run::source::workspace;
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
    /// Samples of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Steps that are measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Mean length of the prompts, in tokens.
    pub mean_length: usize,
    /// Settings of the adapter, as a config entry has them; none: the shape's axes, or the method's defaults.
    pub settings: Option<Map<String, Value>>,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTiming {
    /// Trainable parameters.
    pub trainable: usize,
    /// Median seconds of a step.
    pub median_step_seconds: f64,
    /// Tokens of all measured steps over their seconds.
    pub tokens_per_second: f64,
    /// Most bytes of the process at one time, where the system tells.
    pub peak_resident_bytes: Option<u64>,
    /// Loss of each measured step.
    pub losses: Vec<f64>,
}

/// Most and least tokens of a sample.
const LENGTHS: (f64, f64) = (64.0, 512.0);
/// Standard deviation of the logarithm of a length.
const SPREAD: f64 = 0.35;
/// Trained tokens of a sample.
const ANSWER: usize = 5;

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
    let tokens = (LENGTHS.1 as usize) * bench.batch;
    let training = Training {
        tokens,
        length: LENGTHS.1 as usize,
        labels: ANSWER * bench.batch,
        number_bytes: 4,
        weight_bytes: if bench.bf16 { 2 } else { 4 },
        recompute: false,
    };
    memory::check(&Cost::of(&config, std::slice::from_ref(&attachment), &chosen, training))?;
    let workspace = workspace::<f32>(bench.threads)?;
    let mut model: Decoder<f32> = random(config, 0.02, 0, bench.bf16);
    let kept = |_: usize, _: &_, _: &mut _| Ok::<(), RunError>(());
    workspace.run(|| model.attach(&[attachment], &chosen, 0, kept))?;
    let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 0 };
    let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
    let mut stream = Stream::new(1, "bench", "lengths");
    let (mut seconds, mut tokens, mut losses) = (Vec::new(), 0, Vec::new());
    for index in 0..bench.warmup + bench.steps {
        let batches: Vec<Batch> =
            (0..bench.accumulate).map(|_| micro_batch(&mut stream, bench, model.config().vocab_size as u64)).collect();
        let clock = Instant::now();
        let report = step
            .take(&mut model, &batches, index, 1e-4, &workspace)
            .map_err(|source| RunError::Diverged { source, saved: None })?;
        if index >= bench.warmup {
            seconds.push(clock.elapsed().as_secs_f64());
            tokens += report.tokens;
            losses.push(report.loss);
        }
    }
    let trainable = model.trained().iter().map(|trained| trained.trainable()).sum();
    let total: f64 = seconds.iter().sum();
    Ok(TrainTiming {
        trainable,
        median_step_seconds: median(&mut seconds),
        tokens_per_second: tokens as f64 / total,
        peak_resident_bytes: peak_resident_bytes(),
        losses,
    })
}

fn micro_batch(stream: &mut Stream, bench: &TrainBench, vocab: u64) -> Batch {
    let mut sample = || {
        let length = ((bench.mean_length as f64).ln() + SPREAD * stream.normal()).exp().clamp(LENGTHS.0, LENGTHS.1);
        let tokens: Vec<u32> = (0..length as usize).map(|_| 5 + stream.below(vocab - 5) as u32).collect();
        Encoded::with_tail(tokens, ANSWER, false)
    };
    let samples: Vec<Encoded> = (0..bench.batch).map(|_| sample()).collect();
    pack(&samples.iter().collect::<Vec<_>>(), Weighting::Token)
}

/// The method on q and v of every layer; for `none` the norm of the lowest layer, which costs next to nothing beside the gradient that reaches it.
fn attachment(bench: &TrainBench, shape: &Shape, config: &ModelConfig) -> Result<Attachment, RunError> {
    let sites = |names: &[&str]| Sites::Names(names.iter().map(|&name| name.to_owned()).collect());
    let read = |info: &MethodInfo, settings: Map<String, Value>| {
        let problems = Problems::new();
        let mut section = Section::new("adapter", settings, &problems);
        let method = info.read(&mut section);
        section.finish();
        problems.check("bench train").map(|()| method)
    };
    if bench.adapter == "none" {
        let own = methods().iter().find(|info| info.unfreezes()).expect("a method that trains modules themselves");
        let method = read(own, Map::new()).map_err(RunError::Config)?;
        let norm = config
            .modules()
            .into_iter()
            .find(|module| matches!(module.kind, Kind::Norm { .. }))
            .expect("a layer with a norm");
        let selection = Selection { sites: sites(&[&norm.name]), layers: Layers::only([0]) };
        return Ok(Attachment { method, selection });
    }
    let name = bench.adapter.as_str();
    let info = method_named(name).ok_or_else(|| {
        RunError::Usage(format!("there is no adapter `{name}`: see `quanta methods`, or choose none"))
    })?;
    let dims = json!({ "dims": shape.dims }).as_object().cloned().unwrap_or_default();
    let method = match &bench.settings {
        Some(settings) => read(info, settings.clone()),
        // a method that knows no axes has defaults
        None => read(info, dims).or_else(|_| read(info, Map::new())),
    };
    let selection = Selection { sites: sites(&["q_proj", "v_proj"]), layers: Layers::default() };
    Ok(Attachment { method: method.map_err(RunError::Config)?, selection })
}
