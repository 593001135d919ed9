//! The attention of a layer: projections, norms of queries and keys where the family has them, rotation, attention, output; forward and backward.
//!
//! Forward keeps the rotated queries and keys, the values and the attention output; queries and keys as projected only where a norm stands between.

use super::learned::VirtualTokens;
use super::linear::{InputGradient, Linear, Saved as LinearSaved};
use super::norm::{Norm, Saved as NormSaved};
use super::residual::{Given, Input};
use super::rows::{add_at, pick};
use crate::adapter::{Gradients, Pass};
use crate::ops::Segments;
use crate::ops::attention::{self, Asking, Dropout, Layout, Rule};
use crate::ops::heads::{Groups, merge, split};
use crate::ops::rope::Table;
use crate::tensor::{Matrix, Real, Workspace};

/// The modules of a layer's attention and its shape.
pub struct Attention<T: Real> {
    /// Queries.
    pub query: Linear<T>,
    /// Keys.
    pub key: Linear<T>,
    /// Values.
    pub value: Linear<T>,
    /// Back to the residual stream.
    pub output: Linear<T>,
    /// The norm of each head's queries.
    pub query_norm: Option<Norm<T>>,
    /// The norm of each head's keys.
    pub key_norm: Option<Norm<T>>,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Scores and sight.
    pub rule: Rule,
    /// Index of the rotary table among those of the pass; models without any do not rotate.
    pub rope: usize,
    /// Index of the layer.
    pub layer: usize,
    /// Probability of dropout of attention's probabilities.
    pub dropout: f64,
}

/// What backward needs besides the input. `A` is what attention keeps of its own.
pub(super) struct Saved<T: Real, A = Attended<T>> {
    q: Matrix<T>,
    k: Matrix<T>,
    v: Matrix<T>,
    normed: [Option<Normed<T>>; 2],
    attended: A,
    linears: [LinearSaved<T>; 4],
}

/// Rows of single heads before their norm, token-major `[tokens * heads, head_dim]`.
struct Normed<T: Real> {
    x: Matrix<T>,
    saved: NormSaved<T>,
}

/// What attention within a batch keeps: its output, group-major, and its denominators.
pub(super) struct Attended<T: Real> {
    o: Matrix<T>,
    saved: attention::Saved<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub(super) fn bytes(&self) -> usize {
        let matrices = [&self.q, &self.k, &self.v, &self.attended.o];
        let normed = self.normed.iter().flatten().map(|normed| normed.x.bytes() + normed.saved.bytes());
        matrices.iter().map(|m| m.bytes()).sum::<usize>()
            + normed.sum::<usize>()
            + self.attended.saved.bytes()
            + self.linears.iter().map(LinearSaved::bytes).sum::<usize>()
    }
}

impl<T: Real, A> Saved<T, A> {
    /// The rotated keys and the values, head-major.
    pub(super) fn into_keys_and_values(self) -> [Matrix<T>; 2] {
        [self.k, self.v]
    }
}

impl<T: Real> Attention<T> {
    /// The linears in the order of the forward pass.
    pub(super) fn linears(&self) -> [&Linear<T>; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }

