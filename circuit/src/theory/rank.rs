//! Theorem 6.2: what the ranks of the gates say about the rank of the circuit, with the rank itself computed three ways.
//!
//! `sum_a d R_a / d_a - d (N_T - 1) <= R <= min_a d R_a / d_a` for square circuits of `N_T` gates of size `d_a` and rank `R_a` (paper, Eq. 12 and
//! C.2). A gate is `G (x) I` up to the order of the axes, so its full rank is `d R_a / d_a`; Sylvester's inequality does the rest. For gates that
//! change sizes the same argument gives the bounds stated at [`bounds`]. Ranks here: numerical (singular values above a threshold), and exact over
//! the prime field of `2^61 - 1`, where there is no rounding to argue about. Derivation in `docs/rank.md`.

use thiserror::Error;

use super::matrix;
use crate::live::each_fibre;
use crate::{Plan, operator};

/// Why a rank cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RankError {
    /// The gates' values or ranks do not fit the plan.
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
    #[error("the values are not finite: a rank needs finite numbers")]
    NotFinite,
    /// A rank that no matrix of the gate's shape has.
    #[error("gate {gate} is [{rows}, {cols}]: its rank is at most {}, got {rank}", rows.min(cols))]
    Impossible {
        /// Index of the gate in order of application.
        gate: usize,
        /// Its output size.
        rows: usize,
        /// Its input size.
        cols: usize,
        /// The rank given.
        rank: usize,
    },
}

/// Bounds for the rank of a circuit's operator, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankBounds {
    /// At least this.
    pub lower: usize,
    /// At most this.
    pub upper: usize,
}

/// The singular values of a matrix and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct NumericalRank {
    /// Singular values above the threshold.
    pub rank: usize,
    /// All singular values, descending.
    pub singular_values: Vec<f64>,
    /// The largest over the smallest of those above the threshold; 1 for the zero matrix.
    pub condition: f64,
}

/// Bounds for the rank of the operator from the ranks of the gates (Theorem 6.2).
///
/// With gate `a` taking `n_(a-1)` values to `n_a`, `r_a` its rank times the copies of it (`n_a / rows`): `upper = min r_a`, also at most every `n_a`;
/// `lower = sum_a r_a - sum_(0 < a < N_T) n_a`, at least 0. For square gates these are the paper's. A plan without gates is the identity.
///
/// # Errors
/// [`RankError::Length`] where there is not one rank for each gate, [`RankError::Impossible`] where a gate is too small for its.
///
/// ```
/// use quanta_circuit::{Plan, theory::rank::bounds};
/// let plan: Plan = "4-4-4".parse()?;
/// let bounds = bounds(&plan, &[16, 15, 16])?; // one gate of rank 15
/// assert_eq!((bounds.lower, bounds.upper), (60, 60));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn bounds(plan: &Plan, gate_ranks: &[usize]) -> Result<RankBounds, RankError> {
    if gate_ranks.len() != plan.gates().len() {
        return Err(RankError::Length { what: "gate ranks", expected: plan.gates().len(), got: gate_ranks.len() });
    }
    let sizes: Vec<usize> = plan.stages().iter().map(|dims| dims.iter().product()).collect();
    let mut upper = sizes.iter().copied().min().unwrap_or(0);
    let mut total = 0;
    for (index, (gate, &rank)) in plan.gates().iter().zip(gate_ranks).enumerate() {
        let (rows, cols) = (gate.rows(), gate.cols());
        if rank > rows.min(cols) {
            return Err(RankError::Impossible { gate: index, rows, cols, rank });
        }
        let full = rank * (sizes[index] / cols);
        upper = upper.min(full);
        total += full;
    }
    let between: usize = sizes[1..].iter().rev().skip(1).sum();
    let lower = if plan.gates().is_empty() { upper } else { total.saturating_sub(between) };
    Ok(RankBounds { lower, upper })
}

/// Numerical rank of a row-major matrix: singular values above `max(rows, cols) * eps * largest`.
///
/// # Errors
/// [`RankError`] where the values do not fill the matrix or are not finite.
pub fn numerical_rank(values: &[f64], rows: usize, cols: usize) -> Result<NumericalRank, RankError> {
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(RankError::Length { what: "values", expected: rows.saturating_mul(cols), got: values.len() });
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(RankError::NotFinite);
    }
    let mut singular_values = matrix(values, rows, cols).singular_values().map_err(|_| RankError::NotFinite)?;
    singular_values.sort_by(|a, b| b.total_cmp(a));
    let largest = singular_values.first().copied().unwrap_or(0.0);
    let threshold = rows.max(cols) as f64 * f64::EPSILON * largest;
    let rank = singular_values.iter().filter(|&&value| value > threshold).count();
    let condition = if rank == 0 { 1.0 } else { largest / singular_values[rank - 1] };
    Ok(NumericalRank { rank, singular_values, condition })
}

