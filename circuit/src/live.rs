//! Which parameters of a circuit matter when its input is padded or its output truncated.
//!
//! A layer of other sizes than the circuit truncates the circuit's output or pads its input. Gate rows that feed only truncated values, and columns
//! that read only padding, never receive a gradient: 28.6 % of a 16-8-8-4 circuit whose 4096 outputs are cut to 1024. Here they are counted exactly,
//! and left out where whole slices of a gate are dead. The kernels skip the same slices' work through `kernel::schedule`.

use crate::kernel::schedule::{Schedule, live_box};
use crate::{Gate, Plan};

/// A plan without the dead slices of its gates, for one pair of `d_in` and `d_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trimmed {
    /// The smaller plan; its gates are slices of the original's. Between `d_in` and `d_out` it computes what the original computes.
    pub plan: Plan,
    /// For every value of the smaller plan's flat slice, its place in the original's.
    pub kept: Vec<usize>,
}

impl Plan {
    /// Leaves out the gate rows and columns that are dead for `d_in` inputs and `d_out` outputs.
    ///
    /// Only whole slices along the leading axes are cut, which keeps the result a plan; single dead values may remain ([`Plan::live_parameters`]
    /// finds all).
    ///
    /// ```
    /// use quanta_circuit::Plan;
    /// let plan: Plan = "16-8-8-4".parse()?;
    /// let trimmed = plan.trimmed(4096, 1024);
    /// assert_eq!(trimmed.plan.to_string(), "16-8-8-4 -> 4-8-8-4");
    /// assert_eq!(plan.parameters() - trimmed.plan.parameters(), 12_288);
    /// # Ok::<(), quanta_circuit::TextError>(())
    /// ```
    pub fn trimmed(&self, d_in: usize, d_out: usize) -> Trimmed {
        let schedule = Schedule::new(self, d_in, d_out);
        let axes = self.in_dims().len();
        let touched: Vec<bool> = (1..=axes as isize)
            .rev()
            .map(|axis| self.gates().iter().any(|gate| gate.axes().contains(&-axis)))
            .collect();
        let mut kept = Vec::new();
        let mut gates = Vec::new();
        for (gate, step) in self.gates().iter().zip(&schedule.steps) {
            let sizes = if gate.axes().len() == 2 {
                vec![step.out_sizes[1], step.out_sizes[0]]
            } else {
                vec![step.out_sizes[1]]
            };
            gates.push((gate.axes().to_vec(), Some(sizes)));
            for row in 0..step.rows() {
                let start = gate.offset() + step.full_row(row) * gate.cols();
                kept.extend((0..step.cols()).map(|col| start + step.full_col(col)));
            }
        }
        let plan = Self::new(&live_box(self.in_dims(), d_in, &touched), &gates);
        // Slices of a valid plan's gates are valid: same axes, sizes between one and the original's.
        Trimmed { plan: plan.unwrap_or_else(|_| unreachable!("slices of a plan are a plan")), kept }
    }

    /// For every parameter, whether it can receive a gradient when the input is padded from or truncated to `d_in` and the output to `d_out`.
    ///
    /// A parameter is live if it multiplies, for some index of the other axes, an input that padding does not make zero, and its product reaches an
    /// output that is not truncated. Exact for gates without structural zeros. Cost: as one application to one token.
    pub fn live_parameters(&self, d_in: usize, d_out: usize) -> Vec<bool> {
        let stages = self.stages();
        let mut non_zero: Vec<Vec<bool>> = vec![(0..self.in_len()).map(|i| i < d_in).collect()];
        for (gate, dims) in self.gates().iter().zip(&stages) {
            let source = &non_zero[non_zero.len() - 1];
            let mut target = vec![false; source.len() / gate.cols() * gate.rows()];
            each_fibre(gate, dims, |ins, outs| {
                let any = ins.iter().any(|&i| source[i]);
                outs.iter().for_each(|&o| target[o] = any);
            });
            non_zero.push(target);
        }
        let mut read: Vec<bool> = (0..self.out_len()).map(|i| i < d_out).collect();
        let mut live = vec![false; self.parameters()];
        for (index, gate) in self.gates().iter().enumerate().rev() {
            let source = &non_zero[index];
            let mut needed = vec![false; source.len()];
            each_fibre(gate, &stages[index], |ins, outs| {
                for (row, _) in outs.iter().enumerate().filter(|&(_, &o)| read[o]) {
                    for (col, &i) in ins.iter().enumerate() {
                        live[gate.offset() + row * gate.cols() + col] |= source[i];
                        needed[i] = true;
                    }
                }
            });
            read = needed;
        }
        live
    }
}

