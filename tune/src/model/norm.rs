//! A norm of the model: a site with its parameters, and what the configuration says of how it is applied.

use super::trained::Unfrozen;
use crate::adapter::{Gradients, Site};
use crate::ops::{layer_norm, norm};
use crate::tensor::{Matrix, Real, Workspace};

/// A norm: of the root mean square, or a layer norm where it has a bias.
pub struct Norm<T> {
    /// Its name and length.
    pub site: Site,
    /// The weight, `[d]`.
    pub weight: Vec<T>,
    /// The bias of a layer norm, `[d]`.
    pub bias: Option<Vec<T>>,
    /// Added to the weight of a norm of the root mean square.
    pub offset: T,
    /// Added to the mean square, or to the variance.
    pub eps: T,
    /// Whether it trains.
    pub unfrozen: Option<Unfrozen>,
}

/// What backward needs besides the input.
pub(super) enum Saved<T: Real> {
    RootMeanSquare(norm::Saved<T>),
    Layer(layer_norm::Saved<T>),
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::RootMeanSquare(saved) => saved.bytes(),
            Self::Layer(saved) => saved.bytes(),
        }
    }
}

impl<T: Real> Norm<T> {
    fn scale(&self) -> norm::Scale<'_, T> {
        norm::Scale { weight: &self.weight, offset: self.offset }
    }

    /// Its parameters, in the order of their names on disk.
    pub(super) fn own(&self) -> Vec<&[T]> {
        std::iter::once(&self.weight).chain(&self.bias).map(Vec::as_slice).collect()
    }

    /// As [`Self::own`], to be changed.
    pub(super) fn own_mut(&mut self) -> Vec<&mut [T]> {
        std::iter::once(&mut self.weight).chain(&mut self.bias).map(Vec::as_mut_slice).collect()
    }

    /// The rows of `x` normalised, and what backward needs.
    pub(super) fn forward(&self, x: &Matrix<T>, workspace: &Workspace<T>) -> (Matrix<T>, Saved<T>) {
        match &self.bias {
            None => {
                let (y, saved) = norm::forward(x, self.scale(), self.eps, workspace);
                (y, Saved::RootMeanSquare(saved))
            }
            Some(bias) => {
                let (y, saved) = layer_norm::forward(x, &self.weight, bias, self.eps, workspace);
                (y, Saved::Layer(saved))
            }
        }
    }

    /// The output of [`Self::forward`] again.
    pub(super) fn recompute(&self, x: &Matrix<T>, saved: &Saved<T>, workspace: &Workspace<T>) -> Matrix<T> {
        match saved {
            Saved::RootMeanSquare(saved) => norm::recompute(x, self.scale(), saved, workspace),
            Saved::Layer(saved) => {
                let bias = self.bias.as_deref().expect("the bias that made it a layer norm");
                layer_norm::recompute(x, &self.weight, bias, saved, workspace)
            }
        }
    }

    /// From the gradient `dy` of the norm's output: its parameters', where it trains, and where `wanted` the residual gradient `dx` with the input's added.
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
            let gradient = gradients.slot_mut(slot);
            match saved {
                Saved::RootMeanSquare(saved) => norm::weight_gradient(dy, x, saved, gradient),
                Saved::Layer(saved) => layer_norm::parameter_gradient(dy, x, saved, gradient),
            }
        }
        wanted.then(|| {
            match saved {
                Saved::RootMeanSquare(saved) => norm::backward(dy, x, self.scale(), saved, &mut dx),
                Saved::Layer(saved) => layer_norm::backward(dy, x, &self.weight, saved, &mut dx),
            }
            dx
        })
    }
}
