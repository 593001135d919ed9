//! A transformer: embedding, layers, final norm, head; the schedule of a training pass and of a scoring pass.
//!
//! Training: layers below the lowest one that trains run without keeping anything and are never visited again; the head and its gradient exist only for
//! labelled rows. The head is one over the vocabulary, or one over whole sequences, which reads their first tokens.

use std::borrow::Cow;

use super::config::ModelConfig;
use super::embedding::Embedding;
use super::head::Head;
use super::layer::{Layer, Saved as LayerSaved, Shared};
use super::learned::{Learned, VirtualTokens};
use super::linear::{Attached, Linear};
use super::norm::{Norm, Saved as NormSaved};
use super::rows::pick;
use super::trained::{Table as Tokens, Unfrozen};
use crate::adapter::{Gradients, Pass, Site};
use crate::ops::loss::{Head as Vocabulary, Label};
use crate::ops::rope::Table;
use crate::ops::{Batch, Segments, choice, loss, target};
use crate::tensor::{Matrix, Real};

/// A transformer with its weights and whatever is attached: a decoder, or an encoder with a head over whole sequences.
pub struct Decoder<T: Real> {
    pub(super) config: ModelConfig,
    pub(super) embedding: Embedding<T>,
    pub(super) layers: Vec<Layer<T>>,
    pub(super) norm: Option<Norm<T>>,
    pub(super) head: Head<T>,
    /// Keys and values that every sequence sees first, where a method learns them.
    pub(super) learned: Option<Learned<T>>,
}

