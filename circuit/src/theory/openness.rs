//! Theorem 6.3, composition openness: products of two circuits of one plan that are no circuit of that plan, with a certificate.
//!
//! LoRA's updates of rank r are closed under multiplication (the product of two has rank at most r again); circuits are not, which is why two layers
//! of gates can do what one cannot. Two certificates, for two kinds of plans. *Schmidt rank*: for a cut of the axes into two sides, only gates that
//! cross the cut entangle the sides, which bounds what one circuit can do; a product above the bound is outside. *Dimension*: the circuits of a plan
//! are the image of `P` parameters, so their dimension is at most `P`; where the products have a larger one, almost every product is outside. The
//! second is exact: it is a rank over the prime field of [`super::rank::PRIME`]. Derivations in `docs/openness.md`.

use thiserror::Error;

use super::rank::{NumericalRank, PRIME, RankError, exact_operator, exact_rank, numerical_rank};
use crate::{Plan, PlanError, operator};

/// Why a certificate cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpennessError {
    /// Input and output differ, so that circuits cannot be composed.
    #[error("the plan maps {input} values to {output} on other axes: composition needs equal input and output axes")]
    NotSquare {
        /// Values of the input.
        input: usize,
        /// Values of the output.
        output: usize,
    },
    /// A side of the cut is not a set of axes of the plan.
    #[error("axis {axis} is no axis of the plan, or is listed twice: list axes from -1 to -{axes} once each")]
    Side {
        /// The axis.
        axis: isize,
        /// The number of axes.
        axes: usize,
    },
    /// The operators' ranks cannot be computed.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The composed plan is too large.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The operator-Schmidt rank of a product beside what one circuit can reach.
#[derive(Debug, Clone, PartialEq)]
pub struct SchmidtCertificate {
    /// The most that any circuit of the plan has across the cut.
    pub bound: usize,
    /// Schmidt rank of the first circuit.
    pub first: NumericalRank,
    /// Schmidt rank of the second circuit.
    pub second: NumericalRank,
    /// Schmidt rank of `second * first`.
    pub product: NumericalRank,
}

impl SchmidtCertificate {
    /// Whether the product is certainly no circuit of the plan.
    pub fn is_outside(&self) -> bool {
        self.product.rank > self.bound
    }
}

/// Dimension of the products beside the number of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DimensionCertificate {
    /// Parameters of the plan: the circuits' dimension is at most this.
    pub parameters: usize,
    /// The dimension of the set of products is at least this: the rank of its Jacobian at one point, over a prime field.
    pub products: usize,
    /// Dimension of all matrices.
    pub matrices: usize,
}

impl DimensionCertificate {
    /// Whether almost every product is certainly no circuit of the plan.
    pub fn is_open(&self) -> bool {
        self.products > self.parameters
    }
}

fn check_square(plan: &Plan) -> Result<(), OpennessError> {
    if plan.in_dims() == plan.out_dims() {
        return Ok(());
    }
    Err(OpennessError::NotSquare { input: plan.in_len(), output: plan.out_len() })
}

/// Whether each axis, from the front, belongs to the side.
fn membership(plan: &Plan, side: &[isize]) -> Result<Vec<bool>, OpennessError> {
    let axes = plan.in_dims().len();
    let mut members = vec![false; axes];
    for &axis in side {
        let known = axis < 0 && axis.unsigned_abs() <= axes;
        if !known || std::mem::replace(&mut members[axes - axis.unsigned_abs()], true) {
            return Err(OpennessError::Side { axis, axes });
        }
    }
    Ok(members)
}

