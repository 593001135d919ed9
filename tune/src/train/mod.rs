//! The training step and the loop around it.
//!
//! A step is forward and backward over its micro-batches, one division by their total weight, clipping, and one move of the optimiser. The loop adds
//! epochs, validation, the best adapter and the log. What a batch is made of and where files go is decided elsewhere.

mod fit;
mod optimizer;
mod packing;
mod schedule;
mod state;
mod step;
pub mod tensorboard;

pub use fit::{FitError, FitSettings, Host, Length, fit};
pub use optimizer::{AdamW, AdamWSettings};
pub use schedule::{Schedule, Shape};
pub use state::{EvaluationEvent, Event, State, StepEvent, Summary, Validation};
pub use step::{NotFinite, Step, StepReport, StepSettings};
