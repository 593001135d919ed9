//! The operations of a transformer step: one file an operation, forward and backward side by side.
//!
//! Each takes a workspace, works in f32 and in f64, and is judged by central differences in f64 (tests at the foot of each file). Operations know no
//! adapter, no model and no file.

pub mod activation;
pub mod attention;
mod batch;
mod blocks;
pub mod choice;
pub mod decode;
pub mod dropout;
pub mod gated;
pub mod heads;
pub mod layer_norm;
pub mod loss;
pub mod norm;
pub mod rope;
mod rule;
mod segments;
pub mod target;
mod thin;
mod weight;

pub use activation::Activation;
pub use batch::Batch;
pub use segments::{Segment, SegmentError, Segments};
pub use weight::{Storage, Weight, row_lengths};

#[cfg(test)]
pub(crate) mod difference {
    //! Central differences in f64: what judges every backward pass.

    use crate::tensor::Stream;

    /// Numbers of unit size from a stream named by the test.
    pub fn numbers(len: usize, name: &str) -> Vec<f64> {
        let mut stream = Stream::new(11, "difference", name);
        (0..len).map(|_| stream.normal()).collect()
    }

    /// Checks `gradient` of the scalar function `f` at `at`: each component (or 60 spread over it) against `(f(x + h) - f(x - h)) / 2h`.
    ///
    /// With h = 1e-5 the truncation error is about h^2 and the rounding error about 1e-16 / h = 1e-11 of |f|; 1e-7 relative to the gradient's size
    /// leaves room for both and is far below any wrong term.
    pub fn check(name: &str, at: &[f64], gradient: &[f64], mut f: impl FnMut(&[f64]) -> f64) {
        assert_eq!(at.len(), gradient.len(), "{name}: one component for each parameter");
        let scale = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs())).max(1e-3);
        let h = 1e-5;
        let step = at.len().div_ceil(60).max(1);
        let mut x = at.to_vec();
        for i in (0..at.len()).step_by(step) {
            x[i] = at[i] + h;
            let above = f(&x);
            x[i] = at[i] - h;
            let below = f(&x);
            x[i] = at[i];
            let expected = (above - below) / (2.0 * h);
            assert!((gradient[i] - expected).abs() <= 1e-7 * scale, "{name}[{i}]: {} is not {expected}", gradient[i]);
        }
    }

    /// The scalar `sum_i weights_i y_i` that turns a tensor into something to differentiate.
    pub fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }
}
