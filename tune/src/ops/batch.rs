//! What a model is given: tokens, who sees whom, and which predictions count.

use super::Segments;
use super::loss::Label;

/// A packed batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, segment after segment.
    pub tokens: Vec<u32>,
    /// The segment table over `tokens`.
    pub segments: Segments,
    /// The predictions that count, in any order.
    pub labels: Vec<Label>,
}

impl Batch {
    /// A batch of independent sequences; `labels` rows count from the start of the flat token list.
    ///
    /// # Panics
    /// When a sequence is empty.
    pub fn packed(sequences: &[&[u32]], labels: Vec<Label>) -> Self {
        let pieces: Vec<(usize, Option<usize>)> = sequences.iter().map(|tokens| (tokens.len(), None)).collect();
        let segments = Segments::new(&pieces).unwrap_or_else(|error| panic!("sequences without tokens: {error}"));
        Self { tokens: sequences.concat(), segments, labels }
    }

    /// Sum of the labels' weights: what the summed loss is divided by.
    pub fn weight(&self) -> f64 {
        self.labels.iter().map(|label| label.weight).sum()
    }
}
