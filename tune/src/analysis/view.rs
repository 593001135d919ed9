//! A run folder read back: its configuration in words, its log as numbers, its evaluations.
//!
//! The reader is made for folders of any age and for runs that are still going: it takes the settings it knows from `config.toml` and passes over the
//! others, takes every number of a validation that it does not know for a metric, and leaves out a last line that is half written. Anything else that
//! cannot be read is an error with its place, because a curve with a hole looks like a result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::AnalysisError;
use crate::config::{Problems, parse_toml};

/// A training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPoint {
    /// Steps taken.
    pub step: usize,
    /// Tokens processed since the start.
    pub tokens: usize,
    /// Mean loss of the step; NaN where the log has none, as with the others.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Speed.
    pub tokens_per_second: f64,
}

/// A validation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationPoint {
    /// Steps taken.
    pub step: usize,
    /// Mean loss; NaN where none was measured.
    pub loss: f64,
    /// Whether it was the best so far.
    pub is_best: bool,
    /// The metrics, by name; most lie between 0 and 1.
    pub metrics: BTreeMap<String, f64>,
}

/// One row of an evaluation with the model's answer.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct TestSample {
    /// What the model was given.
    pub prompt: String,
    /// The right answers.
    #[serde(default)]
    pub gold: Vec<String>,
    /// What the model said.
    pub answer: String,
    /// How right it is, 0 to 1.
    #[serde(default)]
    pub score: Option<f64>,
}

/// The file `eval-*.json` that an evaluation leaves in a run folder. Keys besides these are passed over.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct TestResult {
    /// The task.
    pub task: String,
    /// The part of the data.
    #[serde(default)]
    pub split: String,
    /// The metrics, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Some rows with answers.
    #[serde(default)]
    pub samples: Vec<TestSample>,
}

/// What is known of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunView {
    /// The run's name: its folder's.
    pub name: String,
    /// The configuration in words: labels and texts, in the order in which they are read.
    pub settings: Vec<(String, String)>,
    /// The configuration file.
    pub config: String,
    /// Trainable parameters, where they are known.
    pub trainable: Option<usize>,
    /// Parameters of the base model, where they are known.
    pub base_parameters: Option<usize>,
    /// The steps.
    pub steps: Vec<StepPoint>,
    /// The validations.
    pub evaluations: Vec<EvaluationPoint>,
    /// The evaluations, by file name.
    pub tests: Vec<TestResult>,
}

impl RunView {
    /// Reads `config.toml`, `metrics.jsonl` and every `eval-*.json` of a run folder. The counts of parameters are left open.
    ///
    /// # Errors
    /// Everything in [`AnalysisError`] that has to do with reading.
    pub fn read(folder: &Path) -> Result<Self, AnalysisError> {
        let text = |name| {
            let path = folder.join(name);
            let absent = || AnalysisError::NotARun { path: folder.to_owned(), missing: name };
            read_text(&path)?.map(|text| (path, text)).ok_or_else(absent)
        };
        let (path, config) = text("config.toml")?;
        // values that TOML has and JSON has not are no setting of ours
        let table = parse_toml(&config, &path.display().to_string(), &Problems::new())?;
        let (path, log) = text("metrics.jsonl")?;
        let (steps, evaluations) = read_log(&path, &log)?;
        // `.` and `..` name no folder until they are resolved
        let resolved = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let name = resolved.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let (settings, tests) = (settings(&table), read_tests(folder)?);
        Ok(Self { name, settings, config, steps, evaluations, tests, ..Self::default() })
    }

    /// The validation that was the best to the end.
    pub fn best(&self) -> Option<&EvaluationPoint> {
        self.evaluations.iter().rfind(|point| point.is_best)
    }

    /// Names of the metrics of its validations.
    pub fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.evaluations.iter().flat_map(|point| point.metrics.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The text of a file; nothing where there is none. Bytes that are no text stand as replacement characters: a torn log may end within a letter.
fn read_text(path: &Path) -> Result<Option<String>, AnalysisError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AnalysisError::Read { path: path.to_owned(), source }),
    }
}

