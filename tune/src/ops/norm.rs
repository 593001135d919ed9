//! Root-mean-square norm: `y = (offset + w) x / sqrt(mean(x^2) + eps)`, row by row; the offset is 0, or 1 in models that store their weights around 0.
//!
//! Forward keeps one number a row, the inverse root; the normalised rows are computed again where backward needs them, which costs less than reading
//! them back from memory. The weight's gradient is asked for only where the norm trains.

use rayon::prelude::*;

use crate::tensor::vector::{self, widest};
use crate::tensor::{Buffer, Matrix, Real, Workspace};

/// Rows handled by one parallel task.
const ROWS: usize = 16;

/// `1 / sqrt(mean(x^2) + eps)` of each row: what forward saves.
pub struct Saved<T: Real> {
    inverse_root: Buffer<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        self.inverse_root.len() * size_of::<T>()
    }
}

/// The numbers of a norm.
#[derive(Clone, Copy)]
pub struct Scale<'a, T> {
    /// Factors of the columns, `[d]`.
    pub weight: &'a [T],
    /// Added to each of them.
    pub offset: T,
}

/// Normalises each row of `x [n, d]` and scales it.
pub fn forward<T: Real>(x: &Matrix<T>, scale: Scale<'_, T>, eps: T, workspace: &Workspace<T>) -> (Matrix<T>, Saved<T>) {
    let mut inverse_root = workspace.buffer(x.rows());
    let count = T::from_f64(x.cols() as f64);
    let root = |(row, r): (usize, &mut T)| *r = T::ONE / (vector::dot(x.row(row), x.row(row)) / count + eps).sqrt();
    inverse_root.par_iter_mut().enumerate().with_min_len(ROWS).for_each(root);
    let saved = Saved { inverse_root };
    let y = recompute(x, scale, &saved, workspace);
    (y, saved)
}

/// The output of [`forward`] again, from its input and what it saved.
pub fn recompute<T: Real>(x: &Matrix<T>, scale: Scale<'_, T>, saved: &Saved<T>, workspace: &Workspace<T>) -> Matrix<T> {
    let (cols, Scale { weight, offset }) = (x.cols(), scale);
    let mut y = workspace.matrix(x.rows(), cols);
    let task = |(index, out): (usize, &mut [T])| {
        for (place, out) in out.chunks_mut(cols).enumerate() {
            let row = index * ROWS + place;
            normalise(out, x.row(row), weight, offset, saved.inverse_root[row]);
        }
    };
    y.data_mut().par_chunks_mut(ROWS * cols).enumerate().for_each(task);
    y
}

/// Adds to `dx` the gradient with respect to `x`.
///
/// With r the inverse root and g = (offset + w) dy: `dx = r g - x r^3 mean(g x)`.
pub fn backward<T: Real>(dy: &Matrix<T>, x: &Matrix<T>, scale: Scale<'_, T>, saved: &Saved<T>, dx: &mut Matrix<T>) {
    let (cols, Scale { weight, offset }) = (x.cols(), scale);
    let task = |(index, dx): (usize, &mut [T])| {
        for (place, dx) in dx.chunks_mut(cols).enumerate() {
            let row = index * ROWS + place;
            add_gradient(dx, x.row(row), dy.row(row), weight, offset, saved.inverse_root[row]);
        }
    };
    dx.data_mut().par_chunks_mut(ROWS * cols).enumerate().for_each(task);
}

widest! {
    /// One row, normalised by r and scaled.
    fn normalise<T: Real>(out: &mut [T], x: &[T], weight: &[T], offset: T, r: T) {
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = (offset + w) * (x * r);
        }
    }

    /// Adds the gradient of one row.
    fn add_gradient<T: Real>(dx: &mut [T], x: &[T], dy: &[T], weight: &[T], offset: T, r: T) {
        let cols = dx.len();
        let (x, dy, weight) = (&x[..cols], &dy[..cols], &weight[..cols]);
        let along = vector::sum(cols, |i| (offset + weight[i]) * dy[i] * x[i]);
        let along = r * r * r * (along / T::from_f64(cols as f64));
        for i in 0..cols {
            dx[i] += r * ((offset + weight[i]) * dy[i]) - x[i] * along;
        }
    }
}

/// Adds to `gradient [d]` that of the weight: `dw_i += sum_rows dy_i x_i r`. Columns are split over threads, rows are added in their order.
pub fn weight_gradient<T: Real>(dy: &Matrix<T>, x: &Matrix<T>, saved: &Saved<T>, gradient: &mut [T]) {
    gradient.par_chunks_mut(64).enumerate().for_each(|(chunk, gradient)| {
        let from = chunk * 64;
        for row in 0..x.rows() {
            let (x, dy, r) = (&x.row(row)[from..], &dy.row(row)[from..], saved.inverse_root[row]);
            for ((gradient, &dy), &x) in gradient.iter_mut().zip(dy).zip(x) {
                *gradient += dy * (x * r);
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
        let (values, weight, dy) = (numbers(rows * cols, "x"), numbers(cols, "w"), numbers(rows * cols, "dy"));
        let scale = Scale { weight: &weight, offset: 0.5 };
        let run = |values: &[f64]| {
            let mut x = workspace.matrix(rows, cols);
            x.copy_from(values);
            let (y, saved) = forward(&x, scale, 1e-3, &workspace);
            (x, y, saved)
        };
        let (x, _, saved) = run(&values);
        let mut grad = workspace.matrix(rows, cols);
        grad.copy_from(&dy);
        let mut dx = workspace.zeros(rows, cols);
        backward(&grad, &x, scale, &saved, &mut dx);
        check("norm dx", &values, dx.data(), |values| dot(run(values).1.data(), &dy));
        let mut dw = vec![0.0; cols];
        weight_gradient(&grad, &x, &saved, &mut dw);
        check("norm dw", &weight, &dw, |weight| {
            dot(forward(&x, Scale { weight, ..scale }, 1e-3, &workspace).0.data(), &dy)
        });
    }
}
