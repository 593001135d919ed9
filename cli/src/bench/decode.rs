//! `quanta bench decode`: prints what generation on random weights takes.

use std::io::Write;

use anyhow::Result;
use quanta_tune::config::{Problems, apply_overrides};
use quanta_tune::run::RunError;
use quanta_tune::run::bench::{DecodeBench, DecodeTimes, decode};
use serde_json::{Map, json};

use super::{ENGINE, Held};

/// What `quanta bench decode` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model's shape: tiny-288, smollm2-135m or llama2-7b-2l
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME")]
    shape: String,
    /// An adapter on q and v: a method's name with its defaults, or `none` for the base model; merged as `quanta generate` merges it
    #[arg(long, default_value = "none", value_name = "NAME")]
    adapter: String,
    /// A setting of the adapter, as its entry in a configuration has it, such as s=circuit
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Leave the adapter beside the weights
    #[arg(long)]
    unmerged: bool,
    /// How the weights are held; an adapter stays beside bf16 weights
    #[arg(long, value_enum, default_value_t = Held::F32)]
    dtype: Held,
    /// Prompts that are continued together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// First tokens that are the same in all prompts: their keys and values are computed and kept once
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Tokens that are generated for each prompt
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,
    /// Generations; medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let problems = Problems::new();
    let mut settings = Map::new();
    apply_overrides(&mut settings, &arguments.settings, &problems);
    problems.check("--set").map_err(RunError::Config)?;
    let bench = DecodeBench {
        shape: arguments.shape.clone(),
        adapter: arguments.adapter.clone(),
        settings,
        merged: !arguments.unmerged,
        bf16: arguments.dtype == Held::Bf16,
        rows: arguments.rows as usize,
        prompt: arguments.prompt as usize,
        shared: arguments.shared as usize,
        tokens: arguments.tokens as usize,
        repeats: arguments.repeats as usize,
        threads: arguments.threads,
    };
    let times = decode(&bench)?;
    let (dtype, rows) = (arguments.dtype.name(), f64::from(arguments.rows));
    let rate = rows / times.step;
    let prompt_rate = rows * f64::from(arguments.prompt) / times.prefill;
    let (reading, bandwidth) = (1e-9 * times.weight_bytes as f64 / times.step, 1e-9 * times.bandwidth);
    let resident = times.peak_resident_bytes.map(|bytes| bytes >> 20);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let line = json!({
            "engine": ENGINE, "shape": bench.shape, "adapter": bench.adapter, "settings": bench.settings,
            "sites": times.sites, "merged_sites": times.merged_sites, "merge_seconds": times.merge, "dtype": dtype, "threads": times.threads, "rows": bench.rows,
            "prompt": bench.prompt, "shared": bench.shared, "tokens": bench.tokens,
            "prefill_seconds": times.prefill, "prompt_tokens_per_second": prompt_rate,
            "token_seconds": times.step, "tokens_per_second": rate,
            "weight_bytes": times.weight_bytes, "weight_gb_per_second": reading, "memory_gb_per_second": bandwidth,
            "memory_share": reading / bandwidth, "peak_rss_mib": resident,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let DecodeBench { shape, prompt, shared, .. } = &bench;
    writeln!(out, "{shape} {dtype}, {} rows, {} threads", bench.rows, times.threads)?;
    if times.sites > 0 {
        writeln!(out, "{}", adapter_line(&bench.adapter, &times))?;
    }
    let common = if *shared > 0 { format!(", {shared} of them shared") } else { String::new() };
    writeln!(out, "{:.3} s for prompts of {prompt} tokens{common}, {prompt_rate:.1} tokens/s", times.prefill)?;
    writeln!(out, "{:.2} ms a token for all rows, {rate:.1} tokens/s", 1e3 * times.step)?;
    let share = 100.0 * reading / bandwidth;
    writeln!(out, "{reading:.1} GB/s of weights, {share:.0} % of the {bandwidth:.1} GB/s at which memory is read")?;
    if let Some(resident) = resident {
        writeln!(out, "{resident} MiB at most")?;
    }
    Ok(())
}

/// What became of the adapter's sites.
fn adapter_line(name: &str, times: &DecodeTimes) -> String {
    let DecodeTimes { sites, merged_sites, merge, .. } = *times;
    match merged_sites {
        0 => format!("{name} beside the weights of {sites} sites"),
        _ => format!("{name}: {merged_sites} of {sites} sites merged in {merge:.2} s"),
    }
}
