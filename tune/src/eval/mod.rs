//! Judging and using a model: log-probabilities of given tokens, generation.

mod generate;
mod prefix;
mod sampling;
mod score;
mod text;

pub use generate::{Finish, GenerateError, GenerateOptions, Generated, check_prompts, generate};
pub use sampling::Sampling;
pub use score::{Score, mean_loss, score_tokens};
pub use text::{GeneratedText, StopRule, generate_texts};
