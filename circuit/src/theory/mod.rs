//! The paper's theorems as working code: universality (6.1), rank representation (6.2), composition openness (6.3), Kronecker adapters as circuits, and
//! the best approximation of a matrix by a plan.
//!
//! Nothing here is needed to train; it answers what circuits can and cannot represent. All of it works in f64 on matrices that fit in memory.
//! Derivations, and where the printed theorems need correction, are in the documents `docs/universality.md`, `docs/rank.md` and `docs/openness.md`.

mod approximate;
mod elementary;
mod kronecker;
pub mod openness;
mod orthogonal;
pub mod rank;
pub mod universality;

pub use approximate::{ApproximateError, Approximation, Effort, approximate};
pub use kronecker::kronecker;

use faer::{Mat, MatRef};

/// A row-major slice as a matrix.
pub(crate) fn matrix(values: &[f64], rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |i, j| values[i * cols + j])
}

/// A matrix as a row-major vector.
pub(crate) fn row_major(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)])).collect()
}
