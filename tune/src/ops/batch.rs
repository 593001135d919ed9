//! What a model is given: tokens, who sees whom, and which predictions count.

use super::Segments;
use super::choice::Choice;
use super::loss::Label;
use super::target::Target;

/// A packed batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, segment after segment.
    pub tokens: Vec<u32>,
    /// The segment table over `tokens`.
    pub segments: Segments,
    /// The predictions that count, in any order.
    pub labels: Vec<Label>,
    /// Questions with candidates; where there are any, they are what is trained, and the labels' own weights do not count.
    pub choices: Vec<Choice>,
    /// What whole sequences are to give, for models whose head classifies them; at most one for each root segment, in their order.
    pub targets: Vec<Target>,
}

impl Batch {
    /// A batch of independent sequences; `labels` rows count from the start of the flat token list.
    ///
    /// # Panics
    /// When a sequence is empty.
    pub fn packed(sequences: &[&[u32]], labels: Vec<Label>) -> Self {
        let pieces: Vec<(usize, Option<usize>)> = sequences.iter().map(|tokens| (tokens.len(), None)).collect();
        let segments = Segments::new(&pieces).unwrap_or_else(|error| panic!("sequences without tokens: {error}"));
        Self { tokens: sequences.concat(), segments, labels, choices: Vec::new(), targets: Vec::new() }
    }

    /// What the summed loss is divided by: the sum of the targets' weights, the number of questions, or the sum of the labels' weights.
    pub fn weight(&self) -> f64 {
        if !self.targets.is_empty() {
            return self.targets.iter().map(|target| target.weight).sum();
        }
        match self.choices.len() {
            0 => self.labels.iter().map(|label| label.weight).sum(),
            questions => questions as f64,
        }
    }
}
