//! The gate kernels: the plain reference, and the tiled kernel of this machine's instruction set.
//!
//! The tiled kernel is split by concern: `schedule` turns a plan into strides, `vector` wraps the instruction sets, `gate` computes one gate on one
//! tile, `tiled` cuts the tokens into tiles and drives the gates, `scratch` lends memory. This file holds the table of functions that an
//! instruction set provides, and the shape checks that both kernels share. `unsafe` code lives in this folder only.

pub(crate) mod gate;
pub mod reference;
pub(crate) mod schedule;
pub(crate) mod scratch;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tiled;
pub(crate) mod transfer;
pub(crate) mod vector;

use crate::{Plan, Real};
use gate::{BackwardGate, ForwardGate};
use transfer::Transfer;

/// The functions of one instruction set for one number type.
pub struct Kernels<T> {
    /// Name of the instruction set.
    pub(crate) name: &'static str,
    /// Numbers in a vector register.
    pub(crate) lanes: usize,
    /// Gate rows computed at a time; gates are packed in blocks of so many rows.
    pub(crate) rows: usize,
    /// One gate on one tile.
    pub(crate) forward: unsafe fn(&ForwardGate<'_, T>),
    /// Gradients of one gate on one tile.
    pub(crate) backward: unsafe fn(&BackwardGate<'_, T>),
    /// Rows of tokens into a tile.
    pub(crate) load: unsafe fn(&Transfer<T>),
    /// A tile added to rows of tokens.
    pub(crate) unload: unsafe fn(&Transfer<T>, T),
}

/// Asserts that `x` is `[tokens, d_in]`, `y` is `[tokens, d_out]` with the same number of tokens, and `gates` fits the plan.
pub(crate) fn check_shapes<T: Real>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &[T], d_out: usize) {
    assert!(d_in > 0 && d_out > 0, "d_in and d_out must be at least 1, got {d_in} and {d_out}");
    assert_eq!(gates.len(), plan.parameters(), "the plan needs {} gate values", plan.parameters());
    assert!(x.len().is_multiple_of(d_in), "x has {} values, not a multiple of d_in = {d_in}", x.len());
    assert_eq!(y.len(), x.len() / d_in * d_out, "y must hold {} tokens of d_out = {d_out}", x.len() / d_in);
}
