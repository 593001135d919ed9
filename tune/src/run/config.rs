//! The configuration of a run: read from TOML with every problem collected, and written back in full as the run folder's `config.toml`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::examination::Answers;
use super::hub::replace_name;
use super::{RunError, objective};
use crate::adapter::{Layers, Selection, Sites, Target, method_named, methods};
use crate::config::{Problems, Section, apply_overrides, nearest, read_toml};
use crate::data::batch::Weighting;
use crate::data::encode::{Form, Options, Truncation};
use crate::data::metric;
use crate::data::objective::Objective;
use crate::data::sample::Counts;
use crate::data::task::{self, Task};
use crate::eval::StopRule;
use crate::hub::HubModel;
use crate::model::{Attachment, ModelConfig, StoredAs, read_folder_config, resolve};
use crate::train::{AdamWSettings, FitSettings, Length, Shape};

/// Version of the run folder's layout and of its `config.toml`.
pub(super) const FORMAT: usize = 1;

/// By what the best validation is chosen; true: by the loss.
const BEST_BY: [(&str, bool); 2] = [("metric", false), ("loss", true)];

/// What products with weights held as bf16 are in training; true: of rows rounded to bf16, as [`crate::tensor::Rounder`] says.
const PRODUCTS: [(&str, bool); 2] = [("exact", false), (ROUNDED, true)];
const ROUNDED: &str = "rounded";

const SHAPES: [(&str, Shape); 3] =
    [("linear", Shape::Linear), ("cosine", Shape::Cosine), ("constant", Shape::Constant)];

/// What a model computes in, and how its matrices are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelDtype {
    /// Computes in f32; bf16 weights stay bf16 in memory.
    Auto,
    /// Computes in f32, weights in f32.
    F32,
    /// Computes in f64, weights in f64.
    F64,
    /// Computes in f32, weights rounded to bf16.
    Bf16,
}

impl ModelDtype {
    /// Every choice with its name in a config and on the command line.
    pub const NAMES: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("f32", Self::F32), ("f64", Self::F64), ("bf16", Self::Bf16)];

    /// How matrices are held.
    pub fn stored_as(self) -> StoredAs {
        match self {
            Self::Auto => StoredAs::File,
            Self::F32 | Self::F64 => StoredAs::Compute,
            Self::Bf16 => StoredAs::Bf16,
        }
    }
}

/// The `[data]` section.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// How rows are read and encoded.
    pub task: &'static Task,
    /// File or folder of the rows.
    pub path: PathBuf,
    /// How many rows go where.
    pub counts: Counts,
    /// Length limit and what is done with longer rows.
    pub options: Options,
    /// What is made likelier.
    pub objective: Objective,
    /// How rows are answered and measured.
    pub answers: Answers,
    /// Most tokens of a generated answer; samples of tasks that generate are kept so much shorter than the limit.
    pub max_new_tokens: usize,
    /// Whose messages of a conversation are trained; only conversations have roles.
    pub roles: Vec<String>,
}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where it was read from, for messages.
    pub origin: String,
    /// The base model's folder.
    pub model: PathBuf,
    /// Its name on the hub and the commit that the folder holds, where the configuration names it so.
    pub hub: Option<HubModel>,
    /// Type of compute and storage.
    pub dtype: ModelDtype,
    /// What to train on; `plan` does without.
    pub data: Option<DataSettings>,
    /// What to attach.
    pub attachments: Vec<Attachment>,
    /// The loop.
    pub fit: FitSettings,
    /// Checkpoints that are kept.
    pub keep_checkpoints: usize,
    /// An adapter or run whose values training starts from.
    pub init_from: Option<PathBuf>,
    /// Whether the best is the lowest validation loss even where the task has a metric.
    pub best_by_loss: bool,
    /// Whether products with bf16 weights are of rows rounded to bf16, and attention's and those of circuits' gradients with them.
    pub rounded: bool,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

