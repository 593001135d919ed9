//! Products of f32 rows with a frozen bf16 matrix in the arithmetic of matrix units: rows as sums of two bf16 numbers, products exact, sums in f32.
//!
//! A unit takes bf16 alone, and rows rounded to it are coarse ([`super::rounded`]). Unless that is asked for, a row is cut into a high and a low part,
//! `x = h + l` but for 2^-16 of x, and `x w = h w + l w` goes to the same sums: twice the work for nearly the accuracy of f32, since the weights are bf16
//! already.
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

use super::operands::{cut, pack_columns, pack_rows, round};
use super::panels::{Product, check, rounded_products};
use super::products::Rounder;
use super::vector::widest;
use super::{Bf16Products, Matrix, Stream, Workspace};

/// Steps of a packed panel: 32 KiB, which stays in the first-level cache.
const STEPS: usize = 16;
/// Rows that one sweep takes: with [`STEPS`] 1 MiB of both parts of the left side, which stays in the second-level cache beside the sums.
const ROWS: usize = 512;
/// Panels of a task.
const PANELS: usize = 4;

/// A matrix on the right of a product: frozen, but for those of [`super::small`].
#[derive(Clone, Copy)]
pub struct Frozen<'a, E = bf16> {
    /// `[rows, cols]`, row-major.
    pub elements: &'a [E],
    /// Elements of a row.
    pub cols: usize,
    /// Whether its transpose is meant: the sum then runs along its rows.
    pub transposed: bool,
}

impl<E> Frozen<'_, E> {
    /// Asserts that `out` has the shape of `x` times it.
    pub(super) fn check(&self, x: &Matrix<f32>, out: &Matrix<f32>) {
        let rows = self.elements.len().checked_div(self.cols).unwrap_or(0);
        let shape = if self.transposed { (self.cols, rows) } else { (rows, self.cols) };
        assert_eq!(shape, (x.cols(), out.cols()), "product of [{}, {}]", x.rows(), x.cols());
        assert_eq!(out.rows(), x.rows(), "rows of a product");
    }
}

/// `out = x w` for each of some products, added to `out` when `accumulate`, in bf16 arithmetic; false, and nothing done, where the workspace's choice or the
/// size ask for another way.
///
/// `x [n, k]` is cut into two bf16 numbers, which together are it but for 2^-16, or rounded to one, which is it but for 2^-9, or infinite above the
/// largest; products and sums are f32. Subnormal numbers of bf16, parts and weights, may count as zero: an error of 2^-126 for each. Of what is infinite or
/// no number, results are as in f32, but an infinite weight may give NaN beside two parts, and vectors of pairs may give infinity where products that
/// overflow meet.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn bf16_products(
    x: &Matrix<f32>,
    products: &mut [Product<'_>],
    accumulate: bool,
    workspace: &Workspace<f32>,
) -> bool {
    if x.rows() < SIDE || !check(x, products) {
        return false;
    }
    let (unit, parts) = match workspace.bf16_products() {
        Bf16Products::Widened => return false,
        Bf16Products::Amx => (Unit::Amx, 2),
        Bf16Products::Portable => (Unit::Portable, 2),
        Bf16Products::Rounded(Rounder::Amx) => (Unit::Amx, 1),
        Bf16Products::Rounded(Rounder::Portable) => (Unit::Portable, 1),
        Bf16Products::Rounded(Rounder::Avx512) => {
            rounded_products(x, products, accumulate, workspace);
            return true;
        }
    };
    for Product { w, out } in products.iter_mut().filter(|product| product.out.cols() > 0) {
        product(unit, parts, x, *w, out, accumulate, workspace);
    }
    true
}

