//! The circuit in plain einsum order: permute, multiply, gate after gate over all tokens. What the tiled kernel is measured against.
//!
//! This is how a tensor library evaluates the einsum expression pairwise from the left: each gate's axes are brought to the end by a copy of the whole
//! tensor, then one large matrix product (faer's, blocks of rows over threads) applies the gate. Nothing else uses it; its results are
//! those of [`crate::apply`] and [`crate::backward`], which a test holds it to.

use faer::linalg::matmul::matmul;
use faer::traits::RealField;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::check_shapes;
use crate::{Plan, Real};

/// A tensor of all tokens; the axes lie in memory in the listed order, the tokens first.
struct Tensor<T> {
    values: Vec<T>,
    order: Vec<usize>,
    dims: Vec<usize>,
}

impl<T: Real> Tensor<T> {
    /// Rows of tokens, padded with zeros or truncated.
    fn new(x: &[T], width: usize, dims: &[usize]) -> Self {
        let len: usize = dims.iter().product();
        let mut values = vec![T::ZERO; x.len() / width * len];
        values.par_chunks_mut(len).zip(x.par_chunks(width)).for_each(|(to, from)| {
            let shared = len.min(width);
            to[..shared].copy_from_slice(&from[..shared]);
        });
        Self { values, order: (0..dims.len()).collect(), dims: dims.to_vec() }
    }

    /// A copy with the axes in another order.
    fn permuted(&self, order: &[usize]) -> Self {
        let len: usize = self.dims.iter().product();
        let stride = |axis: usize| {
            let behind = self.order.iter().skip_while(|&&other| other != axis).skip(1);
            behind.map(|&other| self.dims[other]).product::<usize>()
        };
        let offsets = order.iter().fold(vec![0], |offsets, &axis| {
            let (size, stride) = (self.dims[axis], stride(axis));
            offsets.iter().flat_map(|offset| (0..size).map(move |i| offset + i * stride)).collect()
        });
        let mut values = vec![T::ZERO; self.values.len()];
        values.par_chunks_mut(len).zip(self.values.par_chunks(len)).for_each(|(to, from)| {
            to.iter_mut().zip(&offsets).for_each(|(to, &offset)| *to = from[offset]);
        });
        Self { values, order: order.to_vec(), dims: self.dims.clone() }
    }

    /// A copy with the axes at `positions` last.
    fn with_last(&self, positions: &[usize]) -> Self {
        let others = (0..self.dims.len()).filter(|axis| !positions.contains(axis));
        self.permuted(&others.chain(positions.iter().copied()).collect::<Vec<_>>())
    }

    /// The same axes with new values, after `positions` took `sizes`.
    fn replaced(&self, values: Vec<T>, positions: &[usize], sizes: &[usize]) -> Self {
        let mut dims = self.dims.clone();
        positions.iter().zip(sizes).for_each(|(&position, &size)| dims[position] = size);
        Self { values, order: self.order.clone(), dims }
    }

    fn in_order(&self) -> Self {
        self.permuted(&(0..self.dims.len()).collect::<Vec<_>>())
    }
}

/// `[rows, inner] * right` for row-major rows, blocks of rows over threads.
fn rows_times<T: Real + RealField>(rows: &[T], inner: usize, right: MatRef<'_, T>) -> Vec<T> {
    let (count, width) = (rows.len() / inner, right.ncols());
    let mut result = vec![T::ZERO; count * width];
    let block = count.div_ceil(4 * rayon::current_num_threads()).max(1);
    rows.par_chunks(block * inner).zip(result.par_chunks_mut(block * width)).for_each(|(rows, result)| {
        let count = rows.len() / inner;
        let result = MatMut::from_row_major_slice_mut(result, count, width);
        matmul(result, Accum::Replace, MatRef::from_row_major_slice(rows, count, inner), right, T::ONE, Par::Seq);
    });
    result
}

/// Same contract as [`crate::apply`].
///
/// # Panics
/// As [`crate::apply`].
pub fn apply<T: Real + RealField>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &mut [T], d_out: usize, scale: T) {
    check_shapes(plan, gates, x, d_in, y, d_out);
    let state = forward(plan, gates, Tensor::new(x, d_in, plan.in_dims()), |_| ()).in_order();
    add_rows(&state.values, plan.out_len(), y, d_out, scale);
}

fn add_rows<T: Real>(rows: &[T], len: usize, y: &mut [T], width: usize, scale: T) {
    y.par_chunks_mut(width).zip(rows.par_chunks(len)).for_each(|(y, row)| {
        y.iter_mut().zip(row).for_each(|(y, &value)| *y += scale * value);
    });
}

