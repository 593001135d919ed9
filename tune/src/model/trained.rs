//! What trains in a model, whatever it is: parameters of attached adapters, and modules' own parameters that a method unfroze.
//!
//! The optimiser and the files see only this view; slots number the gradients.

use super::decoder::{Decoder, Parts};
use super::linear::Linear;
use crate::adapter::{Gradients, Site, Tensor, lay_out};
use crate::ops::Weight;
use crate::tensor::{Matrix, Real};

/// A module whose own parameters train: where their gradient lies, and which entry of the configuration unfroze them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfrozen {
    /// Index of the gradient in [`Gradients`].
    pub slot: usize,
    /// Index of the entry.
    pub entry: usize,
}

/// An embedding or output head: a site with a matrix.
pub struct Table<T: Real> {
    /// Its name and shape.
    pub site: Site,
    /// The matrix, `[vocab, hidden]`.
    pub weight: Weight<T>,
    /// Whether it trains.
    pub unfrozen: Option<Unfrozen>,
}

/// The parameters of one slot.
pub struct Trained<'a, T> {
    /// Where they are.
    pub site: &'a Site,
    /// Index of their gradient.
    pub slot: usize,
    /// Index of the entry of the configuration that made them train.
    pub entry: usize,
    /// Whether they are the module's own, rather than an adapter's.
    pub own: bool,
    /// Names, shapes and values; frozen ones of an adapter too.
    pub tensors: Vec<(Tensor, &'a [T])>,
}

impl<T: Real> Trained<'_, T> {
    /// Number of parameters that train.
    pub fn trainable(&self) -> usize {
        self.tensors.iter().filter(|(tensor, _)| tensor.trainable).map(|(tensor, _)| tensor.elements()).sum()
    }
}

/// Names and shapes of a module's own parameters with their values.
fn own<'a, T>(site: &Site, values: Vec<&'a [T]>) -> Vec<(Tensor, &'a [T])> {
    let pieces = site.own().into_iter().map(|(name, shape)| (name.to_owned(), shape, true));
    lay_out(pieces).into_iter().zip(values).collect()
}

impl<T: Real> Decoder<T> {
    /// Everything that trains, slots in ascending order.
    pub fn trained(&self) -> Vec<Trained<'_, T>> {
        let mut list = Vec::new();
        for linear in self.linears().chain(self.head_linears()) {
            list.extend(linear.attached().iter().map(|attached| {
                let parameters = attached.adapter.parameters();
                let tensors = parameters.tensors().iter().map(|t| (t.clone(), parameters.values(t))).collect();
                Trained { site: linear.site(), slot: attached.slot, entry: attached.entry, own: false, tensors }
            }));
            list.extend(linear.unfrozen().map(|Unfrozen { slot, entry }| {
                let tensors = own(linear.site(), linear.own());
                Trained { site: linear.site(), slot, entry, own: true, tensors }
            }));
        }
        for norm in self.norms() {
            list.extend(norm.unfrozen.map(|Unfrozen { slot, entry }| {
                let tensors = own(&norm.site, norm.own());
                Trained { site: &norm.site, slot, entry, own: true, tensors }
            }));
        }
        for table in self.tables() {
            list.extend(table.unfrozen.map(|Unfrozen { slot, entry }| {
                let tensors = own(&table.site, table.weight.elements().into_iter().collect());
                Trained { site: &table.site, slot, entry, own: true, tensors }
            }));
        }
        list.extend(self.learned.iter().map(|learned| {
            let parameters = learned.prefix.parameters();
            let tensors = parameters.tensors().iter().map(|t| (t.clone(), parameters.values(t))).collect();
            Trained { site: &learned.site, slot: learned.slot, entry: learned.entry, own: false, tensors }
        }));
        list.sort_by_key(|trained| trained.slot);
        list
    }

    /// The values of every slot, to be changed: pieces that together are laid out as the slot's gradient.
    pub fn trained_mut(&mut self) -> Vec<(usize, Vec<&mut [T]>)> {
        let mut list: Vec<(usize, Vec<&mut [T]>)> = Vec::new();
        let Parts { linears, norms, tables, learned } = self.parts_mut();
        if let Some(learned) = learned {
            list.push((learned.slot, vec![learned.prefix.parameters_mut().trainable_mut()]));
        }
        for linear in linears {
            match linear.unfrozen() {
                Some(Unfrozen { slot, .. }) => list.push((slot, linear.own_mut())),
                None => list.extend(
                    linear
                        .attached_mut()
                        .iter_mut()
                        .map(|attached| (attached.slot, vec![attached.adapter.parameters_mut().trainable_mut()])),
                ),
            }
        }
        for norm in norms {
            list.extend(norm.unfrozen.map(|at| (at.slot, norm.own_mut())));
        }
        for table in tables {
            if let Some(at) = table.unfrozen {
                list.push((at.slot, table.weight.elements_mut().into_iter().collect()));
            }
        }
        list.sort_by_key(|(slot, _)| *slot);
        list
    }

    /// Zero gradients for all slots.
    pub fn gradients(&self) -> Gradients<T> {
        let lengths: Vec<usize> = self.trained().iter().map(Trained::trainable).collect();
        Gradients::zeros(&lengths)
    }

    /// Lets the own parameters of a module train, from where they are.
    ///
    /// # Panics
    /// When the model has no module of this name.
    pub(super) fn unfreeze(&mut self, name: &str, unfrozen: Unfrozen) {
        let Parts { linears, norms, tables, .. } = self.parts_mut();
        if let Some(linear) = linears.into_iter().find(|linear| linear.site().name == name) {
            return linear.unfreeze(unfrozen);
        }
        if let Some(norm) = norms.into_iter().find(|norm| norm.site.name == name) {
            norm.unfrozen = Some(unfrozen);
            return;
        }
        let table = tables.into_iter().find(|table| table.site.name == name);
        let table = table.unwrap_or_else(|| panic!("no module {name}"));
        table.weight.thaw();
        table.unfrozen = Some(unfrozen);
    }
}

/// Adds the gradient of a linear's own parameters, weight then bias, to its slot.
pub(super) fn linear_gradient<T: Real>(linear: &Linear<T>, x: &Matrix<T>, dy: &Matrix<T>, gradient: &mut [T]) {
    let (weight, bias) = gradient.split_at_mut(linear.weight().rows() * linear.weight().cols());
    linear.weight().gradient(x, dy, weight);
    if !bias.is_empty() {
        for row in dy.data().chunks(bias.len()) {
            bias.iter_mut().zip(row).for_each(|(sum, &d)| *sum += d);
        }
    }
}
