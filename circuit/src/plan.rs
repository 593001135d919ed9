//! Plans: which gates act on which axes, in which order, and how the axes change size on the way.
//!
//! A plan is the validated description of a circuit without its numbers. Everything else in the crate (kernels, einsum strings, theory, drawings)
//! reads a plan and may rely on it being consistent, so all checks live here. The values of the gates are the caller's, in one flat slice; the text
//! form of a plan is in [`crate::text`].

use thiserror::Error;

/// Why a plan cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The circuit has too few axes for what was asked.
    #[error("{needed} axes or more are needed, got {got}: split the dimension, e.g. 4096 = 16-8-8-4")]
    TooFewAxes {
        /// The least number of axes.
        needed: usize,
        /// The number of axes given.
        got: usize,
    },
    /// An axis or a gate's output has size zero.
    #[error("axis {axis} has size 0: every axis needs a size of at least 1")]
    EmptyAxis {
        /// The axis, counted from the end.
        axis: isize,
    },
    /// The sizes multiply to more than the machine can count.
    #[error("the axis sizes {dims:?} or a gate on them are too large to count: use smaller axes")]
    TooLarge {
        /// The sizes of the axes.
        dims: Vec<usize>,
    },
    /// Input and output have different numbers of axes.
    #[error(
        "input has {input} axes and output has {output}: give both the same number of axes (an axis may have size 1)"
    )]
    AxisCountMismatch {
        /// Axes of the input.
        input: usize,
        /// Axes of the output.
        output: usize,
    },
    /// A gate names an axis that the circuit does not have.
    #[error("gate {gate} acts on axis {axis}: axes are counted from the end, -1 to -{axes}")]
    UnknownAxis {
        /// Index of the gate in order of application.
        gate: usize,
        /// The axis that was named.
        axis: isize,
        /// The number of axes of the circuit.
        axes: usize,
    },
    /// A gate names one axis twice.
    #[error("gate {gate} names axis {axis} twice: name two different axes, or one axis once for a single-axis gate")]
    RepeatedAxis {
        /// Index of the gate in order of application.
        gate: usize,
        /// The axis that was named twice.
        axis: isize,
    },
    /// A gate acts on no axis, or on more than two.
    #[error("gate {gate} acts on {got} axes: a gate acts on one axis or two")]
    AxesPerGate {
        /// Index of the gate in order of application.
        gate: usize,
        /// The number of axes named.
        got: usize,
    },
    /// A gate lists output sizes for a different number of axes than it acts on.
    #[error("gate {gate} acts on {axes} axes and gives sizes of {got}: give one size an axis")]
    SizesPerGate {
        /// Index of the gate in order of application.
        gate: usize,
        /// Number of axes the gate acts on.
        axes: usize,
        /// Number of sizes given.
        got: usize,
    },
    /// An axis is to change size, and no gate touches it.
    #[error("axis {axis} is to change from size {from} to {to}, but no gate acts on it: add a gate on this axis")]
    UntouchedAxis {
        /// The axis, counted from the end.
        axis: isize,
        /// Its size at the input.
        from: usize,
        /// Its size wanted at the output.
        to: usize,
    },
    /// A square gate is needed.
    #[error(
        "gate {gate} maps {cols} values to {rows}: only a square gate can be the identity, use the uniform initial value"
    )]
    NotSquare {
        /// Index of the gate in order of application.
        gate: usize,
        /// Its output size.
        rows: usize,
        /// Its input size.
        cols: usize,
    },
}

/// One gate of a plan: a matrix on one or two axes, all other axes being batch axes (paper, Eq. 4).
///
/// For axes (a, b), a the one nearer the end, the matrix has shape `[out_b*out_a, in_b*in_a]`, row-major: the tensor `[out_b, out_a, in_b, in_a]`.
/// A gate on the single axis a is the matrix `[out_a, in_a]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    axes: Vec<isize>,
    in_sizes: Vec<usize>,
    out_sizes: Vec<usize>,
    offset: usize,
}

