//! From a plan to strides: what the tiled kernel needs to know about each gate for given `d_in` and `d_out`.
//!
//! Two decisions live here. First, every gate on any axes is three loops (outer, middle, inner) around a small matrix product, so no permutation of
//! the tensor is ever needed. Second, padding and truncation are moved into the gates: values that are zero because the input is padded, and values
//! that nobody reads because the output is truncated, are sliced off the gates' columns and rows, which is exact and saves their work. The
//! arithmetic itself is left to `gate`.

use crate::Plan;

/// One gate as strided loops over a tensor `[outer, size_p, middle, size_q, inner]`, p < q the positions of its axes (a single axis has size_p =
/// middle = 1).
pub(crate) struct Step {
    /// Product of the sizes before the first axis.
    pub outer: usize,
    /// Product of the sizes between the two axes.
    pub middle: usize,
    /// Product of the sizes behind the second axis: values that lie together in memory.
    pub inner: usize,
    /// Sizes (p, q) of the part of the input that can be non-zero.
    pub in_sizes: [usize; 2],
    /// Sizes (p, q) of the part of the output that is read.
    pub out_sizes: [usize; 2],
    /// Size q of the whole gate's input and number of its columns.
    full_in: [usize; 2],
    /// Size q of the whole gate's output and number of its rows.
    full_out: [usize; 2],
    /// Where the gate's values begin in the flat parameter slice.
    pub offset: usize,
    /// Distance of every gate column's values from the base, in features.
    pub in_offsets: Vec<usize>,
    /// Distance of every gate row's values from the base, in features.
    pub out_offsets: Vec<usize>,
    /// 0, 1, 2, ...: the rows of the gate's gradient, in the form of `out_offsets`.
    pub sum_rows: Vec<usize>,
}

impl Step {
    /// A gate on the axes at `positions` (one or two, ascending) of a tensor of axes `dims`, with the sizes that these axes have behind it.
    pub fn on(dims: &[usize], positions: &[usize], out_sizes: &[usize]) -> Self {
        let (p, q) = (positions[0], positions[positions.len() - 1]);
        let double = positions.len() == 2;
        let (in_sizes, out_sizes) =
            if double { ([dims[p], dims[q]], [out_sizes[0], out_sizes[1]]) } else { ([1, dims[q]], [1, out_sizes[0]]) };
        let mut step = Self {
            outer: dims[..p].iter().product(),
            middle: if double { dims[p + 1..q].iter().product() } else { 1 },
            inner: dims[q + 1..].iter().product(),
            in_sizes,
            out_sizes,
            full_in: [in_sizes[1], in_sizes[0] * in_sizes[1]],
            full_out: [out_sizes[1], out_sizes[0] * out_sizes[1]],
            offset: 0,
            in_offsets: Vec::new(),
            out_offsets: Vec::new(),
            sum_rows: Vec::new(),
        };
        step.in_offsets = step.offsets(in_sizes);
        step.out_offsets = step.offsets(out_sizes);
        step.sum_rows = (0..step.rows()).collect();
        step
    }

    /// Gate rows in use.
    pub fn rows(&self) -> usize {
        self.out_sizes[0] * self.out_sizes[1]
    }

    /// Gate columns in use.
    pub fn cols(&self) -> usize {
        self.in_sizes[0] * self.in_sizes[1]
    }

    /// Features in front of the gate.
    pub fn in_len(&self) -> usize {
        self.outer * self.middle * self.inner * self.cols()
    }

    /// Features behind the gate.
    pub fn out_len(&self) -> usize {
        self.outer * self.middle * self.inner * self.rows()
    }

    /// Whether output may overwrite input: every small product then writes the places it has read, and no others.
    pub fn fits_in_place(&self) -> bool {
        self.in_sizes == self.out_sizes
    }

    /// First feature of input and output for the outer and middle index.
    pub fn bases(&self, outer: usize, middle: usize) -> (usize, usize) {
        let base = |[p, q]: [usize; 2]| (outer * p * self.middle + middle) * q * self.inner;
        (base(self.in_sizes), base(self.out_sizes))
    }

    /// Columns of the whole gate.
    pub fn full_cols(&self) -> usize {
        self.full_in[1]
    }

    /// Row of the whole gate for a row in use.
    pub fn full_row(&self, row: usize) -> usize {
        row / self.out_sizes[1] * self.full_out[0] + row % self.out_sizes[1]
    }

    /// Column of the whole gate for a column in use.
    pub fn full_col(&self, col: usize) -> usize {
        col / self.in_sizes[1] * self.full_in[0] + col % self.in_sizes[1]
    }

    fn offsets(&self, [p, q]: [usize; 2]) -> Vec<usize> {
        (0..p * q).map(|index| (index / q * self.middle * q + index % q) * self.inner).collect()
    }

    /// Every index of the outer and the middle loop.
    pub fn loops(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (outer, middle) = (self.outer, self.middle);
        (0..outer).flat_map(move |outer| (0..middle).map(move |middle| (outer, middle)))
    }

