//! `quanta report`: one page about one or several runs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::report;

/// What `quanta report` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run folders; several are drawn over each other
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// The page; a report that stands there is replaced. Without it: report.html in the run folder, where there is only one
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let out = report(&arguments.runs, arguments.out.as_deref())?;
    writeln!(std::io::stdout().lock(), "{}", out.display())?;
    Ok(())
}