impl Gate {
    /// The axes, counted from the end (all negative), the one nearest the end first: `[a, b]` or `[a]`.
    pub fn axes(&self) -> &[isize] {
        &self.axes
    }

    /// Sizes of the axes before the gate, in the order of [`Gate::axes`].
    pub fn in_sizes(&self) -> &[usize] {
        &self.in_sizes
    }

    /// Sizes of the axes after the gate, in the order of [`Gate::axes`].
    pub fn out_sizes(&self) -> &[usize] {
        &self.out_sizes
    }

    /// Rows of the gate's matrix: the product of the output sizes.
    pub fn rows(&self) -> usize {
        self.out_sizes.iter().product()
    }

    /// Columns of the gate's matrix: the product of the input sizes (`K` of the paper's initial value).
    pub fn cols(&self) -> usize {
        self.in_sizes.iter().product()
    }

    /// Number of values of the gate.
    pub fn parameters(&self) -> usize {
        self.rows() * self.cols()
    }

    /// Where the gate's values begin in the circuit's flat parameter slice.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The range of the gate's values in the circuit's flat parameter slice.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.parameters()
    }

    /// The shape of the gate as a tensor: `[out_b, out_a, in_b, in_a]`, or `[out_a, in_a]` for a single axis.
    pub fn shape(&self) -> Vec<usize> {
        self.out_sizes.iter().rev().chain(self.in_sizes.iter().rev()).copied().collect()
    }

    /// Whether the gate leaves the sizes of its axes as they are.
    pub fn is_square(&self) -> bool {
        self.in_sizes == self.out_sizes
    }

    /// Positions of the axes counted from the front of `axes` axes, ascending: `[position_b, position_a]` or `[position_a]`.
    pub(crate) fn positions(&self, axes: usize) -> Vec<usize> {
        // The constructor has checked that every axis lies in -axes..=-1.
        self.axes.iter().rev().map(|&axis| axes - axis.unsigned_abs()).collect()
    }
}

/// A validated circuit plan: input and output axes and the gates in order of application. Read from text and written as text by `parse` and `to_string`, in
/// the grammar of its [`FromStr`](#impl-FromStr-for-Plan).
///
/// ```
/// use quanta_circuit::Plan;
/// let plan = Plan::all_pairs(&[16, 8, 8, 4])?;
/// assert_eq!((plan.gates().len(), plan.parameters()), (6, 43_008));
/// assert_eq!(plan.gates()[1].axes(), [-1, -3]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    in_dims: Vec<usize>,
    out_dims: Vec<usize>,
    gates: Vec<Gate>,
    parameters: usize,
}

impl Plan {
    /// A plan from the input axes and any sequence of gates, the first one applied first.
    ///
    /// Each gate is its axes counted from the end (one or two, in any order) and, for a gate that changes sizes, the output size of each axis in the
    /// same order. `None` keeps the sizes.
    ///
    /// # Errors
    /// [`PlanError`] where an axis does not exist, is empty or is named twice, or the circuit is too large to count.
    ///
    /// ```
    /// use quanta_circuit::Plan;
    /// // axis -1 shrinks from 4 to 3, then a gate on both axes
    /// let plan = Plan::new(&[6, 4], &[(vec![-1], Some(vec![3])), (vec![-2, -1], None)])?;
    /// assert_eq!((plan.out_dims(), plan.parameters()), (&[6, 3][..], 3 * 4 + 18 * 18));
    /// assert_eq!(plan.gates()[1].shape(), [6, 3, 6, 3]); // as an operand of einsum, too
    /// # Ok::<(), quanta_circuit::PlanError>(())
    /// ```
    pub fn new(in_dims: &[usize], gates: &[(Vec<isize>, Option<Vec<usize>>)]) -> Result<Self, PlanError> {
        let axes = in_dims.len();
        if axes == 0 {
            return Err(PlanError::TooFewAxes { needed: 1, got: 0 });
        }
        if let Some(position) = in_dims.iter().position(|&size| size == 0) {
            return Err(PlanError::EmptyAxis { axis: position as isize - axes as isize });
        }
        let mut dims = in_dims.to_vec();
        let too_large = |dims: &[usize]| PlanError::TooLarge { dims: dims.to_vec() };
        checked_product(&dims).ok_or_else(|| too_large(&dims))?;
        let mut plan = Self { in_dims: in_dims.to_vec(), out_dims: Vec::new(), gates: Vec::new(), parameters: 0 };
        for (index, (gate_axes, out_sizes)) in gates.iter().enumerate() {
            let gate = checked_gate(index, &mut dims, gate_axes, out_sizes.as_deref(), plan.parameters)?;
            let values = checked_product(&gate.shape()).ok_or_else(|| too_large(&dims))?;
            plan.parameters = plan.parameters.checked_add(values).ok_or_else(|| too_large(&dims))?;
            checked_product(&dims).ok_or_else(|| too_large(&dims))?;
            plan.gates.push(gate);
        }
        plan.out_dims = dims;
        Ok(plan)
    }

