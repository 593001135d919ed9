//! What a report holds, and the one page it becomes.
//!
//! The page is complete in itself: no script, no network, pictures and style inside, so that it can be mailed and still be read in ten years. A content
//! policy forbids the browser everything else, because prompts and answers are other people's text. What is compared is told by values
//! ([`ScoreTable`], [`SampleRow`]); [`Report::of_runs`] makes them from run folders alone. How the parts are drawn is in `page`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::page;
use super::plot::Tone;
use super::{AnalysisError, RunView, TestResult};
use crate::weights::write_file;

/// How a column of scores is written, and which value is the best of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// 0 to 1, written in percent; the highest is the best.
    Score,
    /// The lowest is the best.
    Loss,
    /// A whole number, not judged.
    Count,
}

/// A column of scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// What its values are.
    pub measure: Measure,
}

impl Column {
    /// A column.
    pub fn new(name: impl Into<String>, measure: Measure) -> Self {
        Self { name: name.into(), measure }
    }
}

/// A row of scores: a run, or something that runs are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRow {
    /// Its name.
    pub name: String,
    /// The colour that it has in the plots.
    pub tone: Tone,
    /// A value for each column, where there is one.
    pub values: Vec<Option<f64>>,
}

/// Scores side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreTable {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<ScoreRow>,
    /// What a reader must know about the numbers; empty: nothing.
    pub note: String,
}

impl ScoreTable {
    /// What run folders say by themselves: parameters, losses, the metrics of the best validation, and evaluations. Columns without a value are left
    /// out.
    pub fn of_runs(runs: &[RunView]) -> Self {
        let mut columns = vec![
            Column::new("Trainable parameters", Measure::Count),
            Column::new("Steps", Measure::Count),
            Column::new("Last training loss", Measure::Loss),
            Column::new("Best validation loss", Measure::Loss),
        ];
        let fixed = columns.len();
        let add = |columns: &mut Vec<Column>, name: String| {
            if !columns.iter().any(|column| column.name == name) {
                columns.push(Column::new(name, Measure::Score));
            }
        };
        for run in runs {
            run.metrics().into_iter().for_each(|metric| add(&mut columns, metric_name(metric)));
        }
        for (test, metric) in runs.iter().flat_map(|run| &run.tests).flat_map(each_metric) {
            add(&mut columns, test_name(test, metric));
        }
        let row = |(index, run): (usize, &RunView)| {
            let mut values = fixed_values(run).to_vec();
            values.extend(columns[fixed..].iter().map(|column| score_named(run, &column.name)));
            ScoreRow { name: run.name.clone(), tone: Tone::Run(index), values }
        };
        let mut rows: Vec<ScoreRow> = runs.iter().enumerate().map(row).collect();
        let kept: Vec<bool> = (0..columns.len()).map(|at| rows.iter().any(|row| row.values[at].is_some())).collect();
        rows.iter_mut().for_each(|row| keep(&mut row.values, &kept));
        keep(&mut columns, &kept);
        let note = if columns.iter().any(|column| column.name.starts_with("Best validation")) {
            "Validation numbers are those of the step whose adapter was kept."
        } else {
            ""
        };
        Self { columns, rows, note: note.into() }
    }

    /// The row with the best value of a column, where values can be judged and there are several.
    pub fn best(&self, column: usize) -> Option<usize> {
        let sign = match self.columns[column].measure {
            Measure::Score => 1.0,
            Measure::Loss => -1.0,
            Measure::Count => return None,
        };
        let value = |row: &ScoreRow| row.values.get(column).copied().flatten().filter(|value| value.is_finite());
        let found = self.rows.iter().enumerate().filter_map(|(index, row)| Some((index, sign * value(row)?)));
        let found: Vec<(usize, f64)> = found.collect();
        found.iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|_| found.len() > 1).map(|best| best.0)
    }
}

fn fixed_values(run: &RunView) -> [Option<f64>; 4] {
    let count = |number: Option<usize>| number.map(|number| number as f64);
    // a single step's loss is chance: the mean of the last tenth, as training prints it
    let losses: Vec<f64> = run.steps.iter().map(|point| point.loss).filter(|loss| loss.is_finite()).collect();
    let tail = &losses[losses.len() - losses.len().div_ceil(10)..];
    [
        count(run.trainable),
        run.steps.last().map(|point| point.step as f64),
        (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64),
        run.best().map(|best| best.loss).filter(|loss| loss.is_finite()),
    ]
}

fn keep<T>(list: &mut Vec<T>, kept: &[bool]) {
    let mut index = 0..;
    list.retain(|_| index.next().is_some_and(|at| kept[at]));
}

