//! One gate on one tile of tokens in the arithmetic of matrix units: gates and features as sums of two bf16 numbers.
//!
//! A number is `h + l` but for 2^-17 of it, `h` the nearest bf16 number and `l` the nearest to what is left; a product `a b` is `ah bh + al bh + ah bl` in
//! sums of f32: met but for 2^-15, mostly far less. The three are one longer product for the unit: its left operand holds the steps of
//! `ah`, `al`, `ah`, its right one those of `bh`, `bh`, `bl`.
//! What is multiplied is what `gate` says: `Y = G X`, `dX = G^t dY` and `S += dY X^t`. Of what is infinite, and of results that
//! overflow, NaN may come where f32 has an infinite number.
//!
//! Layout of operands, in words of [`unit`]: a packed gate is `[blocks of 32 rows][3 parts][steps of 32 columns]`, what stands on the right of it one such
//! `[3 parts][steps]` for 32 columns of tokens. For `S` both operands have steps of 32 tokens.

use std::slice;

use super::gate::{BackwardGate, ForwardGate};
use super::schedule::Step;
use super::unit::{BLOCK, Blocks, HALF, SIDE, STEP, words};
use super::vector::Vector;

/// Steps of tokens that gradients of a gate are summed over before they are added to memory.
const DEPTH: usize = 2;

/// Numbers of a gate, packed: of a matrix and of its transpose alike.
pub(crate) fn packed_len(rows: usize, cols: usize) -> usize {
    rows.div_ceil(SIDE) * operand_len(cols.div_ceil(SIDE))
}

/// Words of 32 rows or columns in three parts.
fn operand_len(steps: usize) -> usize {
    3 * steps * STEP
}

/// Numbers of scratch that [`forward`] needs for a step.
pub(crate) fn forward_scratch(step: &Step, _lanes: usize) -> usize {
    BLOCK + operand_len(step.cols().div_ceil(SIDE))
}

/// Numbers of scratch that [`backward`] needs for a step.
pub(crate) fn backward_scratch(step: &Step, _lanes: usize) -> usize {
    let (rows, cols) = (step.rows().div_ceil(SIDE), step.cols().div_ceil(SIDE));
    BLOCK + operand_len(rows) + (rows + cols) * operand_len(DEPTH)
}

/// The bits of two bf16 numbers whose sum is x but for 2^-17 of it. Beyond the largest bf16 number, the first is that; what is infinite has
/// no rest, and what is not a number stays one.
#[inline(always)]
fn parts(x: f32) -> (u32, u32) {
    const INFINITE: u32 = 0x7f80_0000;
    const LARGEST: u32 = 0x7f7f;
    let (sign, size) = (x.to_bits() & 0x8000_0000, x.to_bits() & 0x7fff_ffff);
    let nearest = |bits: u32| (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    let beyond = size >> 16 | if size > INFINITE { 0x40 } else { 0 };
    let high = sign >> 16 | if size < INFINITE { nearest(size).min(LARGEST) } else { beyond };
    let rest = if size < INFINITE { x - f32::from_bits(high << 16) } else { 0.0 };
    (high, nearest(rest.to_bits()))
}

/// Packs the matrix whose element `[r, k]` is `gates[rows[r] + cols[k]]`, as left operands.
pub(crate) fn pack(gates: &[f32], rows: &[usize], cols: &[usize], packed: &mut [f32]) {
    let (steps, packed) = (cols.len().div_ceil(SIDE), words(packed));
    packed.fill(0);
    for (rows, block) in rows.chunks(SIDE).zip(packed.chunks_exact_mut(operand_len(steps))) {
        for (r, row) in rows.iter().enumerate() {
            for (k, col) in cols.iter().enumerate() {
                let (high, low) = parts(gates[row + col]);
                let at = k / SIDE * STEP + r * HALF + k % SIDE / 2;
                for (part, bits) in [high, low, high].into_iter().enumerate() {
                    block[part * steps * STEP + at] |= bits << (16 * (k % 2));
                }
            }
        }
    }
}

/// Rows of a tile, some of them and some of their columns.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// The first row's first column.
    first: *const f32,
    /// Distance of each row, in rows of the tile.
    offsets: &'a [usize],
    /// Numbers of a row of the tile.
    width: usize,
    /// Columns meant, whole halves of a block.
    columns: usize,
}

