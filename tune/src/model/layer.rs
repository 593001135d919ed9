//! One decoder layer: norm, attention, residual, norm, gated MLP, residual; forward and backward.
//!
//! Forward keeps the residual stream before and in the middle of the layer, the rotated queries and keys, the values, the attention output, and the two
//! MLP inputs; normalised rows, the MLP's product and rotations are computed again in backward, where they cost less than the memory they would take.

use super::linear::{InputGradient, Linear, Saved as LinearSaved};
use crate::adapter::{Gradients, Pass};
use crate::ops::rope::Table;
use crate::ops::{Segments, attention, gated, heads, norm};
use crate::tensor::{Matrix, Real};

/// A decoder layer.
pub struct Layer<T: Real> {
    /// Weight of the norm before attention, `[hidden]`.
    pub attention_norm: Vec<T>,
    /// Weight of the norm before the MLP, `[hidden]`.
    pub mlp_norm: Vec<T>,
    /// Queries, keys, values, attention output, gate, up, down: the order of [`MODULES`](super::MODULES).
    pub linears: [Linear<T>; 7],
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Added to the mean square in norms.
    pub norm_eps: T,
}

/// What all layers of one pass share.
#[derive(Clone, Copy)]
pub struct Shared<'a, T: Real> {
    /// Who sees whom.
    pub segments: &'a Segments,
    /// Rotations of the tokens' positions.
    pub rope: &'a Table<T>,
    /// Workspace and random streams.
    pub pass: &'a Pass<'a, T>,
}

/// What backward needs of a layer's forward.
pub struct Saved<T: Real> {
    input: Matrix<T>,
    inner: Inner<T>,
}

/// Everything but the input, which is all that recomputation needs. `A` is what attention keeps of its own.
struct Inner<T: Real, A = Attended<T>> {
    attention_norm: norm::Saved<T>,
    q: Matrix<T>,
    k: Matrix<T>,
    v: Matrix<T>,
    attention: A,
    middle: Matrix<T>,
    mlp_norm: norm::Saved<T>,
    gate: Matrix<T>,
    up: Matrix<T>,
    linears: [LinearSaved<T>; 7],
}

/// What attention within a batch keeps: its output, head-major, and its denominators.
struct Attended<T: Real> {
    o: Matrix<T>,
    saved: attention::Saved<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        let inner = &self.inner;
        let matrices =
            [&self.input, &inner.q, &inner.k, &inner.v, &inner.attention.o, &inner.middle, &inner.gate, &inner.up];
        matrices.iter().map(|m| m.bytes()).sum::<usize>()
            + inner.attention_norm.bytes()
            + inner.mlp_norm.bytes()
            + inner.attention.saved.bytes()
            + inner.linears.iter().map(LinearSaved::bytes).sum::<usize>()
    }
}

const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

impl<T: Real> Layer<T> {
    /// Whether anything in the layer trains.
    pub fn trains(&self) -> bool {
        self.linears.iter().any(Linear::trains)
    }

    /// The residual stream after the layer, `[tokens, hidden]`, and what backward needs.
    pub fn forward(&self, input: Matrix<T>, shared: Shared<'_, T>) -> (Matrix<T>, Saved<T>) {
        let (output, inner) = self.run(&input, shared);
        (output, Saved { input, inner })
    }

    /// The residual stream after the layer; nothing is kept.
    pub fn infer(&self, input: &Matrix<T>, shared: Shared<'_, T>) -> Matrix<T> {
        self.run(input, shared).0
    }

    /// As [`Self::infer`], with the rotated keys and the values, head-major, for tokens that follow later.
    pub fn prefill(&self, input: &Matrix<T>, shared: Shared<'_, T>) -> (Matrix<T>, [Matrix<T>; 2]) {
        let (output, inner) = self.run(input, shared);
        (output, [inner.k, inner.v])
    }

    /// As [`Self::infer`] for tokens whose keys lie elsewhere: `attend` is given rotated queries, rotated keys and values, head-major, and returns the
    /// attention output, token-major.
    pub fn step(
        &self,
        input: &Matrix<T>,
        rope: &Table<T>,
        pass: &Pass<'_, T>,
        attend: impl FnOnce([&Matrix<T>; 3]) -> Matrix<T>,
    ) -> Matrix<T> {
        self.run_with(input, rope, pass, |projections| (attend(projections), ())).0
    }

    fn run(&self, input: &Matrix<T>, shared: Shared<'_, T>) -> (Matrix<T>, Inner<T>) {
        self.run_with(input, shared.rope, shared.pass, |[q, k, v]| {
            let workspace = shared.pass.workspace;
            let (o, saved) = attention::forward(q, k, v, self.layout(shared.segments), workspace);
            (heads::merge(&o, self.heads, None, workspace), Attended { o, saved })
        })
    }