impl RunConfig {
    /// Reads a TOML file and applies `key=value` overrides.
    ///
    /// # Errors
    /// [`RunError::Config`] with everything that is wrong.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, RunError> {
        let problems = Problems::new();
        let mut table = read_toml(path, &problems).map_err(RunError::Config)?;
        apply_overrides(&mut table, overrides, &problems);
        let hub = replace_name(&mut table)?;
        let config = Self { hub, ..Self::from_table(table, path.display().to_string(), &problems) };
        problems.check(&path.display().to_string()).map_err(RunError::Config)?;
        Ok(config)
    }

    fn from_table(table: Map<String, Value>, origin: String, problems: &Problems) -> Self {
        let mut top = Section::new("", table, problems);
        let format = top.usize("format").or(FORMAT);
        if format > FORMAT {
            top.problem("format", format!("{format} is newer than {FORMAT}, which this program knows: update it"));
        }
        let mut model = top.required_section("model");
        let model_path = path(&mut model, "path");
        let dtype = model.one_of("dtype", &ModelDtype::NAMES).or(ModelDtype::Auto);
        model.finish();
        // a folder that cannot be read is reported by the command that loads it
        let shape = read_folder_config(&model_path).ok();
        let data = top.section("data").map(|section| read_data(section, shape.as_ref()));
        let shape = shape.map(|shape| objective::with_head(shape, data.as_ref()));
        let entries: Vec<Option<Attachment>> = top.sections("adapter").into_iter().map(read_adapter).collect();
        check_fit(shape.as_ref(), &entries, problems);
        let attachments = entries.into_iter().flatten().collect();
        if top.value("adapter").is_none_or(|value| value.as_array().is_some_and(Vec::is_empty)) {
            top.problem("adapter", "missing: add an [[adapter]] entry with its type and sites");
        }
        let mut train = top.section("train").unwrap_or_else(|| Section::new("train", Map::new(), problems));
        let fit = read_fit(&mut train);
        let threads = train.usize("threads").at_most(1024).or(0);
        let keep_checkpoints = train.usize("keep_checkpoints").at_least(1).or(1);
        let init_from = train.string("init_from").optional().map(PathBuf::from);
        let best_by_loss = train.one_of("best_by", &BEST_BY).or(false);
        let rounded = train.one_of("products", &PRODUCTS).or(false);
        if rounded && matches!(dtype, ModelDtype::F32 | ModelDtype::F64) {
            train.problem(
                "products",
                "\"rounded\" is for weights held as bf16: set model.dtype = \"bf16\", or leave it out",
            );
        }
        train.finish();
        top.finish();
        Self {
            origin,
            model: model_path,
            hub: None,
            dtype,
            data,
            attachments,
            fit,
            keep_checkpoints,
            init_from,
            best_by_loss,
            rounded,
            threads,
        }
    }

    /// The data section, which training and inspection need.
    ///
    /// # Errors
    /// [`RunError::Usage`] when there is none.
    pub fn data(&self) -> Result<&DataSettings, RunError> {
        self.data.as_ref().ok_or_else(|| {
            RunError::Usage(format!("{}: the section [data] is missing: add it with task and path", self.origin))
        })
    }

    /// The configuration in full as TOML, every default written out; reading it gives the same configuration. Paths are made absolute.
    pub fn text(&self) -> String {
        let name = |table: &[(&'static str, ModelDtype)]| {
            table.iter().find(|(_, d)| *d == self.dtype).map_or("auto", |(n, _)| n)
        };
        let mut top = Map::new();
        top.insert("format".into(), json!(FORMAT));
        let model = self.hub.as_ref().map_or_else(|| absolute(&self.model), HubModel::to_string);
        top.insert("model".into(), json!({ "path": model, "dtype": name(&ModelDtype::NAMES) }));
        if let Some(data) = &self.data {
            top.insert("data".into(), write_data(data));
        }
        top.insert("adapter".into(), Value::Array(self.attachments.iter().map(write_adapter).collect()));
        top.insert("train".into(), self.write_train());
        without_null(&mut top);
        // text keys, no null, and numbers, texts, lists and tables as values: all of them TOML
        toml::to_string(&top).expect("a configuration is TOML")
    }

    fn write_train(&self) -> Value {
        let fit = &self.fit;
        let (epochs, steps) = match fit.length {
            Length::Epochs(epochs) => (Some(epochs), None),
            Length::Steps(steps) => (None, Some(steps)),
        };
        json!({
            "lr": fit.lr, "epochs": epochs, "steps": steps, "batch": fit.batch, "accumulate": fit.accumulate,
            "batch_tokens": fit.batch_tokens,
            "schedule": SHAPES.iter().find(|(_, shape)| *shape == fit.schedule).map(|(name, _)| name),
            "warmup_steps": fit.warmup_steps, "eval_every": fit.eval_every, "clip": fit.clip.unwrap_or(0.0),
            "checkpoint_every": fit.checkpoint_every, "keep_checkpoints": self.keep_checkpoints, "patience": fit.patience,
            "init_from": self.init_from.as_deref().map(absolute),
            "best_by": BEST_BY.iter().find(|(_, by_loss)| *by_loss == self.best_by_loss).map(|(name, _)| name),
            "weighting": Weighting::NAMES.iter().find(|(_, w)| *w == fit.weighting).map(|(name, _)| name),
            "beta1": fit.adamw.beta1, "beta2": fit.adamw.beta2, "epsilon": fit.adamw.epsilon,
            "weight_decay": fit.adamw.weight_decay, "recompute": fit.recompute,
            "products": self.rounded.then_some(ROUNDED), "seed": fit.seed, "threads": self.threads,
        })
    }
}

