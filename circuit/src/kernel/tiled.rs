//! The fast kernel's outer loops: tokens into tiles, all gates on one tile before the next, tiles over threads.
//!
//! A tile of two registers' worth of tokens at 4096 features is half a megabyte in f32 and stays in the second-level cache while every gate passes over
//! it in place; where features are few, it holds four. Threads take tiles (forward) or fixed chunks of tiles (backward), so that no result depends on
//! their number. The arithmetic of one gate is `gate`'s, the slicing for padding and truncation `schedule`'s.

use rayon::prelude::*;

use super::gate::half;
use super::schedule::{Schedule, Step};
use super::scratch::with_scratch;
use super::transfer::Transfer;
use super::{Kernels, Target};
use crate::{CircuitSum, Plan, Real};

/// Chunks of tokens that gate gradients are summed over separately: enough to feed many threads, few enough that adding them up costs little.
const CHUNKS: usize = 16;

/// A sum made ready: its schedule, the gates of its terms packed one term after another, and their factors.
struct Ready<'a, T> {
    schedule: Schedule,
    packed: &'a [T],
    scales: Vec<T>,
    d_out: usize,
}

/// [`crate::apply_each`] on the given kernels; the shapes have been checked.
pub(crate) fn apply_each<T: Real>(kernels: &Kernels<T>, x: &[T], d_in: usize, sums: &mut [CircuitSum<'_, T>]) {
    let schedules: Vec<_> = sums.iter().map(|sum| Schedule::new(sum.plan, d_in, sum.d_out)).collect();
    let Some(tile) = schedules.iter().map(|schedule| schedule.tile::<T>(kernels.lanes)).min() else { return };
    let packed_len = |schedule: &Schedule| kernels.packed_gates(schedule);
    let total = sums.iter().zip(&schedules).map(|(sum, schedule)| sum.terms.len() * packed_len(schedule)).sum();
    with_scratch(total, |mut packed: &mut [T]| {
        let (mut ready, mut outputs) = (Vec::with_capacity(sums.len()), Vec::with_capacity(sums.len()));
        for (sum, schedule) in sums.iter_mut().zip(schedules) {
            let (here, rest) = packed.split_at_mut(sum.terms.len() * packed_len(&schedule));
            packed = rest;
            for ((gates, _), packed) in sum.terms.iter().zip(here.chunks_mut(packed_len(&schedule).max(1))) {
                pack(kernels, &schedule.steps, packed, |[rows, cols], packed| {
                    (kernels.pack)(gates, &rows, &cols, packed)
                });
            }
            let scales = sum.terms.iter().map(|(_, scale)| *scale).collect();
            ready.push(Ready { schedule, packed: here, scales, d_out: sum.d_out });
            outputs.push(sum.y.chunks_mut(tile * sum.d_out));
        }
        let mut next = || outputs.iter_mut().map(|output| output.next().expect("as many chunks as x has")).collect();
        let mut tasks = x.chunks(tile * d_in).map(|x| (x, next()));
        let work = |(x, ys): (&[T], Vec<&mut [T]>)| apply_tile(kernels, &ready, x, d_in, ys);
        if x.len() <= tile * d_in {
            tasks.for_each(work);
        } else {
            tasks.by_ref().collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(work);
        }
    });
}

/// Packs every step's gate, one after another; `pack` is given the places of its values.
pub(super) fn pack<T: Real>(
    kernels: &Kernels<T>,
    steps: &[Step],
    mut packed: &mut [T],
    pack: impl Fn([Vec<usize>; 2], &mut [T]),
) {
    for step in steps {
        let (here, rest) = packed.split_at_mut(kernels.packed_len(step));
        pack(step.places(), here);
        packed = rest;
    }
}

/// All sums on one tile of tokens, whose input is read once.
fn apply_tile<T: Real>(kernels: &Kernels<T>, ready: &[Ready<'_, T>], x: &[T], d_in: usize, ys: Vec<&mut [T]>) {
    let width = (x.len() / d_in).next_multiple_of(kernels.lanes);
    let largest = |len: &dyn Fn(&Schedule) -> usize| ready.iter().map(|sum| len(&sum.schedule)).max().unwrap_or(0);
    let (in_len, out_len) = (largest(&|schedule| schedule.in_len), largest(&|schedule| schedule.out_len));
    let buffer = width * largest(&|schedule| schedule.max_len);
    let panel = largest(&|schedule| kernels.forward_panel(schedule));
    // a single circuit may overwrite its input, and a sum of one term needs no place for the sum
    let shared = if ready.iter().map(|sum| sum.scales.len()).sum::<usize>() > 1 { in_len * width } else { 0 };
    let summed = if ready.iter().any(|sum| sum.scales.len() > 1) { out_len * width } else { 0 };
    with_scratch(shared + summed + 2 * buffer + panel, |scratch: &mut [T]| {
        let (input, scratch) = scratch.split_at_mut(shared);
        let (total, scratch) = scratch.split_at_mut(summed);
        let (first, scratch) = scratch.split_at_mut(buffer);
        let (second, panel) = scratch.split_at_mut(buffer);
        load(kernels, x, d_in, in_len, if shared > 0 { &mut *input } else { &mut *first }, width);
        let input = (shared > 0).then_some(&*input);
        for (sum, y) in ready.iter().zip(ys) {
            let (schedule, len) = (&sum.schedule, sum.schedule.out_len * width);
            let terms = sum.packed.len() / sum.scales.len().max(1);
            for (term, &scale) in sum.scales.iter().enumerate() {
                let packed = &sum.packed[term * terms..(term + 1) * terms];
                let state = run(kernels, schedule, packed, input, first, second, width, panel);
                if sum.scales.len() == 1 {
                    unload(kernels, state, schedule.out_len, width, y, sum.d_out, scale);
                    continue;
                }
                let pairs = total[..len].iter_mut().zip(&*state);
                match term {
                    0 => pairs.for_each(|(total, value)| *total = scale * *value),
                    _ => pairs.for_each(|(total, value)| *total += scale * *value),
                }
            }
            if sum.scales.len() > 1 {
                unload(kernels, total, schedule.out_len, width, y, sum.d_out, T::ONE);
            }
        }
    });
}

/// All gates on one tile: from `input`, or from what stands in `first` where there is none; returns the buffer with the output.
fn run<'a, T: Real>(
    kernels: &Kernels<T>,
    schedule: &Schedule,
    mut packed: &[T],
    mut input: Option<&[T]>,
    first: &'a mut [T],
    second: &'a mut [T],
    width: usize,
    panel: &mut [T],
) -> &'a mut [T] {
    let (mut current, mut other) = (first, second);
    for step in &schedule.steps {
        let (gate, rest) = packed.split_at(kernels.packed_len(step));
        packed = rest;
        match input.take() {
            Some(input) => kernels.forward_between(step, gate, input, current, width, panel),
            None if step.fits_in_place() => kernels.forward_in_place(step, gate, current, width, panel),
            None => {
                kernels.forward_between(step, gate, current, other, width, panel);
                std::mem::swap(&mut current, &mut other);
            }
        }
    }
    if let Some(input) = input {
        let len = schedule.out_len * width;
        current[..len].copy_from_slice(&input[..len]);
    }
    current
}

