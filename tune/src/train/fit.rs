//! The loop: epochs of shuffled samples, steps, validation, the best so far, checkpoints, early stopping.
//!
//! What the loop needs of the outside (validation, the log, checkpoints, the wish to stop) it asks of a [`Host`]. The order of samples in epoch e comes from
//! the stream (seed, "order", e) and dropout from streams named by step, so that the loop's whole state is a [`State`], the parameters and the optimiser:
//! continued from those, a run gives the bits it would have given.

use std::time::Instant;

use thiserror::Error;

use super::optimizer::{AdamW, AdamWSettings};
use super::packing::{first_fit, largest};
use super::schedule::{Schedule, Shape};
use super::state::{EvaluationEvent, Event, State, StepEvent, Summary, Validation};
use super::step::{NotFinite, Step, StepSettings};
use crate::data::batch::Weighting;
use crate::data::samples::{Samples, Size};
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
    /// Tokens that a micro-batch is filled up to: a step's `batch * accumulate` samples are then packed by their lengths. None: by their count.
    pub batch_tokens: Option<usize>,
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
    /// Steps between checkpoints; none: with every validation.
    pub checkpoint_every: Option<usize>,
    /// Validations without a new best after which the run ends; none: it goes on to its length.
    pub patience: Option<usize>,
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
        samples.div_ceil(self.step_samples())
    }

    /// Samples of a step; the last of an epoch may have fewer.
    pub fn step_samples(&self) -> usize {
        self.batch * self.accumulate
    }

    /// Steps of the run.
    pub fn total_steps(&self, samples: usize) -> usize {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => ((self.steps_per_epoch(samples) as f64 * epochs).round() as usize).max(1),
        }
    }

    /// The state of stepping for `model`.
    pub fn step<T: Real>(&self, optimizer: AdamW<T>, model: &Decoder<T>) -> Step<T> {
        let settings = StepSettings { clip: self.clip, recompute: self.recompute, seed: self.seed };
        Step::new(settings, optimizer, model)
    }

    /// The micro-batches of step `index`, counted from zero; `order` is the epoch's permutation.
    pub fn micro_batches(&self, samples: &Samples, order: &[usize], index: usize) -> Vec<Batch> {
        let (size, within) = (self.step_samples(), index % self.steps_per_epoch(samples.len()));
        let chosen = &order[within * size..((within + 1) * size).min(order.len())];
        let batch = |chosen: &[usize]| samples.batch(chosen, self.weighting);
        match self.batch_tokens {
            None => chosen.chunks(self.batch).map(batch).collect(),
            Some(budget) => {
                let packed = first_fit(chosen, |sample| samples.size(sample).tokens, budget);
                packed.iter().map(|chosen| batch(chosen)).collect()
            }
        }
    }

    /// The most that a micro-batch of `samples` can take, whatever their order.
    pub fn largest_micro_batch(&self, samples: &Samples) -> Size {
        let sizes = (0..samples.len()).map(|index| samples.size(index)).collect();
        match self.batch_tokens {
            None => largest(sizes, self.batch, None),
            Some(budget) => largest(sizes, self.step_samples(), Some(budget)),
        }
    }

    /// The most tokens, and the most samples, of a micro-batch of samples of up to `length` tokens, of which nothing else is known.
    pub fn most_of_micro_batch(&self, length: usize) -> (usize, usize) {
        match self.batch_tokens {
            None => (length.saturating_mul(self.batch), self.batch),
            Some(budget) => {
                let tokens = budget.max(length).min(length.saturating_mul(self.step_samples()));
                (tokens, self.step_samples().min(tokens))
            }
        }
    }

    /// The order of samples in the epoch of step `index`.
    pub fn order(&self, samples: &Samples, index: usize) -> Vec<usize> {
        let epoch = index / self.steps_per_epoch(samples.len());
        Stream::new(self.seed, "order", &epoch.to_string()).permutation(samples.len())
    }
}

/// What the loop asks of the outside.
pub trait Host<T: Real> {
    /// Why something outside failed.
    type Error;

