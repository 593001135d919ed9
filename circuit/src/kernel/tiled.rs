//! The fast kernel's outer loops: tokens into tiles, all gates on one tile before the next, tiles over threads.
//!
//! A tile of two registers' worth of tokens at 4096 features is half a megabyte in f32 and stays in the second-level cache while every gate passes over
//! it in place; where features are few, it holds four. Threads take tiles (forward) or fixed chunks of tiles (backward), so that no result depends on
//! their number. The arithmetic of one gate is `gate`'s, the slicing for padding and truncation `schedule`'s.

use rayon::prelude::*;

use super::schedule::{Schedule, Step};
use super::scratch::with_scratch;
use super::transfer::Transfer;
use super::{Kernels, Target};
use crate::{Plan, Real};

/// Chunks of tokens that gate gradients are summed over separately: enough to feed many threads, few enough that adding them up costs little.
const CHUNKS: usize = 16;

/// [`crate::apply`] on the given kernels; the shapes have been checked.
pub(crate) fn apply<T: Real>(
    kernels: &Kernels<T>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
) {
    let schedule = Schedule::new(plan, d_in, d_out);
    let tile = schedule.tile::<T>(kernels.lanes);
    let packed_len = schedule.steps.iter().map(|step| kernels.packed_len(step)).sum();
    with_scratch(packed_len, |packed: &mut [T]| {
        pack(kernels, &schedule, packed, |[rows, cols], packed| (kernels.pack)(gates, &rows, &cols, packed));
        let packed = &*packed;
        let work = |(x, y): (&[T], &mut [T])| apply_tile(kernels, &schedule, packed, x, d_in, y, d_out, scale);
        if x.len() <= tile * d_in {
            work((x, y));
        } else {
            x.par_chunks(tile * d_in).zip(y.par_chunks_mut(tile * d_out)).with_max_len(1).for_each(work);
        }
    });
}

/// Packs every step's gate, one after another; `pack` is given the places of its values.
fn pack<T: Real>(
    kernels: &Kernels<T>,
    schedule: &Schedule,
    mut packed: &mut [T],
    pack: impl Fn([Vec<usize>; 2], &mut [T]),
) {
    for step in &schedule.steps {
        let (here, rest) = packed.split_at_mut(kernels.packed_len(step));
        pack(step.places(), here);
        packed = rest;
    }
}

fn apply_tile<T: Real>(
    kernels: &Kernels<T>,
    schedule: &Schedule,
    packed: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
) {
    let tokens = x.len() / d_in;
    if tokens == 0 {
        return;
    }
    let width = tokens.next_multiple_of(kernels.lanes);
    let panel = schedule.steps.iter().map(|step| kernels.forward_scratch(step)).max().unwrap_or(0);
    let buffer = schedule.max_len * width;
    with_scratch(2 * buffer + panel, |scratch: &mut [T]| {
        let (states, panel) = scratch.split_at_mut(2 * buffer);
        let (first, second) = states.split_at_mut(buffer);
        load(kernels, x, d_in, schedule.in_len, first, width);
        let (mut current, mut other) = (first, second);
        let mut offset = 0;
        for step in &schedule.steps {
            let packed = &packed[offset..offset + kernels.packed_len(step)];
            offset += packed.len();
            if step.fits_in_place() {
                kernels.forward_in_place(step, packed, current, width, panel);
            } else {
                kernels.forward_between(step, packed, current, other, width, panel);
                std::mem::swap(&mut current, &mut other);
            }
        }
        unload(kernels, current, schedule.out_len, width, y, d_out, scale);
    });
}

/// Rows of tokens into the front of `tile`.
fn load<T: Real>(kernels: &Kernels<T>, rows: &[T], stride: usize, len: usize, tile: &mut [T], width: usize) {
    let tokens = rows.len() / stride;
    assert!(tokens <= width && tile.len() >= len * width);
    // `load` only reads through `rows`.
    let rows = rows.as_ptr().cast_mut();
    let transfer = Transfer { rows, stride, tokens, features: stride.min(len), tile: tile.as_mut_ptr(), len, width };
    // SAFETY: `features <= stride`, `tokens * stride <= rows.len()`, and the tile's length was just checked.
    unsafe { (kernels.load)(&transfer) }
}

