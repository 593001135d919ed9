//! The seam between models and fine-tuning methods.
//!
//! Before: a site is a frozen linear, `y = W0 x + b`. Attached, with everything a method may bring:
//!
//! ```text
//! y = post(m / |W| * (W0 pre(x) + sum_i delta_i(pre(x))) + b) + sum_j beside_j(x)
//! ```
//!
//! Each of `pre`, `delta`, `post` and `beside` adds a function of its input, and is an [`Adapter`] that owns its parameters and writes its own forward and
//! backward; its [`Place`] says where it stands. At most one adapter of a site has a magnitude m, which replaces the length |W| of each row of
//! `W0 + sum of updates`. After: an adapter that can state its update as a matrix is merged, and the site is a plain linear again.
//!
//! A method may also stand outside the linears: a [`Prefix`] gives attention keys and values that no token has, and a method that unfreezes attaches nothing:
//! the module's own parameters train.
//!
//! A method is one file here and one row in the table that makes [`Method`]. Nothing in this room knows devices, files or models; nothing outside it knows a
//! method by name.

mod authors;
mod axes;
mod bottleneck;
mod circuits;
mod dense_bottleneck;
mod dora;
mod full;
mod gradients;
mod krona;
mod loha;
mod lora;
mod loretta_adp;
mod loretta_rep;
mod low_rank;
mod magnitude;
mod method;
mod miss;
mod mora;
mod parallel;
mod parameters;
mod pattern;
mod prefix;
mod quanta;
mod series;
mod site;
mod tensor_train;

pub use authors::{AuthorsProblem, AuthorsSite, authors_name, authors_sites};
pub use axes::Axes;
pub use circuits::{Circuits, add_each};
pub use dense_bottleneck::{BottleneckStart, DenseBottleneck};
pub use dora::Dora;
pub use full::Full;
pub use gradients::Gradients;
pub use krona::{Factors, Krona};
pub use loha::Loha;
pub use lora::Lora;
pub use loretta_adp::LorettaAdp;
pub use loretta_rep::LorettaRep;
pub use low_rank::LowRank;
pub use magnitude::Magnitude;
pub use method::{Method, MethodInfo, Settings, Target, method_named, methods};
pub use miss::Miss;
pub use mora::{Mora, MoraVariant};
pub use parallel::Parallel;
pub use parameters::{Parameters, Tensor, lay_out};
pub use pattern::Pattern;
pub use prefix::Prefix as PrefixTuning;
pub use quanta::{Frozen, Initial, Quanta};
pub use series::Series;
pub use site::{Kind, Layers, Selection, SelectionError, Site, Sites};

use std::ops::Range;

use quanta_circuit::unit::Unit;

use crate::tensor::{Matrix, Real, Stream, Workspace};

/// Where an adapter stands at its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the linear: reads the site's input and adds to it, `[n, d_in]` to `[n, d_in]`.
    Input,
    /// Beside the weight: reads the linear's input and adds to its output before magnitude and bias, `[n, d_in]` to `[n, d_out]`.
    Delta,
    /// After the linear: reads its output, bias included, and adds to it, `[n, d_out]` to `[n, d_out]`.
    Output,
    /// Beside the whole site: reads the site's input and adds to the final output, `[n, d_in]` to `[n, d_out]`.
    Beside,
}

/// A method attached to one site: parameters, forward, backward, and the update as a matrix.
pub trait Adapter<T: Real>: Send + Sync {
    /// Its parameters, trainable and frozen.
    fn parameters(&self) -> &Parameters<T>;

    /// Its parameters, to be changed by the optimiser or by loading.
    fn parameters_mut(&mut self) -> &mut Parameters<T>;

    /// What to add to the site's weight for good, row-major `[d_out, d_in]` in f64: the frozen part that this adapter does not apply itself. Asked once,
    /// after the parameters are loaded and before the first forward.
    fn fold(&self) -> Option<Vec<f64>> {
        None
    }

    /// Whether the weight is rounded to bf16 after folding, whatever its type.
    fn folds_to_bf16(&self) -> bool {
        false
    }

