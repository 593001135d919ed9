//! Theorem 6.1 made constructive: any matrix on power-of-two axes as a circuit, where that is possible.
//!
//! With two axes one gate is the matrix. With three or more the printed theorem meets two obstructions over the reals. A gate on two axes acts as `G
//! (x) I` with an even number of copies, so its determinant is `det(G)^even >= 0`: a matrix of negative determinant is no product of real gates, nor
//! a limit of such products. And a singular gate of size K makes the rank at most `d (1 - 1/K)` (Theorem 6.2), while invertible gates make it d:
//! ranks in between have no exact circuit. So: positive determinant, real gates; negative determinant, complex gates; low rank, exact; nearly full
//! rank, the smallest singular values are raised to 1e-15 of the largest, which is reported.
//!
//! Construction: `W = U S V^t` with rotations U and V; rotations by the recursive cosine-sine form of `orthogonal`, the diagonal by exponentials of its
//! logarithm; cut into gates by `elementary`. At most about `4^M` gates for `2^M x 2^M` (`docs/universality.md`).

use faer::{Mat, MatRef, c64};
use thiserror::Error;

use super::elementary::{ElementaryGate, Emitter, Kind, Scalar};
use super::matrix;
use super::orthogonal::{NotConverged, cosine_sine, demultiplex};
use crate::{Plan, PlanError, apply};

/// What singular values are raised to, as a share of the largest, where no circuit has the exact rank.
pub const RAISED: f64 = 1e-15;

/// Which numbers the gates may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Real gates only; a negative determinant is an error on three or more axes longer than 1. On fewer, one gate is the matrix.
    Real,
    /// Complex gates where the determinant is negative, real ones everywhere else.
    RealOrComplex,
}

/// Why a matrix cannot be decomposed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UniversalityError {
    /// An axis is no power of two.
    #[error("axis {axis} has size {size}: the decomposition needs sizes that are powers of two")]
    NotPowerOfTwo {
        /// The axis, counted from the end.
        axis: isize,
        /// Its size.
        size: usize,
    },
    /// The matrix does not have the size of the axes.
    #[error("the axes multiply to {side}, so the matrix needs {side} x {side} values, got {got}")]
    Shape {
        /// Rows and columns expected.
        side: usize,
        /// Number of values given.
        got: usize,
    },
    /// The matrix has infinite numbers or NaN.
    #[error("the matrix has values that are not finite: remove them")]
    NotFinite,
    /// No real circuit exists, on three or more axes longer than 1.
    #[error(
        "the determinant is negative: on three or more axes of even size a real gate acts as G (x) I with an even number of copies, so its determinant is \
         det(G)^even >= 0, and no product of real gates equals or approaches this matrix; allow complex gates"
    )]
    NegativeDeterminant,
    /// A singular value decomposition did not converge.
    #[error("a singular value decomposition did not converge: scale the matrix to entries near one")]
    NotConverged,
    /// The axes are no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<NotConverged> for UniversalityError {
    fn from(_: NotConverged) -> Self {
        Self::NotConverged
    }
}

/// A matrix as a circuit; see [`decompose`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decomposition {
    /// The gates' axes, in order of application.
    pub plan: Plan,
    /// Real parts of the gates' values, in the plan's flat layout.
    pub real: Vec<f64>,
    /// Imaginary parts, where the circuit is complex.
    pub imaginary: Option<Vec<f64>>,
    /// How many singular values were raised because no circuit has the matrix's rank.
    pub raised: usize,
}

