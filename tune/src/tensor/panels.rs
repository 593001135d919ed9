//! Products of f32 rows with frozen matrices on AVX-512: `y = x W^T` and `dx = dy W` from one copy of W, held in f32 or bf16; several of the same rows at
//! once, so that threads wait less for each other.
//!
//! A task makes a block of rows of some columns: it packs (and widens) a panel of 48 columns of what stands on the right, a part of the summed dimension at a
//! time, and multiplies the block's rows with it, eight at a time, reading them where they lie. Packed panels never leave the second-level cache, bf16 is
//! never widened in memory, and tasks are small enough that a thread which is slowed down hands its work to the others. The parts of the summed dimension
//! follow from its length alone, so that no bit depends on threads, or on which rows and matrices meet together. Other machines and types take
//! [`super::matmul`].
//!
//! Where the processor has AVX-512-BF16 the same driver multiplies rows that were rounded to bf16, see [`rounded_products`], or before, see
//! [`products_of_rounded`]: rows and panels then hold pairs of
//! bf16 numbers, and an instruction does twice the work. What a panel holds, and how it is packed, is `pack`'s; rows meet it in `block`.

use half::bf16;
#[cfg(target_arch = "x86_64")]
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::pack;
use super::rounded::{RoundedRows, has_pairs};
use super::tiles::Frozen;
use super::{Matrix, Workspace};

/// Words of a block of rows that one part of the summed dimension takes at most: every panel of a task meets them, from the second-level cache.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 340 << 10;
/// Words of the summed dimension that a packed panel holds at most: 96 KiB with its 48 columns.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 512;
/// Words of a block of rows that stay in the second-level cache from one task to the next. Longer rows are fetched again by every task.
#[cfg(target_arch = "x86_64")]
const KEPT: usize = 1 << 18;

/// Rows that one parallel task rounds.
#[cfg(target_arch = "x86_64")]
const ROUNDED: usize = 32;

/// A product `out = x w` among those of one x.
pub(crate) struct Product<'a, E = bf16> {
    /// `w [k, m]` after transposing.
    pub w: Frozen<'a, E>,
    /// `[n, m]`.
    pub out: &'a mut Matrix<f32>,
}