/// Reports, with the configuration's other problems, adapters that do not fit the model, where its `config.json` can be read already.
fn check_fit(model: Option<&ModelConfig>, entries: &[Option<Attachment>], problems: &Problems) {
    let Some(model) = model else { return };
    for (index, entry) in entries.iter().enumerate() {
        let Some(entry) = entry else { continue };
        for error in resolve(std::slice::from_ref(entry), model).err().into_iter().flatten() {
            problems.add(format!("adapter.{index}"), error.reason());
        }
    }
}

fn path(section: &mut Section, key: &str) -> PathBuf {
    PathBuf::from(section.string(key).must("must not be empty", |path| !path.is_empty()).required())
}

fn read_data(mut section: Section, model: Option<&ModelConfig>) -> DataSettings {
    let name = section.string("task").or(task::TASKS[0].name.to_owned());
    let task = task::find(&name).unwrap_or_else(|error| {
        section.problem("task", error.to_string());
        &task::TASKS[0]
    });
    let seed = section.usize("seed").or(42);
    let (objective, truncation) = objective::read(&mut section, task, model);
    let settings = DataSettings {
        task,
        path: path(&mut section, "path"),
        counts: Counts {
            train: section.usize("train").at_least(1).optional(),
            dev: section.usize("dev").or(0),
            test: section.usize("test").optional(),
            seed: u32::try_from(seed).unwrap_or(u32::MAX),
        },
        options: Options {
            max_length: section.usize("max_length").at_least(2).or(Options::default().max_length),
            truncation,
            append_eos: section.bool("append_eos").or(true),
        },
        objective,
        answers: read_answers(&mut section),
        max_new_tokens: section.usize("max_new_tokens").at_least(1).or(task.max_new_tokens),
        roles: section
            .strings("roles")
            .must("must name at least one role, such as assistant", |roles| !roles.is_empty())
            .or(vec!["assistant".to_owned()]),
    };
    if section.has("roles") && task.form != Form::Chat {
        section.problem("roles", format!("the rows of `{}` are no conversations: leave it out", task.name));
    }
    section.finish();
    settings
}

/// How rows are answered and measured.
fn read_answers(section: &mut Section) -> Answers {
    let names = section.strings("metrics").optional();
    let metrics = names.map(|names| {
        let find =
            |name: &String| metric::find(name).map_err(|error| section.problem("metrics", error.to_string())).ok();
        names.iter().filter_map(find).collect()
    });
    Answers {
        metrics,
        max_new_tokens: None,
        rule: section.one_of("stop", &StopRule::ALL.map(|rule| (rule.name(), rule))).optional(),
    }
}

fn write_data(data: &DataSettings) -> Value {
    let truncation =
        Truncation::NAMES.iter().find(|(_, policy)| *policy == data.options.truncation).map(|(name, _)| name);
    let roles = (data.task.form == Form::Chat).then_some(&data.roles);
    json!({
        "task": data.task.name, "path": absolute(&data.path), "train": data.counts.train, "dev": data.counts.dev,
        "test": data.counts.test, "seed": data.counts.seed, "max_length": data.options.max_length,
        "truncation": truncation, "append_eos": data.options.append_eos, "max_new_tokens": data.max_new_tokens,
        "roles": roles,
        "objective": data.objective.name(),
        "metrics": data.answers.metrics.as_ref().map(|list| list.iter().map(|metric| metric.name).collect::<Vec<_>>()),
        "stop": data.answers.rule.map(StopRule::name),
    })
}

/// An entry, unless something is wrong with it.
fn read_adapter(mut section: Section) -> Option<Attachment> {
    let problems = section.problems().clone();
    let before = problems.len();
    let name = section.string("type").must("must not be empty", |text| !text.is_empty()).required();
    let info = method_named(&name);
    let attention = info.is_some_and(|info| info.target == Target::Attention);
    if attention {
        for key in ["sites", "layers"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, "is not for a method that stands at the attention of all layers: leave it out");
        }
    }
    let sites = match section.strings_or_string("sites").optional() {
        _ if attention => Sites::Attention,
        Some((texts, false)) => Sites::from_text(texts.first().map_or("", String::as_str)),
        Some((names, true)) => Sites::Names(names),
        None => {
            if !section.has("sites") {
                section.problem("sites", "missing: name modules such as [\"q_proj\", \"v_proj\"], or \"all-linear\"");
            }
            Sites::AllLinear
        }
    };
    let layers = Layers::from_value(section.value("layers")).unwrap_or_else(|message| {
        section.problem("layers", message);
        Layers::default()
    });
    let Some(method) = info else {
        if !name.is_empty() {
            let known: Vec<&str> = methods().iter().map(|method| method.name).collect();
            let near = nearest(&name, known.iter().copied()).map(|near| format!(", did you mean `{near}`?"));
            section.problem("type", format!("`{name}` is not one of {}{}", known.join(", "), near.unwrap_or_default()));
        }
        return None;
    };
    let method = method.read(&mut section);
    section.finish();
    (problems.len() == before).then_some(Attachment { method, selection: Selection { sites, layers } })
}

