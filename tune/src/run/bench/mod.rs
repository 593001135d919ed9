//! `quanta bench`: measurements on random data, as ratios within one run.

mod circuit;

pub use circuit::{CircuitBench, CircuitTimes, circuit};
