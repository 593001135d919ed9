//! One gate on one tile of tokens, forward and backward: where all the time goes.
//!
//! A tile holds its features as rows and its tokens as columns (tokens innermost), so every gate on any axes is, for each index of the other axes, one
//! small product `Y = G X` whose rows lie at fixed offsets and whose columns are contiguous. Symbols: `G` the gate `[rows, cols]`, `X`/`Y` its input
//! and output, `dX`/`dY` their gradients, `S` the sums `dG`. A panel is up to three vector registers of columns, backward up to four of operands, whose lanes
//! hold one number or a pair ([`Vector::ELEMENTS`]). The innermost loop keeps a block of gate rows times one panel in registers; its operand with `cols` rows is copied to contiguous memory first, which keeps strides of a power of two from
//! evicting one another from the first-level cache, and lets `Y` overwrite `X`.
//! The lanes of `S` are its columns; the last ones, where they fill half a register at most, are summed for two tokens at once ([`half`]).
//!
//! The functions are generic over the vector type and are compiled once for each instruction set by `vector`; which tiles exist is `tiled`'s concern.

use super::operands::{WIDE, deep, gather, gather_along, gather_halves, gather_transposed};
use super::packing::row_block;
use super::schedule::Step;
use super::vector::Vector;

/// Arguments of [`forward`]. The pointers are valid for the lengths given; only `src` and `dst` may be the same, and only where the step fits in place.
pub(crate) struct ForwardGate<'a, T> {
    /// The gate's loops.
    pub step: &'a Step,
    /// `G`, packed as the kernel wants it.
    pub packed: *const T,
    /// `X`: `[step.in_len(), width]`.
    pub src: *const T,
    /// `Y`: `[step.out_len(), width]`.
    pub dst: *mut T,
    /// Tokens in the tile, a multiple of the lanes.
    pub width: usize,
    /// Scratch of as many numbers as the kernel asks for.
    pub panel: *mut T,
}

/// Arguments of [`backward`]. The pointers are valid for the lengths given; only `dy` and `dx` may be the same, and only where the step fits in place.
pub(crate) struct BackwardGate<'a, T> {
    /// The gate's loops.
    pub step: &'a Step,
    /// `G^t`, packed as the kernel wants it.
    pub packed: *const T,
    /// `X`: `[step.in_len(), width]`.
    pub x: *const T,
    /// `dY`: `[step.out_len(), width]`.
    pub dy: *const T,
    /// `dX`: `[step.in_len(), width]`, overwritten; null where it is not wanted.
    pub dx: *mut T,
    /// `S += dY X^t`: `[rows, cols rounded up to lanes]`; null where it is not wanted. Where the vector has [`Vector::HALVES`] and [`half`] says so, each
    /// column of the last register is two neighbouring numbers, whose sum is meant.
    pub sums: *mut T,
    /// Tokens in the tile, a multiple of the lanes.
    pub width: usize,
    /// Scratch of as many numbers as the kernel asks for.
    pub panel: *mut T,
}

/// Whether the last columns of so many fill at most half a register.
#[inline(always)]
pub(crate) fn half(cols: usize, lanes: usize) -> bool {
    (1..=lanes / 2).contains(&(cols % lanes))
}

/// Registers of columns that meet a block of gate rows together, at most: with `Vector::ROWS` rows, a row of the operand and a value they fit the registers.
const TOGETHER: usize = 3;

/// How many of `left` registers come next: never a single one beside others, whose sums would wait for each other.
#[inline(always)]
fn together(left: usize) -> usize {
    if left == 4 { 2 } else { left.min(TOGETHER) }
}

/// Numbers of scratch that [`forward`] needs for a step.
pub(crate) fn forward_scratch(step: &Step, lanes: usize) -> usize {
    step.cols() * TOGETHER * lanes
}

/// Numbers of scratch that [`backward`] needs for a step: the rows of `dY` and the padded ones of `X`, columns summed over. Rows of `dY` summed over take no
/// more afterwards: half as many lanes, rounded up, of twice the columns where lanes hold pairs.
pub(crate) fn backward_scratch(step: &Step, lanes: usize) -> usize {
    (step.rows() + step.cols().next_multiple_of(lanes)) * WIDE * lanes
}

