//! `quanta eval`: a model, run or adapter measured on a task's rows.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::examination::{Answers, build};
use super::source::{Source, needs_decoder, workspace};
use super::{ModelDtype, RunConfig, RunError};
use crate::data::dataset::{Dataset, Part};
use crate::data::encode::{Form, Options, Truncation, encode, encode_candidates};
use crate::data::example::Example;
use crate::data::objective::Objective;
use crate::data::sample::permutation;
use crate::data::task::{Split, Task, find};
use crate::data::tokenizer::Tokenizer;
use crate::data::whole::encode_whole;
use crate::eval::{Examined, mean_loss};
use crate::model::{LoadError, ModelConfig};
use crate::tensor::Real;
use crate::weights::write_file;

/// What to measure, and on what.
#[derive(Clone, Debug)]
pub struct EvalSettings {
    /// Name of the task; none: that of the run.
    pub task: Option<String>,
    /// File or folder of the rows; none: that of the run.
    pub data: Option<PathBuf>,
    /// Which part of it.
    pub split: Split,
    /// Most rows; they are drawn as in training, by the permutation of the split's seed.
    pub limit: Option<usize>,
    /// Metrics, answer length, stop rule.
    pub answers: Answers,
    /// Type of compute and weights; none: a run's own.
    pub dtype: Option<ModelDtype>,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// A set of rows and what was measured on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Name of the set, empty for the rows as a whole.
    pub group: String,
    /// Number of rows.
    pub rows: usize,
    /// Mean of every metric.
    pub metrics: Vec<(&'static str, f64)>,
}

/// One row with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The row.
    pub example: Example,
    /// What the model said.
    pub prediction: String,
    /// The value of every metric.
    pub values: Vec<f64>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalReport {
    /// Name of the task.
    pub task: &'static str,
    /// Name of the split.
    pub split: &'static str,
    /// All rows together.
    pub all: Measured,
    /// Each set by itself, where the rows come from several; in the order of the rows.
    pub groups: Vec<Measured>,
    /// Mean of the sets' values, each set counting once; empty without sets.
    pub average: Vec<(&'static str, f64)>,
    /// Mean loss over the right answers' tokens, or of an encoder's answers.
    pub loss: Option<f64>,
    /// Every row.
    pub answers: Vec<Answered>,
}

/// Measures the model, run or adapter in `folder`. The result is also written to `eval-TASK-SPLIT.json` where the folder is a run. Adapters are merged in memory, see
/// [`Decoder::merge`](crate::model::Decoder::merge); beside weights held as bf16 they stay as they are.
///
/// # Errors
/// When the folder or the data cannot be loaded, the task has no metric for these rows, or generation fails.
pub fn eval(folder: &Path, base: Option<&Path>, settings: &EvalSettings) -> Result<EvalReport, RunError> {
    let source = Source::open(folder, base)?;
    let config_file = folder.join("config.toml");
    let run = config_file.exists().then(|| RunConfig::read(&config_file, &[])).transpose()?;
    let data = run.as_ref().and_then(|run| run.data.as_ref());
    let task: &Task = match (&settings.task, data) {
        (Some(name), _) => find(name)?,
        (None, Some(data)) => data.task,
        (None, None) => return Err(RunError::Usage("name a task with --task: only a run has one of its own".into())),
    };
    let path = match (&settings.data, data) {
        (Some(path), _) => path.clone(),
        (None, Some(data)) if data.task.name == task.name => data.path.clone(),
        _ => return Err(RunError::Usage("say with --data where the rows are".into())),
    };
    let mut answers = settings.answers.clone();
    let mut options = Options::default();
    let mut seed = 42;
    if let Some(data) = data.filter(|data| data.task.name == task.name) {
        answers.metrics = answers.metrics.or_else(|| data.answers.metrics.clone());
        answers.max_new_tokens = answers.max_new_tokens.or(Some(data.max_new_tokens));
        answers.rule = answers.rule.or(data.answers.rule);
        (options, seed) = (data.options, data.counts.seed);
    }
    let objective = objective_of(task, &source)?;
    if objective.is_of_whole_rows() && options.truncation != Truncation::Refuse {
        options.truncation = Truncation::LongestFirst;
    }
    options.max_length = options.max_length.min(source.config.max_length);
    let tokenizer = Tokenizer::from_folder(&source.base)?;
    let rows = drawn(Dataset::rows(task, &path, settings.split)?, settings.limit, seed.wrapping_add(2));
    let part = encoded(task, objective, rows, &tokenizer, options, &source.config)?;
    let dtype = settings.dtype.unwrap_or(source.dtype);
    let job =
        Job { source: &source, tokenizer: &tokenizer, task, objective, part: &part, answers: &answers, options, dtype };
    let (examined, loss) = match dtype {
        ModelDtype::F64 => job.run::<f64>(settings.threads)?,
        _ => job.run::<f32>(settings.threads)?,
    };
    let split = settings.split.name();
    let report = summarise(task.name, split, part.examples, examined, loss);
    if run.is_some() {
        let text = report.json().to_string();
        write_file(&folder.join(format!("eval-{}-{split}.json", task.name)), text.as_bytes())?;
    }
    Ok(report)
}

/// The first `limit` rows of the permutation, or all rows in their order.
fn drawn(rows: Vec<Example>, limit: Option<usize>, seed: u32) -> Vec<Example> {
    match limit {
        Some(limit) if limit < rows.len() => {
            permutation(seed, rows.len()).into_iter().take(limit).map(|index| rows[index].clone()).collect()
        }
        _ => rows,
    }
}

/// How the model answers the task's rows: an encoder as whole rows, with a head that fits.
fn objective_of(task: &Task, source: &Source) -> Result<Objective, RunError> {
    let model = &source.config;
    let (Some(outcome), Some(labels)) = (task.outcome, model.labels) else {
        needs_decoder(model, "answer in tokens")?;
        return Ok(task.objective);
    };
    match outcome.outputs() {
        _ if !source.has_head()? => Err(RunError::Usage(format!(
            "{} holds no head over whole sequences: measure a run, or a folder that was trained",
            source.base.display()
        ))),
        wanted if wanted != labels => Err(RunError::Load(LoadError::Labels { labels, wanted })),
        _ => Ok(outcome.objective()),
    }
}

fn encoded(
    task: &Task,
    objective: Objective,
    examples: Vec<Example>,
    tokenizer: &Tokenizer,
    options: Options,
    model: &ModelConfig,
) -> Result<Part, RunError> {
    if matches!(task.form, Form::Chat | Form::Windows) {
        return Err(RunError::Usage(format!(
            "the rows of {} have no answers to measure: use `quanta score`",
            task.name
        )));
    }
    let failed = |source| RunError::Data(crate::data::dataset::DatasetError::Encode { part: "test", source });
    let whole = objective.is_of_whole_rows();
    let encoded = match whole {
        true => encode_whole(&examples, tokenizer, &options),
        false => encode(&examples, task.form, tokenizer, &options),
    };
    let encoded = encoded.map_err(failed)?;
    let candidates = match whole || examples.iter().any(|row| row.candidates.is_empty()) {
        true => Vec::new(),
        false => encode_candidates(&examples, task.form, tokenizer, &options).map_err(failed)?,
    };
    let all = encoded.iter().chain(candidates.iter().flatten()).flat_map(|sample| &sample.tokens);
    let vocab_size = model.vocab_size;
    match all.into_iter().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(RunError::Vocabulary { token, vocab_size }),
        None => Ok(Part { examples, encoded, candidates }),
    }
}

struct Job<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    task: &'static Task,
    objective: Objective,
    part: &'a Part,
    answers: &'a Answers,
    options: Options,
    dtype: ModelDtype,
}

