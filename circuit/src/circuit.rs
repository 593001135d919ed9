//! Application of a circuit to tokens and its gradients: the public face of the kernels.
//!
//! The functions here check the shapes of all slices and hand over to the fast kernel of this machine, or of a unit. The arithmetic is in `kernel`, its
//! plain-loop judge in [`crate::reference`].

use crate::kernel::{check_gates, check_rows, check_shapes, tiled};
use crate::unit::Unit;
use crate::{Plan, Real};

/// Adds the circuit's output to `y`: `y += scale * T(x)` (paper, Eq. 5).
///
/// * `gates`: `plan.parameters()` values, gate after gate in order of application, each a row-major matrix.
/// * `x`: `[tokens, d_in]`, row-major; each token zero-padded or truncated at its end to `plan.in_len()` values.
/// * `y`: `[tokens, d_out]`, row-major; the circuit's output is truncated to `d_out`, values beyond `plan.out_len()` are left alone.
///
/// Computes and accumulates in `T`. Gate rows and columns that meet only padding or truncated values are left out of the work. Runs on the current
/// rayon pool; the result does not depend on the number of threads.
///
/// # Panics
/// Where a slice does not have the length that the plan, `d_in` and `d_out` ask for, or one of these is 0.
///
/// ```
/// use quanta_circuit::{Plan, apply};
/// let plan = Plan::free(&[2, 2], &[vec![-1]])?; // one gate on the last axis
/// let mut y = [0.0; 4];
/// apply(&plan, &[0.0, 1.0, 1.0, 0.0], &[1.0, 2.0, 3.0, 4.0], 4, &mut y, 4, 10.0);
/// assert_eq!(y, [20.0, 10.0, 40.0, 30.0]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
#[track_caller]
pub fn apply<T: Real>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &mut [T], d_out: usize, scale: T) {
    apply_on(None, plan, gates, x, d_in, y, d_out, scale);
}

/// [`apply`] in the arithmetic of a matrix unit: in f32, gates and features become sums of two bf16 numbers each, 2^-17 off at most, and the product of
/// the two lower parts is left out, 2^-16 of the product at most; sums in f32. What is infinite, and what overflows, may become NaN. In f64, for
/// `None`, and for [`Unit::Pairs`] on any machine, it is [`apply`].
///
/// # Panics
/// As [`apply`], and in f32 where the machine does not have another unit, which [`unit::usable`](crate::unit::usable) (AMX) and
/// [`unit::has_pairs`](crate::unit::has_pairs) tell.
#[track_caller]
pub fn apply_on<T: Real>(
    unit: Option<Unit>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    y: &mut [T],
    d_out: usize,
    scale: T,
) {
    apply_each(unit, x, d_in, &mut [CircuitSum { plan, terms: &[(gates, scale)], y, d_out }]);
}

/// A sum of circuits of one plan, and where it goes.
pub struct CircuitSum<'a, T> {
    /// The plan of all terms.
    pub plan: &'a Plan,
    /// Each term's gates, as in [`apply`], and its factor.
    pub terms: &'a [(&'a [T], T)],
    /// `[tokens, d_out]`: the sum is added to it.
    pub y: &'a mut [T],
    /// Width of `y`.
    pub d_out: usize,
}

