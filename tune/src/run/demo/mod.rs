//! `quanta demo`: the program shown on a small model and a small world of its own, with no download.
//!
//! The base was pretrained by this program on text that it generates (`tune/demo/README.md` has the commands); it can read and reckon
//! a little, and has never seen a question in the task's form. Each configuration fine-tunes it; base and results are measured on passages whose people and
//! scenes were never seen together, merged, and shown side by side.

mod data;
mod page;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub use data::{DemoCounts, write_data};

use super::eval::{EvalReport, EvalSettings, eval};
use super::train::{Progress, TrainOptions, train};
use super::{Answers, MergeReport, RunConfig, RunError, merge, plan};
use crate::data::task::Split;
use crate::weights::{Dtype, Staging, write_file};

/// The base model's folder, as files.
const BASE: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../demo/base/config.json")),
    ("model.safetensors", include_bytes!("../../../demo/base/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../demo/base/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../demo/base/tokenizer_config.json")),
    ("special_tokens_map.json", include_bytes!("../../../demo/base/special_tokens_map.json")),
];

/// The runs: names of their folders, and their configurations.
const RUNS: [(&str, &str); 2] =
    [("1-quanta", include_str!("../../../demo/quanta.toml")), ("2-lora", include_str!("../../../demo/lora.toml"))];

/// Rows that the results are measured on.
const TEST: usize = 200;
/// Test rows that are shown with every answer.
const SHOWN: usize = 6;

/// What the demonstration tells while it runs.
#[derive(Clone, Debug)]
pub enum DemoProgress {
    /// Something begins.
    Stage(String),
    /// A run goes on.
    Train(Progress),
}

/// One model's part of the demonstration.
#[derive(Clone, Debug)]
pub struct DemoRow {
    /// `base`, or the method's name.
    pub name: String,
    /// Trainable parameters.
    pub trainable: usize,
    /// Mean of each metric on the held-out passages.
    pub metrics: Vec<(&'static str, f64)>,
    /// Seconds in training steps.
    pub seconds: f64,
    /// The merge, and whether it kept what was learnt; none for the base.
    pub merge: Option<MergeReport>,
    /// What was measured.
    pub eval: EvalReport,
}

/// What the demonstration came to.
#[derive(Clone, Debug)]
pub struct DemoReport {
    /// The folder of everything.
    pub out: PathBuf,
    /// Parameters of the base.
    pub base_parameters: usize,
    /// The base, then each run.
    pub rows: Vec<DemoRow>,
    /// Indices of the rows of the test set that are shown.
    pub shown: Vec<usize>,
    /// The page.
    pub page: PathBuf,
    /// Seconds of the whole.
    pub seconds: f64,
}

/// Runs the demonstration into `out`, which must not exist or be empty.
///
/// # Errors
/// As the commands it runs.
pub fn demo(out: &Path, seed: u64, tell: &mut dyn FnMut(DemoProgress)) -> Result<DemoReport, RunError> {
    let clock = Instant::now();
    Staging::refuse_existing(out)?;
    tell(DemoProgress::Stage("writing the base model and the data".into()));
    let (base, data) = (out.join("base"), out.join("data"));
    std::fs::create_dir_all(&base).map_err(RunError::io("create", &base))?;
    for (name, bytes) in BASE {
        write_file(&base.join(name), bytes)?;
    }
    let mut configs = Vec::new();
    for (name, text) in RUNS {
        configs.push((name, configuration(out, name, text, (&base, &data), seed)?));
    }
    let first = &configs[0].1;
    let counts = first.data()?.counts;
    let train_rows = counts.train.unwrap_or_default();
    write_data(&data, DemoCounts { train: train_rows, dev: counts.dev, test: TEST, documents: 0 }, seed)?;
    tell(DemoProgress::Stage("measuring the base".into()));
    let settings = EvalSettings {
        task: Some(first.data()?.task.name.to_owned()),
        data: Some(data.clone()),
        split: Split::Test,
        limit: None,
        answers: Answers {
            metrics: first.data()?.answers.metrics.clone(),
            max_new_tokens: Some(first.data()?.max_new_tokens),
            rule: None,
        },
        dtype: None,
        threads: 0,
    };
    let base_parameters = plan(first)?.base_parameters;
    let mut rows = vec![measured("base", 0, 0.0, None, eval(&base, None, &settings)?)];
    for (name, config) in &configs {
        let plan = plan(config)?;
        let method = plan.adapters.iter().map(|adapter| adapter.method).collect::<Vec<_>>().join("+");
        tell(DemoProgress::Stage(format!("fine-tuning with {method}")));
        let folder = out.join(name);
        let report =
            train(config, &folder, TrainOptions::default(), &mut |progress| tell(DemoProgress::Train(progress)))?;
        tell(DemoProgress::Stage(format!("measuring {method} on {TEST} held-out passages, and merging it")));
        let examined = eval(&folder, None, &settings)?;
        let merged = merge(&[(folder.clone(), 1.0)], None, &out.join(format!("{name}-merged")), Some(Dtype::F32), 0)?;
        rows.push(measured(&method, plan.trainable(), report.summary.seconds, Some(merged), examined));
    }
    let shown = shown(&rows);
    let page = out.join("report.html");
    let folders: Vec<PathBuf> = configs.iter().map(|(name, _)| out.join(name)).collect();
    page::write(&page, &rows, &shown, &folders)?;
    let seconds = clock.elapsed().as_secs_f64();
    Ok(DemoReport { out: out.to_owned(), base_parameters, rows, shown, page, seconds })
}

/// Writes a run's configuration beside the runs and reads it with its paths and seed filled in.
fn configuration(
    out: &Path,
    name: &str,
    text: &str,
    (base, data): (&Path, &Path),
    seed: u64,
) -> Result<RunConfig, RunError> {
    let file = out.join(format!("{name}.toml"));
    let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
    let text = text
        .replace("path = \"base\"", &format!("path = {}", quoted(base)))
        .replace("path = \"data\"", &format!("path = {}", quoted(data)))
        .replace("[train]\n", &format!("[train]\nseed = {seed}\n"));
    write_file(&file, text.as_bytes())?;
    RunConfig::read(&file, &[])
}

fn measured(name: &str, trainable: usize, seconds: f64, merge: Option<MergeReport>, eval: EvalReport) -> DemoRow {
    DemoRow { name: name.to_owned(), trainable, metrics: eval.all.metrics.clone(), seconds, merge, eval }
}

/// The test rows to show: the first of each kind of outcome in turn, so that failures are seen too.
fn shown(rows: &[DemoRow]) -> Vec<usize> {
    let outcome = |index: usize| -> Vec<bool> {
        let score = |row: &DemoRow| row.eval.answers[index].values.first().is_some_and(|value| *value >= 1.0);
        rows.iter().map(score).collect()
    };
    let count = rows.first().map_or(0, |row| row.eval.answers.len());
    let (mut seen, mut chosen): (Vec<Vec<bool>>, Vec<usize>) = (Vec::new(), Vec::new());
    for index in 0..count {
        let outcome = outcome(index);
        if !seen.contains(&outcome) {
            seen.push(outcome);
            chosen.push(index);
        }
    }
    let rest: Vec<usize> = (0..count).filter(|index| !chosen.contains(index)).collect();
    chosen.extend(rest);
    chosen.truncate(SHOWN);
    chosen
}

/// The metrics of the demonstration, for the heads of its tables.
pub fn metric_names(rows: &[DemoRow]) -> Vec<&'static str> {
    rows.first().map(|row| row.metrics.iter().map(|(name, _)| *name).collect()).unwrap_or_default()
}
