//! A circuit that keeps the tensors between its gates: the forward half of a backward pass that does not compute them again.
//!
//! Tiles are those of `tiled`'s backward pass, and their tensors lie one tile after another as its tiles want them, so that it reads them where they are.

use rayon::prelude::*;

use super::Kernels;
use super::schedule::Schedule;
use super::scratch::with_scratch;
use super::tiled::{apply_each, fill_between, load, pack, unload};
use crate::{CircuitSum, Plan, Real};

/// [`crate::apply_keeping`] on the given kernels; the shapes have been checked. `kept` becomes as long as it must be.
pub(crate) fn apply<T: Real>(
    kernels: &Kernels<T>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
    kept: &mut Vec<T>,
) {
    let schedule = Schedule::new(plan, d_in, d_out);
    let (tile, between) = (schedule.tile::<T>(kernels.lanes), schedule.between_len());
    kept.resize(between * (x.len() / d_in).next_multiple_of(kernels.lanes), T::ZERO);
    let Some(last) = schedule.steps.last() else {
        return apply_each(kernels, x, d_in, &mut [CircuitSum { plan, terms: &[(gates, scale)], y, d_out }]);
    };
    let (packed_len, panel) = (kernels.packed_gates(&schedule), kernels.forward_panel(&schedule));
    with_scratch(packed_len, |packed: &mut [T]| {
        pack(kernels, &schedule.steps, packed, |[rows, cols], packed| (kernels.pack)(gates, &rows, &cols, packed));
        let last_packed = &packed[packed_len - kernels.packed_len(last)..];
        let mut kept = kept.chunks_mut((tile * between).max(1));
        // a single gate keeps nothing
        let tiles =
            x.chunks(tile * d_in).zip(y.chunks_mut(tile * d_out)).map(|(x, y)| (x, y, kept.next().unwrap_or_default()));
        let work = |(x, y, kept): (&[T], &mut [T], &mut [T])| {
            let width = (x.len() / d_in).next_multiple_of(kernels.lanes);
            with_scratch((schedule.in_len + schedule.out_len) * width + panel, |scratch: &mut [T]| {
                let (input, scratch) = scratch.split_at_mut(schedule.in_len * width);
                let (output, panel) = scratch.split_at_mut(schedule.out_len * width);
                load(kernels, x, d_in, schedule.in_len, input, width);
                fill_between(kernels, &schedule, packed, input, kept, width, panel);
                let before = if between > 0 { &kept[kept.len() - last.in_len() * width..] } else { &*input };
                kernels.forward_between(last, last_packed, before, output, width, panel);
                unload(kernels, output, schedule.out_len, width, y, d_out, scale);
            });
        };
        if x.len() <= tile * d_in {
            tiles.for_each(work);
        } else {
            tiles.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(work);
        }
    });
}
