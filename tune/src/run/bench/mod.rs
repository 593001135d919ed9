//! `quanta bench`: measurements on random data, as ratios within one run.

mod circuit;
mod train;

pub use circuit::{CircuitBench, CircuitTimes, circuit};
pub use train::{TrainBench, TrainTiming, shapes, train_bench};
