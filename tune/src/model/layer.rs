//! One layer: a residual step around attention, a residual step around the MLP; forward and backward.
//!
//! Forward keeps the residual stream before and in the middle of the layer and what the two steps keep; recomputation keeps the layer's input alone. Where only some
//! rows of the result are read, as above the last layer, everything but keys and values is computed for those alone.

use super::attention::{Attention, Saved as AttentionSaved};
use super::learned::VirtualTokens;
use super::linear::Linear;
use super::mlp::{Mlp, Saved as MlpSaved};
use super::norm::Norm;
use super::residual::{Given, Input, Residual, Saved as ResidualSaved};
use crate::adapter::{Gradients, Pass};
use crate::ops::Segments;
use crate::ops::rope::Table;
use crate::tensor::{Matrix, Real};

/// A layer.
pub struct Layer<T: Real> {
    /// The norms around attention.
    pub around_attention: Residual<T>,
    /// Attention.
    pub attention: Attention<T>,
    /// The norms around the MLP.
    pub around_mlp: Residual<T>,
    /// The MLP.
    pub mlp: Mlp<T>,
}

/// What all layers of one pass share.
#[derive(Clone, Copy)]
pub struct Shared<'a, T: Real> {
    /// Who sees whom.
    pub segments: &'a Segments,
    /// Rotations of the tokens' positions, for each rotary embedding of the model.
    pub ropes: &'a [Table<T>],
    /// Virtual tokens whose keys and values are learned.
    pub learned: Option<&'a VirtualTokens<T>>,
    /// Workspace and random streams.
    pub pass: &'a Pass<'a, T>,
}

/// What backward needs of a layer's forward.
pub struct Saved<T: Real> {
    input: Matrix<T>,
    inner: Inner<T>,
}

/// Everything but the input, which is all that recomputation needs.
struct Inner<T: Real> {
    around_attention: ResidualSaved<T>,
    attention: AttentionSaved<T>,
    /// The rows that are read, where those are not all.
    rows: Option<Vec<usize>>,
    middle: Matrix<T>,
    around_mlp: ResidualSaved<T>,
    mlp: MlpSaved<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        let Inner { around_attention, attention, middle, around_mlp, mlp, .. } = &self.inner;
        self.input.bytes()
            + around_attention.bytes()
            + attention.bytes()
            + middle.bytes()
            + around_mlp.bytes()
            + mlp.bytes()
    }
}