/// Writes a matrix as a circuit on the given axes.
///
/// `values` is row-major, `[d, d]` with `d` the product of `dims`. Costs `O(d^3)` operations, and memory for the gates' values: at most about `4^M` gates for
/// `d = 2^M`.
///
/// # Errors
/// [`UniversalityError`] where there are no axes or they are no powers of two, the matrix does not fit them or is not finite, a singular value decomposition
/// does not converge, or only real gates are allowed and the determinant is negative on three or more axes longer than 1.
///
/// ```
/// use quanta_circuit::theory::universality::{Field, decompose};
/// let exchange: Vec<f64> = (0..64).map(|i| if i / 8 + i % 8 == 7 { 1.0 } else { 0.0 }).collect();
/// let circuit = decompose(&exchange, &[2, 2, 2], Field::Real)?;
/// assert!(circuit.relative_error(&exchange) < 1e-13);
/// # Ok::<(), quanta_circuit::theory::universality::UniversalityError>(())
/// ```
pub fn decompose(values: &[f64], dims: &[usize], field: Field) -> Result<Decomposition, UniversalityError> {
    let plan = Plan::free(dims, &[])?;
    if let Some(position) = dims.iter().position(|size| !size.is_power_of_two()) {
        let axis = position as isize - dims.len() as isize;
        return Err(UniversalityError::NotPowerOfTwo { axis, size: dims[position] });
    }
    let side = plan.in_len();
    if side.checked_mul(side) != Some(values.len()) {
        return Err(UniversalityError::Shape { side, got: values.len() });
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(UniversalityError::NotFinite);
    }
    let (order, base) = axis_order(dims);
    let base_size: usize = base.iter().map(|&axis| dims[axis]).product();
    let zero = values.iter().all(|&value| value == 0.0);
    if zero || base_size == side {
        let gate = if zero { vec![0.0; base_size * base_size] } else { values.to_vec() };
        return finish(dims, vec![ElementaryGate { axes: base, matrix: gate }], 0);
    }
    let places = Emitter::<f64>::new(dims, &order);
    let places: Vec<usize> = (0..side).map(|index| places.place(index)).collect();
    let ordered = Mat::from_fn(side, side, |i, j| values[places[i] * side + places[j]]);
    let layout = Layout { dims, order, base, base_size };
    let factors = Factors::new(ordered.as_ref(), base_size)?;
    if factors.logarithms.iter().all(|logarithm| logarithm.im == 0.0) {
        finish(dims, factors.emit::<f64>(&layout)?, factors.raised)
    } else if field == Field::Real {
        Err(UniversalityError::NegativeDeterminant)
    } else {
        finish(dims, factors.emit::<c64>(&layout)?, factors.raised)
    }
}

/// The order of the axes' bits, and the two largest axes, ascending, which come last in it; axes of size one are left out.
fn axis_order(dims: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut by_size: Vec<usize> = (0..dims.len()).filter(|&axis| dims[axis] > 1).collect();
    by_size.sort_by_key(|&axis| dims[axis]);
    let mut base = by_size.split_off(by_size.len().saturating_sub(2));
    if base.is_empty() {
        base.push(dims.len() - 1);
    }
    base.sort_unstable();
    by_size.sort_unstable();
    (by_size.into_iter().chain(base.iter().copied()).collect(), base)
}

struct Layout<'a> {
    dims: &'a [usize],
    order: Vec<usize>,
    base: Vec<usize>,
    base_size: usize,
}

/// `W = U diag(exp(logarithms)) P V^t` with rotations U, V and a partial permutation P (the identity unless the rank is low).
struct Factors {
    u: Mat<f64>,
    v: Mat<f64>,
    logarithms: Vec<c64>,
    kill: Option<Kill>,
    raised: usize,
}

/// The partial permutation that gives a circuit an exact low rank, in terms of the index on the two base axes and the rest `r < side / base_size`.
///
/// `P = (zero the base indices below `zeroed`) * X * (zero the base index `first`)`, where X turns `first` to `partner` by 90 degrees for `r <
/// moved`, so that `side / base_size * zeroed + moved` dimensions vanish. Without `moved` only the last factor is used.
struct Kill {
    zeroed: usize,
    first: usize,
    partner: usize,
    moved: usize,
}

impl Kill {
    /// For `zeros` vanishing dimensions, at least `copies = side / base_size`.
    fn new(zeros: usize, copies: usize, base_size: usize) -> Self {
        let (zeroed, moved) = (zeros / copies, zeros % copies);
        let bits = (0..base_size.ilog2()).map(|k| 1 << k);
        // Two neighbours on the hypercube, one below `zeroed` and one not: they exist because 1 <= zeroed < base_size.
        let pair =
            bits.flat_map(|bit| (0..zeroed).map(move |first| (first, first ^ bit))).find(|pair| pair.1 >= zeroed);
        let (first, partner) = pair.unwrap_or((0, 0));
        Self { zeroed, first, partner, moved }
    }