    /// As [`Self::linears`], to be changed.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear<T>; 4] {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output]
    }

    /// The norms of queries and keys.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm<T>> {
        self.query_norm.iter().chain(&self.key_norm)
    }

    /// Whether anything here trains.
    pub(super) fn trains(&self) -> bool {
        self.linears().into_iter().any(Linear::trains) || self.norms().any(|norm| norm.unfrozen.is_some())
    }

    /// Attention within a batch, of the tokens `rows` alone where they are given: the output for rows `x`, and what backward needs.
    pub(super) fn forward(
        &self,
        x: Given<'_, T>,
        rows: Option<&[usize]>,
        segments: &Segments,
        ropes: &[Table<T>],
        learned: Option<&VirtualTokens<T>>,
        pass: &Pass<'_, T>,
    ) -> (Matrix<T>, Saved<T>) {
        let asking = Asking { segments, tokens: rows };
        self.forward_with(x, rows, ropes, learned, pass, |[q, k, v]| {
            let (o, saved) = self
                .dropping(pass, |dropout| attention::forward(q, k, v, self.layout(asking, dropout), pass.workspace));
            (merge(&o, self.groups(), None, pass.workspace), Attended { o, saved })
        })
    }

    /// As [`Self::forward`] around any attention: `attend` is given rotated queries, group-major, rotated keys and values, head-major, behind them those of
    /// virtual tokens, and returns the attention output, token-major, and what it keeps.
    pub(super) fn forward_with<A>(
        &self,
        x: Given<'_, T>,
        rows: Option<&[usize]>,
        ropes: &[Table<T>],
        learned: Option<&VirtualTokens<T>>,
        pass: &Pass<'_, T>,
        attend: impl FnOnce([&Matrix<T>; 3]) -> (Matrix<T>, A),
    ) -> (Matrix<T>, Saved<T, A>) {
        let (workspace, rope) = (pass.workspace, ropes.get(self.rope));
        let [(q, saved_q), (k, saved_k), (v, saved_v)] = self.project(&x, rows, pass);
        drop(x);
        let (q, normed_q) = norm_heads(q, self.query_norm.as_ref(), self.heads, workspace);
        let picked = picked_rope(rope, rows, workspace);
        let q = split(&q, self.groups(), picked.as_ref().or(rope), workspace);
        drop(picked);
        let (k, normed_k) = norm_heads(k, self.key_norm.as_ref(), self.kv_heads, workspace);
        let k = split(&k, self.groups().of_keys(), rope, workspace);
        let v = split(&v, self.groups().of_keys(), None, workspace);
        let [k, v] = match learned {
            None => [k, v],
            Some(learned) => learned.append(self.layer, [k, v], self.kv_heads, workspace),
        };
        let (merged, attended) = attend([&q, &k, &v]);
        let (y, saved_o) = self.output.forward(&merged, pass);
        let linears = [saved_q, saved_k, saved_v, saved_o];
        (y, Saved { q, k, v, normed: [normed_q, normed_k], attended, linears })
    }

    /// Queries of the rows `rows` of `x`, or of all, and all keys and values, before rotation.
    fn project(&self, x: &Matrix<T>, rows: Option<&[usize]>, pass: &Pass<'_, T>) -> [(Matrix<T>, LinearSaved<T>); 3] {
        let Some(rows) = rows else { return Linear::forward_each([&self.query, &self.key, &self.value], x, pass) };
        let queries = self.query.forward(&pick(x, rows, pass), pass);
        let [keys, values] = Linear::forward_each([&self.key, &self.value], x, pass);
        [queries, keys, values]
    }

    /// From the gradient `dy` of the output: the gradients of what trains, and the input's where it is wanted. `rows` are those of forward.
    pub(super) fn backward(
        &self,
        dy: &Matrix<T>,
        input: Input<'_, T>,
        rows: Option<&[usize]>,
        saved: Saved<T>,
        wanted: bool,
        segments: &Segments,
        ropes: &[Table<T>],
        learned: Option<&VirtualTokens<T>>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> Option<Matrix<T>> {
        let (workspace, rope) = (pass.workspace, ropes.get(self.rope));
        let Saved { q, k, v, normed: [normed_q, normed_k], attended, linears: [saved_q, saved_k, saved_v, saved_o] } =
            saved;
        let Attended { o, saved: attended } = attended;
        let inputs_train = [&self.query, &self.key, &self.value].into_iter().any(Linear::trains);
        let norms_train = self.norms().any(|norm| norm.unfrozen.is_some());
        let merged = self.output.trains().then(|| merge(&o, self.groups(), None, workspace));
        if !wanted && !inputs_train && !norms_train && learned.is_none() {
            self.output.backward(merged.as_ref(), dy, saved_o, InputGradient::None, gradients, pass);
            return None;
        }
        let mut d_merged = workspace.matrix(dy.rows(), o.cols() * self.heads);
        let write = InputGradient::Write(&mut d_merged);
        self.output.backward(merged.as_ref(), dy, saved_o, write, gradients, pass);
        drop(merged);
        let d_o = split(&d_merged, self.groups(), None, workspace);
        drop(d_merged);
        let asking = Asking { segments, tokens: rows };
        let [dq, dk, dv] = self.dropping(pass, |dropout| {
            attention::backward(&d_o, [&q, &k, &v], &o, &attended, self.layout(asking, dropout), workspace)
        });
        drop((q, k, v, o, d_o));
        let [dk, dv] = match learned {
            None => [dk, dv],
            Some(learned) => learned.take_gradient(self.layer, [dk, dv], self.kv_heads, workspace),
        };
        let picked = picked_rope(rope, rows, workspace);
        let dq = merge(&dq, self.groups(), picked.as_ref().or(rope), workspace);
        drop(picked);
        let dk = merge(&dk, self.groups().of_keys(), rope, workspace);
        let dv = merge(&dv, self.groups().of_keys(), None, workspace);
        let dq = unnorm_heads(dq, self.query_norm.as_ref(), normed_q, gradients, workspace);
        let dk = unnorm_heads(dk, self.key_norm.as_ref(), normed_k, gradients, workspace);
        if !wanted && !inputs_train {
            return None;
        }
        let x = inputs_train.then(|| input.get());
        let mut dx = wanted.then(|| workspace.matrix(segments.tokens(), self.query.site().d_in));
        let write = dx.as_mut().map_or(InputGradient::None, InputGradient::Write);
        self.key.backward(x.as_deref(), &dk, saved_k, write, gradients, pass);
        let add = dx.as_mut().map_or(InputGradient::None, InputGradient::Add);
        self.value.backward(x.as_deref(), &dv, saved_v, add, gradients, pass);
        let Some(rows) = rows else {
            let add = dx.as_mut().map_or(InputGradient::None, InputGradient::Add);
            self.query.backward(x.as_deref(), &dq, saved_q, add, gradients, pass);
            return dx;
        };
        let x = x.map(|x| pick(&x, rows, pass));
        let mut dx_rows = wanted.then(|| workspace.matrix(rows.len(), self.query.site().d_in));
        let write = dx_rows.as_mut().map_or(InputGradient::None, InputGradient::Write);
        self.query.backward(x.as_ref(), &dq, saved_q, write, gradients, pass);
        if let (Some(dx), Some(dx_rows)) = (&mut dx, &dx_rows) {
            add_at(dx, dx_rows, rows);
        }
        dx
    }

    /// Calls `work` with the dropout of this pass, whose streams are named by the layer's value projection.
    fn dropping<R>(&self, pass: &Pass<'_, T>, work: impl FnOnce(Option<Dropout<'_>>) -> R) -> R {
        let Some(draw) = pass.draw.filter(|_| self.dropout > 0.0) else { return work(None) };
        let owner = &self.value.site().name;
        let stream = |group: usize, token: usize| draw.dropout(&format!("{owner}/probabilities/{group}/{token}"));
        work(Some(Dropout { p: self.dropout, stream: &stream }))
    }

    /// The query heads.
    pub(super) fn groups(&self) -> Groups {
        Groups::of_queries(self.heads, self.kv_heads)
    }

    fn layout<'a>(&self, asking: Asking<'a>, dropout: Option<Dropout<'a>>) -> Layout<'a> {
        Layout { groups: self.groups(), rule: self.rule, asking, dropout }
    }
}