/// Rows of tokens into the front of `tile`.
pub(super) fn load<T: Real>(kernels: &Kernels<T>, rows: &[T], stride: usize, len: usize, tile: &mut [T], width: usize) {
    let tokens = rows.len() / stride;
    assert!(tokens <= width && tile.len() >= len * width);
    // `load` only reads through `rows`.
    let rows = rows.as_ptr().cast_mut();
    let transfer = Transfer { rows, stride, tokens, features: stride.min(len), tile: tile.as_mut_ptr(), len, width };
    // SAFETY: `features <= stride`, `tokens * stride <= rows.len()`, and the tile's length was just checked.
    unsafe { (kernels.load)(&transfer) }
}

/// `rows += scale * tile` for the features that both have.
pub(super) fn unload<T: Real>(
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

/// [`crate::backward`] on the given kernels, with what [`super::keeping::apply`] kept if it is there; the shapes have been checked.
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
    kept: Option<&[T]>,
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
    let packed_len = kernels.packed_gates(&schedule);
    if let Some(kept) = kept {
        assert_eq!(
            kept.len(),
            schedule.between_len() * tokens.next_multiple_of(lanes),
            "what was kept is of another shape"
        );
    }
    let sums_len: usize = schedule.steps.iter().map(|step| step.rows() * sums_width(step, lanes)).sum();
    let sums_total = if dgates.is_some() { chunks * sums_len } else { 0 };
    with_scratch(2 * packed_len + sums_total, |scratch: &mut [T]| {
        let (packed, rest) = scratch.split_at_mut(packed_len);
        let (packed_transposed, sums) = rest.split_at_mut(packed_len);
        if sums_total > 0 && kept.is_none() {
            // the last gate's output is not needed
            let steps = &schedule.steps[..schedule.steps.len().saturating_sub(1)];
            pack(kernels, steps, packed, |[rows, cols], packed| (kernels.pack)(gates, &rows, &cols, packed));
        }
        pack(kernels, &schedule.steps, packed_transposed, |[rows, cols], packed| {
            (kernels.pack)(gates, &cols, &rows, packed)
        });
        let pass = Pass { kernels, schedule: &schedule, tile, packed, packed_transposed, d_in, d_out, scale };
        let x = x.chunks(chunk * d_in);
        let dy = dy.chunks(chunk * d_out);
        let mut dx = dx.map(|dx| dx.chunks_mut(chunk * d_in));
        let mut kept = kept.map(|kept| kept.chunks(chunk * schedule.between_len().max(1)));
        let mut partial = (sums_total > 0).then(|| sums.chunks_mut(sums_len));
        let tasks: Vec<_> = x
            .zip(dy)
            .map(|(x, dy)| {
                let kept = kept.as_mut().and_then(Iterator::next);
                (x, dy, dx.as_mut().and_then(Iterator::next), partial.as_mut().and_then(Iterator::next), kept)
            })
            .collect();
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(x, dy, dx, partial, kept)| backward_chunk(&pass, x, dy, dx, partial, kept));
        if let Some(dgates) = dgates {
            add_sums(kernels, &schedule, &mut sums[..sums_total], sums_len, dgates);
        }
    });
}