    /// The paper's plan: one gate for every pair of axes, in the order (-1,-2), (-1,-3), ..., (-1,-N), (-2,-3), ..., (-(N-1),-N).
    ///
    /// Paper, section 5 and appendix G. Two axes give one full matrix.
    ///
    /// # Errors
    /// [`PlanError`] for fewer than two axes, an empty axis, or sizes too large to count.
    pub fn all_pairs(dims: &[usize]) -> Result<Self, PlanError> {
        Self::all_pairs_between(dims, dims)
    }

    /// The all-pairs plan between different input and output axes: an axis takes its output size at the last gate that touches it (paper, appendix B).
    ///
    /// # Errors
    /// As [`Plan::all_pairs`], and where the numbers of axes differ.
    pub fn all_pairs_between(in_dims: &[usize], out_dims: &[usize]) -> Result<Self, PlanError> {
        if in_dims.len() < 2 {
            return Err(PlanError::TooFewAxes { needed: 2, got: in_dims.len() });
        }
        Self::between(in_dims, out_dims, &pairs(in_dims.len()))
    }

    /// Any sequence of gates on axes counted from the end, two axes or one a gate, repeats allowed; sizes do not change.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn free(dims: &[usize], gate_axes: &[Vec<isize>]) -> Result<Self, PlanError> {
        let gates: Vec<_> = gate_axes.iter().map(|axes| (axes.clone(), None)).collect();
        Self::new(dims, &gates)
    }

    /// Any sequence of gates between different input and output axes: an axis takes its output size at the last gate that touches it.
    ///
    /// # Errors
    /// As [`Plan::new`], and where the numbers of axes differ or an axis that changes size is touched by no gate.
    pub fn between(in_dims: &[usize], out_dims: &[usize], gate_axes: &[Vec<isize>]) -> Result<Self, PlanError> {
        let axes = in_dims.len();
        if axes != out_dims.len() {
            return Err(PlanError::AxisCountMismatch { input: axes, output: out_dims.len() });
        }
        for (position, (&from, &to)) in in_dims.iter().zip(out_dims).enumerate() {
            let axis = position as isize - axes as isize;
            if from == 0 || to == 0 {
                return Err(PlanError::EmptyAxis { axis });
            }
            if from != to && !gate_axes.iter().any(|gate| gate.contains(&axis)) {
                return Err(PlanError::UntouchedAxis { axis, from, to });
            }
        }
        let size = |axis: isize, dims: &[usize]| {
            // An axis out of range gets size 1 here; the constructor below reports it.
            axes.checked_sub(axis.unsigned_abs()).filter(|_| axis < 0).map_or(1, |position| dims[position])
        };
        let gates: Vec<_> = gate_axes
            .iter()
            .enumerate()
            .map(|(index, gate)| {
                let is_last = |axis| !gate_axes[index + 1..].iter().any(|later| later.contains(&axis));
                let sizes = gate.iter().map(|&axis| size(axis, if is_last(axis) { out_dims } else { in_dims }));
                (gate.clone(), Some(sizes.collect()))
            })
            .collect();
        Self::new(in_dims, &gates)
    }

    /// Sizes of the input axes, `d_1 - ... - d_N`.
    pub fn in_dims(&self) -> &[usize] {
        &self.in_dims
    }

    /// Sizes of the output axes.
    pub fn out_dims(&self) -> &[usize] {
        &self.out_dims
    }

    /// Number of values of the input tensor.
    pub fn in_len(&self) -> usize {
        self.in_dims.iter().product()
    }

    /// Number of values of the output tensor.
    pub fn out_len(&self) -> usize {
        self.out_dims.iter().product()
    }

    /// The gates, in order of application.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// Number of values of all gates: the length of the flat parameter slice, gate after gate in order of application.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Whether every gate leaves the sizes of its axes as they are.
    pub fn is_square(&self) -> bool {
        self.gates.iter().all(Gate::is_square)
    }

    /// Sizes of the axes before gate 0, before gate 1, ..., after the last gate: one more entry than there are gates.
    pub fn stages(&self) -> Vec<Vec<usize>> {
        let mut dims = self.in_dims.clone();
        let mut stages = vec![dims.clone()];
        for gate in &self.gates {
            for (position, &size) in gate.positions(dims.len()).into_iter().zip(gate.out_sizes.iter().rev()) {
                dims[position] = size;
            }
            stages.push(dims.clone());
        }
        stages
    }

    /// Floating-point operations of one application to one token: two for every multiply-add, without padding or truncation.
    pub fn flops_per_token(&self) -> u64 {
        let stages = self.stages();
        let flops = |(gate, dims): (&Gate, &Vec<usize>)| 2 * (dims.iter().product::<usize>() * gate.rows()) as u64;
        self.gates.iter().zip(&stages).map(flops).sum()
    }
}

