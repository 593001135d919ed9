//! The circuit as one full matrix, and the gradient of that matrix pulled back to the gates.
//!
//! Needed for merging a circuit into a weight, for its spectrum and its rank. Applying the circuit to all unit vectors would multiply zeros for most of
//! the work: before an axis has been touched by a gate, the operator is the identity on it. So the gates are contracted one after another, from the
//! output side or from the input side, whichever costs less, and an axis comes in when its first gate does: 2.9 instead of 15 GFLOP for 16-8-8-4.
//!
//! The tensor in the making has *active* axes, which gates still act on, and *passive* ones, which are done. It is stored as tiles of the gate
//! kernels: rows are active indices, columns are passive ones. A gate that touches an axis for the first time multiplies the number of tiles by the
//! size of the axis.

use rayon::prelude::*;

use crate::kernel::schedule::Step;
use crate::kernel::scratch::with_scratch;
use crate::kernel::{Kernels, Target};
use crate::{Gate, Plan, Real};

/// One gate of the chain: the step on the active axes, and the passive indices that it brings in.
struct Link {
    step: Step,
    gate: usize,
    /// For every new passive index: its distance in the flat passive index, and the first column of the gate that belongs to it.
    branches: Vec<(usize, usize)>,
    /// Distance of the gate's columns for the two active indices (p, q).
    column_strides: [usize; 2],
}

/// The gates in the order of their contraction.
struct Chain<'a> {
    plan: &'a Plan,
    /// From the output side: the gates transposed, last gate first, input axes active.
    reversed: bool,
    links: Vec<Link>,
    flops: u64,
    /// Those of the last link.
    last_flops: u64,
    /// For every active feature of the finished tiles, its place in the flat active index.
    features: Vec<usize>,
    /// For every index of the axes that no gate touches, its place in the flat active and passive indices.
    untouched: Vec<(usize, usize)>,
}

/// Position-wise strides of a row-major tensor.
fn strides(dims: &[usize]) -> Vec<usize> {
    (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect()
}

/// Flat offsets of all indices of the axes selected by `take`, the last one running fastest.
fn places(dims: &[usize], strides: &[usize], take: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..dims.len()).filter(|&axis| take(axis)).fold(vec![0], |places, axis| {
        places.iter().flat_map(|place| (0..dims[axis]).map(move |i| place + i * strides[axis])).collect()
    })
}

impl<'a> Chain<'a> {
    fn new(plan: &'a Plan, reversed: bool) -> Self {
        let axes = plan.in_dims().len();
        let (passive, active) =
            if reversed { (plan.out_dims(), plan.in_dims()) } else { (plan.in_dims(), plan.out_dims()) };
        let passive_strides = strides(passive);
        let mut dims = vec![1; axes];
        let mut touched = vec![false; axes];
        let mut columns = 1u64;
        let (mut links, mut flops, mut last_flops) = (Vec::new(), 0, 0);
        let order: Vec<usize> = (0..plan.gates().len()).collect();
        for &index in order.iter().rev().filter(|_| reversed).chain(order.iter().filter(|_| !reversed)) {
            let gate = &plan.gates()[index];
            let positions = gate.positions(axes);
            let (before, after) = sides(gate, reversed);
            let fresh: Vec<bool> = positions.iter().map(|&position| !touched[position]).collect();
            // Gate columns: [before_p, before_q], q running fastest.
            let gate_strides = strides(&before);
            let pick =
                |i: usize, stride: usize| if fresh[i] { (0..before[i]).map(|k| k * stride).collect() } else { vec![0] };
            let mut branches = vec![(0, 0)];
            let mut column_strides = [0; 2];
            for i in 0..positions.len() {
                let outer = pick(i, passive_strides[positions[i]]).into_iter().zip(pick(i, gate_strides[i]));
                let here: Vec<(usize, usize)> = outer.collect();
                branches = branches.iter().flat_map(|b| here.iter().map(move |h| (b.0 + h.0, b.1 + h.1))).collect();
                column_strides[2 - positions.len() + i] = gate_strides[i];
            }
            let step = Step::on(&dims, &positions, &after);
            columns = columns.saturating_mul(branches.len() as u64);
            // the first gate is copied
            last_flops = if links.is_empty() { 0 } else { 2 * columns * (step.out_len() * step.cols()) as u64 };
            flops += last_flops;
            for (i, &position) in positions.iter().enumerate() {
                dims[position] = after[i];
                touched[position] = true;
            }
            links.push(Link { step, gate: index, branches, column_strides });
        }
        let features = places(active, &strides(active), |axis| touched[axis]);
        let active_untouched = places(active, &strides(active), |axis| !touched[axis]);
        let untouched = active_untouched.into_iter().zip(places(passive, &passive_strides, |axis| !touched[axis]));
        Self { plan, reversed, links, flops, last_flops, features, untouched: untouched.collect() }
    }

