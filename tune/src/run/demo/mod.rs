//! `quanta demo`: the program shown on a small model and a small world of its own.

mod data;

pub use data::{DemoCounts, write_data};
