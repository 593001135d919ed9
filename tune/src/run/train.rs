//! `quanta train`: from a configuration to a run folder.
//!
//! Everything that can be wrong is looked at before the weights are read; the folder appears with its resolved configuration, then grows a line of
//! `metrics.jsonl` a step and an `adapter/` that is replaced only by a complete better one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::source::workspace;
use super::{ModelDtype, RunConfig, RunError, memory, plan::plan, samples};
use crate::checkpoint::save_adapters;
use crate::data::example::Encoded;
use crate::data::statistics::Statistics;
use crate::data::tokenizer::Tokenizer;
use crate::model::{Cost, Decoder, load, resolve};
use crate::tensor::Real;
use crate::train::{EvaluationEvent, Event, FitError, StepEvent, Summary, fit};
use crate::weights::{Staging, write_file};

/// What training tells while it runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The data is encoded, the model loaded, the first step about to start.
    Started {
        /// Steps of the run.
        total_steps: usize,
        /// Trainable parameters.
        trainable: usize,
        /// Parameters of the base model.
        base_parameters: usize,
        /// Lengths of the training samples.
        train: Statistics,
        /// Number of dev samples.
        dev: usize,
    },
    /// A step or a validation.
    Event(Event),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct TrainReport {
    /// The run folder.
    pub out: PathBuf,
    /// Losses, tokens, seconds.
    pub summary: Summary,
    /// Step of the adapter in `adapter/`.
    pub saved_step: usize,
    /// Most bytes of activations at one time.
    pub peak_bytes: usize,
}

/// Trains the configuration into `out`, which must not exist or be empty.
///
/// # Errors
/// Everything in [`RunError`]; what was complete stays on disk.
pub fn train(config: &RunConfig, out: &Path, progress: &mut dyn FnMut(Progress)) -> Result<TrainReport, RunError> {
    match config.dtype {
        ModelDtype::F64 => run::<f64>(config, out, progress),
        _ => run::<f32>(config, out, progress),
    }
}

fn run<T: Real>(config: &RunConfig, out: &Path, progress: &mut dyn FnMut(Progress)) -> Result<TrainReport, RunError> {
    Staging::refuse_existing(out)?;
    let mut plan = plan(config)?;
    let config = &samples::within(config, &plan.model);
    let tokenizer = Tokenizer::from_folder(&config.model)?;
    let dataset = samples::load(config, &plan.model, &tokenizer)?;
    let (train, dev) = (&dataset.train.encoded, &dataset.dev.encoded);
    let sites = plan.model.sites();
    let attach = |errors| RunError::Attach { origin: config.origin.clone(), errors };
    let chosen = resolve(&config.attachments, &sites).map_err(attach)?;
    largest_batch(&mut plan.training, train, config.fit.batch);
    memory::check(&Cost::of(&plan.model, &config.attachments, &chosen, plan.training))?;

    let workspace = workspace::<T>(config.threads)?;
    let mut model: Decoder<T> = load(&config.model, config.dtype.stored_as())?;
    let kept = |_: usize, _: &_, _: &mut _| Ok::<(), RunError>(());
    workspace.run(|| model.attach(&config.attachments, &chosen, config.fit.seed, kept))?;
    let mut folder = RunFolder::create(config, out, dev.is_empty())?;
    if let Some(chat) = samples::chat(config)? {
        write_file(&out.join("chat_template.jinja"), chat.template.source().as_bytes())?;
    }
    progress(Progress::Started {
        total_steps: config.fit.total_steps(train.len()),
        trainable: plan.trainable(),
        base_parameters: plan.base_parameters,
        train: Statistics::new(train),
        dev: dev.len(),
    });
    let observe = |model: &Decoder<T>, event: Event| {
        folder.record(model, event)?;
        progress(Progress::Event(event));
        Ok(())
    };
    let summary = match fit(&mut model, train, dev, &config.fit, &workspace, observe) {
        Ok(summary) => summary,
        Err(FitError::Observer(error)) => return Err(error),
        Err(FitError::NotFinite(source)) => {
            let saved = folder.saved_step.map(|step| (step, folder.path.join("adapter")));
            return Err(RunError::Diverged { source, saved });
        }
    };
    let saved_step = folder.saved_step.unwrap_or_default();
    Ok(TrainReport { out: out.to_owned(), summary, saved_step, peak_bytes: workspace.peak_bytes() })
}

/// Puts the lengths that really occur in place of the limit: the `batch` longest samples together are the largest micro-batch there can be.
fn largest_batch(training: &mut crate::model::Training, samples: &[Encoded], batch: usize) {
    let size = |sample: &Encoded| (sample.tokens.len(), sample.trained_tokens());
    let mut lengths: Vec<(usize, usize)> = samples.iter().map(size).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    training.length = lengths.first().map_or(1, |longest| longest.0);
    training.tokens = lengths.iter().take(batch).map(|sample| sample.0).sum();
    training.labels = lengths.iter().take(batch).map(|sample| sample.1).sum();
}

/// The run folder while it grows.
struct RunFolder<'a> {
    config: &'a RunConfig,
    path: PathBuf,
    metrics: File,
    /// Without dev samples the newest adapter is the one to keep.
    keeps_newest: bool,
    saved_step: Option<usize>,
}

impl<'a> RunFolder<'a> {
    fn create(config: &'a RunConfig, path: &Path, keeps_newest: bool) -> Result<Self, RunError> {
        std::fs::create_dir_all(path).map_err(RunError::io("create", path))?;
        write_file(&path.join("config.toml"), config.text().as_bytes())?;
        let metrics = path.join("metrics.jsonl");
        let metrics = File::create(&metrics).map_err(RunError::io("create", metrics))?;
        Ok(Self { config, path: path.to_owned(), metrics, keeps_newest, saved_step: None })
    }

    fn record<T: Real>(&mut self, model: &Decoder<T>, event: Event) -> Result<(), RunError> {
        let (line, save) = match event {
            Event::Step(step) => (step_line(&step), self.keeps_newest && self.is_due(&step)),
            Event::Evaluation(evaluation) => (evaluation_line(&evaluation), evaluation.is_best),
        };
        writeln!(self.metrics, "{line}").map_err(RunError::io("write", self.path.join("metrics.jsonl")))?;
        if save {
            let base = std::path::absolute(&self.config.model).unwrap_or_else(|_| self.config.model.clone());
            let base = base.display().to_string();
            save_adapters(&self.path.join("adapter"), model, &self.config.attachments, &base)?;
            self.saved_step = Some(match event {
                Event::Step(step) => step.step,
                Event::Evaluation(evaluation) => evaluation.step,
            });
        }
        Ok(())
    }

    fn is_due(&self, step: &StepEvent) -> bool {
        let every = self.config.fit.eval_every.unwrap_or(usize::MAX);
        step.step.is_multiple_of(every) || step.step == step.total_steps
    }
}

fn step_line(event: &StepEvent) -> serde_json::Value {
    json!({
        "step": event.step, "tokens": event.tokens, "loss": event.report.loss, "lr": event.lr,
        "grad_norm": event.report.gradient_norm,
        "tokens_per_second": event.report.tokens as f64 / event.seconds.max(1e-9),
    })
}

fn evaluation_line(event: &EvaluationEvent) -> serde_json::Value {
    json!({ "step": event.step, "eval_loss": event.loss, "best": event.is_best })
}
