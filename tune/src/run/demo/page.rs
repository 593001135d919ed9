//! The demonstration's page: curves of both runs, scores beside the base's, and answers side by side.

use std::path::{Path, PathBuf};

use super::DemoRow;
use crate::analysis::{Answer, Column, Measure, Report, RunView, SampleRow, ScoreRow, ScoreTable, Tone};
use crate::run::RunError;
use crate::run::report::view;

/// Writes the page; rows are the base and then one for each run folder.
///
/// # Errors
/// When a run folder cannot be read or the page not be written.
pub fn write(path: &Path, rows: &[DemoRow], shown: &[usize], folders: &[PathBuf]) -> Result<(), RunError> {
    let mut runs = folders.iter().map(|folder| view(folder)).collect::<Result<Vec<RunView>, RunError>>()?;
    for (run, row) in runs.iter_mut().zip(&rows[1..]) {
        run.name.clone_from(&row.name);
    }
    let mut columns = vec![Column::new("Trainable parameters", Measure::Count)];
    columns.extend(super::metric_names(rows).into_iter().map(|name| Column::new(name, Measure::Score)));
    let score_rows = rows.iter().enumerate().map(|(index, row)| {
        let trainable = (index > 0).then_some(row.trainable as f64);
        let values = std::iter::once(trainable).chain(row.metrics.iter().map(|(_, value)| Some(*value))).collect();
        ScoreRow { name: row.name.clone(), tone: tone(index), values }
    });
    let scores = ScoreTable {
        columns,
        rows: score_rows.collect(),
        note: "Measured on passages whose pairs of person and scene occur in no training passage.".into(),
    };
    let samples = shown.iter().map(|&index| sample(rows, index)).collect();
    Report { title: "quanta demo".into(), runs, scores, samples }.write(path)?;
    Ok(())
}

/// The base is no run and has no colour of one.
fn tone(row: usize) -> Tone {
    row.checked_sub(1).map_or(Tone::Neutral, Tone::Run)
}

fn sample(rows: &[DemoRow], index: usize) -> SampleRow {
    let example = &rows[0].eval.answers[index].example;
    let answer = |(row, part): (usize, &DemoRow)| {
        let given = &part.eval.answers[index];
        let score = given.values.first().copied();
        Answer { name: part.name.clone(), tone: tone(row), text: given.prediction.clone(), score }
    };
    let answers = rows.iter().enumerate().map(answer).collect();
    SampleRow { prompt: example.prompt.clone(), gold: example.answers.clone(), answers }
}
