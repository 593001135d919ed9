//! The training step and the loop around it.
//!
//! A step is forward and backward over its micro-batches, one division by their total weight, clipping, and one move of the optimiser. The loop adds
//! epochs, validation, the best adapter and the log. What a batch is made of and where files go is decided elsewhere.

mod fit;
mod optimizer;
mod schedule;
mod step;
pub mod tensorboard;

pub use fit::{EvaluationEvent, Event, FitError, FitSettings, Length, StepEvent, Summary, fit};
pub use optimizer::{AdamW, AdamWSettings};
pub use schedule::{Schedule, Shape};
pub use step::{NotFinite, Step, StepReport, StepSettings};
