//! `quanta init`: a starter configuration, a tokenizer from text, a model folder with random weights.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::{InitSettings, RunError, init_folder, starter};

use crate::text::grouped;

/// What `quanta init` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Task of the starter configuration
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Model folder of the starter configuration
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Train a byte-level BPE tokenizer on a text file; may be repeated
    #[arg(long, value_name = "FILE", requires = "out")]
    tokenizer: Vec<PathBuf>,
    /// Most tokens of the tokenizer; without it the model's vocab_size, or 4096
    #[arg(long, value_name = "N", requires = "tokenizer")]
    vocab_size: Option<usize>,
    /// Make a model with random weights from this config.json
    #[arg(long, value_name = "CONFIG", requires = "out", conflicts_with_all = ["task", "model"])]
    weights: Option<PathBuf>,
    /// Seed of the random weights
    #[arg(long, default_value_t = 0, value_name = "N", requires = "weights")]
    seed: u64,
    /// The new folder; of a starter configuration the new file (without it: standard output)
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.tokenizer.is_empty() && arguments.weights.is_none() {
        let text = starter(arguments.task.as_deref(), arguments.model.as_deref())?;
        match &arguments.out {
            None => out.write_all(text.as_bytes())?,
            Some(path) => {
                let mut file = std::fs::File::create_new(path).map_err(|source| RunError::Io {
                    action: "create",
                    path: path.clone(),
                    source,
                })?;
                file.write_all(text.as_bytes())?;
                writeln!(out, "{}", path.display())?;
            }
        }
        return Ok(());
    }
    let Some(folder) = &arguments.out else { anyhow::bail!("--out is missing") };
    let settings = InitSettings {
        text: arguments.tokenizer.clone(),
        vocab_size: arguments.vocab_size,
        model: arguments.weights.clone(),
        seed: arguments.seed,
    };
    let report = init_folder(&settings, folder)?;
    if let Some(tokens) = report.vocab_size {
        writeln!(out, "tokenizer of {} tokens", grouped(tokens))?;
    }
    if let Some(parameters) = report.parameters {
        writeln!(out, "model of {} parameters, random", grouped(parameters))?;
    }
    writeln!(out, "in {}", report.out.display())?;
    Ok(())
}
