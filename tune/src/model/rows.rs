//! Some rows of a matrix as a matrix of their own, and back: what lies above the last attention is computed for rows that somebody reads.

use crate::adapter::Pass;
use crate::tensor::{Matrix, Real};

/// Rows `rows` of `x`, in their order.
pub(super) fn pick<T: Real>(x: &Matrix<T>, rows: &[usize], pass: &Pass<'_, T>) -> Matrix<T> {
    let mut picked = pass.workspace.matrix(rows.len(), x.cols());
    for (index, &row) in rows.iter().enumerate() {
        picked.row_mut(index).copy_from_slice(x.row(row));
    }
    picked
}

/// The gradient of [`pick`]: `picked` at its rows of a matrix of `height` rows, zeros elsewhere.
pub(super) fn scatter<T: Real>(picked: &Matrix<T>, rows: &[usize], height: usize, pass: &Pass<'_, T>) -> Matrix<T> {
    let mut dx = pass.workspace.zeros(height, picked.cols());
    for (index, &row) in rows.iter().enumerate() {
        dx.row_mut(row).copy_from_slice(picked.row(index));
    }
    dx
}
