//! The two forms of one row of data: text, as a task reads it, and tokens, as training takes them.
//!
//! They are here, apart from the code that makes them, because every other file of this room speaks of them. How text
//! becomes tokens is left to `encode`; how tokens are packed into a batch, to the batch.

use std::ops::Range;

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what the model's template knows besides.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// One row as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// What the model is given.
    pub prompt: String,
    /// What it is trained to write, with the white space that joins it to the prompt.
    pub completion: String,
    /// The answers that count as right, for a task's metric; empty where it has none.
    pub answers: Vec<String>,
    /// The same answers as sets of spans, where the file says which spans belong together; empty: each is one span.
    pub answer_spans: Vec<Vec<String>>,
    /// The completions to choose from, the right one among them; empty where the answer is free text.
    pub candidates: Vec<String>,
    /// The sentences that an encoder reads, one or two, where the task is for encoders; the answer is the completion's place
    /// among the candidates, or the number that the first answer is.
    pub sentences: Vec<String>,
    /// The conversation, where the row is one; prompt and completion are empty then.
    pub messages: Vec<Message>,
    /// The part of the data set that the row belongs to, such as one of several test sets; empty where it has no parts.
    pub group: String,
    /// Where the row stands in its file, from 1: the line, or the position in an array.
    pub line: usize,
}

/// One row as tokens: those in [`trained`](Self::trained) are predicted and enter the loss, the others are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, the begin token included where the tokenizer has one.
    pub tokens: Vec<u32>,
    /// Positions of the trained tokens: ascending ranges, none empty, no two touching the same token. None begins at 0,
    /// because nothing stands before the first token that could predict it.
    pub trained: Vec<Range<usize>>,
    /// Whether tokens were cut off to fit the length limit.
    pub truncated: bool,
}

impl Encoded {
    /// A sequence whose last `trained` tokens are trained, all but the first at most.
    pub fn with_tail(tokens: Vec<u32>, trained: usize, truncated: bool) -> Self {
        let trained = tokens.len().saturating_sub(trained).max(1)..tokens.len();
        Self { trained: if trained.is_empty() { Vec::new() } else { vec![trained] }, tokens, truncated }
    }

    /// How many tokens are trained.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(Range::len).sum()
    }

    /// Positions of the trained tokens in [`tokens`](Self::tokens), ascending.
    pub fn trained_positions(&self) -> impl Iterator<Item = usize> {
        self.trained.iter().cloned().flatten()
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
        let encoded = |tokens: &[u32]| Encoded::with_tail(tokens.to_vec(), 1, false);
        assert_eq!(shared_prefix(&[]), 0);
        assert_eq!(shared_prefix(&[encoded(&[1, 2])]), 2);
        assert_eq!(shared_prefix(&[encoded(&[1, 2, 3]), encoded(&[1, 2, 4]), encoded(&[1, 2])]), 2);
        assert_eq!(shared_prefix(&[encoded(&[1, 2]), encoded(&[2, 2])]), 0);
    }

    #[test]
    fn trained_tokens_are_counted_over_all_spans() {
        let spans = Encoded { tokens: vec![5; 9], trained: vec![1..3, 5..6, 6..9], truncated: false };
        assert_eq!(spans.trained_tokens(), 6);
        assert_eq!(spans.trained_positions().collect::<Vec<_>>(), [1, 2, 5, 6, 7, 8]);
    }

    #[test]
    fn a_tail_never_holds_the_first_token() {
        let tail = |n: usize, trained| Encoded::with_tail(vec![7; n], trained, false).trained;
        assert_eq!((tail(4, 3), tail(4, 9), tail(4, 1)), (vec![1..4], vec![1..4], vec![3..4]));
        assert_eq!((tail(4, 0), tail(1, 1), tail(0, 2)), (vec![], vec![], vec![]));
    }
}
