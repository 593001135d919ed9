//! A norm of the model: a site with a weight vector, and what the configuration says of how it is applied.

use super::trained::Unfrozen;
use crate::adapter::{Gradients, Site};
use crate::ops::norm::{self, Saved, Scale};
use crate::tensor::{Matrix, Real, Workspace};

/// A norm.
pub struct Norm<T> {
    /// Its name and length.
    pub site: Site,
    /// The weight, `[d]`.
    pub weight: Vec<T>,
    /// Added to the weight.
    pub offset: T,
    /// Added to the mean square.
    pub eps: T,
    /// Whether it trains.
    pub unfrozen: Option<Unfrozen>,
}

impl<T: Real> Norm<T> {
    fn scale(&self) -> Scale<'_, T> {
        Scale { weight: &self.weight, offset: self.offset }
    }

    /// The rows of `x` normalised, and what backward needs.
    pub(super) fn forward(&self, x: &Matrix<T>, workspace: &Workspace<T>) -> (Matrix<T>, Saved<T>) {
        norm::forward(x, self.scale(), self.eps, workspace)
    }

    /// The output of [`Self::forward`] again.
    pub(super) fn recompute(&self, x: &Matrix<T>, saved: &Saved<T>, workspace: &Workspace<T>) -> Matrix<T> {
        norm::recompute(x, self.scale(), saved, workspace)
    }

    /// From the gradient `dy` of the norm's output: the weight's, where it trains, and where `wanted` the residual gradient `dx` with the input's added.
    pub(super) fn backward(
        &self,
        dy: &Matrix<T>,
        x: &Matrix<T>,
        saved: &Saved<T>,
        mut dx: Matrix<T>,
        wanted: bool,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        if let Some(Unfrozen { slot, .. }) = self.unfrozen {
            norm::weight_gradient(dy, x, saved, gradients.slot_mut(slot));
        }
        wanted.then(|| {
            norm::backward(dy, x, self.scale(), saved, &mut dx);
            dx
        })
    }
}
