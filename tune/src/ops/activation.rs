//! Non-linearities of MLPs and of bottleneck adapters, element by element: value and slope.
//!
//! `gelu(x) = x Phi(x)`, Phi the normal distribution function; `silu(x) = x / (1 + exp(-x))`; `gelu_tanh(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the approximation of `gelu` that some models were
//! trained with. Which products are made of it is left to [`super::gated`].

use crate::tensor::{Matrix, Real};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The Gaussian error linear unit by way of tanh.
    GeluTanh,
    /// The Gaussian error linear unit, `x Phi(x)`.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(0, x)`.
    Relu,
}

impl Activation {
    /// Every one with its name in configurations.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("tanh", Self::Tanh),
        ("relu", Self::Relu),
        ("gelu", Self::Gelu),
        ("gelu_tanh", Self::GeluTanh),
        ("silu", Self::Silu),
    ];

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, activation)| *activation == self).map_or("", |(name, _)| name)
    }

    /// Replaces every element by its value.
    pub fn forward<T: Real>(self, x: &mut Matrix<T>) {
        x.data_mut().iter_mut().for_each(|x| *x = self.value(*x));
    }

    /// Turns the gradient `dy` of the output into that of the input, given the input `x`.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn backward<T: Real>(self, dy: &mut Matrix<T>, x: &Matrix<T>) {
        assert_eq!((dy.rows(), dy.cols()), (x.rows(), x.cols()), "a gradient has its value's shape");
        dy.data_mut().iter_mut().zip(x.data()).for_each(|(dy, &x)| *dy *= self.value_and_slope(x).1);
    }

    /// Its value at `x`.
    pub fn value<T: Real>(self, x: T) -> T {
        match self {
            Self::Silu => x * sigmoid(x),
            Self::GeluTanh => half::<T>() * x * (T::ONE + bend(x).0.tanh()),
            Self::Gelu => x * below(x),
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(T::ZERO),
        }
    }

    /// Its value and its derivative at `x`.
    ///
    /// With s the sigmoid: `silu' = s (1 + x (1 - s))`. With t the tanh of u: `gelu_tanh' = (1 + t) / 2 + x / 2 (1 - t^2) u'`. With the normal density phi:
    /// `gelu' = Phi + x phi`.
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
            Self::Gelu => {
                let (below, scale) = (below(x), T::from_f64(0.398_942_280_401_432_7));
                (x * below, below + x * scale * (-half::<T>() * x * x).exp())
            }
            Self::Tanh => {
                let t = x.tanh();
                (t, T::ONE - t * t)
            }
            Self::Relu => (x.max(T::ZERO), if x > T::ZERO { T::ONE } else { T::ZERO }),
        }
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// The normal distribution function, from the error function in f64.
fn below<T: Real>(x: T) -> T {
    T::from_f64(0.5 * libm::erfc(-x.to_f64() * std::f64::consts::FRAC_1_SQRT_2))
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

    #[test]
    fn slopes_are_central_differences() {
        let (x, weights) = (numbers(60, "x"), numbers(60, "weights"));
        let x: Vec<f64> = x.iter().map(|x| 2.0 * x).collect();
        for (_, activation) in Activation::NAMES {
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
        // Phi(1) = 0.841344746068543, tanh(1) = 0.761594155955765
        for (activation, expected) in
            [(Activation::Gelu, 0.841_344_746_068_543), (Activation::Tanh, 0.761_594_155_955_765)]
        {
            assert!((activation.value::<f64>(1.0) - expected).abs() < 1e-14, "{}", activation.name());
        }
        let open = Activation::NAMES.into_iter().filter(|(_, activation)| *activation != Activation::Tanh);
        open.for_each(|(name, at)| assert!(at.value(40.0f64) == 40.0 && at.value(-800.0f64) == 0.0, "{name}"));
    }
}