/// Adds several sums of circuits of the same `x [tokens, d_in]`, which is read once: `y += sum_i scale_i T_i(x)` for each of them, in the arithmetic of
/// [`apply_on`].
///
/// A sum of several terms is formed before it is added to `y`, so that equal circuits of opposite factors cancel exactly.
///
/// # Panics
/// As [`apply_on`] for every term.
///
/// ```
/// use quanta_circuit::{CircuitSum, Plan, apply_each};
/// let plan = Plan::free(&[2, 2], &[vec![-1]])?;
/// let (swap, twice) = ([0.0, 1.0, 1.0, 0.0], [2.0, 0.0, 0.0, 2.0]);
/// let (mut y, mut z) = ([0.0; 4], [1.0; 4]);
/// let sums = &mut [
///     CircuitSum { plan: &plan, terms: &[(&swap, 1.0), (&twice, -1.0)], y: &mut y, d_out: 4 },
///     CircuitSum { plan: &plan, terms: &[(&twice, 0.5)], y: &mut z, d_out: 4 },
/// ];
/// apply_each(None, &[1.0, 2.0, 3.0, 4.0], 4, sums);
/// assert_eq!((y, z), ([0.0, -3.0, -2.0, -5.0], [2.0, 3.0, 4.0, 5.0]));
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
#[track_caller]
pub fn apply_each<T: Real>(unit: Option<Unit>, x: &[T], d_in: usize, sums: &mut [CircuitSum<'_, T>]) {
    for sum in sums.iter() {
        check_rows(x, d_in, sum.y, sum.d_out);
        // a loop, so that the caller's place is named
        for (gates, _) in sum.terms {
            check_gates(sum.plan, gates);
        }
    }
    tiled::apply_each(unit.map_or_else(T::kernels, T::applied_on), x, d_in, sums);
}

/// Adds the gradients of [`apply`] to `dx` and `dgates`: `dx += scale * T^t dy`, `dgates += scale * d<dy, T(x)>/dgates`.
///
/// Shapes as in [`apply`]; `dy` is `[tokens, d_out]`, `dx` is `[tokens, d_in]`, `dgates` is laid out as `gates`. `None` leaves a gradient out, and its
/// work. The tensors between the gates are not kept from the forward pass but computed again, one tile of tokens at a time;
/// [`apply_keeping`](crate::apply_keeping) keeps them.
///
/// Gate gradients are summed over chunks of tokens whose bounds depend on the number of tokens alone, and the chunks are added in order: the result
/// is the same for any number of threads.
///
/// # Panics
/// Where a slice does not have the length that the plan, `d_in` and `d_out` ask for, or one of these is 0.
#[track_caller]
pub fn backward<T: Real>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    dx: Option<&mut [T]>,
    dgates: Option<&mut [T]>,
) {
    backward_on(None, plan, gates, x, d_in, dy, d_out, scale, dx, dgates);
}

/// [`backward`] in the arithmetic of [`apply_on`], gate gradients included. On [`Unit::Pairs`], in f32, both operands of every product (gates, features, their
/// gradients) are rounded to one bf16 number each, to nearest, 2^-9 off at most; sums in f32. Subnormal numbers count as zero, numbers above the largest of bf16
/// as infinite, and where products overflow, infinity may stand for NaN. That takes half the instructions.
///
/// # Panics
/// As [`backward`], and in f32 where the machine does not have the unit.
#[track_caller]
pub fn backward_on<T: Real>(
    unit: Option<Unit>,
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    dx: Option<&mut [T]>,
    dgates: Option<&mut [T]>,
) {
    check_gradients(plan, gates, x, d_in, dy, d_out, dx.as_deref(), dgates.as_deref());
    let kernels = unit.map_or_else(T::kernels, T::gradients_on);
    tiled::backward(kernels, plan, gates, x, d_in, dy, d_out, scale, dx, dgates, None);
}

/// Asserts that all slices of a backward pass have the lengths that the plan, `d_in` and `d_out` ask for.
#[track_caller]
pub(crate) fn check_gradients<T: Real>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    dx: Option<&[T]>,
    dgates: Option<&[T]>,
) {
    check_shapes(plan, gates, x, d_in, dy, d_out);
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len(), "dx must have the length of x");
    }
    if let Some(dgates) = dgates {
        assert_eq!(dgates.len(), gates.len(), "dgates must have the length of gates");
    }
}

/// The instruction set that [`apply`] and [`backward`] run on for `T`: `avx512`, `avx2` or `portable`.
///
/// Results are bit-identical for one instruction set, so a run that is to be repeated exactly records it.
pub fn instruction_set<T: Real>() -> &'static str {
    T::kernels().name
}