/// `rows += scale * tile` for the features that both have.
fn unload<T: Real>(
    kernels: &Kernels<T>,
    tile: &mut [T],
    len: usize,
    width: usize,
    rows: &mut [T],
    stride: usize,
    scale: T,
) {
    let tokens = rows.len() / stride;
    assert!(tokens <= width && tile.len() >= len * width);
    let (features, tile) = (stride.min(len), tile.as_mut_ptr());
    let transfer = Transfer { rows: rows.as_mut_ptr(), stride, tokens, features, tile, len, width };
    // SAFETY: as in `load`.
    unsafe { (kernels.unload)(&transfer, scale) }
}

/// Everything that the chunks of a backward pass share.
struct Pass<'a, T> {
    kernels: &'a Kernels<T>,
    schedule: &'a Schedule,
    /// Tokens of a tile.
    tile: usize,
    packed: &'a [T],
    packed_transposed: &'a [T],
    d_in: usize,
    d_out: usize,
    scale: T,
}

/// Columns of a gate's gradient sums: whole registers.
fn sums_width(step: &Step, lanes: usize) -> usize {
    step.cols().next_multiple_of(lanes)
}

/// [`crate::backward`] on the given kernels; the shapes have been checked.
pub(crate) fn backward<T: Real>(
    kernels: &Kernels<T>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    dx: Option<&mut [T]>,
    dgates: Option<&mut [T]>,
) {
    let tokens = x.len() / d_in;
    if tokens == 0 || (dx.is_none() && dgates.is_none()) {
        return;
    }
    let schedule = Schedule::new(plan, d_in, d_out);
    let lanes = kernels.lanes;
    let tile = schedule.tile::<T>(lanes);
    // Chunk bounds depend on the number of tokens alone: this is what makes the sums the same for any number of threads.
    let chunk = tokens.div_ceil(CHUNKS).next_multiple_of(tile);
    let chunks = tokens.div_ceil(chunk);
    let packed_len: usize = schedule.steps.iter().map(|step| kernels.packed_len(step)).sum();
    let sums_len: usize = schedule.steps.iter().map(|step| step.rows() * sums_width(step, lanes)).sum();
    let sums_total = if dgates.is_some() { chunks * sums_len } else { 0 };
    with_scratch(2 * packed_len + sums_total, |scratch: &mut [T]| {
        let (packed, rest) = scratch.split_at_mut(packed_len);
        let (packed_transposed, sums) = rest.split_at_mut(packed_len);
        pack(kernels, &schedule, packed, |[rows, cols], packed| (kernels.pack)(gates, &rows, &cols, packed));
        pack(kernels, &schedule, packed_transposed, |[rows, cols], packed| (kernels.pack)(gates, &cols, &rows, packed));
        let pass = Pass { kernels, schedule: &schedule, tile, packed, packed_transposed, d_in, d_out, scale };
        let x = x.chunks(chunk * d_in);
        let dy = dy.chunks(chunk * d_out);
        let mut dx = dx.map(|dx| dx.chunks_mut(chunk * d_in));
        let mut partial = (sums_total > 0).then(|| sums.chunks_mut(sums_len));
        let tasks: Vec<_> = x
            .zip(dy)
            .map(|(x, dy)| (x, dy, dx.as_mut().and_then(Iterator::next), partial.as_mut().and_then(Iterator::next)))
            .collect();
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(x, dy, dx, partial)| backward_chunk(&pass, x, dy, dx, partial));
        if let Some(dgates) = dgates {
            add_sums(&schedule, lanes, &sums[..sums_total], sums_len, dgates);
        }
    });
}

/// Adds the chunks' gate gradients to `dgates`, chunk after chunk for every value.
fn add_sums<T: Real>(schedule: &Schedule, lanes: usize, sums: &[T], sums_len: usize, dgates: &mut [T]) {
    let mut offset = 0;
    for step in &schedule.steps {
        let (width, cols) = (sums_width(step, lanes), step.full_cols());
        let gate = &mut dgates[step.offset..step.offset + step.full_rows() * cols];
        // A row of the whole gate that no row in use maps to belongs to truncated outputs: its gradient is zero.
        let mut used: Vec<Option<usize>> = vec![None; step.full_rows()];
        for row in 0..step.rows() {
            used[step.full_row(row)] = Some(row);
        }
        gate.par_chunks_mut(cols).with_min_len(8).zip(used).for_each(|(dgate, row)| {
            let Some(row) = row else { return };
            let start = offset + row * width;
            let (first, others) = sums.split_at(sums_len);
            let mut total = first[start..start + step.cols()].to_vec();
            for chunk in others.chunks_exact(sums_len) {
                total.iter_mut().zip(&chunk[start..]).for_each(|(total, value)| *total += *value);
            }
            for (k, total) in total.into_iter().enumerate() {
                dgate[step.full_col(k)] += total;
            }
        });
        offset += step.rows() * width;
    }
}

