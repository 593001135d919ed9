//! `quanta train`: from a configuration to a run folder; begun, continued, or tried for one step.
//!
//! Everything that can be wrong is looked at before the weights are read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::examination::examination;
use super::hub::snapshot;
use super::run_folder::{RunFolder, check_same_run};
use super::source::{needs_decoder, training_workspace};
use super::{ModelDtype, PlanReport, RunConfig, RunError, memory, plan::plan, samples};
use crate::checkpoint::{AdapterFolder, Checkpoint, list_checkpoints};
use crate::data::dataset::Dataset;
use crate::data::samples::Samples;
use crate::data::statistics::Statistics;
use crate::data::tokenizer::Tokenizer;
use crate::eval::{Examination, mean_loss};
use crate::hub::Need;
use crate::model::{Cost, Decoder, load_with_head, resolve};
use crate::tensor::{Real, Workspace};
use crate::train::{AdamW, Event, FitError, Host, State, StepReport, Summary, Validation, fit};
use crate::weights::{Staging, write_file};

/// What training tells while it runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The data is encoded, the model loaded, the first step about to start.
    Started {
        /// Steps already taken, of the run that is continued.
        done: usize,
        /// Steps of the run.
        total_steps: usize,
        /// Trainable parameters.
        trainable: usize,
        /// Parameters of the base model.
        base_parameters: usize,
        /// Lengths of the training samples.
        train: Statistics,
        /// Number of dev samples.
        dev: usize,
    },
    /// A step or a validation.
    Event(Event),
}

/// How a run begins and ends besides its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOptions<'a> {
    /// Continue from the newest checkpoint in the folder; begin where there is none.
    pub resume: bool,
    /// Raised by the user who wants the run to end with a checkpoint after the step at hand.
    pub interrupt: Option<&'a AtomicBool>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct TrainReport {
    /// The run folder.
    pub out: PathBuf,
    /// Losses, tokens, seconds.
    pub summary: Summary,
    /// Step of the adapter in `adapter/`; none while there is none.
    pub saved_step: Option<usize>,
    /// Whether the user ended it before its time.
    pub interrupted: bool,
    /// Most bytes of activations at one time.
    pub peak_bytes: usize,
}

/// What a trial step measured.
#[derive(Clone, Debug)]
pub struct DryRunReport {
    /// What the run would attach and cost.
    pub plan: PlanReport,
    /// Lengths of the training samples.
    pub train: Statistics,
    /// Steps of the run.
    pub total_steps: usize,
    /// Loss, gradient norm, tokens of the step with the longest samples.
    pub step: StepReport,
    /// Micro-batches of that step.
    pub micro_batches: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Most bytes of activations at one time.
    pub peak_bytes: usize,
    /// Most bytes of the whole process at one time, where the system tells.
    pub resident_bytes: Option<u64>,
}