impl<T: Real> Layer<T> {
    /// The linears in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<T>> {
        self.attention.linears().into_iter().chain(self.mlp.linears())
    }

    /// As [`Self::linears`], to be changed.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<T>> {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut())
    }

    /// All norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm<T>> {
        self.around_attention.norms().chain(self.attention.norms()).chain(self.around_mlp.norms())
    }

    /// The linears and the norms, to be changed.
    pub(super) fn parts_mut(&mut self) -> (Vec<&mut Linear<T>>, Vec<&mut Norm<T>>) {
        let Self { around_attention, attention, around_mlp, mlp } = self;
        let Attention { query, key, value, output, query_norm, key_norm, .. } = attention;
        let linears = [query, key, value, output].into_iter().chain(mlp.linears_mut()).collect();
        let norms = around_attention.norms_mut().chain(query_norm).chain(key_norm).chain(around_mlp.norms_mut());
        (linears, norms.collect())
    }

    /// Whether anything in the layer trains.
    pub fn trains(&self) -> bool {
        self.first_half_trains() || self.mlp.trains() || self.around_mlp.trains()
    }

    /// Whether anything before the middle of the layer trains.
    fn first_half_trains(&self) -> bool {
        self.attention.trains() || self.around_attention.trains()
    }

    /// The residual stream after the layer, `[tokens, hidden]` or its rows `rows`, ascending, and what backward needs.
    ///
    /// # Panics
    /// When the rows are not ascending, or one stands there twice.
    pub fn forward(&self, input: Matrix<T>, rows: Option<&[usize]>, shared: Shared<'_, T>) -> (Matrix<T>, Saved<T>) {
        let (output, inner) = self.run(&input, rows, shared);
        (output, Saved { input, inner })
    }

    /// As [`Self::forward`]; nothing is kept.
    pub fn infer(&self, input: &Matrix<T>, rows: Option<&[usize]>, shared: Shared<'_, T>) -> Matrix<T> {
        self.run(input, rows, shared).0
    }

    /// As [`Self::infer`], with the rotated keys and the values, head-major, for tokens that follow later.
    pub fn prefill(
        &self,
        input: &Matrix<T>,
        rows: Option<&[usize]>,
        shared: Shared<'_, T>,
    ) -> (Matrix<T>, [Matrix<T>; 2]) {
        let (output, inner) = self.run(input, rows, shared);
        (output, inner.attention.into_keys_and_values())
    }

    /// As [`Self::infer`] for tokens whose keys lie elsewhere: `attend` is given rotated queries, group-major, rotated keys and values, head-major, and returns
    /// the attention output, token-major.
    pub fn step(
        &self,
        input: &Matrix<T>,
        ropes: &[Table<T>],
        pass: &Pass<'_, T>,
        attend: impl FnOnce([&Matrix<T>; 3]) -> Matrix<T>,
    ) -> Matrix<T> {
        let attend = |projections: [&Matrix<T>; 3]| (attend(projections), ());
        let body = |x: Given<'_, T>| self.attention.forward_with(x, None, ropes, None, pass, attend);
        let (middle, _, _) = self.around_attention.forward(input, None, pass, body);
        self.around_mlp.forward(&middle, None, pass, |x| self.mlp.forward(x, pass)).0
    }

    fn run(&self, input: &Matrix<T>, rows: Option<&[usize]>, shared: Shared<'_, T>) -> (Matrix<T>, Inner<T>) {
        let Shared { segments, ropes, learned, pass } = shared;
        assert!(rows.is_none_or(|rows| rows.is_sorted_by(|a, b| a < b)), "rows that are read stand in ascending order");
        let rows = rows.filter(|rows| rows.iter().copied().ne(0..input.rows()));
        let body = |x: Given<'_, T>| self.attention.forward(x, rows, segments, ropes, learned, pass);
        let (middle, around_attention, attention) = self.around_attention.forward(input, rows, pass, body);
        let (output, around_mlp, mlp) = self.around_mlp.forward(&middle, None, pass, |x| self.mlp.forward(x, pass));
        let rows = rows.map(<[usize]>::to_vec);
        (output, Inner { around_attention, attention, rows, middle, around_mlp, mlp })
    }

    /// From the gradient of what [`Self::forward`] returned: the gradients of what trains, and the gradient of the layer's input where something below trains.
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
        rows: Option<&[usize]>,
        d_output: Matrix<T>,
        wanted: bool,
        shared: Shared<'_, T>,
        gradients: &mut Gradients<T>,
    ) -> Option<Matrix<T>> {
        let (_, inner) = self.run(&input, rows, shared);
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
        let Shared { segments, ropes, learned, pass } = shared;
        let Inner { around_attention, attention, rows, middle, around_mlp, mlp } = inner;
        let body = |dy: &Matrix<T>, x: Input<'_, T>, wanted, gradients: &mut Gradients<T>| {
            self.mlp.backward(dy, x, mlp, wanted, gradients, pass)
        };
        let (below, here) = (wanted || self.first_half_trains() || learned.is_some(), self.mlp.trains());
        let step = &self.around_mlp;
        let d_middle = step.backward(&middle, None, around_mlp, d_output, below, here, pass, gradients, body)?;
        drop(middle);
        let rows = rows.as_deref();
        let body = |dy: &Matrix<T>, x: Input<'_, T>, wanted, gradients: &mut Gradients<T>| {
            self.attention.backward(dy, x, rows, attention, wanted, segments, ropes, learned, gradients, pass)
        };
        let (step, here) = (&self.around_attention, self.attention.trains() || learned.is_some());
        step.backward(input, rows, around_attention, d_middle, wanted, here, pass, gradients, body)
    }
}
