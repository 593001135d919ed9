//! The gate kernels: the plain reference, and the tiled kernel of this machine's instruction set.
//!
//! The tiled kernel is split by concern: `schedule` turns a plan into strides, `vector` wraps the instruction sets, `packing` lays gates out, `gate` computes one gate on one
//! tile from operands that `operands` copies, `tiled` cuts the tokens into tiles and drives the gates, `keeping` is its forward pass that keeps what is between them, `scratch` lends memory;
//! `unit` and `amx` are matrix units, `parts` and `unit_kernels` gates on them. This file holds the table of functions that an instruction set provides,
//! and the shape checks that both kernels share. `unsafe` code lives in this folder only.

mod amx;
pub(crate) mod gate;
pub(crate) mod keeping;
mod operands;
pub(crate) mod packing;
pub(crate) mod parts;
pub mod permuted;
pub mod reference;
pub(crate) mod schedule;
pub(crate) mod scratch;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tiled;
pub(crate) mod transfer;
pub mod unit;
pub(crate) mod unit_kernels;
pub(crate) mod vector;

use crate::{Plan, Real};
use gate::{BackwardGate, ForwardGate};
use schedule::{Schedule, Step};
use transfer::Transfer;

/// Packs the values of a gate, given with the places of its rows and columns.
type Pack<T> = fn(&[T], &[usize], &[usize], &mut [T]);

