//! Application of a circuit to tokens and its gradients: the public face of the kernels.
//!
//! The two functions here check the shapes of all slices and hand over to the fast kernel of this machine. The arithmetic is in `kernel`, its
//! plain-loop judge in [`crate::reference`].

use crate::kernel::{check_shapes, tiled};
use crate::unit::Unit;
use crate::{Plan, Real};

/// Adds the circuit's output to `y`: `y += scale * T(x)` (paper, Eq. 5).
///
/// * `gates`: `plan.parameters()` values, gate after gate in order of application, each a row-major matrix.
/// * `x`: `[tokens, d_in]`, row-major; zero-padded or truncated to `plan.in_len()`.
/// * `y`: `[tokens, d_out]`, row-major; the circuit's output is truncated to `d_out`, values beyond `plan.out_len()` are left alone.
///
/// Computes and accumulates in `T`. Gate rows and columns that meet only padding or truncated values are left out of the work. Runs on the current
/// rayon pool; the result does not depend on the number of threads.
///
/// # Panics
/// Where a slice does not have the length that the plan, `d_in` and `d_out` ask for.
///
/// ```
/// use quanta_circuit::{Plan, apply};
/// let plan = Plan::free(&[2, 2], &[vec![-1]])?; // one gate on the last axis
/// let mut y = [0.0; 4];
/// apply(&plan, &[0.0, 1.0, 1.0, 0.0], &[1.0, 2.0, 3.0, 4.0], 4, &mut y, 4, 10.0);
/// assert_eq!(y, [20.0, 10.0, 40.0, 30.0]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
pub fn apply<T: Real>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &mut [T], d_out: usize, scale: T) {
    apply_on(None, plan, gates, x, d_in, y, d_out, scale);
}

/// [`apply`] in the arithmetic of a matrix unit: in f32, gates and features become sums of two bf16 numbers each, as good as 17 bits, with sums in f32.
/// In f64, and for none, it is [`apply`].
///
/// # Panics
/// As [`apply`], and in f32 where the machine does not have the unit.
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
    check_shapes(plan, gates, x, d_in, y, d_out);
    tiled::apply(unit.map_or_else(T::kernels, T::kernels_on), plan, gates, x, d_in, y, d_out, scale);
}

/// Adds the gradients of [`apply`] to `dx` and `dgates`: `dx += scale * T^t dy`, `dgates += scale * d<dy, T(x)>/dgates`.
///
/// Shapes as in [`apply`]; `dy` is `[tokens, d_out]`, `dx` is `[tokens, d_in]`, `dgates` is laid out as `gates`. `None` leaves a gradient out, and its
/// work. The tensors between the gates are not kept from the forward pass but computed again, one tile of tokens at a time.
///
/// Gate gradients are summed over chunks of tokens whose bounds depend on the number of tokens alone, and the chunks are added in order: the result
/// is the same for any number of threads.
///
/// # Panics
/// Where a slice does not have the length that the plan, `d_in` and `d_out` ask for.
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

/// [`backward`] in the arithmetic of [`apply_on`], gate gradients included.
///
/// # Panics
/// As [`backward`], and in f32 where the machine does not have the unit.
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
    check_shapes(plan, gates, x, d_in, dy, d_out);
    if let Some(dx) = &dx {
        assert_eq!(dx.len(), x.len(), "dx must have the length of x");
    }
    if let Some(dgates) = &dgates {
        assert_eq!(dgates.len(), gates.len(), "dgates must have the length of gates");
    }
    let kernels = unit.map_or_else(T::kernels, T::kernels_on);
    tiled::backward(kernels, plan, gates, x, d_in, dy, d_out, scale, dx, dgates);
}

/// The instruction set that [`apply`] and [`backward`] run on for `T`: `avx512`, `avx2` or `portable`.
///
/// Results are bit-identical for one instruction set, so a run that is to be repeated exactly records it.
pub fn instruction_set<T: Real>() -> &'static str {
    T::kernels().name
}
