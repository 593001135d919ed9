//! `quanta methods`: the table of fine-tuning methods.

use std::io::Write;

use anyhow::Result;
use quanta_tune::adapter::methods;
use serde_json::{Value, json};

/// What `quanta methods` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let row = |info: &quanta_tune::adapter::MethodInfo| json!({ "name": info.name, "peft_type": info.peft_type, "formula": info.formula, "peft_compatible": !info.extends_peft });
        writeln!(out, "{}", methods().iter().map(row).collect::<Value>())?;
        return Ok(());
    }
    writeln!(out, "{:<10}{:<10}{:<7}adapted weight", "type", "on disk", "PEFT")?;
    for info in methods() {
        let peft = if info.extends_peft { "no" } else { "yes" };
        writeln!(out, "{:<10}{:<10}{peft:<7}{}", info.name, info.peft_type, info.formula)?;
    }
    Ok(())
}
