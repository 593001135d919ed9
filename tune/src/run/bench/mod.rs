//! `quanta bench`: measurements on random data, as ratios within one run.

mod circuit;
mod einsum_order;

pub use circuit::{CircuitBench, CircuitTimes, circuit};