fn write_adapter(attachment: &Attachment) -> Value {
    let mut map = attachment.method.write();
    map.insert("type".into(), json!(attachment.method.name()));
    map.insert("sites".into(), attachment.selection.sites.to_value());
    map.insert("layers".into(), json!(attachment.selection.layers.list()));
    Value::Object(map)
}

fn read_fit(section: &mut Section) -> FitSettings {
    let steps = section.usize("steps").at_least(1).optional();
    let epochs = section.f64("epochs").positive().at_most(1e6).optional();
    if steps.is_some() && epochs.is_some() {
        section.problem("steps", "stands beside epochs: say how long the run is in one of them");
    }
    let clip = section.f64("clip").at_least(0.0).or(1.0);
    let defaults = AdamWSettings::default();
    FitSettings {
        batch: section.usize("batch").at_least(1).at_most(1 << 20).or(4),
        accumulate: section.usize("accumulate").at_least(1).at_most(1 << 20).or(1),
        batch_tokens: section.usize("batch_tokens").at_least(1).optional(),
        length: steps.map_or(Length::Epochs(epochs.unwrap_or(3.0)), Length::Steps),
        lr: section.f64("lr").at_least(0.0).or(1e-4),
        warmup_steps: section.usize("warmup_steps").or(0),
        schedule: section.one_of("schedule", &SHAPES).or(Shape::Linear),
        eval_every: section.usize("eval_every").at_least(1).optional(),
        checkpoint_every: section.usize("checkpoint_every").at_least(1).optional(),
        patience: section.usize("patience").at_least(1).optional(),
        weighting: section.one_of("weighting", &Weighting::NAMES).or(Weighting::Token),
        adamw: AdamWSettings {
            beta1: section.f64("beta1").at_least(0.0).must("must be below 1", |b| *b < 1.0).or(defaults.beta1),
            beta2: section.f64("beta2").at_least(0.0).must("must be below 1", |b| *b < 1.0).or(defaults.beta2),
            epsilon: section.f64("epsilon").positive().or(defaults.epsilon),
            weight_decay: section.f64("weight_decay").at_least(0.0).or(defaults.weight_decay),
        },
        clip: (clip > 0.0).then_some(clip),
        recompute: section.bool("recompute").or(false),
        seed: section.u64("seed").or(0),
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// TOML has no null: an absent key says the same.
fn without_null(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        match value {
            Value::Object(inner) => without_null(inner),
            Value::Array(list) => list.iter_mut().filter_map(Value::as_object_mut).for_each(without_null),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_toml;

    const TEXT: &str = r#"
        [model]
        path = "/models/x"
        [data]
        path = "/data/x.jsonl"
        dev = 10
        [[adapter]]
        type = "quanta"
        dims = [4, 4, 4]
        sites = ["q_proj", "v_proj"]
        layers = "0-1,3"
        [[adapter]]
        type = "lora"
        r = 4
        sites = "all-linear"
        [train]
        lr = 1e-3
        steps = 10
        batch_tokens = 512
    "#;

    fn read(text: &str) -> (RunConfig, Vec<String>) {
        let problems = Problems::new();
        let table = parse_toml(text, "test", &problems).unwrap();
        let config = RunConfig::from_table(table, "test".into(), &problems);
        (config, problems.to_vec().into_iter().map(|problem| problem.path).collect())
    }

    #[test]
    fn the_resolved_text_reads_back_as_the_same_configuration() {
        let (config, problems) = read(TEXT);
        assert_eq!(problems, Vec::<String>::new());
        let text = config.text();
        let (again, problems) = read(&text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        assert_eq!(again.fit.batch_tokens, Some(512));
        assert_eq!((again.text(), again.attachments, again.fit), (text, config.attachments, config.fit));
    }

    #[test]
    fn all_problems_are_found_at_once() {
        let text = TEXT
            .replace("lr = 1e-3", "lr_rate = 1e-3\nepochs = 2\nbatch = 0")
            .replace("tokens = 512", "tokens = 0")
            .replace("\"quanta\"", "\"quantum\"");
        let (_, problems) = read(&text.replace("path = \"/data/x.jsonl\"", "pth = 1"));
        let expected = [
            "data.path",
            "data.pth",
            "adapter.0.type",
            "train.steps",
            "train.batch",
            "train.batch_tokens",
            "train.lr_rate",
        ];
        assert_eq!(problems, expected);
    }
}
