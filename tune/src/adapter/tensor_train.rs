//! Tensor trains: a matrix as a chain of small cores, contracted and pulled back.
//!
//! A train with axes `n_1 .. n_K` holds cores `G_k [r_(k-1), n_k, r_k]`, `r_0 = r_K = 1`, one after another. Its value is the tensor
//! `G_1[i_1] G_2[i_2] ... G_K[i_K]`, flat and row-major; a matrix is that list cut into rows. Contracted from the left, with `L_k [n_1 .. n_k, r_k]`:
//! `L_k = L_(k-1) G_k`; backward runs the same products in reverse.

use super::Site;
use crate::tensor::{MatMut, MatRef, Real, Stream, matmul};

/// `init`'s choices; true: all cores are drawn, as LoRETTA's authors do.
pub(super) const STARTS: [(&str, bool); 2] = [("zero-up", false), ("reference", true)];

/// The shape of a train: axes, and one rank for all inner bonds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Train {
    axes: Vec<usize>,
    rank: usize,
}

impl Train {
    /// A train over `axes` with inner bonds of `rank`.
    pub(super) fn new(axes: Vec<usize>, rank: usize) -> Self {
        Self { axes, rank }
    }

    /// Shapes of the cores.
    pub(super) fn shapes(&self) -> Vec<[usize; 3]> {
        let last = self.axes.len() - 1;
        let bond = |open: bool| if open { 1 } else { self.rank };
        self.axes.iter().enumerate().map(|(k, &n)| [bond(k == 0), n, bond(k == last)]).collect()
    }

    /// Names, which begin with `name`, and shapes of the cores, all of which train.
    pub(super) fn layout(&self, name: &str) -> Vec<(String, Vec<usize>, bool)> {
        self.shapes().iter().enumerate().map(|(k, shape)| (format!("{name}.{k}"), shape.to_vec(), true)).collect()
    }

    /// Number of all cores' elements.
    pub(super) fn parameters(&self) -> usize {
        self.shapes().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Operations of one contraction.
    pub(super) fn flops(&self) -> u64 {
        let mut before = 1;
        let steps = self.shapes().into_iter().map(|[left, n, right]| {
            let flops = 2 * before * left * n * right;
            before *= n;
            flops as u64
        });
        steps.sum()
    }

    /// Cores cut from one flat list.
    fn cores<'a, T>(&self, mut flat: &'a [T]) -> Vec<&'a [T]> {
        let mut cores = Vec::new();
        for shape in self.shapes() {
            let (core, rest) = flat.split_at(shape.iter().product());
            cores.push(core);
            flat = rest;
        }
        cores
    }

    /// `L_1 .. L_K`; the last is the value.
    fn partial<T: Real>(&self, flat: &[T]) -> Vec<Vec<T>> {
        let mut list: Vec<Vec<T>> = Vec::new();
        let mut before = 1;
        for (core, [left, n, right]) in self.cores(flat).into_iter().zip(self.shapes()) {
            let next = match list.last() {
                None => core.to_vec(),
                Some(last) => {
                    let mut next = vec![T::ZERO; before * n * right];
                    let (a, b) = (MatRef::new(last, before, left), MatRef::new(core, left, n * right));
                    matmul(MatMut::new(&mut next, before, n * right), false, a, b, T::ONE);
                    next
                }
            };
            before *= n;
            list.push(next);
        }
        list
    }

    /// The value, flat.
    pub(super) fn contract<T: Real>(&self, flat: &[T]) -> Vec<T> {
        self.partial(flat).pop().unwrap_or_default()
    }

    /// Adds to `gradient` that of the cores, given the value's.
    pub(super) fn backward<T: Real>(&self, flat: &[T], d_value: Vec<T>, gradient: &mut [T]) {
        let (partial, cores, shapes) = (self.partial(flat), self.cores(flat), self.shapes());
        let (mut d_next, mut end) = (d_value, gradient.len());
        for k in (0..cores.len()).rev() {
            let [left, n, right] = shapes[k];
            let d_core = &mut gradient[end - left * n * right..end];
            end -= left * n * right;
            if k == 0 {
                d_core.iter_mut().zip(&d_next).for_each(|(sum, &d)| *sum += d);
                return;
            }
            let before = d_next.len() / (n * right);
            let d = MatRef::new(&d_next, before, n * right);
            let last = MatRef::new(&partial[k - 1], before, left);
            matmul(MatMut::new(d_core, left, n * right), true, last.t(), d, T::ONE);
            let mut d_last = vec![T::ZERO; before * left];
            matmul(
                MatMut::new(&mut d_last, before, left),
                false,
                d,
                MatRef::new(cores[k], left, n * right).t(),
                T::ONE,
            );
            d_next = d_last;
        }
    }

    /// Initial cores as LoRETTA's authors draw them: normal numbers over the root of the right bond, times `(1 / (rows + cols))^(1 / 2K)` for a matrix of
    /// these sides; with `zero_last` the last core is zero, and with it the value.
    pub(super) fn start<T: Real>(&self, sides: usize, zero_last: bool, stream: &mut Stream) -> Vec<T> {
        let size = (1.0 / sides as f64).powf(1.0 / (2.0 * self.axes.len() as f64));
        let shapes = self.shapes();
        let draw = |(k, [left, n, right]): (usize, [usize; 3])| {
            let factor = if zero_last && k + 1 == shapes.len() { 0.0 } else { size / (right as f64).sqrt() };
            (0..left * n * right).map(|_| T::from_f64(factor * stream.normal())).collect::<Vec<_>>()
        };
        shapes.iter().copied().enumerate().flat_map(draw).collect()
    }
}