impl Rows<'_> {
    /// Half a block's columns of a row.
    ///
    /// # Safety
    /// The row's columns are readable and nobody writes them meanwhile.
    #[inline(always)]
    unsafe fn half(&self, row: usize, half: usize) -> [f32; HALF] {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(self.offsets[row] * self.width + half * HALF).cast::<[f32; HALF]>().read_unaligned() }
    }

    /// The right operand whose summed dimension is the rows: pairs of rows, at most 32 columns. Columns that are not meant are left as they are.
    ///
    /// # Safety
    /// As [`Self::half`] for all of it.
    #[inline(always)]
    unsafe fn summed_by_rows(&self, to: &mut [u32]) {
        let (high, rest) = to.split_at_mut(to.len() / 3);
        let (again, low) = rest.split_at_mut(high.len());
        // pairs beyond the last row are zero: what meets them is, too, but zero times anything is not zero
        for pair in 0..high.len() / SIDE {
            for half in 0..self.columns / HALF {
                let row = |row: usize| {
                    // SAFETY: the caller's promise.
                    if row < self.offsets.len() { unsafe { self.half(row, half) } } else { [0.0; HALF] }
                };
                let (even, odd) = (row(2 * pair), row(2 * pair + 1));
                let at = pair / HALF * STEP + half * (STEP / 2) + pair % HALF * HALF;
                let to = [&mut high[at..at + HALF], &mut again[at..at + HALF], &mut low[at..at + HALF]];
                for j in 0..HALF {
                    let (even, odd) = (parts(even[j]), parts(odd[j]));
                    to[0][j] = even.0 | odd.0 << 16;
                    to[1][j] = to[0][j];
                    to[2][j] = even.1 | odd.1 << 16;
                }
            }
        }
    }

    /// Both parts of half a block's columns as pairs of columns, zeros beyond the rows and columns meant.
    ///
    /// # Safety
    /// As [`Self::half`].
    #[inline(always)]
    unsafe fn pairs(&self, row: usize, step: usize) -> [[u32; HALF]; 2] {
        let mut pairs = [[0; HALF]; 2];
        for half in 0..2 {
            if row >= self.offsets.len() || step * SIDE + half * HALF >= self.columns {
                continue;
            }
            // SAFETY: the caller's promise.
            let numbers = unsafe { self.half(row, 2 * step + half) };
            for i in 0..HALF / 2 {
                let (even, odd) = (parts(numbers[2 * i]), parts(numbers[2 * i + 1]));
                pairs[0][half * (HALF / 2) + i] = even.0 | odd.0 << 16;
                pairs[1][half * (HALF / 2) + i] = even.1 | odd.1 << 16;
            }
        }
        pairs
    }

    /// The left operands whose summed dimension is the columns, one for each 32 rows.
    ///
    /// # Safety
    /// As [`Self::half`] for all of it.
    #[inline(always)]
    unsafe fn summed_by_columns(&self, steps: usize, to: &mut [u32]) {
        for (block, to) in to.chunks_exact_mut(operand_len(steps)).enumerate() {
            for row in 0..SIDE {
                for step in 0..steps {
                    // SAFETY: the caller's promise.
                    let [high, low] = unsafe { self.pairs(block * SIDE + row, step) };
                    for (part, pairs) in [high, low, high].into_iter().enumerate() {
                        to[(part * steps + step) * STEP + row * HALF..][..HALF].copy_from_slice(&pairs);
                    }
                }
            }
        }
    }

    /// The right operands whose summed dimension is the columns: the transposed rows, one for each 32 of them.
    ///
    /// # Safety
    /// As [`Self::half`] for all of it, and the machine has `V`'s instructions, whose registers hold half a block.
    #[inline(always)]
    unsafe fn transposed<V: Vector<Element = f32>>(&self, steps: usize, to: &mut [u32]) {
        for (block, to) in to.chunks_exact_mut(operand_len(steps)).enumerate() {
            for half in 0..2 {
                for step in 0..steps {
                    let mut pairs = [[[0; HALF]; HALF]; 2];
                    for row in 0..HALF {
                        // SAFETY: the caller's promise.
                        let [high, low] = unsafe { self.pairs(block * SIDE + half * HALF + row, step) };
                        (pairs[0][row], pairs[1][row]) = (high, low);
                    }
                    for (part, which) in [0, 0, 1].into_iter().enumerate() {
                        let to = &mut to[(part * steps + step) * STEP + half * (STEP / 2)..][..HALF * HALF];
                        let rows: [*const f32; HALF] = std::array::from_fn(|row| pairs[which][row].as_ptr().cast());
                        // SAFETY: sixteen rows of sixteen words each, which are moved and not computed with; `to` holds as many.
                        unsafe { V::transpose_to(&rows, to.as_mut_ptr().cast(), HALF) };
                    }
                }
            }
        }
    }
}

