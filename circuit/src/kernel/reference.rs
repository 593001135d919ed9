//! The circuit in plain loops over multi-indices: the judge of every faster kernel.
//!
//! Written straight from the definition (paper, Eq. 4), one token and one output value at a time, with no blocking, no slicing of gates and no
//! shared code with the tiled kernel beyond the shape checks, so that the two cannot share a mistake. Speed is left to the other kernels.

use super::check_shapes;
use crate::{Gate, Plan, Real};

/// Same contract as [`crate::apply`].
///
/// # Panics
/// As [`crate::apply`].
pub fn apply<T: Real>(plan: &Plan, gates: &[T], x: &[T], d_in: usize, y: &mut [T], d_out: usize, scale: T) {
    check_shapes(plan, gates, x, d_in, y, d_out);
    let stages = plan.stages();
    for (x, y) in x.chunks_exact(d_in).zip(y.chunks_exact_mut(d_out)) {
        let mut state = resized(x, plan.in_len());
        for (gate, dims) in plan.gates().iter().zip(&stages) {
            state = gate_forward(gate, dims, &gates[gate.range()], &state);
        }
        for (y, value) in y.iter_mut().zip(state) {
            *y += scale * value;
        }
    }
}

/// Same contract as [`crate::backward`].
///
/// # Panics
/// As [`crate::backward`].
pub fn backward<T: Real>(
    plan: &Plan,
    gates: &[T],
    x: &[T],
    d_in: usize,
    dy: &[T],
    d_out: usize,
    scale: T,
    mut dx: Option<&mut [T]>,
    dgates: Option<&mut [T]>,
) {
    check_shapes(plan, gates, x, d_in, dy, d_out);
    let stages = plan.stages();
    let mut sums = vec![T::ZERO; plan.parameters()];
    for (token, (x, dy)) in x.chunks_exact(d_in).zip(dy.chunks_exact(d_out)).enumerate() {
        let mut states = vec![resized(x, plan.in_len())];
        for (index, gate) in plan.gates().iter().enumerate() {
            states.push(gate_forward(gate, &stages[index], &gates[gate.range()], &states[index]));
        }
        let mut gradient: Vec<T> = resized(dy, plan.out_len()).into_iter().map(|value| scale * value).collect();
        for (index, gate) in plan.gates().iter().enumerate().rev() {
            let range = gate.range();
            let values = &gates[range.clone()];
            gradient = gate_backward(gate, &stages[index], values, &states[index], &gradient, &mut sums[range]);
        }
        if let Some(dx) = dx.as_deref_mut() {
            for (dx, value) in dx[token * d_in..(token + 1) * d_in].iter_mut().zip(gradient) {
                *dx += value;
            }
        }
    }
    if let Some(dgates) = dgates {
        assert_eq!(dgates.len(), sums.len(), "dgates must have the length of gates");
        for (dgate, sum) in dgates.iter_mut().zip(sums) {
            *dgate += sum;
        }
    }
}

/// `x` zero-padded or truncated to `len`.
fn resized<T: Real>(x: &[T], len: usize) -> Vec<T> {
    let mut state = vec![T::ZERO; len];
    let shared = len.min(x.len());
    state[..shared].copy_from_slice(&x[..shared]);
    state
}

/// Calls `visit(output index, input index, gate row, gate column)` for every multiply-add of a gate on a tensor of axes `dims`.
fn each_product(gate: &Gate, dims: &[usize], mut visit: impl FnMut(usize, usize, usize, usize)) {
    let positions = gate.positions(dims.len());
    let mut out_dims = dims.to_vec();
    for (&position, &size) in positions.iter().zip(gate.out_sizes().iter().rev()) {
        out_dims[position] = size;
    }
    for out in 0..out_dims.iter().product() {
        let mut index = vec![0; dims.len()];
        let mut rest = out;
        for position in (0..dims.len()).rev() {
            index[position] = rest % out_dims[position];
            rest /= out_dims[position];
        }
        let row = positions.iter().fold(0, |row, &position| row * out_dims[position] + index[position]);
        for col in 0..gate.cols() {
            let mut rest = col;
            for &position in positions.iter().rev() {
                index[position] = rest % dims[position];
                rest /= dims[position];
            }
            let input = index.iter().zip(dims).fold(0, |flat, (&i, &size)| flat * size + i);
            visit(out, input, row, col);
        }
    }
}