impl Job<'_> {
    fn run<T: Real>(&self, threads: usize) -> Result<(Examined, Option<f64>), RunError> {
        let Self { source, tokenizer, task, objective, part, answers, options, dtype } = self;
        let exam = build(task, *objective, part, answers, *options, &source.config, tokenizer)?;
        let exam = exam.ok_or_else(|| RunError::Usage(format!("no metric of {} suits these rows", task.name)))?;
        let workspace = workspace::<T>(threads)?;
        let model = source.load_merged::<T>(dtype.stored_as(), &workspace)?;
        let examined = exam.run(&model, tokenizer, &workspace)?;
        let loss = match objective.is_of_whole_rows() {
            true => examined.loss,
            false => mean_loss(&model, &part.encoded, exam.batch_tokens, &workspace),
        };
        Ok((examined, loss))
    }
}

fn summarise(
    task: &'static str,
    split: &'static str,
    examples: Vec<Example>,
    examined: Examined,
    loss: Option<f64>,
) -> EvalReport {
    let mut names: Vec<&str> = Vec::new();
    for row in &examples {
        if !names.contains(&row.group.as_str()) {
            names.push(&row.group);
        }
    }
    let measured = |group: &str, chosen: &dyn Fn(usize) -> bool| {
        let rows = (0..examples.len()).filter(|&index| chosen(index)).count();
        Measured { group: group.to_owned(), rows, metrics: examined.means(&examples, chosen).unwrap_or_default() }
    };
    let all = measured("", &|_| true);
    let several = names.len() > 1;
    let of = |name: &&str| measured(name, &|index: usize| examples[index].group == **name);
    let groups: Vec<Measured> = if several { names.iter().map(of).collect() } else { Vec::new() };
    let mean = |metric: usize| groups.iter().map(|group| group.metrics[metric].1).sum::<f64>() / groups.len() as f64;
    let average = match several {
        true => examined.metrics.iter().enumerate().map(|(index, metric)| (metric.name, mean(index))).collect(),
        false => Vec::new(),
    };
    let rows = examples.into_iter().zip(examined.predictions).zip(examined.values);
    let answers = rows.map(|((example, prediction), values)| Answered { example, prediction, values }).collect();
    EvalReport { task, split, all, groups, average, loss, answers }
}

impl EvalReport {
    /// The report as JSON: what `--json` prints and a run folder keeps.
    pub fn json(&self) -> Value {
        let metrics = |list: &[(&'static str, f64)]| -> Value {
            list.iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let groups: serde_json::Map<String, Value> = self
            .groups
            .iter()
            .map(|group| (group.group.clone(), json!({ "count": group.rows, "metrics": metrics(&group.metrics) })))
            .collect();
        let sample = |row: &Answered| {
            let gold = if row.example.answers.is_empty() {
                vec![row.example.completion.trim().to_owned()]
            } else {
                row.example.answers.clone()
            };
            json!({ "prompt": row.example.prompt, "gold": gold, "answer": row.prediction, "score": row.values.first() })
        };
        json!({
            "task": self.task, "split": self.split, "count": self.all.rows, "metrics": metrics(&self.all.metrics),
            "groups": groups, "average": metrics(&self.average), "loss": self.loss,
            "samples": self.answers.iter().map(sample).collect::<Vec<_>>(),
        })
    }
}
