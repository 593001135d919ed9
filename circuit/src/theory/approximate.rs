//! The best approximation of a given matrix by a given plan, in the Frobenius norm.
//!
//! For starting a circuit from a weight or from an update, and for asking how much of an update a plan can hold. The operator is linear in each gate,
//! so with the others fixed the best gate is a linear least-squares problem; the gates are improved in turn (alternating least squares). Each problem
//! is solved by conjugate gradients on the operator and its pull-back, so that no matrix larger than the target is ever formed and every step lowers
//! the error. The problem is not convex: the result is a stationary point that depends on the start, and its error is reported.

use thiserror::Error;

use crate::{Plan, operator, pull_back};

/// Why an approximation cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApproximateError {
    /// A slice does not fit the plan.
    #[error("the plan needs {expected} {what}, got {got}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// The number that the plan asks for.
        expected: usize,
        /// The number given.
        got: usize,
    },
    /// The values are not finite.
    #[error("the {what} are not finite: remove infinite values and NaN")]
    NotFinite {
        /// Which values.
        what: &'static str,
    },
}

/// When to stop; by default after 100 sweeps of 20 steps, or at a tolerance of 1e-6.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// The most passes over all gates.
    pub sweeps: usize,
    /// The most conjugate-gradient steps for one gate in one pass.
    pub steps: usize,
    /// Stops when a pass lowers the relative error by less than this, or the error is below it.
    pub tolerance: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Self { sweeps: 100, steps: 20, tolerance: 1e-6 }
    }
}

/// A circuit near a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Approximation {
    /// The gates' values.
    pub gates: Vec<f64>,
    /// `||operator - target|| / ||target||` at the end.
    pub relative_error: f64,
    /// The relative error at the start and after every pass; never rises.
    pub errors: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Improves `start` until the circuit is near `target`, a row-major `[plan.out_len(), plan.in_len()]` matrix: alternating least squares, gate after gate by
/// conjugate gradients. A step costs an [`operator`](fn@crate::operator) and a [`pull_back`]. The problem is not convex, and a circuit that is the target may
/// be missed from one start and found from another.
///
/// `start` decides which stationary point is found: random gates ([`crate::init::uniform`]) for a general matrix, the gates of a circuit nearby for a
/// correction. A gate of zeros stays at zero with its neighbours undetermined, so do not start from zeros.
///
/// # Errors
/// [`ApproximateError`] where a slice does not fit the plan or is not finite.
///
/// ```
/// use quanta_circuit::{Plan, init, theory::{Effort, approximate}};
/// let plan = Plan::free(&[2, 2], &[vec![-1], vec![-2]])?; // all Kronecker products
/// let target: Vec<f64> = [[1.0, 2.0], [3.0, 4.0]].iter().flat_map(|row| row.repeat(2)).collect::<Vec<_>>().repeat(2);
/// let mut state = 1.0;
/// let start = init::uniform(&plan, &mut || { state = (state * 7.31 + 0.17) % 1.0; state });
/// let found = approximate(&plan, &target, &start, Effort::default())?;
/// assert!(found.relative_error < 1e-12); // the target is such a product
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn approximate(
    plan: &Plan,
    target: &[f64],
    start: &[f64],
    effort: Effort,
) -> Result<Approximation, ApproximateError> {
    for (what, values, expected) in
        [("values of the target", target, plan.out_len() * plan.in_len()), ("gate values", start, plan.parameters())]
    {
        if values.len() != expected {
            return Err(ApproximateError::Length { what, expected, got: values.len() });
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(ApproximateError::NotFinite { what });
        }
    }
    // the pool is entered once, and not by each of many small products
    Ok(rayon::scope(|_| sweeps(plan, target, start, effort)))
}

/// [`approximate`] of finite values that fit the plan.
fn sweeps(plan: &Plan, target: &[f64], start: &[f64], effort: Effort) -> Approximation {
    let norm = dot(target, target).sqrt();
    let scale = if norm > 0.0 { norm } else { 1.0 };
    let mut gates = start.to_vec();
    let mut residual: Vec<f64> = operator(plan, &gates).iter().zip(target).map(|(got, want)| want - got).collect();
    let mut errors = vec![dot(&residual, &residual).sqrt() / scale];
    for _ in 0..effort.sweeps {
        for gate in 0..plan.gates().len() {
            improve(plan, &mut gates, gate, &mut residual, effort.steps);
        }
        balance(plan, &mut gates);
        let (before, after) = (errors[errors.len() - 1], dot(&residual, &residual).sqrt() / scale);
        errors.push(after.min(before));
        if before - after < effort.tolerance * before || after < effort.tolerance * f64::EPSILON.sqrt() {
            break;
        }
    }
    let relative_error = errors[errors.len() - 1];
    Approximation { gates, relative_error, errors }
}

