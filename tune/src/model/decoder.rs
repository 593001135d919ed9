//! A decoder-only transformer: embedding, layers, final norm, head; the schedule of a training pass and of a scoring pass.
//!
//! Training: layers below the lowest one that trains run without keeping anything and are never visited again; the head and its gradient exist only for
//! labelled rows.

use super::config::ModelConfig;
use super::layer::{Layer, Saved as LayerSaved, Shared};
use super::linear::{Attached, Linear};
use crate::adapter::{Gradients, Pass, Site};
use crate::ops::rope::Table;
use crate::ops::{Batch, Weight, loss, norm};
use crate::tensor::{Matrix, Real};

/// A decoder with its frozen weights and whatever is attached.
pub struct Decoder<T: Real> {
    pub(super) config: ModelConfig,
    pub(super) embedding: Weight<T>,
    pub(super) layers: Vec<Layer<T>>,
    pub(super) norm: Vec<T>,
    /// The output head; none when it is the embedding.
    pub(super) head: Option<Weight<T>>,
}

/// One layer's state between forward and backward.
enum Kept<T: Real> {
    All(Box<LayerSaved<T>>),
    Input(Matrix<T>),
}

/// What a training pass gives besides gradients.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Weighted sum of the labels' losses.
    pub loss: f64,
    /// Bytes that forward kept for backward.
    pub saved_bytes: usize,
}

impl<T: Real> Decoder<T> {
    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All linears of the layers, in the order of [`ModelConfig::sites`].
    pub fn linears(&self) -> impl Iterator<Item = &Linear<T>> {
        self.layers.iter().flat_map(|layer| layer.linears.iter())
    }

