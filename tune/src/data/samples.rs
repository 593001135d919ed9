//! What a run trains on, whatever its objective: sequences with trained tokens, or questions with candidates.

use super::batch::{Weighting, pack};
use super::dataset::Part;
use super::example::Encoded;
use super::objective::Objective;
use super::question::{Question, pack_questions};
use crate::ops::Batch;

/// Training samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Samples {
    /// For the objective `lm`.
    Sequences(Vec<Encoded>),
    /// For the objective `choice`.
    Questions(Vec<Question>),
}

/// What a sample takes in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Tokens.
    pub tokens: usize,
    /// Longest path from a root to a last token.
    pub length: usize,
    /// Labels.
    pub labels: usize,
}

impl Samples {
    /// The samples of a part of the data under an objective; none for `choice` where rows have no candidates.
    pub fn new(part: &Part, objective: Objective) -> Option<Self> {
        match objective {
            Objective::Lm => Some(Self::Sequences(part.encoded.clone())),
            Objective::Choice if part.candidates.iter().any(Vec::is_empty) => None,
            Objective::Choice if part.candidates.len() < part.examples.len() => None,
            Objective::Choice => Some(Self::Questions(Question::all(&part.examples, &part.candidates))),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Sequences(list) => list.len(),
            Self::Questions(list) => list.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What sample `index` takes in a batch.
    pub fn size(&self, index: usize) -> Size {
        match self {
            Self::Sequences(list) => {
                let tokens = list[index].tokens.len();
                Size { tokens, length: tokens, labels: list[index].trained_tokens() }
            }
            Self::Questions(list) => {
                let question = &list[index];
                Size { tokens: question.tokens(), length: question.length(), labels: question.labels() }
            }
        }
    }

    /// A batch of the chosen samples. Weighting is of sequences; a question always counts once.
    pub fn batch(&self, indices: &[usize], weighting: Weighting) -> Batch {
        match self {
            Self::Sequences(list) => pack(&indices.iter().map(|&i| &list[i]).collect::<Vec<_>>(), weighting),
            Self::Questions(list) => pack_questions(&indices.iter().map(|&i| &list[i]).collect::<Vec<_>>(), true),
        }
    }
}
