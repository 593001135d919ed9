//! `quanta bench gemm`: prints what the frozen product reaches of the machine's arithmetic limit.

use std::io::Write;

use anyhow::Result;
use quanta_tune::run::bench::{GemmBench, Product, gemm};
use serde_json::json;

use super::{ENGINE, Held};

/// What `quanta bench gemm` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Shapes: rows of x, output features, input features; without any 2048x2048x2048, 512x4096x4096, 2048x576x1536,
    /// 2048x1536x576 and 512x32000x768
    #[arg(long = "shape", num_args = 1.., value_name = "MxNxK")]
    shapes: Vec<Product>,
    /// How the weight is held
    #[arg(long, value_enum, default_value_t = Held::F32)]
    dtype: Held,
    /// Round x and dy to bf16 before they meet a weight held as bf16; without it arithmetic is in f32
    #[arg(long)]
    rounded: bool,
    /// Measurements of each; their median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON, one line a shape
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let shapes = if arguments.shapes.is_empty() { &Product::DEFAULTS[..] } else { &arguments.shapes };
    let dtype = arguments.dtype.name();
    arguments.dtype.check_rounded(arguments.rounded)?;
    let mut out = std::io::stdout().lock();
    for (index, &product) in shapes.iter().enumerate() {
        let (bf16, repeats) = (arguments.dtype == Held::Bf16, arguments.repeats as usize);
        let times =
            gemm(&GemmBench { product, bf16, rounded: arguments.rounded, repeats, threads: arguments.threads })?;
        let gflops = |seconds: f64| 1e-9 * product.flops() / seconds;
        let (forward, backward, limit) = (gflops(times.forward), gflops(times.backward), 1e-9 * times.limit);
        if arguments.json {
            let line = json!({
                "engine": ENGINE, "kernel": times.kernel, "threads": times.threads, "dtype": dtype, "rounded": arguments.rounded, "shape": product.to_string(),
                "rows": product.rows, "outputs": product.outputs, "inputs": product.inputs,
                "forward_seconds": times.forward, "backward_seconds": times.backward,
                "forward_gflops": forward, "backward_gflops": backward,
                "limit": "independent f32 fused multiply-adds", "limit_gflops": limit,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        if index == 0 {
            writeln!(out, "{} threads, weights in {dtype}, products by {}; GFLOP/s,", times.threads, times.kernel)?;
            writeln!(out, "and shares of the limit: independent f32 fused multiply-adds on the same threads")?;
            writeln!(out, "{:<20}{:>10}{:>20}{:>20}", "M x N x K", "limit", "y = x W^T", "dx = dy W")?;
        }
        let share = |gflops: f64| format!("{gflops:.1} ({:.0} %)", 100.0 * gflops / limit);
        writeln!(out, "{:<20}{limit:>10.1}{:>20}{:>20}", product.to_string(), share(forward), share(backward))?;
    }
    Ok(())
}
