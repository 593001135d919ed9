//! Rotary position embedding: the frequencies of a model and the rotation of one head's row.
//!
//! Pairs are half-split as in Hugging Face's LLaMA: element i turns with element i + head_dim/2 by the angle `position * frequency_i`. Frequencies and
//! angles are computed in f64 and rounded once.

use crate::tensor::vector::widest;
use crate::tensor::{Buffer, Real, Workspace};

/// How a model stretches its rotary frequencies beyond the length it was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// LLaMA 3.1: long wavelengths divided by `factor`, short ones kept, a smooth blend between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_length / low_frequency_factor` count as long.
        low_frequency_factor: f64,
        /// Wavelengths below `original_length / high_frequency_factor` count as short.
        high_frequency_factor: f64,
        /// Context length before stretching, in tokens.
        original_length: f64,
    },
}

/// The rotation of a model: base, scaling and head size.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// The stretch.
    pub scaling: Scaling,
    /// Elements of a head, even.
    pub head_dim: usize,
}

impl Rope {
    /// Angle a position turns pair i by: `theta^(-2i / head_dim)`, scaled. Length `head_dim / 2`.
    pub fn frequencies(&self) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / self.head_dim as f64);
        let scale = |frequency: f64| match self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_length } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength > original_length / low_frequency_factor {
                    frequency / factor
                } else if wavelength < original_length / high_frequency_factor {
                    frequency
                } else {
                    let share = (original_length / wavelength - low_frequency_factor)
                        / (high_frequency_factor - low_frequency_factor);
                    (1.0 - share) * frequency / factor + share * frequency
                }
            }
        };
        (0..self.head_dim / 2).map(plain).map(scale).collect()
    }

    /// Cosines and sines of every token's position: computed once a batch, shared by all layers.
    pub fn table<T: Real>(&self, positions: &[usize], workspace: &Workspace<T>) -> Table<T> {
        let frequencies = self.frequencies();
        let half = frequencies.len();
        let (mut cos, mut sin) = (workspace.buffer(positions.len() * half), workspace.buffer(positions.len() * half));
        for (row, &position) in positions.iter().enumerate() {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos[row * half + i] = T::from_f64(c);
                sin[row * half + i] = T::from_f64(s);
            }
        }
        Table { cos, sin, half }
    }
}

/// Cosines and sines, `[tokens, head_dim / 2]` each.
pub struct Table<T: Real> {
    cos: Buffer<T>,
    sin: Buffer<T>,
    half: usize,
}

impl<T: Real> Table<T> {
    /// Cosines and sines of a token.
    fn row(&self, token: usize) -> (&[T], &[T]) {
        let range = token * self.half..(token + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// The table of some of the tokens, in their order.
    pub fn pick(&self, tokens: &[usize], workspace: &Workspace<T>) -> Self {
        let mut picked = [(); 2].map(|()| workspace.buffer(tokens.len() * self.half));
        for (row, &token) in tokens.iter().enumerate() {
            let (cos, sin) = self.row(token);
            for (to, from) in picked.iter_mut().zip([cos, sin]) {
                to[row * self.half..(row + 1) * self.half].copy_from_slice(from);
            }
        }
        let [cos, sin] = picked;
        Self { cos, sin, half: self.half }
    }

    /// Turns one head's row of token `token` forward: `out = R x`.
    pub fn rotate(&self, token: usize, x: &[T], out: &mut [T]) {
        let (cos, sin) = self.row(token);
        turn(x, out, cos, sin);
    }

    /// Turns one head's row of token `token` back: `out = R^T x`, the gradient of [`Self::rotate`] and its inverse.
    pub fn rotate_back(&self, token: usize, x: &[T], out: &mut [T]) {
        let (cos, sin) = self.row(token);
        turn_back(x, out, cos, sin);
    }
}

widest! {
    /// Turns every pair (i, i + half) of a row.
    fn turn<T: Real>(x: &[T], out: &mut [T], cos: &[T], sin: &[T]) {
        let ((low, high), half) = (x.split_at(cos.len()), out.split_at_mut(cos.len()));
        for ((((a, b), (&x, &y)), &c), &s) in half.0.iter_mut().zip(half.1).zip(low.iter().zip(high)).zip(cos).zip(sin) {
            (*a, *b) = (x * c - y * s, y * c + x * s);
        }
    }

    /// The inverse of `turn`.
    fn turn_back<T: Real>(x: &[T], out: &mut [T], cos: &[T], sin: &[T]) {
        let ((low, high), half) = (x.split_at(cos.len()), out.split_at_mut(cos.len()));
        for ((((a, b), (&x, &y)), &c), &s) in half.0.iter_mut().zip(half.1).zip(low.iter().zip(high)).zip(cos).zip(sin) {
            (*a, *b) = (x * c + y * s, y * c - x * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    fn llama3() -> Rope {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_length: 64.0,
        };
        Rope { theta: 10_000.0, scaling, head_dim: 8 }
    }

    #[test]
    fn rotating_back_is_the_gradient_and_the_inverse() {
        let workspace = Workspace::new(1).unwrap();
        let table = llama3().table::<f64>(&[0, 3, 17], &workspace);
        let (x, dy) = (numbers(8, "x"), numbers(8, "dy"));
        let rotated = |x: &[f64]| {
            let mut out = vec![0.0; 8];
            table.rotate(2, x, &mut out);
            out
        };
        let mut dx = vec![0.0; 8];
        table.rotate_back(2, &dy, &mut dx);
        check("rope dx", &x, &dx, |x| dot(&rotated(x), &dy));
        let mut again = vec![0.0; 8];
        table.rotate_back(2, &rotated(&x), &mut again);
        assert!(x.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-14));
    }

    #[test]
    fn llama3_scaling_keeps_short_and_divides_long_wavelengths() {
        let scaled = llama3().frequencies();
        let plain = Rope { scaling: Scaling::None, ..llama3() }.frequencies();
        // wavelengths 2 pi * (1, 10, 100, 1000) against borders 16 and 64: short, between, long, long
        assert_eq!(scaled[0], plain[0]);
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0);
        assert_eq!(&scaled[2..], &[plain[2] / 8.0, plain[3] / 8.0]);
    }
}