/// `C[rows r, panel] (+)= sum_k A[r, k] B[k, panel]` for `R` rows and `N` registers, all in registers.
///
/// # Safety
/// `a` is readable at `r * a_row + k * a_depth`, `b` at `k * b_depth` plus the panel, `c` at every `c_rows[r] * c_scale` plus the panel.
#[inline(always)]
unsafe fn block<V: Vector, const R: usize, const N: usize, const ADD: bool>(
    depth: usize,
    mut a: *const V::Element,
    [a_row, a_depth]: [usize; 2],
    mut b: *const V::Element,
    b_depth: usize,
    c: *mut V::Element,
    c_rows: *const usize,
    c_scale: usize,
) {
    // SAFETY: the caller's promise, index by index.
    unsafe {
        let mut acc = [[V::zero(); N]; R];
        for _ in 0..depth {
            let mut x = [V::zero(); N];
            for n in 0..N {
                x[n] = V::load(b.add(n * V::LANES));
            }
            for r in 0..R {
                let g = V::splat(*a.add(r * a_row));
                for n in 0..N {
                    acc[r][n] = V::multiply(g, x[n], acc[r][n]);
                }
            }
            a = a.add(a_depth);
            b = b.add(b_depth);
        }
        for r in 0..R {
            let row = c.add(*c_rows.add(r) * c_scale);
            for n in 0..N {
                let place = row.add(n * V::LANES);
                V::store(if ADD { V::add(V::load(place), acc[r][n]) } else { acc[r][n] }, place);
            }
        }
    }
}

/// [`block`] for all `rows`: blocks of `V::ROWS`, then 4, 2, 1. `a_block` is the distance in `a` from one row to the next between blocks, and
/// `packed` says that a block's rows are adjacent and its depth stride is its height.
///
/// # Safety
/// As [`block`] for every row.
#[inline(always)]
unsafe fn all_rows<V: Vector, const N: usize, const ADD: bool>(
    rows: usize,
    depth: usize,
    a: *const V::Element,
    a_block: usize,
    packed: bool,
    b: *const V::Element,
    b_depth: usize,
    c: *mut V::Element,
    c_rows: *const usize,
    c_scale: usize,
) {
    let mut row = 0;
    while row < rows {
        let height = row_block(rows - row, V::ROWS);
        let strides = if packed { [1, height] } else { [a_block, 1] };
        // SAFETY: the caller's promise; `row + height <= rows`.
        unsafe {
            let (a, c_rows) = (a.add(row * a_block), c_rows.add(row));
            match height {
                8 => block::<V, 8, N, ADD>(depth, a, strides, b, b_depth, c, c_rows, c_scale),
                4 => block::<V, 4, N, ADD>(depth, a, strides, b, b_depth, c, c_rows, c_scale),
                2 => block::<V, 2, N, ADD>(depth, a, strides, b, b_depth, c, c_rows, c_scale),
                _ => block::<V, 1, N, ADD>(depth, a, strides, b, b_depth, c, c_rows, c_scale),
            }
        }
        row += height;
    }
}

/// [`all_rows`] for `registers` of columns, as many [`together`] as fit.
///
/// # Safety
/// As [`all_rows`] for every register of columns.
#[inline(always)]
unsafe fn all_columns<V: Vector, const ADD: bool>(
    registers: usize,
    rows: usize,
    depth: usize,
    a: *const V::Element,
    a_block: usize,
    packed: bool,
    b: *const V::Element,
    b_depth: usize,
    c: *mut V::Element,
    c_rows: *const usize,
    c_scale: usize,
) {
    let mut first = 0;
    while first < registers {
        let count = together(registers - first);
        // SAFETY: the caller's promise; `first + count <= registers`.
        unsafe {
            let (b, c) = (b.add(first * V::LANES), c.add(first * V::LANES));
            match count {
                3 => all_rows::<V, 3, ADD>(rows, depth, a, a_block, packed, b, b_depth, c, c_rows, c_scale),
                2 => all_rows::<V, 2, ADD>(rows, depth, a, a_block, packed, b, b_depth, c, c_rows, c_scale),
                _ => all_rows::<V, 1, ADD>(rows, depth, a, a_block, packed, b, b_depth, c, c_rows, c_scale),
            }
        }
        first += count;
    }
}