    fn cheapest(plan: &'a Plan) -> Self {
        let [forward, reversed] = [false, true].map(|reversed| Self::new(plan, reversed));
        if reversed.flops < forward.flops { reversed } else { forward }
    }

    /// Position in the flat parameter slice of row `row`, column `column` of a link's gate as the chain sees it.
    fn parameter(&self, link: &Link, row: usize, column: usize) -> usize {
        let gate = &self.plan.gates()[link.gate];
        let (row, column) = if self.reversed { (column, row) } else { (row, column) };
        gate.offset() + row * gate.cols() + column
    }

    /// Column of the chain's gate for column `k` of the step, in a branch.
    fn column(link: &Link, branch: usize, k: usize) -> usize {
        let q = link.step.in_sizes[1];
        link.branches[branch].1 + k / q * link.column_strides[0] + k % q * link.column_strides[1]
    }

    /// Position in the row-major operator of an active and a passive index.
    fn place(&self, active: usize, passive: usize) -> usize {
        let (row, col) = if self.reversed { (passive, active) } else { (active, passive) };
        row * self.plan.in_len() + col
    }
}

/// Sizes of a gate's axes before and after it, in the chain's direction, from the front.
fn sides(gate: &Gate, reversed: bool) -> (Vec<usize>, Vec<usize>) {
    let sizes = |sizes: &[usize]| sizes.iter().rev().copied().collect();
    let (input, output) = (sizes(gate.in_sizes()), sizes(gate.out_sizes()));
    if reversed { (output, input) } else { (input, output) }
}

/// Active rows times passive columns; `columns` are flat passive indices, the rest of the width is padding.
struct Tile<T> {
    values: Vec<T>,
    columns: Vec<usize>,
}

/// The tiles behind the first gate: the gate itself, its columns cut into tiles of `width`.
fn first_tiles<T: Real>(chain: &Chain<'_>, gates: &[T], width: usize) -> Vec<Tile<T>> {
    let Some(link) = chain.links.first() else {
        let mut values = vec![T::ZERO; width];
        values[0] = T::ONE;
        return vec![Tile { values, columns: vec![0] }];
    };
    let branches: Vec<_> = link.branches.chunks(width).collect();
    let tile = |branches: &&[(usize, usize)]| {
        let mut values = vec![T::ZERO; link.step.rows() * width];
        for row in 0..link.step.rows() {
            for (c, &(_, column)) in branches.iter().enumerate() {
                values[row * width + c] = gates[chain.parameter(link, row, column)];
            }
        }
        Tile { values, columns: branches.iter().map(|branch| branch.0).collect() }
    };
    branches.iter().map(tile).collect()
}

/// The gate of a link and branch, packed (transposed for gradients).
fn packed<T: Real>(
    kernels: &Kernels<T>,
    chain: &Chain<'_>,
    link: &Link,
    branch: usize,
    gates: &[T],
    transposed: bool,
) -> Vec<T> {
    let mut packed = vec![T::ZERO; kernels.packed_len(&link.step)];
    let first = chain.parameter(link, 0, 0);
    let rows: Vec<_> = (0..link.step.rows()).map(|row| chain.parameter(link, row, 0)).collect();
    let column = |k| chain.parameter(link, 0, Chain::column(link, branch, k)) - first;
    let cols: Vec<_> = (0..link.step.cols()).map(column).collect();
    let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
    (kernels.pack)(gates, &rows, &cols, &mut packed);
    packed
}