/// Trains the configuration into `out`, which must not exist or be empty unless the run is continued.
///
/// # Errors
/// Everything in [`RunError`]; what was complete stays on disk.
pub fn train(
    config: &RunConfig,
    out: &Path,
    options: TrainOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<TrainReport, RunError> {
    let checkpoint = match options.resume {
        false => Staging::refuse_existing(out).map(|()| None)?,
        true => newest(config, out)?,
    };
    match config.dtype {
        ModelDtype::F64 => run::<f64>(config, out, checkpoint, options, progress),
        _ => run::<f32>(config, out, checkpoint, options, progress),
    }
}

/// The newest checkpoint of the run in `out`, with its folder.
fn newest(config: &RunConfig, out: &Path) -> Result<Option<(Checkpoint, PathBuf)>, RunError> {
    if !out.exists() {
        return Ok(None);
    }
    let newest = list_checkpoints(out)?.pop();
    // a run that was stopped before its first checkpoint has nothing to lose but its logs
    if out.join("config.toml").exists() {
        check_same_run(&samples::within(config, &config.model_config()?), out)?;
    } else if newest.is_some() || !is_begun(out)? {
        return Err(RunError::NotARun { path: out.to_owned() });
    }
    newest.map(|(_, path)| Ok((Checkpoint::open(&path)?, path))).transpose()
}

/// Whether a folder without `config.toml` holds nothing but temporary files, as a run does that was killed at its very start.
fn is_begun(out: &Path) -> Result<bool, RunError> {
    let mut entries = std::fs::read_dir(out).map_err(RunError::io("read", out))?.flatten();
    Ok(entries.all(|entry| entry.file_name().to_string_lossy().starts_with('.')))
}

/// What training needs of the configuration, read and checked, but for the weights.
struct Prepared {
    config: RunConfig,
    plan: PlanReport,
    chosen: Vec<Vec<usize>>,
    tokenizer: Tokenizer,
    dataset: Dataset,
    samples: Samples,
}

fn prepare(config: &RunConfig) -> Result<Prepared, RunError> {
    let mut plan = plan(config)?;
    if plan.whole.is_none() {
        needs_decoder(&plan.model, "be trained on tokens")?;
    }
    if let Some(model) = &config.hub {
        snapshot(model, Need::Weights)?;
    }
    let config = samples::within(config, &plan.model);
    let tokenizer = Tokenizer::from_folder(&config.model)?;
    let dataset = samples::load(&config, &plan.model, &tokenizer)?;
    let objective = config.data()?.objective;
    let samples = Samples::new(&dataset.train, objective)
        .ok_or_else(|| RunError::NoCandidates { origin: config.origin.clone() })?;
    let attach = |errors| RunError::Attach { origin: config.origin.clone(), errors };
    let chosen = resolve(&config.attachments, &plan.model).map_err(attach)?;
    let largest = config.fit.largest_micro_batch(&samples);
    (plan.training.length, plan.training.tokens, plan.training.labels) =
        (largest.length, largest.tokens, largest.labels);
    plan.cost = Cost::of(&plan.model, &config.attachments, &chosen, plan.training);
    // tokenizer and data are here, the model is not
    plan.cost.program_bytes = memory::resident_bytes().unwrap_or(plan.cost.program_bytes);
    memory::check(&plan.cost)?;
    Ok(Prepared { config, plan, chosen, tokenizer, dataset, samples })
}

impl Prepared {
    /// The model with its adapters: at their initial values, those of `train.init_from`, or those of a checkpoint.
    fn model<T: Real>(&self, saved: Option<&AdapterFolder>, workspace: &Workspace<T>) -> Result<Decoder<T>, RunError> {
        let config = &self.config;
        let from = match (&config.init_from, saved) {
            (Some(path), None) => Some(AdapterFolder::open_run_or_adapter(path)?),
            _ => None,
        };
        let filling = saved.or(from.as_ref());
        if let Some(folder) = filling {
            folder.check_entries(&config.attachments)?;
            folder.check(&self.plan.model.attachable(), &self.chosen)?;
        }
        let mut model: Decoder<T> = load_with_head(&config.model, config.dtype.stored_as(), config.wanted_head())?;
        let seed = config.fit.seed;
        workspace.run(|| {
            model.attach(&config.attachments, &self.chosen, seed, |entry, site, parameters| {
                filling.map_or(Ok(()), |folder| folder.fill(entry, site, parameters))
            })
        })?;
        if config.rounded && !model.linears().any(|linear| linear.weight().is_bf16()) {
            return Err(RunError::Usage(format!(
                "{}: train.products = \"rounded\" is for frozen weights held as bf16, and there are none: set model.dtype = \"bf16\", or leave it out",
                config.origin
            )));
        }
        Ok(model)
    }
}

/// Where a run computes.
fn workspace_of<T: Real>(config: &RunConfig) -> Result<Workspace<T>, RunError> {
    let asked = format!("{}: train.products = \"rounded\"", config.origin);
    training_workspace(config.threads, config.rounded.then_some(asked.as_str()))
}

fn run<T: Real>(
    config: &RunConfig,
    out: &Path,
    checkpoint: Option<(Checkpoint, PathBuf)>,
    options: TrainOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<TrainReport, RunError> {
    let workspace = workspace_of::<T>(config)?;
    let prepared = prepare(config)?;
    let Prepared { config, plan, samples, dataset, .. } = &prepared;
    let mut model = prepared.model(checkpoint.as_ref().map(|(checkpoint, _)| &checkpoint.adapter), &workspace)?;
    let keeps_newest = dataset.dev.encoded.is_empty();
    let (start, folder) = match checkpoint {
        None => (None, RunFolder::create(config, out, keeps_newest)?),
        Some((checkpoint, path)) => {
            let state: State = serde_json::from_value(checkpoint.state.clone())
                .map_err(|error| RunError::State { path: path.clone(), reason: error.to_string() })?;
            let (first, second, steps) = checkpoint.moments(&model.gradients())?;
            let optimizer = AdamW::resumed(config.fit.adamw, first, second, steps);
            let folder = RunFolder::resume(config, out, keeps_newest, &state, path)?;
            (Some((state, optimizer)), folder)
        }
    };
    if let Some(chat) = samples::chat(config)? {
        write_file(&out.join("chat_template.jinja"), chat.template.source().as_bytes())?;
    }
    progress(Progress::Started {
        done: start.as_ref().map_or(0, |(state, _)| state.steps),
        total_steps: config.fit.total_steps(samples.len()),
        trainable: plan.trainable(),
        base_parameters: plan.base_parameters,
        train: Statistics::new(&dataset.train.encoded),
        dev: dataset.dev.encoded.len(),
    });
    let exam = examination(config, &plan.model, &dataset.dev, &prepared.tokenizer)?;
    let mut session =
        Session { prepared: &prepared, exam, workspace: &workspace, folder, interrupt: options.interrupt, progress };
    let result = fit(&mut model, samples, &config.fit, &workspace, &mut session, start);
    let Session { folder, .. } = session;
    let summary = match result {
        Ok(summary) => summary,
        Err(FitError::Host(error)) => return Err(error),
        Err(FitError::NotFinite(source)) => {
            return Err(RunError::Diverged { source, saved: folder.safe_place() });
        }
    };
    let raised = options.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed));
    let interrupted = raised && summary.steps < summary.total_steps;
    let (saved_step, peak_bytes) = (folder.saved_step, workspace.peak_bytes());
    Ok(TrainReport { out: out.to_owned(), summary, saved_step, interrupted, peak_bytes })
}

