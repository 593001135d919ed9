//! The loop: epochs of shuffled samples, steps, validation, and the best adapter so far.
//!
//! What happens is told to an observer in events; the observer writes files and draws progress. The order of samples in epoch e comes from the stream
//! (seed, "order", e), so that it depends on nothing but the seed.

use std::time::Instant;

use thiserror::Error;

use super::optimizer::{AdamW, AdamWSettings};
use super::schedule::{Schedule, Shape};
use super::step::{NotFinite, Step, StepReport, StepSettings};
use crate::data::batch::{Weighting, pack};
use crate::data::example::Encoded;
use crate::eval::mean_loss;
use crate::model::Decoder;
use crate::ops::Batch;
use crate::tensor::{Real, Stream, Workspace};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Passes over the training samples.
    Epochs(f64),
    /// Optimiser steps.
    Steps(usize),
}

/// Settings of a run's loop.
#[derive(Clone, Debug, PartialEq)]
pub struct FitSettings {
    /// Samples of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Length of the run.
    pub length: Length,
    /// Learning rate at the end of the warm-up.
    pub lr: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// What the rate does after the warm-up.
    pub schedule: Shape,
    /// Steps between validations; none: once an epoch.
    pub eval_every: Option<usize>,
    /// What the loss is a mean of.
    pub weighting: Weighting,
    /// The optimiser's constants.
    pub adamw: AdamWSettings,
    /// Largest gradient norm.
    pub clip: Option<f64>,
    /// Whether layers are run again in backward instead of keeping their results.
    pub recompute: bool,
    /// Seed of order, initial values and dropout.
    pub seed: u64,
}

impl FitSettings {
    /// Steps of one pass over `samples` samples; the last may be smaller.
    pub fn steps_per_epoch(&self, samples: usize) -> usize {
        samples.div_ceil(self.batch * self.accumulate)
    }

    /// Steps of the run.
    pub fn total_steps(&self, samples: usize) -> usize {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => ((self.steps_per_epoch(samples) as f64 * epochs).round() as usize).max(1),
        }
    }
}

/// A step, as it is logged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepEvent {
    /// Steps taken, this one included.
    pub step: usize,
    /// Steps of the run.
    pub total_steps: usize,
    /// What the step did.
    pub report: StepReport,
    /// Tokens processed since the start.
    pub tokens: usize,
    /// Learning rate of the step.
    pub lr: f64,
    /// Seconds the step took.
    pub seconds: f64,
}

/// A validation, as it is logged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationEvent {
    /// Steps taken.
    pub step: usize,
    /// Mean loss over the trained tokens of the dev samples.
    pub loss: f64,
    /// Whether it is the lowest of the run so far; never for the untrained start.
    pub is_best: bool,
}

/// What the loop tells its observer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// After each step.
    Step(StepEvent),
    /// After each validation.
    Evaluation(EvaluationEvent),
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Steps taken.
    pub steps: usize,
    /// Tokens processed.
    pub tokens: usize,
    /// Mean loss of the first tenth of the steps.
    pub first_loss: f64,
    /// Mean loss of the last tenth of the steps.
    pub last_loss: f64,
    /// Validation before training, where there are dev samples.
    pub start: Option<EvaluationEvent>,
    /// The best validation.
    pub best: Option<EvaluationEvent>,
    /// Seconds in steps.
    pub seconds: f64,
}

/// Why a run ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FitError<E> {
    /// Numbers ran away.
    #[error(transparent)]
    NotFinite(NotFinite),
    /// The observer could not do its part.
    #[error(transparent)]
    Observer(E),
}

/// Trains the adapters of `model` on `train`, validating on `dev`.
///
/// # Errors
/// When the loss or a gradient is no longer finite, or the observer fails.
pub fn fit<T: Real, E>(
    model: &mut Decoder<T>,
    train: &[Encoded],
    dev: &[Encoded],
    settings: &FitSettings,
    workspace: &Workspace<T>,
    mut observe: impl FnMut(&Decoder<T>, Event) -> Result<(), E>,
) -> Result<Summary, FitError<E>> {
    let total_steps = settings.total_steps(train.len());
    let per_epoch = settings.steps_per_epoch(train.len());
    let rates =
        Schedule { peak: settings.lr, warmup_steps: settings.warmup_steps, total_steps, shape: settings.schedule };
    let step_settings = StepSettings { clip: settings.clip, recompute: settings.recompute, seed: settings.seed };
    let mut step = Step::new(step_settings, AdamW::new(settings.adamw, model), model);
    let eval_every = settings.eval_every.unwrap_or(per_epoch).max(1);
    let longest = dev.iter().chain(train).map(|sample| sample.tokens.len()).max().unwrap_or(1);
    let eval_tokens = longest * settings.batch;
    let (mut losses, mut tokens, mut seconds) = (Vec::new(), 0, 0.0);
    let mut best: Option<EvaluationEvent> = None;
    let start =
        mean_loss(model, dev, eval_tokens, workspace).map(|loss| EvaluationEvent { step: 0, loss, is_best: false });
    if let Some(start) = start {
        if !start.loss.is_finite() {
            return Err(FitError::NotFinite(NotFinite::Validation { step: 0 }));
        }
        observe(model, Event::Evaluation(start)).map_err(FitError::Observer)?;
    }
    let mut order = Vec::new();
    for index in 0..total_steps {
        let (epoch, within) = (index / per_epoch, index % per_epoch);
        if within == 0 {
            order = Stream::new(settings.seed, "order", &epoch.to_string()).permutation(train.len());
        }
        let batches = micro_batches(train, &order, within, settings);
        let (clock, lr) = (Instant::now(), rates.rate(index));
        let report = step.take(model, &batches, index, lr, workspace).map_err(FitError::NotFinite)?;
        let took = clock.elapsed().as_secs_f64();
        (tokens, seconds) = (tokens + report.tokens, seconds + took);
        losses.push(report.loss);
        let event = StepEvent { step: index + 1, total_steps, report, tokens, lr, seconds: took };
        observe(model, Event::Step(event)).map_err(FitError::Observer)?;
        if (index + 1).is_multiple_of(eval_every) || index + 1 == total_steps {
            let Some(loss) = mean_loss(model, dev, eval_tokens, workspace) else { continue };
            if !loss.is_finite() {
                return Err(FitError::NotFinite(NotFinite::Validation { step: index + 1 }));
            }
            let is_best = best.is_none_or(|best| loss < best.loss);
            let evaluation = EvaluationEvent { step: index + 1, loss, is_best };
            if is_best {
                best = Some(evaluation);
            }
            observe(model, Event::Evaluation(evaluation)).map_err(FitError::Observer)?;
        }
    }
    let tenth = losses.len().div_ceil(10);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (first_loss, last_loss) = (mean(&losses[..tenth]), mean(&losses[losses.len() - tenth..]));
    Ok(Summary { steps: total_steps, tokens, first_loss, last_loss, start, best, seconds })
}

fn micro_batches(train: &[Encoded], order: &[usize], within: usize, settings: &FitSettings) -> Vec<Batch> {
    let size = settings.batch * settings.accumulate;
    let chosen = &order[within * size..((within + 1) * size).min(order.len())];
    let pack_samples = |samples: &[usize]| {
        let samples: Vec<&Encoded> = samples.iter().map(|&sample| &train[sample]).collect();
        pack(&samples, settings.weighting)
    };
    chosen.chunks(settings.batch).map(pack_samples).collect()
}
