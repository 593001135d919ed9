//! `quanta inspect`: samples as tokens, the trained ones marked, and length statistics.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::{InspectedSample, RunConfig, inspect};
use serde_json::{Value, json};

/// What `quanta inspect` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration
    config: PathBuf,
    /// Override a key, such as `--set data.max_length=512`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Samples shown of each part
    #[arg(long, default_value_t = 3, value_name = "N")]
    samples: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let config = RunConfig::read(&arguments.config, &arguments.overrides)?;
    let report = inspect(&config, arguments.samples)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let sample = |sample: &InspectedSample| {
            json!({
                "tokens": sample.tokens, "texts": sample.texts, "truncated": sample.truncated,
                "trained": sample.trained.iter().map(|span| [span.start, span.end]).collect::<Vec<_>>(),
                "trained_from": sample.trained.first().map(|span| span.start), "answer": sample.answer,
            })
        };
        let parts: Vec<Value> = report
            .parts
            .iter()
            .map(|part| {
                let samples: Vec<Value> = part.samples.iter().map(sample).collect();
                json!({ "name": part.name, "statistics": part.statistics, "samples": samples })
            })
            .collect();
        writeln!(out, "{}", json!({ "parts": parts }))?;
        return Ok(());
    }
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for part in &report.parts {
        writeln!(out, "{}", part.name)?;
        for text in part.statistics.to_string().lines() {
            writeln!(out, "  {text}")?;
        }
        for (index, sample) in part.samples.iter().enumerate() {
            let cut = if sample.truncated { ", truncated" } else { "" };
            let answer = sample.answer.as_ref().map(|answer| format!(", answer {answer}")).unwrap_or_default();
            writeln!(out, "\nsample {index}, {} tokens{cut}{answer}", sample.tokens.len())?;
            writeln!(out, "{}", marked(sample, colour))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The sample's text, trained tokens green on a terminal and between brackets elsewhere.
fn marked(sample: &InspectedSample, colour: bool) -> String {
    let (open, close) = if colour { ("\x1b[32m", "\x1b[0m") } else { ("[[", "]]") };
    let shown = |texts: &[String]| texts.concat().replace('\u{2581}', " ");
    let (mut text, mut read) = (String::new(), 0);
    for span in &sample.trained {
        text +=
            &format!("{}{open}{}{close}", shown(&sample.texts[read..span.start]), shown(&sample.texts[span.clone()]));
        read = span.end;
    }
    text + &shown(&sample.texts[read..])
}
