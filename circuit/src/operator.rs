//! The circuit as one full matrix.
//!
//! Needed for merging a circuit into a weight, for its spectrum and its rank. The kernels apply a circuit without ever forming this matrix.

use crate::{Plan, Real, apply};

/// The full operator: the matrix `[plan.out_len(), plan.in_len()]`, row-major, with `T(x) = operator * x` (paper, Eq. 7).
///
/// # Panics
/// Where `gates` does not have `plan.parameters()` values.
///
/// ```
/// use quanta_circuit::{Plan, operator};
/// let plan = Plan::free(&[2, 2], &[vec![-1]])?;
/// let matrix = operator(&plan, &[1.0, 2.0, 3.0, 4.0]); // identity (x) G
/// assert_eq!(matrix[..8], [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
pub fn operator<T: Real>(plan: &Plan, gates: &[T]) -> Vec<T> {
    let (rows, cols) = (plan.out_len(), plan.in_len());
    let mut identity = vec![T::ZERO; cols * cols];
    for i in 0..cols {
        identity[i * cols + i] = T::ONE;
    }
    // Token j is the unit vector e_j, so row j of the result is column j of the operator.
    let mut columns = vec![T::ZERO; cols * rows];
    apply(plan, gates, &identity, cols, &mut columns, rows, T::ONE);
    let mut operator = identity;
    operator.resize(rows * cols, T::ZERO);
    for row in 0..rows {
        for col in 0..cols {
            operator[row * cols + col] = columns[col * rows + row];
        }
    }
    operator
}
