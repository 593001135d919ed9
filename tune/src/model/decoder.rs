//! A decoder-only transformer: embedding, layers, final norm, head; the schedule of a training pass and of a scoring pass.
//!
//! Training: layers below the lowest one that trains run without keeping anything and are never visited again; the head and its gradient exist only for
//! labelled rows.

use super::config::ModelConfig;
use super::layer::{Layer, Saved as LayerSaved, Shared};
use super::linear::{Attached, Linear};
use super::norm::Norm;
use super::trained::{Learned, Table as Tokens, Unfrozen};
use crate::adapter::{Gradients, Pass, Site};
use crate::ops::loss::{Head, Label};
use crate::ops::rope::Table;
use crate::ops::{Batch, choice, loss, norm};
use crate::tensor::{Matrix, Real};

/// A decoder with its weights and whatever is attached.
pub struct Decoder<T: Real> {
    pub(super) config: ModelConfig,
    pub(super) embedding: Tokens<T>,
    pub(super) layers: Vec<Layer<T>>,
    pub(super) norm: Norm<T>,
    /// The output head; none when it is the embedding.
    pub(super) head: Option<Tokens<T>>,
    /// Keys and values that every sequence sees first, where a method learns them.
    pub(super) learned: Option<Learned<T>>,
}

/// The parts of a decoder that have parameters.
pub(super) struct Parts<'a, T: Real> {
    /// The layers.
    pub(super) layers: &'a mut [Layer<T>],
    /// The final norm.
    pub(super) norm: &'a mut Norm<T>,
    /// The embedding, and the head where it is not tied.
    pub(super) tables: Vec<&'a mut Tokens<T>>,
    /// The learned prefix of attention.
    pub(super) learned: Option<&'a mut Learned<T>>,
}

/// One layer's state between forward and backward.
enum Kept<T: Real> {
    All(Box<LayerSaved<T>>),
    Input(Matrix<T>),
}