/// What [`report`] finds: the ranks of the gates, the bounds they give, and the rank of the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct RankReport {
    /// Numerical rank of every gate.
    pub gates: Vec<NumericalRank>,
    /// Theorem 6.2 for these ranks.
    pub bounds: RankBounds,
    /// Numerical rank of the operator.
    pub operator: NumericalRank,
}

/// Ranks of a circuit's gates and operator, and the bounds of Theorem 6.2. Costs `O(d^3)`.
///
/// # Errors
/// [`RankError`] where `gates` does not fit the plan or is not finite.
pub fn report(plan: &Plan, gates: &[f64]) -> Result<RankReport, RankError> {
    if gates.len() != plan.parameters() {
        return Err(RankError::Length { what: "gate values", expected: plan.parameters(), got: gates.len() });
    }
    let ranks = plan.gates().iter().map(|gate| numerical_rank(&gates[gate.range()], gate.rows(), gate.cols()));
    let gate_ranks: Vec<NumericalRank> = ranks.collect::<Result<_, _>>()?;
    let bounds = bounds(plan, &gate_ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>())?;
    let operator = numerical_rank(&operator(plan, gates), plan.out_len(), plan.in_len())?;
    Ok(RankReport { gates: gate_ranks, bounds, operator })
}

/// The prime `2^61 - 1` of the exact ranks.
pub const PRIME: u64 = (1 << 61) - 1;

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // 2^61 = 1 modulo the prime: the high part is added to the low part.
    let sum = (product & u128::from(PRIME)) as u64 + (product >> 61) as u64;
    if sum >= PRIME { sum - PRIME } else { sum }
}

fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