/// The largest operator-Schmidt rank, across the cut between `side` and the other axes, of any circuit of the plan.
///
/// A gate that crosses the cut on (a, b) is a sum of at most `min(in_a out_a, in_b out_b)` products of matrices on a and b; gates on one side leave
/// the number of terms; composition multiplies it. The result is also at most what the sizes of the sides allow.
///
/// # Errors
/// [`OpennessError::Side`] where `side` is no set of axes.
pub fn schmidt_bound(plan: &Plan, side: &[isize]) -> Result<usize, OpennessError> {
    let members = membership(plan, side)?;
    let axes = members.len();
    let entries = |inside: bool| -> usize {
        let sizes =
            (0..axes).filter(|&axis| members[axis] == inside).map(|axis| plan.in_dims()[axis] * plan.out_dims()[axis]);
        sizes.fold(1, usize::saturating_mul)
    };
    let mut bound = 1usize;
    for gate in plan.gates() {
        let positions = gate.positions(axes);
        if positions.len() == 2 && members[positions[0]] != members[positions[1]] {
            let terms = gate.in_sizes().iter().zip(gate.out_sizes()).map(|(from, to)| from * to);
            bound = bound.saturating_mul(terms.min().unwrap_or(1));
        }
    }
    Ok(bound.min(entries(true)).min(entries(false)))
}

/// The operator-Schmidt rank, across the cut, of a row-major matrix on the plan's axes: the rank of its entries rearranged as (row and column on one
/// side) times (row and column on the other).
///
/// # Errors
/// [`OpennessError`] where `side` is no set of axes or the matrix does not have the plan's size.
pub fn schmidt_rank(plan: &Plan, values: &[f64], side: &[isize]) -> Result<NumericalRank, OpennessError> {
    let members = membership(plan, side)?;
    let cols = plan.in_len();
    if values.len() != plan.out_len() * cols {
        let (expected, got) = (plan.out_len() * cols, values.len());
        return Err(RankError::Length { what: "values", expected, got }.into());
    }
    // Splits a flat index into its parts on the two sides.
    let split = |mut index: usize, dims: &[usize]| {
        let (mut parts, mut strides) = ([0, 0], [1, 1]);
        for axis in (0..dims.len()).rev() {
            let which = usize::from(members[axis]);
            parts[which] += index % dims[axis] * strides[which];
            strides[which] *= dims[axis];
            index /= dims[axis];
        }
        (parts, strides)
    };
    let (in_strides, out_strides) = (split(0, plan.in_dims()).1, split(0, plan.out_dims()).1);
    let (height, width) = (in_strides[0] * out_strides[0], in_strides[1] * out_strides[1]);
    let mut arranged = vec![0.0; values.len()];
    for row in 0..plan.out_len() {
        let rows = split(row, plan.out_dims()).0;
        for col in 0..cols {
            let columns = split(col, plan.in_dims()).0;
            let place = (rows[0] * in_strides[0] + columns[0]) * width + rows[1] * in_strides[1] + columns[1];
            arranged[place] = values[row * cols + col];
        }
    }
    Ok(numerical_rank(&arranged, height, width)?)
}

/// Composes two circuits of one plan and compares the Schmidt rank of the product with the plan's bound.
///
/// # Errors
/// [`OpennessError`] where the plan cannot be composed with itself, `side` is no set of axes or the gates do not fit the plan.
pub fn schmidt_certificate(
    plan: &Plan,
    first: &[f64],
    second: &[f64],
    side: &[isize],
) -> Result<SchmidtCertificate, OpennessError> {
    check_square(plan)?;
    for gates in [first, second] {
        if gates.len() != plan.parameters() {
            return Err(RankError::Length { what: "gate values", expected: plan.parameters(), got: gates.len() }.into());
        }
    }
    let (twice, gates) = (composed(plan)?, [first, second].concat());
    Ok(SchmidtCertificate {
        bound: schmidt_bound(plan, side)?,
        first: schmidt_rank(plan, &operator(plan, first), side)?,
        second: schmidt_rank(plan, &operator(plan, second), side)?,
        product: schmidt_rank(plan, &operator(&twice, &gates), side)?,
    })
}

/// The plan applied twice, with gates of its own each time.
fn composed(plan: &Plan) -> Result<Plan, PlanError> {
    let gates = || plan.gates().iter().map(|gate| (gate.axes().to_vec(), Some(gate.out_sizes().to_vec())));
    Plan::new(plan.in_dims(), &gates().chain(gates()).collect::<Vec<_>>())
}