/// `C = A B` for a packed matrix and one right operand: rows of the tile at `to`, written over.
///
/// # Safety
/// `to` is writable at every `offsets[r] * width` for `columns` numbers.
#[inline(always)]
unsafe fn product(
    blocks: &impl Blocks,
    packed: &[u32],
    right: &[u32],
    sums: &mut [f32],
    to: *mut f32,
    offsets: &[usize],
    width: usize,
    columns: usize,
) {
    for (left, offsets) in packed.chunks_exact(right.len()).zip(offsets.chunks(SIDE)) {
        blocks.multiply(left, right, sums, true);
        for (row, offset) in sums.chunks_exact(SIDE).zip(offsets) {
            // SAFETY: the caller's promise.
            unsafe { to.add(offset * width).copy_from_nonoverlapping(row.as_ptr(), columns) };
        }
    }
}

/// A packed gate's words and a scratch.
///
/// # Safety
/// Both are there for as many numbers, and nobody else uses the scratch.
#[inline(always)]
unsafe fn slices<'a>(packed: (*const f32, usize), scratch: (*mut f32, usize)) -> (&'a [u32], &'a mut [f32]) {
    // SAFETY: the caller's promise; every bit pattern is a value of both types.
    unsafe { (slice::from_raw_parts(packed.0.cast(), packed.1), slice::from_raw_parts_mut(scratch.0, scratch.1)) }
}

/// `Y = G X` on a tile.
///
/// # Safety
/// The arguments keep the promises of [`ForwardGate`], with [`packed_len`] and [`forward_scratch`] of this module.
#[inline(always)]
pub(crate) unsafe fn forward(gate: &ForwardGate<'_, f32>, blocks: &impl Blocks) {
    let (step, width) = (gate.step, gate.width);
    let run = step.inner * width;
    let packed = (gate.packed, packed_len(step.rows(), step.cols()));
    // SAFETY: the caller's promise of both lengths.
    let (packed, scratch) = unsafe { slices(packed, (gate.panel, forward_scratch(step, HALF))) };
    let (sums, right) = scratch.split_at_mut(BLOCK);
    let right = words(right);
    for (outer, middle) in step.loops() {
        let (src, dst) = step.bases(outer, middle);
        for column in (0..run).step_by(SIDE) {
            let columns = SIDE.min(run - column);
            // SAFETY: bases, offsets and columns stay inside the tile; all columns are read before any is written.
            unsafe {
                let first = gate.src.add(src * width + column);
                Rows { first, offsets: &step.in_offsets, width, columns }.summed_by_rows(right);
                let to = gate.dst.add(dst * width + column);
                product(blocks, packed, right, sums, to, &step.out_offsets, width, columns);
            }
        }
    }
}

