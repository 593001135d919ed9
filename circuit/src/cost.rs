//! What a circuit costs, and whether to apply it gate by gate or as one full matrix.
//!
//! Counts are exact numbers of floating-point operations (two for a multiply-add) of what this crate's kernels do, dead slices left out. The choice
//! follows from the counts: a circuit that is folded into the frozen weight costs nothing per token, but its operator has to be built after every
//! change of the gates, and its gate gradients then need the full gradient of the weight. Measuring is left to the benchmarks.

use crate::Plan;
use crate::kernel::schedule::{Schedule, Step};
use crate::operator;

/// Counts for one circuit on one site; see [`Plan::cost`]. An operation is an addition or a multiplication. What padding and truncation make dead is left out
/// of the operations for tokens, and counted in what is of the whole circuit: parameters, the operator, their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Values of all gates.
    pub parameters: u64,
    /// Operations of the forward pass, for one token.
    pub forward_flops: u64,
    /// Operations of the backward pass for one token: intermediates computed again, gate gradients, input gradient.
    pub backward_flops: u64,
    /// Operations of the frozen layer of the same shape for one token, forward only.
    pub dense_flops: u64,
    /// Operations that form the full operator once.
    pub operator_flops: u64,
    /// Operations that pull a gradient of the operator back to the gates once.
    pub pull_back_flops: u64,
    /// Bytes of the gates.
    pub gate_bytes: u64,
    /// Bytes of the full operator.
    pub operator_bytes: u64,
    /// Bytes that one thread's backward pass keeps for each token of a tile.
    pub tile_bytes_per_token: u64,
}

/// How a circuit is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// Gate by gate, beside the frozen layer.
    Gates,
    /// As its full operator, added to the frozen weight.
    Operator,
}

impl Plan {
    /// Counts what the circuit costs on a site with `d_in` inputs and `d_out` outputs, for numbers of `bytes_per_number` bytes.
    ///
    /// ```
    /// use quanta_circuit::{Application, Plan};
    /// let cost = "16-8-8-4".parse::<Plan>()?.cost(4096, 4096, 4);
    /// assert_eq!((cost.forward_flops, cost.dense_flops), (3_670_016, 33_554_432));
    /// // Training wants the gates, a long evaluation with fixed gates the folded weight.
    /// assert_eq!(cost.choose(512, true, 0.8), Application::Gates);
    /// assert_eq!(cost.choose(100_000, false, 0.8), Application::Operator);
    /// # Ok::<(), quanta_circuit::TextError>(())
    /// ```
    pub fn cost(&self, d_in: usize, d_out: usize, bytes_per_number: usize) -> Cost {
        let schedule = Schedule::new(self, d_in, d_out);
        let flops = |step: &Step| 2 * (step.out_len() * step.cols()) as u64;
        let forward_flops: u64 = schedule.steps.iter().map(flops).sum();
        // The last gate's output is not computed again.
        let again = forward_flops - schedule.steps.last().map_or(0, flops);
        let kept: usize = schedule.steps.iter().map(Step::in_len).sum();
        let ([operator_flops, pull_back_flops], bytes) = (operator::flops(self), bytes_per_number as u64);
        Cost {
            parameters: self.parameters() as u64,
            forward_flops,
            backward_flops: again + 2 * forward_flops,
            dense_flops: 2 * (d_in * d_out) as u64,
            operator_flops,
            pull_back_flops,
            gate_bytes: self.parameters() as u64 * bytes,
            operator_bytes: (self.in_len() * self.out_len()) as u64 * bytes,
            tile_bytes_per_token: (kept + 2 * schedule.max_len) as u64 * bytes,
        }
    }
}

impl Cost {
    /// The cheaper way for `tokens` tokens between two changes of the gates, with or without training.
    ///
    /// `gate_efficiency` is the speed of the gate kernel as a share of the speed of the large matrix product, both in operations per second: measure
    /// it, it is 0.6 to 1.2 on the machines seen so far.
    ///
    /// Gates: `tokens * forward` (training: `+ backward`), divided by the efficiency. Operator: the operator once; training adds
    /// `tokens * dense` for the weight's gradient and the pull-back once, while the frozen layer's own products stay as they are.
    pub fn choose(&self, tokens: u64, trains: bool, gate_efficiency: f64) -> Application {
        let [forward, backward, dense, operator, pull_back, tokens] = [
            self.forward_flops,
            self.backward_flops,
            self.dense_flops,
            self.operator_flops,
            self.pull_back_flops,
            tokens,
        ]
        .map(|count| count as f64);
        let gates = tokens * (forward + if trains { backward } else { 0.0 }) / gate_efficiency;
        let folded = operator + if trains { tokens * dense + pull_back } else { 0.0 };
        if folded < gates { Application::Operator } else { Application::Gates }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_saves_work() {
        let plan: Plan = "16-8-8-8".parse().unwrap();
        let (whole, cut) = (plan.cost(8192, 8192, 4), plan.cost(8192, 1024, 4));
        assert_eq!(whole.forward_flops, plan.flops_per_token());
        // The last gate keeps 16 of its 128 rows.
        assert_eq!(whole.forward_flops - cut.forward_flops, 2 * 8192 * 112);
        assert_eq!(cut.parameters, 61_440);
    }

    #[test]
    fn training_never_folds_at_equal_speed() {
        for text in ["16-8-8-4", "16-16-16", "8-8-8-8", "16-16-4-4"] {
            let cost = text.parse::<Plan>().unwrap().cost(4096, 4096, 4);
            for tokens in [1, 512, 10_000, 10_000_000] {
                assert_eq!(cost.choose(tokens, true, 1.0), Application::Gates, "{text} {tokens}");
            }
            // Without training the crossover is the ratio of the counts.
            let crossover = cost.operator_flops / cost.forward_flops;
            assert_eq!(cost.choose(crossover - 1, false, 1.0), Application::Gates);
            assert_eq!(cost.choose(crossover + 2, false, 1.0), Application::Operator);
        }
    }
}
