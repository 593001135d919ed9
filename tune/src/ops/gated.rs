//! The gate of a gated MLP: `h = f(gate) * up` with the [`Activation`] f.
//!
//! Forward saves nothing of its own: `gate` and `up` are the outputs of two linears that the layer keeps; `h` is computed again where it is needed.

use rayon::prelude::*;

use super::Activation;
use crate::tensor::vector::widest;
use crate::tensor::{Matrix, Real, Workspace};

/// Elements handled by one parallel task.
const CHUNK: usize = 1 << 14;

/// `f(gate) * up`, element by element.
///
/// # Panics
/// When the shapes differ.
pub fn forward<T: Real>(
    gate: &Matrix<T>,
    up: &Matrix<T>,
    activation: Activation,
    workspace: &Workspace<T>,
) -> Matrix<T> {
    assert_eq!((gate.rows(), gate.cols()), (up.rows(), up.cols()), "gate and up have one shape");
    let mut out = workspace.matrix(gate.rows(), gate.cols());
    let parts = (gate.data().par_chunks(CHUNK), up.data().par_chunks(CHUNK));
    out.data_mut().par_chunks_mut(CHUNK).zip(parts.0.zip(parts.1)).for_each(|(out, (gate, up))| {
        activation.values(gate, out);
        multiply(out, up);
    });
    out
}

/// Turns `gate` and `up` into their gradients, given the gradient `dh` of the output. In place: nobody needs the values afterwards.
///
/// `dg = dh u f'(g)`, `du = dh f(g)`.
///
/// # Panics
/// When the shapes differ.
pub fn backward<T: Real>(dh: &Matrix<T>, gate: &mut Matrix<T>, up: &mut Matrix<T>, activation: Activation) {
    assert_eq!((gate.rows(), gate.cols()), (up.rows(), up.cols()), "gate and up have one shape");
    let dh = dh.data().par_chunks(CHUNK);
    let parts = gate.data_mut().par_chunks_mut(CHUNK).zip(up.data_mut().par_chunks_mut(CHUNK));
    parts.zip(dh).for_each(|((gate, up), dh)| {
        activation.gradients(gate, up, dh);
    });
}

widest! {
    fn multiply<T: Real>(out: &mut [T], by: &[T]) {
        out.iter_mut().zip(by).for_each(|(out, &by)| *out *= by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(1).unwrap();
        let matrix = |values: &[f64]| {
            let mut m = workspace.matrix(4, 5);
            m.copy_from(values);
            m
        };
        let (g, u, dh) = (numbers(20, "gate"), numbers(20, "up"), numbers(20, "dh"));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (mut dg, mut du) = (matrix(&g), matrix(&u));
            backward(&matrix(&dh), &mut dg, &mut du, activation);
            let value = |g: &[f64], u: &[f64]| dot(forward(&matrix(g), &matrix(u), activation, &workspace).data(), &dh);
            check("gate", &g, dg.data(), |g| value(g, &u));
            check("up", &u, du.data(), |u| value(&g, u));
        }
    }
}