/// Numbers of sums that a thread adds up at a time.
const PIECE: usize = 2048;

/// Adds the chunks' gate gradients up, chunk after chunk for every value, and to `dgates`. The first chunk's are overwritten.
fn add_sums<T: Real>(kernels: &Kernels<T>, schedule: &Schedule, sums: &mut [T], sums_len: usize, dgates: &mut [T]) {
    let (total, others) = sums.split_at_mut(sums_len);
    total.par_chunks_mut(PIECE).enumerate().for_each(|(index, total)| {
        for chunk in others.chunks_exact(sums_len) {
            total.iter_mut().zip(&chunk[index * PIECE..]).for_each(|(total, value)| *total += *value);
        }
    });
    let mut total = &*total;
    for step in &schedule.steps {
        let (sums, rest) = total.split_at(step.rows() * sums_width(step, kernels.lanes));
        add_gate(kernels, step, sums, dgates);
        total = rest;
    }
}

/// Adds a gate's sums to its place in `dgates`. A row of the gate that none in use maps to belongs to truncated outputs: its gradient is zero.
fn add_gate<T: Real>(kernels: &Kernels<T>, step: &Step, sums: &[T], dgates: &mut [T]) {
    let cols = step.cols();
    let whole = if kernels.halves && half(cols, kernels.lanes) { cols - cols % kernels.lanes } else { cols };
    let [rows, places] = step.places();
    for (row, sums) in rows.into_iter().zip(sums.chunks_exact(sums_width(step, kernels.lanes))) {
        let to = &mut dgates[row..];
        let (first, last) = places.split_at(whole);
        if cols == step.full_cols() {
            to.iter_mut().zip(&sums[..whole]).for_each(|(to, sum)| *to += *sum);
        } else {
            first.iter().zip(sums).for_each(|(col, sum)| to[*col] += *sum);
        }
        let (pairs, _) = sums[whole..].as_chunks::<2>();
        last.iter().zip(pairs).for_each(|(col, [even, odd])| to[*col] += *even + *odd);
    }
}

