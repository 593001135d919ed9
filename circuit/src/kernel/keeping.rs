//! A circuit that keeps the tensors between its gates: the forward half of a backward pass that does not compute them again.
//!
//! Tiles are those of `tiled`'s backward pass, and their tensors lie one tile after another as its tiles want them, so that it reads them where they are.

use rayon::prelude::*;

use super::Kernels;
use super::schedule::Schedule;
use super::scratch::with_scratch;
use super::tiled::{apply_each, fill_between, load, pack, unload};
use crate::{CircuitSum, Plan, Real};

/// Numbers that [`apply`] keeps of so many tokens.
pub(crate) fn kept_len<T: Real>(kernels: &Kernels<T>, plan: &Plan, d_in: usize, d_out: usize, tokens: usize) -> usize {
    Schedule::new(plan, d_in, d_out).between_len() * tokens.next_multiple_of(kernels.lanes)
}

/// [`crate::apply_keeping`] on the given kernels; the shapes have been checked, and `kept` holds [`kept_len`] numbers.
pub(crate) fn apply<T: Real>(
    kernels: &Kernels<T>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
    kept: &mut [T],
) {
    let schedule = Schedule::new(plan, d_in, d_out);
    let (tile, between) = (schedule.tile::<T>(kernels.lanes), schedule.between_len());
    let Some(last) = schedule.steps.last() else {
        return apply_each(kernels, x, d_in, &mut [CircuitSum { plan, terms: &[(gates, scale)], y, d_out }]);
    };
    let packed_len: usize = schedule.steps.iter().map(|step| kernels.packed_len(step)).sum();
    let panel = schedule.steps.iter().map(|step| kernels.forward_scratch(step)).max().unwrap_or(0);
    with_scratch(packed_len, |packed: &mut [T]| {
        pack(kernels, &schedule, packed, |[rows, cols], packed| (kernels.pack)(gates, &rows, &cols, packed));
        let last_packed = &packed[packed_len - kernels.packed_len(last)..];
        let tiles = x.par_chunks(tile * d_in).zip(y.par_chunks_mut(tile * d_out));
        // the last gate's input is what was kept last, or what was loaded where there is no other
        let work = |((x, y), kept): ((&[T], &mut [T]), &mut [T])| {
            let width = (x.len() / d_in).next_multiple_of(kernels.lanes);
            with_scratch((schedule.in_len + schedule.out_len) * width + panel, |scratch: &mut [T]| {
                let (input, scratch) = scratch.split_at_mut(schedule.in_len * width);
                let (output, panel) = scratch.split_at_mut(schedule.out_len * width);
                load(kernels, x, d_in, schedule.in_len, input, width);
                fill_between(kernels, &schedule, packed, input, kept, width, panel);
                let before = match kept.len() {
                    0 => &*input,
                    len => &kept[len - last.in_len() * width..],
                };
                kernels.forward_between(last, last_packed, before, output, width, panel);
                unload(kernels, output, schedule.out_len, width, y, d_out, scale);
            });
        };
        if between == 0 {
            tiles.with_max_len(1).for_each(|tile| work((tile, &mut [])));
        } else {
            tiles.zip(kept.par_chunks_mut(tile * between)).with_max_len(1).for_each(work);
        }
    });
}
