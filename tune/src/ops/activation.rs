//! The non-linearity of an MLP, element by element: its value and its slope.
//!
//! `silu(x) = x / (1 + exp(-x))`; `gelu_tanh(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the approximation of `gelu` that some models were
//! trained with. Which products are made of it is left to [`super::gated`].

use crate::tensor::Real;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The Gaussian error linear unit by way of tanh.
    GeluTanh,
}

impl Activation {
    /// Its value at `x`.
    pub fn value<T: Real>(self, x: T) -> T {
        match self {
            Self::Silu => x * sigmoid(x),
            Self::GeluTanh => half::<T>() * x * (T::ONE + bend(x).0.tanh()),
        }
    }

    /// Its value and its derivative at `x`.
    ///
    /// With s the sigmoid: `silu' = s (1 + x (1 - s))`. With t the tanh of u: `gelu_tanh' = (1 + t) / 2 + x / 2 (1 - t^2) u'`.
    pub fn value_and_slope<T: Real>(self, x: T) -> (T, T) {
        match self {
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s * (T::ONE + x * (T::ONE - s)))
            }
            Self::GeluTanh => {
                let (u, slope) = bend(x);
                let (t, half) = (u.tanh(), half::<T>());
                (half * x * (T::ONE + t), half * (T::ONE + t) + half * x * (T::ONE - t * t) * slope)
            }
        }
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

fn half<T: Real>() -> T {
    T::from_f64(0.5)
}

/// The argument of the tanh, `sqrt(2 / pi) (x + 0.044715 x^3)`, and its derivative.
fn bend<T: Real>(x: T) -> (T, T) {
    let (scale, cubic) = (T::from_f64(std::f64::consts::FRAC_2_PI.sqrt()), T::from_f64(0.044_715));
    let square = x * x;
    (scale * (x + cubic * square * x), scale * (T::ONE + T::from_f64(3.0) * cubic * square))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    const ALL: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    #[test]
    fn slopes_are_central_differences() {
        let (x, weights) = (numbers(60, "x"), numbers(60, "weights"));
        let x: Vec<f64> = x.iter().map(|x| 2.0 * x).collect();
        for activation in ALL {
            let slopes: Vec<f64> = x.iter().zip(&weights).map(|(&x, w)| w * activation.value_and_slope(x).1).collect();
            let values = |x: &[f64]| x.iter().map(|&x| activation.value(x)).collect::<Vec<f64>>();
            check(&format!("{activation:?}"), &x, &slopes, |x| dot(&values(x), &weights));
            assert!(x.iter().all(|&x| activation.value(x) == activation.value_and_slope(x).0));
        }
    }

    #[test]
    fn values_are_those_of_the_definitions() {
        // computed with 50 digits
        let gelu_tanh =
            [(-3.0, -0.003_637_392_081_773_018_8), (0.5, 0.345_714_009_825_143_92), (2.0, 1.954_597_694_087_775)];
        for (x, expected) in gelu_tanh {
            assert!((Activation::GeluTanh.value::<f64>(x) - expected).abs() < 1e-15, "gelu_tanh({x})");
        }
        assert!(ALL.iter().all(|activation| activation.value(40.0f64) == 40.0 && activation.value(-800.0f64) == 0.0));
    }
}
