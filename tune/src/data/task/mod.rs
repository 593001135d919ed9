//! Tasks: where rows come from, one file and one row of the table each.
//!
//! A task says how its files are read and how its text becomes tokens. This file holds the table, what the tasks share
//! (splits, errors, finding and reading files) and nothing that is particular to one of them. Which rows are drawn is
//! left to `sample`.
//!
//! To add a task: a file with its loader, `mod` and a row in [`TASKS`].

mod jsonl;
mod text;

use super::encode::Form;
use super::example::Example;
use super::metric::Metric;
use super::objective::Objective;
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
    /// What it trains for unless the configuration says otherwise.
    pub objective: Objective,
    /// The metrics that suit it, the one that validation goes by first; none: only its loss is measured.
    pub metrics: &'static [&'static Metric],
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
pub const TASKS: &[Task] = &[jsonl::TASK, text::TASK];

/// The rows of a data set, split as its files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Splits {
    /// Rows to draw training samples from.
    pub train: Vec<Example>,
    /// Rows to draw dev samples from, if the data set has such a split; else they come from `train`.
    pub valid: Option<Vec<Example>>,
    /// Rows to draw test samples from, if the data set has such a split.
    pub test: Option<Vec<Example>>,
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

/// The stems of a split's file in a folder.
const TRAIN: &[&str] = &["train"];
const VALID: &[&str] = &["valid", "dev", "validation"];
const TEST: &[&str] = &["test"];

/// Reads the splits of a data set: a file is its train split; a folder has `train`, and may have `valid` (or `dev`,
/// `validation`) and `test`, each with one of the extensions.
fn load_splits(
    path: &Path,
    extensions: &[&str],
    load: impl Fn(&Path) -> Result<Vec<Example>, TaskError>,
) -> Result<Splits, TaskError> {
    if !path.is_dir() {
        return Ok(Splits { train: load(path)?, valid: None, test: None });
    }
    let train = find_file(path, TRAIN, extensions)?.ok_or_else(|| TaskError::NoTrainFile {
        folder: path.to_path_buf(),
        expected: extensions.iter().map(|extension| format!("train.{extension}")).collect::<Vec<_>>().join(" or "),
    })?;
    let optional = |stems| find_file(path, stems, extensions)?.map(|file| load(&file)).transpose();
    Ok(Splits { train: load(&train)?, valid: optional(VALID)?, test: optional(TEST)? })
}

fn find_file(folder: &Path, stems: &[&str], extensions: &[&str]) -> Result<Option<PathBuf>, TaskError> {
    let names = stems.iter().flat_map(|stem| extensions.iter().map(move |extension| format!("{stem}.{extension}")));
    let mut found = names.map(|name| folder.join(name)).filter(|file| file.is_file());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(TaskError::TwoFiles { first, second }),
        (file, _) => Ok(file),
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, TaskError> {
    std::fs::read(path).map_err(|source| TaskError::Read { path: path.to_path_buf(), source })
}

/// The text without the byte-order mark that some editors put in front.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
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

    #[test]
    fn splits_come_from_the_files_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let load = |path: &Path| {
            let prompt = path.file_name().unwrap().to_string_lossy().into_owned();
            Ok(vec![Example { prompt, ..Example::default() }])
        };
        let missing = load_splits(folder.path(), &["a", "b"], load).unwrap_err();
        assert!(missing.to_string().contains("expected train.a or train.b"), "{missing}");
        std::fs::write(folder.path().join("train.b"), "").unwrap();
        let only = load_splits(folder.path(), &["a", "b"], load).unwrap();
        assert_eq!((only.train[0].prompt.as_str(), &only.valid, &only.test), ("train.b", &None, &None));
        std::fs::write(folder.path().join("dev.a"), "").unwrap();
        std::fs::write(folder.path().join("test.b"), "").unwrap();
        let all = load_splits(folder.path(), &["a", "b"], load).unwrap();
        assert_eq!((all.valid.unwrap()[0].prompt.as_str(), all.test.unwrap()[0].prompt.as_str()), ("dev.a", "test.b"));
        std::fs::write(folder.path().join("valid.b"), "").unwrap();
        assert!(matches!(load_splits(folder.path(), &["a", "b"], load), Err(TaskError::TwoFiles { .. })));
        let file = load_splits(&folder.path().join("test.b"), &["a", "b"], load).unwrap();
        assert_eq!((file.train.len(), file.test), (1, None));
    }
}