/// `Y = G X` on a tile.
///
/// # Safety
/// The arguments keep the promises of [`ForwardGate`], and the machine has `V`'s instructions.
#[inline(always)]
pub(crate) unsafe fn forward<V: Vector>(gate: &ForwardGate<'_, V::Element>) {
    let step = gate.step;
    let run = step.inner * gate.width;
    for outer in 0..step.outer {
        for middle in 0..step.middle {
            let (src, dst) = step.bases(outer, middle);
            let mut column = 0;
            while column < run {
                let registers = together((run - column) / V::LANES);
                // SAFETY: bases, offsets and columns stay inside the tile: base + offset < len, column + panel <= inner * width.
                unsafe {
                    let (src, dst) = (gate.src.add(src * gate.width + column), gate.dst.add(dst * gate.width + column));
                    match registers {
                        3 => forward_panel::<V, 3>(gate, src, dst),
                        2 => forward_panel::<V, 2>(gate, src, dst),
                        _ => forward_panel::<V, 1>(gate, src, dst),
                    }
                }
                column += registers * V::LANES;
            }
        }
    }
}

/// [`forward`] for one panel.
///
/// # Safety
/// As [`forward`]; `src` and `dst` point to the panel's first value.
#[inline(always)]
unsafe fn forward_panel<V: Vector, const N: usize>(
    gate: &ForwardGate<'_, V::Element>,
    src: *const V::Element,
    dst: *mut V::Element,
) {
    let (step, width, panel) = (gate.step, gate.width, gate.panel);
    let (rows, depth) = (step.out_offsets.len(), step.in_offsets.len().div_ceil(V::ELEMENTS));
    // SAFETY: the caller's promise; the panel's columns are all read before any row is written.
    unsafe {
        gather::<V, N>(src, &step.in_offsets, width, panel);
        let out = step.out_offsets.as_ptr();
        all_rows::<V, N, false>(rows, depth, gate.packed, depth, true, panel, N * V::LANES, dst, out, width);
    }
}

/// `dX = G^t dY` and `S += dY X^t` on a tile.
///
/// Panels are up to four registers of operands wide: every panel reads and writes all of `S`, so that a wide panel pays this less often.
///
/// # Safety
/// The arguments keep the promises of [`BackwardGate`], and the machine has `V`'s instructions.
#[inline(always)]
pub(crate) unsafe fn backward<V: Vector>(gate: &BackwardGate<'_, V::Element>) {
    let step = gate.step;
    let run = step.inner * gate.width;
    for outer in 0..step.outer {
        for middle in 0..step.middle {
            let (x, dy) = step.bases(outer, middle);
            let (x, dy) = (x * gate.width, dy * gate.width);
            let mut column = 0;
            while column < run {
                let left = (run - column) / V::LANES;
                let widest = WIDE * V::ELEMENTS;
                let registers = if left >= widest { widest } else { left.min(WIDE) };
                // SAFETY: as in `forward`.
                unsafe {
                    match registers {
                        8 => backward_panel::<V, 8>(gate, x + column, dy + column),
                        4 => backward_panel::<V, 4>(gate, x + column, dy + column),
                        3 => backward_panel::<V, 3>(gate, x + column, dy + column),
                        2 => backward_panel::<V, 2>(gate, x + column, dy + column),
                        _ => backward_panel::<V, 1>(gate, x + column, dy + column),
                    }
                }
                column += registers * V::LANES;
            }
        }
    }
}

