//! Products of f32 rows with a frozen bf16 matrix in the arithmetic of matrix units: rows as sums of two bf16 numbers, products exact, sums in f32.
//!
//! A unit takes bf16 alone, and rows rounded to it are too coarse to train with. A row is cut into a high and a low part instead, `x = h + l` but for
//! 2^-16 of x, and `x w = h w + l w` goes to the same sums: twice the work for nearly the accuracy of f32, since the weights are bf16 already.
//!
//! One driver serves `y = x W^T` and `dx = dy W`. The rows on the left are cut and laid out in blocks of 32 once; each task packs panels of 32 columns of
//! what stands on the right as it goes, and multiplies blocks of 32 x 32 results. A block, and the layout of its operands by steps of 32, are those of
//! [`quanta_circuit::unit`]: on AMX tiles, or in plain Rust, which does the same sums in the same order and is the judge. A left block has all steps of the
//! high parts, then all of the low ones; both meet the same panel while it is in the first-level cache. Every result is summed in an order that its row
//! length alone decides, so that threads do not matter.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use quanta_circuit::unit::{self, BLOCK, SIDE, STEP, Tiles, Unit, words};
use rayon::prelude::*;

use super::vector::widest;
use super::{Matrix, Stream, Workspace};

/// Steps of a packed panel: 32 KiB, which stays in the first-level cache.
const STEPS: usize = 16;
/// Rows that one sweep takes: with [`STEPS`] 1 MiB of both parts of the left side, which stays in the second-level cache beside the sums.
const ROWS: usize = 512;
/// Panels of a task.
const PANELS: usize = 4;

/// A frozen matrix on the right of a product.
#[derive(Clone, Copy)]
pub struct Frozen<'a, E = bf16> {
    /// `[rows, cols]`, row-major.
    pub elements: &'a [E],
    /// Elements of a row.
    pub cols: usize,
    /// Whether its transpose is meant: the sum then runs along its rows.
    pub transposed: bool,
}

/// `out = x w`, added to `out` when `accumulate`, in bf16 arithmetic; false, and nothing done, where the workspace's choice or the size ask for another
/// way.
///
/// `x [n, k]`, `w [k, m]` after transposing, `out [n, m]`. `x` is cut into two bf16 numbers, which together are it but for 2^-16; products and sums are f32.
/// Subnormal numbers of bf16, parts and weights, may count as zero: an error of 2^-126 for each. Of what is infinite or no number in `x`, results are as in
/// f32; an infinite weight may give NaN instead of infinity.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn bf16_product(
    x: &Matrix<f32>,
    w: Frozen<'_>,
    out: &mut Matrix<f32>,
    accumulate: bool,
    workspace: &Workspace<f32>,
) -> bool {
    let Some(unit) = workspace.bf16_products().unit(x.rows()) else { return false };
    if x.cols() == 0 || out.cols() == 0 {
        return false;
    }
    product(unit, x, w, out, accumulate, workspace);
    true
}

fn product(
    unit: Unit,
    x: &Matrix<f32>,
    w: Frozen<'_>,
    out: &mut Matrix<f32>,
    accumulate: bool,
    workspace: &Workspace<f32>,
) {
    let (k, m) = (x.cols(), out.cols());
    let rows = w.elements.len() / w.cols;
    assert_eq!(if w.transposed { (w.cols, rows) } else { (rows, w.cols) }, (k, m), "product of [{}, {k}]", x.rows());
    assert_eq!(out.rows(), x.rows(), "rows of a product");
    let steps = k.div_ceil(SIDE);
    let sweeps = x.data().chunks(ROWS * k).zip(out.data_mut().chunks_mut(ROWS * m));
    for (x, out) in sweeps {
        let mut left = workspace.buffer((x.len() / k).div_ceil(SIDE) * 2 * steps * STEP);
        let left = words(&mut left);
        left.par_chunks_mut(2 * steps * STEP).zip(x.par_chunks(SIDE * k)).for_each(|(to, rows)| {
            let (high, low) = to.split_at_mut(steps * STEP);
            cut(rows, k, high, low);
        });
        // the columns of a task as pieces of the rows of `out`
        let width = PANELS * SIDE;
        let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
        tasks.resize_with(m.div_ceil(width), || Vec::with_capacity(ROWS));
        for row in out.chunks_mut(m) {
            row.chunks_mut(width).zip(&mut tasks).for_each(|(piece, task)| task.push(piece));
        }
        let left = &*left;
        tasks.into_par_iter().enumerate().for_each(|(index, pieces)| {
            columns(unit, left, steps, w, index * width, pieces, accumulate, workspace);
        });
    }
}