fn each_metric(test: &TestResult) -> impl Iterator<Item = (&TestResult, &str)> {
    test.metrics.keys().map(move |metric| (test, metric.as_str()))
}

fn metric_name(metric: &str) -> String {
    format!("Validation {metric}")
}

fn test_name(test: &TestResult, metric: &str) -> String {
    [test.task.as_str(), &test.split, metric].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The value of a run for a column that [`metric_name`] or [`test_name`] named.
fn score_named(run: &RunView, name: &str) -> Option<f64> {
    let validated = run.best().into_iter().flat_map(|best| &best.metrics);
    let mut validated = validated.filter(|(metric, _)| metric_name(metric) == name).map(|(_, value)| *value);
    let mut tested = run.tests.iter().flat_map(each_metric).filter(|(test, metric)| test_name(test, metric) == name);
    validated.next().or_else(|| tested.next().map(|(test, metric)| test.metrics[metric]))
}

/// An answer to a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Who gave it: a run's name, or another model's.
    pub name: String,
    /// The colour that it has in the plots.
    pub tone: Tone,
    /// The answer.
    pub text: String,
    /// How right it is, 0 to 1, where that was judged.
    pub score: Option<f64>,
}

/// A sample with everyone's answers, as in the paper's tables H.8 to H.10.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// What the models were given; the page shows its end.
    pub prompt: String,
    /// The right answers.
    pub gold: Vec<String>,
    /// The answers.
    pub answers: Vec<Answer>,
}

impl SampleRow {
    /// The first samples of the runs' evaluations, at most `limit` for each task; answers to the same prompt stand together.
    pub fn of_runs(runs: &[RunView], limit: usize) -> Vec<Self> {
        let mut rows: Vec<(&str, &str, Self)> = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            for test in &run.tests {
                for sample in &test.samples {
                    let place = (test.task.as_str(), test.split.as_str());
                    let (name, tone) = (run.name.clone(), Tone::Run(index));
                    let answer = Answer { name, tone, text: sample.answer.clone(), score: sample.score };
                    let known = rows
                        .iter_mut()
                        .find(|(task, split, row)| (*task, *split) == place && row.prompt == sample.prompt);
                    match known {
                        Some((_, _, row)) => row.answers.push(answer),
                        None => {
                            let (prompt, gold) = (sample.prompt.clone(), sample.gold.clone());
                            rows.push((place.0, place.1, Self { prompt, gold, answers: vec![answer] }));
                        }
                    }
                }
            }
        }
        // what all have answered tells most
        rows.sort_by_key(|(_, _, row)| std::cmp::Reverse(row.answers.len()));
        let mut taken: Vec<(&str, &str)> = Vec::new();
        rows.retain(|(task, split, _)| {
            taken.push((task, split));
            taken.iter().filter(|place| **place == (task, split)).count() <= limit
        });
        rows.into_iter().map(|(_, _, row)| row).collect()
    }
}

/// What one page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The headline.
    pub title: String,
    /// The runs, in the order of their colours.
    pub runs: Vec<RunView>,
    /// The scores.
    pub scores: ScoreTable,
    /// The samples.
    pub samples: Vec<SampleRow>,
}

/// Samples shown for each task.
const SAMPLES: usize = 12;

/// What the page says of its origin, by which it is known again.
const GENERATOR: &str = "<meta name=\"generator\" content=\"quanta ";

impl Report {
    /// A report of what is in run folders.
    pub fn of_runs(title: impl Into<String>, runs: Vec<RunView>) -> Self {
        let (scores, samples) = (ScoreTable::of_runs(&runs), SampleRow::of_runs(&runs, SAMPLES));
        Self { title: title.into(), runs, scores, samples }
    }

    /// The page. The same report gives the same bytes.
    pub fn html(&self) -> String {
        let generator = format!("{GENERATOR}{}\">", env!("CARGO_PKG_VERSION"));
        page::html(self, &generator)
    }

    /// Writes the page; a report of this program that stands there is replaced.
    ///
    /// # Errors
    /// [`AnalysisError::NotAReport`] where anything else stands there; when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AnalysisError> {
        if is_other(path)? {
            return Err(AnalysisError::NotAReport { path: path.to_owned() });
        }
        Ok(write_file(path, self.html().as_bytes())?)
    }
}

/// Whether something stands at `path` that [`Report::write`] did not write.
fn is_other(path: &Path) -> Result<bool, AnalysisError> {
    let failed = |source| AnalysisError::Read { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        kind if !kind.as_ref().is_ok_and(|kind| kind.is_file()) => return kind.map(|_| true).map_err(failed),
        _ => {}
    }
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut head)).map_err(failed)?;
    Ok(!head.windows(GENERATOR.len()).any(|part| part == GENERATOR.as_bytes()))
}
