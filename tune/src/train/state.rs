//! The state of a run between steps, and the events that are logged of it.
//!
//! A [`State`] is what continuing needs besides parameters and optimiser: counters, the losses so far, the best validation. It travels as JSON, whose numbers
//! keep every bit of an f64.

use serde::{Deserialize, Serialize};

use super::step::StepReport;

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

/// What a validation measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean loss over the trained tokens, or over the questions, of the dev samples.
    pub loss: f64,
    /// Mean over the dev samples of each metric, by its name; the first decides what is best, where there is one.
    pub metrics: Vec<(String, f64)>,
}

impl Validation {
    /// What is to be large.
    fn merit(&self) -> f64 {
        self.metrics.first().map_or(-self.loss, |metric| metric.1)
    }

    /// Whether it beats another: by the first metric, and by the loss where that is equal.
    fn beats(&self, other: &Self) -> bool {
        (self.merit(), -self.loss) > (other.merit(), -other.loss)
    }
}

/// A validation, as it is logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationEvent {
    /// Steps taken.
    pub step: usize,
    /// What was measured.
    pub validation: Validation,
    /// Whether it is the best of the run so far; never for the untrained start.
    pub is_best: bool,
}

/// What the loop tells its host.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// After each step.
    Step(StepEvent),
    /// After each validation.
    Evaluation(EvaluationEvent),
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps taken.
    pub steps: usize,
    /// Steps the run was to take.
    pub total_steps: usize,
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

/// The loop's state between steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps taken.
    pub steps: usize,
    /// Tokens processed.
    pub tokens: usize,
    /// Seconds in steps.
    pub seconds: f64,
    /// Validations since the best.
    pub stale: usize,
    /// Validation before training.
    pub start: Option<EvaluationEvent>,
    /// The best validation.
    pub best: Option<EvaluationEvent>,
    /// Loss of every step.
    pub losses: Vec<f64>,
}

impl State {
    /// Counts a step.
    pub(super) fn take(&mut self, report: &StepReport, seconds: f64) {
        self.steps += 1;
        self.tokens += report.tokens;
        self.seconds += seconds;
        self.losses.push(report.loss);
    }

    /// Compares a validation with the best.
    pub(super) fn judge(&mut self, validation: Validation) -> EvaluationEvent {
        let trained = self.steps > 0;
        let is_best = trained && self.best.as_ref().is_none_or(|best| validation.beats(&best.validation));
        let event = EvaluationEvent { step: self.steps, validation, is_best };
        match (trained, is_best) {
            (false, _) => self.start = Some(event.clone()),
            (true, true) => (self.best, self.stale) = (Some(event.clone()), 0),
            (true, false) => self.stale += 1,
        }
        event
    }

    /// Whether the best is too long ago.
    pub(super) fn exhausted(&self, patience: Option<usize>) -> bool {
        patience.is_some_and(|patience| self.stale >= patience)
    }

    /// What the run has come to.
    pub fn summary(self, total_steps: usize) -> Summary {
        let tenth = self.losses.len().div_ceil(10);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let first_loss = mean(&self.losses[..tenth]);
        let last_loss = mean(&self.losses[self.losses.len() - tenth..]);
        let Self { steps, tokens, seconds, start, best, .. } = self;
        Summary { steps, total_steps, tokens, first_loss, last_loss, start, best, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation(loss: f64, metric: Option<f64>) -> Validation {
        Validation { loss, metrics: metric.map(|value| ("f1".to_owned(), value)).into_iter().collect() }
    }

    #[test]
    fn the_best_goes_by_the_metric_then_by_the_loss() {
        let mut state = State::default();
        assert!(!state.judge(validation(9.0, Some(0.9))).is_best, "the start is never the best");
        state.steps = 1;
        assert!(state.judge(validation(3.0, Some(0.5))).is_best);
        assert!(!state.judge(validation(1.0, Some(0.4))).is_best);
        assert!(!state.judge(validation(3.0, Some(0.5))).is_best);
        assert!(state.exhausted(Some(2)) && !state.exhausted(Some(3)) && !state.exhausted(None));
        assert!(state.judge(validation(2.9, Some(0.5))).is_best);
        assert_eq!(state.stale, 0);
        assert!(validation(1.0, None).beats(&validation(2.0, None)));
    }

    #[test]
    fn a_state_keeps_its_bits_as_json() {
        let losses: Vec<f64> = (1..2000).map(|i| (f64::from(i) * 0.7321).sin() / 3.0).collect();
        let state = State { losses, seconds: 0.1 + 0.2, steps: 3, ..State::default() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
