//! The two forms of one row of data: text, as a task reads it, and tokens, as training takes them.
//!
//! They are here, apart from the code that makes them, because every other file of this room speaks of them. How text
//! becomes tokens is left to `encode`; how tokens are packed into a batch, to the batch.

/// One row as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// What the model is given.
    pub prompt: String,
    /// What it is trained to write, with the white space that joins it to the prompt.
    pub completion: String,
    /// The answers that count as right, for a task's metric; empty where it has none.
    pub answers: Vec<String>,
    /// The completions to choose from, the right one among them; empty where the answer is free text.
    pub candidates: Vec<String>,
    /// Where the row stands in its file, from 1: the line, or the position in an array.
    pub line: usize,
}

/// One row as tokens: the last [`trained`](Self::trained) of them are trained, the others are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, the begin token included where the tokenizer has one.
    pub tokens: Vec<u32>,
    /// How many tokens at the end are predicted and enter the loss: from 1 to `tokens.len() - 1`, because nothing
    /// stands before the first token that could predict it.
    pub trained: usize,
    /// Whether tokens were cut off to fit the length limit.
    pub truncated: bool,
}

impl Encoded {
    /// Positions of the trained tokens in [`tokens`](Self::tokens).
    pub fn trained_range(&self) -> std::ops::Range<usize> {
        self.tokens.len() - self.trained..self.tokens.len()
    }
}

/// Length of the longest run of tokens that all sequences begin with: what the candidates of a question can share.
pub fn shared_prefix(sequences: &[Encoded]) -> usize {
    let Some((first, others)) = sequences.split_first() else { return 0 };
    let same = |other: &Encoded| first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
    others.iter().map(same).min().unwrap_or(first.tokens.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_prefix_is_the_longest_common_one() {
        let encoded = |tokens: &[u32]| Encoded { tokens: tokens.to_vec(), trained: 1, truncated: false };
        assert_eq!(shared_prefix(&[]), 0);
        assert_eq!(shared_prefix(&[encoded(&[1, 2])]), 2);
        assert_eq!(shared_prefix(&[encoded(&[1, 2, 3]), encoded(&[1, 2, 4]), encoded(&[1, 2])]), 2);
        assert_eq!(shared_prefix(&[encoded(&[1, 2]), encoded(&[2, 2])]), 0);
    }

    #[test]
    fn the_trained_range_is_the_tail() {
        assert_eq!(Encoded { tokens: vec![5, 6, 7, 8], trained: 3, truncated: false }.trained_range(), 1..4);
    }
}