/// The rotations of the tokens that ask, where those are not all.
fn picked_rope<T: Real>(rope: Option<&Table<T>>, rows: Option<&[usize]>, workspace: &Workspace<T>) -> Option<Table<T>> {
    rope.zip(rows).map(|(rope, rows)| rope.pick(rows, workspace))
}

/// Normalises each head's row of `x [tokens, heads * head_dim]`, where there is a norm.
fn norm_heads<T: Real>(
    x: Matrix<T>,
    norm: Option<&Norm<T>>,
    heads: usize,
    workspace: &Workspace<T>,
) -> (Matrix<T>, Option<Normed<T>>) {
    let Some(norm) = norm else { return (x, None) };
    let (tokens, cols) = (x.rows(), x.cols());
    let x = x.reshaped(tokens * heads, cols / heads);
    let (y, saved) = norm.forward(&x, workspace);
    (y.reshaped(tokens, cols), Some(Normed { x, saved }))
}

/// From the gradient of [`norm_heads`]' result to that of its input, and the norm's own.
fn unnorm_heads<T: Real>(
    dy: Matrix<T>,
    norm: Option<&Norm<T>>,
    normed: Option<Normed<T>>,
    gradients: &mut Gradients<T>,
    workspace: &Workspace<T>,
) -> Matrix<T> {
    let (Some(norm), Some(Normed { x, saved })) = (norm, normed) else { return dy };
    let (rows, cols) = (dy.rows(), dy.cols());
    let dy = dy.reshaped(x.rows(), x.cols());
    let zeros = workspace.zeros(x.rows(), x.cols());
    let dx = norm.backward(&dy, &x, &saved, zeros, true, gradients);
    dx.expect("an input gradient that was asked for").reshaped(rows, cols)
}
