//! `quanta bench train`: prints what training steps on random weights take.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use quanta_tune::adapter::methods;
use quanta_tune::config::{Problems, apply_overrides};
use quanta_tune::run::RunError;
use quanta_tune::run::bench::{Layout, TrainBench, train_bench};
use serde_json::{Map, json};

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
    /// A setting of the adapter, as its entry in a configuration has it, such as s=circuit
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Rows whose logits are computed: those that predict an answer, or all of them, with the same loss
    #[arg(long, value_enum, default_value_t = Rows::Answers)]
    labels: Rows,
    /// Fill samples up to the longest, and to a multiple of 8, instead of packing them
    #[arg(long)]
    padded: bool,
    /// Candidates of each prompt: the loss is that of choosing among them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..1000), conflicts_with_all = ["labels", "padded"])]
    choices: Option<u32>,
    /// Repeat the prompt for each candidate instead of sharing it
    #[arg(long, requires = "choices")]
    separate: bool,
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

/// Rows that the head computes.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rows {
    Answers,
    All,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let problems = Problems::new();
    let mut settings = Map::new();
    apply_overrides(&mut settings, &arguments.settings, &problems);
    problems.check("--set").map_err(RunError::Config)?;
    let all_rows = arguments.labels == Rows::All;
    let layout = match arguments.choices {
        Some(candidates) => Layout::Choices { candidates: candidates as usize, shared: !arguments.separate },
        None => Layout::Answers { all_rows, padded: arguments.padded },
    };
    let bench = TrainBench {
        shape: arguments.shape.clone(),
        adapter: arguments.adapter.clone(),
        bf16: arguments.dtype == Held::Bf16,
        batch: arguments.batch as usize,
        accumulate: arguments.accumulate as usize,
        steps: arguments.steps as usize,
        warmup: arguments.warmup as usize,
        mean_length: arguments.mean_length as usize,
        layout,
        settings,
        threads: arguments.threads,
    };
    let timing = train_bench(&bench)?;
    let mut out = std::io::stdout().lock();
    let dtype = arguments.dtype.name();
    let resident = timing.peak_resident_bytes.map(|bytes| bytes >> 20);
    let gflops = 1e-9 * timing.flops.total() * timing.tokens_per_second;
    if arguments.json {
        let flops = timing.flops;
        let line = json!({
            "engine": ENGINE, "shape": bench.shape, "adapter": bench.adapter, "settings": bench.settings, "dtype": dtype,
            "threads": timing.threads, "batch": bench.batch, "accumulate": bench.accumulate,
            "labels": if all_rows { "all" } else { "answers" }, "padded": arguments.padded,
            "choices": arguments.choices, "separate": arguments.separate, "trainable": timing.trainable,
            "median_step_seconds": timing.median_step_seconds, "tokens_per_second": timing.tokens_per_second,
            "samples_per_second": timing.samples_per_second, "micro_batch_tokens": timing.micro_batch_tokens,
            "flops_per_token": {
                "forward": flops.forward, "backward": flops.backward, "head": flops.head, "adapter": flops.adapter,
                "total": flops.total(),
            },
            "gflops": gflops, "peak_rss_mib": resident, "losses": timing.losses,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let TrainBench { shape, adapter, .. } = &bench;
    writeln!(out, "{shape} {adapter} {dtype}: {} trainable", grouped(timing.trainable))?;
    let (tokens, samples) = (timing.tokens_per_second, timing.samples_per_second);
    let step = timing.median_step_seconds;
    writeln!(out, "{step:.3} s a step, {tokens:.1} tokens/s, {samples:.2} samples/s")?;
    writeln!(out, "{} a token, {gflops:.1} GFLOP/s", crate::text::flops(timing.flops.total() as u64))?;
    if let Some(resident) = resident {
        writeln!(out, "{resident} MiB at most")?;
    }
    Ok(())
}
