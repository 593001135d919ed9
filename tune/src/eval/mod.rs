//! Scoring: log-probabilities of given tokens, choices among candidates, and the measure of what is answered.

mod choose;
mod evaluate;
mod score;

pub use choose::{Choices, choose};
pub use evaluate::{Answering, Examination, Examined};
pub use score::{Score, mean_loss, score_tokens};