/// Why a train's axes do not make a matrix of `elements`.
pub(super) fn shape_problem(key: &str, shape: &[usize], elements: usize, site: &Site) -> Option<String> {
    let product = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    (shape.is_empty() || product != Some(elements))
        .then(|| format!("{key} {shape:?} does not make the {elements} elements of the matrix at {}", site.name))
}

/// A side as a product of parts up to `most` where that is possible, larger first.
pub(super) fn parts(side: usize, most: usize) -> Vec<usize> {
    let (mut rest, mut list) = (side, Vec::new());
    while rest > 1 {
        let divisor = (2..=most.min(rest)).rev().find(|&part| rest.is_multiple_of(part));
        let part = divisor.unwrap_or_else(|| (2..=rest).find(|&part| rest.is_multiple_of(part)).unwrap_or(rest));
        list.push(part);
        rest /= part;
    }
    if list.is_empty() { vec![1] } else { list }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    #[test]
    fn the_value_is_the_product_of_the_cores_slices() {
        let train = Train::new(vec![2, 3, 2], 2);
        let flat = numbers(train.parameters(), "cores");
        assert_eq!(train.shapes(), [[1, 2, 2], [2, 3, 2], [2, 2, 1]]);
        let (first, rest) = flat.split_at(4);
        let (second, third) = rest.split_at(12);
        let value = train.contract(&flat);
        for (at, &value) in value.iter().enumerate() {
            let (i, j, k) = (at / 6, at / 2 % 3, at % 2);
            let mut expected = 0.0;
            for a in 0..2 {
                for b in 0..2 {
                    expected += first[i * 2 + a] * second[a * 6 + j * 2 + b] * third[b * 2 + k];
                }
            }
            assert!((value - expected).abs() < 1e-14);
        }
    }

    #[test]
    fn backward_is_the_gradient_of_contraction() {
        for axes in [vec![6], vec![2, 3], vec![3, 2, 2, 4]] {
            let train = Train::new(axes, 3);
            let flat = numbers(train.parameters(), "cores");
            let d_value = numbers(train.contract(&flat).len(), "d");
            let mut gradient = vec![0.0; flat.len()];
            train.backward(&flat, d_value.clone(), &mut gradient);
            check("cores", &flat, &gradient, |flat| dot(&train.contract(flat), &d_value));
        }
    }

    #[test]
    fn sides_become_small_parts() {
        assert_eq!(parts(4096, 16), [16, 16, 16]);
        assert_eq!(parts(64, 4), [4, 4, 4]);
        assert_eq!(parts(11_008, 16), [16, 16, 43]);
        assert_eq!(parts(23, 4), [23]);
        assert_eq!(parts(1, 4), [1]);
    }
}
