//! Some rows of a matrix as a matrix of their own, and back: what lies above the last keys and values is computed for rows that somebody reads.

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

/// The gradient of [`pick`]: adds `picked` to its rows of `dx`.
pub(super) fn add_at<T: Real>(dx: &mut Matrix<T>, picked: &Matrix<T>, rows: &[usize]) {
    for (index, &row) in rows.iter().enumerate() {
        dx.row_mut(row).iter_mut().zip(picked.row(index)).for_each(|(dx, &picked)| *dx += picked);
    }
}

/// [`add_at`] to zeros, as a matrix of `height` rows.
pub(super) fn scatter<T: Real>(picked: &Matrix<T>, rows: &[usize], height: usize, pass: &Pass<'_, T>) -> Matrix<T> {
    let mut dx = pass.workspace.zeros(height, picked.cols());
    add_at(&mut dx, picked, rows);
    dx
}
