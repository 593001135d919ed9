//! Gradients from tensors that forward kept: where there are several gates and their gradients are wanted, a quarter to a third of the operations of
//! [`crate::backward`] less, for the memory that they take.

use crate::kernel::{check_shapes, keeping, tiled};
use crate::{Plan, Real, circuit};

/// The tensors between the gates of a circuit, from [`apply_keeping`] until [`backward_kept`]. May be used again, for any circuit: its memory only grows.
#[derive(Clone, Debug, Default)]
pub struct Kept<T> {
    values: Vec<T>,
    made_for: Option<(Plan, [usize; 3])>,
}

impl<T: Real> Kept<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { values: Vec::new(), made_for: None }
    }

    /// Bytes in use: the inputs of all gates but the first, for every token, tokens in whole registers.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.values[..])
    }
}

/// [`apply`](crate::apply), to the bit, that keeps the tensors between the gates in `kept`, instead of whatever that held. In `T`'s own arithmetic: there
/// is no such function on a [`unit`](mod@crate::unit).
///
/// # Panics
/// As [`apply`](crate::apply).
#[track_caller]
pub fn apply_keeping<T: Real>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
    kept: &mut Kept<T>,
) {
    check_shapes(plan, gates, x, d_in, y, d_out);
    let made_for = (plan, [x.len() / d_in, d_in, d_out]);
    if kept.made_for.as_ref().is_none_or(|(plan, shape)| (plan, *shape) != made_for) {
        kept.made_for = Some((plan.clone(), made_for.1));
    }
    keeping::apply(T::kernels(), plan, gates, x, d_in, y, d_out, scale, &mut kept.values);
}

/// [`backward`](crate::backward), to the bit, with what [`apply_keeping`] kept of the same gates, `x` and `d_out`; `scale` is
/// this call's own. Values are not compared: with others, gradients are wrong.
///
/// ```
/// use quanta_circuit::{Kept, Plan, apply_keeping, backward, backward_kept};
/// let plan = Plan::all_pairs(&[2, 2, 2])?;
/// let gates: Vec<f64> = (0..48).map(|i| f64::from(i) / 48.0).collect();
/// let (x, dy) = ([1.0; 8], [0.5; 8]);
/// let (mut kept, mut y) = (Kept::new(), [0.0; 8]);
/// apply_keeping(&plan, &gates, &x, 8, &mut y, 8, 1.0, &mut kept);
///
/// let (mut again, mut dgates) = ([0.0; 48], [0.0; 48]);
/// backward_kept(&plan, &gates, &x, 8, &dy, 8, 1.0, None, Some(&mut dgates), &kept);
/// backward(&plan, &gates, &x, 8, &dy, 8, 1.0, None, Some(&mut again));
/// assert_eq!(dgates, again);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
///
/// # Panics
/// As [`backward`](crate::backward), and where `kept` holds nothing, or is of another plan or another shape.
#[track_caller]
pub fn backward_kept<T: Real>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    dx: Option<&mut [T]>,
    dgates: Option<&mut [T]>,
    kept: &Kept<T>,
) {
    circuit::check_gradients(plan, gates, x, d_in, dy, d_out, dx.as_deref(), dgates.as_deref());
    let shape = [x.len() / d_in, d_in, d_out];
    let same = kept.made_for.as_ref().is_some_and(|(of, at)| of == plan && *at == shape);
    assert!(same, "nothing was kept by `apply_keeping` with this plan, d_in, d_out and number of tokens");
    tiled::backward(T::kernels(), plan, gates, x, d_in, dy, d_out, scale, dx, dgates, Some(&kept.values));
}