fn read_log(path: &Path, text: &str) -> Result<(Vec<StepPoint>, Vec<EvaluationPoint>), AnalysisError> {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let whole = line.ends_with('\n');
        match read_line(line.trim()) {
            Ok(Line::Blank) => {}
            Ok(Line::Step(point)) => steps.push(point),
            Ok(Line::Evaluation(point)) => evaluations.push(point),
            Err(_) if !whole => {}
            Err(reason) => return Err(AnalysisError::Log { path: path.to_owned(), line: index + 1, reason }),
        }
    }
    Ok((steps, evaluations))
}

enum Line {
    Blank,
    Step(StepPoint),
    Evaluation(EvaluationPoint),
}

fn read_line(line: &str) -> Result<Line, String> {
    if line.is_empty() {
        return Ok(Line::Blank);
    }
    let map: Map<String, Value> = serde_json::from_str(line).map_err(|_| "not a JSON object".to_owned())?;
    let count = |key: &str| map.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
    let step = count("step").ok_or("no whole number \"step\"")?;
    // JSON has no NaN: null stands for what was no number
    let number = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(f64::NAN),
        Some(value) => value.as_f64().ok_or_else(|| format!("\"{key}\" is not a number")),
    };
    if map.contains_key("loss") {
        return Ok(Line::Step(StepPoint {
            step,
            tokens: count("tokens").unwrap_or_default(),
            loss: number("loss")?,
            lr: number("lr")?,
            grad_norm: number("grad_norm")?,
            tokens_per_second: number("tokens_per_second")?,
        }));
    }
    let known = ["step", "eval_loss", "best", "tokens", "seconds"];
    let others = map.iter().filter(|(key, _)| !known.contains(&key.as_str()));
    let metrics: BTreeMap<String, f64> =
        others.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect();
    if metrics.is_empty() && !map.contains_key("eval_loss") {
        return Err("neither a step (\"loss\") nor a validation (\"eval_loss\")".into());
    }
    let is_best = map.get("best").and_then(Value::as_bool).unwrap_or_default();
    Ok(Line::Evaluation(EvaluationPoint { step, loss: number("eval_loss")?, is_best, metrics }))
}

