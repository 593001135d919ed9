//! Judging and using a model: log-probabilities of given tokens, choices among candidates, generation, and the measure of what is answered.

mod choose;
mod classify;
mod evaluate;
mod generate;
mod prefix;
mod sampling;
mod score;
mod text;

pub use choose::{Choices, choose};
pub use classify::classify;
pub use evaluate::{Answering, Examination, Examined};
pub use generate::{Finish, GenerateError, GenerateOptions, Generated, check_prompts, generate};
pub use sampling::Sampling;
pub use score::{Score, mean_loss, score_tokens};
pub use text::{GeneratedText, StopRule, generate_texts};