/// The tiles behind a link: for every tile one for each branch.
fn next_tiles<T: Real>(
    kernels: &Kernels<T>,
    chain: &Chain<'_>,
    link: &Link,
    gates: &[T],
    tiles: &[Tile<T>],
    width: usize,
) -> Vec<Tile<T>> {
    let count = link.branches.len();
    let packs: Vec<_> = (0..count).map(|branch| packed(kernels, chain, link, branch, gates, false)).collect();
    let next = |(index, columns): (usize, Vec<usize>)| {
        let (tile, branch) = (&tiles[index / count], index % count);
        let mut values = vec![T::ZERO; link.step.out_len() * width];
        with_scratch(kernels.forward_scratch(&link.step), |panel| {
            kernels.forward_between(&link.step, &packs[branch], &tile.values, &mut values, width, panel);
        });
        Tile { values, columns }
    };
    columns_behind(link, tiles).enumerate().collect::<Vec<_>>().into_par_iter().map(next).collect()
}

/// The columns of the tiles behind a link: for every tile those of each branch.
fn columns_behind<T>(link: &Link, tiles: &[Tile<T>]) -> impl Iterator<Item = Vec<usize>> {
    let of = |tile: &Tile<T>, branch: usize| tile.columns.iter().map(|column| column + branch).collect();
    tiles.iter().flat_map(move |tile| link.branches.iter().map(move |&(branch, _)| of(tile, branch)))
}

/// The full operator: the matrix `[plan.out_len(), plan.in_len()]`, row-major, with `T(x) = operator * x` (paper, Eq. 7).
///
/// # Panics
/// Where `gates` does not have `plan.parameters()` values.
///
/// ```
/// use quanta_circuit::{Plan, operator};
/// let plan = Plan::free(&[2, 2], &[vec![-1]])?;
/// let matrix = operator(&plan, &[1.0, 2.0, 3.0, 4.0]); // identity (x) G
/// assert_eq!(matrix[..8], [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
/// # Ok::<(), quanta_circuit::PlanError>(())
/// ```
#[track_caller]
pub fn operator<T: Real>(plan: &Plan, gates: &[T]) -> Vec<T> {
    assert_eq!(gates.len(), plan.parameters(), "the plan needs {} gate values", plan.parameters());
    let (kernels, chain) = (T::kernels(), Chain::cheapest(plan));
    let width = 2 * kernels.lanes;
    let mut tiles = first_tiles(&chain, gates, width);
    for link in chain.links.iter().skip(1) {
        tiles = next_tiles(kernels, &chain, link, gates, &tiles, width);
    }
    let mut operator = vec![T::ZERO; plan.out_len() * plan.in_len()];
    write_rows(&chain, &tiles, width, &mut operator);
    operator
}

/// Writes the finished tiles to the rows of the operator, rows over threads.
fn write_rows<T: Real>(chain: &Chain<'_>, tiles: &[Tile<T>], width: usize, operator: &mut [T]) {
    // Where a row's values are: the part of a tile that belongs to it, and where its columns begin.
    let mut sources = vec![(0, 0, 0); chain.plan.out_len()];
    for &(active, passive) in &chain.untouched {
        if chain.reversed {
            for (t, tile) in tiles.iter().enumerate() {
                for (c, &column) in tile.columns.iter().enumerate() {
                    sources[passive + column] = (t, c, active);
                }
            }
        } else {
            for (f, &feature) in chain.features.iter().enumerate() {
                sources[active + feature] = (0, f, passive);
            }
        }
    }
    operator.par_chunks_mut(chain.plan.in_len()).zip(sources).for_each(|(row, (tile, at, base))| {
        if chain.reversed {
            for (f, &feature) in chain.features.iter().enumerate() {
                row[base + feature] = tiles[tile].values[f * width + at];
            }
        } else {
            for tile in tiles {
                for (c, &column) in tile.columns.iter().enumerate() {
                    row[base + column] = tile.values[at * width + c];
                }
            }
        }
    });
}

