//! What enters the first layer: the tokens' rows, scaled, with those of their positions and a norm where the family has them; forward and backward.

use super::norm::{Norm, Saved as NormSaved};
use super::trained::{Table, Unfrozen};
use crate::adapter::{Gradients, Pass};
use crate::ops::{Batch, dropout};
use crate::tensor::{Matrix, Real};

/// The tables at the bottom of a model.
pub struct Embedding<T: Real> {
    /// Rows of tokens.
    pub tokens: Table<T>,
    /// Factor of the tokens' rows.
    pub scale: f64,
    /// Rows that are added.
    pub added: Option<Added<T>>,
    /// On the sum.
    pub norm: Option<Norm<T>>,
    /// Probability of dropout behind the norm.
    pub dropout: f64,
}

/// Added rows that are added to the tokens'.
pub struct Added<T: Real> {
    /// Rows of positions.
    pub positions: Table<T>,
    /// The row of a sequence's first token.
    pub first: usize,
    /// Rows of token types, of which every token has the first.
    pub types: Table<T>,
}

/// What backward needs besides the batch.
pub(super) struct Saved<T: Real> {
    sum: Option<(Matrix<T>, NormSaved<T>)>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        self.sum.as_ref().map_or(0, |(sum, saved)| sum.bytes() + saved.bytes())
    }
}

impl<T: Real> Embedding<T> {
    /// The tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table<T>> {
        let added = self.added.iter().flat_map(|added| [&added.positions, &added.types]);
        std::iter::once(&self.tokens).chain(added)
    }

    /// The tables and the norm, to be changed.
    pub(super) fn parts_mut(&mut self) -> (Vec<&mut Table<T>>, Option<&mut Norm<T>>) {
        let added = self.added.iter_mut().flat_map(|added| [&mut added.positions, &mut added.types]);
        (std::iter::once(&mut self.tokens).chain(added).collect(), self.norm.as_mut())
    }

    /// Whether anything here trains.
    pub(super) fn trains(&self) -> bool {
        self.tables_train() || self.norm.as_ref().is_some_and(|norm| norm.unfrozen.is_some())
    }

    fn tables_train(&self) -> bool {
        self.tables().any(|table| table.unfrozen.is_some())
    }

    /// Rows of the tokens of a batch, `[tokens, hidden]`, and what backward needs.
    pub(super) fn forward(&self, batch: &Batch, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let mut x = self.rows(&batch.tokens, batch.segments.positions(), pass);
        let sum = self.norm.as_ref().map(|norm| {
            let (normed, saved) = norm.forward(&x, pass.workspace);
            (std::mem::replace(&mut x, normed), saved)
        });
        self.mask(&mut x, pass);
        (x, Saved { sum })
    }

    /// Rows of tokens at these positions, before the norm.
    fn rows(&self, tokens: &[u32], positions: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let mut x = self.tokens.weight.gather(tokens, pass.workspace);
        self.scale(&mut x);
        if let Some(added) = &self.added {
            x.add(&added.types.weight.gather(&vec![0; tokens.len()], pass.workspace));
            x.add(&added.positions.weight.gather(&added.rows(positions), pass.workspace));
        }
        x
    }

    /// As [`Self::forward`] for single tokens at these positions; nothing is kept.
    pub(super) fn infer(&self, tokens: &[u32], positions: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let x = self.rows(tokens, positions, pass);
        match &self.norm {
            Some(norm) => norm.forward(&x, pass.workspace).0,
            None => x,
        }
    }

    /// Adds the gradients of what trains here, from the gradient `d` of the rows.
    pub(super) fn backward(
        &self,
        batch: &Batch,
        saved: Saved<T>,
        mut d: Matrix<T>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) {
        self.mask(&mut d, pass);
        if let (Some(norm), Some((sum, saved))) = (&self.norm, &saved.sum) {
            let zeros = pass.workspace.zeros(sum.rows(), sum.cols());
            let below = norm.backward(&d, sum, saved, zeros, self.tables_train(), gradients);
            let Some(below) = below else { return };
            d = below;
        }
        if let Some(added) = &self.added {
            if let Some(Unfrozen { slot, .. }) = added.positions.unfrozen {
                let rows = added.rows(batch.segments.positions());
                added.positions.weight.gather_gradient(&rows, &d, gradients.slot_mut(slot));
            }
            if let Some(Unfrozen { slot, .. }) = added.types.unfrozen {
                added.types.weight.gather_gradient(&vec![0; d.rows()], &d, gradients.slot_mut(slot));
            }
        }
        if let Some(Unfrozen { slot, .. }) = self.tokens.unfrozen {
            self.scale(&mut d);
            self.tokens.weight.gather_gradient(&batch.tokens, &d, gradients.slot_mut(slot));
        }
    }

    fn scale(&self, x: &mut Matrix<T>) {
        if self.scale != 1.0 {
            let scale = T::from_f64(self.scale);
            x.data_mut().iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn mask(&self, x: &mut Matrix<T>, pass: &Pass<'_, T>) {
        if let Some(draw) = pass.draw.filter(|_| self.dropout > 0.0) {
            dropout::mask(x, self.dropout, draw.dropout(&format!("{}/rows", self.tokens.site.name)));
        }
    }
}

impl<T: Real> Added<T> {
    fn rows(&self, positions: &[usize]) -> Vec<u32> {
        // a table of positions has far fewer rows than 2^32: loading checked its shape
        positions.iter().map(|&position| (self.first + position) as u32).collect()
    }
}
