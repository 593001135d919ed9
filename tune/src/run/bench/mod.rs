//! `quanta bench`: measurements on random data, as ratios within one run.

mod circuit;
mod clock;
mod gemm;
mod limit;
mod shapes;
mod train;

pub use circuit::{CircuitBench, CircuitTimes, circuit};
pub use gemm::{GemmBench, GemmTimes, Product, gemm};
pub use shapes::shapes;
pub use train::{TrainBench, TrainTiming, train_bench};
