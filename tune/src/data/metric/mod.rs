//! Metrics: how right a prediction is, one file a kind and one row of the table each.
//!
//! A metric gives one row a value from 0 to 1, and its mean over rows is what tables print; a few are functions of all
//! rows together instead. A prediction is the text
//! that was generated behind the prompt, or, where a row has candidates, the text of the one chosen. How predictions
//! are made is left to the rooms above; which metrics suit a task, to the task. Names with `reference-` measure as the
//! authors' program does, mistakes included, and exist to compare like with like.
//!
//! To add a metric: its function and constant in a file, and a row in [`METRICS`].

mod choice;
mod classes;
mod correlation;
mod math;
mod number;
mod option;
mod spans;
mod text;

use super::example::Example;
use crate::config::nearest;

pub use choice::ACCURACY;
pub use classes::{CLASS_F1, MATTHEWS};
pub use correlation::{PEARSON, SPEARMAN};
pub use math::{MATH, REFERENCE_MATH};
pub use number::{NUMBER, REFERENCE_NUMBER};
pub use option::{OPTION, REFERENCE_OPTION};
pub use spans::DROP_F1;
pub use text::{EM, F1};

/// The value of many rows, each with its prediction.
pub type Together = fn(&[(&str, &Example)]) -> f64;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name in configs, tables and on the command line.
    pub name: &'static str,
    /// What it measures, in a line.
    pub summary: &'static str,
    /// What a row must have for it.
    pub needs: Needs,
    /// The value of rows, each with its prediction, where it is made of all of them together; none: the mean of the rows' own values.
    pub together: Option<Together>,
    /// The value of one row, from 0 (wrong) to 1 (right), of a prediction; NaN where only rows together have one.
    pub score: fn(prediction: &str, example: &Example) -> f64,
}

/// What a row must have for a metric to say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Candidates to choose from.
    Candidates,
    /// Listed answers.
    Answers,
}

impl Metric {
    /// Whether a row has what the metric needs.
    pub fn suits(&self, example: &Example) -> bool {
        match self.needs {
            Needs::Candidates => !example.candidates.is_empty(),
            Needs::Answers => !example.answers.is_empty(),
        }
    }

    /// The value over some rows, each with its prediction; 0 without rows.
    pub fn over(&self, rows: &[(&str, &Example)]) -> f64 {
        match self.together {
            Some(together) => together(rows),
            None => {
                let sum: f64 = rows.iter().map(|(prediction, example)| (self.score)(prediction, example)).sum();
                sum / rows.len().max(1) as f64
            }
        }
    }
}

/// Every metric.
pub const METRICS: &[&Metric] = &[
    &F1,
    &EM,
    &DROP_F1,
    &ACCURACY,
    &CLASS_F1,
    &MATTHEWS,
    &PEARSON,
    &SPEARMAN,
    &NUMBER,
    &OPTION,
    &MATH,
    &REFERENCE_NUMBER,
    &REFERENCE_OPTION,
    &REFERENCE_MATH,
];

/// There is no metric of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metric `{name}`{}: the metrics are {}", hint(nearest), names())]
pub struct UnknownMetric {
    /// The name asked for.
    pub name: String,
    /// The name that was probably meant.
    pub nearest: Option<&'static str>,
}

/// The metric of a name.
///
/// # Errors
/// [`UnknownMetric`] with the nearest name and all names.
pub fn find(name: &str) -> Result<&'static Metric, UnknownMetric> {
    METRICS.iter().find(|metric| metric.name == name).copied().ok_or_else(|| UnknownMetric {
        name: name.to_string(),
        nearest: nearest(name, METRICS.iter().map(|metric| metric.name)),
    })
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or(String::new(), |name| format!(", did you mean `{name}`?"))
}

fn names() -> String {
    METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ")
}

/// The texts that count as right: the listed answers, or the completion where none is listed.
fn right_answers(example: &Example) -> &[String] {
    if example.answers.is_empty() { std::slice::from_ref(&example.completion) } else { &example.answers }
}

/// 1 for right, 0 for wrong.
fn value(is_right: bool) -> f64 {
    f64::from(u8::from(is_right))
}

/// The largest of some values; 0 without any.
fn best(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (i, metric) in METRICS.iter().enumerate() {
            assert_eq!(find(metric.name).unwrap().name, metric.name);
            assert!(METRICS[..i].iter().all(|other| other.name != metric.name));
            assert!(!metric.summary.is_empty());
        }
        let error = find("f2").unwrap_err().to_string();
        assert!(error.starts_with("unknown metric `f2`, did you mean `f1`?: the metrics are f1, em"), "{error}");
    }

    #[test]
    fn a_metric_of_single_rows_is_their_mean() {
        let row = |text: &str| Example { completion: text.to_string(), ..Example::default() };
        let (a, b) = (row("a b"), row("c"));
        assert_eq!(EM.over(&[("a b", &a), ("d", &b)]), 0.5);
        assert_eq!(EM.over(&[]), 0.0);
    }

    #[test]
    fn without_listed_answers_the_completion_counts() {
        let row = Example { completion: " Oslo\n".to_string(), ..Example::default() };
        assert_eq!(((F1.score)("oslo", &row), (EM.score)("Bergen", &row)), (1.0, 0.0));
    }
}
