//! What a run trains on, whatever its objective: sequences with trained tokens, questions with candidates, or rows
//! that are answered as a whole.

use super::batch::{Weighting, pack, pack_targets};
use super::dataset::Part;
use super::example::Encoded;
use super::objective::Objective;
use super::question::{Question, pack_questions};
use super::whole::answered;
use crate::ops::Batch;
use crate::ops::target::Answer;

/// Training samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// For the objective `lm`.
    Sequences(Vec<Encoded>),
    /// For the objective `choice`.
    Questions(Vec<Question>),
    /// For the objectives `classify` and `regress`: tokens, and what the head is to give.
    Whole(Vec<(Vec<u32>, Answer)>),
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
    /// The samples of a part of the data under an objective; none where rows lack what it asks for: candidates, a class, a number.
    pub fn new(part: &Part, objective: Objective) -> Option<Self> {
        match objective {
            Objective::Lm => Some(Self::Sequences(part.encoded.clone())),
            Objective::Choice if part.candidates.iter().any(Vec::is_empty) => None,
            // the windows of a running text are no rows and have no candidates
            Objective::Choice if part.candidates.len() < part.examples.len().max(part.encoded.len()) => None,
            Objective::Classify | Objective::Regress => {
                answered(&part.examples, &part.encoded, objective).map(Self::Whole)
            }
            Objective::Choice => Some(Self::Questions(Question::all(&part.examples, &part.candidates))),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Sequences(list) => list.len(),
            Self::Questions(list) => list.len(),
            Self::Whole(list) => list.len(),
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
            Self::Whole(list) => {
                let tokens = list[index].0.len();
                Size { tokens, length: tokens, labels: 1 }
            }
        }
    }

    /// A batch of the chosen samples. Weighting is of sequences; a question or a whole row always counts once.
    pub fn batch(&self, indices: &[usize], weighting: Weighting) -> Batch {
        match self {
            Self::Sequences(list) => pack(&indices.iter().map(|&i| &list[i]).collect::<Vec<_>>(), weighting),
            Self::Whole(list) => {
                let chosen = indices.iter().map(|&i| (&list[i].0[..], list[i].1));
                pack_targets(&chosen.collect::<Vec<_>>())
            }
            Self::Questions(list) => pack_questions(&indices.iter().map(|&i| &list[i]).collect::<Vec<_>>(), true),
        }
    }
}