/// Conjugate gradients for the least-squares problem of one gate, all others fixed: `min ||target - A g||`, `A g` the operator with this gate, from
/// the present gate. `residual = target - A g` is kept up to date.
fn improve(plan: &Plan, gates: &mut [f64], index: usize, residual: &mut [f64], steps: usize) {
    let range = plan.gates()[index].range();
    let mut probe = gates.to_vec();
    let adjoint = |gates: &[f64], residual: &[f64]| {
        // The gradient of one gate does not depend on its own values.
        let mut gradient = vec![0.0; gates.len()];
        pull_back(plan, gates, residual, &mut gradient);
        gradient[range.clone()].to_vec()
    };
    let mut gradient = adjoint(gates, residual);
    let mut direction = gradient.clone();
    let mut size = dot(&gradient, &gradient);
    let floor = size * f64::EPSILON;
    for _ in 0..steps.min(range.len()) {
        if size <= floor || size == 0.0 {
            return;
        }
        probe[range.clone()].copy_from_slice(&direction);
        let image = operator(plan, &probe);
        let curvature = dot(&image, &image);
        if curvature == 0.0 {
            return;
        }
        let step = size / curvature;
        gates[range.clone()].iter_mut().zip(&direction).for_each(|(gate, d)| *gate += step * d);
        residual.iter_mut().zip(&image).for_each(|(r, image)| *r -= step * image);
        gradient = adjoint(gates, residual);
        let next = dot(&gradient, &gradient);
        let momentum = next / size;
        direction.iter_mut().zip(&gradient).for_each(|(d, g)| *d = g + momentum * *d);
        size = next;
    }
}

/// Gives all gates the same root mean square, which leaves the operator and makes the next problems equally scaled.
fn balance(plan: &Plan, gates: &mut [f64]) {
    let sizes: Vec<f64> = plan
        .gates()
        .iter()
        .map(|gate| (dot(&gates[gate.range()], &gates[gate.range()]) / gate.parameters() as f64).sqrt())
        .collect();
    if sizes.iter().any(|&size| size == 0.0 || !size.is_finite()) {
        return;
    }
    let mean = (sizes.iter().map(|size| size.ln()).sum::<f64>() / sizes.len() as f64).exp();
    for (gate, size) in plan.gates().iter().zip(sizes) {
        gates[gate.range()].iter_mut().for_each(|value| *value *= mean / size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::numbers;

    const THOROUGH: Effort = Effort { sweeps: 400, steps: 60, tolerance: 1e-9 };

    fn recomputed(plan: &Plan, found: &Approximation, target: &[f64]) -> f64 {
        let residual: Vec<f64> = operator(plan, &found.gates).iter().zip(target).map(|(a, b)| a - b).collect();
        (dot(&residual, &residual) / dot(target, target)).sqrt()
    }

    #[test]
    fn circuits_are_found_again() {
        for text in ["3-2-2", "2-3: (-1) (-2)", "2-2-3 -> 2-2-2", "2-2-2: (-1,-2) (-2,-3)"] {
            let plan: Plan = text.parse().unwrap();
            let hidden: Vec<f64> = numbers(plan.parameters(), 1);
            let target = operator(&plan, &hidden);
            let start: Vec<f64> =
                hidden.iter().zip(numbers::<f64>(hidden.len(), 2)).map(|(a, b)| a + 0.1 * b).collect();
            let found = approximate(&plan, &target, &start, THOROUGH).unwrap();
            assert!(
                found.relative_error < 1e-5,
                "{text}: {:e} after {} passes",
                found.relative_error,
                found.errors.len()
            );
            assert!((recomputed(&plan, &found, &target) - found.relative_error).abs() < 1e-10);
        }
    }

    #[test]
    fn error_never_rises_and_ends_at_a_stationary_point() {
        let plan: Plan = "3-2-4".parse().unwrap();
        let target: Vec<f64> = numbers(24 * 24, 3);
        let found = approximate(&plan, &target, &numbers(plan.parameters(), 4), THOROUGH).unwrap();
        assert!(found.errors.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!(found.relative_error < 0.9 * found.errors[0] && found.relative_error < 1.0);
        let residual: Vec<f64> = operator(&plan, &found.gates).iter().zip(&target).map(|(a, b)| a - b).collect();
        let mut gradient = vec![0.0; plan.parameters()];
        pull_back(&plan, &found.gates, &residual, &mut gradient);
        assert!(dot(&gradient, &gradient).sqrt() < 1e-2 * dot(&target, &target).sqrt());
    }

    #[test]
    fn one_gate_on_all_axes_is_exact() {
        let plan: Plan = "3-4".parse().unwrap();
        let target: Vec<f64> = numbers(144, 5);
        let found = approximate(&plan, &target, &vec![0.0; 144], Effort::default()).unwrap();
        assert!(found.relative_error < 1e-12, "{:e}", found.relative_error);
    }

    #[test]
    fn best_kronecker_product_is_the_rank_one_truncation() {
        // Van Loan and Pitsianis: the rearranged matrix's best rank-one approximation; its error is known from singular values.
        let plan: Plan = "2-2: (-1) (-2)".parse().unwrap();
        let target: Vec<f64> = numbers(16, 6);
        let found = approximate(&plan, &target, &numbers(8, 7), THOROUGH).unwrap();
        let singular = crate::theory::openness::schmidt_rank(&plan, &target, &[-1]).unwrap().singular_values;
        let (all, rest) = (dot(&singular, &singular), dot(&singular[1..], &singular[1..]));
        assert!((found.relative_error - (rest / all).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn unusable_input_is_refused() {
        let plan: Plan = "3-4".parse().unwrap();
        let error = approximate(&plan, &[1.0], &[0.0; 144], Effort::default()).unwrap_err();
        assert!(matches!(error, ApproximateError::Length { expected: 144, got: 1, .. }));
        let error = approximate(&plan, &[f64::NAN; 144], &[0.0; 144], Effort::default()).unwrap_err();
        assert!(matches!(error, ApproximateError::NotFinite { .. }));
    }
}