/// Computes the dimension of the products of two circuits at a random integer point (`seed` chooses it).
///
/// The derivative of the operator by one gate value is the operator with that gate replaced by a matrix with a single one. A rank over the prime
/// field is at most the generic rank over the reals, so the certificate cannot err upwards. Costs `O(P d^2 sum K + P^2 d^2)`: for small plans.
///
/// # Errors
/// [`OpennessError::NotSquare`] where the plan cannot be composed with itself.
///
/// ```
/// use quanta_circuit::{Plan, theory::openness::dimension_certificate};
/// let certificate = dimension_certificate(&"2-2-2".parse::<Plan>()?, 1)?;
/// assert_eq!((certificate.parameters, certificate.products), (48, 64));
/// assert!(certificate.is_open());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn dimension_certificate(plan: &Plan, seed: u64) -> Result<DimensionCertificate, OpennessError> {
    check_square(plan)?;
    let twice = composed(plan)?;
    let mut state = seed;
    let mut gates: Vec<u64> = (0..twice.parameters())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 3) % PRIME
        })
        .collect();
    let matrices = plan.in_len() * plan.in_len();
    let mut jacobian = Vec::with_capacity(twice.parameters() * matrices);
    for gate in twice.gates() {
        let saved = gates[gate.range()].to_vec();
        for value in gate.range() {
            gates[gate.range()].fill(0);
            gates[value] = 1;
            jacobian.extend(exact_operator(&twice, &gates)?);
        }
        gates[gate.range()].copy_from_slice(&saved);
    }
    let products = exact_rank(&jacobian, twice.parameters(), matrices)?;
    Ok(DimensionCertificate { parameters: plan.parameters(), products, matrices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::numbers;

    #[test]
    fn a_brick_wall_is_left_by_its_products() {
        // One gate crosses the middle, as the one layer of controlled negations in the paper's proof.
        let plan: Plan = "2-2-2-2: (-1,-2) (-3,-4) (-2,-3)".parse().unwrap();
        let (first, second) = (numbers(plan.parameters(), 1), numbers(plan.parameters(), 2));
        let certificate = schmidt_certificate(&plan, &first, &second, &[-1, -2]).unwrap();
        let ranks = [&certificate.first, &certificate.second, &certificate.product].map(|rank| rank.rank);
        assert_eq!((certificate.bound, ranks), (4, [4, 4, 16]));
        assert!(certificate.is_outside());
    }

    #[test]
    fn identities_stay_inside() {
        let plan: Plan = "2-2-2-2: (-1,-2) (-3,-4) (-2,-3)".parse().unwrap();
        let identity = crate::init::identity::<f64>(&plan).unwrap();
        let certificate = schmidt_certificate(&plan, &identity, &identity, &[-1, -2]).unwrap();
        assert_eq!((certificate.product.rank, certificate.is_outside()), (1, false));
    }

    #[test]
    fn products_have_more_dimensions_than_circuits() {
        let open = dimension_certificate(&"2-3-2".parse().unwrap(), 5).unwrap();
        assert!(open.is_open() && open.products <= open.matrices, "{open:?}");
        // One gate on both axes is every matrix: closed.
        let closed = dimension_certificate(&"2-3".parse().unwrap(), 5).unwrap();
        assert_eq!(closed, DimensionCertificate { parameters: 36, products: 36, matrices: 36 });
        // Single-axis gates are closed, too: products of Kronecker products.
        let kronecker = dimension_certificate(&"2-3: (-1) (-2)".parse().unwrap(), 5).unwrap();
        assert_eq!((kronecker.products, kronecker.is_open()), (12, false));
    }

    #[test]
    fn unusable_cuts_are_refused() {
        let plan: Plan = "2-2-2".parse().unwrap();
        assert_eq!(schmidt_bound(&plan, &[-4]), Err(OpennessError::Side { axis: -4, axes: 3 }));
        assert_eq!(schmidt_bound(&plan, &[-1, -1]), Err(OpennessError::Side { axis: -1, axes: 3 }));
        let wide: Plan = "2-2 -> 2-4".parse().unwrap();
        assert_eq!(dimension_certificate(&wide, 1), Err(OpennessError::NotSquare { input: 4, output: 8 }));
    }
}
