//! `quanta score`: log-probability of every token of a text, mean loss, perplexity; the outputs of an encoder's head.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::eval::Score;
use quanta_tune::run::{Finding, ScoreInput, ScoreReport, score};
use serde_json::{Value, json};

use crate::load::Load;

/// What `quanta score` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run, adapter or model folder, or hub:org/name
    folder: PathBuf,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    load: Load,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to score: exactly one of them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A text; the begin token is put in front
    #[arg(long)]
    text: Option<String>,
    /// Token ids as they are, such as 1,2,3
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    tokens: Option<Vec<u32>>,
    /// A file of text
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let input = match &arguments.input {
        Input { text: Some(text), .. } => ScoreInput::Text(text.clone()),
        Input { tokens: Some(tokens), .. } => ScoreInput::Tokens(tokens.clone()),
        Input { file: Some(file), .. } => ScoreInput::File(file.clone()),
        _ => anyhow::bail!("one of --text, --tokens and --file"),
    };
    let Arguments { folder, load, .. } = arguments;
    let report = score(folder, load.base.as_deref(), &input, load.dtype(), load.threads)?;
    match &report.finding {
        Finding::Tokens(score) if arguments.json => print_json(&report, score),
        Finding::Tokens(score) => print_table(&report, score),
        Finding::Outputs(outputs) => print_outputs(&report, outputs, arguments.json),
    }
}

/// What a head over whole sequences gives: a line of JSON, or a number a line.
fn print_outputs(report: &ScoreReport, outputs: &[f64], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({ "tokens": report.tokens, "logits": outputs }))?;
        return Ok(());
    }
    for (index, output) in outputs.iter().enumerate() {
        writeln!(out, "{index:>8}  {output:>12.6}")?;
    }
    Ok(())
}

fn print_json(report: &ScoreReport, score: &Score) -> Result<()> {
    let scored = score.log_probabilities.iter().map(|&p| json!(p));
    let log_probabilities: Vec<Value> = std::iter::once(Value::Null).chain(scored).collect();
    let line = json!({
        "tokens": report.tokens,
        "token_logprobs": log_probabilities,
        "mean_loss": score.mean_loss(),
        "perplexity": score.perplexity(),
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

fn print_table(report: &ScoreReport, score: &Score) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = |index: usize| report.texts.as_ref().map_or(String::new(), |texts| format!("{:?}", texts[index]));
    writeln!(out, "{:>8}  {:>12}  text", "token", "log-prob")?;
    for (index, token) in report.tokens.iter().enumerate() {
        let scored = index.checked_sub(1).map(|before| format!("{:.6}", score.log_probabilities[before]));
        writeln!(out, "{token:>8}  {:>12}  {}", scored.unwrap_or("-".into()), text(index))?;
    }
    if let (Some(loss), Some(perplexity)) = (score.mean_loss(), score.perplexity()) {
        writeln!(out, "mean loss {loss:.6}, perplexity {perplexity:.4}")?;
    }
    Ok(())
}
