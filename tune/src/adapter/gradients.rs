//! Gradients of all adapters of a model: one flat vector a slot, in the layout of the slot's trainable parameters, accumulated as sums.

use crate::tensor::Real;

/// One flat gradient for each attached adapter, indexed by the slot it was given.
#[derive(Clone, Debug, Default)]
pub struct Gradients<T> {
    slots: Vec<Vec<T>>,
}

impl<T: Real> Gradients<T> {
    /// Zero gradients for slots of the given lengths.
    pub fn zeros(lengths: &[usize]) -> Self {
        Self { slots: lengths.iter().map(|&len| vec![T::ZERO; len]).collect() }
    }

    /// One slot's gradient.
    pub fn slot(&self, slot: usize) -> &[T] {
        &self.slots[slot]
    }

    /// One slot's gradient, to be added to.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [T] {
        &mut self.slots[slot]
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Sets everything to zero.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.fill(T::ZERO));
    }

    /// Multiplies everything by `factor`: the one division by the step's total weight, or clipping.
    pub fn scale(&mut self, factor: f64) {
        let factor = T::from_f64(factor);
        for value in self.slots.iter_mut().flatten() {
            *value *= factor;
        }
    }

    /// Euclidean norm over all slots, summed in f64 in slot order.
    pub fn norm(&self) -> f64 {
        self.slots.iter().flatten().map(|v| v.to_f64() * v.to_f64()).sum::<f64>().sqrt()
    }

    /// First slot that holds a number which is not finite.
    pub fn not_finite(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.iter().any(|v| !v.is_finite()))
    }
}
