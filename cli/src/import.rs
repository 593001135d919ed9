//! `quanta import`: an adapter folder from a checkpoint of the paper's authors.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::run::import;
use serde_json::{Map, Value, json};

/// What `quanta import` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Their pytorch_model.bin, or the folder it is in
    checkpoint: PathBuf,
    /// The model it was trained on: a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// The adapter folder; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let report = import(&arguments.checkpoint, &arguments.base, &arguments.out)?;
    let (tensors, difference) = (report.comparison.tensors, report.comparison.difference);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let entry = |entry: &quanta_tune::run::ImportedEntry| {
            let words: Map<String, Value> =
                entry.description.iter().map(|(label, text)| ((*label).to_owned(), json!(text))).collect();
            json!({ "sites": entry.sites, "parameters": entry.parameters, "description": words })
        };
        let line = json!({
            "out": report.out.display().to_string(), "entries": report.entries.iter().map(entry).collect::<Vec<_>>(),
            "compared_tensors": tensors, "difference": difference,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    for entry in &report.entries {
        let words = entry.description.first().map(|(label, text)| format!("{label} {text}")).unwrap_or_default();
        writeln!(out, "{} sites, {} parameters: {words}", entry.sites, entry.parameters)?;
    }
    writeln!(out, "imported into {}", report.out.display())?;
    writeln!(
        out,
        "compared {tensors} tensors with the base model; the sites' weights differ from W0 - S by {difference:.1e} of its root mean square, which is rounding"
    )?;
    Ok(())
}
