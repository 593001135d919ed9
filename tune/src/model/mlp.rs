//! The MLP of a layer, `down(f(gate(x)) * up(x))`, or `down(f(up(x)))` in families without a gate: forward and backward.
//!
//! Forward keeps the outputs of the first linears; what is made of them is computed again in backward.

use super::linear::{InputGradient, Linear, Saved as LinearSaved};
use super::residual::{Given, Input};
use crate::adapter::{Gradients, Pass};
use crate::ops::{Activation, activation, gated};
use crate::tensor::{Matrix, Real, Workspace};

/// The linears of an MLP.
pub struct Mlp<T: Real> {
    /// What the activation is applied to, where there is a gate.
    pub gate: Option<Linear<T>>,
    /// What the gate is multiplied by; without a gate, what the activation is applied to.
    pub up: Linear<T>,
    /// Back to the residual stream.
    pub down: Linear<T>,
    /// The non-linearity.
    pub activation: Activation,
}

/// What backward needs besides the input.
pub(super) struct Saved<T: Real> {
    gate: Option<(Matrix<T>, LinearSaved<T>)>,
    up: (Matrix<T>, LinearSaved<T>),
    down: LinearSaved<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        let first = self.gate.iter().chain([&self.up]);
        first.map(|(rows, saved)| rows.bytes() + saved.bytes()).sum::<usize>() + self.down.bytes()
    }
}