fn product(
    unit: Unit,
    parts: usize,
    x: &Matrix<f32>,
    w: Frozen<'_>,
    out: &mut Matrix<f32>,
    accumulate: bool,
    workspace: &Workspace<f32>,
) {
    let (k, m) = (x.cols(), out.cols());
    let steps = k.div_ceil(SIDE);
    let sweeps = x.data().chunks(ROWS * k).zip(out.data_mut().chunks_mut(ROWS * m));
    for (x, out) in sweeps {
        let mut left = workspace.buffer((x.len() / k).div_ceil(SIDE) * parts * steps * STEP);
        let left = words(&mut left);
        left.par_chunks_mut(parts * steps * STEP).zip(x.par_chunks(SIDE * k)).for_each(|(to, rows)| {
            let (high, low) = to.split_at_mut(steps * STEP);
            if parts == 2 { cut(rows, k, high, low) } else { round(rows, k, high) }
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
            columns(unit, left, [parts, steps], w, index * width, pieces, accumulate, workspace);
        });
    }
}

/// One task: the columns of the product from `first` on, into pieces of rows.
fn columns(
    unit: Unit,
    left: &[u32],
    [parts, steps]: [usize; 2],
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
    let tiles = match unit {
        Unit::Amx => Some(Tiles::take()),
        Unit::Portable => None,
        _ => unreachable!("{unit:?} computes no blocks"),
    };
    for from in (0..steps).step_by(STEPS) {
        let count = STEPS.min(steps - from);
        let right = &mut right[..count * STEP];
        for (panel, sums) in sums.chunks_exact_mut(blocks * BLOCK).enumerate() {
            let pack = if w.transposed { pack_rows } else { pack_columns };
            pack(w.elements.reinterpret_cast(), w.cols, first + panel * SIDE, from * SIDE, right);
            for (block, sums) in sums.chunks_exact_mut(BLOCK).enumerate() {
                let part = |part: usize| &left[((parts * block + part) * steps + from) * STEP..][..count * STEP];
                for index in 0..parts {
                    block_of(tiles.as_ref(), part(index), right, sums, from == 0 && index == 0);
                }
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

/// A block of results, on tiles or in plain code.
fn block_of(tiles: Option<&Tiles>, left: &[u32], right: &[u32], sums: &mut [f32], fresh: bool) {
    match tiles {
        Some(tiles) => tiles.multiply(left, right, sums, fresh),
        None => multiply(left, right, sums, fresh),
    }
}

widest! {
    /// [`unit::multiply`].
    fn multiply(a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
        unit::multiply(a, b, sums, fresh);
    }
}

/// Both parts of a block's rows.
fn both(tiles: Option<&Tiles>, parts: [&[u32]; 2], right: &[u32], sums: &mut [f32], fresh: bool) {
    for (left, fresh) in parts.into_iter().zip([fresh, false]) {
        block_of(tiles, left, right, sums, fresh);
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
    use crate::tensor::rounded::has_pairs;

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
        [[32, 32, 32], [64, 64, 96], [33, 31, 1], [40, 545, 70], [100, 97, 300], [32, 1101, 33], [1090, 40, 130]];

    /// What a kernel makes of matrices, on some threads: `x w` written over, and then added to that.
    fn products(kernel: Bf16Products, n: usize, x: &[f32], w: Frozen<'_>, threads: usize) -> [Vec<f32>; 2] {
        let workspace = Workspace::new(threads).unwrap().with_bf16_products(kernel);
        let m = if w.transposed { w.elements.len() / w.cols } else { w.cols };
        let (x, mut out) = (matrix(n, x, &workspace), workspace.matrix(n, m));
        [false, true].map(|accumulate| {
            let products = &mut [Product { w, out: &mut out }];
            workspace.run(|| assert!(bf16_products(&x, products, accumulate, &workspace)));
            out.data().to_vec()
        })
    }

    /// As [`products`], of random matrices.
    fn result(kernel: Bf16Products, [n, k, m]: [usize; 3], transposed: bool, threads: usize) -> [Vec<f32>; 2] {
        let w = Frozen { elements: &narrow(&numbers(k * m, "w")), cols: if transposed { k } else { m }, transposed };
        products(kernel, n, &numbers(n * k, "x"), w, threads)
    }

    /// What a kernel multiplies instead of `x`.
    fn taken(kernel: Bf16Products, x: Vec<f32>) -> Vec<f32> {
        let rounds = matches!(kernel, Bf16Products::Rounded(_));
        if rounds { x.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect() } else { x }
    }

    fn check(kernel: Bf16Products) {
        for [n, k, m] in SHAPES {
            let (x, w) = (taken(kernel, numbers(n * k, "x")), narrow(&numbers(k * m, "w")));
            for transposed in [false, true] {
                let (got, mut squares) = (result(kernel, [n, k, m], transposed, 2), (0.0, 0.0));
                for (i, j) in (0..n).flat_map(|i| (0..m).map(move |j| (i, j))) {
                    let at = |l: usize| if transposed { w[j * k + l] } else { w[l * m + j] };
                    let terms = (0..k).map(|l| f64::from(x[i * k + l]) * at(l).to_f64());
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    for (times, got) in [1.0, 2.0].into_iter().zip(&got) {
                        let error = f64::from(got[i * m + j]) - times * sum;
                        // 2^-16 for two parts, and a rounding of 2^-24 for each product and sum
                        let bound = 2f64.powi(-16) + (k + 2) as f64 * 2f64.powi(-24);
                        assert!(error.abs() <= bound * times * size, "{n} {k} {m} {transposed}: {error} at {i},{j}");
                        squares = (squares.0 + error * error, squares.1 + (times * sum).powi(2));
                    }
                }
                let apart = (squares.0 / squares.1).sqrt();
                println!("{kernel:?}: {n} {k} {m}, transposed {transposed}: relative error {apart:.1e}");
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
        for (row, got) in taken(kernel, x).chunks(2).zip(got.chunks(7)) {
            for (j, &got) in got.iter().enumerate() {
                let w = [w[j].to_f32(), w[7 + j].to_f32()];
                let terms = [row[0] * w[0], row[1] * w[1]];
                let expected = terms[0] + terms[1];
                if !expected.is_finite() {
                    // pairs fuse each product with the sum, so that one which overflows does not meet an infinite sum as infinite
                    let fused =
                        kernel == Bf16Products::Rounded(Rounder::Avx512) && terms.iter().all(|x| !x.is_finite());
                    let same = if fused { !got.is_finite() } else { got.to_string() == expected.to_string() };
                    assert!(same, "{row:?} {w:?}: {got}, not {expected}");
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
        for kernel in [Bf16Products::Portable, Bf16Products::Rounded(Rounder::Portable)] {
            check(kernel);
            check_extremes(kernel);
        }
    }

    #[test]
    fn products_of_pairs_equal_the_definition_on_every_shape() {
        if !has_pairs() {
            println!("nothing judged, the processor has no AVX-512-BF16");
            return;
        }
        let kernel = Bf16Products::Rounded(Rounder::Avx512);
        check(kernel);
        check_extremes(kernel);
        for (shape, transposed) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
            let one = result(kernel, shape, transposed, 1);
            assert!(result(kernel, shape, transposed, 3) == one, "{shape:?}");
            // a row does not depend on those computed with it
            let first = result(kernel, [SIDE, shape[1], shape[2]], transposed, 2);
            for (first, one) in first.iter().zip(&one) {
                assert!(*first == one[..SIDE * shape[2]], "{shape:?}");
            }
        }
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
    fn small_products_go_another_way() {
        let w = narrow(&[0.5; 4]);
        let w = Frozen { elements: &w, cols: 2, transposed: false };
        let workspace = Workspace::<f32>::new(1).unwrap().with_bf16_products(Bf16Products::Portable);
        let few = &mut [Product { w, out: &mut workspace.zeros(31, 2) }];
        assert!(!bf16_products(&workspace.zeros(31, 2), few, false, &workspace));
        let widened = workspace.clone().with_bf16_products(Bf16Products::Widened);
        let many = &mut [Product { w, out: &mut widened.zeros(32, 2) }];
        assert!(!bf16_products(&widened.zeros(32, 2), many, false, &widened));
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
        for kernel in [Bf16Products::Amx, Bf16Products::Rounded(Rounder::Amx)] {
            check(kernel);
            check_extremes(kernel);
        }
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