    /// Where a row in use begins in the parameter slice, and what a column in use adds: found once, not for every value.
    pub fn places(&self) -> [Vec<usize>; 2] {
        let rows = (0..self.rows()).map(|row| self.offset + self.full_row(row) * self.full_cols()).collect();
        [rows, (0..self.cols()).map(|col| self.full_col(col)).collect()]
    }
}

/// A plan made ready for given `d_in` and `d_out`.
pub(crate) struct Schedule {
    /// The gates in order of application.
    pub steps: Vec<Step>,
    /// Features of the first gate's input.
    pub in_len: usize,
    /// Features of the last gate's output.
    pub out_len: usize,
    /// The most features between any two gates.
    pub max_len: usize,
}

/// Bytes that the inputs of all gates on one tile may take, with room for the gradients beside them in the second-level cache of today's machines.
const TILE_BYTES: usize = 1 << 19;

impl Schedule {
    /// Tokens of a tile for registers of `lanes` numbers: four registers where the tensors between the gates stay in the cache, two otherwise. Every panel
    /// of a gate reads and writes all its gradient sums, which a wide tile pays less often.
    pub fn tile<T>(&self, lanes: usize) -> usize {
        let features: usize = self.steps.iter().map(Step::in_len).sum();
        let registers = if 4 * features * lanes * size_of::<T>() <= TILE_BYTES { 4 } else { 2 };
        registers * lanes
    }

    /// Features of the inputs of all gates but the first.
    pub fn between_len(&self) -> usize {
        self.steps.iter().skip(1).map(Step::in_len).sum()
    }

    /// Slices the gates for the first `d_in` inputs and the first `d_out` outputs.
    pub fn new(plan: &Plan, d_in: usize, d_out: usize) -> Self {
        let axes = plan.in_dims().len();
        let positions: Vec<Vec<usize>> = plan.gates().iter().map(|gate| gate.positions(axes)).collect();
        let touched: Vec<bool> = (0..axes).map(|axis| positions.iter().any(|gate| gate.contains(&axis))).collect();
        let live_in = live_box(plan.in_dims(), d_in, &touched);
        let live_out = live_box(plan.out_dims(), d_out, &touched);
        let mut dims = live_in.clone();
        let in_len: usize = dims.iter().product();
        let mut max_len = in_len;
        let mut steps = Vec::with_capacity(plan.gates().len());
        for (index, gate) in plan.gates().iter().enumerate() {
            let axis = &positions[index];
            let is_last = |p: usize| !positions[index + 1..].iter().any(|later| later.contains(&p));
            let out = |i: usize| {
                // The sizes of a gate are listed from the end, the positions from the front.
                if is_last(axis[i]) { live_out[axis[i]] } else { gate.out_sizes()[axis.len() - 1 - i] }
            };
            let out_sizes: Vec<usize> = (0..axis.len()).map(out).collect();
            let mut step = Step::on(&dims, axis, &out_sizes);
            step.full_in = [gate.in_sizes()[0], gate.cols()];
            step.full_out = [gate.out_sizes()[0], gate.rows()];
            step.offset = gate.offset();
            for i in 0..axis.len() {
                dims[axis[i]] = out_sizes[i];
            }
            max_len = max_len.max(step.out_len());
            steps.push(step);
        }
        Self { steps, in_len, out_len: dims.iter().product(), max_len }
    }
}

/// The smallest box `[l_1, ..., l_N]` that holds the first `len` values of a tensor of axes `dims` and keeps their order in memory.
///
/// Only the leading axes may shrink: axis n only while all axes before it have shrunk to 1. An axis that no gate touches keeps its size, because input and
/// output must agree on it.
pub(crate) fn live_box(dims: &[usize], len: usize, touched: &[bool]) -> Vec<usize> {
    let mut sizes = dims.to_vec();
    for axis in 0..dims.len() {
        let stride: usize = dims[axis + 1..].iter().product();
        if touched[axis] {
            sizes[axis] = dims[axis].min(len.div_ceil(stride).max(1));
        }
        if sizes[axis] > 1 {
            break;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_outputs_slice_the_last_gate() {
        let plan = Plan::all_pairs(&[16, 8, 8, 8]).unwrap();
        let schedule = Schedule::new(&plan, 8192, 1024);
        let sizes: Vec<_> = schedule.steps.iter().map(|step| (step.in_sizes, step.out_sizes)).collect();
        assert_eq!(sizes[5], ([16, 8], [2, 8]));
        assert!(schedule.steps[..5].iter().all(Step::fits_in_place));
        assert_eq!((schedule.in_len, schedule.out_len, schedule.max_len), (8192, 1024, 8192));
    }

    #[test]
    fn boxes_keep_the_order_of_the_values() {
        assert_eq!(live_box(&[4, 3, 2], 7, &[true; 3]), [2, 3, 2]);
        assert_eq!(live_box(&[4, 3, 2], 3, &[true; 3]), [1, 2, 2]);
        assert_eq!(live_box(&[4, 3, 2], 1, &[true; 3]), [1, 1, 1]);
        assert_eq!(live_box(&[4, 3, 2], 3, &[false, true, true]), [4, 3, 2]);
        assert_eq!(live_box(&[4, 3, 2], 90, &[true; 3]), [4, 3, 2]);
    }
}
