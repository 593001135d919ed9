//! A residual step: `x + output_norm(body(input_norm(x)))`, each norm only where the family has it; forward and backward around any body.
//!
//! Attention and the MLP are the bodies. Forward keeps what the norms need; the normalised input is computed again in backward, where it costs less than
//! the memory it would take.

use std::ops::Deref;

use super::norm::Norm;
use crate::adapter::Gradients;
use crate::ops::norm::Saved as NormSaved;
use crate::tensor::{Matrix, Real, Workspace};

/// The norms around a body.
pub struct Residual<T> {
    /// On the body's input.
    pub input: Option<Norm<T>>,
    /// On the body's output, before the residual stream is added.
    pub output: Option<Norm<T>>,
}

/// What backward needs besides the input of the step.
pub(super) struct Saved<T: Real> {
    input: Option<NormSaved<T>>,
    /// The body's output and its norm.
    output: Option<(Matrix<T>, NormSaved<T>)>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        let output = self.output.as_ref().map_or(0, |(y, saved)| y.bytes() + saved.bytes());
        self.input.as_ref().map_or(0, NormSaved::bytes) + output
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
        self.input.iter().chain(&self.output)
    }

    /// As [`Self::norms`], to be changed.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm<T>> {
        self.input.iter_mut().chain(&mut self.output)
    }

    /// Whether one of the norms trains.
    pub(super) fn trains(&self) -> bool {
        self.norms().any(|norm| norm.unfrozen.is_some())
    }

    /// The residual stream after the step, what the norms keep, and what `body` keeps.
    pub(super) fn forward<S>(
        &self,
        x: &Matrix<T>,
        workspace: &Workspace<T>,
        body: impl FnOnce(Given<'_, T>) -> (Matrix<T>, S),
    ) -> (Matrix<T>, Saved<T>, S) {
        let (given, input) = match &self.input {
            Some(norm) => {
                let (normed, saved) = norm.forward(x, workspace);
                (Given::Made(normed), Some(saved))
            }
            None => (Given::Borrowed(x), None),
        };
        let (mut y, kept) = body(given);
        let output = self.output.as_ref().map(|norm| {
            let (normed, saved) = norm.forward(&y, workspace);
            (std::mem::replace(&mut y, normed), saved)
        });
        y.add(x);
        (y, Saved { input, output }, kept)
    }

    /// From the gradient `d_sum` of the step's result to that of its input, if it is wanted. `body_trains`: whether something in the body does.
    ///
    /// `body` is given the gradient of its output, its input, and whether the input's gradient is wanted, and returns it if so.
    pub(super) fn backward(
        &self,
        x: &Matrix<T>,
        saved: Saved<T>,
        d_sum: Matrix<T>,
        wanted: bool,
        body_trains: bool,
        workspace: &Workspace<T>,
        gradients: &mut Gradients<T>,
        body: impl FnOnce(&Matrix<T>, Input<'_, T>, bool, &mut Gradients<T>) -> Option<Matrix<T>>,
    ) -> Option<Matrix<T>> {
        let through = wanted || self.input.as_ref().is_some_and(|norm| norm.unfrozen.is_some());
        if !through && !body_trains && !self.trains() {
            return None;
        }
        let d_output = match (&self.output, &saved.output) {
            (Some(norm), Some((y, saved))) => {
                let zeros = workspace.zeros(y.rows(), y.cols());
                let below = through || body_trains;
                Some(norm.backward(&d_sum, y, saved, zeros, below, gradients)?)
            }
            _ => None,
        };
        let norm = self.input.as_ref().zip(saved.input.as_ref());
        let input = Input { x, norm, workspace };
        let d_input = body(d_output.as_ref().unwrap_or(&d_sum), input, through, gradients)?;
        drop(d_output);
        match norm {
            Some((norm, saved)) => norm.backward(&d_input, x, saved, d_sum, wanted, gradients),
            None => {
                let mut dx = d_sum;
                dx.add(&d_input);
                Some(dx)
            }
        }
    }
}
