//! `quanta bench`: measurements on random data, or on real questions, as ratios within one run.

mod adapter;
mod circuit;
mod clock;
mod decode;
mod gemm;
mod limit;
mod questions;
mod samples;
mod shapes;
mod train;

pub use circuit::{CircuitBench, CircuitTimes, circuit};
pub use decode::{DecodeBench, DecodeTimes, decode};
pub use gemm::{GemmBench, GemmTimes, Product, gemm};
pub use questions::QuestionSource;
pub use samples::{Layout, Source};
pub use shapes::shapes;
pub use train::{TokenFlops, TrainBench, TrainTiming, train_bench};
