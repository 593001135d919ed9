//! Matrices and circuits: decomposition, rank, approximation.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use quanta_circuit::Plan;
use quanta_circuit::theory::Effort;
use quanta_tune::run::RunError;
use quanta_tune::run::circuit::{
    approximate_matrix, check_size, decompose_matrix, random_gates, rank as ranks_of, read_gates, read_matrix,
    write_gates,
};
use serde_json::json;

use crate::text::{grouped, line};

/// A matrix in a file.
#[derive(clap::Args)]
struct Source {
    /// The matrix: .npy, or .safetensors
    matrix: PathBuf,
    /// Which tensor of a .safetensors file
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
}

/// What `quanta circuit decompose` takes.
#[derive(clap::Args)]
pub struct DecomposeArguments {
    #[command(flatten)]
    source: Source,
    /// Axes, powers of two whose product is the matrix's size, such as 4-2-2
    #[arg(long, value_name = "DIMS")]
    dims: Plan,
    /// Real gates only: a negative determinant is an error
    #[arg(long)]
    real: bool,
    /// Write the gates
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn decompose(arguments: &DecomposeArguments) -> Result<()> {
    let matrix = read_matrix(&arguments.source.matrix, arguments.source.tensor.as_deref())?;
    if Plan::all_pairs(arguments.dims.in_dims()).as_ref() != Ok(&arguments.dims) {
        return Err(RunError::Usage(
            "--dims takes axes alone, such as 4-2-2: which gates there are is what decompose finds".into(),
        )
        .into());
    }
    let (found, error) = decompose_matrix(&matrix, arguments.dims.in_dims(), arguments.real)?;
    if let Some(path) = &arguments.out {
        write_gates(path, &found.plan, &found.real, found.imaginary.as_deref())?;
    }
    let (gates, complex) = (found.plan.gates().len(), found.imaginary.is_some());
    let share = gates as f64 / (matrix.rows as f64).powi(2);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let value = json!({
            "size": matrix.rows, "gates": gates, "gates_over_size_squared": share, "parameters": found.plan.parameters(),
            "complex": complex, "raised_singular_values": found.raised, "relative_error": error,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    let kind = if complex { "complex, because the determinant is negative" } else { "real" };
    line(
        &mut out,
        "gates",
        &format!("{} ({kind}), {share:.3} times the number of the matrix's values", grouped(gates)),
    )?;
    line(&mut out, "parameters", &grouped(found.plan.parameters()))?;
    if found.raised > 0 {
        let text = format!("{} singular values, because no circuit has this rank", found.raised);
        line(&mut out, "raised", &text)?;
    }
    line(&mut out, "error", &format!("{error:.1e} relative, Frobenius norm"))?;
    Ok(())
}

/// What `quanta circuit rank` takes.
#[derive(clap::Args)]
pub struct RankArguments {
    /// Gates: a file written by decompose or approximate, or an adapter's with --prefix
    #[arg(required_unless_present = "plan")]
    gates: Option<PathBuf>,
    /// Name of a gate's tensor before its index
    #[arg(long, default_value = "gate.", value_name = "TEXT")]
    prefix: String,
    /// The plan, where the file says none; without a file, of random gates
    #[arg(long)]
    plan: Option<Plan>,
    /// Seed of random gates
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn rank(arguments: &RankArguments) -> Result<()> {
    let (plan, gates) = match (&arguments.gates, &arguments.plan) {
        (Some(path), plan) => read_gates(path, &arguments.prefix, plan.clone())?,
        (None, Some(plan)) => {
            check_size(plan, 4)?;
            (plan.clone(), random_gates(plan, arguments.seed))
        }
        (None, None) => anyhow::bail!("a file of gates or --plan"),
    };
    let report = ranks_of(&plan, &gates)?;
    let gate_ranks: Vec<usize> = report.gates.iter().map(|gate| gate.rank).collect();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let value = json!({
            "plan": plan.to_string(), "gate_ranks": gate_ranks, "lower": report.bounds.lower, "upper": report.bounds.upper,
            "rank": report.operator.rank, "condition": report.operator.condition, "singular_values": report.operator.singular_values,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    line(&mut out, "plan", &plan.to_string())?;
    line(&mut out, "gates", &format!("ranks {gate_ranks:?}"))?;
    line(&mut out, "bounds", &format!("{} <= rank <= {} (Theorem 6.2)", report.bounds.lower, report.bounds.upper))?;
    let (rank, size) = (report.operator.rank, plan.out_len().min(plan.in_len()));
    line(
        &mut out,
        "operator",
        &format!("rank {rank} of {size}, condition {:.1e} on its range", report.operator.condition),
    )?;
    Ok(())
}

/// What `quanta circuit approximate` takes.
#[derive(clap::Args)]
pub struct ApproximateArguments {
    #[command(flatten)]
    source: Source,
    /// The plan, such as 8-8-8 or "8-8: (-1) (-2)"
    #[arg(long)]
    plan: Plan,
    /// Seed of the random gates to start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The most passes over all gates
    #[arg(long, default_value_t = 100)]
    sweeps: usize,
    /// Write the gates
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn approximate(arguments: &ApproximateArguments) -> Result<()> {
    let matrix = read_matrix(&arguments.source.matrix, arguments.source.tensor.as_deref())?;
    let effort = Effort { sweeps: arguments.sweeps, ..Effort::default() };
    let found = approximate_matrix(&matrix, &arguments.plan, arguments.seed, effort)?;
    if let Some(path) = &arguments.out {
        write_gates(path, &arguments.plan, &found.gates, None)?;
    }
    let mut out = std::io::stdout().lock();
    let (parameters, passes) = (arguments.plan.parameters(), found.errors.len().saturating_sub(1));
    if arguments.json {
        let value = json!({
            "plan": arguments.plan.to_string(), "parameters": parameters, "passes": passes, "relative_error": found.relative_error,
            "errors": found.errors,
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    line(&mut out, "plan", &arguments.plan.to_string())?;
    line(&mut out, "parameters", &format!("{} of {}", grouped(parameters), grouped(matrix.values.len())))?;
    line(&mut out, "error", &format!("{:.4e} relative, Frobenius norm, after {passes} passes", found.relative_error))?;
    Ok(())
}
