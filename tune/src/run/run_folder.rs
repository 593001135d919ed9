//! The run folder while it grows: `config.toml`, `metrics.jsonl`, `tensorboard/`, `adapter/`, `checkpoints/`.
//!
//! Everything is complete or absent but the two logs, which are cut back to the checkpoint when a run is continued, so that a continued run's folder is
//! that of an uninterrupted one but for times.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{RunConfig, RunError};
use crate::checkpoint::{Moments, prune_checkpoints, save_adapters, save_checkpoint};
use crate::model::Decoder;
use crate::tensor::Real;
use crate::train::tensorboard::{EVAL_LOSS, EventFile, step_scalars, wall_time};
use crate::train::{AdamW, EvaluationEvent, Event, State, StepEvent};
use crate::weights::{remove_leftovers, write_file};

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";

/// A run folder, open for writing.
pub struct RunFolder<'a> {
    config: &'a RunConfig,
    /// The folder.
    pub path: PathBuf,
    metrics: File,
    events: EventFile,
    /// Without dev samples the newest adapter is the one to keep.
    keeps_newest: bool,
    /// Step of the adapter in `adapter/`.
    pub saved_step: Option<usize>,
    /// Step and folder of the newest checkpoint.
    pub checkpoint: Option<(usize, PathBuf)>,
}

impl<'a> RunFolder<'a> {
    /// Begins a run: whatever an earlier start left before its first checkpoint is begun anew.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn create(config: &'a RunConfig, path: &Path, keeps_newest: bool) -> Result<Self, RunError> {
        std::fs::create_dir_all(path).map_err(RunError::io("create", path))?;
        remove_leftovers(path);
        // a run killed within its first checkpoint
        remove_leftovers(&path.join("checkpoints"));
        write_file(&path.join(CONFIG), config.text().as_bytes())?;
        let metrics = path.join(METRICS);
        let metrics = File::create(&metrics).map_err(RunError::io("create", metrics))?;
        let events = path.join(EVENTS);
        if events.exists() {
            std::fs::remove_dir_all(&events).map_err(RunError::io("remove", &events))?;
        }
        let events = EventFile::create(&events)?;
        let path = path.to_owned();
        Ok(Self { config, path, metrics, events, keeps_newest, saved_step: None, checkpoint: None })
    }

    /// Continues a run from the checkpoint of `state`: the logs are cut back to its step.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn resume(
        config: &'a RunConfig,
        path: &Path,
        keeps_newest: bool,
        state: &State,
        checkpoint: PathBuf,
    ) -> Result<Self, RunError> {
        remove_leftovers(path);
        remove_leftovers(&path.join("checkpoints"));
        let metrics = path.join(METRICS);
        let text = std::fs::read(&metrics).map_err(RunError::io("read", &metrics))?;
        write_file(&metrics, &kept_lines(&text, state.steps))?;
        let file = OpenOptions::new().append(true).open(&metrics).map_err(RunError::io("open", &metrics))?;
        let events = EventFile::resume(&path.join(EVENTS), state.steps)?;
        let saved_step = match keeps_newest {
            true => Some(state.steps),
            false => state.best.as_ref().map(|best| best.step),
        };
        prune_checkpoints(path, config.keep_checkpoints)?;
        let (path, checkpoint) = (path.to_owned(), Some((state.steps, checkpoint)));
        Ok(Self { config, path, metrics: file, events, keeps_newest, saved_step, checkpoint })
    }

    /// Logs an event, and keeps the adapter where it is the best or, without dev samples, where its time has come.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn record<T: Real>(&mut self, model: &Decoder<T>, event: &Event) -> Result<(), RunError> {
        let (step, line, save) = match event {
            Event::Step(step) => {
                self.events.scalars(step.step, wall_time(), &step_scalars(step))?;
                (step.step, step_line(step), self.keeps_newest && self.is_due(step))
            }
            Event::Evaluation(evaluation) => {
                let metrics = &evaluation.validation.metrics;
                let tags: Vec<(String, f64)> =
                    metrics.iter().map(|(name, value)| (format!("eval/{name}"), *value)).collect();
                let mut scalars = vec![(EVAL_LOSS, evaluation.validation.loss)];
                scalars.extend(tags.iter().map(|(tag, value)| (tag.as_str(), *value)));
                self.events.scalars(evaluation.step, wall_time(), &scalars)?;
                (evaluation.step, evaluation_line(evaluation), evaluation.is_best)
            }
        };
        // one write a line: a reader never sees half of one
        let line = format!("{line}\n");
        self.metrics.write_all(line.as_bytes()).map_err(RunError::io("write", self.path.join(METRICS)))?;
        if save {
            save_adapters(&self.path.join("adapter"), model, &self.config.attachments, &self.base())?;
            self.saved_step = Some(step);
        }
        Ok(())
    }

    /// Writes a checkpoint and removes those that are too many.
    ///
    /// # Errors
    /// When something cannot be written; older checkpoints are as they were.
    pub fn checkpoint<T: Real>(
        &mut self,
        model: &Decoder<T>,
        optimizer: &AdamW<T>,
        state: &State,
    ) -> Result<(), RunError> {
        // the logs are to reach the disk before the checkpoint that counts on them
        self.metrics.sync_data().map_err(RunError::io("write", self.path.join(METRICS)))?;
        self.events.flush()?;
        let (first, second, steps) = optimizer.moments();
        let moments = Moments { first, second, steps };
        let whole = json!(state);
        let entries = (self.config.attachments.as_slice(), self.base());
        let path = save_checkpoint(&self.path, state.steps, model, (entries.0, &entries.1), moments, &whole)?;
        self.checkpoint = Some((state.steps, path));
        Ok(prune_checkpoints(&self.path, self.config.keep_checkpoints)?)
    }

    /// Where the newest values are safe, for a message.
    pub fn safe_place(&self) -> Option<(usize, PathBuf)> {
        let adapter = self.saved_step.map(|step| (step, self.path.join("adapter")));
        self.checkpoint.clone().max(adapter)
    }

    fn base(&self) -> String {
        if let Some(model) = &self.config.hub {
            // as PEFT names a base
            return model.repository.clone();
        }
        let base = std::path::absolute(&self.config.model).unwrap_or_else(|_| self.config.model.clone());
        base.display().to_string()
    }

    fn is_due(&self, step: &StepEvent) -> bool {
        let every = self.config.fit.eval_every.unwrap_or(usize::MAX);
        step.step.is_multiple_of(every) || step.step == step.total_steps
    }
}

