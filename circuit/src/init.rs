//! Initial values of a circuit's gates.
//!
//! The random numbers are the caller's, so that the library that trains can draw every one of them from a named stream; this file only knows the
//! distributions. What a start value means for a layer (the frozen copy S that is subtracted) is left to the layer.

use crate::{Plan, PlanError, Real};

/// Draws every gate uniformly with variance `1/K`: square gates keep the expected squared norm of the input, others multiply it by rows over columns.
///
/// `g ~ U(-sqrt(3/K), +sqrt(3/K))`, `K` = columns of the gate. The paper gives no formula; this is what the authors' program does: the slope
/// `a = sqrt(5)` that it passes to its initialiser has no effect, as checked by running it.
///
/// `uniform01` returns numbers in `[0, 1)`; they are consumed in the order of the flat parameter slice.
///
/// ```
/// use quanta_circuit::{Plan, init};
/// let plan = Plan::all_pairs(&[4, 3, 2])?;
/// let gates: Vec<f32> = init::uniform(&plan, &mut || 0.75);
/// assert_eq!(gates[0], 0.5 * (3.0f32 / 6.0).sqrt());
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
pub fn uniform<T: Real>(plan: &Plan, uniform01: &mut impl FnMut() -> f64) -> Vec<T> {
    let mut gates = Vec::with_capacity(plan.parameters());
    for gate in plan.gates() {
        let bound = (3.0 / gate.cols() as f64).sqrt();
        gates.extend((0..gate.parameters()).map(|_| T::from_f64((2.0 * uniform01() - 1.0) * bound)));
    }
    gates
}

/// Makes every gate the identity matrix, so that the circuit is the identity: an exact start at no cost.
///
/// # Errors
/// [`PlanError::NotSquare`] where a gate changes the size of an axis.
pub fn identity<T: Real>(plan: &Plan) -> Result<Vec<T>, PlanError> {
    let mut gates = vec![T::ZERO; plan.parameters()];
    for (index, gate) in plan.gates().iter().enumerate() {
        if !gate.is_square() {
            return Err(PlanError::NotSquare { gate: index, rows: gate.rows(), cols: gate.cols() });
        }
        for row in 0..gate.rows() {
            gates[gate.offset() + row * gate.cols() + row] = T::ONE;
        }
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_has_variance_one_over_columns() {
        let plan = Plan::all_pairs_between(&[16, 16, 8], &[16, 4, 8]).unwrap();
        let mut state = 1u64;
        let gates: Vec<f64> = uniform(&plan, &mut || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        });
        for gate in plan.gates() {
            let values = &gates[gate.range()];
            let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            // The mean of v^2 over n draws of U(-b, b) has relative deviation sqrt(0.8 / n); five of them never happen.
            let tolerance = 5.0 * (0.8 / values.len() as f64).sqrt();
            assert!((variance * gate.cols() as f64 - 1.0).abs() < tolerance, "{gate:?} {variance}");
            assert!(values.iter().all(|v| v.abs() <= (3.0 / gate.cols() as f64).sqrt()));
        }
    }

    #[test]
    fn identity_gates_make_the_identity_operator() {
        let plan = Plan::all_pairs(&[3, 2, 4]).unwrap();
        let operator = crate::operator(&plan, &identity::<f64>(&plan).unwrap());
        for (index, &value) in operator.iter().enumerate() {
            assert_eq!(value, if index / 24 == index % 24 { 1.0 } else { 0.0 });
        }
        let rectangular = Plan::all_pairs_between(&[3, 2], &[3, 1]).unwrap();
        assert_eq!(identity::<f64>(&rectangular), Err(PlanError::NotSquare { gate: 0, rows: 3, cols: 6 }));
    }
}
