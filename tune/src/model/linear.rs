//! A linear with whatever is attached to it: `y = W x + sum_i delta_i(x) + b`; or one whose own W and b train.
//!
//! The only place where a model calls an adapter. The weight is the working copy: the file's W0 plus what attached adapters fold into it.

use super::trained::{Unfrozen, linear_gradient};
use crate::adapter::{Adapter, Gradients, Pass, Saved as AdapterSaved, Site};
use crate::ops::Weight;
use crate::tensor::{Matrix, Real};

/// An adapter at a site and the slot of its gradient.
pub struct Attached<T: Real> {
    /// The adapter.
    pub adapter: Box<dyn Adapter<T>>,
    /// Index of its gradient in [`Gradients`].
    pub slot: usize,
    /// Index of the entry of the configuration that attached it.
    pub entry: usize,
}

/// A linear layer of the model.
pub struct Linear<T: Real> {
    site: Site,
    weight: Weight<T>,
    bias: Option<Vec<T>>,
    attached: Vec<Attached<T>>,
    unfrozen: Option<Unfrozen>,
}

/// What backward needs besides the input: one entry for each attached adapter.
#[derive(Default)]
pub(super) struct Saved<T: Real>(Vec<AdapterSaved<T>>);

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(AdapterSaved::bytes).sum()
    }
}

/// Where a linear's input gradient goes.
pub(super) enum InputGradient<'a, T: Real> {
    /// Nowhere: nothing below trains.
    None,
    /// Over what is there.
    Write(&'a mut Matrix<T>),
    /// Added to what is there.
    Add(&'a mut Matrix<T>),
}

impl<T: Real> Linear<T> {
    /// A bare linear at `site`.
    pub fn new(site: Site, weight: Weight<T>, bias: Option<Vec<T>>) -> Self {
        Self { site, weight, bias, attached: Vec::new(), unfrozen: None }
    }

    /// Its name and shape.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its frozen weight (the working copy once something is attached).
    pub fn weight(&self) -> &Weight<T> {
        &self.weight
    }

    /// What is attached, in the order of attachment.
    pub fn attached(&self) -> &[Attached<T>] {
        &self.attached
    }

    /// What is attached, to be changed by the optimiser.
    pub fn attached_mut(&mut self) -> &mut [Attached<T>] {
        &mut self.attached
    }

    /// Adds to the weight, rounded once, what the attached adapters ask to have folded.
    pub fn fold(&mut self) {
        let folds = self.attached.iter().filter_map(|attached| attached.adapter.fold());
        let total = folds.reduce(|mut total, fold| {
            total.iter_mut().zip(fold).for_each(|(total, fold)| *total += fold);
            total
        });
        if let Some(total) = total {
            self.weight = self.weight.plus(&total);
        }
    }

    /// Attaches an adapter; [`Self::fold`] follows once when all are attached.
    pub fn attach(&mut self, adapter: Box<dyn Adapter<T>>, slot: usize, entry: usize) {
        self.attached.push(Attached { adapter, slot, entry });
    }

    /// Lets its own weight and bias train; nothing else is attached then.
    pub(super) fn unfreeze(&mut self, unfrozen: Unfrozen) {
        self.weight.thaw();
        self.unfrozen = Some(unfrozen);
    }

    /// Where its own parameters train, if they do.
    pub fn unfrozen(&self) -> Option<Unfrozen> {
        self.unfrozen
    }

    /// Its own parameters: the weight while it is held in the compute type, and the bias.
    pub(super) fn own(&self) -> Vec<&[T]> {
        self.weight.elements().into_iter().chain(self.bias.as_deref()).collect()
    }

    /// As [`Self::own`], to be changed.
    pub(super) fn own_mut(&mut self) -> Vec<&mut [T]> {
        self.weight.elements_mut().into_iter().chain(self.bias.as_deref_mut()).collect()
    }

    /// Whether anything here trains.
    pub fn trains(&self) -> bool {
        !self.attached.is_empty() || self.unfrozen.is_some()
    }

    /// `x [n, d_in]` to `y [n, d_out]`, and what backward needs.
    pub(super) fn forward(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let mut y = self.weight.forward(x, pass.workspace);
        let saved = self.attached.iter().map(|attached| attached.adapter.forward(x, &mut y, pass)).collect();
        if let Some(bias) = &self.bias {
            for row in y.data_mut().chunks_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
        (y, Saved(saved))
    }

    /// From `dy [n, d_out]`: the adapters' gradients, and the input's where it is wanted. `x` is the input of forward; it may be left out where nothing
    /// trains.
    ///
    /// # Panics
    /// When something trains and `x` is left out.
    pub(super) fn backward(
        &self,
        x: Option<&Matrix<T>>,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: InputGradient<'_, T>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) {
        let mut dx = match dx {
            InputGradient::None => None,
            InputGradient::Write(dx) => {
                self.weight.backward(dy, dx, false, pass.workspace);
                Some(dx)
            }
            InputGradient::Add(dx) => {
                self.weight.backward(dy, dx, true, pass.workspace);
                Some(dx)
            }
        };
        if let Some(Unfrozen { slot, .. }) = self.unfrozen {
            linear_gradient(self, x.expect("the input of a linear that trains"), dy, gradients.slot_mut(slot));
        }
        for (attached, saved) in self.attached.iter().zip(saved.0) {
            let x = x.expect("the input of a linear that trains");
            let gradient = gradients.slot_mut(attached.slot);
            attached.adapter.backward(x, dy, saved, dx.as_deref_mut(), gradient, pass);
        }
    }
}