/// The whole lines of a log up to `step`.
fn kept_lines(text: &[u8], step: usize) -> Vec<u8> {
    let whole = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let is_kept = |line: &&[u8]| {
        let value: Result<Value, _> = serde_json::from_slice(line);
        value.ok().and_then(|value| value["step"].as_u64()).is_some_and(|at| at as usize <= step)
    };
    whole.take_while(is_kept).flatten().copied().collect()
}

fn step_line(event: &StepEvent) -> Value {
    json!({
        "step": event.step, "tokens": event.tokens, "loss": event.report.loss, "lr": event.lr,
        "grad_norm": event.report.gradient_norm,
        "tokens_per_second": event.report.tokens as f64 / event.seconds.max(1e-9),
    })
}

fn evaluation_line(event: &EvaluationEvent) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), json!(event.step));
    line.insert("eval_loss".into(), json!(event.validation.loss));
    line.extend(event.validation.metrics.iter().map(|(name, value)| (name.clone(), json!(value))));
    line.insert("best".into(), json!(event.is_best));
    Value::Object(line)
}

/// Whether a run folder holds the run of `config`; else the first lines in which the two differ.
///
/// # Errors
/// When the folder's configuration cannot be read, or is another one.
pub fn check_same_run(config: &RunConfig, path: &Path) -> Result<(), RunError> {
    let file = path.join(CONFIG);
    let theirs = std::fs::read_to_string(&file).map_err(RunError::io("read", &file))?;
    let ours = config.text();
    // any number of threads gives the same bits
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("threads")).map(str::to_owned).collect()
    };
    let (theirs, ours) = (lines(&theirs), lines(&ours));
    if theirs == ours {
        return Ok(());
    }
    let only = |a: &[String], b: &[String]| a.iter().find(|line| !b.contains(line)).cloned().unwrap_or_default();
    Err(RunError::OtherRun { path: path.to_owned(), theirs: only(&theirs, &ours), ours: only(&ours, &theirs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_behind_the_last_whole_line_of_the_step() {
        let text = b"{\"step\":0,\"eval_loss\":1}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"eval_loss\":1}\n{\"step\":3}\n{\"st";
        assert_eq!(kept_lines(text, 2), &text[..72]);
        assert_eq!(kept_lines(text, 9).len(), text.len() - 4);
        assert_eq!(kept_lines(b"{\"step\":1}\ngarbage\n{\"step\":1}\n", 2), b"{\"step\":1}\n");
        assert!(kept_lines(b"", 2).is_empty());
    }
}
