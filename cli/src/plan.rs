//! `quanta plan`: what a configuration attaches and costs, from the model's `config.json` alone.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_tune::data::objective::Outcome;
use quanta_tune::run::{PlanReport, PlannedAdapter, RunConfig, plan};
use serde_json::{Map, Value, json};

use crate::text::{bytes, flops, grouped, line};

/// What `quanta plan` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration
    config: PathBuf,
    /// Override a key, such as `--set adapter.0.dims=[16,16,16]`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let config = RunConfig::read(&arguments.config, &arguments.overrides)?;
    let report = plan(&config)?;
    if arguments.json { print_json(&report) } else { print_text(&report) }
}

fn print_json(report: &PlanReport) -> Result<()> {
    let cost = &report.cost;
    let adapters: Vec<Value> = report.adapters.iter().map(adapter_json).collect();
    let plan = json!({
        "model": {
            "family": report.model.family, "layers": report.model.layers, "hidden_size": report.model.hidden_size,
            "parameters": report.base_parameters,
        },
        "adapters": adapters,
        "objective": report.whole.map(|(objective, _)| objective.name()),
        "trainable_parameters": report.trainable(),
        "percent_of_base": report.percent_of_base(),
        "percent_of_total": report.percent_of_total(),
        "micro_batch": { "tokens": report.training.tokens, "labels": report.training.labels, "length": report.training.length },
        "flops_per_token": {
            "forward": cost.forward_flops, "backward": cost.backward_flops, "adapters": cost.adapter_flops, "head_per_label": cost.head_flops,
        },
        "memory_bytes": {
            "weights": cost.weight_bytes, "adapters": cost.adapter_bytes, "saved": cost.saved_bytes, "working": cost.working_bytes,
            "program": cost.program_bytes,
            "peak": cost.peak_bytes(),
        },
    });
    writeln!(std::io::stdout().lock(), "{plan}")?;
    Ok(())
}

fn adapter_json(adapter: &PlannedAdapter) -> Value {
    let shapes: Vec<Value> = adapter
        .shapes
        .iter()
        .map(|shape| {
            let description: Map<String, Value> =
                shape.description.iter().map(|(label, text)| ((*label).to_owned(), json!(text))).collect();
            json!({
                "module": shape.module, "d_in": shape.d_in, "d_out": shape.d_out, "sites": shape.sites,
                "parameters": shape.parameters, "flops_per_token": shape.flops_per_token, "description": description,
            })
        })
        .collect();
    json!({ "type": adapter.method, "parameters": adapter.parameters(), "shapes": shapes, "sites": adapter.sites })
}

fn print_text(report: &PlanReport) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let model = &report.model;
    let shape = format!(
        "{}, {} layers, hidden size {}, {} heads over {} key/value heads, {} parameters",
        model.family,
        model.layers,
        model.hidden_size,
        model.heads,
        model.kv_heads,
        grouped(report.base_parameters)
    );
    line(&mut out, "model", &shape)?;
    if let Some((objective, outcome)) = report.whole {
        let answers = match outcome {
            Outcome::Classes(names) => format!("one of {}", names.join(", ")),
            Outcome::Number => "a number".to_owned(),
        };
        line(&mut out, "objective", &format!("{}: {answers}", objective.name()))?;
    }
    for adapter in &report.adapters {
        print_adapter(&mut out, adapter)?;
    }
    let trained = if report.whole.is_some() { "answers to give" } else { "of them trained" };
    let trainable = format!(
        "{} parameters = {:.4} % of the base, {:.4} % of base and adapters",
        grouped(report.trainable()),
        report.percent_of_base(),
        report.percent_of_total()
    );
    line(&mut out, "trainable", &trainable)?;
    let cost = &report.cost;
    let work = format!(
        "{} forward, {} backward, {} adapters; {} a label for the head",
        flops(cost.forward_flops),
        flops(cost.backward_flops),
        flops(cost.adapter_flops),
        flops(cost.head_flops)
    );
    line(&mut out, "per token", &work)?;
    let memory = format!(
        "{} = weights {} + adapters {} + kept for backward {} + working {} + program {}",
        bytes(cost.peak_bytes()),
        bytes(cost.weight_bytes),
        bytes(cost.adapter_bytes),
        bytes(cost.saved_bytes),
        bytes(cost.working_bytes),
        bytes(cost.program_bytes)
    );
    line(&mut out, "memory", &memory)?;
    let micro_batch = format!(
        "for a micro-batch of {} tokens, {} {trained}: the most the settings allow",
        grouped(report.training.tokens),
        grouped(report.training.labels)
    );
    line(&mut out, "", &micro_batch)?;
    Ok(())
}

/// One entry: its sites by shape, then what the method says of them, each thing once.
fn print_adapter(out: &mut impl Write, adapter: &PlannedAdapter) -> Result<()> {
    let sites =
        format!("{} on {} sites, {} parameters", adapter.method, adapter.sites.len(), grouped(adapter.parameters()));
    line(out, "adapter", &sites)?;
    for shape in &adapter.shapes {
        let text = format!(
            "{} [{}, {}] x {}: {} parameters, {} a token",
            shape.module,
            shape.d_out,
            shape.d_in,
            shape.sites,
            grouped(shape.parameters),
            flops(shape.flops_per_token)
        );
        line(out, "  site", &text)?;
    }
    // what is the same for all shapes is said once
    let mut said = Vec::new();
    for entry in adapter.shapes.iter().flat_map(|shape| &shape.description) {
        if !said.contains(&entry) {
            line(out, &format!("  {}", entry.0), &entry.1)?;
            said.push(entry);
        }
    }
    Ok(())
}
