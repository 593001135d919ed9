//! `quanta train`: progress on the terminal, a run folder on disk.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quanta_tune::run::{DryRunReport, Progress, RunConfig, TrainOptions, TrainReport, dry_run, train};
use quanta_tune::train::{EvaluationEvent, Event, StepEvent, Validation};
use serde_json::json;

use crate::interrupt;
use crate::text::{bytes, grouped};

/// What `quanta train` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration
    config: PathBuf,
    /// Override a key, such as `--set train.lr=1e-3`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The run folder; must not exist. Without it: runs/ and the configuration's name
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue from the run folder's newest checkpoint; begin where there is none
    #[arg(long)]
    resume: bool,
    /// Do everything up to and including one step on the longest samples, and say what it takes; write nothing
    #[arg(long, conflicts_with_all = ["resume", "out"])]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let config = RunConfig::read(&arguments.config, &arguments.overrides)?;
    let name = arguments.config.file_stem().unwrap_or_default();
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
    if arguments.dry_run {
        let report = dry_run(&config)?;
        return if arguments.json { print_trial_json(&report) } else { print_trial(&report) };
    }
    let interrupt = interrupt::flag()?;
    let options = TrainOptions { resume: arguments.resume, interrupt: Some(interrupt) };
    let mut display = Display::new();
    let result = train(&config, &out, options, &mut |progress| display.show(&progress));
    display.finish();
    let report = result?;
    if arguments.json { print_json(&report) } else { print_text(&report) }
}

/// The progress bar; silent where standard error is no terminal, except for a line at the start and at every validation.
pub struct Display {
    bar: ProgressBar,
}

