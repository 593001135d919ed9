//! The MLP of a layer, `down(f(gate(x)) * up(x))`: forward and backward.
//!
//! Forward keeps the outputs of the first linears; their product is computed again in backward.

use super::linear::{InputGradient, Linear, Saved as LinearSaved};
use super::residual::{Given, Input};
use crate::adapter::{Gradients, Pass};
use crate::ops::{Activation, gated};
use crate::tensor::{Matrix, Real};

/// The linears of an MLP.
pub struct Mlp<T: Real> {
    /// What the activation is applied to.
    pub gate: Linear<T>,
    /// What it is multiplied by.
    pub up: Linear<T>,
    /// Back to the residual stream.
    pub down: Linear<T>,
    /// The non-linearity.
    pub activation: Activation,
}

/// What backward needs besides the input.
pub(super) struct Saved<T: Real> {
    gate: Matrix<T>,
    up: Matrix<T>,
    linears: [LinearSaved<T>; 3],
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.bytes() + self.linears.iter().map(LinearSaved::bytes).sum::<usize>()
    }
}

impl<T: Real> Mlp<T> {
    /// The linears in the order of the forward pass.
    pub(super) fn linears(&self) -> [&Linear<T>; 3] {
        [&self.gate, &self.up, &self.down]
    }

    /// As [`Self::linears`], to be changed.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear<T>; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }

    /// Whether anything here trains.
    pub(super) fn trains(&self) -> bool {
        self.linears().into_iter().any(Linear::trains)
    }

    /// The output for rows `x`, and what backward needs.
    pub(super) fn forward(&self, x: Given<'_, T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let (gate, saved_gate) = self.gate.forward(&x, pass);
        let (up, saved_up) = self.up.forward(&x, pass);
        drop(x);
        let product = gated::forward(&gate, &up, self.activation, pass.workspace);
        let (y, saved_down) = self.down.forward(&product, pass);
        (y, Saved { gate, up, linears: [saved_gate, saved_up, saved_down] })
    }

    /// From the gradient `dy` of the output: the adapters' gradients, and the input's where it is wanted.
    pub(super) fn backward(
        &self,
        dy: &Matrix<T>,
        input: Input<'_, T>,
        saved: Saved<T>,
        wanted: bool,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> Option<Matrix<T>> {
        let workspace = pass.workspace;
        let Saved { mut gate, mut up, linears: [saved_gate, saved_up, saved_down] } = saved;
        let inputs_train = self.gate.trains() || self.up.trains();
        let product = self.down.trains().then(|| gated::forward(&gate, &up, self.activation, workspace));
        if !wanted && !inputs_train {
            self.down.backward(product.as_ref(), dy, saved_down, InputGradient::None, gradients, pass);
            return None;
        }
        let mut d_product = workspace.matrix(gate.rows(), gate.cols());
        let write = InputGradient::Write(&mut d_product);
        self.down.backward(product.as_ref(), dy, saved_down, write, gradients, pass);
        drop(product);
        gated::backward(&d_product, &mut gate, &mut up, self.activation);
        drop(d_product);
        let x = inputs_train.then(|| input.get());
        let mut dx = wanted.then(|| workspace.matrix(dy.rows(), self.up.site().d_in));
        let write = dx.as_mut().map_or(InputGradient::None, InputGradient::Write);
        self.gate.backward(x.as_deref(), &gate, saved_gate, write, gradients, pass);
        let add = dx.as_mut().map_or(InputGradient::None, InputGradient::Add);
        self.up.backward(x.as_deref(), &up, saved_up, add, gradients, pass);
        dx
    }
}
