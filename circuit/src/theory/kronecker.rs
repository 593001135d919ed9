//! KronA as a circuit: a Kronecker product is two single-axis gates.
//!
//! `(A (x) B) x`, with x read as a tensor `[cols_A, cols_B]`, multiplies A onto the first axis and B onto the second; the two commute. So a Kronecker
//! adapter is the special case of a circuit on two axes whose gates do not meet, and every method for circuits applies to it.

use crate::{Plan, PlanError, Real};

/// The circuit of `a (x) b`, row-major matrices of shapes `[rows, cols]`: its plan and its gates' values.
///
/// The gate that leaves fewer values goes first. The operator is the Kronecker product, entry for entry.
///
/// # Errors
/// [`PlanError`] where a size is zero or the product is too large to count.
///
/// # Panics
/// Where a slice does not fill its matrix.
///
/// ```
/// use quanta_circuit::{operator, theory::kronecker};
/// let (plan, gates) = kronecker(&[1.0, 2.0], [1, 2], &[3.0, 4.0], [2, 1])?;
/// assert_eq!(operator(&plan, &gates), [3.0, 6.0, 4.0, 8.0]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
pub fn kronecker<T: Real>(
    a: &[T],
    [a_rows, a_cols]: [usize; 2],
    b: &[T],
    [b_rows, b_cols]: [usize; 2],
) -> Result<(Plan, Vec<T>), PlanError> {
    let mut gates = [(vec![-2], Some(vec![a_rows])), (vec![-1], Some(vec![b_rows]))];
    // Values after the first gate: rows_A cols_B or cols_A rows_B.
    let b_first = a_cols.saturating_mul(b_rows) < a_rows.saturating_mul(b_cols);
    if b_first {
        gates.reverse();
    }
    let plan = Plan::new(&[a_cols, b_cols], &gates)?;
    assert_eq!((a.len(), b.len()), (a_rows * a_cols, b_rows * b_cols), "a slice does not fill its matrix");
    let values = if b_first { [b, a].concat() } else { [a, b].concat() };
    Ok((plan, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::numbers;
    use crate::operator;

    #[test]
    fn operator_is_the_kronecker_product() {
        for (a_shape, b_shape) in [([3, 2], [4, 5]), ([2, 7], [3, 1]), ([4, 4], [2, 2])] {
            let (a, b) = (numbers::<f64>(a_shape[0] * a_shape[1], 1), numbers::<f64>(b_shape[0] * b_shape[1], 2));
            let (plan, gates) = kronecker(&a, a_shape, &b, b_shape).unwrap();
            let product = operator(&plan, &gates);
            let cols = a_shape[1] * b_shape[1];
            for (i, &value) in product.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let expected = a[row / b_shape[0] * a_shape[1] + col / b_shape[1]]
                    * b[row % b_shape[0] * b_shape[1] + col % b_shape[1]];
                assert!((value - expected).abs() < 1e-15, "{a_shape:?} {b_shape:?} at {i}");
            }
        }
        assert!(matches!(kronecker::<f64>(&[], [0, 2], &[1.0], [1, 1]), Err(PlanError::EmptyAxis { .. })));
    }
}
