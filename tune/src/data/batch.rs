//! From encoded sequences to the packed batch that a model is given.
//!
//! The label of a trained token belongs to the row before it. How labels are weighted decides what "mean" means when samples of different length meet in
//! one step.

use super::example::Encoded;
use crate::ops::Batch;
use crate::ops::loss::Label;
use crate::ops::target::{Answer, Target};

/// What a step's loss is a mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// Of all trained tokens of the step, each counting once.
    Token,
    /// Of the samples' own means, each sample counting once: the authors' accumulation at micro-batch one.
    Sample,
}

impl Weighting {
    /// Every weighting with its name in a config.
    pub const NAMES: [(&'static str, Weighting); 2] = [("token", Weighting::Token), ("sample", Weighting::Sample)];
}

/// Packs sequences as independent roots, labels on their trained tokens, none of which is a sequence's first: that one has no row before it.
///
/// # Panics
/// When a sequence is empty, or trains its first token; encoding yields neither.
pub fn pack(sequences: &[&Encoded], weighting: Weighting) -> Batch {
    let mut labels = Vec::new();
    let mut start = 0;
    for sequence in sequences {
        let weight = match weighting {
            Weighting::Token => 1.0,
            Weighting::Sample => 1.0 / sequence.trained_tokens().max(1) as f64,
        };
        let label = |at: usize| Label { row: start + at - 1, target: sequence.tokens[at], weight };
        labels.extend(sequence.trained_positions().map(label));
        start += sequence.tokens.len();
    }
    let tokens: Vec<&[u32]> = sequences.iter().map(|sequence| sequence.tokens.as_slice()).collect();
    Batch::packed(&tokens, labels)
}

/// Packs sequences as independent roots, each of which is to give its answer and counts once.
///
/// # Panics
/// When a sequence is empty.
pub fn pack_targets(sequences: &[(&[u32], Answer)]) -> Batch {
    let target = |(segment, &(_, answer)): (usize, &(&[u32], Answer))| Target { segment, answer, weight: 1.0 };
    let tokens: Vec<&[u32]> = sequences.iter().map(|(tokens, _)| *tokens).collect();
    Batch { targets: sequences.iter().enumerate().map(target).collect(), ..Batch::packed(&tokens, Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_belong_to_the_roots_of_their_sequences() {
        let batch = pack_targets(&[(&[0, 5, 2], Answer::Class(1)), (&[0, 2], Answer::Number(0.5))]);
        assert_eq!((batch.tokens.len(), batch.weight(), batch.labels.len()), (5, 2.0, 0));
        let target = Target { segment: 1, answer: Answer::Number(0.5), weight: 1.0 };
        assert_eq!(batch.targets[1], target);
    }

    #[test]
    fn labels_predict_the_next_token_of_their_own_sequence() {
        let sequence = |tokens: &[u32], trained| Encoded::with_tail(tokens.to_vec(), trained, false);
        let (a, b, whole) = (sequence(&[1, 5, 6, 7], 2), sequence(&[1, 8], 1), sequence(&[9, 4], 2));
        let batch = pack(&[&a, &b, &whole], Weighting::Token);
        assert_eq!(batch.tokens, [1, 5, 6, 7, 1, 8, 9, 4]);
        let pairs: Vec<(usize, u32)> = batch.labels.iter().map(|label| (label.row, label.target)).collect();
        assert_eq!(pairs, [(1, 6), (2, 7), (4, 8), (6, 4)]);
        assert_eq!(batch.segments.positions(), [0, 1, 2, 3, 0, 1, 0, 1]);
        assert_eq!(batch.weight(), 4.0);
        assert_eq!(pack(&[&a, &b], Weighting::Sample).weight(), 2.0);
        let spans = Encoded { tokens: vec![1, 5, 6, 7, 8], trained: vec![1..2, 3..5], truncated: false };
        let rows: Vec<usize> = pack(&[&b, &spans], Weighting::Token).labels.iter().map(|label| label.row).collect();
        assert_eq!(rows, [0, 2, 4, 5]);
    }
}
