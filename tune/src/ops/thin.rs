//! `y = x W^T` for few rows of x, as in generation: the weight is read once, from beginning to end, so that memory sets the speed.
//!
//! A product for many rows packs its operands, which costs as much as the product itself when there are few. Here every row of the weight meets all rows of x while it is in
//! the first cache. Sums run in sixteen lanes, whatever the number of threads. In f32 on AVX-512, `tensor::few_rows_product` does this faster.

use half::bf16;
use rayon::prelude::*;

use crate::tensor::vector::widest;
use crate::tensor::{Matrix, Real, Workspace};

/// Most rows of x for which this is the faster way.
pub(super) const ROWS: usize = 16;

/// Rows of x that meet a row of the weight together.
const TOGETHER: usize = 4;
const LANES: usize = 16;
/// Elements of the weight that one parallel task reads, at least: less is sooner read than handed to another thread.
const TASK: usize = 1 << 16;

/// `y = x W^T` for `x [n, cols]` and the elements of W row after row; `dots` is [`dense`] or [`narrow`].
pub(super) fn forward<T: Real, W: Sync>(
    x: &Matrix<T>,
    weight: &[W],
    dots: fn(&[T], &[W], usize, &mut [T]),
    y: &mut Matrix<T>,
    workspace: &Workspace<T>,
) {
    let (n, cols, outputs) = (x.rows(), x.cols(), y.cols());
    // first with the outputs of a weight's row side by side, as they are made
    let mut made = workspace.matrix(outputs, n);
    let rows = outputs.div_ceil((weight.len() / TASK).max(1)).max(1);
    let parts = made.data_mut().par_chunks_mut((rows * n).max(1)).zip(weight.par_chunks((rows * cols).max(1)));
    parts.for_each(|(out, weight)| dots(x.data(), weight, cols, out));
    for row in 0..n {
        y.row_mut(row).iter_mut().zip(made.data().iter().skip(row).step_by(n)).for_each(|(y, &made)| *y = made);
    }
}

widest! {
    /// Products of rows of x `[n, cols]` with rows of a weight in the compute type, `[rows, cols]`, to `[rows, n]`.
    pub(super) fn dense<T: Real>(x: &[T], weight: &[T], cols: usize, out: &mut [T]) {
        let beside = if x.len() == cols { out.len() / TOGETHER * TOGETHER } else { 0 };
        let (first, rest) = out.split_at_mut(beside);
        let (before, weight) = weight.split_at(beside * cols);
        for (weight, out) in before.chunks_exact((TOGETHER * cols).max(1)).zip(first.chunks_exact_mut(TOGETHER)) {
            out.copy_from_slice(&side_by_side(x, weight));
        }
        dots(x, weight, cols, rest, |w| w);
    }

    /// As [`dense`], for a weight in bf16; half the bytes are read fast enough one row after another.
    pub(super) fn narrow<T: Real>(x: &[T], weight: &[bf16], cols: usize, out: &mut [T]) {
        dots(x, weight, cols, out, |w| T::from_f64(f64::from(f32::from_bits(u32::from(w.to_bits()) << 16))));
    }
}

#[inline(always)]
fn dots<T: Real, W: Copy>(x: &[T], weight: &[W], cols: usize, out: &mut [T], widen: impl Fn(W) -> T + Copy) {
    let n = x.len() / cols.max(1);
    for (weight, out) in weight.chunks_exact(cols).zip(out.chunks_exact_mut(n)) {
        for (x, out) in x.chunks(TOGETHER * cols).zip(out.chunks_mut(TOGETHER)) {
            match out.len() {
                1 => out.copy_from_slice(&few::<T, W, 1>(x, weight, widen)),
                2 => out.copy_from_slice(&few::<T, W, 2>(x, weight, widen)),
                3 => out.copy_from_slice(&few::<T, W, 3>(x, weight, widen)),
                _ => out.copy_from_slice(&few::<T, W, TOGETHER>(x, weight, widen)),
            }
        }
    }
}

/// Four rows of the weight with one row of x: a sum alone would wait for its own additions.
#[inline(always)]
fn side_by_side<T: Real>(x: &[T], weight: &[T]) -> [T; TOGETHER] {
    let cols = x.len();
    let weight = &weight[..TOGETHER * cols];
    let mut lanes = [[T::ZERO; LANES]; TOGETHER];
    let whole = cols - cols % LANES;
    let mut from = 0;
    while from < whole {
        let x = &x[from..][..LANES];
        for row in 0..TOGETHER {
            let weight = &weight[row * cols + from..][..LANES];
            for lane in 0..LANES {
                lanes[row][lane] += x[lane] * weight[lane];
            }
        }
        from += LANES;
    }
    let mut sums = [T::ZERO; TOGETHER];
    for row in 0..TOGETHER {
        for at in whole..cols {
            lanes[row][at - whole] += x[at] * weight[row * cols + at];
        }
        sums[row] = joined(&mut lanes[row]);
    }
    sums
}

/// The sum of all lanes.
#[inline(always)]
fn joined<T: Real>(lanes: &mut [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// One row of the weight with N rows of x. Plain loops: what the compiler does not inline here would be compiled without wide vectors.
#[inline(always)]
fn few<T: Real, W: Copy, const N: usize>(x: &[T], weight: &[W], widen: impl Fn(W) -> T) -> [T; N] {
    let cols = weight.len();
    let x = &x[..N * cols];
    let mut lanes = [[T::ZERO; LANES]; N];
    let whole = cols - cols % LANES;
    let mut from = 0;
    while from < whole {
        let (block, mut wide) = (&weight[from..][..LANES], [T::ZERO; LANES]);
        for lane in 0..LANES {
            wide[lane] = widen(block[lane]);
        }
        for row in 0..N {
            let x = &x[row * cols + from..][..LANES];
            for lane in 0..LANES {
                lanes[row][lane] += x[lane] * wide[lane];
            }
        }
        from += LANES;
    }
    let mut sums = [T::ZERO; N];
    for row in 0..N {
        let lanes = &mut lanes[row];
        for at in whole..cols {
            lanes[at - whole] += x[row * cols + at] * widen(weight[at]);
        }
        sums[row] = joined(lanes);
    }
    sums
}