    /// Where P sends a unit vector, with its sign; `None` where it vanishes.
    fn image(&self, index: usize, base_size: usize) -> Option<(usize, f64)> {
        let (r, base) = (index / base_size, index % base_size);
        if self.moved == 0 {
            return (base >= self.zeroed).then_some((index, 1.0));
        }
        if base == self.first {
            return None;
        }
        // R(90 degrees) on a bit sends 0 to 1 and 1 to -0.
        let moves = r < self.moved && base == self.partner;
        let (to, sign) =
            if moves { (self.first, if self.partner > self.first { -1.0 } else { 1.0 }) } else { (base, 1.0) };
        (to >= self.zeroed).then_some((r * base_size + to, sign))
    }
}

fn negate_column(matrix: &mut Mat<f64>, column: usize) {
    for i in 0..matrix.nrows() {
        matrix[(i, column)] = -matrix[(i, column)];
    }
}

impl Factors {
    fn new(w: MatRef<'_, f64>, base_size: usize) -> Result<Self, UniversalityError> {
        let side = w.nrows();
        let svd = w.svd().map_err(|_| NotConverged)?;
        let sigma: Vec<f64> = (0..side).map(|i| svd.S().column_vector()[i]).collect();
        let (mut u, mut v) = (svd.U().to_owned(), svd.V().to_owned());
        let tiny = side as f64 * f64::EPSILON * sigma[0];
        let zeros = sigma.iter().filter(|&&value| value <= tiny).count();
        let copies = side / base_size;
        if zeros >= copies {
            return Ok(Self::low_rank(&u, &v, &sigma, Kill::new(zeros, copies, base_size), base_size));
        }
        let floor = RAISED * sigma[0];
        let mut logarithms: Vec<c64> =
            sigma.iter().map(|&s| c64::new(if s <= tiny { floor } else { s }.ln(), 0.0)).collect();
        let last = side - 1;
        let reflects = [u.determinant() < 0.0, v.determinant() < 0.0];
        if reflects[0] {
            negate_column(&mut u, last);
        }
        if reflects[1] {
            negate_column(&mut v, last);
        }
        // The sign of a raised singular value is free. Elsewhere two flips cancel, and one is the sign of the determinant.
        if reflects[0] != reflects[1] && zeros == 0 {
            logarithms[last].im = std::f64::consts::PI;
        }
        Ok(Self { u, v, logarithms, kill: None, raised: zeros })
    }

    /// Assigns the singular vectors to the places that P connects; null vectors fill the rest and take up the signs.
    fn low_rank(u: &Mat<f64>, v: &Mat<f64>, sigma: &[f64], kill: Kill, base_size: usize) -> Self {
        let side = sigma.len();
        let (mut new_u, mut new_v) = (Mat::zeros(side, side), Mat::zeros(side, side));
        let mut logarithms = vec![c64::new(sigma[0].ln(), 0.0); side];
        let mut free_out: Vec<bool> = vec![true; side];
        let (mut next, mut dead) = (0, Vec::new());
        for index in 0..side {
            let Some((place, sign)) = kill.image(index, base_size) else {
                dead.push(index);
                continue;
            };
            for i in 0..side {
                new_v[(i, index)] = v[(i, next)];
                new_u[(i, place)] = sign * u[(i, next)];
            }
            logarithms[place].re = sigma[next].ln();
            free_out[place] = false;
            next += 1;
        }
        let unused = (0..side).filter(|&place| free_out[place]).collect::<Vec<_>>();
        for (k, (&place, &index)) in unused.iter().zip(&dead).enumerate() {
            for i in 0..side {
                new_v[(i, index)] = v[(i, next + k)];
                new_u[(i, place)] = u[(i, next + k)];
            }
        }
        for (rotation, column) in [(&mut new_u, unused[0]), (&mut new_v, dead[0])] {
            if rotation.determinant() < 0.0 {
                negate_column(rotation, column);
            }
        }
        Self { u: new_u, v: new_v, logarithms, kill: Some(kill), raised: 0 }
    }

    fn emit<S: Scalar>(&self, layout: &Layout<'_>) -> Result<Vec<ElementaryGate<S>>, UniversalityError> {
        let bits = self.u.nrows().ilog2() as usize;
        let top = bits - layout.base_size.ilog2() as usize;
        let mut emitter = Emitter::new(layout.dims, &layout.order);
        let mut writer = Writer { emitter: &mut emitter, base: &layout.base, top, bits };
        writer.rotation(self.v.transpose(), 0)?;
        if let Some(kill) = &self.kill {
            writer.kill(kill, layout.base_size);
        }
        writer.diagonal(self.logarithms.clone());
        writer.rotation(self.u.as_ref(), 0)?;
        Ok(emitter.gates)
    }
}

