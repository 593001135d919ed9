//! Operands of [`super::tiles`] as the unit takes them: rows cut or rounded to bf16, and panels of frozen matrices, in steps of 32 along the summed dimension.
//!
//! A step and its words are those of [`quanta_circuit::unit`].

use quanta_circuit::unit::{SIDE, STEP};

use super::rounded::round_pairs;
use super::vector::widest;

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
    pub(super) fn cut(rows: &[f32], k: usize, high: &mut [u32], low: &mut [u32]) {
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

    /// As [`cut`], each number rounded to one.
    pub(super) fn round(rows: &[f32], k: usize, to: &mut [u32]) {
        if rows.len() < SIDE * k || !k.is_multiple_of(SIDE) {
            to.fill(0);
        }
        for (index, row) in rows.chunks_exact(k).enumerate() {
            for (step, numbers) in row.chunks(SIDE).enumerate() {
                let to = &mut to[step * STEP + index * (SIDE / 2)..][..numbers.len().div_ceil(2)];
                round_pairs(numbers, to);
            }
        }
    }

    /// A panel of a matrix whose rows are summed along: 32 rows from `first` on, their elements from `from` on, zeros where there are none.
    pub(super) fn pack_rows(w: &[u16], cols: usize, first: usize, from: usize, to: &mut [u32]) {
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
    pub(super) fn pack_columns(w: &[u16], cols: usize, first: usize, from: usize, to: &mut [u32]) {
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
}

#[cfg(test)]
mod tests {
    use quanta_circuit::unit::low;

    use super::*;
    use crate::tensor::Stream;

    #[test]
    fn parts_add_up_and_keep_what_is_infinite_or_no_number() {
        let mut bits = vec![0, 1, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff];
        let mut stream = Stream::new(3, "test", "bits");
        bits.extend((0..10_000).map(|_| stream.below(1 << 32) as u32));
        for x in bits.into_iter().map(f32::from_bits) {
            let (upper, lower) = upper_and_rest(x);
            assert_eq!((upper | lower) >> 16, 0, "{x:e}: sixteen bits each");
            let (upper, lower) = (low(upper), low(lower));
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
}