    /// Where it stands, and so what its `x` and `y` are.
    fn place(&self) -> Place {
        Place::Delta
    }

    /// Which of its trainable parameters are the site's magnitude m, `[d_out]`: the model then scales row i of `W0 + sum of updates` to length m_i.
    fn magnitude(&self) -> Option<Range<usize>> {
        None
    }

    /// What [`Self::forward`] adds to `y` for so many rows, where that is circuits of `x` and backward needs nothing besides: sites that read the same `x` add
    /// theirs together then, instead of calling it.
    fn circuits(&self, _rows: usize, _pass: &Pass<'_, T>) -> Option<Circuits<'_, T>> {
        None
    }

    /// `y += f(x)`, widths as [`Self::place`] says. Returns what backward needs besides `x`.
    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T>;

    /// Adds the parameters' gradient to `gradient` (laid out as the trainable parameters) and, where wanted, the input's to `dx`.
    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    );

    /// What merging adds to W0, row-major `[d_out, d_in]`, in f64; the magnitude is left to the model. None for what is no matrix.
    fn update(&self) -> Option<Vec<f64>>;

    /// The part of [`Self::update`] that [`Self::forward`] computes, in the same layout: the update less [`Self::fold`], which the working copy of the weight
    /// holds.
    fn applied(&self) -> Option<Vec<f64>> {
        let mut applied = self.update()?;
        if let Some(fold) = self.fold() {
            applied.iter_mut().zip(fold).for_each(|(update, fold)| *update -= fold);
        }
        Some(applied)
    }
}

/// Learned keys and values that every sequence sees before its own tokens: `n` virtual tokens, whose keys are not rotated, before position `n`.
pub trait Prefix<T: Real>: Send + Sync {
    /// Its parameters.
    fn parameters(&self) -> &Parameters<T>;

    /// Its parameters, to be changed by the optimiser or by loading.
    fn parameters_mut(&mut self) -> &mut Parameters<T>;

    /// The number n of virtual tokens.
    fn tokens(&self) -> usize;

    /// Brings [`Self::values`] up to date with the parameters: called after loading and after every step.
    fn prepare(&mut self);

    /// Keys and values of all layers, `[n][layer][key, value][kv_head][head_dim]`.
    fn values(&self) -> &[T];

    /// Adds the parameters' gradient to `gradient`, given that of [`Self::values`].
    fn backward(&self, d_values: &[T], gradient: &mut [T]);
}

/// What an adapter keeps from forward until backward: a list of matrices, so that its size can be printed.
#[derive(Default)]
pub struct Saved<T: Real>(pub Vec<Matrix<T>>);

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Matrix::bytes).sum()
    }
}

/// One pass over a batch: the workspace, and the names of the random streams when the pass trains.
#[derive(Clone, Copy)]
pub struct Pass<'a, T: Real> {
    /// Buffers and threads.
    pub workspace: &'a Workspace<T>,
    /// Present while training: dropout is active and draws from streams named by it.
    pub draw: Option<Draw>,
}

impl<T: Real> Pass<'_, T> {
    /// What computes the gradients of a circuit at a site for so many rows, where that is not the compute type: it goes with what computes the product with the
    /// site's weight. `bf16` says whether the weight is held as bf16.
    pub fn gradient_unit(&self, bf16: bool, rows: usize) -> Option<Unit> {
        self.workspace.bf16_products().unit(rows).filter(|_| bf16)
    }

    /// The same of what applies the circuit.
    pub fn unit(&self, bf16: bool, rows: usize) -> Option<Unit> {
        self.gradient_unit(bf16, rows).filter(|unit| unit.applies())
    }
}

/// Names of a training pass's random streams.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Optimiser step.
    pub step: usize,
    /// Micro-batch within the step.
    pub micro_batch: usize,
}

impl Draw {
    /// The dropout stream of `owner` in this pass: the same for forward, backward and recomputation.
    pub fn dropout(&self, owner: &str) -> Stream {
        Stream::new(self.seed, "dropout", &format!("{owner}/{}/{}", self.step, self.micro_batch))
    }
}
