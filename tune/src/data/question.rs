//! Questions with candidates as trees: the tokens that all candidates begin with are one root, what is left of each candidate is a child of it.
//!
//! The root is the longest common prefix of the candidates' whole encodings: a tokenizer may merge across the boundary of prompt and answer, so the prompt's
//! own encoding need not be a prefix of them. Answer tokens that fall into the root still count in each candidate's mean. Nothing depends on where the
//! border falls: candidates that were cut differently share little or nothing, and with nothing in common they are separate sequences.

use super::example::{Encoded, Example, shared_prefix};
use crate::ops::choice::Choice;
use crate::ops::loss::Label;
use crate::ops::{Batch, Segments};

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Each candidate behind the prompt, with its own trained tokens.
    pub candidates: Vec<Encoded>,
    /// The right one.
    pub gold: usize,
}

impl Question {
    /// The questions of rows and their encoded candidates; a row's right candidate is its completion.
    ///
    /// # Panics
    /// When a row's completion is none of its candidates; tasks refuse such rows.
    pub fn all(examples: &[Example], candidates: &[Vec<Encoded>]) -> Vec<Self> {
        let question = |(row, candidates): (&Example, &Vec<Encoded>)| {
            let gold = row.candidates.iter().position(|candidate| *candidate == row.completion);
            Self { candidates: candidates.clone(), gold: gold.expect("the completion is one of the candidates") }
        };
        examples.iter().zip(candidates).map(question).collect()
    }

    /// Tokens the question takes in a batch.
    pub fn tokens(&self) -> usize {
        let shared = shared_prefix(&self.candidates);
        shared + self.candidates.iter().map(|candidate| candidate.tokens.len() - shared).sum::<usize>()
    }

    /// Labelled tokens over all candidates.
    pub fn labels(&self) -> usize {
        self.candidates.iter().map(Encoded::trained_tokens).sum()
    }

    /// Tokens of the longest candidate.
    pub fn length(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.tokens.len()).max().unwrap_or(0)
    }
}

/// Packs questions, each as one tree; with `shared` off, every candidate as a sequence of its own, which gives the same numbers.
///
/// # Panics
/// When a candidate is empty, or trains its first token; encoding yields neither.
pub fn pack_questions(questions: &[&Question], shared: bool) -> Batch {
    let (mut tokens, mut pieces, mut labels, mut choices) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for question in questions {
        let prefix = if shared { shared_prefix(&question.candidates) } else { 0 };
        let (start, parent) = (tokens.len(), (prefix > 0).then_some(pieces.len()));
        if let Some(first) = question.candidates.first().filter(|_| prefix > 0) {
            tokens.extend(&first.tokens[..prefix]);
            pieces.push((prefix, None));
        }
        let mut ranges = Vec::with_capacity(question.candidates.len());
        for candidate in &question.candidates {
            let own = tokens.len();
            if candidate.tokens.len() > prefix {
                tokens.extend(&candidate.tokens[prefix..]);
                pieces.push((candidate.tokens.len() - prefix, parent));
            }
            let row = |at: usize| if at < prefix { start + at } else { own + at - prefix };
            let label = |at: usize| Label { row: row(at - 1), target: candidate.tokens[at], weight: 1.0 };
            let from = labels.len();
            labels.extend(candidate.trained_positions().map(label));
            ranges.push(from..labels.len());
        }
        choices.push(Choice { candidates: ranges, gold: question.gold });
    }
    let segments = Segments::new(&pieces).unwrap_or_else(|error| panic!("candidates without tokens: {error}"));
    Batch { tokens, segments, labels, choices, targets: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(candidates: &[(&[u32], usize)], gold: usize) -> Question {
        let encoded = |(tokens, trained): &(&[u32], usize)| Encoded::with_tail(tokens.to_vec(), *trained, false);
        Question { candidates: candidates.iter().map(encoded).collect(), gold }
    }

    #[test]
    fn the_shared_part_is_computed_once_and_counts_for_all() {
        // the second candidate trains a token of the shared part, the third is the shared part itself
        let tree = question(&[(&[1, 2, 3, 4], 1), (&[1, 2, 3, 5, 6], 3), (&[1, 2, 3], 1)], 1);
        let batch = pack_questions(&[&tree], true);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 6]);
        assert_eq!(tree.tokens(), 6);
        assert_eq!(batch.segments.positions(), [0, 1, 2, 3, 3, 4]);
        let pairs: Vec<(usize, u32)> = batch.labels.iter().map(|label| (label.row, label.target)).collect();
        assert_eq!(pairs, [(2, 4), (1, 3), (2, 5), (4, 6), (1, 3)]);
        assert_eq!(batch.choices, [Choice { candidates: vec![0..1, 1..4, 4..5], gold: 1 }]);
        assert_eq!(batch.weight(), 1.0);
    }

    #[test]
    fn without_a_common_beginning_candidates_are_sequences() {
        let apart = question(&[(&[2, 3], 1), (&[4, 3], 1)], 0);
        let (tree, sequences) = (pack_questions(&[&apart], true), pack_questions(&[&apart], false));
        assert_eq!((&tree.tokens, tree.segments.positions()), (&sequences.tokens, sequences.segments.positions()));
        let together = question(&[(&[1, 2], 1), (&[1, 3], 1)], 0);
        let both = pack_questions(&[&apart, &together], true);
        assert_eq!(both.tokens, [2, 3, 4, 3, 1, 2, 3]);
        assert_eq!(both.segments.positions(), [0, 1, 0, 1, 0, 1, 1]);
        assert_eq!((both.choices[1].candidates[1].clone(), both.weight()), (3..4, 2.0));
    }
}
