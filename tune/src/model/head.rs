//! The head of a model: the output matrix over the vocabulary, or a classifier of whole sequences.
//!
//! The classifier reads the first token's row: `output(tanh(dense(x)))`, with dropout before each of its linears. Both are modules of the model that train
//! themselves or not; adapters do not go there. [`head_entry`] is what makes them train beside adapters.

use super::attach::Attachment;
use super::config::ModelConfig;
use super::linear::{InputGradient, Linear, Saved as LinearSaved};
use super::trained::Table;
use crate::adapter::{Gradients, Layers, Pass, Selection, Sites, methods};
use crate::config::{Problems, Section};
use crate::ops::dropout;
use crate::tensor::{Matrix, Real};

/// What stands behind the last layer.
pub enum Head<T: Real> {
    /// Logits over the vocabulary; none where the embedding is the output matrix.
    Vocabulary(Option<Table<T>>),
    /// Outputs for a whole sequence.
    Classes(Box<Classifier<T>>),
}

/// Outputs for a whole sequence, from its first token.
pub struct Classifier<T: Real> {
    /// `[hidden, hidden]`.
    pub dense: Linear<T>,
    /// `[labels, hidden]`.
    pub output: Linear<T>,
    /// Probability of dropout before each of them.
    pub dropout: f64,
}

/// The entry that lets a head over whole sequences train and be saved beside adapters, as a task's head does by default (PEFT's `modules_to_save`): none for a
/// model without one, and where an entry already trains one of its modules.
pub fn head_entry(config: &ModelConfig, attachments: &[Attachment]) -> Option<Attachment> {
    let (head, modules) = (config.head_sites(), config.modules());
    let parent = head.first()?.name.rsplit_once('.').map(|(parent, _)| parent.to_owned())?;
    let chosen = |attachment: &Attachment| {
        let list = attachment.selection.resolve(&modules).unwrap_or_default();
        attachment.method.unfreezes() && list.iter().any(|&index| head.contains(&modules[index]))
    };
    if attachments.iter().any(chosen) {
        return None;
    }
    let problems = Problems::new();
    let mut section = Section::new("head", serde_json::Map::new(), &problems);
    let method = methods()
        .iter()
        .find(|info| info.unfreezes())
        .expect("a method that trains modules themselves")
        .read(&mut section);
    section.finish();
    Some(Attachment { method, selection: Selection { sites: Sites::Names(vec![parent]), layers: Layers::default() } })
}

/// What backward needs.
pub(super) struct Saved<T: Real> {
    x: Matrix<T>,
    bent: Matrix<T>,
    masked: Matrix<T>,
    linears: [LinearSaved<T>; 2],
}

impl<T: Real> Classifier<T> {
    /// Outputs `[n, labels]` for the first tokens' rows `x [n, hidden]`, and what backward needs.
    pub(super) fn forward(&self, mut x: Matrix<T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        self.mask(&mut x, "input", pass);
        let (mut bent, saved_dense) = self.dense.forward(&x, pass);
        bent.data_mut().iter_mut().for_each(|value| *value = value.tanh());
        let mut masked = pass.workspace.matrix(bent.rows(), bent.cols());
        masked.copy_from(bent.data());
        self.mask(&mut masked, "middle", pass);
        let (outputs, saved_output) = self.output.forward(&masked, pass);
        (outputs, Saved { x, bent, masked, linears: [saved_dense, saved_output] })
    }

    /// From the gradient of the outputs: the linears' own gradients where they train, and where `wanted` that of the rows.
    pub(super) fn backward(
        &self,
        d_outputs: &Matrix<T>,
        saved: Saved<T>,
        wanted: bool,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> Option<Matrix<T>> {
        let Saved { x, bent, masked, linears: [saved_dense, saved_output] } = saved;
        let mut d_bent = pass.workspace.matrix(bent.rows(), bent.cols());
        let write = InputGradient::Write(&mut d_bent);
        self.output.backward(Some(&masked), d_outputs, saved_output, write, gradients, pass);
        self.mask(&mut d_bent, "middle", pass);
        for (d, &t) in d_bent.data_mut().iter_mut().zip(bent.data()) {
            *d *= T::ONE - t * t;
        }
        let mut dx = wanted.then(|| pass.workspace.matrix(x.rows(), x.cols()));
        let write = dx.as_mut().map_or(InputGradient::None, InputGradient::Write);
        self.dense.backward(Some(&x), &d_bent, saved_dense, write, gradients, pass);
        dx.map(|mut dx| {
            self.mask(&mut dx, "input", pass);
            dx
        })
    }

    fn mask(&self, x: &mut Matrix<T>, place: &str, pass: &Pass<'_, T>) {
        if let Some(draw) = pass.draw.filter(|_| self.dropout > 0.0) {
            dropout::mask(x, self.dropout, draw.dropout(&format!("{}/{place}", self.dense.site().name)));
        }
    }
}
