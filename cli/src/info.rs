//! `quanta info`: machine, kernels, versions.

use std::io::Write;

use anyhow::Result;
use quanta_tune::run::info;
use serde_json::json;

use crate::text::{bytes, line};

/// What `quanta info` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let info = info()?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let object = json!({
            "version": info.version, "run_format": info.run_format, "optimised": info.optimised, "system": info.system,
            "architecture": info.architecture, "processor": info.processor, "threads": info.threads, "memory_bytes": info.memory_bytes,
            "available_bytes": info.available_bytes, "instruction_sets": info.instruction_sets,
            "circuit_kernel": info.circuit_kernel, "product_kernel": info.product_kernel,
            "bf16_product_kernel": info.bf16_product_kernel, "amx_unused": info.amx_unused,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let slow = if info.optimised { "" } else { ", a debug build: many times slower than cargo's --release" };
    line(&mut out, "version", &format!("{}, run folders of format {}{slow}", info.version, info.run_format))?;
    let name = info.processor.unwrap_or_else(|| "unknown processor".into());
    line(&mut out, "machine", &format!("{name}, {}, {}", info.architecture, info.system))?;
    line(&mut out, "threads", &info.threads.to_string())?;
    if let (Some(all), Some(available)) = (info.memory_bytes, info.available_bytes) {
        line(&mut out, "memory", &format!("{}, {} of it free", bytes(all), bytes(available)))?;
    }
    let sets = if info.instruction_sets.is_empty() { "none known".into() } else { info.instruction_sets.join(" ") };
    line(&mut out, "detected", &sets)?;
    let amx = info.amx_unused.map_or_else(String::new, |reason| format!(" (AMX: {reason})"));
    let (circuits, products, bf16) = (info.circuit_kernel, info.product_kernel, info.bf16_product_kernel);
    line(
        &mut out,
        "kernels",
        &format!("circuits {circuits}, matrix products {products}, with bf16 weights {bf16}{amx}"),
    )?;
    Ok(())
}
