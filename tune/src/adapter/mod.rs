//! The seam between models and fine-tuning methods.
//!
//! Before: a site is a frozen linear, `y = W0 x + b`. Attached: `y = W0 x + sum_i delta_i(x) + b`, each delta an [`Adapter`] that owns its parameters,
//! writes its own forward and backward, and can state its update as a matrix. After: merged, `W = W0 + sum_i update_i`, a plain linear again. A method may
//! also unfreeze: it attaches nothing, and the module's own parameters train.
//!
//! A method is one file here and one row in the table that makes [`Method`]. Nothing in this room knows devices, files or models; nothing outside it knows a
//! method by name.

mod authors;
mod full;
mod gradients;
mod lora;
mod method;
mod parameters;
mod quanta;
mod site;

pub use authors::{AuthorsProblem, AuthorsSite, authors_name, authors_sites};
pub use full::Full;
pub use gradients::Gradients;
pub use lora::Lora;
pub use method::{Method, MethodInfo, Settings, method_named, methods};
pub use parameters::{Parameters, Tensor, lay_out};
pub use quanta::{Frozen, Initial, Quanta};
pub use site::{Kind, Layers, Selection, SelectionError, Site, Sites};

use crate::tensor::{Matrix, Real, Stream, Workspace};

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

    /// `y += delta(x)`: `x [n, d_in]`, `y [n, d_out]`. Returns what backward needs besides `x`.
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

    /// The whole update `W - W0`, row-major `[d_out, d_in]`, in f64: what merging adds.
    fn update(&self) -> Vec<f64>;
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