/// The functions of one instruction set for one number type.
pub struct Kernels<T> {
    /// Name of the instruction set.
    pub(crate) name: &'static str,
    /// Numbers in a vector register.
    pub(crate) lanes: usize,
    /// Whether gradient sums of half a register of columns are kept in two parts: see [`BackwardGate::sums`].
    pub(crate) halves: bool,
    /// Length of a packed gate of so many rows and columns; its transpose has the same.
    pub(crate) packed_len: fn(usize, usize) -> usize,
    /// Packs the matrix whose element `[r, k]` is `gates[rows[r] + cols[k]]`, given `gates`, `rows` and `cols`.
    pub(crate) pack: Pack<T>,
    /// Numbers of scratch for `forward`, by step and lanes.
    pub(crate) forward_scratch: fn(&Step, usize) -> usize,
    /// Numbers of scratch for `backward`.
    pub(crate) backward_scratch: fn(&Step, usize) -> usize,
    /// One gate on one tile.
    pub(crate) forward: unsafe fn(&ForwardGate<'_, T>),
    /// Gradients of one gate on one tile.
    pub(crate) backward: unsafe fn(&BackwardGate<'_, T>),
    /// Rows of tokens into a tile.
    pub(crate) load: unsafe fn(&Transfer<T>),
    /// A tile added to rows of tokens.
    pub(crate) unload: unsafe fn(&Transfer<T>, T),
}

impl<T: Real> Kernels<T> {
    /// Length of a step's packed gate.
    pub(crate) fn packed_len(&self, step: &Step) -> usize {
        (self.packed_len)(step.rows(), step.cols())
    }

    /// Length of all gates of a schedule, packed.
    pub(crate) fn packed_gates(&self, schedule: &Schedule) -> usize {
        schedule.steps.iter().map(|step| self.packed_len(step)).sum()
    }

    /// Numbers of scratch that the forward steps of a schedule need.
    pub(crate) fn forward_panel(&self, schedule: &Schedule) -> usize {
        schedule.steps.iter().map(|step| self.forward_scratch(step)).max().unwrap_or(0)
    }

    /// Numbers of scratch that a forward step needs.
    pub(crate) fn forward_scratch(&self, step: &Step) -> usize {
        (self.forward_scratch)(step, self.lanes)
    }

    /// Numbers of scratch that a backward step needs.
    pub(crate) fn backward_scratch(&self, step: &Step) -> usize {
        (self.backward_scratch)(step, self.lanes)
    }

    /// One gate from a tile to another: `src` holds `step.in_len()` rows of `width` numbers, `dst` is overwritten with `step.out_len()`.
    pub(crate) fn forward_between(
        &self,
        step: &Step,
        packed: &[T],
        src: &[T],
        dst: &mut [T],
        width: usize,
        panel: &mut [T],
    ) {
        self.check(step, packed, width);
        assert!(step.in_len() * width <= src.len() && step.out_len() * width <= dst.len(), "a tile is too short");
        assert!(panel.len() >= self.forward_scratch(step), "the scratch is too short");
        let (packed, panel) = (packed.as_ptr(), panel.as_mut_ptr());
        let gate = ForwardGate { step, packed, src: src.as_ptr(), dst: dst.as_mut_ptr(), width, panel };
        // SAFETY: the lengths were just checked, and a table is only handed out where its instructions exist.
        unsafe { (self.forward)(&gate) }
    }

    /// One gate on a tile in place; the step must fit in place.
    pub(crate) fn forward_in_place(&self, step: &Step, packed: &[T], tile: &mut [T], width: usize, panel: &mut [T]) {
        self.check(step, packed, width);
        assert!(step.fits_in_place() && step.in_len() * width <= tile.len(), "a tile is too short");
        assert!(panel.len() >= self.forward_scratch(step), "the scratch is too short");
        let (packed, panel, dst) = (packed.as_ptr(), panel.as_mut_ptr(), tile.as_mut_ptr());
        let gate = ForwardGate { step, packed, src: dst, dst, width, panel };
        // SAFETY: as in `forward_between`; the step fits in place.
        unsafe { (self.forward)(&gate) }
    }

    /// Gradients of one gate on one tile. `x` and `sums` (added to) come together or not at all; the gradient of the input goes where `dx` says.
    pub(crate) fn backward_gate(
        &self,
        step: &Step,
        packed: &[T],
        x: &[T],
        dy: &mut [T],
        dx: Target<'_, T>,
        sums: Option<&mut [T]>,
        width: usize,
        panel: &mut [T],
    ) {
        self.check(step, packed, width);
        assert!(step.out_len() * width <= dy.len(), "a tile is too short");
        assert!(panel.len() >= self.backward_scratch(step), "the scratch is too short");
        let dy = dy.as_mut_ptr();
        let dx = match dx {
            Target::InPlace => {
                assert!(step.fits_in_place(), "the gate changes the size of the tile");
                dy
            }
            Target::Other(dx) => {
                assert!(step.in_len() * width <= dx.len(), "a tile is too short");
                dx.as_mut_ptr()
            }
            Target::Nowhere => std::ptr::null_mut(),
        };
        let sums = sums.map_or(std::ptr::null_mut(), |sums| {
            assert!(step.in_len() * width <= x.len(), "a tile is too short");
            assert!(step.rows() * step.cols().next_multiple_of(self.lanes) <= sums.len(), "the sums are too short");
            sums.as_mut_ptr()
        });
        let (packed, x, panel) = (packed.as_ptr(), x.as_ptr(), panel.as_mut_ptr());
        // SAFETY: the lengths were just checked, and a table is only handed out where its instructions exist.
        unsafe { (self.backward)(&BackwardGate { step, packed, x, dy, dx, sums, width, panel }) }
    }

    fn check(&self, step: &Step, packed: &[T], width: usize) {
        assert!(packed.len() >= self.packed_len(step), "the packed gate is too short");
        assert!(width.is_multiple_of(self.lanes), "a tile holds whole registers of tokens");
    }
}

/// Where the gradient of a gate's input goes.
pub(crate) enum Target<'a, T> {
    /// Over the gradient of its output.
    InPlace,
    /// Into another tile.
    Other(&'a mut [T]),
    /// It is not wanted.
    Nowhere,
}

/// Asserts that `x` is `[tokens, d_in]`, `y` is `[tokens, d_out]` with the same number of tokens, and `gates` fits the plan.
#[track_caller]
pub(crate) fn check_shapes<T: Real>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &[T], d_out: usize) {
    check_gates(plan, gates);
    check_rows(x, d_in, y, d_out);
}

/// Asserts that `gates` fits the plan.
#[track_caller]
pub(crate) fn check_gates<T: Real>(plan: &Plan, gates: &[T]) {
    assert_eq!(gates.len(), plan.parameters(), "the plan needs {} gate values", plan.parameters());
}

/// Asserts that `x` is `[tokens, d_in]` and `y` is `[tokens, d_out]` with the same number of tokens.
#[track_caller]
pub(crate) fn check_rows<T: Real>(x: &[T], d_in: usize, y: &[T], d_out: usize) {
    assert!(d_in > 0 && d_out > 0, "d_in and d_out must be at least 1, got {d_in} and {d_out}");
    assert!(x.len().is_multiple_of(d_in), "x has {} values, not a multiple of d_in = {d_in}", x.len());
    assert_eq!(y.len(), x.len() / d_in * d_out, "y must hold {} tokens of d_out = {d_out}", x.len() / d_in);
}
