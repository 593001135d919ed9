//! `quanta bench`: measurements on random data.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use quanta_circuit::Plan;
use quanta_tune::adapter::methods;
use quanta_tune::run::bench::{CircuitBench, TrainBench, circuit, train_bench};
use serde_json::json;

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Command {
    /// A circuit beside the frozen linear it adapts, and beside the einsum order with permutes
    Circuit(CircuitArguments),
    /// Training steps on random weights, with the lengths of real prompts
    Train(TrainArguments),
}

/// What `quanta bench train` takes.
#[derive(clap::Args)]
pub struct TrainArguments {
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

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Held {
    F32,
    Bf16,
}

/// What `quanta bench circuit` takes.
#[derive(clap::Args)]
pub struct CircuitArguments {
    /// The circuit, such as 16-8-8-4
    #[arg(long, value_name = "PLAN")]
    dims: Plan,
    /// Input features; without it those of the circuit
    #[arg(long, value_name = "N")]
    in_features: Option<usize>,
    /// Output features; without it those of the circuit
    #[arg(long, value_name = "N")]
    out_features: Option<usize>,
    /// Tokens
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Type of compute
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Measurements; their median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Type {
    F32,
    F64,
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Circuit(arguments) => run_circuit(arguments),
        Command::Train(arguments) => run_train(arguments),
    }
}

fn run_train(arguments: &TrainArguments) -> Result<()> {
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
    let dtype = if bench.bf16 { "bf16" } else { "f32" };
    let resident = timing.peak_resident_bytes.map(|bytes| bytes >> 20);
    if arguments.json {
        let engine = format!("quanta {}", env!("CARGO_PKG_VERSION"));
        let line = json!({
            "engine": engine, "shape": bench.shape, "adapter": bench.adapter, "dtype": dtype, "batch": bench.batch,
            "accumulate": bench.accumulate, "trainable": timing.trainable,
            "median_step_seconds": timing.median_step_seconds, "tokens_per_second": timing.tokens_per_second,
            "peak_rss_mib": resident, "losses": timing.losses,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "{} {} {dtype}: {} trainable",
            bench.shape,
            bench.adapter,
            crate::text::grouped(timing.trainable)
        )?;
        writeln!(out, "{:.3} s a step, {:.1} tokens/s", timing.median_step_seconds, timing.tokens_per_second)?;
        if let Some(resident) = resident {
            writeln!(out, "{resident} MiB at most")?;
        }
    }
    Ok(())
}

fn run_circuit(arguments: &CircuitArguments) -> Result<()> {
    let plan = arguments.dims.clone();
    let d_in = arguments.in_features.unwrap_or(plan.in_len()).max(1);
    let d_out = arguments.out_features.unwrap_or(plan.out_len()).max(1);
    let wide = arguments.dtype == Type::F64;
    let (tokens, repeats) = (arguments.tokens as usize, arguments.repeats as usize);
    let bench = CircuitBench { plan, d_in, d_out, tokens, wide, repeats, threads: arguments.threads };
    let times = circuit(&bench)?;
    let ratio = times.circuit_forward_backward / times.frozen_forward_backward;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let line = json!({
            "engine": concat!("quanta ", env!("CARGO_PKG_VERSION")), "instruction_set": times.instruction_set, "threads": times.threads,
            "dims": bench.plan.to_string(), "in_features": d_in, "out_features": d_out, "tokens": tokens,
            "dtype": if wide { "f64" } else { "f32" },
            "frozen_forward_seconds": times.frozen_forward, "frozen_forward_backward_seconds": times.frozen_forward_backward,
            "circuit_forward_seconds": times.circuit_forward, "circuit_forward_backward_seconds": times.circuit_forward_backward,
            "einsum_forward_seconds": times.einsum_forward, "einsum_forward_backward_seconds": times.einsum_forward_backward,
            "ratio_forward_backward": ratio,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{} on [{d_out}, {d_in}], {tokens} tokens, {} threads, {}",
        bench.plan, times.threads, times.instruction_set
    )?;
    writeln!(out, "{:<24}{:>12}{:>20}", "milliseconds", "forward", "forward+backward")?;
    let mut row = |name: &str, (forward, both): (f64, f64)| {
        writeln!(out, "{name:<24}{:>12.3}{:>20.3}", 1e3 * forward, 1e3 * both)
    };
    row("frozen linear", (times.frozen_forward, times.frozen_forward_backward))?;
    row("circuit", (times.circuit_forward, times.circuit_forward_backward))?;
    row("circuit, einsum order", (times.einsum_forward, times.einsum_forward_backward))?;
    writeln!(out, "circuit over frozen, forward+backward: {:.1} %", 100.0 * ratio)?;
    Ok(())
}
