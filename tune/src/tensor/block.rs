//! The kernel of products with packed panels, on AVX-512: some rows times one panel, eight rows at a time, all their sums in registers.
//!
//! What the words of rows and panels are is `pack`'s concern; which rows and panels meet is that of `panels` and `small`. All of it may run only where
//! `vector::width` is 512.

use std::arch::x86_64::*;

use super::pack::{Ahead, LANES, Words, ends, load};

/// Columns of a panel at most: three registers.
pub(super) const COLUMNS: usize = 3 * LANES;
/// Rows that meet a panel together: 24 sums, with the panel's row and a broadcast, fit the 32 registers.
pub(super) const TOGETHER: usize = 8;

/// Some rows times one packed panel, behind which a row may be read.
pub(super) struct Block {
    pub rows: usize,
    /// The first row's first word that the panel meets.
    pub x: *const f32,
    /// Words from a row of x to the next.
    pub stride: usize,
    /// Its rows of whole registers, one for each word of `depth`, and one more that is read and not used.
    pub panel: *const f32,
    pub depth: usize,
    /// The first result.
    pub out: *mut f32,
    /// Elements of a row of results.
    pub m: usize,
    /// Whether results are added to what is there.
    pub add: bool,
    /// Columns of the panel, at most [`COLUMNS`].
    pub columns: usize,
    /// What the next panel is packed from.
    pub ahead: Ahead,
}

impl Block {
    /// Multiplies the rows with the panel.
    ///
    /// # Safety
    /// The machine has AVX-512 F and what `W` asks for; rows, panel, with the row behind it, and results are where the fields say.
    pub unsafe fn multiply<W: Words>(&self) {
        // SAFETY: the caller's promise
        unsafe {
            match self.columns.div_ceil(LANES) {
                3 => self.all_rows::<W, 3>(),
                2 => self.all_rows::<W, 2>(),
                _ => self.all_rows::<W, 1>(),
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply`], of `N` registers.
    #[target_feature(enable = "avx512f")]
    unsafe fn all_rows<W: Words, const N: usize>(&self) {
        // SAFETY: the caller's promise; all rows together are `self.rows`
        unsafe {
            let whole = self.rows / TOGETHER * TOGETHER;
            for row in (0..whole).step_by(TOGETHER) {
                self.ahead.fetch(row..row + TOGETHER, whole);
                self.rows_together::<W, TOGETHER, N>(row);
            }
            match self.rows - whole {
                1 => self.rows_together::<W, 1, N>(whole),
                2 => self.rows_together::<W, 2, N>(whole),
                3 => self.rows_together::<W, 3, N>(whole),
                4 => self.rows_together::<W, 4, N>(whole),
                5 => self.rows_together::<W, 5, N>(whole),
                6 => self.rows_together::<W, 6, N>(whole),
                7 => self.rows_together::<W, 7, N>(whole),
                _ => {}
            }
        }
    }

    /// `R` rows from `first` on, all their sums in registers. A function of its own, so that its pointers are in registers, too.
    ///
    /// # Safety
    /// As [`Self::all_rows`].
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    unsafe fn rows_together<W: Words, const R: usize, const N: usize>(&self, first: usize) {
        let &Self { stride, depth, mut panel, m, .. } = self;
        // SAFETY: the caller's promise, index by index
        unsafe {
            let (mut x, out) = ([self.x; R], self.out.add(first * m));
            for r in 0..R {
                x[r] = self.x.add((first + r) * stride);
                for n in 0..N {
                    // the results are needed at the end, and may be far away
                    _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(r * m + n * LANES).cast());
                }
            }
            let mut sums = [[_mm512_setzero_ps(); N]; R];
            let mut row = [_mm512_setzero_ps(); N];
            for n in 0..N {
                row[n] = _mm512_loadu_ps(panel.add(n * LANES));
            }
            let mut i = 0;
            while i + 2 <= depth {
                step::<W, R, N>(&x, i, &mut row, panel.add(N * LANES), &mut sums);
                step::<W, R, N>(&x, i + 1, &mut row, panel.add(2 * N * LANES), &mut sums);
                panel = panel.add(2 * N * LANES);
                i += 2;
            }
            if i < depth {
                step::<W, R, N>(&x, i, &mut row, panel.add(N * LANES), &mut sums);
            }
            for r in 0..R {
                for n in 0..N {
                    let place = out.add(r * m + n * LANES);
                    let mask = ends(self.columns - n * LANES);
                    let before = if self.add { load(place, mask) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(place, mask, _mm512_add_ps(before, sums[r][n]));
                }
            }
        }
    }
}

/// Adds the products of word `i` of each row with a row of the panel, and reads the panel's next row meanwhile: asked for only when it is needed, it
/// would be waited for.
///
/// # Safety
/// The machine has AVX-512 F and what `W` asks for; word `i` of the rows and `N` registers at `next` are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step<W: Words, const R: usize, const N: usize>(
    x: &[*const f32; R],
    i: usize,
    row: &mut [__m512; N],
    next: *const f32,
    sums: &mut [[__m512; N]; R],
) {
    let here = *row;
    // SAFETY: the caller's promise
    unsafe {
        for r in 0..R.max(N) {
            if r < R {
                let x = _mm512_set1_ps(*x[r].add(i));
                for n in 0..N {
                    sums[r][n] = W::multiply(x, here[n], sums[r][n]);
                }
            }
            if r < N {
                row[r] = _mm512_loadu_ps(next.add(r * LANES));
            }
        }
    }
}