/// All gates; `keep` gets each gate's input, its axes last.
fn forward<T: Real + RealField>(
    plan: &Plan,
    gates: &[T],
    mut state: Tensor<T>,
    mut keep: impl FnMut(Tensor<T>),
) -> Tensor<T> {
    for gate in plan.gates() {
        let positions = gate.positions(state.dims.len());
        let input = state.with_last(&positions);
        let matrix = MatRef::from_row_major_slice(&gates[gate.range()], gate.rows(), gate.cols());
        let values = rows_times(&input.values, gate.cols(), matrix.transpose());
        let sizes: Vec<usize> = gate.out_sizes().iter().rev().copied().collect();
        state = input.replaced(values, &positions, &sizes);
        keep(input);
    }
    state
}

/// Same contract as [`crate::backward`], but both gradients are always computed.
///
/// # Panics
/// As [`crate::backward`].
pub fn backward<T: Real + RealField>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    dx: &mut [T],
    dgates: &mut [T],
) {
    check_shapes(plan, gates, x, d_in, dy, d_out);
    assert_eq!((dx.len(), dgates.len()), (x.len(), gates.len()), "a gradient has the length of its value");
    let mut inputs = Vec::with_capacity(plan.gates().len());
    forward(plan, gates, Tensor::new(x, d_in, plan.in_dims()), |input| inputs.push(input));
    let mut gradient = Tensor::new(dy, d_out, plan.out_dims());
    for (gate, input) in plan.gates().iter().zip(inputs).rev() {
        let positions = gate.positions(gradient.dims.len());
        let behind = gradient.with_last(&positions);
        let (rows, cols) = (gate.rows(), gate.cols());
        let sums = products_summed(&behind.values, rows, &input.values, cols, scale);
        dgates[gate.range()].iter_mut().zip(sums).for_each(|(dgate, sum)| *dgate += sum);
        let matrix = MatRef::from_row_major_slice(&gates[gate.range()], rows, cols);
        let values = rows_times(&behind.values, rows, matrix);
        let sizes: Vec<usize> = gate.in_sizes().iter().rev().copied().collect();
        gradient = behind.replaced(values, &positions, &sizes);
    }
    add_rows(&gradient.in_order().values, plan.in_len(), dx, d_in, scale);
}

/// `scale * left^t right` for row-major `[count, rows]` and `[count, cols]`, blocks of the count over threads, added up in order.
fn products_summed<T: Real + RealField>(left: &[T], rows: usize, right: &[T], cols: usize, scale: T) -> Vec<T> {
    let block = (left.len() / rows).div_ceil(rayon::current_num_threads()).max(1);
    let product = |(left, right): (&[T], &[T])| {
        let mut sums = vec![T::ZERO; rows * cols];
        let count = left.len() / rows;
        let left = MatRef::from_row_major_slice(left, count, rows);
        let right = MatRef::from_row_major_slice(right, count, cols);
        let target = MatMut::from_row_major_slice_mut(&mut sums, rows, cols);
        matmul(target, Accum::Replace, left.transpose(), right, scale, Par::Seq);
        sums
    };
    let parts: Vec<Vec<T>> = left.par_chunks(block * rows).zip(right.par_chunks(block * cols)).map(product).collect();
    let mut sums = vec![T::ZERO; rows * cols];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{numbers, plans};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn permuted_order_computes_the_same(plan in plans(4), tokens in 1..6usize, cut in 0..4usize) {
            let (d_in, d_out) = (plan.in_len() + 2 - cut.min(plan.in_len()), plan.out_len().saturating_sub(cut).max(1));
            let gates: Vec<f64> = numbers(plan.parameters(), 1);
            let (x, dy) = (numbers::<f64>(tokens * d_in, 2), numbers::<f64>(tokens * d_out, 3));
            let (mut y, mut dx, mut dgates) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; gates.len()]);
            let (mut y2, mut dx2, mut dgates2) = (y.clone(), dx.clone(), dgates.clone());
            apply(&plan, &gates, &x, d_in, &mut y, d_out, 0.5);
            backward(&plan, &gates, &x, d_in, &dy, d_out, 0.5, &mut dx, &mut dgates);
            crate::apply(&plan, &gates, &x, d_in, &mut y2, d_out, 0.5);
            crate::backward(&plan, &gates, &x, d_in, &dy, d_out, 0.5, Some(&mut dx2), Some(&mut dgates2));
            for (a, b) in y.iter().chain(&dx).chain(&dgates).zip(y2.iter().chain(&dx2).chain(&dgates2)) {
                prop_assert!((a - b).abs() <= 1e-10 * (1.0 + b.abs()), "{}", plan);
            }
        }
    }
}
