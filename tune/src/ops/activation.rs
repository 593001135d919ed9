//! Non-linearities between two linears, element by element: `y = f(x)` and `dx = dy f'(x)`.
//!
//! Values are computed in f64 and rounded once, so that every number type sees the same function. The gate of a gated MLP has a file of its own
//! ([`super::gated`]), because it multiplies two inputs.

use crate::tensor::{Matrix, Real};

/// A non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// `max(0, x)`.
    Relu,
    /// `x Phi(x)`, with the normal distribution function by the error function.
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

impl Activation {
    /// Every one with its name in configurations.
    pub const NAMES: [(&'static str, Self); 4] =
        [("tanh", Self::Tanh), ("relu", Self::Relu), ("gelu", Self::Gelu), ("silu", Self::Silu)];

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, activation)| *activation == self).map_or("", |(name, _)| name)
    }

    /// `(f(x), f'(x))`.
    fn at(self, x: f64) -> (f64, f64) {
        match self {
            Self::Tanh => {
                let y = x.tanh();
                (y, 1.0 - y * y)
            }
            Self::Relu => {
                if x > 0.0 {
                    (x, 1.0)
                } else {
                    (0.0, 0.0)
                }
            }
            Self::Gelu => {
                let below = 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * below, below + x * density)
            }
            Self::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
        }
    }

    /// Replaces every element by `f` of it.
    pub fn forward<T: Real>(self, x: &mut Matrix<T>) {
        x.data_mut().iter_mut().for_each(|x| *x = T::from_f64(self.at(x.to_f64()).0));
    }

    /// Turns the gradient `dy` of the output into that of the input, given the input `x`.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn backward<T: Real>(self, dy: &mut Matrix<T>, x: &Matrix<T>) {
        assert_eq!((dy.rows(), dy.cols()), (x.rows(), x.cols()), "a gradient has its value's shape");
        dy.data_mut().iter_mut().zip(x.data()).for_each(|(dy, x)| *dy *= T::from_f64(self.at(x.to_f64()).1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};
    use crate::tensor::Workspace;

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(1).unwrap();
        let matrix = |values: &[f64]| {
            let mut m = workspace.matrix(3, values.len() / 3);
            m.copy_from(values);
            m
        };
        let (x, dy) = (numbers(24, "x"), numbers(24, "dy"));
        for (name, activation) in Activation::NAMES {
            let forward = |x: &[f64]| {
                let mut y = matrix(x);
                activation.forward(&mut y);
                y
            };
            let mut dx = matrix(&dy);
            activation.backward(&mut dx, &matrix(&x));
            check(name, &x, dx.data(), |x| dot(forward(x).data(), &dy));
        }
    }

    #[test]
    fn known_values() {
        let at = |activation: Activation, x: f64| activation.at(x).0;
        // Phi(1) = 0.841344746068543, tanh(1) = 0.761594155955765, 1 / (1 + e^-1) = 0.731058578630005
        for (activation, expected) in [
            (Activation::Gelu, 0.841_344_746_068_543),
            (Activation::Tanh, 0.761_594_155_955_765),
            (Activation::Silu, 0.731_058_578_630_005),
            (Activation::Relu, 1.0),
        ] {
            assert!((at(activation, 1.0) - expected).abs() < 1e-14, "{}", activation.name());
        }
        assert_eq!(at(Activation::Relu, -1.0), 0.0);
    }
}