    /// The layer around any attention: `attend` returns its output, token-major, and what it keeps.
    fn run_with<A>(
        &self,
        input: &Matrix<T>,
        rope: &Table<T>,
        pass: &Pass<'_, T>,
        attend: impl FnOnce([&Matrix<T>; 3]) -> (Matrix<T>, A),
    ) -> (Matrix<T>, Inner<T, A>) {
        let workspace = pass.workspace;
        let (normed, attention_norm) = norm::forward(input, &self.attention_norm, self.norm_eps, workspace);
        let (q, saved_q) = self.linears[Q].forward(&normed, pass);
        let q = heads::split(&q, self.heads, Some(rope), workspace);
        let (k, saved_k) = self.linears[K].forward(&normed, pass);
        let k = heads::split(&k, self.kv_heads, Some(rope), workspace);
        let (v, saved_v) = self.linears[V].forward(&normed, pass);
        let v = heads::split(&v, self.kv_heads, None, workspace);
        drop(normed);
        let (merged, attention) = attend([&q, &k, &v]);
        let (mut middle, saved_o) = self.linears[O].forward(&merged, pass);
        middle.add(input);
        drop(merged);
        let (normed, mlp_norm) = norm::forward(&middle, &self.mlp_norm, self.norm_eps, workspace);
        let (gate, saved_gate) = self.linears[GATE].forward(&normed, pass);
        let (up, saved_up) = self.linears[UP].forward(&normed, pass);
        drop(normed);
        let product = gated::forward(&gate, &up, workspace);
        let (mut output, saved_down) = self.linears[DOWN].forward(&product, pass);
        output.add(&middle);
        let linears = [saved_q, saved_k, saved_v, saved_o, saved_gate, saved_up, saved_down];
        (output, Inner { attention_norm, q, k, v, attention, middle, mlp_norm, gate, up, linears })
    }

    /// From the gradient of the layer's output: the adapters' gradients, and the gradient of the layer's input where something below trains.
    pub fn backward(
        &self,
        saved: Saved<T>,
        d_output: Matrix<T>,
        wanted: bool,
        shared: Shared<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let Saved { input, inner } = saved;
        self.unwind(&input, inner, d_output, wanted, shared, gradients)
    }

    /// As [`Self::backward`], with forward run again from the layer's input.
    pub fn recompute_backward(
        &self,
        input: Matrix<T>,
        d_output: Matrix<T>,
        wanted: bool,
        shared: Shared<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let (_, inner) = self.run(&input, shared);
        self.unwind(&input, inner, d_output, wanted, shared, gradients)
    }

    fn unwind(
        &self,
        input: &Matrix<T>,
        inner: Inner<T>,
        d_output: Matrix<T>,
        wanted: bool,
        shared: Shared<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let attention_trains = self.linears[Q..=O].iter().any(Linear::trains);
        let [saved_q, saved_k, saved_v, saved_o, saved_gate, saved_up, saved_down] = inner.linears;
        let mlp =
            Mlp { norm: inner.mlp_norm, gate: inner.gate, up: inner.up, linears: [saved_gate, saved_up, saved_down] };
        let d_middle =
            self.unwind_mlp(&inner.middle, mlp, d_output, wanted || attention_trains, shared.pass, gradients)?;
        let attention = Attention {
            norm: inner.attention_norm,
            q: inner.q,
            k: inner.k,
            v: inner.v,
            attention: inner.attention.saved,
            o: inner.attention.o,
            linears: [saved_q, saved_k, saved_v, saved_o],
        };
        self.unwind_attention(input, attention, d_middle, wanted, shared, gradients)
    }

