//! A residual step: `sum_norm(x + dropout(output_norm(body(input_norm(x)))))`, each norm only where the family has it; forward and backward around any body.
//!
//! Attention and the MLP are the bodies. Forward keeps what the norms need; the normalised input is computed again in backward, where it costs less than
//! the memory it would take.

use std::ops::Deref;

use super::norm::{Norm, Saved as NormSaved};
use super::rows::{pick, scatter};
use crate::adapter::{Gradients, Pass};
use crate::ops::dropout;
use crate::tensor::{Matrix, Real, Workspace};

/// The norms around a body.
pub struct Residual<T> {
    /// On the body's input.
    pub input: Option<Norm<T>>,
    /// On the body's output, before the residual stream is added.
    pub output: Option<Norm<T>>,
    /// On the sum.
    pub sum: Option<Norm<T>>,
    /// Probability of dropout on the body's output.
    pub dropout: f64,
    /// Names the dropout's random streams.
    pub owner: String,
}

/// What backward needs besides the input of the step.
pub(super) struct Saved<T: Real> {
    input: Option<NormSaved<T>>,
    /// The body's output and its norm.
    output: Option<(Matrix<T>, NormSaved<T>)>,
    /// The sum and its norm.
    sum: Option<(Matrix<T>, NormSaved<T>)>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        let normed = |normed: &(Matrix<T>, NormSaved<T>)| normed.0.bytes() + normed.1.bytes();
        self.input.as_ref().map_or(0, NormSaved::bytes)
            + self.output.as_ref().map_or(0, normed)
            + self.sum.as_ref().map_or(0, normed)
    }
}

/// The body's input in backward, computed only when it is asked for.
pub(super) struct Input<'a, T: Real> {
    x: &'a Matrix<T>,
    norm: Option<(&'a Norm<T>, &'a NormSaved<T>)>,
    workspace: &'a Workspace<T>,
}

/// A body's input: made for it, so that it can be dropped early, or borrowed.
pub(super) enum Given<'a, T: Real> {
    Borrowed(&'a Matrix<T>),
    Made(Matrix<T>),
}

impl<T: Real> Deref for Given<'_, T> {
    type Target = Matrix<T>;

    fn deref(&self) -> &Matrix<T> {
        match self {
            Self::Borrowed(matrix) => matrix,
            Self::Made(matrix) => matrix,
        }
    }
}

impl<'a, T: Real> Input<'a, T> {
    /// The matrix.
    pub(super) fn get(&self) -> Given<'a, T> {
        match self.norm {
            Some((norm, saved)) => Given::Made(norm.recompute(self.x, saved, self.workspace)),
            None => Given::Borrowed(self.x),
        }
    }
}

