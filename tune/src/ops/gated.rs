//! The gate of a gated MLP: `h = f(gate) * up` with the [`Activation`] f.
//!
//! Forward saves nothing of its own: `gate` and `up` are the outputs of two linears that the layer keeps; `h` is computed again where it is needed.

use rayon::prelude::*;

use super::Activation;
use crate::tensor::vector::widest;
use crate::tensor::{Matrix, Real, RoundedRows, Workspace};

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
    same_shape(gate, up);
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
    same_shape(gate, up);
    same_shape(gate, dh);
    let dh = dh.data().par_chunks(CHUNK);
    let parts = gate.data_mut().par_chunks_mut(CHUNK).zip(up.data_mut().par_chunks_mut(CHUNK));
    parts.zip(dh).for_each(|((gate, up), dh)| {
        activation.gradients(gate, up, dh);
    });
}

/// [`forward`] for a product of rounded rows, which are rounded where they are made.
///
/// # Panics
/// When the shapes differ, or this machine or type has no rounded rows.
pub(crate) fn forward_rounded<T: Real>(
    gate: &Matrix<T>,
    up: &Matrix<T>,
    activation: Activation,
    workspace: &Workspace<T>,
) -> RoundedRows<T> {
    same_shape(gate, up);
    let [out] = RoundedRows::made([workspace.matrix(gate.rows(), gate.cols())], |row, [out]| {
        activation.values(gate.row(row), out);
        multiply(out, up.row(row));
    });
    out
}

/// [`backward`] for products of rounded rows: the gradients of `gate` and `up`, rounded where they are made, in their place.
///
/// # Panics
/// As [`forward_rounded`].
pub(crate) fn backward_rounded<T: Real>(
    dh: &Matrix<T>,
    gate: Matrix<T>,
    up: Matrix<T>,
    activation: Activation,
) -> [RoundedRows<T>; 2] {
    same_shape(&gate, dh);
    RoundedRows::made([gate, up], |row, [gate, up]| activation.gradients(gate, up, dh.row(row)))
}

fn same_shape<T: Real>(gate: &Matrix<T>, other: &Matrix<T>) {
    assert_eq!((gate.rows(), gate.cols()), (other.rows(), other.cols()), "gate, up and their gradient have one shape");
}

widest! {
    fn multiply<T: Real>(out: &mut [T], by: &[T]) {
        out.iter_mut().zip(by).for_each(|(out, &by)| *out *= by);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::ops::difference::{check, dot, numbers};
    use crate::ops::{Storage, Weight};
    use crate::tensor::Bf16Products;

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

    #[test]
    fn rows_rounded_where_they_are_made_give_the_same_products() {
        let Some(products) = Bf16Products::Widened.rounded() else { return };
        // odd and even rows, in whole blocks and not
        for (threads, rows, cols) in [(1, 32, 96), (2, 45, 33), (3, 50, 1)] {
            let workspace = Workspace::<f32>::new(threads).unwrap().with_bf16_products(products);
            workspace.run(|| {
                let matrix = |name: &str| {
                    let mut matrix = workspace.matrix(rows, cols);
                    let values = numbers(rows * cols, name);
                    matrix.data_mut().iter_mut().zip(values).for_each(|(to, value)| *to = value as f32);
                    matrix
                };
                let weight = |rows: usize, cols: usize| {
                    let stored: Vec<bf16> = numbers(rows * cols, "w").into_iter().map(bf16::from_f64).collect();
                    Weight::<f32>::new(Storage::Bf16(stored.into()), rows, cols)
                };
                let (down, first) = (weight(70, cols), weight(cols, 70));
                assert!(down.takes_rounded(rows, &workspace) && !down.takes_rounded(31, &workspace));
                let (gate, up, dh) = (matrix("gate"), matrix("up"), matrix("dh"));
                let expected = down.forward(&forward(&gate, &up, Activation::Silu, &workspace), &workspace);
                let inner = forward_rounded(&gate, &up, Activation::Silu, &workspace);
                assert_eq!(down.forward_rounded(&inner, &workspace).data(), expected.data(), "{threads} threads");
                let (mut d_gate, mut d_up) = (matrix("gate"), matrix("up"));
                backward(&dh, &mut d_gate, &mut d_up, Activation::Silu);
                let [mut expected, mut dx] = [(); 2].map(|()| workspace.zeros(rows, 70));
                [d_gate, d_up].iter().for_each(|dy| first.backward(dy, &mut expected, true, &workspace));
                let rounded = backward_rounded(&dh, gate, up, Activation::Silu);
                rounded.iter().for_each(|dy| first.backward_rounded(dy, &mut dx, true, &workspace));
                assert_eq!(dx.data(), expected.data(), "{threads} threads");
            });
        }
    }
}
