//! `quanta demo`: the program shown on a small model and a small world of its own.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::demo::{DemoCounts, DemoProgress, DemoReport, demo, metric_names, write_data};
use serde_json::json;

use crate::text::grouped;
use crate::train::Display;

/// What `quanta demo` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of everything that is written; must not exist
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    out: PathBuf,
    /// Seed of data and training
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Only write the data, and this many documents of the text that the base was pretrained on
    #[arg(long, value_name = "DOCUMENTS", conflicts_with = "json")]
    corpus: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(documents) = arguments.corpus {
        let counts = DemoCounts { train: 1500, dev: 60, test: 200, documents };
        write_data(&arguments.out, counts, arguments.seed)?;
        return Ok(());
    }
    let mut display = Display::new();
    let result = demo(&arguments.out, arguments.seed, &mut |progress| match progress {
        DemoProgress::Stage(text) => {
            display.finish();
            display = Display::new();
            eprintln!("{text}");
        }
        DemoProgress::Train(progress) => display.show(&progress),
    });
    display.finish();
    let report = result?;
    if arguments.json { print_json(&report) } else { print_text(&report) }
}

fn print_text(report: &DemoReport) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let names = metric_names(&report.rows);
    let base = report.base_parameters;
    writeln!(out, "a base of {} parameters, on held-out passages:\n", grouped(base))?;
    let heads: String = names.iter().map(|name| format!("{name:>8}")).collect();
    writeln!(out, "{:<8}{:>12}{:>9}{heads}{:>10}  merged and adapted logits", "", "trainable", "of base", "training")?;
    for row in &report.rows {
        let values: String = row.metrics.iter().map(|(_, value)| format!("{value:>8.3}")).collect();
        let (trainable, share, seconds, merged) = match &row.merge {
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()),
            Some(merge) => (
                grouped(row.trainable),
                format!("{:.2} %", 100.0 * row.trainable as f64 / base as f64),
                format!("{:.1} s", row.seconds),
                format!("differ by {:.1e}, adapted and base by {:.1e}", merge.difference, merge.effect),
            ),
        };
        writeln!(out, "{:<8}{trainable:>12}{share:>9}{values}{seconds:>10}  {merged}", row.name)?;
    }
    for &index in &report.shown {
        let example = &report.rows[0].eval.answers[index].example;
        writeln!(out, "\n{}", example.prompt)?;
        writeln!(out, "    {:<8}{}", "right", example.answers.join(" or "))?;
        for row in &report.rows {
            let answer = &row.eval.answers[index];
            let mark = if answer.values.first().is_some_and(|value| *value >= 1.0) { "" } else { "   (wrong)" };
            writeln!(out, "    {:<8}{}{mark}", row.name, answer.prediction.trim())?;
        }
    }
    writeln!(out, "\n{:.0} s in all; page: {}", report.seconds, report.page.display())?;
    writeln!(out, "runs, merged models and data: {}", report.out.display())?;
    Ok(())
}

fn print_json(report: &DemoReport) -> Result<()> {
    let row = |row: &quanta_tune::run::demo::DemoRow| {
        let metrics: serde_json::Map<String, serde_json::Value> =
            row.metrics.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "name": row.name, "trainable": row.trainable, "metrics": metrics, "train_seconds": row.seconds,
            "merge_difference": row.merge.as_ref().map(|merge| merge.difference),
            "merge_effect": row.merge.as_ref().map(|merge| merge.effect),
        })
    };
    let line = json!({
        "out": report.out.display().to_string(), "base_parameters": report.base_parameters,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(), "seconds": report.seconds,
        "report": report.page.display().to_string(),
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}
