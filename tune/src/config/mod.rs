//! Reading of configurations: the user's TOML file and a model folder's JSON files go through one reader.
//!
//! It is here so that every key that is misspelt, of the wrong type or out of range is reported, all of them at once,
//! with its full path and with what to change. `source` turns text into a JSON object and applies `--set` overrides;
//! `section` reads typed keys from such an object. What the keys mean is left to the rooms that ask for them.

mod only;
pub mod section;
pub mod source;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use section::{Field, Section};
pub use source::{apply_overrides, parse_json, parse_toml, read_json, read_toml};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is, for example `train.lr` or `adapter.0.dims`; empty for the configuration as a whole.
    pub path: String,
    /// What is wrong and what to change: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}", self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// The problems found so far, in the order in which they were found.
///
/// A clone is another handle on the same list, so that every [`Section`] of one configuration adds to it.
/// `Display` prints all of them, one a line.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    list: Arc<Mutex<Vec<Problem>>>,
}

impl Problems {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a problem at `path`.
    pub fn add(&self, path: impl Into<String>, message: impl Into<String>) {
        self.lock().push(Problem { path: path.into(), message: message.into() });
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many problems there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// A copy of the list.
    pub fn to_vec(&self) -> Vec<Problem> {
        self.lock().clone()
    }

    /// `Ok` when nothing is wrong, else [`ConfigError::Invalid`] with everything that is.
    ///
    /// `origin` names the configuration in the message, usually its file.
    pub fn check(&self, origin: &str) -> Result<(), ConfigError> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Invalid { origin: origin.to_string(), problems: self.to_vec() }),
        }
    }

    // A push cannot leave the list half written, so a list whose lock was poisoned is still a list.
    fn lock(&self) -> MutexGuard<'_, Vec<Problem>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lines(&self.lock()))
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The text is not TOML or JSON at all.
    #[error("{origin}, line {line}, column {column}: {message}")]
    Syntax {
        /// The file, or another name of the text.
        origin: String,
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error in characters, from 1.
        column: usize,
        /// What the parser expected.
        message: String,
    },
    /// The text parses, but some of what it says cannot be used.
    #[error("{origin}: {} to mend\n{}", count(problems.len()), lines(problems))]
    Invalid {
        /// The file, or another name of the configuration.
        origin: String,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
}

/// The candidate that `name` was probably meant to be, if one is near enough to be worth proposing.
///
/// Distance is Damerau-Levenshtein on lower-cased text; near enough is a third of the longer name, but at least one
/// edit. The first of equally near candidates wins. Where one of the two names begins with the other it is accepted too
/// (two letters or more), so that `warmup` finds `warmup_steps` and `lr_rate` finds `lr`.
pub fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let name = name.to_lowercase();
    let mut best: Option<(usize, &'c str)> = None;
    for candidate in candidates {
        let other = candidate.to_lowercase();
        let distance = strsim::damerau_levenshtein(&name, &other);
        let longest = name.chars().count().max(other.chars().count());
        let shares_start = (name.starts_with(&other) || other.starts_with(&name))
            && name.chars().count().min(other.chars().count()) >= 2;
        if (distance <= (longest / 3).max(1) || shares_start) && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_string(),
        n => format!("{n} problems"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_printed_on_its_own_line() {
        let problems = Problems::new();
        problems.add("train.lr", "expected a number, found \"fast\"");
        problems.clone().add("", "no [model] section");
        assert_eq!(problems.to_string(), "train.lr: expected a number, found \"fast\"\nno [model] section");
        let error = problems.check("run.toml").unwrap_err().to_string();
        assert_eq!(error, format!("run.toml: 2 problems to mend\n{problems}"));
        assert!(Problems::new().check("run.toml").is_ok());
    }

    #[test]
    fn the_nearest_name_is_proposed_and_far_ones_are_not() {
        let keys = ["lr", "epochs", "batch", "schedule", "warmup_steps"];
        assert_eq!(nearest("lr_rate", keys), Some("lr"));
        assert_eq!(nearest("Epoch", keys), Some("epochs"));
        assert_eq!(nearest("shcedule", keys), Some("schedule"));
        assert_eq!(nearest("warmup", keys), Some("warmup_steps"));
        assert_eq!(nearest("rl", keys), Some("lr"));
        assert_eq!(nearest("temperature", keys), None);
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn the_error_crosses_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<ConfigError>();
        crosses::<Problems>();
    }
}