/// Asserts that all shapes fit, and returns whether any product has results and something to sum.
pub(super) fn check<E>(x: &Matrix<f32>, products: &[Product<'_, E>]) -> bool {
    products.iter().for_each(|product| product.w.check(x, product.out));
    x.rows() > 0 && x.cols() > 0 && products.iter().any(|product| product.out.cols() > 0)
}

/// `out = x w` for each of some products, added to `out` when `accumulate`, in f32; false, and nothing done, where the machine has no AVX-512 or
/// there is nothing to compute.
///
/// `x [n, k]`. Products are fused with sums, which run in f32 over parts of k of equal length.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn panel_products<E: Element>(
    x: &Matrix<f32>,
    products: &mut [Product<'_, E>],
    accumulate: bool,
    workspace: &Workspace<f32>,
) -> bool {
    let has_work = check(x, products);
    #[cfg(target_arch = "x86_64")]
    if super::vector::width() == 512 && has_work {
        let (words, n, k) = (x.data(), x.rows(), x.cols());
        let x = avx512::Rows { words, n, stride: k, k, elements: k };
        avx512::products::<pack::Wide<E>>(x, products, accumulate, workspace);
        return true;
    }
    let _ = (accumulate, workspace, has_work);
    false
}

/// As [`panel_products`], of `x` rounded to bf16: products are exact, sums in f32. Subnormal numbers count as zero.
///
/// # Panics
/// When the shapes do not fit, or the machine has no AVX-512-BF16 ([`has_pairs`]).
pub(super) fn rounded_products(
    x: &Matrix<f32>,
    products: &mut [Product<'_>],
    accumulate: bool,
    workspace: &Workspace<f32>,
) {
    let has_work = check(x, products);
    assert!(has_pairs(), "AVX-512-BF16: not in this processor");
    #[cfg(target_arch = "x86_64")]
    if has_work {
        let (n, elements, k) = (x.rows(), x.cols(), x.cols().div_ceil(2));
        let mut pairs = workspace.buffer(n * k);
        let rows = x.data().par_chunks(ROUNDED * elements).zip(pairs.par_chunks_mut(ROUNDED * k));
        // SAFETY: the instructions were found, and the rows lie one behind another
        rows.for_each(|(x, to)| unsafe {
            pack::round_left(x.as_ptr(), elements, [x.len() / elements, elements], false, 1.0, to);
        });
        let x = avx512::Rows { words: &pairs, n, stride: k, k, elements };
        avx512::products::<pack::Pairs>(x, products, accumulate, workspace);
    }
    let _ = (accumulate, workspace, has_work);
}

/// As [`rounded_products`], of rows that were rounded where they were made.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn products_of_rounded(
    x: &RoundedRows<f32>,
    products: &mut [Product<'_>],
    accumulate: bool,
    workspace: &Workspace<f32>,
) {
    let x = x.words();
    let has_work = check(x, products);
    #[cfg(target_arch = "x86_64")]
    if has_work {
        let (words, n, elements) = (x.data(), x.rows(), x.cols());
        let x = avx512::Rows { words, n, stride: elements, k: elements.div_ceil(2), elements };
        avx512::products::<pack::Pairs>(x, products, accumulate, workspace);
    }
    let _ = (accumulate, workspace, has_work);
}

/// A type that a frozen matrix is held in.
pub(crate) trait Element: Copy + Sync + Widened {}

impl Element for f32 {}
impl Element for bf16 {}

#[cfg(target_arch = "x86_64")]
pub(crate) use super::pack::Widened;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Out;

/// Nothing is asked of an element where it is not read.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Widened {}
#[cfg(not(target_arch = "x86_64"))]
impl<E> Widened for E {}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The driver. `product` may run only where `vector::width` is 512.

    use std::ops::Range;

    use rayon::prelude::*;

    use super::super::block::{Block, COLUMNS, TOGETHER};
    use super::super::pack::{Ahead, LANES, Words, pack};
    use super::{BLOCK, DEPTH, Frozen, KEPT, Matrix, Product, Workspace};

    /// Panels of a task at most.
    const PANELS: usize = 4;

    /// Where results go: disjoint blocks of it are written by different threads.
    #[derive(Clone, Copy)]
    pub(in crate::tensor) struct Out(*mut f32);
    // SAFETY: tasks write blocks that do not overlap
    unsafe impl Send for Out {}
    // SAFETY: as above
    unsafe impl Sync for Out {}

    impl Out {
        pub(in crate::tensor) fn of(matrix: &mut Matrix<f32>) -> Self {
            Self(matrix.data_mut().as_mut_ptr())
        }

        /// # Safety
        /// `offset` lies in the matrix.
        pub(in crate::tensor) unsafe fn at(self, offset: usize) -> *mut f32 {
            // SAFETY: the caller's promise
            unsafe { self.0.add(offset) }
        }
    }

    /// `n` rows of `k` words, which hold `elements` each, a row every `stride` words.
    #[derive(Clone, Copy)]
    pub(super) struct Rows<'a> {
        pub words: &'a [f32],
        pub n: usize,
        pub stride: usize,
        pub k: usize,
        pub elements: usize,
    }

    /// A product, and where it goes.
    struct Made<'a, E> {
        w: Frozen<'a, E>,
        out: Out,
        m: usize,
    }

    /// What a block of rows meets next.
    struct Panel {
        /// Words of the summed dimension.
        part: Range<usize>,
        columns: Range<usize>,
    }

    /// The panels of a task: those of a part of the summed dimension, one after another.
    fn panels(k: usize, depth: usize, columns: Range<usize>) -> impl Iterator<Item = Panel> {
        (0..k).step_by(depth).flat_map(move |from| {
            let end = columns.end;
            columns.clone().step_by(COLUMNS).map(move |first| Panel {
                part: from..(from + depth).min(k),
                columns: first..(first + COLUMNS).min(end),
            })
        })
    }

    /// The products of rows. The shapes have been checked, nothing is empty, and the machine has the instructions of the words.
    pub(super) fn products<W: Words>(
        x: Rows<'_>,
        products: &mut [Product<'_, W::Element>],
        accumulate: bool,
        workspace: &Workspace<f32>,
    ) {
        let Rows { words, n, stride, k, elements } = x;
        assert!(words.len() == n * stride && stride >= k, "{n} rows of {k} words");
        assert_eq!(k, elements.div_ceil(W::ELEMENTS), "{elements} elements");
        let products = products.iter_mut().map(|Product { w, out }| Made { w: *w, m: out.cols(), out: Out::of(out) });
        let products: Vec<_> = products.collect();
        let depth = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(LANES);
        let (height, width) = task_size(&products, [n, k], depth, rayon::current_num_threads());
        let across: usize = products.iter().map(|product| product.m.div_ceil(width)).sum();
        // the product of a task, and its columns
        let place = |task: usize| {
            let mut column = task % across;
            let product = products.iter().find(|product| {
                let here = product.m.div_ceil(width);
                let found = column < here;
                column -= if found { 0 } else { here };
                found
            });
            let product = product.expect("as many tasks as columns");
            (product, column * width..((column + 1) * width).min(product.m))
        };
        let of_words = |part: &Range<usize>| part.start * W::ELEMENTS..(part.end * W::ELEMENTS).min(elements);
        (0..n.div_ceil(height) * across).into_par_iter().with_max_len(1).for_each(|task| {
            let (product, columns) = place(task);
            let rows = task / across * height..(task / across * height + height).min(n);
            // one row more than it holds, which is read ahead
            let mut panel = workspace.buffer((depth + 1) * COLUMNS);
            let mut panels = panels(k, depth, columns).peekable();
            while let Some(Panel { part, columns }) = panels.next() {
                // the next panel is this task's, or the first of the task that most likely follows on this thread
                let ahead = panels.peek().map(|next| (product.w, next.part.clone(), next.columns.clone()));
                let (w, next_part, next_columns) = ahead.unwrap_or_else(|| {
                    let (product, columns) = place(task + 1);
                    (product.w, 0..depth.min(k), columns.start..(columns.start + COLUMNS).min(columns.end))
                });
                // SAFETY: the callers found the instructions. The ranges lie inside the matrices, whose shapes were checked; the panel holds
                // `depth` rows of three registers and one to spare; no other task writes these rows of these columns
                unsafe {
                    pack::<W>(product.w, of_words(&part), columns.clone(), &mut panel);
                    let block = Block {
                        rows: rows.len(),
                        x: words.as_ptr().add(rows.start * stride + part.start),
                        stride,
                        panel: panel.as_ptr(),
                        depth: part.len(),
                        out: product.out.at(rows.start * product.m + columns.start),
                        m: product.m,
                        add: accumulate || part.start > 0,
                        columns: columns.len(),
                        ahead: Ahead::of(w, of_words(&next_part), next_columns),
                    };
                    block.multiply::<W>();
                }
            }
        });
    }

    /// Rows and columns of a task, such that `threads` finish early: few tasks waste less on packing, many leave less to wait for at the end. Which it is
    /// changes no bit of the result.
    fn task_size<E>(products: &[Made<'_, E>], [n, k]: [usize; 2], depth: usize, threads: usize) -> (usize, usize) {
        // what a task does besides multiplying, in columns of its rows and rows of its columns: fetching its rows, from near or far, and packing, which
        // waits for weights from memory
        let (near, far, packing) = (4, 8, 48);
        let blocks = n.div_ceil(BLOCK / depth);
        let sizes = (blocks..=4 * blocks).flat_map(|blocks| {
            let height = n.div_ceil(blocks).next_multiple_of(TOGETHER);
            (1..=PANELS).map(move |panels| (height, panels * COLUMNS))
        });
        let time = |&(height, width): &(usize, usize)| {
            let fetching: usize = if height * k <= KEPT { near } else { far };
            let tasks = n.div_ceil(height) * products.iter().map(|product| product.m.div_ceil(width)).sum::<usize>();
            // half a task is waited for on average
            let rounds = 2 * tasks.div_ceil(threads) + usize::from(threads > 1);
            rounds * (height + packing) * (width + fetching)
        };
        sizes.min_by_key(time).unwrap_or((TOGETHER, COLUMNS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Stream;

    fn random(len: usize, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(7, "test", name);
        (0..len).map(|_| stream.normal() as f32).collect()
    }

    fn matrix(workspace: &Workspace<f32>, rows: usize, values: &[f32]) -> Matrix<f32> {
        let mut matrix = workspace.matrix(rows, values.len() / rows);
        matrix.copy_from(values);
        matrix
    }

    /// One product.
    fn panel_product<E: Element>(
        x: &Matrix<f32>,
        w: Frozen<'_, E>,
        out: &mut Matrix<f32>,
        accumulate: bool,
        workspace: &Workspace<f32>,
    ) -> bool {
        panel_products(x, &mut [Product { w, out }], accumulate, workspace)
    }

    /// The product in f64, and the same with the sizes of all terms.
    fn expected(x: &[f32], w: impl Fn(usize, usize) -> f32, [n, k, m]: [usize; 3]) -> Vec<[f64; 2]> {
        let term = |i: usize, j: usize, l: usize| f64::from(x[i * k + l]) * f64::from(w(l, j));
        let sums = |i, j| [(0..k).map(|l| term(i, j, l)).sum(), (0..k).map(|l| term(i, j, l).abs()).sum()];
        (0..n * m).map(|at| sums(at / m, at % m)).collect()
    }

    #[test]
    fn products_are_the_definition_in_both_directions_and_types() {
        let workspace = Workspace::new(2).unwrap();
        // rows in every remainder of eight, columns in one to four registers with and without a rest, depths around one part
        for (n, k, m) in
            [(1, 1, 1), (17, 5, 7), (8, 16, 48), (21, 33, 40), (300, 40, 65), (26, 385, 100), (23, 800, 31)]
        {
            let (x, w) = (random(n * k, "x"), random(k * m, "w"));
            let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
            let (left, before) = (matrix(&workspace, n, &x), random(n * m, "before"));
            for (transposed, accumulate) in [(false, false), (false, true), (true, false), (true, true)] {
                let cols = if transposed { k } else { m };
                let at = |l: usize, j: usize| if transposed { j * k + l } else { l * m + j };
                let judge = |got: &Matrix<f32>, w: &dyn Fn(usize, usize) -> f32| {
                    let expected = expected(&x, w, [n, k, m]);
                    for ((got, [sum, size]), before) in got.data().iter().zip(expected).zip(&before) {
                        let before = if accumulate { f64::from(*before) } else { 0.0 };
                        // k + 2 roundings of partial sums that are no larger than the sum of sizes
                        let bound = f64::from(f32::EPSILON) / 2.0 * (k + 2) as f64 * (size + before.abs());
                        assert!((f64::from(*got) - before - sum).abs() <= bound, "{n} {k} {m} {transposed}");
                    }
                };
                let mut out = matrix(&workspace, n, &before);
                if !panel_product(&left, Frozen { elements: &w, cols, transposed }, &mut out, accumulate, &workspace) {
                    return;
                }
                judge(&out, &|l, j| w[at(l, j)]);
                let mut out = matrix(&workspace, n, &before);
                panel_product(&left, Frozen { elements: &narrow, cols, transposed }, &mut out, accumulate, &workspace);
                judge(&out, &|l, j| narrow[at(l, j)].to_f32());
            }
        }
    }

    #[test]
    fn products_of_the_same_rows_are_those_of_each_alone() {
        let (n, k, ms) = (70, 130, [200, 1, 65, 300]);
        let weights: Vec<Vec<f32>> = ms.iter().map(|m| random(k * m, &format!("w{m}"))).collect();
        let narrow: Vec<Vec<bf16>> = weights.iter().map(|w| w.iter().map(|&w| bf16::from_f32(w)).collect()).collect();
        for (threads, transposed) in [(1, false), (2, true), (3, false)] {
            let workspace = Workspace::new(threads).unwrap();
            let x = matrix(&workspace, n, &random(n * k, "x"));
            let frozen =
                |i: usize| Frozen { elements: &narrow[i][..], cols: if transposed { k } else { ms[i] }, transposed };
            let outs = || ms.map(|m| matrix(&workspace, n, &random(n * m, "before")));
            let (mut together, mut alone) = (outs(), outs());
            let mut products: Vec<_> =
                together.iter_mut().enumerate().map(|(i, out)| Product { w: frozen(i), out }).collect();
            if !workspace.run(|| panel_products(&x, &mut products, true, &workspace)) {
                return;
            }
            drop(products);
            for (i, out) in alone.iter_mut().enumerate() {
                panel_product(&x, frozen(i), out, true, &workspace);
            }
            assert!(together.iter().zip(&alone).all(|(a, b)| a.data() == b.data()), "{threads} threads");
            if has_pairs() {
                let (mut together, mut alone) = (outs(), outs());
                let mut products: Vec<_> =
                    together.iter_mut().enumerate().map(|(i, out)| Product { w: frozen(i), out }).collect();
                workspace.run(|| rounded_products(&x, &mut products, true, &workspace));
                drop(products);
                for (i, out) in alone.iter_mut().enumerate() {
                    rounded_products(&x, &mut [Product { w: frozen(i), out }], true, &workspace);
                }
                assert!(together.iter().zip(&alone).all(|(a, b)| a.data() == b.data()), "{threads} threads, rounded");
            }
        }
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_other_rows() {
        // more rows than one block has
        let (n, k, m) = (1500, 500, 300);
        let (x, w) = (random(n * k, "x"), random(k * m, "w"));
        let run = |threads: usize, rows: usize| {
            let workspace = Workspace::new(threads).unwrap();
            let (left, mut out) = (matrix(&workspace, rows, &x[..rows * k]), workspace.matrix(rows, m));
            let w = Frozen { elements: &w, cols: k, transposed: true };
            workspace.run(|| panel_product(&left, w, &mut out, false, &workspace)).then(|| out.data().to_vec())
        };
        let Some(first) = run(1, n) else { return };
        assert!([2, 3, 4].into_iter().all(|threads| run(threads, n).as_ref() == Some(&first)));
        for rows in [1, 9, 255, 1300] {
            assert!(run(2, rows).unwrap() == first[..rows * m], "{rows} rows");
        }
    }
}
