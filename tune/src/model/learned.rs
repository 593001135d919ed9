//! A learned prefix in the model: virtual tokens behind each layer's keys and values, and the gradient that comes back from them.

use std::sync::{Mutex, PoisonError};

use crate::adapter::{Prefix, Site};
use crate::tensor::{Matrix, Real, Workspace};

/// A learned prefix of attention and where its gradient lies.
pub struct Learned<T: Real> {
    /// The prefix.
    pub prefix: Box<dyn Prefix<T>>,
    /// The attention of all layers.
    pub site: Site,
    /// Index of its gradient in [`crate::adapter::Gradients`].
    pub slot: usize,
    /// Index of the entry of the configuration that made it.
    pub entry: usize,
}

/// The virtual tokens of one pass.
pub struct VirtualTokens<T: Real> {
    tokens: usize,
    /// Keys and values of each layer, head-major `[kv_heads * tokens, head_dim]`.
    layers: Vec<[Matrix<T>; 2]>,
    /// Gradient of [`Prefix::values`]. All layers share it and each fills its own part, one after another.
    gradient: Mutex<Vec<T>>,
}

/// Element of [`Prefix::values`] with which a layer's keys (0) or values (1) of a token and head begin.
struct Places {
    layers: usize,
    kv_heads: usize,
    dim: usize,
}

impl Places {
    fn at(&self, token: usize, layer: usize, kind: usize, head: usize) -> usize {
        (((token * self.layers + layer) * 2 + kind) * self.kv_heads + head) * self.dim
    }
}

impl<T: Real> VirtualTokens<T> {
    /// The tokens of `prefix` for a model of so many layers and key/value heads.
    pub(super) fn new(prefix: &dyn Prefix<T>, layers: usize, kv_heads: usize, workspace: &Workspace<T>) -> Self {
        let (tokens, values) = (prefix.tokens(), prefix.values());
        let places = Places { layers, kv_heads, dim: values.len() / (tokens * layers * 2 * kv_heads) };
        let matrix = |layer, kind| {
            let mut matrix = workspace.matrix(kv_heads * tokens, places.dim);
            for row in 0..kv_heads * tokens {
                let at = places.at(row % tokens, layer, kind, row / tokens);
                matrix.row_mut(row).copy_from_slice(&values[at..at + places.dim]);
            }
            matrix
        };
        let layers = (0..layers).map(|layer| [matrix(layer, 0), matrix(layer, 1)]).collect();
        Self { tokens, layers, gradient: Mutex::new(vec![T::ZERO; values.len()]) }
    }

    /// A layer's keys and values with the virtual tokens' behind each head's.
    pub(super) fn append(
        &self,
        layer: usize,
        matrices: [Matrix<T>; 2],
        kv_heads: usize,
        workspace: &Workspace<T>,
    ) -> [Matrix<T>; 2] {
        let mut own = self.layers[layer].iter();
        matrices.map(|matrix| {
            let (rows, dim, own) = (matrix.rows() / kv_heads, matrix.cols(), own.next().expect("keys and values"));
            let mut out = workspace.matrix(matrix.rows() + own.rows(), dim);
            let heads = matrix.data().chunks(rows * dim).zip(own.data().chunks(self.tokens * dim));
            for (to, (first, second)) in out.data_mut().chunks_mut((rows + self.tokens) * dim).zip(heads) {
                to[..rows * dim].copy_from_slice(first);
                to[rows * dim..].copy_from_slice(second);
            }
            out
        })
    }

    /// The opposite for gradients: adds the virtual tokens' rows to the gradient of the prefix, and gives back the others.
    pub(super) fn take_gradient(
        &self,
        layer: usize,
        matrices: [Matrix<T>; 2],
        kv_heads: usize,
        workspace: &Workspace<T>,
    ) -> [Matrix<T>; 2] {
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = 0;
        matrices.map(|matrix| {
            let (keys, dim) = (matrix.rows() / kv_heads, matrix.cols());
            let (rows, places) = (keys - self.tokens, Places { layers: self.layers.len(), kv_heads, dim });
            let mut out = workspace.matrix(rows * kv_heads, dim);
            for (head, from) in matrix.data().chunks(keys * dim).enumerate() {
                out.data_mut()[head * rows * dim..][..rows * dim].copy_from_slice(&from[..rows * dim]);
                for (token, row) in from[rows * dim..].chunks(dim).enumerate() {
                    let at = places.at(token, layer, kind, head);
                    gradient[at..at + dim].iter_mut().zip(row).for_each(|(sum, &d)| *sum += d);
                }
            }
            kind += 1;
            out
        })
    }

    /// The gradient of [`Prefix::values`].
    pub(super) fn into_gradient(self) -> Vec<T> {
        self.gradient.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
