//! `quanta demo`: the program shown on a small model and a small world of its own.

use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::demo::{DemoCounts, write_data};

/// What `quanta demo` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only write the data and this many documents of the text that the base was pretrained on
    #[arg(long, value_name = "DOCUMENTS")]
    corpus: Option<usize>,
    /// The folder of everything that is written
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    out: PathBuf,
    /// Seed of data and training
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let documents = arguments.corpus.unwrap_or(0);
    let counts = DemoCounts { train: 1500, dev: 60, test: 200, documents };
    write_data(&arguments.out, counts, arguments.seed)?;
    Ok(())
}