/// Calls `visit(input indices, output indices)`, in the order of the gate's columns and rows, for every index of the other axes.
pub(crate) fn each_fibre(gate: &Gate, dims: &[usize], mut visit: impl FnMut(&[usize], &[usize])) {
    let positions = gate.positions(dims.len());
    let (p, q) = (positions[0], positions[positions.len() - 1]);
    let inner: usize = dims[q + 1..].iter().product();
    let middle: usize = if p == q { 1 } else { dims[p + 1..q].iter().product() };
    let outer: usize = dims[..p].iter().product();
    let sizes = |sizes: &[usize]| if p == q { [1, sizes[0]] } else { [sizes[1], sizes[0]] };
    let (in_sizes, out_sizes) = (sizes(gate.in_sizes()), sizes(gate.out_sizes()));
    let (mut ins, mut outs) = (vec![0; gate.cols()], vec![0; gate.rows()]);
    for o in 0..outer {
        for m in 0..middle {
            for i in 0..inner {
                for ([p, q], indices) in [(in_sizes, &mut ins), (out_sizes, &mut outs)] {
                    for (k, index) in indices.iter_mut().enumerate() {
                        *index = (((o * p + k / q) * middle + m) * q + k % q) * inner + i;
                    }
                }
                visit(&ins, &outs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::numbers;
    use crate::{apply, backward};

    const PLANS: [&str; 5] = ["4-3-2", "6-4", "3-2-4: (-1,-3) (-2) (-1,-2)", "2-2-3 -> 3-2-2", "3-4: (-1)->(5)"];

    #[test]
    fn dead_parameters_are_those_without_a_gradient() {
        for text in PLANS {
            let plan: Plan = text.parse().unwrap();
            for (d_in, d_out) in
                [(plan.in_len(), plan.out_len()), (7, 5), (3, plan.out_len()), (plan.in_len(), 2), (99, 1)]
            {
                let gates: Vec<f64> = numbers(plan.parameters(), 1);
                let (x, dy) = (numbers::<f64>(9 * d_in, 2), numbers::<f64>(9 * d_out, 3));
                let mut dgates = vec![0.0; gates.len()];
                backward(&plan, &gates, &x, d_in, &dy, d_out, 1.0, None, Some(&mut dgates));
                let received: Vec<bool> = dgates.iter().map(|&gradient| gradient != 0.0).collect();
                assert_eq!(plan.live_parameters(d_in, d_out), received, "{text} {d_in} {d_out}");
            }
        }
    }

    #[test]
    fn trimmed_plans_compute_the_same() {
        for text in PLANS {
            let plan: Plan = text.parse().unwrap();
            for (d_in, d_out) in
                [(plan.in_len(), plan.out_len()), (7, 5), (3, plan.out_len()), (plan.in_len(), 2), (99, 1)]
            {
                let gates: Vec<f64> = numbers(plan.parameters(), 1);
                let trimmed = plan.trimmed(d_in, d_out);
                let kept: Vec<f64> = trimmed.kept.iter().map(|&i| gates[i]).collect();
                let x: Vec<f64> = numbers(2 * d_in, 2);
                let (mut y, mut y_trimmed) = (vec![0.0; 2 * d_out], vec![0.0; 2 * d_out]);
                apply(&plan, &gates, &x, d_in, &mut y, d_out, 1.0);
                apply(&trimmed.plan, &kept, &x, d_in, &mut y_trimmed, d_out, 1.0);
                assert_eq!(y, y_trimmed, "{text} {d_in} {d_out}");
                let live = plan.live_parameters(d_in, d_out);
                assert!((0..live.len()).all(|i| !live[i] || trimmed.kept.contains(&i)), "{text}: a live value was cut");
            }
        }
    }

    #[test]
    fn published_shares_of_dead_parameters() {
        for (text, d, dead) in [("16-8-8-4", [4096, 1024], 12_288), ("16-8-8-8", [8192, 1024], 14_336)] {
            let plan: Plan = text.parse().unwrap();
            let live = plan.live_parameters(d[0], d[1]);
            assert_eq!(live.iter().filter(|&&live| !live).count(), dead);
            assert_eq!(plan.parameters() - plan.trimmed(d[0], d[1]).plan.parameters(), dead);
        }
    }
}
