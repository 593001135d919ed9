//! Circuits that adapters add beside the product of their site, and several sites' circuits in one pass over the input that they share.

use quanta_circuit::unit::Unit;
use quanta_circuit::{CircuitSum, Plan, apply_each};

use crate::tensor::{Matrix, Real};

/// What an adapter adds to its site's product, where that is a sum of circuits of its input.
pub struct Circuits<'a, T> {
    /// What computes the gates.
    pub unit: Option<Unit>,
    /// The plan of all terms.
    pub plan: &'a Plan,
    /// Gates and factor of each.
    pub terms: Vec<(&'a [T], T)>,
}

impl<T: Real> Circuits<'_, T> {
    /// `y += sum_i scale_i T_i(x)`.
    pub(super) fn add(&self, x: &Matrix<T>, y: &mut Matrix<T>) {
        let d_out = y.cols();
        let sum = CircuitSum { plan: self.plan, terms: &self.terms, y: y.data_mut(), d_out };
        apply_each(self.unit, x.data(), x.cols(), &mut [sum]);
    }
}

/// Adds each adapter's circuits to its `y`, reading `x` once; those on another unit than the first one's read it for themselves.
pub fn add_each<T: Real>(x: &Matrix<T>, mut adapters: Vec<(Circuits<'_, T>, &mut Matrix<T>)>) {
    let Some(unit) = adapters.first().map(|(circuits, _)| circuits.unit) else { return };
    let mut together = Vec::with_capacity(adapters.len());
    for (circuits, y) in &mut adapters {
        if circuits.unit == unit {
            let d_out = y.cols();
            together.push(CircuitSum { plan: circuits.plan, terms: &circuits.terms, y: y.data_mut(), d_out });
        } else {
            circuits.add(x, y);
        }
    }
    apply_each(unit, x.data(), x.cols(), &mut together);
}