/// One task: the columns of the product from `first` on, into pieces of rows.
fn columns(
    unit: Unit,
    left: &[u32],
    steps: usize,
    w: Frozen<'_>,
    first: usize,
    mut pieces: Vec<&mut [f32]>,
    accumulate: bool,
    workspace: &Workspace<f32>,
) {
    let (blocks, panels) = (pieces.len().div_ceil(SIDE), pieces[0].len().div_ceil(SIDE));
    let mut scratch = workspace.buffer(STEPS * STEP + panels * blocks * BLOCK);
    let (right, sums) = scratch.split_at_mut(STEPS * STEP);
    let right = words(right);
    let tiles = (unit == Unit::Amx).then(Tiles::take);
    for from in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - from);
        let right = &mut right[..count * STEP];
        for (panel, sums) in sums.chunks_exact_mut(blocks * BLOCK).enumerate() {
            let pack = if w.transposed { pack_rows } else { pack_columns };
            pack(w.elements.reinterpret_cast(), w.cols, first + panel * SIDE, from * SIDE, right);
            for (block, sums) in sums.chunks_exact_mut(BLOCK).enumerate() {
                let part = |part: usize| &left[((2 * block + part) * steps + from) * STEP..][..count * STEP];
                both(tiles.as_ref(), [part(0), part(1)], right, sums, from == 0);
            }
        }
    }
    drop(tiles);
    for (row, piece) in pieces.iter_mut().enumerate() {
        for (panel, piece) in piece.chunks_mut(SIDE).enumerate() {
            let sums = &sums[(panel * blocks * SIDE + row) * SIDE..][..piece.len()];
            match accumulate {
                true => piece.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
                false => piece.copy_from_slice(sums),
            }
        }
    }
}

/// A block of results, on tiles or in plain code, for the high and the low parts of rows.
fn both(tiles: Option<&Tiles>, parts: [&[u32]; 2], right: &[u32], sums: &mut [f32], fresh: bool) {
    for (left, fresh) in parts.into_iter().zip([fresh, false]) {
        match tiles {
            Some(tiles) => tiles.multiply(left, right, sums, fresh),
            None => multiply(left, right, sums, fresh),
        }
    }
}

/// The bits of two bf16 numbers whose sum is x but for 2^-16 of it: its upper half, and what that leaves, rounded to nearest, ties to even.
///
/// The upper half is cut off and not rounded: rounding could make it infinite, and a rest of the other sign could make NaN of products that overflow. Nor
/// may the rest of numbers above 2^127 be rounded up to a sum that overflows; they are met but for 2^-15. What is infinite has no rest; what is not a
/// number stays one.
#[inline(always)]
fn upper_and_rest(x: f32) -> (u32, u32) {
    const INFINITE: u32 = 0x7f80_0000;
    /// The largest bf16 number below 2^120, a unit in the last place of the largest one.
    const LARGEST_REST: u32 = 0x7b7f;
    let (sign, size) = (x.to_bits() & 0x8000_0000, x.to_bits() & 0x7fff_ffff);
    let high = size & 0xffff_0000 | if size > INFINITE { 0x40_0000 } else { 0 };
    let rest = if size < INFINITE { f32::from_bits(size) - f32::from_bits(high) } else { 0.0 };
    let nearest = rest.to_bits() + 0x7fff + (rest.to_bits() >> 16 & 1);
    ((sign | high) >> 16, sign >> 16 | (nearest >> 16).min(LARGEST_REST))
}

#[inline(always)]
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

