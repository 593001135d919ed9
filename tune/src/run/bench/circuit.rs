//! `quanta bench circuit`: the circuit's kernel beside the frozen linear of the same site and beside the einsum order, interleaved in one run.

use quanta_circuit::unit::{Unit, has_pairs};
use quanta_circuit::{Kept, Plan, apply, apply_keeping, backward_kept, backward_on, instruction_set, permuted};

use super::clock::{median, seconds};
use crate::ops::{Storage, Weight};
use crate::run::circuit::{check_size, stage_lengths};
use crate::run::source::workspace;
use crate::run::{RunError, memory};
use crate::tensor::{Matrix, Real, Stream, Workspace};

/// What to measure.
#[derive(Clone, Debug)]
pub struct CircuitBench {
    /// The circuit.
    pub plan: Plan,
    /// Input features of the site.
    pub d_in: usize,
    /// Output features of the site.
    pub d_out: usize,
    /// Tokens.
    pub tokens: usize,
    /// Whether to compute in f64.
    pub wide: bool,
    /// Measurements of each; the median counts.
    pub repeats: usize,
    /// Threads; 0: one for each processor.
    pub threads: usize,
}

/// Medians in seconds: of forward, and of forward and backward together, with the gradients of the input and of every gate.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitTimes {
    /// Kernel path in use.
    pub instruction_set: &'static str,
    /// Threads in use.
    pub threads: usize,
    /// `y = x W^T`; `dx = dy W`.
    pub frozen: [f64; 2],
    /// `y += T x`.
    pub circuit: [f64; 2],
    /// `y += T x`, the tensors between the gates kept from forward to backward.
    pub kept: [f64; 2],
    /// Bytes that were kept.
    pub kept_bytes: usize,
    /// `y += T x` as in `circuit`, then the gradients of operands rounded to bf16, on [`Unit::Pairs`]: none in f64, or where the processor has not got it.
    pub rounded: Option<[f64; 2]>,
    /// `y += T x` in einsum order: a copy that brings a gate's axes together, then a product, for every gate.
    pub einsum: [f64; 2],
}

/// Measures a circuit.
///
/// # Errors
/// When the threads cannot be started.
pub fn circuit(bench: &CircuitBench) -> Result<CircuitTimes, RunError> {
    if bench.wide {
        run::<f64>(bench, permuted::apply, permuted::backward)
    } else {
        run::<f32>(bench, permuted::apply, permuted::backward)
    }
}

/// `apply` of a circuit, as [`quanta_circuit::apply`].
type Apply<T> = fn(&Plan, &[T], &[T], usize, &mut [T], usize, T);
/// Forward and backward of a circuit, as [`quanta_circuit::permuted::backward`].
type Backward<T> = fn(&Plan, &[T], &[T], usize, &[T], usize, T, &mut [T], &mut [T]);

