//! What runs came to, for people to look at: run folders read back, plots, and one page that holds everything.
//!
//! `view` reads a run folder, `scale` and `plot` draw, `markup` escapes and writes numbers, `report` makes the page and `style.css` dresses it. The
//! room knows files and numbers only: which settings mean how many parameters, and which models there are, is told to it.

mod markup;
mod page;
mod plot;
mod report;
mod scale;
mod truncated;
mod view;

use std::path::PathBuf;

use thiserror::Error;

use crate::config::ConfigError;
use crate::weights::WeightsError;

pub use markup::grouped;
pub use plot::{Bar, Bars, Mark, Plot, Series, Tone, smoothed};
pub use report::{Answer, Column, Measure, Report, SampleRow, ScoreRow, ScoreTable};
pub use scale::{Scale, Spacing};
pub use truncated::{Truncated, truncate};
pub use view::{EvaluationPoint, RunView, StepPoint, TestResult, TestSample};

/// Why a run cannot be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// `config.toml` is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folder is not one that training wrote.
    #[error("{} is not a run folder: it holds no {missing}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The file that every run folder has.
        missing: &'static str,
    },
    /// A line of a run's log says nothing that can be drawn.
    #[error("{}, line {line}: {reason}; only the last line of a log may be cut off", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The results of an evaluation cannot be used.
    #[error("{}: {reason}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file would be lost.
    #[error("{} exists and is not a report of this program: choose another file", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
    },
    /// The page cannot be written.
    #[error(transparent)]
    Write(#[from] WeightsError),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