impl<T: Real> Mlp<T> {
    /// The linears in the order of the forward pass.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear<T>> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    /// As [`Self::linears`], to be changed.
    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<T>> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }

    /// Whether anything here trains.
    pub(super) fn trains(&self) -> bool {
        self.linears().any(Linear::trains)
    }

    /// The output for rows `x`, and what backward needs.
    pub(super) fn forward(&self, x: Given<'_, T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let (gate, up) = match &self.gate {
            Some(gate) => {
                let [gate, up] = Linear::forward_each([gate, &self.up], &x, pass);
                (Some(gate), up)
            }
            None => (None, self.up.forward(&x, pass)),
        };
        drop(x);
        let workspace = pass.workspace;
        let (y, down) = match &gate {
            Some((gate, _)) if self.down.takes_rounded(up.0.rows(), workspace) => {
                let inner = gated::forward_rounded(gate, &up.0, self.activation, workspace);
                (self.down.forward_rounded(&inner, workspace), LinearSaved::default())
            }
            gate => {
                let inner = self.inner(gate.as_ref().map(|(gate, _)| gate), &up.0, workspace);
                self.down.forward(&inner, pass)
            }
        };
        (y, Saved { gate, up, down })
    }

    /// What `down` reads.
    fn inner(&self, gate: Option<&Matrix<T>>, up: &Matrix<T>, workspace: &Workspace<T>) -> Matrix<T> {
        match gate {
            Some(gate) => gated::forward(gate, up, self.activation, workspace),
            None => activation::forward(up, self.activation, workspace),
        }
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
        let Saved { mut gate, up: (mut up, saved_up), down } = saved;
        let inputs_train = self.gate.iter().chain([&self.up]).any(Linear::trains);
        let inner = self.down.trains().then(|| self.inner(gate.as_ref().map(|(gate, _)| gate), &up, workspace));
        if !wanted && !inputs_train {
            self.down.backward(inner.as_ref(), dy, down, InputGradient::None, gradients, pass);
            return None;
        }
        let mut d_inner = workspace.matrix(up.rows(), up.cols());
        let write = InputGradient::Write(&mut d_inner);
        self.down.backward(inner.as_ref(), dy, down, write, gradients, pass);
        drop(inner);
        if let Some(linear) = &self.gate
            && [linear, &self.up].iter().all(|linear| linear.takes_rounded(up.rows(), workspace))
            && let Some((gate, _)) = gate.take()
        {
            let [d_gate, d_up] = gated::backward_rounded(&d_inner, gate, up, self.activation);
            drop(d_inner);
            let mut dx = workspace.matrix(dy.rows(), self.up.site().d_in);
            linear.backward_rounded(&d_gate, InputGradient::Write(&mut dx), workspace);
            self.up.backward_rounded(&d_up, InputGradient::Add(&mut dx), workspace);
            return Some(dx);
        }
        match &mut gate {
            Some((gate, _)) => gated::backward(&d_inner, gate, &mut up, self.activation),
            None => activation::backward(&d_inner, &mut up, self.activation),
        }
        drop(d_inner);
        let x = inputs_train.then(|| input.get());
        let mut dx = wanted.then(|| workspace.matrix(dy.rows(), self.up.site().d_in));
        let gated = gate.is_some();
        if let (Some(linear), Some((d_gate, saved))) = (&self.gate, gate) {
            let write = dx.as_mut().map_or(InputGradient::None, InputGradient::Write);
            linear.backward(x.as_deref(), &d_gate, saved, write, gradients, pass);
        }
        let up_gradient = match &mut dx {
            None => InputGradient::None,
            Some(dx) if gated => InputGradient::Add(dx),
            Some(dx) => InputGradient::Write(dx),
        };
        self.up.backward(x.as_deref(), &up, saved_up, up_gradient, gradients, pass);
        dx
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::adapter::Site;
    use crate::model::residual::Residual;
    use crate::ops::difference::numbers;
    use crate::ops::{Storage, Weight};
    use crate::tensor::Bf16Products;

    fn linear(name: &str, d_out: usize, d_in: usize) -> Linear<f32> {
        let stored: Vec<bf16> = numbers(d_out * d_in, name).into_iter().map(bf16::from_f64).collect();
        let bias = numbers(d_out, "bias").into_iter().map(|b| b as f32).collect();
        Linear::new(
            Site::linear(name, 0, d_out, d_in),
            Weight::new(Storage::Bf16(stored.into()), d_out, d_in),
            Some(bias),
        )
    }

    #[test]
    fn rows_rounded_where_they_are_made_change_no_bit() {
        let Some(products) = Bf16Products::Widened.rounded() else { return };
        let workspace = Workspace::<f32>::new(2).unwrap().with_bf16_products(products);
        let (rows, hidden, inner) = (45, 40, 70);
        let matrix = |name: &str| {
            let mut matrix = workspace.matrix(rows, hidden);
            let values = numbers(rows * hidden, name);
            matrix.data_mut().iter_mut().zip(values).for_each(|(to, value)| *to = value as f32);
            matrix
        };
        let (gate, up, down) =
            (linear("gate", inner, hidden), linear("up", inner, hidden), linear("down", hidden, inner));
        assert!([&gate, &up, &down].iter().all(|linear| linear.takes_rounded(rows, &workspace)));
        let mlp = Mlp { gate: Some(gate), up, down, activation: Activation::Silu };
        let residual = Residual { input: None, output: None, sum: None, dropout: 0.0, owner: String::new() };
        let (pass, mut gradients) = (Pass { workspace: &workspace, draw: None }, Gradients::default());
        let x = matrix("x");
        let (y, saved, kept) = residual.forward(&x, None, &pass, |x| mlp.forward(x, &pass));
        let body = |dy: &Matrix<f32>, x: Input<'_, f32>, wanted, gradients: &mut Gradients<f32>| {
            mlp.backward(dy, x, kept, wanted, gradients, &pass)
        };
        let dx = residual.backward(&x, None, saved, matrix("dy"), true, false, &pass, &mut gradients, body);

        // the same of products that round their rows themselves
        let Mlp { gate: Some(gate), up, down, activation } = &mlp else { unreachable!() };
        let ((mut g, g_saved), (mut u, u_saved)) = (gate.forward(&x, &pass), up.forward(&x, &pass));
        let (mut expected, d_saved) = down.forward(&gated::forward(&g, &u, *activation, &workspace), &pass);
        expected.add(&x);
        assert_eq!(y.data(), expected.data());
        let (mut d_inner, mut expected) = (workspace.matrix(rows, inner), workspace.matrix(rows, hidden));
        down.backward(None, &matrix("dy"), d_saved, InputGradient::Write(&mut d_inner), &mut gradients, &pass);
        gated::backward(&d_inner, &mut g, &mut u, *activation);
        gate.backward(None, &g, g_saved, InputGradient::Write(&mut expected), &mut gradients, &pass);
        up.backward(None, &u, u_saved, InputGradient::Add(&mut expected), &mut gradients, &pass);
        expected.add(&matrix("dy"));
        assert_eq!(dx.expect("the gradient was wanted").data(), expected.data());
    }
}