widest! {
    /// A block of the left side: both parts of at most 32 rows of `k` numbers to `[steps][32][16]` words each, zeros where there are no numbers.
    fn cut(rows: &[f32], k: usize, high: &mut [u32], low: &mut [u32]) {
        if rows.len() < SIDE * k || !k.is_multiple_of(SIDE) {
            high.fill(0);
            low.fill(0);
        }
        for (index, row) in rows.chunks_exact(k).enumerate() {
            let (whole, rest) = row.as_chunks::<SIDE>();
            let mut at = index * (SIDE / 2);
            for numbers in whole {
                let (high, low) = (&mut high[at..at + SIDE / 2], &mut low[at..at + SIDE / 2]);
                for i in 0..SIDE / 2 {
                    let (even, odd) = (upper_and_rest(numbers[2 * i]), upper_and_rest(numbers[2 * i + 1]));
                    high[i] = even.0 | odd.0 << 16;
                    low[i] = even.1 | odd.1 << 16;
                }
                at += STEP;
            }
            for (i, &number) in rest.iter().enumerate() {
                let (upper, lower) = upper_and_rest(number);
                high[at + i / 2] |= upper << (16 * (i % 2));
                low[at + i / 2] |= lower << (16 * (i % 2));
            }
        }
    }

    /// A panel of a matrix whose rows are summed along: 32 rows from `first` on, their elements from `from` on, zeros where there are none.
    fn pack_rows(w: &[u16], cols: usize, first: usize, from: usize, to: &mut [u32]) {
        let rows = w.len() / cols;
        let count = SIDE.min(rows - first);
        let len = (to.len() / STEP * SIDE).min(cols - from);
        if count < SIDE || !len.is_multiple_of(SIDE) {
            to.fill(0);
        }
        for (half, first) in [first, first + SIDE / 2].into_iter().enumerate() {
            let count = (SIDE / 2).min(rows.saturating_sub(first));
            for (step, to) in to.chunks_exact_mut(STEP).enumerate() {
                let to = &mut to[half * STEP / 2..][..STEP / 2];
                let from = from + step * SIDE;
                if count == SIDE / 2 && from + SIDE <= cols {
                    let mut words = [[0; SIDE / 2]; SIDE / 2];
                    for (row, words) in words.iter_mut().enumerate() {
                        let (pairs, _) = w[(first + row) * cols + from..][..SIDE].as_chunks::<2>();
                        for i in 0..SIDE / 2 {
                            words[i] = pair(pairs[i][0], pairs[i][1]);
                        }
                    }
                    for i in 0..SIDE / 2 {
                        for row in 0..SIDE / 2 {
                            to[i * (SIDE / 2) + row] = words[row][i];
                        }
                    }
                    continue;
                }
                for row in 0..count {
                    let elements = &w[(first + row) * cols + from..(first + row) * cols + cols.min(from + SIDE)];
                    for (i, &element) in elements.iter().enumerate() {
                        to[i / 2 * (SIDE / 2) + row] |= u32::from(element) << (16 * (i % 2));
                    }
                }
            }
        }
    }

    /// A panel of a matrix whose columns are summed along: 32 columns from `first` on, of the rows from `from` on, zeros where there are none.
    fn pack_columns(w: &[u16], cols: usize, first: usize, from: usize, to: &mut [u32]) {
        const HALF: usize = SIDE / 2;
        let rows = w.len() / cols;
        for (pair_of_rows, to) in to.as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
            // words of a step: the pairs of its left columns, then of its right ones
            let (step, half, i) = (pair_of_rows / SIDE, pair_of_rows / HALF % 2, pair_of_rows % HALF);
            let (row, column) = (from + step * SIDE + 2 * i, first + half * HALF);
            if column + HALF <= cols && row + 1 < rows {
                let even: &[u16; HALF] = w[row * cols + column..].first_chunk().expect("a row holds the columns");
                let odd: &[u16; HALF] = w[(row + 1) * cols + column..].first_chunk().expect("as does the next");
                for j in 0..HALF {
                    to[j] = pair(even[j], odd[j]);
                }
                continue;
            }
            let at = |row: usize, column: usize| if row < rows && column < cols { w[row * cols + column] } else { 0 };
            for j in 0..HALF {
                to[j] = pair(at(row, column + j), at(row + 1, column + j));
            }
        }
    }

    /// [`unit::multiply`].
    fn multiply(a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
        unit::multiply(a, b, sums, fresh);
    }
}

