//! The non-linearity of an MLP, element by element, forward and backward: its value and its slope.
//!
//! `silu(x) = x / (1 + exp(-x))`; `gelu(x) = x P(x)` with P the distribution function of the standard normal; `gelu_tanh(x) = x / 2 (1 + tanh(sqrt(2 / pi)
//! (x + 0.044715 x^3)))`, the approximation of `gelu` that some models were trained with. Products with a gate are left to [`super::gated`].

use rayon::prelude::*;

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
}

impl Activation {
    /// Its value at `x`.
    pub fn value<T: Real>(self, x: T) -> T {
        match self {
            Self::Silu => x * sigmoid(x),
            Self::Gelu => x * normal(x).0,
            Self::GeluTanh => half::<T>() * x * (T::ONE + bend(x).0.tanh()),
        }
    }

    /// Its value and its derivative at `x`.
    ///
    /// With s the sigmoid: `silu' = s (1 + x (1 - s))`. With p the density: `gelu' = P + x p`. With t the tanh of u: `gelu_tanh' = (1 + t) / 2 + x / 2 (1 - t^2) u'`.
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
        }
    }
}

/// `f(x)`, element by element.
pub fn forward<T: Real>(x: &Matrix<T>, activation: Activation, workspace: &Workspace<T>) -> Matrix<T> {
    let mut out = workspace.matrix(x.rows(), x.cols());
    out.data_mut().par_chunks_mut(CHUNK).zip(x.data().par_chunks(CHUNK)).for_each(|(out, x)| {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = activation.value(x);
        }
    });
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

/// The standard normal's distribution function P and its density p at `x`.
///
/// `P(x) = 1/2 + p(x) (x + x^3 / 3 + x^5 / (3 5) + ...)` (Marsaglia, Evaluating the Normal Distribution, 2004). All terms have the sign of x, so nothing
/// cancels for positive x, and for negative x the error is of the order of one rounding of 1, which is all that `x P(x)` needs. Beyond 9 the tail is below
/// half a rounding of f64.
fn normal<T: Real>(x: T) -> (T, T) {
    let square = x * x;
    let density = T::from_f64(1.0 / (2.0 * std::f64::consts::PI).sqrt()) * (-half::<T>() * square).exp();
    if x.abs() > T::from_f64(9.0) {
        return (if x > T::ZERO { T::ONE } else { T::ZERO }, density);
    }
    let (mut term, mut sum, mut odd) = (x, x, T::ONE);
    loop {
        odd += T::from_f64(2.0);
        term *= square / odd;
        let more = sum + term;
        // a NaN equals nothing
        if more == sum || !more.is_finite() {
            break;
        }
        sum = more;
    }
    (half::<T>() + density * sum, density)
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

    const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

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
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(1).unwrap();
        let matrix = |values: &[f64]| {
            let mut m = workspace.matrix(4, 5);
            m.copy_from(values);
            m
        };
        let (x, dy) = (numbers(20, "x"), numbers(20, "dy"));
        for activation in ALL {
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
        assert!(ALL.iter().all(|activation| activation.value(40.0f64) == 40.0 && activation.value(-800.0f64) == 0.0));
    }
}
