//! One straight-line function a command: the only place where configuration, data, model and files meet.
//!
//! Everything here returns values or structured errors; printing is left to the program on top.

pub mod bench;
pub mod circuit;
mod config;
mod error;
mod generate;
mod inspect;
mod memory;
mod merge;
mod plan;
mod samples;
mod score;
mod source;
mod train;

pub use config::{DataSettings, ModelDtype, RunConfig};
pub use error::RunError;
pub use generate::{Continued, GenerateSettings, Prompts, generate};
pub use inspect::{InspectReport, InspectedPart, InspectedSample, inspect};
pub use merge::{MergeReport, merge};
pub use plan::{PlanReport, PlannedAdapter, PlannedShape, plan};
pub use score::{ScoreInput, ScoreReport, score};
pub use train::{Progress, TrainReport, train};