/// Adds to `dgates` the gradient of the gates, given the gradient of the operator: `dgates += d<doperator, operator>/dgates`.
///
/// With it a whole step of training needs only the gradient of the merged weight. Computes and keeps the tensors between the gates; costs two to three times
/// [`operator`], see [`Plan::cost`].
///
/// # Panics
/// Where a slice does not have the length that the plan asks for.
#[track_caller]
pub fn pull_back<T: Real>(plan: &Plan, gates: &[T], doperator: &[T], dgates: &mut [T]) {
    assert_eq!(gates.len(), plan.parameters(), "the plan needs {} gate values", plan.parameters());
    assert_eq!(doperator.len(), plan.out_len() * plan.in_len(), "doperator must have the shape of the operator");
    assert_eq!(dgates.len(), gates.len(), "dgates must have the length of gates");
    let (kernels, chain) = (T::kernels(), Chain::cheapest(plan));
    let width = 2 * kernels.lanes;
    let Some(first) = chain.links.first() else { return };
    let mut levels = vec![first_tiles(&chain, gates, width)];
    // what stands behind the last gate is the operator itself, which no gradient needs
    for link in chain.links.iter().take(chain.links.len() - 1).skip(1) {
        levels.push(next_tiles(kernels, &chain, link, gates, &levels[levels.len() - 1], width));
    }
    let tiles = &levels[levels.len() - 1];
    let (len, columns): (usize, Vec<Vec<usize>>) = match &chain.links[1..] {
        [] => (first.step.rows() * width, tiles.iter().map(|tile| tile.columns.clone()).collect()),
        [.., last] => (last.step.out_len() * width, columns_behind(last, tiles).collect()),
    };
    let gradient_of = |columns: &Vec<usize>| {
        let mut gradient = vec![T::ZERO; len];
        for (c, &column) in columns.iter().enumerate() {
            for &(active, passive) in &chain.untouched {
                for (f, &feature) in chain.features.iter().enumerate() {
                    gradient[f * width + c] += doperator[chain.place(active + feature, passive + column)];
                }
            }
        }
        gradient
    };
    let mut gradients: Vec<Vec<T>> = columns.par_iter().map(gradient_of).collect();
    for (index, link) in chain.links.iter().enumerate().skip(1).rev() {
        gradients = previous(kernels, &chain, link, gates, &levels[index - 1], gradients, dgates, width);
    }
    for (gradient, branches) in gradients.iter().zip(first.branches.chunks(width)) {
        for row in 0..first.step.rows() {
            for (c, &(_, column)) in branches.iter().enumerate() {
                dgates[chain.parameter(first, row, column)] += gradient[row * width + c];
            }
        }
    }
}

/// Gradients of the tiles before a link from those behind it; adds the gate's gradient to `dgates`, tile after tile.
fn previous<T: Real>(
    kernels: &Kernels<T>,
    chain: &Chain<'_>,
    link: &Link,
    gates: &[T],
    tiles: &[Tile<T>],
    mut behind: Vec<Vec<T>>,
    dgates: &mut [T],
    width: usize,
) -> Vec<Vec<T>> {
    let count = link.branches.len();
    let packs: Vec<_> = (0..count).map(|branch| packed(kernels, chain, link, branch, gates, true)).collect();
    let padded = link.step.cols().next_multiple_of(kernels.lanes);
    let work = |(tile, behind): (&Tile<T>, &mut [Vec<T>])| {
        let mut gradient = vec![T::ZERO; tile.values.len()];
        let mut part = vec![T::ZERO; tile.values.len()];
        let mut sums = vec![T::ZERO; count * link.step.rows() * padded];
        with_scratch(kernels.backward_scratch(&link.step), |panel| {
            let sums = sums.chunks_mut(link.step.rows() * padded);
            for ((dy, packed), sums) in behind.iter_mut().zip(&packs).zip(sums) {
                let (x, dx) = (&tile.values, Target::Other(&mut part));
                kernels.backward_gate(&link.step, packed, x, dy, dx, Some(sums), width, panel);
                for (gradient, part) in gradient.iter_mut().zip(&part) {
                    *gradient += *part;
                }
            }
        });
        (gradient, sums)
    };
    let results: Vec<_> = tiles.par_iter().zip(behind.par_chunks_mut(count)).map(work).collect();
    let mut gradients = Vec::with_capacity(results.len());
    for (gradient, sums) in results {
        for (branch, sums) in sums.chunks(link.step.rows() * padded).enumerate() {
            for row in 0..link.step.rows() {
                for k in 0..link.step.cols() {
                    dgates[chain.parameter(link, row, Chain::column(link, branch, k))] += sums[row * padded + k];
                }
            }
        }
        gradients.push(gradient);
    }
    gradients
}

