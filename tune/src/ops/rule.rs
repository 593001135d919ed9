//! The rule of a layer's attention: how scores are made and which keys a query sees; [`super::attention`] and [`super::decode`] follow it, and judge it in their tests.

use std::ops::Range;

use crate::tensor::Real;

/// How a layer makes scores, and which keys on its path a query sees. Positions count from the root of the path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Factor of the products of queries and keys.
    pub scale: f64,
    /// Bound of the scores: each becomes `softcap * tanh(score / softcap)`.
    pub softcap: Option<f64>,
    /// Only keys at a distance of less than this many positions are seen.
    pub window: Option<usize>,
    /// Whether keys behind the query are hidden.
    pub causal: bool,
}

impl Rule {
    /// Scores divided by `sqrt(head_dim)`, all keys up to the query.
    pub fn causal(head_dim: usize) -> Self {
        Self { scale: 1.0 / (head_dim as f64).sqrt(), softcap: None, window: None, causal: true }
    }

    /// Positions of the keys that queries at `positions` see between them, on a path of `length` tokens.
    pub(super) fn seen(&self, positions: Range<usize>, length: usize) -> Range<usize> {
        let window = self.window.unwrap_or(usize::MAX);
        let end = if self.causal { positions.end } else { length.min((positions.end - 1).saturating_add(window)) };
        (positions.start + 1).saturating_sub(window)..end
    }

    /// Bends scores below the soft cap.
    pub(super) fn bend<T: Real>(&self, scores: &mut [T]) {
        if let Some(cap) = self.softcap.map(T::from_f64) {
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
    }
}
