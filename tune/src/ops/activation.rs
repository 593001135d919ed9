//! Non-linearities of MLPs and of bottleneck adapters, element by element, forward and backward: value and slope.
//!
//! `silu(x) = x / (1 + exp(-x))`; `gelu(x) = x P(x)` with P the distribution function of the standard normal; `gelu_tanh(x) = x / 2 (1 + tanh(sqrt(2 / pi)
//! (x + 0.044715 x^3)))`, the approximation of `gelu` that some models were trained with. Products with a gate are left to [`super::gated`].

use rayon::prelude::*;

use crate::tensor::vector::widest;
use crate::tensor::{Matrix, Real, Workspace};

/// Elements handled by one parallel task.
const CHUNK: usize = 1 << 14;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The Gaussian error linear unit, `x P(x)`.
    Gelu,
    /// The Gaussian error linear unit by way of tanh.
    GeluTanh,
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

    /// Its value at `x`.
    #[inline(always)]
    pub fn value<T: Real>(self, x: T) -> T {
        match self {
            Self::Silu => x * sigmoid(x),
            Self::Gelu => x * normal(x).0,
            Self::GeluTanh => half::<T>() * x * (T::ONE + bend(x).0.tanh()),
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(T::ZERO),
        }
    }

    /// Its value and its derivative at `x`.
    ///
    /// With s the sigmoid: `silu' = s (1 + x (1 - s))`. With p the density: `gelu' = P + x p`. With t the tanh of u: `gelu_tanh' = (1 + t) / 2 + x / 2 (1 - t^2) u'`.
    #[inline(always)]
    pub fn value_and_slope<T: Real>(self, x: T) -> (T, T) {
        match self {
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s * (T::ONE + x * (T::ONE - s)))
            }
            Self::Gelu => {
                let (share, density) = normal(x);
                (x * share, share + x * density)
            }
            Self::GeluTanh => {
                let (u, slope) = bend(x);
                let (t, half) = (u.tanh(), half::<T>());
                (half * x * (T::ONE + t), half * (T::ONE + t) + half * x * (T::ONE - t * t) * slope)
            }
            Self::Tanh => {
                let t = x.tanh();
                (t, T::ONE - t * t)
            }
            Self::Relu => (x.max(T::ZERO), if x > T::ZERO { T::ONE } else { T::ZERO }),
        }
    }

    /// Writes `f(x)` for each x.
    pub(super) fn values<T: Real>(self, x: &[T], out: &mut [T]) {
        match self {
            Self::Silu => silu(x, out),
            _ => x.iter().zip(out).for_each(|(&x, out)| *out = self.value(x)),
        }
    }

    /// Turns `gate` and `up` into their gradients, given that of `f(gate) up`.
    pub(super) fn gradients<T: Real>(self, gate: &mut [T], up: &mut [T], d: &[T]) {
        match self {
            Self::Silu => silu_gradients(gate, up, d),
            _ => gate.iter_mut().zip(up).zip(d).for_each(|((g, u), &d)| (*g, *u) = self.gradient(*g, *u, d)),
        }
    }

    #[inline(always)]
    fn gradient<T: Real>(self, g: T, u: T, d: T) -> (T, T) {
        let (value, slope) = self.value_and_slope(g);
        (d * u * slope, d * value)
    }
}

widest! {
    fn silu<T: Real>(x: &[T], out: &mut [T]) {
        x.iter().zip(out).for_each(|(&x, out)| *out = Activation::Silu.value(x));
    }

    fn silu_gradients<T: Real>(gate: &mut [T], up: &mut [T], d: &[T]) {
        gate.iter_mut().zip(up).zip(d).for_each(|((g, u), &d)| (*g, *u) = Activation::Silu.gradient(*g, *u, d));
    }
}

/// `f(x)`, element by element.
pub fn forward<T: Real>(x: &Matrix<T>, activation: Activation, workspace: &Workspace<T>) -> Matrix<T> {
    let mut out = workspace.matrix(x.rows(), x.cols());
    out.data_mut().par_chunks_mut(CHUNK).zip(x.data().par_chunks(CHUNK)).for_each(|(out, x)| activation.values(x, out));
    out
}

/// Turns `x` into its gradient `dy f'(x)`. In place: nobody needs the values afterwards.
///
/// # Panics
/// When the shapes differ.
pub fn backward<T: Real>(dy: &Matrix<T>, x: &mut Matrix<T>, activation: Activation) {
    assert_eq!((dy.rows(), dy.cols()), (x.rows(), x.cols()), "an activation and its gradient have one shape");
    x.data_mut().par_chunks_mut(CHUNK).zip(dy.data().par_chunks(CHUNK)).for_each(|(x, dy)| {
        for (x, &dy) in x.iter_mut().zip(dy) {
            *x = dy * activation.value_and_slope(*x).1;
        }
    });
}

/// The standard normal's distribution function P, by the complementary error function in f64, and its density p at `x`.
fn normal<T: Real>(x: T) -> (T, T) {
    let wide = x.to_f64();
    let share = 0.5 * libm::erfc(-wide * std::f64::consts::FRAC_1_SQRT_2);
    let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (T::from_f64(share), T::from_f64(density))
}

#[inline(always)]
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
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(1).unwrap();
        let matrix = |values: &[f64]| {
            let mut m = workspace.matrix(4, 5);
            m.copy_from(values);
            m
        };
        let (x, dy) = (numbers(20, "x"), numbers(20, "dy"));
        for (_, activation) in Activation::NAMES {
            let mut dx = matrix(&x);
            backward(&matrix(&dy), &mut dx, activation);
            check("dx", &x, dx.data(), |x| dot(forward(&matrix(x), activation, &workspace).data(), &dy));
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
        let gelu =
            [(-3.0, -0.004_049_694_094_890_284), (0.5, 0.345_731_230_637_006_55), (2.0, 1.954_499_736_103_641_6)];
        for (x, expected) in gelu {
            assert!((Activation::Gelu.value::<f64>(x) - expected).abs() < 1e-15, "gelu({x})");
            assert!((Activation::Gelu.value::<f32>(x as f32) - expected as f32).abs() < 3e-7, "gelu({x}) in f32");
        }
        let open = Activation::NAMES.into_iter().filter(|(_, activation)| *activation != Activation::Tanh);
        open.for_each(|(name, at)| assert!(at.value(40.0f64) == 40.0 && at.value(-800.0f64) == 0.0, "{name}"));
    }
}
