//! `quanta generate`: what a model writes after a prompt, as it comes on a terminal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::eval::{GenerateOptions, Sampling, StopRule};
use quanta_tune::run::{Continued, GenerateSettings, Prompts, generate};
use serde_json::json;

use crate::load::Load;

/// What `quanta generate` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run, adapter or model folder, or hub:org/name
    folder: PathBuf,
    #[command(flatten)]
    input: Input,
    /// Most tokens to add
    #[arg(long, default_value_t = 50, value_name = "N")]
    max_new_tokens: usize,
    /// 0: the most probable token each time; above: draw, the more evenly the larger
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the K most probable tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the most probable tokens that make up this share only
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", allow_negative_numbers = true)]
    top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// End a text before its first newline
    #[arg(long)]
    stop_at_newline: bool,
    #[command(flatten)]
    load: Load,
    /// Print JSON: an object, or one a line for a file of prompts
    #[arg(long)]
    json: bool,
}

/// What to continue: exactly one of them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A text; the begin token is put in front
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with a prompt a line; the answers come a line each, their line ends written as \n
    #[arg(long, value_name = "FILE")]
    prompts_file: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let prompts = match &arguments.input {
        Input { prompt: Some(text), .. } => Prompts::Text(text.clone()),
        Input { prompts_file: Some(file), .. } => Prompts::File(file.clone()),
        _ => anyhow::bail!("one of --prompt and --prompts-file"),
    };
    let Arguments { temperature, top_k, top_p, seed, max_new_tokens, .. } = *arguments;
    let sampling = Sampling { temperature, top_k, top_p, seed };
    let settings = GenerateSettings {
        options: GenerateOptions { max_new_tokens, sampling, ..GenerateOptions::default() },
        rule: if arguments.stop_at_newline { StopRule::Newline } else { StopRule::None },
        dtype: arguments.load.dtype(),
        threads: arguments.load.threads,
    };
    let single = matches!(prompts, Prompts::Text(_));
    let mut out = std::io::stdout().lock();
    let streams = single && !arguments.json && out.is_terminal();
    let mut written = Ok(());
    let mut show = |_, piece: &str| {
        if streams && written.is_ok() {
            written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
    };
    let answers = generate(&arguments.folder, arguments.load.base.as_deref(), &prompts, &settings, &mut show)?;
    written?;
    for answer in &answers {
        let text = &answer.generated.text;
        match (arguments.json, single) {
            (true, _) => writeln!(out, "{}", object(answer))?,
            (false, true) if streams => writeln!(out)?,
            (false, true) => writeln!(out, "{text}")?,
            (false, false) => writeln!(out, "{}", one_line(text))?,
        }
    }
    Ok(())
}

fn object(answer: &Continued) -> serde_json::Value {
    json!({
        "prompt": answer.prompt,
        "text": answer.generated.text,
        "finish": answer.generated.finish.name(),
        "tokens": answer.generated.tokens,
        "prompt_tokens": answer.prompt_tokens,
    })
}

/// A text without line ends, so that line i answers prompt i; backslashes are doubled, so that nothing is lost.
fn one_line(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}