/// The largest difference between a block on the unit and in plain code, relative to the sum of the products' sizes.
///
/// # Panics
/// Where the unit may not be used.
pub(super) fn judge(stream: &mut Stream) -> f32 {
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| stream.normal() as f32).collect() };
    let (k, steps) = (5 * SIDE, 5);
    let (x, w, start) = (numbers(SIDE * k), numbers(SIDE * k), numbers(SIDE * SIDE));
    let w: Vec<u16> = w.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    let [mut high, mut low, mut right] = [(); 3].map(|()| vec![0; steps * STEP]);
    cut(&x, k, &mut high, &mut low);
    pack_rows(&w, k, 0, 0, &mut right);
    let positive = |words: &[u32]| words.iter().map(|word| word & 0x7fff_7fff).collect::<Vec<_>>();
    let mut sizes: Vec<f32> = start.iter().map(|x| x.abs()).collect();
    both(None, [&positive(&high), &positive(&low)], &positive(&right), &mut sizes, false);
    let tiles = Tiles::take();
    let mut worst = 0.0;
    for fresh in [true, false] {
        let (mut sums, mut expected) = (start.clone(), start.clone());
        both(Some(&tiles), [&high, &low], &right, &mut sums, fresh);
        both(None, [&high, &low], &right, &mut expected, fresh);
        for ((sum, expected), size) in sums.iter().zip(&expected).zip(&sizes) {
            let difference = (sum - expected).abs() / size;
            // a comparison with what is not a number is false
            worst = if difference <= worst { worst } else { difference };
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Bf16Products;

    fn numbers(len: usize, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(3, "test", name);
        (0..len).map(|_| stream.normal() as f32).collect()
    }

    fn narrow(numbers: &[f32]) -> Vec<bf16> {
        numbers.iter().map(|&x| bf16::from_f32(x)).collect()
    }

    fn matrix(rows: usize, data: &[f32], workspace: &Workspace<f32>) -> Matrix<f32> {
        let mut matrix = workspace.matrix(rows, data.len() / rows);
        matrix.copy_from(data);
        matrix
    }

    /// `[n, k, m]`: whole blocks, every edge, more than one panel of k, task and sweep.
    const SHAPES: [[usize; 3]; 7] =
        [[32, 32, 32], [64, 64, 96], [33, 31, 1], [40, 545, 70], [100, 97, 300], [32, 1100, 33], [1090, 40, 130]];

    /// What a kernel makes of matrices, on some threads: `x w` written over, and then added to that.
    fn products(kernel: Bf16Products, n: usize, x: &[f32], w: Frozen<'_>, threads: usize) -> [Vec<f32>; 2] {
        let workspace = Workspace::new(threads).unwrap().with_bf16_products(kernel);
        let m = if w.transposed { w.elements.len() / w.cols } else { w.cols };
        let (x, mut out) = (matrix(n, x, &workspace), workspace.matrix(n, m));
        [false, true].map(|accumulate| {
            workspace.run(|| assert!(bf16_product(&x, w, &mut out, accumulate, &workspace)));
            out.data().to_vec()
        })
    }

    /// As [`products`], of random matrices.
    fn result(kernel: Bf16Products, [n, k, m]: [usize; 3], transposed: bool, threads: usize) -> [Vec<f32>; 2] {
        let w = Frozen { elements: &narrow(&numbers(k * m, "w")), cols: if transposed { k } else { m }, transposed };
        products(kernel, n, &numbers(n * k, "x"), w, threads)
    }

    fn check(kernel: Bf16Products) {
        for [n, k, m] in SHAPES {
            let (x, w) = (numbers(n * k, "x"), narrow(&numbers(k * m, "w")));
            for transposed in [false, true] {
                let (got, mut squares) = (result(kernel, [n, k, m], transposed, 2), (0.0, 0.0));
                for (i, j) in (0..n).flat_map(|i| (0..m).map(move |j| (i, j))) {
                    let at = |l: usize| if transposed { w[j * k + l] } else { w[l * m + j] };
                    let terms = (0..k).map(|l| f64::from(x[i * k + l]) * at(l).to_f64());
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    for (times, got) in [1.0, 2.0].into_iter().zip(&got) {
                        let error = f64::from(got[i * m + j]) - times * sum;
                        // 2^-16 for the parts, and sums in f32 of at most some eighty roundings of 2^-24
                        assert!(error.abs() <= 2e-5 * times * size, "{n} {k} {m} {transposed}: {error} at {i},{j}");
                        squares = (squares.0 + error * error, squares.1 + (times * sum).powi(2));
                    }
                }
                let apart = (squares.0 / squares.1).sqrt();
                println!("{n} {k} {m}, transposed {transposed}: relative error {apart:.1e}");
                assert!(apart < f64::from(0.5f32.powi(15)), "{n} {k} {m} {transposed}: {apart}");
            }
        }
    }

    /// Products of what is huge, tiny, infinite and no number, two of them in a row, are those in f32.
    fn check_extremes(kernel: Bf16Products) {
        let huge = [f32::MAX, -f32::MAX, f32::from_bits(0x7f7f_8000), 3.3e38, 1e30, 1.0, 0.0];
        let rest = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-36, -1.2e-38, 1e-40, -0.0];
        let numbers = [huge, rest].concat();
        let x: Vec<f32> = numbers.iter().flat_map(|&a| numbers.iter().flat_map(move |&b| [a, b])).collect();
        let w = narrow(&[[1.0, -1.0, 0.5, 0.0, 2.0, 1e-3, 1e30], [1.0, 1.0, -0.5, 1.0, 1e30, -3.0, -2.0]].concat());
        let [got, _] = products(kernel, x.len() / 2, &x, Frozen { elements: &w, cols: 7, transposed: false }, 1);
        for (row, got) in x.chunks(2).zip(got.chunks(7)) {
            for (j, &got) in got.iter().enumerate() {
                let w = [w[j].to_f32(), w[7 + j].to_f32()];
                let expected = row[0] * w[0] + row[1] * w[1];
                if !expected.is_finite() {
                    assert_eq!(got.to_string(), expected.to_string(), "{row:?} {w:?}");
                    continue;
                }
                // 2^-15 above 2^127; what is subnormal, of the parts and of results, may count as zero
                let limit = |x: f32, w: f32| f64::from(w).abs() * (f64::from(x).abs() / 32768.0 + 2f64.powi(-125));
                let limit = limit(row[0], w[0]) + limit(row[1], w[1]) + 2f64.powi(-125);
                assert!((f64::from(got) - f64::from(expected)).abs() <= limit, "{row:?} {w:?}: {got}, not {expected}");
            }
        }
    }

    #[test]
    fn portable_products_equal_the_definition_on_every_shape() {
        check(Bf16Products::Portable);
        check_extremes(Bf16Products::Portable);
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        for transposed in [false, true] {
            for shape in [[100, 97, 300], [1090, 40, 130]] {
                let one = result(Bf16Products::Portable, shape, transposed, 1);
                for threads in [2, 3, 4] {
                    assert!(result(Bf16Products::Portable, shape, transposed, threads) == one, "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn parts_add_up_and_keep_what_is_infinite_or_no_number() {
        let mut bits = vec![0, 1, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff];
        let mut stream = Stream::new(3, "test", "bits");
        bits.extend((0..10_000).map(|_| stream.below(1 << 32) as u32));
        for x in bits.into_iter().map(f32::from_bits) {
            let (upper, lower) = upper_and_rest(x);
            assert_eq!((upper | lower) >> 16, 0, "{x:e}: sixteen bits each");
            let (upper, lower) = (unit::low(upper), unit::low(lower));
            if !x.is_finite() {
                assert!((upper == x || upper.is_nan() && x.is_nan()) && lower == 0.0, "{x}: {upper} and {lower}");
                continue;
            }
            let limit = 0.5f64.powi(if x.abs() < 2f32.powi(127) { 16 } else { 15 });
            let error = (f64::from(upper) + f64::from(lower) - f64::from(x)).abs();
            assert!(error <= limit * f64::from(x).abs() + 2f64.powi(-134), "{x:e}: {upper:e} and {lower:e}");
            assert!((upper + lower).is_finite(), "{x:e}: {upper:e} and {lower:e}");
        }
    }

    #[test]
    fn small_products_go_another_way() {
        let w = narrow(&[0.5; 4]);
        let w = Frozen { elements: &w, cols: 2, transposed: false };
        let workspace = Workspace::<f32>::new(1).unwrap().with_bf16_products(Bf16Products::Portable);
        assert!(!bf16_product(&workspace.zeros(31, 2), w, &mut workspace.zeros(31, 2), false, &workspace));
        let widened = workspace.clone().with_bf16_products(Bf16Products::Widened);
        assert!(!bf16_product(&widened.zeros(32, 2), w, &mut widened.zeros(32, 2), false, &widened));
    }

    #[test]
    fn amx_products_equal_the_definition_and_plain_code() {
        if let Err(reason) = unit::usable() {
            println!("nothing judged, AMX is {reason}");
            return;
        }
        let worst = judge(&mut Stream::new(4, "test", "judge"));
        println!("a block on AMX differs from plain code by {worst:e} of its products' size");
        assert!(worst <= 1e-6);
        check(Bf16Products::Amx);
        check_extremes(Bf16Products::Amx);
        for shape in SHAPES {
            for transposed in [false, true] {
                let portable = result(Bf16Products::Portable, shape, transposed, 1);
                for threads in [1, 2, 4] {
                    let same = result(Bf16Products::Amx, shape, transposed, threads) == portable;
                    println!("{shape:?}, transposed {transposed}, {threads} threads: the bits of plain code: {same}");
                }
            }
        }
    }
}