/// Writes the factors as operations on bits; the first `top` bits lie on the small axes, the others on the two base axes.
struct Writer<'a, S> {
    emitter: &'a mut Emitter<S>,
    base: &'a [usize],
    top: usize,
    bits: usize,
}

impl<S: Scalar> Writer<'_, S> {
    /// A rotation of the bits from `first` on: recursive cosine-sine form until only the base axes are left.
    fn rotation(&mut self, u: MatRef<'_, f64>, first: usize) -> Result<(), NotConverged> {
        if first == self.top {
            let values: Vec<S> = super::row_major(u).into_iter().map(|value| S::of(c64::new(value, 0.0))).collect();
            self.emitter.dense(self.base, &values);
            return Ok(());
        }
        let factors = cosine_sine(u)?;
        self.multiplexer(&factors.right, first)?;
        let controls: Vec<usize> = (first + 1..self.bits).collect();
        let angles: Vec<c64> = factors.angles.iter().map(|&angle| c64::new(angle, 0.0)).collect();
        self.emitter.multiplexed(Kind::Turn, first, &controls, &angles);
        self.multiplexer(&factors.left, first)
    }

    /// `diag(A, B)`, selected by bit `first`.
    fn multiplexer(&mut self, blocks: &[Mat<f64>; 2], first: usize) -> Result<(), NotConverged> {
        let split = demultiplex(blocks[0].as_ref(), blocks[1].as_ref())?;
        self.rotation(split.right.as_ref(), first + 1)?;
        let controls: Vec<usize> = (first..self.bits - 1).collect();
        let positive = split.angles.iter().map(|&angle| c64::new(angle, 0.0));
        let angles: Vec<c64> = positive.clone().chain(positive.map(|angle| -angle)).collect();
        self.emitter.multiplexed(Kind::Turn, self.bits - 1, &controls, &angles);
        self.rotation(split.left.as_ref(), first + 1)
    }

    /// `diag(exp(logarithms))`: bit by bit the half differences as a multiplexed scaling, the means go on.
    fn diagonal(&mut self, mut logarithms: Vec<c64>) {
        for bit in 0..self.top {
            let (zero, one) = logarithms.split_at(logarithms.len() / 2);
            let halves: Vec<c64> = zero.iter().zip(one).map(|(a, b)| (a - b) * 0.5).collect();
            let means = zero.iter().zip(one).map(|(a, b)| (a + b) * 0.5).collect();
            let controls: Vec<usize> = (bit + 1..self.bits).collect();
            self.emitter.multiplexed(Kind::Scale, bit, &controls, &halves);
            logarithms = means;
        }
        self.base_diagonal(logarithms.len(), |i| logarithms[i].exp());
    }

    fn base_diagonal(&mut self, size: usize, value: impl Fn(usize) -> c64) {
        let zero = c64::new(0.0, 0.0);
        let entry = |i: usize| S::of(if i / size == i % size { value(i % size) } else { zero });
        let values: Vec<S> = (0..size * size).map(entry).collect();
        self.emitter.dense(self.base, &values);
    }

    fn kill(&mut self, kill: &Kill, base_size: usize) {
        let keep = |keeps: bool| c64::new(f64::from(u8::from(keeps)), 0.0);
        if kill.moved > 0 {
            self.base_diagonal(base_size, |base| keep(base != kill.first));
            let bit = (kill.first ^ kill.partner).trailing_zeros() as usize;
            let target = self.bits - 1 - bit;
            let controls: Vec<usize> = (0..self.bits).filter(|&control| control != target).collect();
            let mut angles = vec![c64::new(0.0, 0.0); 1 << (self.bits - 1)];
            for r in 0..kill.moved {
                let index = r * base_size + kill.first;
                // The index without its target bit.
                let control = (index >> (bit + 1) << bit) | (index & ((1 << bit) - 1));
                angles[control].re = std::f64::consts::FRAC_PI_2;
            }
            self.emitter.multiplexed(Kind::Turn, target, &controls, &angles);
        }
        self.base_diagonal(base_size, |base| keep(base >= kill.zeroed));
    }
}