/// All `eval-*.json` of a folder in the order of their names.
fn read_tests(folder: &Path) -> Result<Vec<TestResult>, AnalysisError> {
    let failed = |source| AnalysisError::Read { path: folder.to_owned(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("eval-") && text.ends_with(".json") {
            paths.push(folder.join(&name));
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = read_text(&path)?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| AnalysisError::Results { path, reason: error.to_string() })
    };
    paths.into_iter().map(read).collect()
}

/// The settings that a reader compares runs by, in words.
fn settings(table: &Map<String, Value>) -> Vec<(String, String)> {
    let empty = Map::new();
    let section = |name: &str| table.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let (model, data, train) = (section("model"), section("data"), section("train"));
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |label: &str, text: Option<String>| rows.extend(text.map(|text| (label.to_owned(), text)));
    let adapters: Vec<&Map<String, Value>> =
        table.get("adapter").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect();
    let each = |text: &dyn Fn(&Map<String, Value>) -> Option<String>| {
        let texts: Vec<String> =
            adapters.iter().filter_map(|adapter| text(adapter)).filter(|t| !t.is_empty()).collect();
        (!texts.is_empty()).then(|| texts.join(" + "))
    };
    row("Method", each(&|adapter| get(adapter, "type")));
    let apart = ["type", "sites", "layers"];
    let own = |adapter: &Map<String, Value>| -> Vec<String> {
        let keys = adapter.iter().filter(|(key, _)| !apart.contains(&key.as_str()));
        keys.map(|(key, value)| format!("{key} {}", shown(value))).collect()
    };
    row("Settings", each(&|adapter| Some(own(adapter).join(", "))));
    row("Sites", each(&|adapter| get(adapter, "sites")));
    row("Layers", each(&|adapter| get(adapter, "layers")));
    row("Model", get(model, "path").map(|path| last_part(&path)));
    row("Number type", get(model, "dtype"));
    let task = get(data, "task").map(|task| format!(", task {task}")).unwrap_or_default();
    row("Data", get(data, "path").map(|path| last_part(&path) + &task));
    let parts = ["train", "dev", "test"].map(|part| get(data, part).map(|count| format!("{count} {part}")));
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    row("Rows", (!parts.is_empty()).then(|| parts.join(", ")));
    let length = |key: &str| get(train, key).map(|value| format!("{value} {key}"));
    row("Length", length("steps").or_else(|| length("epochs")));
    let accumulated = get(train, "accumulate").filter(|times| times != "1").map(|times| format!(" × {times}"));
    let packed = get(train, "batch_tokens").map(|tokens| format!(", in micro-batches of {tokens} tokens"));
    let packed = accumulated.unwrap_or_default() + &packed.unwrap_or_default();
    row("Batch", get(train, "batch").map(|batch| batch + &packed));
    let schedule = get(train, "schedule").map(|shape| format!(", {shape}")).unwrap_or_default();
    let warmup =
        get(train, "warmup_steps").filter(|steps| steps != "0").map(|steps| format!(", {steps} warm-up steps"));
    row("Learning rate", get(train, "lr").map(|lr| lr + &schedule + &warmup.unwrap_or_default()));
    row("Seed", get(train, "seed"));
    rows
}

fn get(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).filter(|value| !value.is_null()).map(shown)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(real) if real != 0.0 && real.abs() < 1e-3 => format!("{real:e}"),
            Some(real) => real.to_string(),
            None => number.to_string(),
        },
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The name at the end of a path, of whatever system.
fn last_part(path: &str) -> String {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "format = 1\n[model]\npath = \"/models/tiny/\"\ndtype = \"auto\"\n[data]\npath = 'C:\\data\\q.jsonl'\ntask = \"jsonl\"\ntrain = 400\ndev = 60\n\
        [[adapter]]\ntype = \"one\"\ndims = [4, 4, 4]\nsites = [\"q_proj\", \"v_proj\"]\n[[adapter]]\ntype = \"two\"\nr = 4\nalpha = 8.0\nsites = \"all-linear\"\n\
        [train]\nlr = 3e-5\nsteps = 120\nbatch = 4\naccumulate = 2\nbatch_tokens = 512\nschedule = \"cosine\"\nwarmup_steps = 10\nseed = 3\n";
    const LOG: &str = "{\"best\":false,\"eval_loss\":2.5,\"step\":0,\"f1\":0.1}\n{\"grad_norm\":1.5,\"loss\":2.25,\"lr\":0.001,\"step\":1,\"tokens\":64,\"tokens_per_second\":1000.0}\n\
        \n{\"loss\":null,\"lr\":0.002,\"step\":2,\"tokens\":128}\n{\"best\":true,\"eval_loss\":1.5,\"step\":2,\"f1\":0.5,\"em\":0.25,\"note\":\"x\"}\n";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn read(log: &[u8]) -> Result<RunView, AnalysisError> {
        RunView::read(folder(&[("config.toml", CONFIG.as_bytes()), ("metrics.jsonl", log)]).path())
    }

    #[test]
    fn a_run_folder_is_read_back() {
        let run = read(LOG.as_bytes()).unwrap();
        assert_eq!(run.steps.len(), 2);
        let first = StepPoint { step: 1, tokens: 64, loss: 2.25, lr: 0.001, grad_norm: 1.5, tokens_per_second: 1000.0 };
        assert_eq!(run.steps[0], first);
        assert!(run.steps[1].loss.is_nan() && run.steps[1].grad_norm.is_nan());
        assert_eq!((run.evaluations.len(), run.evaluations[0].metrics["f1"]), (2, 0.1));
        assert_eq!((run.metrics(), run.best().unwrap().step), (vec!["em", "f1"], 2));
        assert_eq!(run.config, CONFIG);
        let rows: Vec<String> = run.settings.iter().map(|(label, text)| format!("{label}: {text}")).collect();
        let expected = [
            "Method: one + two",
            "Settings: dims 4 4 4 + alpha 8, r 4",
            "Sites: q_proj v_proj + all-linear",
            "Model: tiny",
            "Number type: auto",
            "Data: q.jsonl, task jsonl",
            "Rows: 400 train, 60 dev",
            "Length: 120 steps",
            "Batch: 4 × 2, in micro-batches of 512 tokens",
            "Learning rate: 3e-5, cosine, 10 warm-up steps",
            "Seed: 3",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_torn_last_line_is_left_out_at_whatever_byte() {
        let last = LOG.trim_end().rfind('\n').unwrap() + 1;
        for length in last..LOG.len() - 1 {
            let run = read(&LOG.as_bytes()[..length]).unwrap();
            // without its line end a line counts as soon as it is whole
            assert_eq!((run.steps.len(), run.evaluations.len()), (2, 1), "{length}");
        }
        assert_eq!(read(&LOG.as_bytes()[..LOG.len() - 1]).unwrap().evaluations.len(), 2);
        let torn = ["{\"loss\":1,\"step\":3}\n{\"é".as_bytes(), &[0xc3]].concat();
        assert_eq!(read(&torn).unwrap().steps.len(), 1);
        assert_eq!(read(b"").unwrap().steps.len(), 0);
    }

    #[test]
    fn malformed_files_are_refused_with_their_place() {
        let lines = [
            ("x", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("{\"loss\":1}", "no whole number"),
            ("{\"step\":-1,\"loss\":1}", "no whole number"),
            ("{\"step\":3,\"loss\":\"low\"}", "\"loss\" is not a number"),
            ("{\"step\":3,\"best\":true}", "neither a step"),
            ("{\"step\":3,\"eval_loss\":[]}", "\"eval_loss\" is not a number"),
        ];
        for (line, reason) in lines {
            let error = read(format!("{LOG}{line}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl, line 6: ") && error.contains(reason), "{line}: {error}");
        }
        let error = |files: &[(&str, &[u8])]| RunView::read(folder(files).path()).unwrap_err();
        assert!(matches!(error(&[]), AnalysisError::NotARun { missing: "config.toml", .. }));
        let config = ("config.toml", CONFIG.as_bytes());
        assert!(matches!(error(&[config]), AnalysisError::NotARun { missing: "metrics.jsonl", .. }));
        assert!(matches!(error(&[("config.toml", b"[[")]), AnalysisError::Config(ConfigError::Syntax { line: 1, .. })));
        let results = error(&[config, ("metrics.jsonl", b""), ("eval-x.json", b"{\"task\": 1}")]);
        assert!(
            matches!(&results, AnalysisError::Results { reason, .. } if reason.contains("expected a string")),
            "{results}"
        );
    }

    #[test]
    fn evaluations_are_read_by_name() {
        let test = |task: &str| {
            format!(
                "{{\"task\":\"{task}\",\"split\":\"test\",\"count\":2,\"metrics\":{{\"f1\":0.5}},\"samples\":[{{\"prompt\":\"p\",\"gold\":[\"a\"],\"answer\":\"b\",\"score\":0.0}}]}}"
            )
        };
        let files = [("eval-b.json", test("b")), ("eval-a.json", test("a")), ("evaluation.json", "x".into())];
        let mut all = vec![("config.toml", CONFIG.as_bytes()), ("metrics.jsonl", b"")];
        all.extend(files.iter().map(|(name, text)| (*name, text.as_bytes())));
        let run = RunView::read(folder(&all).path()).unwrap();
        assert_eq!(run.tests.iter().map(|test| test.task.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((run.tests[0].metrics["f1"], run.tests[0].samples[0].score), (0.5, Some(0.0)));
    }

    use crate::config::ConfigError;
}