/// Gradients of one chunk of tokens, tile by tile.
fn backward_chunk<T: Real>(
    pass: &Pass<'_, T>,
    x: &[T],
    dy: &[T],
    dx: Option<&mut [T]>,
    mut partial: Option<&mut [T]>,
    kept: Option<&[T]>,
) {
    let &Pass { kernels, schedule, tile, d_in, d_out, .. } = pass;
    if let Some(partial) = partial.as_deref_mut() {
        partial.fill(T::ZERO);
    }
    let mut dx = dx.map(|dx| dx.chunks_mut(tile * d_in));
    let mut kept = kept.map(|kept| kept.chunks(tile * schedule.between_len().max(1)));
    let panel = schedule.steps.iter().map(|step| kernels.backward_scratch(step)).max().unwrap_or(0);
    let panel = panel.max(kernels.forward_panel(schedule));
    // The inputs of all gates serve the gate gradients only; dX alone needs none of them.
    let inputs = match (&partial, &kept) {
        (None, _) => 0,
        (Some(_), Some(_)) => schedule.in_len,
        (Some(_), None) => schedule.in_len + schedule.between_len(),
    };
    with_scratch((inputs + 2 * schedule.max_len) * tile + panel, |scratch: &mut [T]| {
        let (inputs, scratch) = scratch.split_at_mut(inputs * tile);
        for (x, dy) in x.chunks(tile * d_in).zip(dy.chunks(tile * d_out)) {
            let (dx, kept) = (dx.as_mut().and_then(Iterator::next), kept.as_mut().and_then(Iterator::next));
            let sums = partial.as_deref_mut().map(|to| {
                let width = (x.len() / d_in).next_multiple_of(kernels.lanes);
                let (input, between) = inputs.split_at_mut(schedule.in_len * width);
                load(kernels, x, d_in, schedule.in_len, input, width);
                let between = match kept {
                    Some(kept) => kept,
                    None => {
                        fill_between(kernels, schedule, pass.packed, input, between, width, scratch);
                        between
                    }
                };
                Sums { input, between, to }
            });
            backward_tile(pass, dy, dx, sums, scratch);
        }
    });
}

/// The inputs of all gates but the first on a tile of `width` tokens, one after another, from the first one's.
pub(super) fn fill_between<'a, T: Real>(
    kernels: &Kernels<T>,
    schedule: &Schedule,
    mut packed: &[T],
    mut input: &'a [T],
    mut between: &'a mut [T],
    width: usize,
    panel: &mut [T],
) {
    for pair in schedule.steps.windows(2) {
        let (gate, gates) = packed.split_at(kernels.packed_len(&pair[0]));
        let (output, rest) = between.split_at_mut(pair[1].in_len() * width);
        kernels.forward_between(&pair[0], gate, input, output, width, panel);
        (packed, input, between) = (gates, output, rest);
    }
}

/// What the gate gradients of a tile are made of, and where they go.
struct Sums<'a, T> {
    /// The first gate's input.
    input: &'a [T],
    /// The inputs of the others, one after another.
    between: &'a [T],
    /// Each gate's sums are added to its rows.
    to: &'a mut [T],
}

fn backward_tile<T: Real>(
    pass: &Pass<'_, T>,
    dy: &[T],
    dx: Option<&mut [T]>,
    mut sums: Option<Sums<'_, T>>,
    scratch: &mut [T],
) {
    let &Pass { kernels, schedule, d_in, d_out, scale, .. } = pass;
    let width = (dy.len() / d_out).next_multiple_of(kernels.lanes);
    let (first, scratch) = scratch.split_at_mut(schedule.max_len * width);
    let (second, panel) = scratch.split_at_mut(schedule.max_len * width);
    load(kernels, dy, d_out, schedule.out_len, first, width);
    if scale != T::ONE {
        first[..schedule.out_len * width].iter_mut().for_each(|value| *value = scale * *value);
    }
    let (mut current, mut other) = (first, second);
    let mut packed_end = pass.packed_transposed.len();
    let mut inputs_end = schedule.between_len() * width;
    let mut sums_end = sums.as_ref().map_or(0, |sums| sums.to.len());
    for (index, step) in schedule.steps.iter().enumerate().rev() {
        packed_end -= kernels.packed_len(step);
        let packed = &pass.packed_transposed[packed_end..packed_end + kernels.packed_len(step)];
        let (mut x, mut to) = (&[][..], None);
        if let Some(sums) = &mut sums {
            let len = step.rows() * sums_width(step, kernels.lanes);
            sums_end -= len;
            to = Some(&mut sums.to[sums_end..sums_end + len]);
            x = sums.input;
            if index > 0 {
                inputs_end -= step.in_len() * width;
                x = &sums.between[inputs_end..];
            }
        }
        let wanted = index > 0 || dx.is_some();
        let target = match (wanted, step.fits_in_place()) {
            (false, _) => Target::Nowhere,
            (true, true) => Target::InPlace,
            (true, false) => Target::Other(&mut *other),
        };
        kernels.backward_gate(step, packed, x, current, target, to, width, panel);
        if !step.fits_in_place() {
            std::mem::swap(&mut current, &mut other);
        }
    }
    if let Some(dx) = dx {
        unload(kernels, current, schedule.in_len, width, dx, d_in, T::ONE);
    }
}
