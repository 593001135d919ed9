//! The best approximation of a matrix by one of low rank: a truncated singular value decomposition.
//!
//! Small matrices are decomposed whole. For large ones the leading singular vectors are found by subspace iteration from a fixed random start (Halko,
//! Martinsson and Tropp 2011, algorithm 4.4): `Q = orth((W W^T)^q W Omega)` with sixteen vectors more than asked for, then the small `Q^T W` is decomposed.
//! The kept energy is the kept singular values' share of `|W|_F^2`, which is exact either way.

use faer::{Mat, MatRef};

use crate::tensor::{MatMut as Out, MatRef as In, Stream, matmul};

/// Sides up to which a matrix is decomposed whole.
const WHOLE: usize = 512;
/// Vectors beside those that are asked for.
const BESIDE: usize = 16;
/// Rounds of `W W^T`.
const ROUNDS: usize = 6;

/// `W ~ B A`, the singular values shared evenly between the factors.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// `[rank, cols]`, row-major.
    pub a: Vec<f64>,
    /// `[rows, rank]`, row-major.
    pub b: Vec<f64>,
    /// The kept singular values, descending.
    pub singular_values: Vec<f64>,
    /// Their squares' share of all; 1 for a zero matrix.
    pub kept: f64,
}

/// The best approximation of `values [rows, cols]` by a matrix of rank `rank`; none where a value is not finite.
///
/// # Panics
/// When the values do not fill the matrix, or the rank is above its smaller side.
pub fn truncate(values: &[f64], rows: usize, cols: usize, rank: usize) -> Option<Truncated> {
    assert!(values.len() == rows * cols && rank <= rows.min(cols), "a rank within the matrix");
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    // left factor [rows, k] with orthonormal columns, and what it leaves to decompose
    let wanted = rank + BESIDE;
    let basis = (rows.min(cols) > WHOLE && wanted < rows.min(cols)).then(|| range(values, rows, cols, wanted));
    let inner = match &basis {
        None => MatRef::from_row_major_slice(values, rows, cols).to_owned(),
        Some(basis) => {
            let product = multiply(basis.transpose(), values, rows, cols);
            MatRef::from_row_major_slice(&product, wanted, cols).to_owned()
        }
    };
    let svd = inner.thin_svd().ok()?;
    let u = match &basis {
        None => svd.U().to_owned(),
        Some(basis) => basis * svd.U(),
    };
    let (v, s) = (svd.V(), svd.S().column_vector());
    let singular_values: Vec<f64> = (0..rank).map(|k| s[k]).collect();
    let mut a = Vec::with_capacity(rank * cols);
    (0..rank).for_each(|k| a.extend((0..cols).map(|j| v[(j, k)] * singular_values[k].sqrt())));
    let mut b = Vec::with_capacity(rows * rank);
    (0..rows).for_each(|i| b.extend((0..rank).map(|k| u[(i, k)] * singular_values[k].sqrt())));
    let all: f64 = values.iter().map(|value| value * value).sum();
    let kept: f64 = singular_values.iter().map(|s| s * s).sum();
    Some(Truncated { a, b, singular_values, kept: if all > 0.0 { (kept / all).min(1.0) } else { 1.0 } })
}

/// An orthonormal basis `[rows, k]` of the leading left singular vectors.
fn range(values: &[f64], rows: usize, cols: usize, k: usize) -> Mat<f64> {
    let mut stream = Stream::new(0, "truncate", "start");
    let start: Vec<f64> = (0..rows * k).map(|_| stream.normal()).collect();
    let mut q = orthonormal(&start, rows, k);
    for _ in 0..ROUNDS {
        let below = multiply(q.transpose(), values, rows, cols);
        let below = orthonormal_rows(&below, k, cols);
        let mut above = vec![0.0; rows * k];
        let below = row_major(below.as_ref());
        matmul(Out::new(&mut above, rows, k), false, In::new(values, rows, cols), In::new(&below, cols, k), 1.0);
        q = orthonormal(&above, rows, k);
    }
    q
}

/// `left [k, rows] * values [rows, cols]`, row-major.
fn multiply(left: MatRef<'_, f64>, values: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let (k, left) = (left.nrows(), row_major(left));
    let mut out = vec![0.0; k * cols];
    matmul(Out::new(&mut out, k, cols), false, In::new(&left, k, rows), In::new(values, rows, cols), 1.0);
    out
}

fn row_major(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)])).collect()
}

/// An orthonormal basis of the columns of a row-major `[rows, k]`.
fn orthonormal(values: &[f64], rows: usize, k: usize) -> Mat<f64> {
    MatRef::from_row_major_slice(values, rows, k).qr().compute_thin_Q()
}

/// An orthonormal basis, as columns, of the rows of a row-major `[k, cols]`.
fn orthonormal_rows(values: &[f64], k: usize, cols: usize) -> Mat<f64> {
    MatRef::from_row_major_slice(values, k, cols).transpose().qr().compute_thin_Q()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, name: &str) -> Vec<f64> {
        let mut stream = Stream::new(1, "test", name);
        (0..len).map(|_| stream.normal()).collect()
    }

    fn product(b: &[f64], a: &[f64], rows: usize, rank: usize, cols: usize) -> Vec<f64> {
        let mut out = vec![0.0; rows * cols];
        matmul(Out::new(&mut out, rows, cols), false, In::new(b, rows, rank), In::new(a, rank, cols), 1.0);
        out
    }

    #[test]
    fn a_matrix_of_the_rank_is_given_back() {
        for (rows, cols) in [(30, 20), (20, 30), (600, 700)] {
            let w = product(&numbers(rows * 5, "b"), &numbers(5 * cols, "a"), rows, 5, cols);
            let truncated = truncate(&w, rows, cols, 5).unwrap();
            let again = product(&truncated.b, &truncated.a, rows, 5, cols);
            let scale = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let worst = w.iter().zip(&again).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 1e-12 * scale && truncated.kept > 1.0 - 1e-12, "{rows} {cols}: {worst}");
        }
    }

    #[test]
    fn the_error_is_what_the_kept_energy_says() {
        let (rows, cols) = (40, 24);
        let w = numbers(rows * cols, "w");
        let truncated = truncate(&w, rows, cols, 6).unwrap();
        let again = product(&truncated.b, &truncated.a, rows, 6, cols);
        let squares = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        let rest: Vec<f64> = w.iter().zip(&again).map(|(a, b)| a - b).collect();
        assert!((squares(&rest) / squares(&w) - (1.0 - truncated.kept)).abs() < 1e-12);
        assert_eq!(truncate(&[0.0; 6], 2, 3, 1).unwrap().kept, 1.0);
        assert!(truncate(&[f64::NAN; 6], 2, 3, 1).is_none());
    }

    /// The two ways agree where the leading singular values stand out, as an update's do.
    #[test]
    fn iteration_finds_the_leading_values() {
        let (rows, cols, rank) = (560, 530, 4);
        let strong = product(&numbers(rows * rank, "b"), &numbers(rank * cols, "a"), rows, rank, cols);
        let w: Vec<f64> = strong.iter().zip(numbers(rows * cols, "noise")).map(|(s, n)| s + 0.1 * n).collect();
        let iterated = truncate(&w, rows, cols, rank).unwrap();
        let whole = MatRef::from_row_major_slice(&w, rows, cols).to_owned().thin_svd().unwrap();
        for k in 0..rank {
            let exact = whole.S().column_vector()[k];
            assert!((iterated.singular_values[k] - exact).abs() < 1e-10 * exact, "{k}");
        }
    }
}
