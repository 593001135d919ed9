//! The operands of a gate's small products, copied from the rows of a tile to contiguous memory: as they are, transposed, or as pairs.
//!
//! Tile, panel and `N` registers of columns are `gate`'s; what a lane of an operand holds is the vector's ([`Vector::ELEMENTS`]).

use super::vector::Vector;

/// Registers of operands of a panel of [`super::gate::backward`], at most: each is `ELEMENTS` registers of columns.
pub(super) const WIDE: usize = 4;

/// Reads `N` registers of listed row `k` of a tile, zeros where there is no such row.
///
/// # Safety
/// `src` is readable at every `offsets[k] * width` plus the registers.
#[inline(always)]
unsafe fn row<V: Vector, const N: usize>(src: *const V::Element, offsets: &[usize], k: usize, width: usize) -> [V; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = [V::zero(); N];
        if k < offsets.len() {
            for n in 0..N {
                row[n] = V::load(src.add(offsets[k] * width + n * V::LANES));
            }
        }
        row
    }
}

/// Copies `N` registers of each listed row of a tile to contiguous memory: an operand whose summed dimension is the rows.
///
/// # Safety
/// As [`row`] for all rows, `panel` writable for all of them.
#[inline(always)]
pub(super) unsafe fn gather<V: Vector, const N: usize>(
    src: *const V::Element,
    offsets: &[usize],
    width: usize,
    panel: *mut V::Element,
) {
    for lane in 0..offsets.len().div_ceil(V::ELEMENTS) {
        // SAFETY: the caller's promise.
        unsafe {
            let first = row::<V, N>(src, offsets, lane * V::ELEMENTS, width);
            let second = if V::ELEMENTS > 1 { row(src, offsets, lane * V::ELEMENTS + 1, width) } else { first };
            for n in 0..N {
                V::store(V::across([first[n], second[n]]), panel.add((lane * N + n) * V::LANES));
            }
        }
    }
}

/// Registers of an operand whose summed dimension is `N` registers of columns.
pub(super) const fn deep<V: Vector>(registers: usize) -> usize {
    registers.div_ceil(V::ELEMENTS)
}

/// Copies `N` registers of listed row `k` of a tile, or zeros where there is no such row: a row of an operand whose summed dimension is the columns.
///
/// # Safety
/// As [`row`], `to` writable for [`deep`] registers.
#[inline(always)]
pub(super) unsafe fn gather_along<V: Vector, const N: usize>(
    src: *const V::Element,
    offsets: &[usize],
    k: usize,
    width: usize,
    to: *mut V::Element,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let row = row::<V, N>(src, offsets, k, width);
        for register in 0..deep::<V>(N) {
            let first = register * V::ELEMENTS;
            let second = if first + 1 < N { row[first + 1] } else { V::zero() };
            V::store(V::along([row[first], second]), to.add(register * V::LANES));
        }
    }
}

/// Copies `N` registers of each listed row of a tile, transposed to `[columns, padded]`, or as many lanes of columns; rows that only pad are zero.
///
/// # Safety
/// As [`row`] for all rows; `to` is writable for [`deep`] registers' rows of `padded`, a multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn gather_transposed<V: Vector, const N: usize>(
    src: *const V::Element,
    offsets: &[usize],
    width: usize,
    to: *mut V::Element,
    padded: usize,
) {
    if V::ELEMENTS > 1 {
        // SAFETY: the caller's promise.
        return unsafe { gather_transposed_pairs::<V, N>(src, offsets, width, to, padded) };
    }
    let zeros = [V::Element::default(); 16];
    for first in (0..padded).step_by(V::LANES) {
        for n in 0..N {
            let mut rows = [zeros.as_ptr(); 16];
            for i in 0..V::LANES.min(offsets.len() - first) {
                // SAFETY: the caller's promise.
                rows[i] = unsafe { src.add(offsets[first + i] * width + n * V::LANES) };
            }
            // SAFETY: the caller's promise; a padding row is one register of zeros.
            unsafe { V::transpose_to(&rows, to.add(n * V::LANES * padded + first), padded) };
        }
    }
}

/// [`gather_transposed`] where lanes hold pairs, which are made before they are transposed.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn gather_transposed_pairs<V: Vector, const N: usize>(
    src: *const V::Element,
    offsets: &[usize],
    width: usize,
    to: *mut V::Element,
    padded: usize,
) {
    const { assert!(V::ELEMENTS == 1 || V::LANES == 16 && deep::<V>(N) <= WIDE, "a block of 16 rows of registers") };
    let mut block = [[[V::Element::default(); 16]; WIDE]; 16];
    for first in (0..padded).step_by(V::LANES) {
        for (i, row) in block.iter_mut().enumerate() {
            // SAFETY: the caller's promise; a row of the block has as many registers as N makes.
            unsafe {
                gather_along::<V, N>(src, offsets, first + i, width, row.as_flattened_mut().as_mut_ptr());
            }
        }
        for register in 0..deep::<V>(N) {
            let rows: [_; 16] = std::array::from_fn(|i| block[i][register].as_ptr());
            // SAFETY: the caller's promise.
            unsafe { V::transpose_to(&rows, to.add(register * V::LANES * padded + first), padded) };
        }
    }
}

/// Copies `N` registers of each listed row of a tile, half a register of rows at most, as `all_halves` wants them: two columns, or lanes of columns, of
/// every row beside each other. Rows that only pad are zero.
///
/// # Safety
/// As [`row`] for all rows; `to` is writable for as many registers as half of [`deep`] registers have lanes.
#[inline(always)]
pub(super) unsafe fn gather_halves<V: Vector, const N: usize>(
    src: *const V::Element,
    offsets: &[usize],
    width: usize,
    to: *mut V::Element,
) {
    // of single numbers, at most as many registers are asked for, too
    const { assert!(V::ELEMENTS == 1 || deep::<V>(N) <= WIDE, "an operand of as many registers") };
    debug_assert!(deep::<V>(N) <= WIDE);
    let zeros = [V::Element::default(); 16 * WIDE];
    let (mut operands, mut rows) = ([zeros; 8], [zeros.as_ptr(); 8]);
    for i in 0..offsets.len() {
        // SAFETY: the caller's promise; an operand has as many registers as N makes.
        rows[i] = unsafe {
            if V::ELEMENTS > 1 {
                gather_along::<V, N>(src, offsets, i, width, operands[i].as_mut_ptr());
                operands[i].as_ptr()
            } else {
                src.add(offsets[i] * width)
            }
        };
    }
    for register in 0..deep::<V>(N) {
        // SAFETY: as above.
        unsafe {
            let columns = V::transpose_two(&rows.map(|row| row.add(register * V::LANES)));
            for (column, values) in columns.into_iter().enumerate().take(V::LANES / 2) {
                values.store(to.add((register * V::LANES / 2 + column) * V::LANES));
            }
        }
    }
}
