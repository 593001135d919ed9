//! What the packed panels of [`super::panels`] and [`super::small`] hold, and how they are packed from the matrix on the right, on AVX-512.
//!
//! A panel is rows of 16 lanes, and a lane a word of 32 bits: an f32 number, bf16 widened, or a pair of bf16 numbers that follow each other in the summed
//! dimension. Registers of words have the type of f32 vectors whatever they hold; moving them changes no bit.
//!
//! All of it may run only where `vector::width` is 512.

use std::any::TypeId;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;
use quanta_circuit::unit::in_turn;

use super::Real;
use super::rounded::has_pairs;
use super::tiles::Frozen;

/// Words in a register.
pub(super) const LANES: usize = 16;

/// Reading elements as f32.
pub(crate) trait Widened: Sized {
    /// The elements that `mask` names, the first of them at `from`; zeros for the others.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and VL; the named elements are readable.
    unsafe fn load(from: *const Self, mask: u16) -> __m512;
}

impl Widened for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { load(from, mask) }
    }
}

impl Widened for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller's promise; a bf16 is its 16 bits
        let bits = unsafe { load_half(from, mask) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// What a word is.
pub(super) trait Words {
    /// What the matrix is held in.
    type Element: Copy + Sync;
    /// Elements of the summed dimension in a word.
    const ELEMENTS: usize;

    /// The words of some elements that follow each other, at most a register of them; zeros behind them.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and VL, and BF16 where elements are rounded as they are read; `count` elements from `from` on are readable.
    unsafe fn along(from: *const Self::Element, count: usize) -> __m512;

    /// The words of the columns that `mask` names, of `count` rows (at least one, at most a word's) that are `stride` apart; zeros for the others.
    ///
    /// # Safety
    /// As [`Self::along`], for these columns of these rows.
    unsafe fn across(from: *const Self::Element, stride: usize, count: usize, mask: u16) -> __m512;

    /// `sum + x row`, word by word.
    ///
    /// # Safety
    /// The machine has AVX-512 F, and BF16 where the words are pairs.
    unsafe fn multiply(x: __m512, row: __m512, sum: __m512) -> __m512;
}

/// Words of one element each, in f32.
pub(super) struct Wide<E>(PhantomData<E>);

impl<E: Widened + Copy + Sync> Words for Wide<E> {
    type Element = E;
    const ELEMENTS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn along(from: *const E, count: usize) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { E::load(from, ends(count)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn across(from: *const E, _: usize, _: usize, mask: u16) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { E::load(from, mask) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(x: __m512, row: __m512, sum: __m512) -> __m512 {
        _mm512_fmadd_ps(x, row, sum)
    }
}

/// Words of two elements each, in bf16.
pub(super) struct Pairs;

impl Words for Pairs {
    type Element = bf16;
    const ELEMENTS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn along(from: *const bf16, count: usize) -> __m512 {
        // SAFETY: the caller's promise; a bf16 is its 16 bits
        unsafe {
            _mm512_castsi512_ps(match count >= 2 * LANES {
                true => _mm512_loadu_epi16(from.cast()),
                false => _mm512_maskz_loadu_epi16((1 << count) - 1, from.cast()),
            })
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn across(from: *const bf16, stride: usize, count: usize, mask: u16) -> __m512 {
        // SAFETY: the caller's promise; a bf16 is its 16 bits
        unsafe {
            let even = _mm512_cvtepu16_epi32(load_half(from, mask));
            if count == 1 {
                return _mm512_castsi512_ps(even);
            }
            let odd = _mm512_cvtepu16_epi32(load_half(from.add(stride), mask));
            _mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(x: __m512, row: __m512, mut sum: __m512) -> __m512 {
        // assembly, because the intrinsic is inlined only into functions that are compiled for AVX-512-BF16, and all others here are compiled without
        // SAFETY: the caller's promise; the instruction reads and writes these registers alone
        unsafe {
            asm!("vdpbf16ps {}, {}, {}", inout(zmm_reg) sum, in(zmm_reg) x, in(zmm_reg) row, options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
}

/// Words of two f32 numbers each, rounded to bf16 as they are read, to nearest, ties to even; subnormal numbers count as zero.
pub(super) struct Rounded;

impl Words for Rounded {
    type Element = f32;
    const ELEMENTS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn along(from: *const f32, count: usize) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { Self::scaled_along(from, count, _mm512_set1_ps(1.0)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn across(from: *const f32, stride: usize, count: usize, mask: u16) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { Self::scaled_across(from, stride, count, mask, _mm512_set1_ps(1.0)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(x: __m512, row: __m512, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise
        unsafe { Pairs::multiply(x, row, sum) }
    }
}

impl Rounded {
    /// [`Words::along`] of elements times a factor.
    ///
    /// # Safety
    /// As there, and the machine has BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn scaled_along(from: *const f32, count: usize, factor: __m512) -> __m512 {
        let [low, high] = [ends(count), ends(count.saturating_sub(LANES))];
        // SAFETY: the caller's promise; where the second register has no element its mask is empty
        unsafe {
            let low = _mm512_mul_ps(factor, load(from, low));
            round(_mm512_mul_ps(factor, load(from.wrapping_add(LANES), high)), low)
        }
    }

    /// [`Words::across`] of elements times a factor.
    ///
    /// # Safety
    /// As there, and the machine has BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn scaled_across(from: *const f32, stride: usize, count: usize, mask: u16, factor: __m512) -> __m512 {
        // SAFETY: the caller's promise, a row that is not there has an empty mask; an array of 32 i16 has the size of a register
        unsafe {
            let even = _mm512_mul_ps(factor, load(from, mask));
            let odd = if count == 1 { 0 } else { mask };
            let odd = _mm512_mul_ps(factor, load(from.wrapping_add(stride), odd));
            let in_turn = _mm512_loadu_epi16(const { in_turn() }.as_ptr());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(in_turn, _mm512_castps_si512(round(odd, even))))
        }
    }
}

/// Both registers as bf16 numbers, those of `low` before those of `high`.
///
/// # Safety
/// The machine has AVX-512 F and BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn round(high: __m512, low: __m512) -> __m512 {
    let to: __m512;
    // assembly for the reason that `Pairs` gives
    // SAFETY: the caller's promise; the instruction reads and writes these registers alone
    unsafe {
        asm!("vcvtne2ps2bf16 {}, {}, {}", lateout(zmm_reg) to, in(zmm_reg) high, in(zmm_reg) low, options(pure, nomem, nostack, preserves_flags));
    }
    to
}

/// The mask of the first `count` lanes.
pub(super) fn ends(count: usize) -> u16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// Packs `columns` (at most 48) of the rows `part` of the right side as `[words of part][registers][16]`; lanes beyond the columns are zeros.
///
/// # Safety
/// The machine has AVX-512 F, BW and VL, and BF16 where elements are rounded as they are read; the ranges lie inside the matrix.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack<W: Words>(
    w: Frozen<'_, W::Element>,
    part: Range<usize>,
    columns: Range<usize>,
    panel: &mut [f32],
) {
    let (words, stride) = (part.len().div_ceil(W::ELEMENTS), columns.len().div_ceil(LANES) * LANES);
    assert!(panel.len() >= words * stride);
    let (elements, panel) = (w.elements.as_ptr(), panel.as_mut_ptr());
    let registers = columns.clone().step_by(LANES).enumerate();
    let registers = registers.map(|(register, first)| (register * LANES, first, LANES.min(columns.end - first)));
    // SAFETY: rows and columns are those of the matrix; every store lies below `words * stride`
    unsafe {
        if !w.transposed {
            for (i, row) in part.clone().step_by(W::ELEMENTS).enumerate() {
                let there = W::ELEMENTS.min(part.end - row);
                for (lane, first, count) in registers.clone() {
                    let values = W::across(elements.add(row * w.cols + first), w.cols, there, ends(count));
                    _mm512_storeu_ps(panel.add(i * stride + lane), values);
                }
            }
            return;
        }
        for (lane, first, count) in registers {
            for word in (0..words).step_by(LANES) {
                let from = part.start + word * W::ELEMENTS;
                let deep = (LANES * W::ELEMENTS).min(part.end - from);
                let mut rows = [_mm512_setzero_ps(); LANES];
                for (i, row) in rows.iter_mut().enumerate().take(count) {
                    *row = W::along(elements.add((first + i) * w.cols + from), deep);
                }
                let to = panel.add(word * stride + lane);
                for (i, row) in transpose(rows).iter().enumerate().take(words - word) {
                    _mm512_storeu_ps(to.add(i * stride), *row);
                }
            }
        }
    }
}

/// Rounds `factor` times a matrix `[rows, elements]` on the left of a product to pairs of bf16 numbers, `[rows, words]`.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL and BF16; element `[i, k]` is readable at `i * stride + k`, or, `transposed`, at `k * stride + i`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn round_left(
    from: *const f32,
    stride: usize,
    [rows, elements]: [usize; 2],
    transposed: bool,
    factor: f32,
    to: &mut [f32],
) {
    let words = elements.div_ceil(2);
    assert!(to.len() >= rows * words, "too few words");
    let (to, factor) = (to.as_mut_ptr(), _mm512_set1_ps(factor));
    // SAFETY: the caller's promise; every store lies below `rows * words`
    unsafe {
        if !transposed {
            for row in 0..rows {
                let (from, to) = (from.add(row * stride), to.add(row * words));
                for word in (0..words).step_by(LANES) {
                    let values = Rounded::scaled_along(from.add(2 * word), elements - 2 * word, factor);
                    _mm512_mask_storeu_ps(to.add(word), ends(words - word), values);
                }
            }
            return;
        }
        for word in (0..words).step_by(LANES) {
            for row in (0..rows).step_by(LANES) {
                let (mask, mut square) = (ends(rows - row), [_mm512_setzero_ps(); LANES]);
                for i in 0..LANES.min(words - word) {
                    let element = 2 * (word + i);
                    let from = from.add(element * stride + row);
                    square[i] = Rounded::scaled_across(from, stride, elements - element, mask, factor);
                }
                let (square, mask) = (transpose(square), ends(words - word));
                for i in 0..LANES.min(rows - row) {
                    _mm512_mask_storeu_ps(to.add((row + i) * words + word), mask, square[i]);
                }
            }
        }
    }
}

/// Rounds a row to pairs of bf16 numbers, which take the place of its first half.
///
/// # Panics
/// When its numbers are not f32, or the machine has no AVX-512-BF16.
pub(super) fn round_row<T: Real>(row: &mut [T]) {
    assert!(TypeId::of::<T>() == TypeId::of::<f32>() && has_pairs(), "rows of f32, and AVX-512-BF16");
    // SAFETY: the instructions were found, and a T is an f32
    unsafe { round_in_place(row.as_mut_ptr().cast(), row.len()) }
}

/// [`round_row`] of so many elements.
///
/// # Safety
/// As [`round_left`]; the row's numbers are readable and writable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn round_in_place(row: *mut f32, elements: usize) {
    let (words, one) = (elements.div_ceil(2), _mm512_set1_ps(1.0));
    for word in (0..words).step_by(LANES) {
        // SAFETY: the caller's promise; what is written has been read, here or before
        unsafe {
            let values = Rounded::scaled_along(row.add(2 * word), elements - 2 * word, one);
            _mm512_mask_storeu_ps(row.add(word), ends(words - word), values);
        }
    }
}

/// Reads the lanes that `mask` names, and zeros for the others. Where these are all, a load without a mask is faster on some processors.
///
/// # Safety
/// The machine has AVX-512 F; the named lanes are readable.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load(from: *const f32, mask: u16) -> __m512 {
    // SAFETY: the caller's promise
    unsafe { if mask == u16::MAX { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(mask, from) } }
}

/// [`load`] of 16 bf16 numbers.
///
/// # Safety
/// As there, and the machine has AVX-512 BW and VL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_half(from: *const bf16, mask: u16) -> __m256i {
    // SAFETY: the caller's promise; a bf16 is its 16 bits
    unsafe {
        match mask == u16::MAX {
            true => _mm256_loadu_si256(from.cast()),
            false => _mm256_maskz_loadu_epi16(mask, from.cast()),
        }
    }
}

/// What a panel is packed from, to be fetched into the nearest caches while products with the panel before it are computed.
pub(super) struct Ahead {
    first: *const u8,
    /// Rows of memory that hold it.
    rows: usize,
    /// Bytes from one row to the next, and of a row.
    stride: usize,
    bytes: usize,
}

impl Ahead {
    /// The panel of [`pack`].
    pub fn of<E>(w: Frozen<'_, E>, part: Range<usize>, columns: Range<usize>) -> Self {
        let (rows, along) = if w.transposed { (columns, part) } else { (part, columns) };
        Self {
            first: w.elements.as_ptr().wrapping_add(rows.start * w.cols + along.start).cast(),
            rows: rows.len(),
            stride: w.cols * size_of::<E>(),
            bytes: along.len() * size_of::<E>(),
        }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { first: std::ptr::null(), rows: 0, stride: 0, bytes: 0 }
    }

    /// Fetches the share of a panel that falls to the rows `done` of `all` that are multiplied.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn fetch(&self, done: Range<usize>, all: usize) {
        for row in share(self.rows, done, all) {
            let first = self.first.wrapping_add(row * self.stride);
            for byte in (0..self.bytes).step_by(64) {
                // a hint: nothing is read, and any address will do
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(byte).cast());
            }
        }
    }
}

/// Which of `rows` are fetched while the rows `done` of `all` are multiplied: none in the first half, after which the rows that follow would drive them out of
/// the cache again.
#[inline]
fn share(rows: usize, done: Range<usize>, all: usize) -> Range<usize> {
    let late = all / 2;
    let (done, all) = (done.start.max(late) - late..done.end.max(late) - late, all - late);
    rows * done.start / all..rows * done.end / all
}

/// A 16 x 16 matrix in registers, transposed: squares of side 1, 2, 4 and 8 change places across the diagonal.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
    exchange::<8>(exchange::<4>(exchange::<2>(exchange::<1>(rows))))
}

/// Of each two rows that are `SIDE` apart, the first keeps its left squares and takes the second's left ones; the second takes the first's right ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange<const SIDE: usize>(mut rows: [__m512; LANES]) -> [__m512; LANES] {
    let [first, second] = const { exchanged(SIDE) };
    // SAFETY: an array of 16 i32 has the size of a register
    let [first, second] = unsafe { [_mm512_loadu_epi32(first.as_ptr()), _mm512_loadu_epi32(second.as_ptr())] };
    for i in 0..LANES {
        if i & SIDE == 0 {
            let (a, b) = (rows[i], rows[i + SIDE]);
            rows[i] = _mm512_permutex2var_ps(a, first, b);
            rows[i + SIDE] = _mm512_permutex2var_ps(a, second, b);
        }
    }
    rows
}

/// Where the lanes of both rows come from: below 16 the first row's, from there on the second's.
const fn exchanged(side: usize) -> [[i32; LANES]; 2] {
    let mut lanes = [[0; LANES]; 2];
    let mut lane = 0;
    while lane < LANES {
        let left = lane & side == 0;
        lanes[0][lane] = if left { lane } else { LANES + lane - side } as i32;
        lanes[1][lane] = if left { lane + side } else { LANES + lane } as i32;
        lane += 1;
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_panel_is_fetched_once_and_in_order() {
        for (all, rows) in [(8, 48), (16, 48), (24, 5), (688, 48), (1000, 384)] {
            let mut next = 0;
            for done in (0..all).step_by(8) {
                let share = share(rows, done..done + 8, all);
                assert!(share.start == next && share.end >= share.start, "{all} rows: {share:?} behind {next}");
                assert!(share.is_empty() || 2 * (done + 8) > all, "{all} rows: {share:?} in the first half");
                next = share.end;
            }
            assert_eq!(next, rows);
        }
    }
}
