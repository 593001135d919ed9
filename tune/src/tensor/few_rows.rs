//! Products of few f32 rows with a matrix that is read once from beginning to end, on AVX-512: `y = x W^T`, W frozen weights in f32 or bf16, or the keys that
//! queries meet. Memory sets the speed.
//!
//! Four rows of the weight meet up to six rows of x at a time, all their sums in registers, and bf16 is widened there; what is left of x meets them again
//! while they are in the first cache. Meanwhile the next four are asked for: left to itself the processor begins anew with every row and every page, and
//! leaves much of the memory's speed unused. A sum runs along its row in sixteen lanes that are joined in one order, whatever is computed beside it, so that
//! no bit depends on threads or on other rows. Other machines and types take the plain loops of `ops::thin`; many rows are better off with [`super::panels`].

#[cfg(target_arch = "x86_64")]
use super::gemm::as_f32;
use super::panels::Element;
use super::{Matrix, Real};

/// Most rows of x for which this is faster than packing. With more, some of the passes would have nothing left to ask for.
pub(crate) const FEW_ROWS: usize = 24;

/// `n` rows of `k` elements, one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub data: &'a [T],
    pub n: usize,
    pub k: usize,
}

/// `out = x W^T` in f32; false, and nothing done, where the machine has no AVX-512.
///
/// `x [n, k]`, W `[m, k]` row after row, `out [n, m]`. Products are fused with sums in f32. Costs one reading of W as long as n is small; any n is computed.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn few_rows_product<E: Element>(x: &Matrix<f32>, weight: &[E], out: &mut Matrix<f32>) -> bool {
    let (n, k, m) = (x.rows(), x.cols(), out.cols());
    assert_eq!((out.rows(), weight.len()), (n, m * k), "product of [{n}, {k}] with [{m}, {k}]");
    #[cfg(target_arch = "x86_64")]
    if super::vector::width() == 512 && n > 0 && k > 0 && m > 0 {
        avx512::product(Rows { data: x.data(), n, k }, weight, out);
        return true;
    }
    false
}