fn inverse(a: u64) -> u64 {
    // Fermat: a^(p-2).
    let (mut result, mut base, mut exponent) = (1, a, PRIME - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

/// Exact rank, over the field of [`PRIME`] elements, of a row-major matrix of numbers, taken modulo the prime: `-n` is `PRIME - n`.
///
/// For integers, at most the rank over the rationals, and equal to it unless the prime divides a minor.
///
/// # Errors
/// [`RankError::Length`] where the values do not fill the matrix.
pub fn exact_rank(values: &[u64], rows: usize, cols: usize) -> Result<usize, RankError> {
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(RankError::Length { what: "values", expected: rows.saturating_mul(cols), got: values.len() });
    }
    let mut matrix: Vec<Vec<u64>> =
        values.chunks(cols.max(1)).map(|row| row.iter().map(|v| v % PRIME).collect()).collect();
    let mut rank = 0;
    for col in 0..cols {
        let Some(pivot) = (rank..rows).find(|&row| matrix[row][col] != 0) else { continue };
        matrix.swap(rank, pivot);
        let (above, below) = matrix.split_at_mut(rank + 1);
        let (pivot_row, scale) = (&above[rank], inverse(above[rank][col]));
        for row in below.iter_mut().filter(|row| row[col] != 0) {
            let factor = PRIME - multiply(row[col], scale);
            for (value, &pivot) in row[col..].iter_mut().zip(&pivot_row[col..]) {
                *value = add(*value, multiply(factor, pivot));
            }
        }
        rank += 1;
    }
    Ok(rank)
}

/// The operator of a circuit over the field of [`PRIME`] elements: row-major `[out_len, in_len]`, from gates taken modulo the prime, as in [`exact_rank`].
///
/// # Errors
/// [`RankError::Length`] where `gates` does not fit the plan.
pub fn exact_operator(plan: &Plan, gates: &[u64]) -> Result<Vec<u64>, RankError> {
    if gates.len() != plan.parameters() {
        return Err(RankError::Length { what: "gate values", expected: plan.parameters(), got: gates.len() });
    }
    let cols = plan.in_len();
    // Rows are features, columns the unit vectors that the circuit is applied to.
    let mut state: Vec<u64> = (0..cols * cols).map(|i| u64::from(i / cols == i % cols)).collect();
    for (gate, dims) in plan.gates().iter().zip(&plan.stages()) {
        let values = &gates[gate.range()];
        let mut next = vec![0u64; state.len() / gate.cols() * gate.rows()];
        each_fibre(gate, dims, |ins, outs| {
            for (row, &out) in outs.iter().enumerate() {
                for (col, &input) in ins.iter().enumerate() {
                    let factor = values[row * gate.cols() + col] % PRIME;
                    if factor != 0 {
                        for k in 0..cols {
                            let term = multiply(factor, state[input * cols + k]);
                            next[out * cols + k] = add(next[out * cols + k], term);
                        }
                    }
                }
            }
        });
        state = next;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{numbers, plans};
    use proptest::prelude::*;

    /// A matrix of rank at most `rank`: a product of small random integers, as field elements and as reals.
    fn planted(rows: usize, cols: usize, rank: usize, seed: u64) -> (Vec<u64>, Vec<f64>) {
        let integer = |values: Vec<f64>| values.into_iter().map(|v| (v * 10.0).round()).collect::<Vec<f64>>();
        let (left, right) = (integer(numbers(rows * rank, seed)), integer(numbers(rank * cols, seed + 1)));
        let entry = |i: usize| (0..rank).map(|k| left[i / cols * rank + k] * right[k * cols + i % cols]).sum::<f64>();
        let real: Vec<f64> = (0..rows * cols).map(entry).collect();
        let exact = real.iter().map(|&v| if v < 0.0 { PRIME - (-v) as u64 } else { v as u64 }).collect();
        (exact, real)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exact_and_numerical_ranks_keep_the_bounds(plan in plans(5), seed in 0..1000u64, shares in proptest::collection::vec(1..=4usize, 7)) {
            let (mut exact, mut real, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
            for (index, gate) in plan.gates().iter().enumerate() {
                let rank = (gate.rows().min(gate.cols()) * shares[index]).div_ceil(4);
                let (field, values) = planted(gate.rows(), gate.cols(), rank, seed + 10 * index as u64);
                ranks.push(exact_rank(&field, gate.rows(), gate.cols()).unwrap());
                exact.extend(field);
                real.extend(values);
            }
            let bounds = bounds(&plan, &ranks).unwrap();
            let operator = exact_operator(&plan, &exact).unwrap();
            let rank = exact_rank(&operator, plan.out_len(), plan.in_len()).unwrap();
            prop_assert!(bounds.lower <= rank && rank <= bounds.upper, "{plan} {ranks:?}: {rank} {bounds:?}");
            let report = report(&plan, &real).unwrap();
            if report.operator.condition < 1e10 {
                prop_assert_eq!(report.operator.rank, rank, "{} {:?}", plan, ranks);
            }
        }
    }

    #[test]
    fn field_arithmetic_is_that_of_the_prime() {
        assert_eq!(multiply(PRIME - 1, PRIME - 1), 1);
        assert_eq!((multiply(inverse(12_345), 12_345), add(PRIME - 1, 1)), (1, 0));
        assert_eq!(exact_rank(&[1, 2, 2, 4], 2, 2), Ok(1));
        assert_eq!(exact_rank(&[PRIME - 1, 2, 1, PRIME - 2, 0, 1], 3, 2), Ok(2));
        assert_eq!(exact_rank(&[], 0, 3), Ok(0));
    }

    #[test]
    fn bounds_are_the_papers() {
        let plan: Plan = "4-4-2".parse().unwrap();
        // d = 32: sum = 32 * (5/8 + 8/8 + 16/16) - 2 * 32 = 20, min = 20.
        assert_eq!(bounds(&plan, &[5, 8, 16]), Ok(RankBounds { lower: 20, upper: 20 }));
        assert_eq!(bounds(&plan, &[4, 4, 8]), Ok(RankBounds { lower: 0, upper: 16 }));
        let impossible = bounds(&plan, &[5, 9, 16]).unwrap_err();
        assert_eq!(impossible, RankError::Impossible { gate: 1, rows: 8, cols: 8, rank: 9 });
        assert_eq!(impossible.to_string(), "gate 1 is [8, 8]: its rank is at most 8, got 9");
        assert!(matches!(bounds(&plan, &[1]), Err(RankError::Length { expected: 3, got: 1, .. })));
        assert_eq!(numerical_rank(&[f64::INFINITY], 1, 1), Err(RankError::NotFinite));
    }
}