/// Every pair of `axes` axes counted from the end, in the paper's order.
pub fn pairs(axes: usize) -> Vec<Vec<isize>> {
    let axes = axes as isize;
    (1..axes).flat_map(|a| (a + 1..=axes).map(move |b| vec![-a, -b])).collect()
}

fn checked_product(sizes: &[usize]) -> Option<usize> {
    // A factor two spare keeps later byte counts and doubled indices in range as well.
    sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&product| product < usize::MAX >> 8)
}

fn checked_gate(
    index: usize,
    dims: &mut [usize],
    gate_axes: &[isize],
    out_sizes: Option<&[usize]>,
    offset: usize,
) -> Result<Gate, PlanError> {
    let axes = dims.len();
    if gate_axes.is_empty() || gate_axes.len() > 2 {
        return Err(PlanError::AxesPerGate { gate: index, got: gate_axes.len() });
    }
    if let Some(&axis) = gate_axes.iter().find(|&&axis| axis >= 0 || axis.unsigned_abs() > axes) {
        return Err(PlanError::UnknownAxis { gate: index, axis, axes });
    }
    if gate_axes.len() == 2 && gate_axes[0] == gate_axes[1] {
        return Err(PlanError::RepeatedAxis { gate: index, axis: gate_axes[0] });
    }
    if let Some(sizes) = out_sizes.filter(|sizes| sizes.len() != gate_axes.len()) {
        return Err(PlanError::SizesPerGate { gate: index, axes: gate_axes.len(), got: sizes.len() });
    }
    let position = |axis: isize| axes - axis.unsigned_abs();
    let mut order: Vec<usize> = (0..gate_axes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(gate_axes[i]));
    let mut gate = Gate { axes: Vec::new(), in_sizes: Vec::new(), out_sizes: Vec::new(), offset };
    for i in order {
        let (axis, size) = (gate_axes[i], dims[position(gate_axes[i])]);
        let out_size = out_sizes.map_or(size, |sizes| sizes[i]);
        if out_size == 0 {
            return Err(PlanError::EmptyAxis { axis });
        }
        gate.axes.push(axis);
        gate.in_sizes.push(size);
        gate.out_sizes.push(out_size);
        dims[position(axis)] = out_size;
    }
    Ok(gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_follow_the_paper_order_and_count() {
        let plan = Plan::all_pairs(&[16, 8, 8, 4]).unwrap();
        let axes: Vec<_> = plan.gates().iter().map(|gate| gate.axes().to_vec()).collect();
        assert_eq!(axes, [[-1, -2], [-1, -3], [-1, -4], [-2, -3], [-2, -4], [-3, -4]]);
        assert_eq!(plan.flops_per_token(), 2 * 4096 * 448);
        let gate = &plan.gates()[2];
        assert_eq!((gate.shape(), gate.offset()), (vec![16, 4, 16, 4], 2 * 32 * 32));
        for (dims, parameters) in [
            (vec![16, 16, 16], 196_608),
            (vec![8, 8, 8, 8], 24_576),
            (vec![16, 16, 4, 4], 82_176),
            (vec![16, 8, 8, 5], 46_464),
            (vec![16, 8, 8, 8], 61_440),
            (vec![8, 8, 4, 4, 4], 11_008),
        ] {
            assert_eq!(Plan::all_pairs(&dims).unwrap().parameters(), parameters, "{dims:?}");
        }
    }

    #[test]
    fn axes_change_size_at_their_last_gate() {
        let plan = Plan::all_pairs_between(&[16, 8, 8, 8], &[2, 8, 8, 4]).unwrap();
        let out: Vec<_> = plan.gates().iter().map(|gate| gate.out_sizes().to_vec()).collect();
        assert_eq!(out, [vec![8, 8], vec![8, 8], vec![4, 16], vec![8, 8], vec![8, 16], vec![8, 2]]);
        assert_eq!((plan.in_len(), plan.out_len()), (8192, 512));
    }

    #[test]
    fn broken_plans_are_refused_by_name() {
        let free = |axes: &[Vec<isize>]| Plan::free(&[4, 3, 2], axes).unwrap_err();
        assert_eq!(free(&[vec![-1, -4]]), PlanError::UnknownAxis { gate: 0, axis: -4, axes: 3 });
        assert_eq!(free(&[vec![-1], vec![1, -2]]), PlanError::UnknownAxis { gate: 1, axis: 1, axes: 3 });
        assert_eq!(free(&[vec![-1, -1]]), PlanError::RepeatedAxis { gate: 0, axis: -1 });
        assert_eq!(free(&[vec![]]), PlanError::AxesPerGate { gate: 0, got: 0 });
        assert_eq!(Plan::all_pairs(&[64]).unwrap_err(), PlanError::TooFewAxes { needed: 2, got: 1 });
        assert_eq!(Plan::all_pairs(&[4, 0]).unwrap_err(), PlanError::EmptyAxis { axis: -1 });
        assert!(matches!(Plan::all_pairs(&[usize::MAX, 2]), Err(PlanError::TooLarge { .. })));
        assert!(matches!(Plan::all_pairs(&[1 << 20, 1 << 20, 1 << 10]), Err(PlanError::TooLarge { .. })));
        assert_eq!(
            Plan::between(&[4, 3, 2], &[4, 3, 3], &[vec![-2]]).unwrap_err(),
            PlanError::UntouchedAxis { axis: -1, from: 2, to: 3 }
        );
        assert!(matches!(Plan::between(&[4, 3], &[4, 3, 3], &[]), Err(PlanError::AxisCountMismatch { .. })));
    }

    #[test]
    fn axes_of_a_gate_may_be_given_in_any_order() {
        let gates = [(vec![-3, -1], Some(vec![5, 7]))];
        let plan = Plan::new(&[4, 3, 2], &gates).unwrap();
        assert_eq!((plan.gates()[0].axes(), plan.gates()[0].out_sizes()), (&[-1, -3][..], &[7, 5][..]));
        assert_eq!(plan.out_dims(), [5, 3, 7]);
    }
}
