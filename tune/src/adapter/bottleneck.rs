//! A bottleneck: `f(x) = s up(act(down(x)))`, what series and parallel adapters and the tensor-train ones share.
//!
//! `h = x D + c`, `y += s (act(h) U + e)` with `D [width_in, b]`, `U [b, width_out]`, biases where there are any. The matrices come as views, so that they may
//! be stored either way round, or be contracted from something smaller; what becomes of their gradients is left to the caller.

use super::{Place, Saved, Site};
use crate::ops::{Activation, activation};
use crate::tensor::{MatRef, Matrix, Real, Workspace, matmul};

/// Where a bottleneck in series with a linear stands, and the width there: on the stream's side of it.
pub(super) fn place(site: &Site) -> (Place, usize) {
    if site.writes_residual() { (Place::Output, site.d_out) } else { (Place::Input, site.d_in) }
}

/// The two matrices as they are applied, and what stands around them.
pub(super) struct Bottleneck<'a, T> {
    /// `[width_in, b]`.
    pub(super) down: MatRef<'a, T>,
    /// `[b]`, or empty.
    pub(super) down_bias: &'a [T],
    /// `[b, width_out]`.
    pub(super) up: MatRef<'a, T>,
    /// `[width_out]`, or empty.
    pub(super) up_bias: &'a [T],
    /// The non-linearity.
    pub(super) activation: Activation,
    /// The factor s.
    pub(super) scale: T,
}

/// What the gradients of the matrices are made of: `dD = x^T dh`, `dU = s a^T dy`.
pub(super) struct Inner<T: Real> {
    /// `act(h)`, `[n, b]`.
    pub(super) a: Matrix<T>,
    /// Gradient of h, `[n, b]`.
    pub(super) dh: Matrix<T>,
}

impl<T: Real> Bottleneck<'_, T> {
    /// Adds `f(x)` to `y`; keeps h. `b` is the bottleneck's width.
    pub(super) fn forward(&self, b: usize, x: &Matrix<T>, y: &mut Matrix<T>, workspace: &Workspace<T>) -> Saved<T> {
        let mut h = workspace.matrix(x.rows(), b);
        matmul(h.view_mut(), false, x.view(), self.down, T::ONE);
        add_row(&mut h, self.down_bias, T::ONE);
        let a = activation::forward(&h, self.activation, workspace);
        matmul(y.view_mut(), true, a.view(), self.up, self.scale);
        add_row(y, self.up_bias, self.scale);
        Saved(vec![h])
    }

    /// From `dy` and forward's h: what the gradients need, and the input's where it is wanted.
    pub(super) fn backward(
        &self,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        workspace: &Workspace<T>,
    ) -> Inner<T> {
        let h = saved.0.into_iter().next().expect("forward keeps one matrix");
        let a = activation::forward(&h, self.activation, workspace);
        let mut da = workspace.matrix(h.rows(), h.cols());
        matmul(da.view_mut(), false, dy.view(), self.up.t(), self.scale);
        let mut dh = h;
        activation::backward(&da, &mut dh, self.activation);
        if let Some(dx) = dx {
            matmul(dx.view_mut(), true, dh.view(), self.down.t(), T::ONE);
        }
        Inner { a, dh }
    }
}

/// Adds `scale bias` to every row; an empty bias is none.
fn add_row<T: Real>(matrix: &mut Matrix<T>, bias: &[T], scale: T) {
    if bias.is_empty() {
        return;
    }
    for row in matrix.data_mut().chunks_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, &b)| *y += scale * b);
    }
}

/// Adds `scale` times the column sums of `dy` to `gradient`: a bias's gradient.
pub(super) fn bias_gradient<T: Real>(dy: &Matrix<T>, scale: T, gradient: &mut [T]) {
    if gradient.is_empty() {
        return;
    }
    for row in dy.data().chunks(gradient.len()) {
        gradient.iter_mut().zip(row).for_each(|(sum, &d)| *sum += scale * d);
    }
}