    /// Measures the model on the dev samples; none where there are none.
    ///
    /// # Errors
    /// When it cannot be measured.
    fn validate(&mut self, model: &Decoder<T>) -> Result<Option<Validation>, Self::Error>;

    /// Takes note of what happened.
    ///
    /// # Errors
    /// When it cannot be written.
    fn record(&mut self, model: &Decoder<T>, event: &Event) -> Result<(), Self::Error>;

    /// Writes everything that continuing needs.
    ///
    /// # Errors
    /// When it cannot be written.
    fn checkpoint(&mut self, model: &Decoder<T>, optimizer: &AdamW<T>, state: &State) -> Result<(), Self::Error>;

    /// Whether the run is to end after the step just taken.
    fn interrupted(&self) -> bool;
}

/// Why a run ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FitError<E> {
    /// Numbers ran away.
    #[error(transparent)]
    NotFinite(NotFinite),
    /// The host could not do its part.
    #[error(transparent)]
    Host(E),
}

/// Trains what trains in `model`, from `start` on: a fresh state, or that of a checkpoint with its optimiser.
///
/// # Errors
/// When the loss or a gradient is no longer finite, or the host fails.
pub fn fit<T: Real, H: Host<T>>(
    model: &mut Decoder<T>,
    samples: &Samples,
    settings: &FitSettings,
    workspace: &Workspace<T>,
    host: &mut H,
    start: Option<(State, AdamW<T>)>,
) -> Result<Summary, FitError<H::Error>> {
    let total_steps = settings.total_steps(samples.len());
    let rates =
        Schedule { peak: settings.lr, warmup_steps: settings.warmup_steps, total_steps, shape: settings.schedule };
    let per_epoch = settings.steps_per_epoch(samples.len());
    let eval_every = settings.eval_every.unwrap_or(per_epoch).max(1);
    let checkpoint_every = settings.checkpoint_every.unwrap_or(eval_every);
    let fresh = start.is_none();
    let (mut state, optimizer) = start.unwrap_or_else(|| (State::default(), AdamW::new(settings.adamw, model)));
    let mut step = settings.step(optimizer, model);
    if fresh {
        evaluate(model, &mut state, host)?;
    }
    let mut order = Vec::new();
    let mut interrupted = false;
    while state.steps < total_steps && !state.exhausted(settings.patience) && !interrupted {
        let index = state.steps;
        if index.is_multiple_of(per_epoch) || order.is_empty() {
            order = settings.order(samples, index);
        }
        let batches = settings.micro_batches(samples, &order, index);
        let (clock, lr) = (Instant::now(), rates.rate(index));
        let report = step.take(model, &batches, index, lr, workspace).map_err(FitError::NotFinite)?;
        let seconds = clock.elapsed().as_secs_f64();
        state.take(&report, seconds);
        let event = StepEvent { step: state.steps, total_steps, report, tokens: state.tokens, lr, seconds };
        host.record(model, &Event::Step(event)).map_err(FitError::Host)?;
        let last = state.steps == total_steps;
        if state.steps.is_multiple_of(eval_every) || last {
            evaluate(model, &mut state, host)?;
        }
        interrupted = host.interrupted();
        let ends = last || interrupted || state.exhausted(settings.patience);
        if state.steps.is_multiple_of(checkpoint_every) || ends {
            host.checkpoint(model, step.optimizer(), &state).map_err(FitError::Host)?;
        }
    }
    Ok(state.summary(total_steps))
}

fn evaluate<T: Real, H: Host<T>>(
    model: &Decoder<T>,
    state: &mut State,
    host: &mut H,
) -> Result<(), FitError<H::Error>> {
    let Some(validation) = host.validate(model).map_err(FitError::Host)? else { return Ok(()) };
    if !validation.loss.is_finite() {
        return Err(FitError::NotFinite(NotFinite::Validation { step: state.steps }));
    }
    let event: EvaluationEvent = state.judge(validation);
    host.record(model, &Event::Evaluation(event)).map_err(FitError::Host)
}