impl<T: Real> Residual<T> {
    /// Its norms, in the order of the forward pass.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm<T>> {
        self.input.iter().chain(&self.output).chain(&self.sum)
    }

    /// As [`Self::norms`], to be changed.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm<T>> {
        self.input.iter_mut().chain(&mut self.output).chain(&mut self.sum)
    }

    /// Whether one of the norms trains.
    pub(super) fn trains(&self) -> bool {
        self.norms().any(|norm| norm.unfrozen.is_some())
    }

    /// The residual stream after the step, what the norms keep, and what `body` keeps. Where `rows` are given, of these rows alone, for which `body` computes its
    /// output.
    pub(super) fn forward<S>(
        &self,
        x: &Matrix<T>,
        rows: Option<&[usize]>,
        pass: &Pass<'_, T>,
        body: impl FnOnce(Given<'_, T>) -> (Matrix<T>, S),
    ) -> (Matrix<T>, Saved<T>, S) {
        let workspace = pass.workspace;
        let (given, input) = match &self.input {
            Some(norm) => {
                let (normed, saved) = norm.forward(x, workspace);
                (Given::Made(normed), Some(saved))
            }
            None => (Given::Borrowed(x), None),
        };
        let (mut y, kept) = body(given);
        let apply = |norm: &Norm<T>, y: &mut Matrix<T>| {
            let (normed, saved) = norm.forward(y, workspace);
            (std::mem::replace(y, normed), saved)
        };
        let output = self.output.as_ref().map(|norm| apply(norm, &mut y));
        self.mask(&mut y, pass);
        match rows {
            None => y.add(x),
            Some(rows) => y.add(&pick(x, rows, pass)),
        }
        let sum = self.sum.as_ref().map(|norm| apply(norm, &mut y));
        (y, Saved { input, output, sum }, kept)
    }

    /// From the gradient `d_result` of the step's result to that of its input, if it is wanted. `body_trains`: whether something in the body does.
    ///
    /// `body` is given the gradient of its output, its input, and whether the input's gradient is wanted, and returns it if so. `rows` are those of forward.
    pub(super) fn backward(
        &self,
        x: &Matrix<T>,
        rows: Option<&[usize]>,
        saved: Saved<T>,
        d_result: Matrix<T>,
        wanted: bool,
        body_trains: bool,
        pass: &Pass<'_, T>,
        gradients: &mut Gradients<T>,
        body: impl FnOnce(&Matrix<T>, Input<'_, T>, bool, &mut Gradients<T>) -> Option<Matrix<T>>,
    ) -> Option<Matrix<T>> {
        let through = wanted || self.input.as_ref().is_some_and(|norm| norm.unfrozen.is_some());
        if !through && !body_trains && !self.trains() {
            return None;
        }
        let workspace = pass.workspace;
        let mut unwind = |norm: &Option<Norm<T>>, kept: &Option<(Matrix<T>, NormSaved<T>)>, d: &Matrix<T>, below| {
            let (norm, (y, saved)) = norm.as_ref().zip(kept.as_ref())?;
            let zeros = workspace.zeros(y.rows(), y.cols());
            Some(norm.backward(d, y, saved, zeros, below, gradients))
        };
        let body_or_below = through || body_trains;
        let output_trains = self.output.as_ref().is_some_and(|norm| norm.unfrozen.is_some());
        let d_sum = match unwind(&self.sum, &saved.sum, &d_result, body_or_below || output_trains) {
            Some(below) => below?,
            None => d_result,
        };
        let masked = self.dropout_mask(&d_sum, pass);
        let d_output = match unwind(&self.output, &saved.output, masked.as_ref().unwrap_or(&d_sum), body_or_below) {
            Some(below) => Some(below?),
            None => masked,
        };
        let norm = self.input.as_ref().zip(saved.input.as_ref());
        let input = Input { x, norm, workspace };
        let d_input = body(d_output.as_ref().unwrap_or(&d_sum), input, through, gradients)?;
        drop(d_output);
        let d_sum = rows.map(|rows| scatter(&d_sum, rows, x.rows(), pass)).unwrap_or(d_sum);
        match norm {
            Some((norm, saved)) => norm.backward(&d_input, x, saved, d_sum, wanted, gradients),
            None => {
                let mut dx = d_sum;
                dx.add(&d_input);
                Some(dx)
            }
        }
    }

    fn mask(&self, y: &mut Matrix<T>, pass: &Pass<'_, T>) {
        if let Some(draw) = pass.draw.filter(|_| self.dropout > 0.0) {
            dropout::mask(y, self.dropout, draw.dropout(&self.owner));
        }
    }

    /// The gradient behind the dropout turned into that before it; none where nothing is dropped.
    fn dropout_mask(&self, d: &Matrix<T>, pass: &Pass<'_, T>) -> Option<Matrix<T>> {
        pass.draw.filter(|_| self.dropout > 0.0).map(|_| {
            let mut masked = pass.workspace.matrix(d.rows(), d.cols());
            masked.copy_from(d.data());
            self.mask(&mut masked, pass);
            masked
        })
    }
}
