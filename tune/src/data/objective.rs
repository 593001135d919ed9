//! What a run trains for.
//!
//! It is here because a task has an objective that it trains with unless the configuration says otherwise. How a loss is
//! computed is left to the batch and to the training loop.

/// What is made likelier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The trained tokens: mean cross-entropy of each given those before it.
    Lm,
    /// The right candidate among the others: cross-entropy over the candidates of a row, a candidate's score being the
    /// mean log-probability of its trained tokens. The authors' commonsense program trains so; the paper does not say it.
    Choice,
}

impl Objective {
    /// Every objective with its name in a config.
    pub const NAMES: [(&'static str, Objective); 2] = [("lm", Objective::Lm), ("choice", Objective::Choice)];
}