fn finish<S: Scalar + Into<c64>>(
    dims: &[usize],
    gates: Vec<ElementaryGate<S>>,
    raised: usize,
) -> Result<Decomposition, UniversalityError> {
    let from_end = |axis: &usize| *axis as isize - dims.len() as isize;
    let axes: Vec<Vec<isize>> = gates.iter().map(|gate| gate.axes.iter().map(from_end).collect()).collect();
    let plan = Plan::free(dims, &axes)?;
    let (mut real, mut imaginary) = (Vec::with_capacity(plan.parameters()), Vec::new());
    for gate in gates {
        for value in gate.matrix {
            let value: c64 = value.into();
            real.push(value.re);
            imaginary.push(value.im);
        }
    }
    let is_real = imaginary.iter().all(|&value| value == 0.0);
    Ok(Decomposition { plan, real, imaginary: (!is_real).then_some(imaginary), raised })
}

impl Decomposition {
    /// The circuit applied to real tokens `[tokens, d]`: real parts of the outputs, and imaginary parts where the circuit is complex.
    ///
    /// # Panics
    /// Where `x` is not a whole number of tokens.
    pub fn applied(&self, x: &[f64]) -> (Vec<f64>, Option<Vec<f64>>) {
        let d = self.plan.in_len();
        let Some(imaginary) = &self.imaginary else {
            let mut y = vec![0.0; x.len()];
            apply(&self.plan, &self.real, x, d, &mut y, d, 1.0);
            return (y, None);
        };
        // Tokens: the real parts of all of them, then their imaginary parts.
        let mut state = x.to_vec();
        state.resize(2 * x.len(), 0.0);
        let gates = self.plan.gates();
        let complex = |index: usize| imaginary[gates[index].range()].iter().any(|&value| value != 0.0);
        let mut from = 0;
        while from < gates.len() {
            // Runs of real gates act on both parts alike; a complex gate stands alone.
            let alone = complex(from);
            let run_end = || (from..gates.len()).find(|&index| complex(index)).unwrap_or(gates.len());
            let to = if alone { from + 1 } else { run_end() };
            let axes: Vec<_> = gates[from..to].iter().map(|gate| gate.axes().to_vec()).collect();
            // A run of gates of a valid plan of square gates is a valid plan.
            let Ok(part) = Plan::free(self.plan.in_dims(), &axes) else { unreachable!("a part of a plan is a plan") };
            let range = gates[from].offset()..gates[from].offset() + part.parameters();
            let mut next = vec![0.0; state.len()];
            apply(&part, &self.real[range.clone()], &state, d, &mut next, d, 1.0);
            if alone {
                let ((re, im), (next_re, next_im)) = (state.split_at(x.len()), next.split_at_mut(x.len()));
                apply(&part, &imaginary[range.clone()], im, d, next_re, d, -1.0);
                apply(&part, &imaginary[range], re, d, next_im, d, 1.0);
            }
            state = next;
            from = to;
        }
        let imaginary = state.split_off(x.len());
        (state, Some(imaginary))
    }

    /// The matrix of the circuit, row-major: real part, and imaginary part where the circuit is complex.
    pub fn operator(&self) -> (Vec<f64>, Option<Vec<f64>>) {
        let d = self.plan.in_len();
        let identity: Vec<f64> = (0..d * d).map(|i| f64::from(u8::from(i / d == i % d))).collect();
        let transposed = |columns: Vec<f64>| (0..d * d).map(|i| columns[i % d * d + i / d]).collect::<Vec<f64>>();
        let (real, imaginary) = self.applied(&identity);
        (transposed(real), imaginary.map(transposed))
    }

    /// `||operator - matrix|| / ||matrix||` in the Frobenius norm; for the zero matrix the norm of the operator.
    pub fn relative_error(&self, values: &[f64]) -> f64 {
        let (real, imaginary) = self.operator();
        let difference = (matrix(&real, 1, real.len()) - matrix(values, 1, values.len())).norm_l2();
        let imaginary = imaginary.map_or(0.0, |values| matrix(&values, 1, values.len()).norm_l2());
        let norm = matrix(values, 1, values.len()).norm_l2();
        difference.hypot(imaginary) / if norm > 0.0 { norm } else { 1.0 }
    }
}