/// The outside of the loop: validation, files, progress.
struct Session<'a, T: Real> {
    prepared: &'a Prepared,
    exam: Option<Examination>,
    workspace: &'a Workspace<T>,
    folder: RunFolder<'a>,
    interrupt: Option<&'a AtomicBool>,
    progress: &'a mut dyn FnMut(Progress),
}

impl<T: Real> Host<T> for Session<'_, T> {
    type Error = RunError;

    fn validate(&mut self, model: &Decoder<T>) -> Result<Option<Validation>, RunError> {
        let Prepared { config, dataset, tokenizer, plan, .. } = self.prepared;
        let dev = &dataset.dev.encoded;
        let examined = self.exam.as_ref().map(|exam| exam.run(model, tokenizer, self.workspace)).transpose()?;
        let (tokens, _) = config.fit.most_of_micro_batch(plan.training.length);
        // the loss of a choice is that of its candidates, an encoder's that of its head
        let loss = match examined.as_ref().and_then(|examined| examined.loss) {
            Some(loss) => Some(loss),
            None => mean_loss(model, dev, tokens, self.workspace),
        };
        let means = examined.and_then(|examined| examined.means(&dataset.dev.examples, |_| true)).unwrap_or_default();
        let metrics = means.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(loss.map(|loss| Validation { loss, metrics }))
    }

    fn record(&mut self, model: &Decoder<T>, event: &Event) -> Result<(), RunError> {
        self.folder.record(model, event)?;
        (self.progress)(Progress::Event(event.clone()));
        Ok(())
    }

    fn checkpoint(&mut self, model: &Decoder<T>, optimizer: &AdamW<T>, state: &State) -> Result<(), RunError> {
        self.folder.checkpoint(model, optimizer, state)
    }

    fn interrupted(&self) -> bool {
        self.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Everything up to and including one real step, on the longest samples; nothing is written.
///
/// # Errors
/// As [`train`].
pub fn dry_run(config: &RunConfig) -> Result<DryRunReport, RunError> {
    match config.dtype {
        ModelDtype::F64 => try_step::<f64>(config),
        _ => try_step::<f32>(config),
    }
}

fn try_step<T: Real>(config: &RunConfig) -> Result<DryRunReport, RunError> {
    let workspace = workspace_of::<T>(config)?;
    let prepared = prepare(config)?;
    let Prepared { config, samples, .. } = &prepared;
    let fit = &config.fit;
    let mut model = prepared.model(None, &workspace)?;
    let mut longest: Vec<usize> = (0..samples.len()).collect();
    longest.sort_by_key(|&index| std::cmp::Reverse(samples.size(index)));
    longest.truncate(fit.step_samples());
    let batches = fit.micro_batches(samples, &longest, 0);
    let mut step = fit.step(AdamW::new(fit.adamw, &model), &model);
    let clock = std::time::Instant::now();
    let report = step
        .take(&mut model, &batches, 0, fit.lr, &workspace)
        .map_err(|source| RunError::Diverged { source, saved: None })?;
    let seconds = clock.elapsed().as_secs_f64();
    let total_steps = fit.total_steps(samples.len());
    let train = Statistics::new(&prepared.dataset.train.encoded);
    let (peak_bytes, resident_bytes) = (workspace.peak_bytes(), memory::peak_resident_bytes());
    Ok(DryRunReport {
        plan: prepared.plan,
        train,
        total_steps,
        step: report,
        micro_batches: batches.len(),
        seconds,
        peak_bytes,
        resident_bytes,
    })
}
