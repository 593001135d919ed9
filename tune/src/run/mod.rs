//! One straight-line function a command: the only place where configuration, data, model and files meet.
//!
//! Everything here returns values or structured errors; printing is left to the program on top.

pub mod bench;
pub mod circuit;
mod config;
pub mod demo;
mod error;
mod eval;
mod examination;
mod export;
mod generate;
mod hub;
mod import;
mod info;
mod init;
mod inspect;
mod memory;
mod merge;
mod objective;
mod plan;
pub(crate) mod report;
mod run_folder;
mod samples;
mod score;
mod source;
mod train;

pub use config::{DataSettings, ModelDtype, RunConfig};
pub use error::RunError;
pub use eval::{Answered, EvalReport, EvalSettings, Measured, eval};
pub use examination::Answers;
pub use export::{ExportReport, export};
pub use generate::{Continued, GenerateSettings, Prompts, generate};
pub use hub::observe_downloads;
pub use import::{ImportReport, ImportedEntry, import};
pub use info::{InfoReport, info};
pub use init::{InitReport, InitSettings, init_folder, starter};
pub use inspect::{InspectReport, InspectedPart, InspectedSample, inspect};
pub use merge::{MergeReport, merge};
pub use plan::{PlanReport, PlannedAdapter, PlannedShape, plan};
pub use report::{report, view};
pub use score::{Finding, ScoreInput, ScoreReport, score};
pub use train::{DryRunReport, Progress, TrainOptions, TrainReport, dry_run, train};