impl Display {
    /// Nothing to draw yet.
    pub fn new() -> Self {
        Self { bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()) }
    }

    /// Shows what training tells.
    pub fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Started { done, total_steps, trainable, base_parameters, train, dev } => {
                let percent = 100.0 * *trainable as f64 / *base_parameters as f64;
                self.say(&format!(
                    "training {} parameters ({percent:.3} % of {}) for {total_steps} steps on {} samples, {dev} for validation",
                    grouped(*trainable),
                    grouped(*base_parameters),
                    grouped(train.sequences),
                ));
                if *done > 0 {
                    self.say(&format!("continuing after step {done}"));
                }
                if train.truncated > 0 {
                    self.say(&format!("{} samples were cut to the length limit", grouped(train.truncated)));
                }
                self.bar = ProgressBar::new(*total_steps as u64).with_position(*done as u64);
                let template = "{bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style);
                }
            }
            Progress::Event(Event::Step(step)) => self.step(step),
            Progress::Event(Event::Evaluation(evaluation)) => self.evaluation(evaluation),
        }
    }

    fn step(&mut self, event: &StepEvent) {
        let speed = event.report.tokens as f64 / event.seconds.max(1e-9);
        self.bar.set_message(format!("loss {:.4}, {speed:.0} tokens/s", event.report.loss));
        self.bar.set_position(event.step as u64);
    }

    fn evaluation(&mut self, event: &EvaluationEvent) {
        let best = if event.is_best { " (best)" } else { "" };
        let metrics = event.validation.metrics.iter().map(|(name, value)| format!(", {name} {value:.4}"));
        let metrics: String = metrics.collect();
        self.say(&format!("step {}: validation loss {:.4}{metrics}{best}", event.step, event.validation.loss));
    }

    fn say(&self, text: &str) {
        if self.bar.is_hidden() { eprintln!("{text}") } else { self.bar.println(text) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn print_json(report: &TrainReport) -> Result<()> {
    let summary = &report.summary;
    let line = json!({
        "out": report.out.display().to_string(), "steps": summary.steps, "tokens": summary.tokens, "first_loss": summary.first_loss,
        "last_loss": summary.last_loss, "start_eval_loss": summary.start.as_ref().map(|start| start.validation.loss),
        "best_eval_loss": summary.best.as_ref().map(|best| best.validation.loss),
        "best_step": summary.best.as_ref().map(|best| best.step),
        "start_metrics": summary.start.as_ref().map(|start| metrics(&start.validation)),
        "best_metrics": summary.best.as_ref().map(|best| metrics(&best.validation)),
        "saved_step": report.saved_step, "interrupted": report.interrupted, "seconds": summary.seconds, "peak_activation_bytes": report.peak_bytes,
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

fn print_text(report: &TrainReport) -> Result<()> {
    let summary = &report.summary;
    let mut out = std::io::stdout().lock();
    let speed = summary.tokens as f64 / summary.seconds.max(1e-9);
    // a run that was complete when it was continued takes no step, and has none
    let activations = match report.peak_bytes {
        0 => String::new(),
        peak => format!(", activations at most {}", bytes(peak as u64)),
    };
    let (steps, tokens, seconds) = (summary.steps, grouped(summary.tokens), summary.seconds);
    writeln!(out, "{steps} steps, {tokens} tokens in {seconds:.1} s ({speed:.0} tokens/s){activations}")?;
    writeln!(out, "loss: first tenth {:.4}, last tenth {:.4}", summary.first_loss, summary.last_loss)?;
    if let (Some(start), Some(best)) = (&summary.start, &summary.best) {
        let (before, after) = (&start.validation, &best.validation);
        writeln!(
            out,
            "validation loss: {:.4} before training, {:.4} best (step {})",
            before.loss, after.loss, best.step
        )?;
        for ((name, before), (_, after)) in before.metrics.iter().zip(&after.metrics) {
            writeln!(out, "{name}: {before:.4} before training, {after:.4} best")?;
        }
    }
    if let Some(step) = report.saved_step {
        writeln!(out, "adapter of step {step} in {}", report.out.join("adapter").display())?;
    }
    if report.interrupted {
        let (done, all) = (summary.steps, summary.total_steps);
        writeln!(out, "stopped after step {done} of {all}; the same command with --resume continues")?;
    } else if summary.steps < summary.total_steps {
        writeln!(out, "stopped early after step {} of {}", summary.steps, summary.total_steps)?;
    }
    Ok(())
}

fn metrics(validation: &Validation) -> serde_json::Map<String, serde_json::Value> {
    validation.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

fn print_trial(report: &DryRunReport) -> Result<()> {
    let DryRunReport { plan, train, total_steps, step, micro_batches, seconds, peak_bytes, resident_bytes } = report;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "samples: {}, {} of them cut to the length limit",
        grouped(train.sequences),
        grouped(train.truncated)
    )?;
    writeln!(out, "trainable: {} parameters", grouped(plan.trainable()))?;
    writeln!(
        out,
        "one step on the longest samples: {} tokens in {}, {} trained, loss {:.4}, gradient norm {:.4}, {seconds:.2} s",
        grouped(step.tokens),
        if *micro_batches == 1 { "one micro-batch".to_owned() } else { format!("{micro_batches} micro-batches") },
        grouped(step.labels),
        step.loss,
        step.gradient_norm
    )?;
    writeln!(
        out,
        "the run: {} steps, at most {:.0} s at this speed",
        grouped(*total_steps),
        seconds * *total_steps as f64
    )?;
    let estimate = bytes(plan.cost.peak_bytes());
    let resident = resident_bytes.map_or("not told by this system".to_owned(), bytes);
    writeln!(
        out,
        "memory: {} of activations; whole process {resident}; estimated {estimate}",
        bytes(*peak_bytes as u64)
    )?;
    writeln!(out, "nothing was written")?;
    Ok(())
}

fn print_trial_json(report: &DryRunReport) -> Result<()> {
    let line = json!({
        "samples": report.train.sequences, "truncated": report.train.truncated, "trainable": report.plan.trainable(),
        "steps": report.total_steps, "tokens": report.step.tokens, "micro_batches": report.micro_batches, "labels": report.step.labels,
        "loss": report.step.loss,
        "grad_norm": report.step.gradient_norm, "seconds": report.seconds, "peak_activation_bytes": report.peak_bytes,
        "resident_bytes": report.resident_bytes, "estimated_bytes": report.plan.cost.peak_bytes(),
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}