fn run<T: Real>(
    bench: &CircuitBench,
    einsum: Apply<T>,
    einsum_backward: Backward<T>,
) -> Result<CircuitTimes, RunError> {
    memory::check_bytes(numbers_held(bench).saturating_mul(size_of::<T>() as u64))?;
    check_size(&bench.plan, 0)?;
    let workspace = workspace::<T>(bench.threads)?;
    let &CircuitBench { ref plan, d_in, d_out, tokens, .. } = bench;
    let mut stream = Stream::new(0, "bench", "circuit");
    let mut numbers =
        |count: usize, scale: f64| -> Vec<T> { (0..count).map(|_| T::from_f64(scale * stream.normal())).collect() };
    let weight = Weight::new(Storage::Dense(numbers(d_out * d_in, 0.02)), d_out, d_in);
    let gates = numbers(plan.parameters(), 0.1);
    let (x, dy) = (
        matrix(&workspace, tokens, &numbers(tokens * d_in, 1.0)),
        matrix(&workspace, tokens, &numbers(tokens * d_out, 1.0)),
    );
    let mut dgates = vec![T::ZERO; plan.parameters()];
    let (mut y, mut dx) = (workspace.zeros(tokens, d_out), workspace.zeros(tokens, d_in));
    let mut kept = Kept::new();
    let rounds = !bench.wide && has_pairs();
    let mut times: [Vec<f64>; 9] = Default::default();
    workspace.run_awake(|| {
        // the first round warms caches and buffers and is not counted
        for round in 0..=bench.repeats {
            let mut measured = [0.0; 9];
            measured[0] = seconds(|| drop(weight.forward(&x, &workspace)));
            measured[1] = seconds(|| {
                drop(weight.forward(&x, &workspace));
                weight.backward(&dy, &mut dx, false, &workspace);
            });
            measured[2] = seconds(|| apply(plan, &gates, x.data(), d_in, y.data_mut(), d_out, T::ONE));
            let mut both = |unit| {
                apply(plan, &gates, x.data(), d_in, y.data_mut(), d_out, T::ONE);
                let dx = Some(dx.data_mut());
                backward_on(unit, plan, &gates, x.data(), d_in, dy.data(), d_out, T::ONE, dx, Some(&mut dgates));
            };
            measured[3] = seconds(|| both(None));
            measured[8] = if rounds { seconds(|| both(Some(Unit::Pairs))) } else { 0.0 };
            measured[4] =
                seconds(|| apply_keeping(plan, &gates, x.data(), d_in, y.data_mut(), d_out, T::ONE, &mut kept));
            measured[5] = seconds(|| {
                apply_keeping(plan, &gates, x.data(), d_in, y.data_mut(), d_out, T::ONE, &mut kept);
                let (dx, dgates) = (Some(dx.data_mut()), Some(&mut dgates[..]));
                backward_kept(plan, &gates, x.data(), d_in, dy.data(), d_out, T::ONE, dx, dgates, &kept);
            });
            measured[6] = seconds(|| einsum(plan, &gates, x.data(), d_in, y.data_mut(), d_out, T::ONE));
            // runs its forward itself and keeps what it needs, as automatic differentiation does
            measured[7] = seconds(|| {
                let dx = dx.data_mut();
                einsum_backward(plan, &gates, x.data(), d_in, dy.data(), d_out, T::ONE, dx, &mut dgates);
            });
            if round > 0 {
                times.iter_mut().zip(measured).for_each(|(list, time)| list.push(time));
            }
        }
    });
    let [f, fb, c, cb, k, kb, e, eb, rounded] = times.map(|mut list| median(&mut list));
    Ok(CircuitTimes {
        instruction_set: instruction_set::<T>(),
        threads: workspace.threads(),
        frozen: [f, fb],
        circuit: [c, cb],
        kept: [k, kb],
        kept_bytes: kept.bytes(),
        rounded: rounds.then_some([c, rounded]),
        einsum: [e, eb],
    })
}

/// Numbers of rows, weights and kept tensors, at most.
fn numbers_held(bench: &CircuitBench) -> u64 {
    let [tokens, d_in, d_out] = [bench.tokens, bench.d_in, bench.d_out].map(|size| size as u64);
    let rows = d_in.saturating_add(d_out).saturating_add(bench.plan.in_len() as u64).saturating_mul(6);
    let kept = stage_lengths(&bench.plan).fold(0, u64::saturating_add);
    tokens.saturating_mul(rows.saturating_add(kept)).saturating_add(d_in.saturating_mul(d_out))
}

fn matrix<T: Real>(workspace: &Workspace<T>, rows: usize, values: &[T]) -> Matrix<T> {
    let mut matrix = workspace.matrix(rows, values.len() / rows);
    matrix.copy_from(values);
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_that_grow_between_gates_are_counted() {
        let gates = [(vec![-1, -2], Some(vec![64, 64])), (vec![-1, -2], Some(vec![2, 2]))];
        let plan = Plan::new(&[2, 2], &gates).unwrap();
        let bench = CircuitBench { plan, d_in: 4, d_out: 4, tokens: 10, wide: false, repeats: 1, threads: 1 };
        assert!(numbers_held(&bench) >= 10 * 64 * 64, "{}", numbers_held(&bench));
    }
}
