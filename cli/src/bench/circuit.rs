//! `quanta bench circuit`: prints what a circuit takes beside the frozen linear and the einsum order.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use quanta_circuit::Plan;
use quanta_tune::run::bench::{CircuitBench, circuit};
use serde_json::json;

use super::ENGINE;
use crate::text::bytes;

/// What `quanta bench circuit` takes.
#[derive(clap::Args)]
pub struct Arguments {
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

pub fn run(arguments: &Arguments) -> Result<()> {
    let plan = arguments.dims.clone();
    let d_in = arguments.in_features.unwrap_or(plan.in_len()).max(1);
    let d_out = arguments.out_features.unwrap_or(plan.out_len()).max(1);
    let wide = arguments.dtype == Type::F64;
    let (tokens, repeats) = (arguments.tokens as usize, arguments.repeats as usize);
    let bench = CircuitBench { plan, d_in, d_out, tokens, wide, repeats, threads: arguments.threads };
    let times = circuit(&bench)?;
    let ratio = times.circuit[1] / times.frozen[1];
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let line = json!({
            "engine": ENGINE, "instruction_set": times.instruction_set, "threads": times.threads,
            "dims": bench.plan.to_string(), "in_features": d_in, "out_features": d_out, "tokens": tokens,
            "dtype": if wide { "f64" } else { "f32" },
            "frozen_forward_seconds": times.frozen[0], "frozen_forward_backward_seconds": times.frozen[1],
            "circuit_forward_seconds": times.circuit[0], "circuit_forward_backward_seconds": times.circuit[1],
            "kept_forward_seconds": times.kept[0], "kept_forward_backward_seconds": times.kept[1],
            "kept_bytes": times.kept_bytes, "rounded_forward_backward_seconds": times.rounded.map(|[_, both]| both),
            "einsum_forward_seconds": times.einsum[0], "einsum_forward_backward_seconds": times.einsum[1],
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
    let mut row =
        |name: &str, [forward, both]: [f64; 2]| writeln!(out, "{name:<24}{:>12.3}{:>20.3}", 1e3 * forward, 1e3 * both);
    row("frozen linear", times.frozen)?;
    row("circuit", times.circuit)?;
    row("circuit, kept", times.kept)?;
    if let Some(rounded) = times.rounded {
        row("circuit, rounded", rounded)?;
    }
    row("circuit, einsum order", times.einsum)?;
    writeln!(out, "circuit over frozen, forward+backward: {:.1} %", 100.0 * ratio)?;
    writeln!(out, "kept between the circuit's gates: {}", bytes(times.kept_bytes as u64))?;
    Ok(())
}
