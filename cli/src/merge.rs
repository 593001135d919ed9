//! `quanta merge`: a plain model folder from a base and its adapters.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use quanta_tune::run::{RunError, merge};
use quanta_tune::weights::Dtype;
use serde_json::json;

/// What `quanta merge` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run or adapter folders; several are added up
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Factors of the folders' changes, in their order; without it each counts once
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, value_name = "A,B,...")]
    weights: Vec<f64>,
    /// The merged model's folder; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the merged weights; without it every tensor keeps its own
    #[arg(long, value_enum)]
    dtype: Option<MergedType>,
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

#[derive(Clone, Copy, ValueEnum)]
enum MergedType {
    Bf16,
    F16,
    F32,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let dtype = arguments.dtype.map(|dtype| match dtype {
        MergedType::Bf16 => Dtype::Bf16,
        MergedType::F16 => Dtype::F16,
        MergedType::F32 => Dtype::F32,
    });
    let factors = match arguments.weights.len() {
        0 => vec![1.0; arguments.folders.len()],
        count if count == arguments.folders.len() && arguments.weights.iter().all(|factor| factor.is_finite()) => {
            arguments.weights.clone()
        }
        count => {
            let reason =
                format!("--weights has {count} numbers for {} folders: give each folder one", arguments.folders.len());
            return Err(RunError::Usage(reason).into());
        }
    };
    let folders: Vec<(PathBuf, f64)> = arguments.folders.iter().cloned().zip(factors).collect();
    let report = merge(&folders, arguments.base.as_deref(), &arguments.out, dtype, arguments.threads)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let line = json!({
            "out": report.out.display().to_string(), "sites": report.sites, "dtype": report.dtype.name(), "compared": report.compared,
            "difference": report.difference, "effect": report.effect, "tolerance": report.tolerance,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(out, "merged {} sites into {} ({})", report.sites, report.out.display(), report.dtype)?;
    writeln!(
        out,
        "largest difference of {}, relative to the largest: merged and adapted {:.1e} (at most {:.0e} is rounding), adapted and base {:.1e}",
        report.compared, report.difference, report.tolerance, report.effect
    )?;
    if report.difference >= report.effect {
        writeln!(
            out,
            "rounding to {} changes more than the adapter does: merge with --dtype f32 to keep what was learned",
            report.dtype
        )?;
    }
    Ok(())
}