/// `dX = G^t dY` and `S += dY X^t` on a tile.
///
/// # Safety
/// The arguments keep the promises of [`BackwardGate`], with [`packed_len`] and [`backward_scratch`] of this module, and the machine has `V`'s
/// instructions; a register holds half a block.
#[inline(always)]
pub(crate) unsafe fn backward<V: Vector<Element = f32>>(gate: &BackwardGate<'_, f32>, blocks: &impl Blocks) {
    let (step, width) = (gate.step, gate.width);
    let run = step.inner * width;
    let packed = (gate.packed, packed_len(step.cols(), step.rows()));
    // SAFETY: the caller's promise of both lengths.
    let (packed, scratch) = unsafe { slices(packed, (gate.panel, backward_scratch(step, HALF))) };
    let (sums, scratch) = scratch.split_at_mut(BLOCK);
    let (right, scratch) = words(scratch).split_at_mut(operand_len(step.rows().div_ceil(SIDE)));
    for (outer, middle) in step.loops() {
        let (x, dy) = step.bases(outer, middle);
        for column in (0..run).step_by(DEPTH * SIDE) {
            let columns = (DEPTH * SIDE).min(run - column);
            // SAFETY: as in `forward`; dX, which may be dY's memory, is written only where dY has been read.
            unsafe {
                let dy = gate.dy.add(dy * width + column);
                if !gate.sums.is_null() {
                    let x = Rows { first: gate.x.add(x * width + column), offsets: &step.in_offsets, width, columns };
                    let dy = Rows { first: dy, offsets: &step.out_offsets, width, columns };
                    add_products::<V>(blocks, dy, x, scratch, sums, gate.sums);
                }
                if gate.dx.is_null() {
                    continue;
                }
                for from in (0..columns).step_by(SIDE) {
                    let columns = SIDE.min(columns - from);
                    Rows { first: dy.add(from), offsets: &step.out_offsets, width, columns }.summed_by_rows(right);
                    let to = gate.dx.add(x * width + column + from);
                    product(blocks, packed, right, sums, to, &step.in_offsets, width, columns);
                }
            }
        }
    }
}

/// `S += dY X^t` over some columns; `totals` are `S`, `[rows, cols rounded up to half a block]`.
///
/// # Safety
/// As [`Rows::half`] for both, and `totals` is writable for all rows; the machine has `V`'s instructions.
#[inline(always)]
unsafe fn add_products<V: Vector<Element = f32>>(
    blocks: &impl Blocks,
    dy: Rows<'_>,
    x: Rows<'_>,
    scratch: &mut [u32],
    sums: &mut [f32],
    totals: *mut f32,
) {
    let (rows, padded) = (dy.offsets.len(), x.offsets.len().next_multiple_of(HALF));
    let steps = dy.columns.div_ceil(SIDE);
    let (left, right) = scratch.split_at_mut(rows.div_ceil(SIDE) * operand_len(steps));
    let right = &mut right[..padded.div_ceil(SIDE) * operand_len(steps)];
    // SAFETY: the caller's promise.
    unsafe {
        dy.summed_by_columns(steps, left);
        x.transposed::<V>(steps, right);
    }
    for (block, left) in left.chunks_exact(operand_len(steps)).enumerate() {
        for (col_block, right) in right.chunks_exact(operand_len(steps)).enumerate() {
            blocks.multiply(left, right, sums, true);
            for (r, sums) in sums.chunks_exact(SIDE).take(rows - block * SIDE).enumerate() {
                for half in 0..(padded / HALF - 2 * col_block).min(2) {
                    // SAFETY: a half of a row that `totals` has.
                    unsafe {
                        let to = totals.add((block * SIDE + r) * padded + col_block * SIDE + half * HALF);
                        for (j, sum) in sums[half * HALF..][..HALF].iter().enumerate() {
                            *to.add(j) += sum;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::low;

    #[test]
    fn parts_add_up_and_keep_what_is_infinite_or_no_number() {
        let mut bits =
            vec![0, 1, 0x3f80_8000, 0x3f81_8000, 0x7f7f_7fff, 0x7f7f_8000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, !0];
        bits.extend((0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761)));
        for x in bits.into_iter().flat_map(|bits| [bits, bits ^ 0x8000_0000]).map(f32::from_bits) {
            let (upper, lower) = parts(x);
            assert_eq!((upper | lower) >> 16, 0, "{x:e}: sixteen bits each");
            let (upper, lower) = (low(upper), low(lower));
            if !x.is_finite() {
                assert!((upper == x || upper.is_nan() && x.is_nan()) && lower == 0.0, "{x}: {upper} and {lower}");
                continue;
            }
            let error = (f64::from(upper) + f64::from(lower) - f64::from(x)).abs();
            assert!(error <= 0.5f64.powi(17) * f64::from(x).abs() + 2f64.powi(-134), "{x:e}: {upper:e} and {lower:e}");
        }
    }
}
