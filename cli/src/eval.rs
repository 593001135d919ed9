//! `quanta eval`: a model, run or adapter measured on a task's rows.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::data::metric;
use quanta_tune::data::task::Split;
use quanta_tune::eval::StopRule;
use quanta_tune::run::{Answers, EvalSettings, RunError, eval};

use crate::load::Load;
use crate::text::grouped;

/// What `quanta eval` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run, adapter or model folder, or hub:org/name
    folder: PathBuf,
    /// The task; without it a run's own
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// File or folder of the rows; without it a run's own
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Which part of the data: train, dev or test
    #[arg(long, default_value = "test", value_parser = split, value_name = "NAME")]
    split: Split,
    /// Most rows, drawn by the run's seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// A metric besides or instead of the task's; may be repeated
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
    /// Most tokens of an answer; without it the run's or the task's number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_new_tokens: Option<u64>,
    /// What ends an answer: newline, reference (the newline token alone) or none
    #[arg(long, value_parser = stop_rule, value_name = "RULE")]
    stop: Option<StopRule>,
    #[command(flatten)]
    load: Load,
    /// Print the first N rows with their answers
    #[arg(long, default_value_t = 0, value_name = "N")]
    show: usize,
    /// Print JSON, every row's answer included
    #[arg(long)]
    json: bool,
}

fn split(text: &str) -> Result<Split, String> {
    let found = Split::NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, split)| *split).ok_or_else(|| "choose train, dev or test".to_owned())
}

fn stop_rule(text: &str) -> Result<StopRule, String> {
    StopRule::named(text).ok_or_else(|| "choose newline, reference or none".to_owned())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let find = |name: &String| metric::find(name).map_err(|error| RunError::Usage(error.to_string()));
    let metrics: Vec<_> = arguments.metrics.iter().map(find).collect::<Result<_, _>>()?;
    let settings = EvalSettings {
        task: arguments.task.clone(),
        data: arguments.data.clone(),
        split: arguments.split,
        limit: arguments.limit.map(|limit| limit as usize),
        answers: Answers {
            metrics: (!metrics.is_empty()).then_some(metrics),
            max_new_tokens: arguments.max_new_tokens.map(|tokens| tokens as usize),
            rule: arguments.stop,
        },
        dtype: arguments.load.dtype(),
        threads: arguments.load.threads,
    };
    let report = eval(&arguments.folder, arguments.load.base.as_deref(), &settings)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", report.json())?;
        return Ok(());
    }
    let width = report.groups.iter().map(|group| group.group.len()).max().unwrap_or(0).max(7);
    let line = |name: &str, rows: usize, metrics: &[(&str, f64)]| {
        let values: String = metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
        format!("{name:<width$}  {:>7} rows{values}", grouped(rows))
    };
    for group in &report.groups {
        writeln!(out, "{}", line(&group.group, group.rows, &group.metrics))?;
    }
    writeln!(out, "{}", line(report.split, report.all.rows, &report.all.metrics))?;
    if !report.average.is_empty() {
        writeln!(out, "{}", line("average", report.groups.len(), &report.average).replace(" rows", " sets"))?;
    }
    if let Some(loss) = report.loss {
        writeln!(out, "loss of the right answers {loss:.4}")?;
    }
    for row in report.answers.iter().take(arguments.show) {
        writeln!(out, "\n{}\n> {:?}, right: {:?}", row.example.prompt, row.prediction, row.example.answers)?;
    }
    Ok(())
}