/// Gradients of one chunk of tokens, tile by tile.
fn backward_chunk<T: Real>(pass: &Pass<'_, T>, x: &[T], dy: &[T], dx: Option<&mut [T]>, mut partial: Option<&mut [T]>) {
    let &Pass { kernels, schedule, tile, d_in, d_out, .. } = pass;
    if let Some(partial) = partial.as_deref_mut() {
        partial.fill(T::ZERO);
    }
    let mut dx = dx.map(|dx| dx.chunks_mut(tile * d_in));
    let panel = schedule.steps.iter().map(|step| kernels.forward_scratch(step).max(kernels.backward_scratch(step)));
    let panel = panel.max().unwrap_or(0);
    // Inputs of all gates are kept for the gate gradients only; dX alone needs none of them.
    let kept: usize = if partial.is_some() { schedule.steps.iter().map(Step::in_len).sum() } else { 0 };
    with_scratch((kept + 2 * schedule.max_len) * tile + panel, |scratch: &mut [T]| {
        for (x, dy) in x.chunks(tile * d_in).zip(dy.chunks(tile * d_out)) {
            backward_tile(pass, x, dy, dx.as_mut().and_then(Iterator::next), partial.as_deref_mut(), scratch);
        }
    });
}

fn backward_tile<T: Real>(
    pass: &Pass<'_, T>,
    x: &[T],
    dy: &[T],
    dx: Option<&mut [T]>,
    mut partial: Option<&mut [T]>,
    scratch: &mut [T],
) {
    let &Pass { kernels, schedule, d_in, d_out, scale, .. } = pass;
    let (steps, lanes) = (&schedule.steps, kernels.lanes);
    let width = (x.len() / d_in).next_multiple_of(lanes);
    let inputs: Vec<usize> = steps
        .iter()
        .scan(0, |at, step| {
            *at += if partial.is_some() { step.in_len() * width } else { 0 };
            Some(*at)
        })
        .collect();
    let (states, scratch) = scratch.split_at_mut(inputs.last().copied().unwrap_or(0));
    let (first, scratch) = scratch.split_at_mut(schedule.max_len * width);
    let (second, panel) = scratch.split_at_mut(schedule.max_len * width);
    let start = |index: usize| if index == 0 { 0 } else { inputs[index - 1] };
    if partial.is_some() && !steps.is_empty() {
        load(kernels, x, d_in, schedule.in_len, states, width);
        let mut offset = 0;
        // The last gate's output is not needed by any gradient.
        for (index, step) in steps[..steps.len() - 1].iter().enumerate() {
            let packed = &pass.packed[offset..offset + kernels.packed_len(step)];
            offset += packed.len();
            let (before, after) = states.split_at_mut(inputs[index]);
            kernels.forward_between(step, packed, &before[start(index)..], after, width, panel);
        }
    }
    load(kernels, dy, d_out, schedule.out_len, first, width);
    for value in first[..schedule.out_len * width].iter_mut() {
        *value = scale * *value;
    }
    let (mut current, mut other) = (first, second);
    let mut packed_end = pass.packed_transposed.len();
    let mut sums_end = partial.as_deref().map_or(0, <[T]>::len);
    for (index, step) in steps.iter().enumerate().rev() {
        packed_end -= kernels.packed_len(step);
        let packed = &pass.packed_transposed[packed_end..packed_end + kernels.packed_len(step)];
        let (mut sums, mut x) = (None, &[][..]);
        if let Some(partial) = partial.as_deref_mut() {
            let len = step.rows() * sums_width(step, lanes);
            sums_end -= len;
            sums = Some(&mut partial[sums_end..sums_end + len]);
            x = &states[start(index)..inputs[index]];
        }
        let wanted = index > 0 || dx.is_some();
        let target = match (wanted, step.fits_in_place()) {
            (false, _) => Target::Nowhere,
            (true, true) => Target::InPlace,
            (true, false) => Target::Other(&mut *other),
        };
        kernels.backward_gate(step, packed, x, current, target, sums, width, panel);
        if !step.fits_in_place() {
            std::mem::swap(&mut current, &mut other);
        }
    }
    if let Some(dx) = dx {
        unload(kernels, current, schedule.in_len, width, dx, d_in, T::ONE);
    }
}
