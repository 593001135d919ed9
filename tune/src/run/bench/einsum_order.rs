//! The circuit as an einsum runs it: for every gate the two axes are brought to the end by a copy, one matrix product follows, and a last copy restores the order.
//!
//! This is the contender that the permute-free kernel is measured against, with the same products by the same library; it computes nothing for a model.

use quanta_circuit::Plan;
use rayon::prelude::*;

use crate::tensor::{MatMut, MatRef, Real, matmul};

/// A tensor `[tokens, axes...]` whose axes lie in memory in some order.
struct Permuted<T> {
    data: Vec<T>,
    /// Size of each axis, by axis.
    sizes: Vec<usize>,
    /// Axes in the order of memory, outermost first.
    order: Vec<usize>,
    tokens: usize,
}

impl<T: Real> Permuted<T> {
    /// The same tensor with its axes in another order of memory.
    fn reordered(self, order: &[usize]) -> Self {
        if self.order == order {
            return self;
        }
        let mut strides = vec![0; self.sizes.len()];
        let mut stride = 1;
        for &axis in self.order.iter().rev() {
            strides[axis] = stride;
            stride *= self.sizes[axis];
        }
        let width = stride;
        let mut data = vec![T::ZERO; self.data.len()];
        let last = order.last().map_or((1, 1), |&axis| (self.sizes[axis], strides[axis]));
        data.par_chunks_mut(width).zip(self.data.par_chunks(width)).for_each(|(to, from)| {
            for (row, to) in to.chunks_mut(last.0).enumerate() {
                let (mut rest, mut start) = (row, 0);
                for &axis in order[..order.len() - 1].iter().rev() {
                    start += rest % self.sizes[axis] * strides[axis];
                    rest /= self.sizes[axis];
                }
                to.iter_mut().enumerate().for_each(|(i, to)| *to = from[start + i * last.1]);
            }
        });
        Self { data, sizes: self.sizes, order: order.to_vec(), tokens: self.tokens }
    }
}

/// What one gate leaves for backward: its input with the gate's axes last.
struct Kept<T>(Permuted<T>);

/// `y = T(x)` for a square plan of the full width; returns `y` and what backward needs.
pub struct EinsumOrder<'a, T> {
    plan: &'a Plan,
    gates: &'a [T],
    kept: Vec<Kept<T>>,
}

impl<'a, T: Real> EinsumOrder<'a, T> {
    /// Applies the circuit to `x [tokens, width]`.
    pub fn forward(plan: &'a Plan, gates: &'a [T], x: &[T]) -> (Vec<T>, Self) {
        let axes = plan.in_dims().len();
        let natural: Vec<usize> = (0..axes).collect();
        let tokens = x.len() / plan.in_len();
        let mut state = Permuted { data: x.to_vec(), sizes: plan.in_dims().to_vec(), order: natural.clone(), tokens };
        let mut kept = Vec::new();
        for gate in plan.gates() {
            state = state.reordered(&with_last(axes, gate.axes()));
            let rows = state.data.len() / gate.cols();
            let mut out = vec![T::ZERO; rows * gate.rows()];
            let matrix = MatRef::new(&gates[gate.range()], gate.rows(), gate.cols());
            let input = MatRef::new(&state.data, rows, gate.cols());
            matmul(MatMut::new(&mut out, rows, gate.rows()), false, input, matrix.t(), T::ONE);
            let next =
                Permuted { data: out, sizes: state.sizes.clone(), order: state.order.clone(), tokens: state.tokens };
            kept.push(Kept(std::mem::replace(&mut state, next)));
        }
        let y = state.reordered(&natural).data;
        (y, Self { plan, gates, kept })
    }

    /// From `dy [tokens, width]`: the input's gradient and the gates'.
    pub fn backward(self, dy: &[T]) -> (Vec<T>, Vec<T>) {
        let axes = self.plan.in_dims().len();
        let natural: Vec<usize> = (0..axes).collect();
        let mut dgates = vec![T::ZERO; self.plan.parameters()];
        let tokens = dy.len() / self.plan.out_len();
        let sizes = self.plan.out_dims().to_vec();
        let mut state = Permuted { data: dy.to_vec(), sizes, order: natural.clone(), tokens };
        for (gate, Kept(input)) in self.plan.gates().iter().zip(self.kept).rev() {
            state = state.reordered(&input.order);
            let rows = input.data.len() / gate.cols();
            let dy = MatRef::new(&state.data, rows, gate.rows());
            let x = MatRef::new(&input.data, rows, gate.cols());
            let dgate = MatMut::new(&mut dgates[gate.range()], gate.rows(), gate.cols());
            matmul(dgate, false, dy.t(), x, T::ONE);
            let mut dx = vec![T::ZERO; rows * gate.cols()];
            let matrix = MatRef::new(&self.gates[gate.range()], gate.rows(), gate.cols());
            matmul(MatMut::new(&mut dx, rows, gate.cols()), false, dy, matrix, T::ONE);
            state = Permuted { data: dx, sizes: input.sizes, order: input.order, tokens: input.tokens };
        }
        (state.reordered(&natural).data, dgates)
    }
}

/// All axes in their natural order with the gate's last: the farther one, then the nearer one, as the gate's columns count.
fn with_last(axes: usize, gate: &[isize]) -> Vec<usize> {
    let absolute = |axis: &isize| axes - axis.unsigned_abs();
    let last: Vec<usize> = gate.iter().rev().map(absolute).collect();
    (0..axes).filter(|axis| !last.contains(axis)).chain(last.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::numbers;

    #[test]
    fn the_contender_computes_the_circuit() {
        let plan = Plan::all_pairs(&[4, 3, 2]).unwrap();
        let (gates, x, dy) = (numbers(plan.parameters(), "gates"), numbers(5 * 24, "x"), numbers(5 * 24, "dy"));
        let (y, kept) = EinsumOrder::forward(&plan, &gates, &x);
        let (dx, dgates) = kept.backward(&dy);
        let (mut y2, mut dx2, mut dgates2) = (vec![0.0; 120], vec![0.0; 120], vec![0.0; plan.parameters()]);
        quanta_circuit::reference::apply(&plan, &gates, &x, 24, &mut y2, 24, 1.0);
        quanta_circuit::reference::backward(&plan, &gates, &x, 24, &dy, 24, 1.0, Some(&mut dx2), Some(&mut dgates2));
        // sums of some hundred products of unit size in f64
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10);
        assert!(close(&y, &y2) && close(&dx, &dx2) && close(&dgates, &dgates2));
    }
}