/// [`backward`] for one panel of `N` registers, whose first values lie at `x` and `dy` of the tiles.
///
/// # Safety
/// As [`backward`].
#[inline(always)]
unsafe fn backward_panel<V: Vector, const N: usize>(gate: &BackwardGate<'_, V::Element>, x: usize, dy: usize) {
    let (step, width) = (gate.step, gate.width);
    let (rows, cols, span) = (step.out_offsets.len(), step.in_offsets.len(), deep::<V>(N) * V::LANES);
    // SAFETY: the scratch holds `rows` and the padded `cols` rows of a panel; dY is read completely before dX, which may be the same memory, is written.
    unsafe {
        let (dy, dy_panel) = (gate.dy.add(dy), gate.panel);
        if !gate.sums.is_null() {
            let padded = cols.next_multiple_of(V::LANES);
            let x_transposed = dy_panel.add(rows * span);
            for row in 0..rows {
                gather_along::<V, N>(dy, &step.out_offsets, row, width, dy_panel.add(row * span));
            }
            let whole = if V::HALVES && half(cols, V::LANES) { padded - V::LANES } else { padded };
            let (x, (first, last)) = (gate.x.add(x), step.in_offsets.split_at(whole.min(cols)));
            gather_transposed::<V, N>(x, first, width, x_transposed, whole);
            all_columns::<V, true>(
                whole / V::LANES,
                rows,
                span,
                dy_panel,
                span,
                false,
                x_transposed,
                whole,
                gate.sums,
                step.sum_rows.as_ptr(),
                padded,
            );
            if whole < padded {
                let halves = x_transposed.add(span * whole);
                gather_halves::<V, N>(x, last, width, halves);
                all_halves::<V>(rows, span, dy_panel, halves, gate.sums.add(whole), padded);
            }
        }
        if !gate.dx.is_null() {
            // where a lane has one number, both operands that dY makes are the same
            if V::ELEMENTS > 1 || gate.sums.is_null() {
                gather::<V, N>(dy, &step.out_offsets, width, dy_panel);
            }
            let (depth, dx, places) = (rows.div_ceil(V::ELEMENTS), gate.dx.add(x), step.in_offsets.as_ptr());
            all_columns::<V, false>(
                N,
                cols,
                depth,
                gate.packed,
                depth,
                true,
                dy_panel,
                N * V::LANES,
                dx,
                places,
                width,
            );
        }
    }
}

/// `S[r, k] += sum_c dY[r, c] X^t[c, k]` for columns k that fill at most half a register: the sums over even and odd c are neighbours in `sums`.
///
/// # Safety
/// `dy` is `[rows, span]`, `x` is `[span / 2]` registers; `sums` is writable for a register every `stride` numbers, `rows` times.
#[inline(always)]
unsafe fn all_halves<V: Vector>(
    rows: usize,
    span: usize,
    dy: *const V::Element,
    x: *const V::Element,
    sums: *mut V::Element,
    stride: usize,
) {
    let mut row = 0;
    while row < rows {
        let height = row_block(rows - row, V::ROWS);
        // SAFETY: the caller's promise; `row + height <= rows`.
        unsafe {
            let (dy, sums) = (dy.add(row * span), sums.add(row * stride));
            match height {
                8 => half_block::<V, 8>(span, dy, x, sums, stride),
                4 => half_block::<V, 4>(span, dy, x, sums, stride),
                2 => half_block::<V, 2>(span, dy, x, sums, stride),
                _ => half_block::<V, 1>(span, dy, x, sums, stride),
            }
        }
        row += height;
    }
}

/// [`all_halves`] for `R` rows: two registers of sums a row, so that no sum waits for the one before it.
///
/// # Safety
/// As there; `span` is a multiple of 4.
#[inline(always)]
unsafe fn half_block<V: Vector, const R: usize>(
    span: usize,
    mut dy: *const V::Element,
    mut x: *const V::Element,
    sums: *mut V::Element,
    stride: usize,
) {
    // SAFETY: the caller's promise, index by index.
    unsafe {
        let mut acc = [[V::zero(); 2]; R];
        for _ in 0..span / 4 {
            for n in 0..2 {
                let x = V::load(x.add(n * V::LANES));
                for r in 0..R {
                    acc[r][n] = V::multiply(V::splat_two(dy.add(r * span + 2 * n)), x, acc[r][n]);
                }
            }
            dy = dy.add(4);
            x = x.add(2 * V::LANES);
        }
        for r in 0..R {
            let place = sums.add(r * stride);
            V::store(V::add(V::load(place), V::add(acc[r][0], acc[r][1])), place);
        }
    }
}
