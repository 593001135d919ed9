//! Scoring: log-probabilities of given tokens.

mod score;

pub use score::{Score, mean_loss, score_tokens};
