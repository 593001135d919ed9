//! `quanta export`: an adapter's change of weights as another kind of adapter.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::export;
use serde_json::{Value, json};

/// What `quanta export` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run or adapter folder
    folder: PathBuf,
    /// Type of the adapter that is written
    #[arg(long = "as", value_name = "TYPE")]
    method: String,
    /// Rank to which every site's change is cut
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// The adapter's folder; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where an adapter's base model lies, if not where the adapter says
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { folder, method, rank, out, base, threads, json } = arguments;
    let report = export(folder, base.as_deref(), method, *rank as usize, out, *threads)?;
    let mut to = std::io::stdout().lock();
    if *json {
        let site = |(name, rank, kept): &(String, usize, f64)| json!({ "site": name, "rank": rank, "kept": kept });
        let sites: Value = report.sites.iter().map(site).collect();
        writeln!(to, "{}", json!({ "out": report.out.display().to_string(), "kept": report.kept, "sites": sites }))?;
        return Ok(());
    }
    for (name, rank, kept) in &report.sites {
        writeln!(to, "{name}  rank {rank}  keeps {:.2} %", 100.0 * kept)?;
    }
    writeln!(
        to,
        "wrote {}: rank {rank} keeps {:.2} % of the change's energy (the sum of its squared entries)",
        report.out.display(),
        100.0 * report.kept
    )?;
    Ok(())
}