/// The same on the calling thread, for W in the compute type: `out[i * m + j] = x_i . w_j`, where `m` is at least the number of W's rows; false, and nothing
/// done, where the type is not f32 or the machine has no AVX-512.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn few_rows_here<T: Real>(x: Rows<'_, T>, weight: &[T], out: &mut [T], m: usize) -> bool {
    let Rows { data, n, k } = x;
    let columns = weight.len().checked_div(k).unwrap_or(0);
    assert!(weight.len() == columns * k && columns <= m, "{} elements of weights, {m} results a row", weight.len());
    assert!(data.len() == n * k && (n == 0 || out.len() >= (n - 1) * m + columns), "{n} rows");
    #[cfg(target_arch = "x86_64")]
    if super::vector::width() == 512
        && let (Some(data), Some(weight)) = (as_f32(data), as_f32(weight))
        && n > 0
        && columns > 0
    {
        // SAFETY: the instructions were found; rows and results lie inside their slices, as was just checked
        unsafe { avx512::columns(Rows { data, n, k }, weight, out.as_mut_ptr().cast(), m) }
        return true;
    }
    false
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The kernel. All of it may run only where `vector::width` is 512.

    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::super::panels::Out;
    use super::{Element, Matrix, Rows};

    /// Numbers in a register.
    const LANES: usize = 16;
    /// Rows of the weight in a block. With six rows of x there are 24 sums, and the block's own registers and one of x fit the 32.
    const BLOCK: usize = 4;
    const TOGETHER: usize = 6;
    /// Elements of the weight that one parallel task reads, at least: less is sooner read than handed to another thread.
    const TASK: usize = 1 << 14;

    /// The shapes have been checked and nothing is empty.
    pub(super) fn product<E: Element>(x: Rows<'_, f32>, weight: &[E], out: &mut Matrix<f32>) {
        let (k, m) = (x.k, out.cols());
        let out = Out::of(out);
        let rows = m.div_ceil((weight.len() / TASK).max(1)).next_multiple_of(BLOCK);
        weight.par_chunks(rows * k).enumerate().for_each(|(task, weight)| {
            // SAFETY: `few_rows_product` found the instructions; the task's rows of the weight are these columns of the results, which no other task
            // writes
            unsafe { columns(x, weight, out.at(task * rows), m) }
        });
    }

    /// All rows of x with some rows of the weight. `out` is the first result of the first row; a row of results has `m` elements.
    ///
    /// # Safety
    /// The machine has the instructions; the rows of x are there; `weight` is whole rows, for each of which there is a column of results from `out` on, and nobody else
    /// reads or writes them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn columns<E: Element>(x: Rows<'_, f32>, weight: &[E], out: *mut f32, m: usize) {
        let Rows { data, n, k } = x;
        let rows = weight.len() / k;
        let passes = n.div_ceil(TOGETHER);
        for first in (0..rows).step_by(BLOCK) {
            let mut from = 0;
            for pass in 0..passes {
                let together = (n - from).div_ceil(passes - pass);
                let mut block =
                    Block { weight: [weight.as_ptr(); BLOCK], ask: [weight.as_ptr(); BLOCK], k, m, mask: 0 };
                for i in 0..BLOCK {
                    // where the weight ends, its last row stands for those that are missing, and their results are not written
                    block.weight[i] = weight[(first + i).min(rows - 1) * k..].as_ptr();
                    block.mask |= u8::from(first + i < rows) << i;
                    // each pass asks for its share of the next block
                    let ahead = if i % passes == pass { BLOCK * k } else { 0 };
                    block.ask[i] = block.weight[i].wrapping_add(ahead);
                }
                // SAFETY: rows `from..from + together` of x and of the results exist, and the masked columns of these; the rest is the caller's promise
                unsafe {
                    let (x, out) = (data.as_ptr().add(from * k), out.add(from * m + first));
                    match together {
                        1 => block.multiply::<1>(x, out),
                        2 => block.multiply::<2>(x, out),
                        3 => block.multiply::<3>(x, out),
                        4 => block.multiply::<4>(x, out),
                        5 => block.multiply::<5>(x, out),
                        _ => block.multiply::<TOGETHER>(x, out),
                    }
                }
                from += together;
            }
        }
    }

    /// Four rows of the weight.
    struct Block<E> {
        weight: [*const E; BLOCK],
        /// Rows that will be needed next: only asked for, so that they need not exist.
        ask: [*const E; BLOCK],
        /// Elements of a row of the weight, and of x.
        k: usize,
        /// Elements of a row of results.
        m: usize,
        /// Rows of the weight whose results are written.
        mask: u8,
    }

    impl<E: Element> Block<E> {
        /// The block with `N` rows of x, all sums in registers. A function of its own, so that its pointers are in registers, too.
        ///
        /// # Safety
        /// The machine has the instructions; `N` rows lie at `x`; the results that `mask` names can be written in `N` rows from `out` on.
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn multiply<const N: usize>(&self, x: *const f32, out: *mut f32) {
            let mut sums = [[_mm512_setzero_ps(); BLOCK]; N];
            let whole = self.k / LANES * LANES;
            // SAFETY: the caller's promise; the last step is masked
            unsafe {
                for i in (0..whole).step_by(LANES) {
                    self.step(x, i, u16::MAX, &mut sums);
                }
                if whole < self.k {
                    self.step(x, whole, (1 << (self.k - whole)) - 1, &mut sums);
                }
                for (row, sums) in sums.into_iter().enumerate() {
                    _mm_mask_storeu_ps(out.add(row * self.m), self.mask, joined(sums));
                }
            }
        }

        /// Adds the products of the elements from `i` on that `mask` names.
        ///
        /// # Safety
        /// As [`Self::multiply`]; the named elements lie in the rows.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn step<const N: usize>(&self, x: *const f32, i: usize, mask: u16, sums: &mut [[__m512; BLOCK]; N]) {
            // SAFETY: the caller's promise; asking for memory that is not there does nothing
            unsafe {
                let mut weight = [_mm512_setzero_ps(); BLOCK];
                for row in 0..BLOCK {
                    weight[row] = E::load(self.weight[row].add(i), mask);
                    _mm_prefetch::<_MM_HINT_T0>(self.ask[row].wrapping_add(i).cast());
                }
                for (n, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_maskz_loadu_ps(mask, x.add(n * self.k + i));
                    for row in 0..BLOCK {
                        sums[row] = _mm512_fmadd_ps(x, weight[row], sums[row]);
                    }
                }
            }
        }
    }

    /// The sums of all lanes of four registers, side by side.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    fn joined([a, b, c, d]: [__m512; BLOCK]) -> __m128 {
        // two lanes of each quarter are added, then two such sums, then the quarters
        let ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        let quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        let halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps::<1>(quarters));
        _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::tensor::{Stream, Workspace};

    fn random(len: usize, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(7, "test", name);
        (0..len).map(|_| stream.normal() as f32).collect()
    }

    /// The product of the first `n` rows of x; none where the machine has no such kernel.
    fn product<E: Element>(x: &[f32], w: &[E], [n, k, m]: [usize; 3], threads: usize) -> Option<Vec<f32>> {
        let workspace = Workspace::new(threads).unwrap();
        let (mut left, mut out) = (workspace.matrix(n, k), workspace.matrix(n, m));
        left.copy_from(&x[..n * k]);
        workspace.run(|| few_rows_product(&left, w, &mut out)).then(|| out.data().to_vec())
    }

    #[test]
    fn products_are_the_definition_in_both_types() {
        // every number of rows that meet a block together, in one pass and in several; blocks and lanes with and without a rest; more than one task
        for (n, k, m) in [
            (1, 1, 1),
            (1, 640, 100),
            (2, 16, 4),
            (3, 33, 7),
            (4, 31, 6),
            (5, 100, 9),
            (6, 48, 301),
            (7, 500, 70),
            (16, 385, 90),
            (20, 50, 13),
        ] {
            let (x, w) = (random(n * k, "x"), random(k * m, "w"));
            let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
            let judge = |got: Option<Vec<f32>>, w: &dyn Fn(usize) -> f32| {
                for (at, got) in got.into_iter().flatten().enumerate() {
                    let term = |l: usize| f64::from(x[at / m * k + l]) * f64::from(w(at % m * k + l));
                    let (sum, size): (f64, f64) = ((0..k).map(term).sum(), (0..k).map(|l| term(l).abs()).sum());
                    // a rounding for each step along the row and four where lanes are joined, of partial sums that are no larger than the sum of sizes
                    let bound = f64::from(f32::EPSILON) / 2.0 * (k.div_ceil(16) + 4) as f64 * size;
                    assert!((f64::from(got) - sum).abs() <= bound, "{n} {k} {m}: element {at}");
                }
            };
            judge(product(&x, &w, [n, k, m], 2), &|at| w[at]);
            judge(product(&x, &narrow, [n, k, m], 2), &|at| narrow[at].to_f32());
        }
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_other_rows() {
        let (k, m) = (300, 1001);
        let (x, w) = (random(16 * k, "x"), random(k * m, "w"));
        let Some(first) = product(&x, &w, [16, k, m], 1) else { return };
        for (n, threads) in [(1, 1), (1, 2), (3, 3), (4, 2), (7, 4), (13, 2), (16, 3)] {
            assert!(product(&x, &w, [n, k, m], threads).unwrap() == first[..n * m], "{n} rows, {threads} threads");
        }
    }
}
