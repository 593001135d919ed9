//! AdamW over everything that trains in a model.
//!
//! Loshchilov and Hutter 2019; the arithmetic is PyTorch's: bias-corrected moments, epsilon outside the root, decoupled weight decay.

use rayon::prelude::*;

use crate::adapter::Gradients;
use crate::model::Decoder;
use crate::tensor::Real;

/// Elements handled by one parallel task.
const CHUNK: usize = 1 << 14;

/// Settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter removed in each step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser's state: two moments for each trainable parameter, and the number of steps taken.
#[derive(Clone, Debug)]
pub struct AdamW<T> {
    settings: AdamWSettings,
    first: Gradients<T>,
    second: Gradients<T>,
    steps: u64,
}

impl<T: Real> AdamW<T> {
    /// Zero moments for the adapters of `model`.
    pub fn new(settings: AdamWSettings, model: &Decoder<T>) -> Self {
        Self { settings, first: model.gradients(), second: model.gradients(), steps: 0 }
    }

    /// An optimiser that continues from saved moments after `steps` steps.
    pub fn resumed(settings: AdamWSettings, first: Gradients<T>, second: Gradients<T>, steps: u64) -> Self {
        Self { settings, first, second, steps }
    }

    /// First and second moments, laid out as the gradients, and the number of steps taken.
    pub fn moments(&self) -> (&Gradients<T>, &Gradients<T>, u64) {
        (&self.first, &self.second, self.steps)
    }

    /// One step with learning rate `rate` along `gradients`.
    ///
    /// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `p -= rate (weight_decay p + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))`.
    pub fn step(&mut self, model: &mut Decoder<T>, gradients: &Gradients<T>, rate: f64) {
        let AdamWSettings { beta1, beta2, epsilon, weight_decay } = self.settings;
        self.steps += 1;
        let correction1 = 1.0 - beta1.powf(self.steps as f64);
        let correction2 = (1.0 - beta2.powf(self.steps as f64)).sqrt();
        let [b1, b2, rest1, rest2] = [beta1, beta2, 1.0 - beta1, 1.0 - beta2].map(T::from_f64);
        let [keep, size] = [1.0 - rate * weight_decay, rate / correction1].map(T::from_f64);
        let [root, epsilon] = [correction2, epsilon].map(T::from_f64);
        for (slot, pieces) in model.trained_mut() {
            let (mut first, mut second) = (self.first.slot_mut(slot), self.second.slot_mut(slot));
            let mut gradient = gradients.slot(slot);
            for values in pieces {
                let (m, v, g);
                (m, first) = first.split_at_mut(values.len());
                (v, second) = second.split_at_mut(values.len());
                (g, gradient) = gradient.split_at(values.len());
                let state = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
                values.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(state).for_each(|((p, g), (m, v))| {
                    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                        *m = b1 * *m + rest1 * g;
                        *v = b2 * *v + rest2 * (g * g);
                        *p = keep * *p - size * (*m / (v.sqrt() / root + epsilon));
                    }
                });
            }
        }
    }
}
