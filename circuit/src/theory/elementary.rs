//! From multiplexed rotations on single bits to gates on two axes.
//!
//! An axis of size `2^k` is `k` bits. The recursive decomposition speaks of bits: a rotation of one target bit whose angle depends on all the others. Here
//! such an operation is cut into gates that touch two axes only, and consecutive gates on the same axes become one. Which operations are needed
//! is left to `universality`.
//!
//! The cut: a multiplexed operation `D(t)` with `X D(t) X = D(-t)` and controls outside of the two axes is a product of `2^m` operations without
//! these controls and `2^m` controlled negations `X` of the target, in Gray-code order; their parameters are the Walsh transform of `t` divided by
//! `2^m`.

use std::ops::{Add, Mul};

use faer::c64;

/// The numbers of a gate: real, or complex where the determinant asks for it.
pub(crate) trait Scalar: Copy + Add<Output = Self> + Mul<Output = Self> {
    /// From a complex number; the real type drops an imaginary part, which is zero where it is used.
    fn of(value: c64) -> Self;
}

impl Scalar for f64 {
    fn of(value: c64) -> Self {
        value.re
    }
}

impl Scalar for c64 {
    fn of(value: c64) -> Self {
        value
    }
}

/// What a multiplexed operation does to its target bit; both kinds change sign with the parameter when the bit is negated on both sides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `[cos t, -sin t; sin t, cos t]`, `t` real.
    Turn,
    /// `diag(e^t, e^-t)`.
    Scale,
}

/// A matrix on one or two axes, given by their positions from the front, ascending.
pub(crate) struct ElementaryGate<S> {
    pub axes: Vec<usize>,
    pub matrix: Vec<S>,
}

/// Bit `weight` of the index on `axis`.
#[derive(Clone, Copy)]
struct Bit {
    axis: usize,
    weight: usize,
}

/// The gates written so far, on axes whose bits are numbered in an order of their own.
pub(crate) struct Emitter<S> {
    dims: Vec<usize>,
    bits: Vec<Bit>,
    pub gates: Vec<ElementaryGate<S>>,
}

impl<S: Scalar> Emitter<S> {
    /// Bits are numbered axis by axis in the given order, the most significant first.
    pub fn new(dims: &[usize], order: &[usize]) -> Self {
        let mut bits = Vec::new();
        for &axis in order {
            bits.extend((0..dims[axis].ilog2()).rev().map(|k| Bit { axis, weight: 1 << k }));
        }
        Self { dims: dims.to_vec(), bits, gates: Vec::new() }
    }

    /// Position in the row-major tensor for an index whose bits are numbered as here.
    pub fn place(&self, index: usize) -> usize {
        let n = self.bits.len();
        let stride = |axis: usize| self.dims[axis + 1..].iter().product::<usize>();
        let set = self.bits.iter().enumerate().filter(|(k, _)| index >> (n - 1 - k) & 1 == 1);
        set.map(|(_, bit)| bit.weight * stride(bit.axis)).sum()
    }

    fn size(&self, axes: &[usize]) -> usize {
        axes.iter().map(|&axis| self.dims[axis]).product()
    }

    /// The last gate that an operation on `axes` can be multiplied onto, or a new one.
    fn open(&mut self, axes: &[usize]) -> usize {
        for index in (0..self.gates.len()).rev() {
            let gate = &self.gates[index];
            if axes.iter().all(|axis| gate.axes.contains(axis)) {
                return index;
            }
            if gate.axes.iter().all(|axis| axes.contains(axis)) {
                self.gates[index] = self.widened(gate, axes);
                return index;
            }
            // Operations on other axes commute with this one.
            if gate.axes.iter().any(|axis| axes.contains(axis)) {
                break;
            }
        }
        let size = self.size(axes);
        let [zero, one] = [0.0, 1.0].map(|value| S::of(c64::new(value, 0.0)));
        let matrix = (0..size * size).map(|i| if i / size == i % size { one } else { zero }).collect();
        self.gates.push(ElementaryGate { axes: axes.to_vec(), matrix });
        self.gates.len() - 1
    }

    /// A gate on one axis as a gate on two.
    fn widened(&self, gate: &ElementaryGate<S>, axes: &[usize]) -> ElementaryGate<S> {
        let (size, old, last) = (self.size(axes), self.size(&gate.axes), self.dims[axes[1]]);
        let zero = S::of(c64::new(0.0, 0.0));
        let split = |i: usize| if gate.axes[0] == axes[0] { (i / last, i % last) } else { (i % last, i / last) };
        let value = |i: usize| {
            let ((row, other_row), (col, other_col)) = (split(i / size), split(i % size));
            if other_row == other_col { gate.matrix[row * old + col] } else { zero }
        };
        ElementaryGate { axes: axes.to_vec(), matrix: (0..size * size).map(value).collect() }
    }

    /// A whole matrix on one or two axes, row-major.
    pub fn dense(&mut self, axes: &[usize], matrix: &[S]) {
        let before = self.gates.len();
        let index = self.open(axes);
        let size = self.size(axes);
        if self.gates.len() > before {
            self.gates[index].matrix = matrix.to_vec();
            return;
        }
        // `open` finds gates on more than these axes only for a single axis.
        let all = self.gates[index].axes.clone();
        let wide = if all == axes {
            matrix.to_vec()
        } else {
            self.widened(&ElementaryGate { axes: axes.to_vec(), matrix: matrix.to_vec() }, &all).matrix
        };
        let size = if all == axes { size } else { self.size(&all) };
        let old = std::mem::take(&mut self.gates[index].matrix);
        let mut product = vec![S::of(c64::new(0.0, 0.0)); size * size];
        for (row, out) in product.chunks_exact_mut(size).enumerate() {
            for (k, old) in old.chunks_exact(size).enumerate() {
                let factor = wide[row * size + k];
                out.iter_mut().zip(old).for_each(|(out, &old)| *out = *out + factor * old);
            }
        }
        self.gates[index].matrix = product;
    }