    /// The MLP's half: from the gradient of the output to that of the middle, if it is wanted.
    fn unwind_mlp(
        &self,
        middle: &Matrix<T>,
        saved: Mlp<T>,
        d_output: Matrix<T>,
        wanted: bool,
        pass: &Pass<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let workspace = pass.workspace;
        let Mlp { norm: saved_norm, mut gate, mut up, linears: [saved_gate, saved_up, saved_down] } = saved;
        let [.., gate_proj, up_proj, down_proj] = &self.linears;
        let inputs_train = gate_proj.trains() || up_proj.trains();
        if !wanted && !self.linears[GATE..].iter().any(Linear::trains) {
            return None;
        }
        let product = down_proj.trains().then(|| gated::forward(&gate, &up, workspace));
        if !wanted && !inputs_train {
            let none = InputGradient::None;
            down_proj.backward(product.as_ref(), &d_output, saved_down, none, gradients, pass);
            return None;
        }
        let mut d_product = workspace.matrix(gate.rows(), gate.cols());
        let write = InputGradient::Write(&mut d_product);
        down_proj.backward(product.as_ref(), &d_output, saved_down, write, gradients, pass);
        drop(product);
        gated::backward(&d_product, &mut gate, &mut up);
        drop(d_product);
        let normed = inputs_train.then(|| norm::recompute(middle, &self.mlp_norm, &saved_norm, workspace));
        let mut d_normed = wanted.then(|| workspace.matrix(middle.rows(), middle.cols()));
        let write = d_normed.as_mut().map_or(InputGradient::None, InputGradient::Write);
        gate_proj.backward(normed.as_ref(), &gate, saved_gate, write, gradients, pass);
        let add = d_normed.as_mut().map_or(InputGradient::None, InputGradient::Add);
        up_proj.backward(normed.as_ref(), &up, saved_up, add, gradients, pass);
        let d_normed = d_normed?;
        let mut d_middle = d_output;
        norm::backward(&d_normed, middle, &self.mlp_norm, &saved_norm, &mut d_middle);
        Some(d_middle)
    }

    /// The attention's half: from the gradient of the middle to that of the input, if it is wanted.
    fn unwind_attention(
        &self,
        input: &Matrix<T>,
        saved: Attention<T>,
        d_middle: Matrix<T>,
        wanted: bool,
        shared: Shared<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let Shared { rope, pass, segments } = shared;
        let workspace = pass.workspace;
        let Attention { norm: saved_norm, q, k, v, attention, o, linears: [saved_q, saved_k, saved_v, saved_o] } =
            saved;
        let [q_proj, k_proj, v_proj, o_proj, ..] = &self.linears;
        let inputs_train = self.linears[Q..=V].iter().any(Linear::trains);
        let merged = o_proj.trains().then(|| heads::merge(&o, self.heads, None, workspace));
        if !wanted && !inputs_train {
            o_proj.backward(merged.as_ref(), &d_middle, saved_o, InputGradient::None, gradients, pass);
            return None;
        }
        let mut d_merged = workspace.matrix(input.rows(), o.cols() * self.heads);
        let write = InputGradient::Write(&mut d_merged);
        o_proj.backward(merged.as_ref(), &d_middle, saved_o, write, gradients, pass);
        drop(merged);
        let d_o = heads::split(&d_merged, self.heads, None, workspace);
        drop(d_merged);
        let [dq, dk, dv] = attention::backward(&d_o, [&q, &k, &v], &o, &attention, self.layout(segments), workspace);
        drop((q, k, v, o, d_o));
        let dq = heads::merge(&dq, self.heads, Some(rope), workspace);
        let dk = heads::merge(&dk, self.kv_heads, Some(rope), workspace);
        let dv = heads::merge(&dv, self.kv_heads, None, workspace);
        let normed = inputs_train.then(|| norm::recompute(input, &self.attention_norm, &saved_norm, workspace));
        let mut d_normed = wanted.then(|| workspace.matrix(input.rows(), input.cols()));
        let write = d_normed.as_mut().map_or(InputGradient::None, InputGradient::Write);
        q_proj.backward(normed.as_ref(), &dq, saved_q, write, gradients, pass);
        for (linear, dy, saved) in [(k_proj, &dk, saved_k), (v_proj, &dv, saved_v)] {
            let add = d_normed.as_mut().map_or(InputGradient::None, InputGradient::Add);
            linear.backward(normed.as_ref(), dy, saved, add, gradients, pass);
        }
        let d_normed = d_normed?;
        let mut d_input = d_middle;
        norm::backward(&d_normed, input, &self.attention_norm, &saved_norm, &mut d_input);
        Some(d_input)
    }

    fn layout<'a>(&self, segments: &'a Segments) -> attention::Layout<'a> {
        attention::Layout { heads: self.heads, kv_heads: self.kv_heads, segments }
    }
}

/// The MLP's share of what forward kept.
struct Mlp<T: Real> {
    norm: norm::Saved<T>,
    gate: Matrix<T>,
    up: Matrix<T>,
    linears: [LinearSaved<T>; 3],
}

/// The attention's share of what forward kept.
struct Attention<T: Real> {
    norm: norm::Saved<T>,
    q: Matrix<T>,
    k: Matrix<T>,
    v: Matrix<T>,
    attention: attention::Saved<T>,
    o: Matrix<T>,
    linears: [LinearSaved<T>; 4],
}
