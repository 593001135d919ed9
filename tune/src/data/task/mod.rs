//! Tasks: where rows come from, one file and one row of the table each.
//!
//! A task says how its files are read and how its text becomes tokens. This file holds the table, splits and errors, and
//! nothing that is particular to one of them; `files` finds the files of a split, `rows` reads rows of JSON,
//! `instruction` the form that several public sets share. Which rows are drawn is left to `sample`.
//!
//! To add a task: a file with its loader, `mod` and a row in [`TASKS`].

mod commonsense;
mod drop;
mod files;
mod glue;
mod instruction;
mod jsonl;
mod math;
mod messages;
mod rows;
mod text;

pub(super) use files::no_train_file;

use super::encode::Form;
use super::example::Example;
use super::metric::Metric;
use super::objective::{Objective, Outcome};
use crate::config::nearest;
use std::fmt;
use std::path::{Path, PathBuf};

/// One task.
#[derive(Debug)]
pub struct Task {
    /// Its name in configs and on the command line.
    pub name: &'static str,
    /// What it reads, in a line.
    pub summary: &'static str,
    /// How its text becomes tokens.
    pub form: Form,
    /// Endings of its files.
    pub extensions: &'static [&'static str],
    /// What it trains for unless the configuration says otherwise.
    pub objective: Objective,
    /// What an encoder answers a row with; none: the task is not for encoders.
    pub outcome: Option<Outcome>,
    /// The metrics that suit it, the one that validation goes by first; those of which the rows have what is needed
    /// count, see [`metrics_for`](Self::metrics_for). None: only the loss is measured.
    pub metrics: &'static [&'static Metric],
    /// Whether its answers are generated: sequences then leave room for [`max_new_tokens`](Self::max_new_tokens).
    pub generates: bool,
    /// Most tokens of a generated answer, unless the user says otherwise.
    pub max_new_tokens: usize,
    /// Whether a generated answer ends where its text has a newline.
    pub stops_at_newline: bool,
    /// Reads its rows from a file or a folder.
    pub load: fn(&Path) -> Result<Splits, TaskError>,
}

/// Most tokens of a generated answer where a task knows nothing better: the authors' number.
const MAX_NEW_TOKENS: usize = 50;

/// Every task.
pub const TASKS: &[Task] = &[
    jsonl::TASK,
    text::TASK,
    drop::TASK,
    commonsense::TASK,
    math::TASK,
    messages::TASK,
    glue::RTE,
    glue::SST2,
    glue::MRPC,
    glue::COLA,
    glue::STSB,
];

impl Task {
    /// The metrics that all of the rows have what is needed for; none without rows.
    pub fn metrics_for(&self, rows: &[Example]) -> Vec<&'static Metric> {
        let suits = |metric: &&&'static Metric| !rows.is_empty() && rows.iter().all(|row| metric.suits(row));
        self.metrics.iter().filter(suits).copied().collect()
    }
}

/// One split of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What checkpoints are chosen by.
    Dev,
    /// What results are measured on.
    Test,
}

impl Split {
    /// Every split with its name on the command line.
    pub const NAMES: [(&'static str, Split); 3] = [("train", Split::Train), ("dev", Split::Dev), ("test", Split::Test)];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Split::NAMES.iter().find(|(_, split)| *split == self).map_or("", |(name, _)| name)
    }
}

/// The rows of a data set, split as its files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Splits {
    /// Rows to draw training samples from; empty if the data set has no such split.
    pub train: Vec<Example>,
    /// Rows to draw dev samples from, if the data set has such a split; else they come from `train`.
    pub valid: Option<Vec<Example>>,
    /// Rows to draw test samples from, if the data set has such a split.
    pub test: Option<Vec<Example>>,
}

impl Splits {
    /// The rows of a split, if the data set has it.
    pub fn take(self, split: Split) -> Option<Vec<Example>> {
        match split {
            Split::Train => Some(self.train).filter(|rows| !rows.is_empty()),
            Split::Dev => self.valid,
            Split::Test => self.test,
        }
    }

    /// Names of the splits that are there.
    pub fn names(&self) -> Vec<&'static str> {
        let has = |split: Split| match split {
            Split::Train => !self.train.is_empty(),
            Split::Dev => self.valid.is_some(),
            Split::Test => self.test.is_some(),
        };
        Split::NAMES.iter().filter(|(_, split)| has(*split)).map(|(name, _)| *name).collect()
    }
}

/// The task of a name.
///
/// # Errors
/// [`TaskError::Unknown`] with the nearest name and all names.
pub fn find(name: &str) -> Result<&'static Task, TaskError> {
    TASKS.iter().find(|task| task.name == name).ok_or_else(|| TaskError::Unknown {
        name: name.to_string(),
        nearest: nearest(name, TASKS.iter().map(|task| task.name)),
    })
}

/// Why a task's rows cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// There is no task of this name.
    #[error("unknown task `{name}`{}: the tasks are {}", hint(nearest), names())]
    Unknown {
        /// The name asked for.
        name: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A folder has no training file.
    #[error("no training file in {}: expected {expected}, or name a file", folder.display())]
    NoTrainFile {
        /// The folder.
        folder: PathBuf,
        /// The file names that would do.
        expected: String,
    },
    /// A folder has no file of a split that is asked for.
    #[error("{} has no {wanted} split, only {}: choose one of those, or name a file", path.display(), has.join(" and "))]
    NoSplit {
        /// The data set.
        path: PathBuf,
        /// The split asked for.
        wanted: &'static str,
        /// The splits there are.
        has: Vec<&'static str>,
    },
    /// A folder has two files for one split.
    #[error("{} and {} are both there: remove one, or name a file", first.display(), second.display())]
    TwoFiles {
        /// One of the files.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A text file is not UTF-8.
    #[error("{}, line {line}: not UTF-8 text: save the file as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first line that is not UTF-8, from 1.
        line: usize,
    },
    /// Rows cannot be read: all of them are listed, the first 20 printed.
    #[error("{}: {}", path.display(), Rows(problems))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Every row that cannot be read, in order.
        problems: Vec<RowProblem>,
    },
    /// A file holds no row at all.
    #[error("{} holds no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// One row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// Its line, or its position in an array, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

const PRINTED_PROBLEMS: usize = 20;

struct Rows<'a>(&'a [RowProblem]);

impl fmt::Display for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} malformed {}", self.0.len(), if self.0.len() == 1 { "row" } else { "rows" })?;
        for RowProblem { line, message } in self.0.iter().take(PRINTED_PROBLEMS) {
            write!(f, "\nline {line}: {message}")?;
        }
        match self.0.len().saturating_sub(PRINTED_PROBLEMS) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or(String::new(), |name| format!(", did you mean `{name}`?"))
}

fn names() -> String {
    TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (i, task) in TASKS.iter().enumerate() {
            assert_eq!(find(task.name).unwrap().name, task.name);
            assert!(TASKS[..i].iter().all(|other| other.name != task.name));
            assert!(!task.summary.is_empty());
        }
        let error = find("jsnol").unwrap_err().to_string();
        assert!(error.starts_with("unknown task `jsnol`, did you mean `jsonl`?: the tasks are jsonl, "), "{error}");
    }
}