/// Floating-point operations of [`operator`] and of [`pull_back`], which computes all gates but the last again and two products for each.
pub(crate) fn flops(plan: &Plan) -> [u64; 2] {
    let chain = Chain::cheapest(plan);
    [chain.flops, 3 * chain.flops - chain.last_flops]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{numbers, plans};
    use crate::reference;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn operator_columns_are_images_of_unit_vectors(plan in plans(5)) {
            let gates: Vec<f64> = numbers(plan.parameters(), 1);
            let (rows, cols) = (plan.out_len(), plan.in_len());
            let operator = operator(&plan, &gates);
            for col in 0..cols {
                let (mut x, mut y) = (vec![0.0; cols], vec![0.0; rows]);
                x[col] = 1.0;
                reference::apply(&plan, &gates, &x, cols, &mut y, rows, 1.0);
                for row in 0..rows {
                    prop_assert!((operator[row * cols + col] - y[row]).abs() < 1e-10 * (1.0 + y[row].abs()), "{} {} {}", plan, row, col);
                }
            }
        }

        #[test]
        fn pulled_back_gradients_equal_token_gradients(plan in plans(5)) {
            let gates: Vec<f64> = numbers(plan.parameters(), 1);
            let (rows, cols) = (plan.out_len(), plan.in_len());
            let doperator: Vec<f64> = numbers(rows * cols, 2);
            // Token j is the unit vector j, and the gradient of its output is column j.
            let identity: Vec<f64> = (0..cols * cols).map(|i| f64::from(u8::from(i / cols == i % cols))).collect();
            let dy: Vec<f64> = (0..cols * rows).map(|i| doperator[i % rows * cols + i / rows]).collect();
            let mut expected = vec![0.0; gates.len()];
            reference::backward(&plan, &gates, &identity, cols, &dy, rows, 1.0, None, Some(&mut expected));
            let mut dgates = vec![0.0; gates.len()];
            pull_back(&plan, &gates, &doperator, &mut dgates);
            let scale = expected.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
            for (got, expected) in dgates.iter().zip(&expected) {
                prop_assert!((got - expected).abs() < 1e-11 * scale, "{}: {} {}", plan, got, expected);
            }
        }
    }

    #[test]
    fn pulling_back_costs_two_products_a_gate_and_all_but_the_last_again() {
        // from the end: the gate on both axes is copied, the other two meet its 64 x 64 values with sums of 8
        let plan = Plan::free(&[8, 8], &[vec![-1], vec![-2], vec![-1, -2]]).unwrap();
        let gate = 2 * 64 * 64 * 8;
        assert_eq!(flops(&plan), [2 * gate, 2 * 2 * gate + gate]);
        assert_eq!(flops(&Plan::free(&[8, 8], &[vec![-1]]).unwrap()), [0, 0]);
    }

    #[test]
    fn contraction_costs_are_those_of_good_trees() {
        for (text, gflop) in [("16-8-8-4", 2.85), ("16-16-16", 9.13), ("16-16-4-4", 3.40), ("16-8-8-5", 5.2)] {
            let [flops, _] = flops(&text.parse().unwrap()).map(|flops| flops as f64 / 1e9);
            assert!((flops / gflop - 1.0).abs() < 0.02, "{text}: {flops} GFLOP");
        }
    }
}
