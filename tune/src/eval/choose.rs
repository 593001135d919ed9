//! Choosing among candidates: every question of a set, scored as one tree each, several trees a batch.

use crate::adapter::Pass;
use crate::data::question::{Question, pack_questions};
use crate::model::Decoder;
use crate::ops::choice::{best, weigh};
use crate::tensor::{Real, Workspace};

/// What a model makes of a set of questions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    /// Index of each question's chosen candidate.
    pub chosen: Vec<usize>,
    /// The score of every candidate: the mean log-probability of its answer tokens.
    pub scores: Vec<Vec<f64>>,
    /// Mean over the questions of the cross-entropy of the right candidate.
    pub loss: f64,
}

/// Scores all candidates of `questions` in batches of about `batch_tokens` tokens.
pub fn choose<T: Real>(
    model: &Decoder<T>,
    questions: &[Question],
    batch_tokens: usize,
    workspace: &Workspace<T>,
) -> Choices {
    let mut choices = Choices::default();
    let mut rest = questions;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |question: &&Question| {
            tokens += question.tokens();
            tokens <= batch_tokens
        };
        let size = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(size);
        let batch = pack_questions(&now.iter().collect::<Vec<_>>(), true);
        let pass = Pass { workspace, draw: None };
        let log_probabilities = workspace.run_awake(|| model.log_probabilities(&batch, &pass));
        choices.loss += weigh(&batch.choices, &log_probabilities).0;
        choices.scores.extend(batch.choices.iter().map(|choice| choice.scores(&log_probabilities)));
        rest = later;
    }
    choices.loss /= questions.len().max(1) as f64;
    choices.chosen = choices.scores.iter().map(|scores| best(scores)).collect();
    choices
}