    /// Multiplies `[[a, b], [c, d]] = cells[value of the controls]` onto the target bit; all bits lie on the target's axis and at most one other.
    fn turn(&mut self, target: usize, controls: &[usize], cells: &[[[S; 2]; 2]]) {
        let mut axes = vec![self.bits[target].axis];
        for &control in controls {
            let axis = self.bits[control].axis;
            if !axes.contains(&axis) {
                axes.push(axis);
            }
        }
        axes.sort_unstable();
        let index = self.open(&axes);
        let gate_axes = &self.gates[index].axes;
        let mask = |bit: usize| {
            let Bit { axis, weight } = self.bits[bit];
            let is_first = gate_axes.len() == 2 && axis == gate_axes[0];
            if is_first { weight * self.dims[gate_axes[1]] } else { weight }
        };
        let target = mask(target);
        let controls: Vec<usize> = controls.iter().map(|&control| mask(control)).collect();
        let size = self.size(gate_axes);
        let matrix = &mut self.gates[index].matrix;
        for low in (0..size).filter(|row| row & target == 0) {
            let value = controls.iter().fold(0, |value, mask| 2 * value + usize::from(low & mask != 0));
            let [[a, b], [c, d]] = cells[value];
            let (upper, lower) = matrix.split_at_mut((low | target) * size);
            for (x, y) in upper[low * size..(low + 1) * size].iter_mut().zip(&mut lower[..size]) {
                (*x, *y) = (a * *x + b * *y, c * *x + d * *y);
            }
        }
    }

    /// A multiplexed operation: for every value of the controls (first control most significant) its parameter.
    pub fn multiplexed(&mut self, kind: Kind, target: usize, controls: &[usize], parameters: &[c64]) {
        if parameters.iter().all(|parameter| *parameter == c64::new(0.0, 0.0)) {
            return;
        }
        let own = self.bits[target].axis;
        let count = |axis: usize| controls.iter().filter(|&&control| self.bits[control].axis == axis).count();
        // The second axis is the one with the most controls; ties go to the last.
        let second = (0..self.dims.len()).filter(|&axis| axis != own).max_by_key(|&axis| count(axis)).unwrap_or(own);
        let near = |&&control: &&usize| [own, second].contains(&self.bits[control].axis);
        let inside: Vec<usize> = controls.iter().filter(near).copied().collect();
        let outside: Vec<usize> = controls.iter().filter(|control| !near(control)).copied().collect();
        let (m, width) = (outside.len(), 1 << inside.len());
        // table[value of the outside controls][value of the inside controls]
        let mut table = vec![c64::new(0.0, 0.0); parameters.len()];
        for (value, &parameter) in parameters.iter().enumerate() {
            let bit = |control: &usize| {
                let place = controls.iter().position(|other| other == control).unwrap_or(0);
                value >> (controls.len() - 1 - place) & 1
            };
            let collect = |bits: &[usize]| bits.iter().fold(0, |value, control| 2 * value + bit(control));
            table[collect(&outside) * width + collect(&inside)] = parameter;
        }
        walsh(&mut table, width);
        let scale = 1.0 / (1u64 << m) as f64;
        let zero = c64::new(0.0, 0.0);
        let one = c64::new(1.0, 0.0);
        for i in 0..1usize << m {
            let gray = i ^ (i >> 1);
            let cells: Vec<_> =
                table[gray * width..(gray + 1) * width].iter().map(|&t| cell(kind, t * scale)).collect();
            self.turn(target, &inside, &cells);
            if m > 0 {
                let next = (i + 1) % (1 << m);
                let changed = (gray ^ next ^ (next >> 1)).ilog2() as usize;
                let identity = [[one, zero], [zero, one]].map(|row| row.map(S::of));
                let negation = [[zero, one], [one, zero]].map(|row| row.map(S::of));
                self.turn(target, &[outside[m - 1 - changed]], &[identity, negation]);
            }
        }
    }
}

/// The 2 x 2 matrix of an operation.
fn cell<S: Scalar>(kind: Kind, t: c64) -> [[S; 2]; 2] {
    let zero = c64::new(0.0, 0.0);
    let cell = match kind {
        Kind::Turn => {
            let (sin, cos) = t.re.sin_cos();
            [[c64::new(cos, 0.0), c64::new(-sin, 0.0)], [c64::new(sin, 0.0), c64::new(cos, 0.0)]]
        }
        Kind::Scale => [[t.exp(), zero], [zero, (-t).exp()]],
    };
    cell.map(|row| row.map(S::of))
}

/// Walsh transform over the rows of a `[2^m, width]` table.
fn walsh(table: &mut [c64], width: usize) {
    let mut half = width;
    while half < table.len() {
        for block in table.chunks_exact_mut(2 * half) {
            let (first, second) = block.split_at_mut(half);
            for (a, b) in first.iter_mut().zip(second) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}
