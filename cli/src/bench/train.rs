//! `quanta bench train`: prints what training steps on random weights take.

use std::io::Write;

use anyhow::Result;
use quanta_tune::adapter::methods;
use quanta_tune::run::bench::{TrainBench, train_bench};
use serde_json::json;

use super::{ENGINE, Held};
use crate::text::grouped;

/// What `quanta bench train` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model's shape: tiny-288, smollm2-135m or llama2-7b-2l
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME")]
    shape: String,
    /// The adapter on q and v: a method's name with its defaults, or `none` for the frozen model alone
    #[arg(long, default_value = methods()[0].name, value_name = "NAME")]
    adapter: String,
    /// How the weights are held
    #[arg(long, value_enum, default_value_t = Held::F32)]
    dtype: Held,
    /// Samples of a micro-batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Micro-batches of a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    accumulate: u32,
    /// Mean length of the prompts, in tokens
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    mean_length: u32,
    /// Steps that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let bench = TrainBench {
        shape: arguments.shape.clone(),
        adapter: arguments.adapter.clone(),
        bf16: arguments.dtype == Held::Bf16,
        batch: arguments.batch as usize,
        accumulate: arguments.accumulate as usize,
        steps: arguments.steps as usize,
        warmup: arguments.warmup as usize,
        mean_length: arguments.mean_length as usize,
        settings: None,
        threads: arguments.threads,
    };
    let timing = train_bench(&bench)?;
    let mut out = std::io::stdout().lock();
    let dtype = arguments.dtype.name();
    let resident = timing.peak_resident_bytes.map(|bytes| bytes >> 20);
    if arguments.json {
        let line = json!({
            "engine": ENGINE, "shape": bench.shape, "adapter": bench.adapter, "dtype": dtype, "batch": bench.batch,
            "accumulate": bench.accumulate, "trainable": timing.trainable,
            "median_step_seconds": timing.median_step_seconds, "tokens_per_second": timing.tokens_per_second,
            "peak_rss_mib": resident, "losses": timing.losses,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{} {} {dtype}: {} trainable", bench.shape, bench.adapter, grouped(timing.trainable))?;
        writeln!(out, "{:.3} s a step, {:.1} tokens/s", timing.median_step_seconds, timing.tokens_per_second)?;
        if let Some(resident) = resident {
            writeln!(out, "{resident} MiB at most")?;
        }
    }
    Ok(())
}
