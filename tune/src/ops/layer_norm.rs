//! Layer norm: `y = w (x - mean(x)) / sqrt(var(x) + eps) + b`, row by row, with the variance over the whole row.
//!
//! Forward keeps two numbers a row, the mean and the inverse root; the normalised rows are computed again where backward needs them.

use rayon::prelude::*;

use crate::tensor::{Buffer, Matrix, Real, Workspace};

/// Rows handled by one parallel task.
const ROWS: usize = 16;

/// Mean and `1 / sqrt(var + eps)` of each row, `[rows, 2]`: what forward saves.
pub struct Saved<T: Real> {
    moments: Buffer<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        self.moments.len() * size_of::<T>()
    }

    fn of(&self, row: usize) -> (T, T) {
        (self.moments[2 * row], self.moments[2 * row + 1])
    }
}

/// Normalises each row of `x [n, d]`, scales it by `weight [d]` and shifts it by `bias [d]`.
pub fn forward<T: Real>(
    x: &Matrix<T>,
    weight: &[T],
    bias: &[T],
    eps: T,
    workspace: &Workspace<T>,
) -> (Matrix<T>, Saved<T>) {
    let mut moments = workspace.buffer(2 * x.rows());
    let count = T::from_f64(x.cols() as f64);
    for row in 0..x.rows() {
        let mut sum = T::ZERO;
        for &v in x.row(row) {
            sum += v;
        }
        let mean = sum / count;
        let mut squares = T::ZERO;
        for &v in x.row(row) {
            squares += (v - mean) * (v - mean);
        }
        moments[2 * row] = mean;
        moments[2 * row + 1] = T::ONE / (squares / count + eps).sqrt();
    }
    let saved = Saved { moments };
    let y = recompute(x, weight, bias, &saved, workspace);
    (y, saved)
}

/// The output of [`forward`] again, from its input and what it saved.
pub fn recompute<T: Real>(
    x: &Matrix<T>,
    weight: &[T],
    bias: &[T],
    saved: &Saved<T>,
    workspace: &Workspace<T>,
) -> Matrix<T> {
    let cols = x.cols();
    let mut y = workspace.matrix(x.rows(), cols);
    y.data_mut().par_chunks_mut(ROWS * cols).enumerate().for_each(|(index, rows)| {
        for (place, out) in rows.chunks_mut(cols).enumerate() {
            let row = index * ROWS + place;
            let ((mean, r), x) = (saved.of(row), x.row(row));
            for i in 0..cols {
                out[i] = weight[i] * ((x[i] - mean) * r) + bias[i];
            }
        }
    });
    y
}

/// Adds to `dx` the gradient with respect to `x`.
///
/// With r the inverse root, n the normalised row and g = w dy: `dx = r (g - mean(g) - n mean(g n))`.
pub fn backward<T: Real>(dy: &Matrix<T>, x: &Matrix<T>, weight: &[T], saved: &Saved<T>, dx: &mut Matrix<T>) {
    let cols = x.cols();
    let count = T::from_f64(cols as f64);
    dx.data_mut().par_chunks_mut(ROWS * cols).enumerate().for_each(|(index, rows)| {
        for (place, dx) in rows.chunks_mut(cols).enumerate() {
            let row = index * ROWS + place;
            let ((mean, r), x, dy) = (saved.of(row), x.row(row), dy.row(row));
            let (mut sum, mut along) = (T::ZERO, T::ZERO);
            for i in 0..cols {
                let g = weight[i] * dy[i];
                sum += g;
                along += g * ((x[i] - mean) * r);
            }
            let (sum, along) = (sum / count, along / count);
            for i in 0..cols {
                dx[i] += r * (weight[i] * dy[i] - sum - (x[i] - mean) * r * along);
            }
        }
    });
}

/// Adds to `gradient [2 d]` that of the weight, then that of the bias: `dw_i += sum_rows dy_i n_i`, `db_i += sum_rows dy_i`. Columns are split over
/// threads, rows are added in their order.
pub fn parameter_gradient<T: Real>(dy: &Matrix<T>, x: &Matrix<T>, saved: &Saved<T>, gradient: &mut [T]) {
    let (weight, bias) = gradient.split_at_mut(x.cols());
    let chunks = weight.par_chunks_mut(64).zip(bias.par_chunks_mut(64));
    chunks.enumerate().for_each(|(chunk, (weight, bias))| {
        let from = chunk * 64;
        for row in 0..x.rows() {
            let ((mean, r), x, dy) = (saved.of(row), &x.row(row)[from..], &dy.row(row)[from..]);
            for i in 0..weight.len() {
                weight[i] += dy[i] * ((x[i] - mean) * r);
                bias[i] += dy[i];
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(2).unwrap();
        let (rows, cols) = (19, 6);
        let (values, weight, bias) = (numbers(rows * cols, "x"), numbers(cols, "w"), numbers(cols, "b"));
        let matrix = |values: &[f64]| {
            let mut x = workspace.matrix(rows, cols);
            x.copy_from(values);
            x
        };
        let (x, dy) = (matrix(&values), matrix(&numbers(rows * cols, "dy")));
        let (_, saved) = forward(&x, &weight, &bias, 1e-3, &workspace);
        let mut dx = workspace.zeros(rows, cols);
        backward(&dy, &x, &weight, &saved, &mut dx);
        let value = |x: &Matrix<f64>, w: &[f64], b: &[f64]| dot(forward(x, w, b, 1e-3, &workspace).0.data(), dy.data());
        check("dx", &values, dx.data(), |values| value(&matrix(values), &weight, &bias));
        let mut gradient = vec![0.0; 2 * cols];
        parameter_gradient(&dy, &x, &saved, &mut gradient);
        check("dw", &weight, &gradient[..cols], |weight| value(&x, weight, &bias));
        check("db", &bias, &gradient[cols..], |bias| value(&x, &weight, bias));
    }

    #[test]
    fn rows_have_mean_zero_and_variance_one_before_they_are_scaled() {
        let workspace = Workspace::new(1).unwrap();
        let mut x = workspace.matrix(3, 50);
        x.copy_from(&numbers(150, "x").iter().map(|v| 1000.0 + 3.0 * v).collect::<Vec<f64>>());
        let (y, _) = forward(&x, &[1.0; 50], &[0.0; 50], 0.0, &workspace);
        for row in 0..3 {
            let (mean, square) = (y.row(row).iter().sum::<f64>() / 50.0, dot(y.row(row), y.row(row)) / 50.0);
            assert!(mean.abs() < 1e-12 && (square - 1.0).abs() < 1e-12);
        }
    }
}
