//! Plans: drawing, counting, and their einsum expressions.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use quanta_circuit::Plan;
use quanta_tune::run::RunError;
use quanta_tune::run::circuit::check_size;
use quanta_tune::weights::write_file;
use serde_json::json;

use crate::text::{flops, grouped, line};

/// What `quanta circuit show` takes.
#[derive(clap::Args)]
pub struct ShowArguments {
    /// Such as 16-8-8-4, or "16-8-8-4: (-1,-2) (-1,-3)", or "8-4 -> 4-4: pairs"
    plan: Plan,
    /// Input features of the site, where they are not the circuit's
    #[arg(long, value_name = "N")]
    in_features: Option<usize>,
    /// Output features of the site, where they are not the circuit's
    #[arg(long, value_name = "N")]
    out_features: Option<usize>,
    /// Leave out what padding and truncation make useless
    #[arg(long)]
    trim: bool,
    /// Write the drawing as SVG too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn show(arguments: &ShowArguments) -> Result<()> {
    let given = &arguments.plan;
    let (d_in, d_out) =
        (arguments.in_features.unwrap_or(given.in_len()), arguments.out_features.unwrap_or(given.out_len()));
    if d_in == 0 || d_out == 0 {
        return Err(RunError::Usage("a site has at least one input and one output feature".into()).into());
    }
    check_size(given, 0)?;
    let live = given.live_parameters(d_in, d_out).into_iter().filter(|live| *live).count();
    let trimmed = given.trimmed(d_in, d_out).plan;
    let plan = if arguments.trim { &trimmed } else { given };
    let cost = given.cost(d_in, d_out, size_of::<f32>());
    if let Some(path) = &arguments.svg {
        write_file(path, plan.svg().as_bytes())?;
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let gates: Vec<_> = plan
            .gates()
            .iter()
            .map(|gate| json!({ "axes": gate.axes(), "rows": gate.rows(), "cols": gate.cols(), "parameters": gate.parameters() }))
            .collect();
        let value = json!({
            "plan": plan.to_string(), "in_dims": plan.in_dims(), "out_dims": plan.out_dims(), "gates": gates,
            "parameters": plan.parameters(), "live_parameters": live, "trimmed": trimmed.to_string(),
            "einsum_apply": plan.einsum_apply(), "einsum_operator": plan.einsum_operator(),
            "flops_per_token": { "forward": cost.forward_flops, "backward": cost.backward_flops, "dense": cost.dense_flops },
            "operator_flops": cost.operator_flops, "pull_back_flops": cost.pull_back_flops,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    writeln!(out, "{}\n", plan.drawing().trim_end())?;
    line(&mut out, "plan", &plan.to_string())?;
    line(&mut out, "parameters", &grouped(plan.parameters()))?;
    if live < given.parameters() {
        let dead = given.parameters() - live;
        let text = format!(
            "{} of the full plan's never receive a gradient on a [{d_out}, {d_in}] site (--trim leaves them out)",
            grouped(dead)
        );
        line(&mut out, "", &text)?;
    }
    let text = format!(
        "{} forward, {} backward; the frozen linear {} forward",
        flops(cost.forward_flops),
        flops(cost.backward_flops),
        flops(cost.dense_flops)
    );
    line(&mut out, "per token", &text)?;
    line(
        &mut out,
        "operator",
        &format!("{} to form, {} to pull a gradient back", flops(cost.operator_flops), flops(cost.pull_back_flops)),
    )?;
    Ok(())
}

/// What `quanta circuit einsum` takes.
#[derive(clap::Args)]
pub struct EinsumArguments {
    /// A plan such as 16-8-8-4, or an expression such as "...abc,efbc,diaf,ghde->...ghi" together with --dims
    plan: String,
    /// Sizes of the axes for an expression, such as 4-3-2
    #[arg(long, value_name = "DIMS")]
    dims: Option<Plan>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn einsum(arguments: &EinsumArguments) -> Result<()> {
    let usage = |error: String| RunError::Usage(error);
    let plan = if arguments.plan.contains("->") && arguments.plan.contains(',') && !arguments.plan.contains('(') {
        let dims = arguments.dims.as_ref().ok_or_else(|| usage("an expression needs --dims".into()))?;
        Plan::from_einsum(&arguments.plan, dims.in_dims(), dims.out_dims()).map_err(|error| usage(error.to_string()))?
    } else {
        arguments.plan.parse::<Plan>().map_err(|error| usage(error.to_string()))?
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let value =
            json!({ "plan": plan.to_string(), "apply": plan.einsum_apply(), "operator": plan.einsum_operator() });
        writeln!(out, "{value}").context("standard output")?;
        return Ok(());
    }
    line(&mut out, "plan", &plan.to_string())?;
    line(&mut out, "apply", &plan.einsum_apply())?;
    line(&mut out, "operator", &plan.einsum_operator())?;
    Ok(())
}