/// `T^(alpha) x` of Eq. 4; `dims` are the axes of `x`.
fn gate_forward<T: Real>(gate: &Gate, dims: &[usize], values: &[T], x: &[T]) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len() / gate.cols() * gate.rows()];
    each_product(gate, dims, |out, input, row, col| y[out] += values[row * gate.cols() + col] * x[input]);
    y
}

/// Returns the gradient of the gate's input and adds that of its values to `sums`.
fn gate_backward<T: Real>(gate: &Gate, dims: &[usize], values: &[T], x: &[T], dy: &[T], sums: &mut [T]) -> Vec<T> {
    let mut dx = vec![T::ZERO; x.len()];
    each_product(gate, dims, |out, input, row, col| {
        dx[input] += values[row * gate.cols() + col] * dy[out];
        sums[row * gate.cols() + col] += dy[out] * x[input];
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two gates on three axes, written out as matrices by hand: `T = (G1 (x) I_2)(I_2 (x) G0)` with G0 on the last two axes.
    #[test]
    fn reference_equals_kronecker_products() {
        let plan = Plan::free(&[2, 2, 2], &[vec![-1, -2], vec![-2, -3]]).unwrap();
        let gates: Vec<f64> = (0..32).map(|i| f64::from((i * 7) % 11) - 5.0).collect();
        let (first, second) = gates.split_at(16);
        let x: Vec<f64> = (1..9).map(f64::from).collect();
        let mut middle = [0.0; 8];
        for block in 0..2 {
            for row in 0..4 {
                middle[block * 4 + row] = (0..4).map(|col| first[row * 4 + col] * x[block * 4 + col]).sum();
            }
        }
        let mut expected = [0.0; 8];
        for last in 0..2 {
            for row in 0..4 {
                expected[row * 2 + last] = (0..4).map(|col| second[row * 4 + col] * middle[col * 2 + last]).sum();
            }
        }
        let mut y = vec![0.0; 8];
        apply(&plan, &gates, &x, 8, &mut y, 8, 1.0);
        assert_eq!(y, expected);
    }

    #[test]
    fn gradients_equal_central_differences() {
        let plan =
            Plan::new(&[3, 2, 4], &[(vec![-1, -3], Some(vec![2, 5])), (vec![-2], None), (vec![-2, -1], None)]).unwrap();
        let value = |i: usize| ((i * 37 + 11) % 29) as f64 / 14.5 - 1.0;
        let gates: Vec<f64> = (0..plan.parameters()).map(value).collect();
        let (d_in, d_out) = (plan.in_len() - 2, plan.out_len() + 1);
        let x: Vec<f64> = (0..3 * d_in).map(value).collect();
        let dy: Vec<f64> = (0..3 * d_out).map(|i| value(i + 5)).collect();
        let (mut dx, mut dgates) = (vec![0.0; x.len()], vec![0.0; gates.len()]);
        backward(&plan, &gates, &x, d_in, &dy, d_out, 0.5, Some(&mut dx), Some(&mut dgates));
        let loss = |gates: &[f64], x: &[f64]| {
            let mut y = vec![0.0; dy.len()];
            apply(&plan, gates, x, d_in, &mut y, d_out, 0.5);
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
        };
        // The loss is multilinear in every single value, so central differences have rounding error only: eps * |loss| / step.
        let step = 1e-2;
        for i in 0..gates.len().max(x.len()) {
            let mut shifted = [gates.clone(), gates.clone(), x.clone(), x.clone()];
            if i < gates.len() {
                shifted[0][i] += step;
                shifted[1][i] -= step;
                let difference = (loss(&shifted[0], &x) - loss(&shifted[1], &x)) / (2.0 * step);
                assert!((difference - dgates[i]).abs() < 1e-10, "gate value {i}: {difference} {}", dgates[i]);
            }
            if i < x.len() {
                shifted[2][i] += step;
                shifted[3][i] -= step;
                let difference = (loss(&gates, &shifted[2]) - loss(&gates, &shifted[3])) / (2.0 * step);
                assert!((difference - dx[i]).abs() < 1e-10, "input {i}: {difference} {}", dx[i]);
            }
        }
    }
}