/// What a training pass gives besides gradients.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Weighted sum of the labels' losses, or the sum of the questions' losses.
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
        self.layers.iter().flat_map(Layer::linears)
    }

    /// All linears of the layers, to attach to.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<T>> {
        self.layers.iter_mut().flat_map(Layer::linears_mut)
    }

    /// All attached adapters with their sites, in slot order within a site, sites in the order of the forward pass.
    pub fn attached(&self) -> impl Iterator<Item = (&Site, &Attached<T>)> {
        self.linears().flat_map(|linear| linear.attached().iter().map(|attached| (linear.site(), attached)))
    }

    /// All norms, layer by layer, the final one last.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm<T>> {
        self.layers.iter().flat_map(Layer::norms).chain([&self.norm])
    }

    /// The embedding, and the head where it is not tied.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Tokens<T>> {
        std::iter::once(&self.embedding).chain(&self.head)
    }

    /// Everything with parameters, to be changed.
    pub(super) fn parts_mut(&mut self) -> Parts<'_, T> {
        let tables = std::iter::once(&mut self.embedding).chain(&mut self.head).collect();
        Parts { layers: &mut self.layers, norm: &mut self.norm, tables, learned: self.learned.as_mut() }
    }

    /// The output head.
    pub(super) fn head(&self) -> Head<'_, T> {
        Head { weight: &self.head_table().weight, softcap: self.config.logit_softcap }
    }

    fn head_table(&self) -> &Tokens<T> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let linears: usize = self.linears().map(|linear| linear.weight().bytes()).sum();
        linears + self.tables().map(|table| table.weight.bytes()).sum::<usize>()
    }

    /// Forward and backward over one batch: adds the gradients of the weighted loss sum to `gradients`.
    ///
    /// With `recompute`, only each layer's input is kept and its forward runs again in backward.
    pub fn train(&self, batch: &Batch, recompute: bool, gradients: &mut Gradients<T>, pass: &Pass<'_, T>) -> Outcome {
        let ropes = self.ropes(batch.segments.positions(), pass);
        let shared = Shared { segments: &batch.segments, ropes: &ropes, pass };
        let embedding_slot = self.embedding.unfrozen.map(|at| at.slot);
        let lowest = match embedding_slot {
            Some(_) => 0,
            None => self.layers.iter().position(Layer::trains).unwrap_or(self.layers.len()),
        };
        let mut x = self.embedded(&batch.tokens, pass);
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
        let (loss, mut gradient) = self.loss(&x, batch, gradients, pass);
        drop(x);
        for (index, kept) in kept.into_iter().enumerate().rev() {
            let (layer, wanted) = (&self.layers[lowest + index], index > 0 || embedding_slot.is_some());
            let below = match kept {
                Kept::All(saved) => layer.backward(*saved, gradient, wanted, shared, gradients),
                Kept::Input(input) => layer.recompute_backward(input, gradient, wanted, shared, gradients),
            };
            match below {
                Some(next) => gradient = next,
                // only the lowest layer is asked for nothing below it
                None => return Outcome { loss, saved_bytes },
            }
        }
        if let Some(slot) = embedding_slot {
            self.scale_embedding(&mut gradient);
            self.embedding.weight.gather_gradient(&batch.tokens, &gradient, gradients.slot_mut(slot));
        }
        Outcome { loss, saved_bytes }
    }

    /// Log-probability of each of the batch's labels, in their order.
    pub fn log_probabilities(&self, batch: &Batch, pass: &Pass<'_, T>) -> Vec<f64> {
        let rows = loss::rows(&batch.labels);
        let normed = self.normed_rows(&self.hidden(batch, pass), &rows, pass);
        loss::log_probabilities(&normed, &self.head(), &batch.labels, pass.workspace)
    }

    /// Logits of the given token rows, `[rows.len(), vocab]`.
    pub fn logits(&self, batch: &Batch, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let normed = self.normed_rows(&self.hidden(batch, pass), rows, pass);
        self.head().logits(&normed, pass.workspace)
    }

    /// The residual stream after the last layer; nothing is kept.
    fn hidden(&self, batch: &Batch, pass: &Pass<'_, T>) -> Matrix<T> {
        let ropes = self.ropes(batch.segments.positions(), pass);
        let shared = Shared { segments: &batch.segments, ropes: &ropes, pass };
        self.layers.iter().fold(self.embedded(&batch.tokens, pass), |x, layer| layer.infer(&x, shared))
    }

    /// Loss sum and the gradient of the residual stream after the last layer, zero outside labelled rows.
    fn loss(&self, x: &Matrix<T>, batch: &Batch, gradients: &mut Gradients<T>, pass: &Pass<'_, T>) -> (f64, Matrix<T>) {
        let workspace = pass.workspace;
        let rows = loss::rows(&batch.labels);
        let (picked, normed, saved) = self.norm_rows(x, &rows, pass);
        let d_head = self.head_table().unfrozen.map(|Unfrozen { slot, .. }| gradients.slot_mut(slot));
        let (loss, d_normed) = match batch.choices.is_empty() {
            true => loss::forward_backward(&normed, &self.head(), &batch.labels, d_head, workspace),
            false => {
                let log_probabilities = loss::log_probabilities(&normed, &self.head(), &batch.labels, workspace);
                let (loss, weights) = choice::weigh(&batch.choices, &log_probabilities);
                let weighed = batch.labels.iter().zip(weights).map(|(label, weight)| Label { weight, ..*label });
                let weighed: Vec<Label> = weighed.collect();
                (loss, loss::forward_backward(&normed, &self.head(), &weighed, d_head, workspace).1)
            }
        };
        let d_picked = workspace.zeros(picked.rows(), picked.cols());
        let d_picked = self.norm.backward(&d_normed, &picked, &saved, d_picked, true, gradients);
        let d_picked = d_picked.expect("an input gradient that was asked for");
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
        let (normed, saved) = self.norm.forward(&picked, pass.workspace);
        (picked, normed, saved)
    }

    /// The tokens' rows as they enter the first layer.
    pub(super) fn embedded(&self, tokens: &[u32], pass: &Pass<'_, T>) -> Matrix<T> {
        let mut x = self.embedding.weight.gather(tokens, pass.workspace);
        self.scale_embedding(&mut x);
        x
    }

    fn scale_embedding(&self, x: &mut Matrix<T>) {
        if self.config.embedding_scale != 1.0 {
            let scale = T::from_f64(self.config.embedding_scale);
            x.data_mut().iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Rotations of tokens at these positions, for each rotary embedding of the model.
    pub(super) fn ropes(&self, positions: &[usize], pass: &Pass<'_, T>) -> Vec<Table<T>> {
        self.config.ropes.iter().map(|rope| rope.table(positions, pass.workspace)).collect()
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
