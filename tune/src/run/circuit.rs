//! `quanta circuit`: matrices and gates in and out of files, around the mathematics of [`quanta_circuit`].

use std::collections::BTreeMap;
use std::path::Path;

use quanta_circuit::theory::rank::{RankReport, report};
use quanta_circuit::theory::universality::{Decomposition, Field, decompose};
use quanta_circuit::theory::{Approximation, Effort, approximate};
use quanta_circuit::{Plan, init};

use super::{RunError, memory};
use crate::tensor::Stream;
use crate::weights::{Dtype, TensorFiles, TensorSpec, TensorWriter, read_npy};

/// Refuses a plan whose gates, or `matrices` copies of its operator, do not fit in memory.
///
/// # Errors
/// [`RunError::TooLarge`].
pub fn check_size(plan: &Plan, matrices: u64) -> Result<(), RunError> {
    let widest = stage_lengths(plan).max().unwrap_or(0);
    let operator = widest.saturating_mul(plan.in_len() as u64).saturating_mul(matrices);
    let gates = (plan.parameters() as u64).saturating_mul(4);
    memory::check_bytes(gates.saturating_add(operator).saturating_add(widest.saturating_mul(8)).saturating_mul(8))
}

/// Features before gate 0, before gate 1, ..., after the last gate.
pub(super) fn stage_lengths(plan: &Plan) -> impl Iterator<Item = u64> {
    plan.stages().into_iter().map(|dims| dims.iter().fold(1u64, |product, &size| product.saturating_mul(size as u64)))
}

/// A matrix read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixFile {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Values, row after row.
    pub values: Vec<f64>,
}

/// Reads a matrix from `.npy` or `.safetensors`; of the latter `tensor` names which, and may be left out when there is one.
///
/// # Errors
/// When the file cannot be read or holds no such matrix.
pub fn read_matrix(path: &Path, tensor: Option<&str>) -> Result<MatrixFile, RunError> {
    if path.extension().is_some_and(|end| end == "npy") {
        let matrix = read_npy(path)?;
        return Ok(MatrixFile { rows: matrix.rows, cols: matrix.cols, values: matrix.values });
    }
    let files = TensorFiles::open_file(path)?;
    let names: Vec<&str> = files.names().collect();
    let name = match (tensor, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, several) => {
            let listed = several.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            return Err(RunError::Usage(format!(
                "{} holds {} tensors: say which with --tensor ({listed})",
                path.display(),
                several.len()
            )));
        }
    };
    let [rows, cols] = files.info(name)?.shape[..] else {
        return Err(RunError::Usage(format!(
            "{name} in {} has shape {:?}: a matrix has two axes",
            path.display(),
            files.info(name)?.shape
        )));
    };
    Ok(MatrixFile { rows, cols, values: files.read(name)? })
}

/// Gates as one file: tensors `gate.i` of shape `[out_b, out_a, in_b, in_a]`, imaginary parts as `gate_imaginary.i`, the plan's text in the metadata.
///
/// # Errors
/// When the file cannot be written.
pub fn write_gates(path: &Path, plan: &Plan, real: &[f64], imaginary: Option<&[f64]>) -> Result<(), RunError> {
    let parts = [("gate", Some(real)), ("gate_imaginary", imaginary)];
    let specs = parts.iter().filter(|(_, values)| values.is_some()).flat_map(|(name, _)| {
        let gates = plan.gates().iter().enumerate();
        gates.map(move |(index, gate)| TensorSpec::new(format!("{name}.{index}"), Dtype::F64, gate.shape()))
    });
    let metadata = BTreeMap::from([("plan".to_owned(), plan.to_string())]);
    let mut writer = TensorWriter::create(path, &metadata, specs.collect())?;
    for (name, values) in parts {
        let Some(values) = values else { continue };
        for (index, gate) in plan.gates().iter().enumerate() {
            writer.write_values(&format!("{name}.{index}"), &values[gate.range()])?;
        }
    }
    Ok(writer.finish()?)
}

/// Reads gates that [`write_gates`] wrote, or those of an adapter file: `prefix` stands before the index, such as
/// `base_model.model.model.layers.0.self_attn.q_proj.quanta_T.`. `plan` overrides the file's.
///
/// # Errors
/// When the file cannot be read, says no plan, or its gates do not fit the plan.
pub fn read_gates(path: &Path, prefix: &str, plan: Option<Plan>) -> Result<(Plan, Vec<f64>), RunError> {
    let files = TensorFiles::open_file(path)?;
    let plan = match (plan, files.metadata().get("plan")) {
        (Some(plan), _) => plan,
        (None, Some(text)) => {
            text.parse().map_err(|error| RunError::Usage(format!("the plan in {}: {error}", path.display())))?
        }
        (None, None) => return Err(RunError::Usage(format!("{} says no plan: give one with --plan", path.display()))),
    };
    check_size(&plan, 0)?;
    let mut gates = Vec::with_capacity(plan.parameters());
    for (index, gate) in plan.gates().iter().enumerate() {
        let name = format!("{prefix}{index}");
        let shape = &files.info(&name)?.shape;
        if shape.iter().product::<usize>() != gate.parameters() {
            let expected = gate.shape();
            return Err(RunError::Usage(format!(
                "{name} has shape {shape:?}, where the plan `{plan}` has {expected:?}"
            )));
        }
        gates.extend(files.read::<f64>(&name)?);
    }
    Ok((plan, gates))
}

/// Writes a matrix as a circuit (Theorem 6.1 with its limits).
///
/// # Errors
/// When the matrix is not square, does not fit the axes, or has no such circuit.
pub fn decompose_matrix(
    matrix: &MatrixFile,
    dims: &[usize],
    real_only: bool,
) -> Result<(Decomposition, f64), RunError> {
    if matrix.rows != matrix.cols {
        return Err(RunError::Usage(format!(
            "a {} x {} matrix is not square: only square ones are decomposed",
            matrix.rows, matrix.cols
        )));
    }
    let field = if real_only { Field::Real } else { Field::RealOrComplex };
    let found = decompose(&matrix.values, dims, field).map_err(|error| RunError::Theory(error.to_string()))?;
    let error = found.relative_error(&matrix.values);
    Ok((found, error))
}

/// Ranks of a circuit's gates and operator, and the bounds of Theorem 6.2.
///
/// # Errors
/// When the values are not finite.
pub fn rank(plan: &Plan, gates: &[f64]) -> Result<RankReport, RunError> {
    check_size(plan, 4)?;
    report(plan, gates).map_err(|error| RunError::Theory(error.to_string()))
}

/// The circuit of `plan` nearest to a matrix that alternating least squares finds from random gates.
///
/// # Errors
/// When the matrix does not have the plan's shape.
pub fn approximate_matrix(
    matrix: &MatrixFile,
    plan: &Plan,
    seed: u64,
    effort: Effort,
) -> Result<Approximation, RunError> {
    if (matrix.rows, matrix.cols) != (plan.out_len(), plan.in_len()) {
        let (rows, cols) = (plan.out_len(), plan.in_len());
        return Err(RunError::Usage(format!(
            "the matrix is {} x {}, the plan's operator {rows} x {cols}: choose other axes",
            matrix.rows, matrix.cols
        )));
    }
    approximate(plan, &matrix.values, &random_gates(plan, seed), effort)
        .map_err(|error| RunError::Theory(error.to_string()))
}

/// Gates with the paper's initial distribution.
pub fn random_gates(plan: &Plan, seed: u64) -> Vec<f64> {
    let mut stream = Stream::new(seed, "init", "circuit");
    init::uniform(plan, &mut || stream.uniform())
}