/// Everything that has parameters.
pub(super) struct Parts<'a, T: Real> {
    /// The linears of the layers and of the head.
    pub(super) linears: Vec<&'a mut Linear<T>>,
    /// The norms.
    pub(super) norms: Vec<&'a mut Norm<T>>,
    /// The tables of the embedding, and the head's where it is not tied.
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

    /// The linears of a head over whole sequences.
    pub fn head_linears(&self) -> impl Iterator<Item = &Linear<T>> {
        let classifier = match &self.head {
            Head::Classes(classifier) => Some(classifier),
            Head::Vocabulary(_) => None,
        };
        classifier.into_iter().flat_map(|classifier| [&classifier.dense, &classifier.output])
    }

    /// All norms.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm<T>> {
        self.layers.iter().flat_map(Layer::norms).chain(&self.norm).chain(&self.embedding.norm)
    }

    /// The tables of the embedding, and the head's where it is not tied.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Tokens<T>> {
        let head = if let Head::Vocabulary(own) = &self.head { own.as_ref() } else { None };
        self.embedding.tables().chain(head)
    }

    /// Everything with parameters, to be changed.
    pub(super) fn parts_mut(&mut self) -> Parts<'_, T> {
        let (mut tables, embedding_norm) = self.embedding.parts_mut();
        let (mut linears, mut norms) = (Vec::new(), Vec::new());
        for layer in &mut self.layers {
            let (layer_linears, layer_norms) = layer.parts_mut();
            linears.extend(layer_linears);
            norms.extend(layer_norms);
        }
        norms.extend(self.norm.as_mut().into_iter().chain(embedding_norm));
        match &mut self.head {
            Head::Vocabulary(own) => tables.extend(own),
            Head::Classes(classifier) => linears.extend([&mut classifier.dense, &mut classifier.output]),
        }
        Parts { linears, norms, tables, learned: self.learned.as_mut() }
    }

    /// The matrix over the vocabulary, and where it trains.
    fn vocabulary(&self) -> (Vocabulary<'_, T>, Option<Unfrozen>) {
        let table = match &self.head {
            Head::Vocabulary(own) => own.as_ref().unwrap_or(&self.embedding.tokens),
            Head::Classes(_) => panic!("a model with a head over whole sequences has no logits of tokens"),
        };
        (Vocabulary { weight: &table.weight, softcap: self.config.logit_softcap }, table.unfrozen)
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let linears: usize = self.linears().chain(self.head_linears()).map(|linear| linear.weight().bytes()).sum();
        linears + self.tables().map(|table| table.weight.bytes()).sum::<usize>()
    }

    /// Forward and backward over one batch: adds the gradients of the weighted loss sum to `gradients`.
    ///
    /// With `recompute`, only each layer's input is kept and its forward runs again in backward.
    ///
    /// # Panics
    /// When targets are not in the order of their sequences.
    pub fn train(&self, batch: &Batch, recompute: bool, gradients: &mut Gradients<T>, pass: &Pass<'_, T>) -> Outcome {
        let (learned, segments) = self.virtual_tokens(batch, pass);
        let ropes = self.ropes(segments.positions(), pass);
        let shared = Shared { segments: &segments, ropes: &ropes, learned: learned.as_ref(), pass };
        let embedding_trains = self.embedding.trains();
        let lowest = match embedding_trains || learned.is_some() {
            true => 0,
            false => self.layers.iter().position(Layer::trains).unwrap_or(self.layers.len()),
        };
        let (mut x, embedded) = self.embedding.forward(batch, pass);
        let read = self.read_rows(batch);
        let mut kept = Vec::with_capacity(self.layers.len() - lowest);
        for (index, layer) in self.layers.iter().enumerate() {
            let rows = self.is_last(index).then_some(read.as_slice());
            if index < lowest || recompute {
                let output = layer.infer(&x, rows, shared);
                let input = std::mem::replace(&mut x, output);
                if index >= lowest {
                    kept.push(Kept::Input(input));
                }
            } else {
                let (output, saved) = layer.forward(x, rows, shared);
                x = output;
                kept.push(Kept::All(Box::new(saved)));
            }
        }
        let saved_bytes = kept.iter().map(Kept::bytes).sum::<usize>() + embedded.bytes();
        let (loss, gradient) = match &self.head {
            Head::Vocabulary(_) => self.label_loss(&x, batch, gradients, pass),
            Head::Classes(_) => self.target_loss(x, batch, gradients, pass),
        };
        // only the lowest layer is asked for nothing below it
        let mut gradient = Some(gradient);
        for (index, kept) in kept.into_iter().enumerate().rev() {
            let (layer, wanted) = (&self.layers[lowest + index], index > 0 || embedding_trains);
            let Some(above) = gradient.take() else { break };
            let rows = self.is_last(lowest + index).then_some(read.as_slice());
            gradient = match kept {
                Kept::All(saved) => layer.backward(*saved, above, wanted, shared, gradients),
                Kept::Input(input) => layer.recompute_backward(input, rows, above, wanted, shared, gradients),
            };
        }
        if let (Some(virtual_tokens), Some(learned)) = (learned, &self.learned) {
            learned.prefix.backward(&virtual_tokens.into_gradient(), gradients.slot_mut(learned.slot));
        }
        if let (true, Some(gradient)) = (embedding_trains, gradient) {
            self.embedding.backward(batch, embedded, gradient, gradients, pass);
        }
        Outcome { loss, saved_bytes }
    }

    /// Log-probability of each of the batch's labels, in their order.
    ///
    /// # Panics
    /// When the head is one over whole sequences.
    pub fn log_probabilities(&self, batch: &Batch, pass: &Pass<'_, T>) -> Vec<f64> {
        let rows = loss::rows(&batch.labels);
        let normed = self.normed(self.hidden(batch, &rows, pass), pass);
        loss::log_probabilities(&normed, &self.vocabulary().0, &batch.labels, pass.workspace)
    }

    /// Logits of the given token rows in their order, `[rows.len(), vocab]`.
    ///
    /// # Panics
    /// When the head is one over whole sequences.
    pub fn logits(&self, batch: &Batch, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let (distinct, places) = distinct(rows);
        self.project(&self.hidden(batch, &distinct, pass), &places, pass)
    }

    /// Outputs of the head over whole sequences, `[roots, labels]`: one row for each root segment of the batch.
    ///
    /// # Panics
    /// When the head is one over the vocabulary.
    pub fn outputs(&self, batch: &Batch, pass: &Pass<'_, T>) -> Matrix<T> {
        let Head::Classes(classifier) = &self.head else {
            panic!("a model with a head over the vocabulary has no outputs for whole sequences")
        };
        let firsts: Vec<usize> =
            batch.segments.trees().iter().map(|tree| batch.segments.tree_tokens(tree).start).collect();
        classifier.forward(self.hidden(batch, &firsts, pass), pass).0
    }

    /// Rows of the residual stream after the last layer, ascending; nothing is kept.
    fn hidden(&self, batch: &Batch, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        let (learned, segments) = self.virtual_tokens(batch, pass);
        let ropes = self.ropes(segments.positions(), pass);
        let shared = Shared { segments: &segments, ropes: &ropes, learned: learned.as_ref(), pass };
        let layers = self.layers.iter().enumerate();
        layers.fold(self.embedding.forward(batch, pass).0, |x, (index, layer)| {
            layer.infer(&x, self.is_last(index).then_some(rows), shared)
        })
    }

    pub(super) fn is_last(&self, layer: usize) -> bool {
        layer + 1 == self.layers.len()
    }

    /// Tokens whose state the head reads, ascending: those with labels, or the first ones of sequences with targets.
    fn read_rows(&self, batch: &Batch) -> Vec<usize> {
        match &self.head {
            Head::Vocabulary(_) => loss::rows(&batch.labels),
            Head::Classes(_) => {
                batch.targets.iter().map(|target| batch.segments.list()[target.segment].start).collect()
            }
        }
    }

    /// Loss sum of labels and the gradient of `x`, the residual stream after the last layer at labelled rows.
    fn label_loss(
        &self,
        x: &Matrix<T>,
        batch: &Batch,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> (f64, Matrix<T>) {
        let workspace = pass.workspace;
        let (normed, saved) = self.final_norm(x, pass);
        let (head, unfrozen) = self.vocabulary();
        let d_head = unfrozen.map(|Unfrozen { slot, .. }| gradients.slot_mut(slot));
        let states = normed.as_ref().unwrap_or(x);
        let (loss, d_normed) = match batch.choices.is_empty() {
            true => loss::forward_backward(states, &head, &batch.labels, d_head, workspace),
            false => {
                let log_probabilities = loss::log_probabilities(states, &head, &batch.labels, workspace);
                let (loss, weights) = choice::weigh(&batch.choices, &log_probabilities);
                let weighed = batch.labels.iter().zip(weights).map(|(label, weight)| Label { weight, ..*label });
                let weighed: Vec<Label> = weighed.collect();
                (loss, loss::forward_backward(states, &head, &weighed, d_head, workspace).1)
            }
        };
        let dx = match (&self.norm, &saved) {
            (Some(norm), Some(saved)) => {
                let zeros = workspace.zeros(x.rows(), x.cols());
                let below = norm.backward(&d_normed, x, saved, zeros, true, gradients);
                below.expect("an input gradient that was asked for")
            }
            _ => d_normed,
        };
        (loss, dx)
    }

    /// Loss sum of the targets of whole sequences and the gradient of `x`, the residual stream after the last layer at their first tokens.
    fn target_loss(
        &self,
        x: Matrix<T>,
        batch: &Batch,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> (f64, Matrix<T>) {
        let Head::Classes(classifier) = &self.head else { unreachable!("a head over whole sequences") };
        let (outputs, saved) = classifier.forward(x, pass);
        let (loss, d_outputs) = target::forward_backward(&outputs, &batch.targets, pass.workspace);
        let dx = classifier.backward(&d_outputs, saved, true, gradients, pass);
        (loss, dx.expect("a gradient that was asked for"))
    }

    /// Logits of rows of the residual stream after the last layer.
    pub(super) fn project(&self, x: &Matrix<T>, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
        self.vocabulary().0.logits(&self.normed(pick(x, rows, pass), pass), pass.workspace)
    }

    /// The learned prefix as this pass needs it, and the batch's table with it in front.
    pub(super) fn virtual_tokens<'b>(
        &self,
        batch: &'b Batch,
        pass: &Pass<'_, T>,
    ) -> (Option<VirtualTokens<T>>, Cow<'b, Segments>) {
        let Some(learned) = &self.learned else { return (None, Cow::Borrowed(&batch.segments)) };
        let (kv_heads, layers) = (self.config.kv_heads, self.config.layers);
        let tokens = VirtualTokens::new(learned.prefix.as_ref(), layers, kv_heads, pass.workspace);
        (Some(tokens), Cow::Owned(batch.segments.behind(learned.prefix.tokens())))
    }

    fn normed(&self, x: Matrix<T>, pass: &Pass<'_, T>) -> Matrix<T> {
        self.final_norm(&x, pass).0.unwrap_or(x)
    }

    /// Rows normalised by the final norm, where there is one, and what its backward needs.
    fn final_norm(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> (Option<Matrix<T>>, Option<NormSaved<T>>) {
        self.norm.as_ref().map(|norm| norm.forward(x, pass.workspace)).unzip()
    }

    /// Rotations of tokens at these positions, for each rotary embedding of the model.
    pub(super) fn ropes(&self, positions: &[usize], pass: &Pass<'_, T>) -> Vec<Table<T>> {
        self.config.ropes.iter().map(|rope| rope.table(positions, pass.workspace)).collect()
    }
}

/// The rows once and in order, as the last layer wants them, and the place of each of `rows` among them.
pub(super) fn distinct(rows: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut distinct = rows.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let places = rows.iter().map(|&row| distinct.partition_point(|&other| other < row)).collect();
    (distinct, places)
}

impl<T: Real> Kept<T> {
    fn bytes(&self) -> usize {
        match self {
            Self::All(saved) => saved.bytes(),
            Self::Input(input) => input.bytes(),
        }
    }
}