    /// All linears of the layers, to attach to.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<T>> {
        self.layers.iter_mut().flat_map(|layer| layer.linears.iter_mut())
    }

    /// All attached adapters with their sites, in slot order within a site, sites in the order of the forward pass.
    pub fn attached(&self) -> impl Iterator<Item = (&Site, &Attached<T>)> {
        self.linears().flat_map(|linear| linear.attached().iter().map(|attached| (linear.site(), attached)))
    }

    /// All attached adapters, to be changed by the optimiser.
    pub fn attached_mut(&mut self) -> impl Iterator<Item = &mut Attached<T>> {
        self.linears_mut().flat_map(|linear| linear.attached_mut().iter_mut())
    }

    /// Zero gradients for all slots.
    pub fn gradients(&self) -> Gradients<T> {
        let mut lengths = vec![0; self.attached().count()];
        for (_, attached) in self.attached() {
            lengths[attached.slot] = attached.adapter.parameters().trainable().len();
        }
        Gradients::zeros(&lengths)
    }

    /// The output head, `[vocab, hidden]`.
    pub fn head(&self) -> &Weight<T> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let linears: usize = self.linears().map(|linear| linear.weight().bytes()).sum();
        linears + self.embedding.bytes() + self.head.as_ref().map_or(0, Weight::bytes)
    }

    /// Forward and backward over one batch: adds the gradients of the weighted loss sum to `gradients`.
    ///
    /// With `recompute`, only each layer's input is kept and its forward runs again in backward.
    pub fn train(&self, batch: &Batch, recompute: bool, gradients: &mut Gradients<T>, pass: &Pass<'_, T>) -> Outcome {
        let workspace = pass.workspace;
        let rope = self.rope(batch, pass);
        let shared = Shared { segments: &batch.segments, rope: &rope, pass };
        let lowest = self.layers.iter().position(Layer::trains).unwrap_or(self.layers.len());
        let mut x = self.embedding.gather(&batch.tokens, workspace);
        let mut kept = Vec::with_capacity(self.layers.len() - lowest);
        for (index, layer) in self.layers.iter().enumerate() {
            if index < lowest || recompute {
                let output = layer.infer(&x, shared);
                let input = std::mem::replace(&mut x, output);
                if index >= lowest {
                    kept.push(Kept::Input(input));
                }
            } else {
                let (output, saved) = layer.forward(x, shared);
                x = output;
                kept.push(Kept::All(Box::new(saved)));
            }
        }
        let saved_bytes = kept.iter().map(Kept::bytes).sum();
        let (loss, mut gradient) = self.loss(&x, batch, pass);
        drop(x);
        for (index, kept) in kept.into_iter().enumerate().rev() {
            let (layer, wanted) = (&self.layers[lowest + index], index > 0);
            let below = match kept {
                Kept::All(saved) => layer.backward(*saved, gradient, wanted, shared, gradients),
                Kept::Input(input) => layer.recompute_backward(input, gradient, wanted, shared, gradients),
            };
            match below {
                Some(next) => gradient = next,
                None => break,
            }
        }
        Outcome { loss, saved_bytes }
    }

    /// Log-probability of each of the batch's labels, in their order.
    pub fn log_probabilities(&self, batch: &Batch, pass: &Pass<'_, T>) -> Vec<f64> {
        let rows = loss::rows(&batch.labels);
        let normed = self.normed_rows(&self.hidden(batch, pass), &rows, pass);
        loss::log_probabilities(&normed, self.head(), &batch.labels, pass.workspace)
    }

    /// Logits of the given token rows, `[rows.len(), vocab]`.
    pub fn logits(&self, batch: &Batch, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let normed = self.normed_rows(&self.hidden(batch, pass), rows, pass);
        self.head().forward(&normed, pass.workspace)
    }

    /// The residual stream after the last layer; nothing is kept.
    fn hidden(&self, batch: &Batch, pass: &Pass<'_, T>) -> Matrix<T> {
        let rope = self.rope(batch, pass);
        let shared = Shared { segments: &batch.segments, rope: &rope, pass };
        let embedded = self.embedding.gather(&batch.tokens, pass.workspace);
        self.layers.iter().fold(embedded, |x, layer| layer.infer(&x, shared))
    }

    /// Loss sum and the gradient of the residual stream after the last layer, zero outside labelled rows.
    fn loss(&self, x: &Matrix<T>, batch: &Batch, pass: &Pass<'_, T>) -> (f64, Matrix<T>) {
        let workspace = pass.workspace;
        let rows = loss::rows(&batch.labels);
        let (picked, normed, saved) = self.norm_rows(x, &rows, pass);
        let (loss, d_normed) = loss::forward_backward(&normed, self.head(), &batch.labels, workspace);
        let mut d_picked = workspace.zeros(picked.rows(), picked.cols());
        norm::backward(&d_normed, &picked, &self.norm, &saved, &mut d_picked);
        let mut dx = workspace.zeros(x.rows(), x.cols());
        for (index, &row) in rows.iter().enumerate() {
            dx.row_mut(row).copy_from_slice(d_picked.row(index));
        }
        (loss, dx)
    }

    pub(super) fn normed_rows(&self, x: &Matrix<T>, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        self.norm_rows(x, rows, pass).1
    }

    /// Rows of `x`, the same normalised, and what the norm's backward needs.
    fn norm_rows(&self, x: &Matrix<T>, rows: &[usize], pass: &Pass<'_, T>) -> (Matrix<T>, Matrix<T>, norm::Saved<T>) {
        let mut picked = pass.workspace.matrix(rows.len(), x.cols());
        for (index, &row) in rows.iter().enumerate() {
            picked.row_mut(index).copy_from_slice(x.row(row));
        }
        let (normed, saved) = norm::forward(&picked, &self.norm, T::from_f64(self.config.norm_eps), pass.workspace);
        (picked, normed, saved)
    }

    pub(super) fn rope(&self, batch: &Batch, pass: &Pass<'_, T>) -> Table<T> {
        self.config.rope.table(batch.segments.positions(), pass.workspace)
    }
}

impl<T: Real> Kept<T> {
    fn bytes(&self) -> usize {
        match self {
            Self::All(saved) => saved.bytes(),
            Self::Input(input) => input.bytes(),
        }
    }
}
