//! One optimiser step: sums over micro-batches, one division, clipping, one move.

use thiserror::Error;

use super::optimizer::AdamW;
use crate::adapter::{Draw, Gradients, Pass};
use crate::model::Decoder;
use crate::ops::Batch;
use crate::tensor::{Real, Workspace};

/// Settings of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Largest gradient norm; larger gradients are scaled down to it. None: no clipping.
    pub clip: Option<f64>,
    /// Whether each layer's forward runs again in backward instead of keeping its results.
    pub recompute: bool,
    /// Seed of the run: names the dropout streams.
    pub seed: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Weighted mean of the labels' losses, before the move.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens processed.
    pub tokens: usize,
    /// Labels that counted.
    pub labels: usize,
    /// Bytes that forward kept for backward, in the largest micro-batch.
    pub saved_bytes: usize,
}

/// The loss or a gradient is no longer a number: the step was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotFinite {
    /// The loss.
    #[error(
        "the loss of step {step} is not finite: lower the learning rate, or check the data and the model's weights"
    )]
    Loss {
        /// The step, counted from one.
        step: usize,
    },
    /// The loss over the dev samples.
    #[error("the validation loss after step {step} is not finite: {}", if *.step == 0 { "the model's weights hold infinite values or NaN" } else { "lower the learning rate" })]
    Validation {
        /// Steps taken.
        step: usize,
    },
    /// A gradient.
    #[error("the gradient at {site} is not finite in step {step}: lower the learning rate or set train.clip")]
    Gradient {
        /// The step, counted from one.
        step: usize,
        /// The site whose gradient it is.
        site: String,
    },
}

/// The state of stepping: gradients and optimiser.
pub struct Step<T> {
    settings: StepSettings,
    gradients: Gradients<T>,
    optimizer: AdamW<T>,
}

impl<T: Real> Step<T> {
    /// Stepping for what trains in `model`.
    pub fn new(settings: StepSettings, optimizer: AdamW<T>, model: &Decoder<T>) -> Self {
        Self { settings, gradients: model.gradients(), optimizer }
    }

    /// The optimiser with its state.
    pub fn optimizer(&self) -> &AdamW<T> {
        &self.optimizer
    }

    /// Takes step `step` (counted from zero) with learning rate `rate` over its micro-batches.
    ///
    /// # Errors
    /// [`NotFinite`]; the parameters are then those before the step.
    pub fn take(
        &mut self,
        model: &mut Decoder<T>,
        micro_batches: &[Batch],
        step: usize,
        rate: f64,
        workspace: &Workspace<T>,
    ) -> Result<StepReport, NotFinite> {
        let StepSettings { clip, recompute, seed } = self.settings;
        self.gradients.clear();
        let weight: f64 = micro_batches.iter().map(Batch::weight).sum();
        let (mut loss, mut saved_bytes) = (0.0, 0);
        for (micro_batch, batch) in micro_batches.iter().enumerate() {
            let pass = Pass { workspace, draw: Some(Draw { seed, step, micro_batch }) };
            let outcome = workspace.run_awake(|| model.train(batch, recompute, &mut self.gradients, &pass));
            loss += outcome.loss;
            saved_bytes = saved_bytes.max(outcome.saved_bytes);
        }
        self.gradients.scale(1.0 / weight);
        let loss = loss / weight;
        let gradient_norm = self.gradients.norm();
        if !loss.is_finite() {
            return Err(NotFinite::Loss { step: step + 1 });
        }
        if let Some(slot) = self.gradients.not_finite() {
            let site = model.trained().into_iter().find(|trained| trained.slot == slot);
            let site = site.map(|trained| trained.site.name.clone()).unwrap_or_default();
            return Err(NotFinite::Gradient { step: step + 1, site });
        }
        // the small number keeps torch's clip_grad_norm_ as the definition
        let factor = clip.map_or(1.0, |clip| clip / (gradient_norm + 1e-6));
        if factor < 1.0 {
            self.gradients.scale(factor);
        }
        workspace.run_awake(|| {
            self.optimizer.step(model, &self.gradients, rate);
            model.prepare();
        });
        let tokens = micro_batches.iter().map(|batch| batch.tokens.len()).sum();
        let labels = micro_batches.iter().map(|batch| batch.labels.len() + batch.targets.len()).sum();
        Ok(StepReport { loss, gradient_norm, tokens, labels, saved_bytes })
    }
}
