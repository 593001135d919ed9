//! A weight matrix in the type it is stored in: `y = x W^T`, `dx = dy W`, row gather; frozen, or thawed in the compute type with a gradient `dW = dy^T x`.
//!
//! bf16 weights stay bf16 in memory and are widened on the fly: while a kernel packs or reads them, and block by block where it cannot. Arithmetic and
//! accumulation are in `T`, unless the workspace has bf16 products (see [`crate::tensor::Bf16Products`]). An embedding and the output head tied to it share
//! one such matrix.

use std::any::Any;

use half::bf16;
use rayon::prelude::*;

use super::thin;
use crate::tensor::vector::widest;
use crate::tensor::{
    FEW_ROWS, Frozen, MatMut, MatRef, Matrix, Product, Real, RoundedRows, Workspace, bf16_products, few_rows_product,
    matmul, panel_products, products_of_rounded,
};
use crate::weights::{Bf16Values, round_to_bf16};

/// How the elements are held.
#[derive(Clone, Debug)]
pub enum Storage<T> {
    /// In the compute type.
    Dense(Vec<T>),
    /// As bf16, two bytes an element, widened when used; in the model's file, or of its own.
    Bf16(Bf16Values),
}

/// A matrix `[rows, cols]` = `[d_out, d_in]`, row-major.
#[derive(Clone, Debug)]
pub struct Weight<T> {
    storage: Storage<T>,
    rows: usize,
    cols: usize,
}

/// Elements of one widened block, about: 1 MiB of f32, which stays in the second-level cache beside the kernel's packed panels.
const BLOCK: usize = 1 << 18;
/// Rows of a block are a multiple of this, the kernel's tile, and never fewer than `LEAST_ROWS`: the kernel packs the other operand once for each block.
const TILE_ROWS: usize = 64;
const LEAST_ROWS: usize = 256;

impl<T: Real> Weight<T> {
    /// A weight from its elements.
    ///
    /// # Panics
    /// When the number of elements is not `rows * cols`.
    pub fn new(storage: Storage<T>, rows: usize, cols: usize) -> Self {
        let len = match &storage {
            Storage::Dense(data) => data.len(),
            Storage::Bf16(data) => data.len(),
        };
        assert_eq!(len, rows * cols, "a weight [{rows}, {cols}] from {len} elements");
        Self { storage, rows, cols }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether the elements are held rounded to bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self.storage, Storage::Bf16(_))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.rows * self.cols * if self.is_bf16() { 2 } else { size_of::<T>() }
    }

    /// `y = x W^T`: `x [n, cols]` to `[n, rows]`.
    pub fn forward(&self, x: &Matrix<T>, workspace: &Workspace<T>) -> Matrix<T> {
        let [y] = Self::forward_each([self], x, workspace);
        y
    }

    /// [`Self::forward`] of several weights of the same `x`: together where all are held alike, else one after another.
    pub fn forward_each<const N: usize>(
        weights: [&Self; N],
        x: &Matrix<T>,
        workspace: &Workspace<T>,
    ) -> [Matrix<T>; N] {
        if x.rows() <= FEW_ROWS {
            return weights.map(|weight| weight.forward_few(x, workspace));
        }
        if weights.iter().any(|weight| weight.is_bf16() != weights[0].is_bf16()) {
            return weights.map(|weight| weight.forward(x, workspace));
        }
        let mut ys = weights.map(|weight| workspace.matrix(x.rows(), weight.rows));
        let outs: Vec<_> = weights.into_iter().zip(&mut ys).collect();
        if !products(x, outs, true, false, workspace) {
            weights.iter().zip(&mut ys).for_each(|(weight, y)| weight.forward_in_blocks(x, y, workspace));
        }
        ys
    }

    /// [`Self::forward`] of at most `FEW_ROWS` rows.
    fn forward_few(&self, x: &Matrix<T>, workspace: &Workspace<T>) -> Matrix<T> {
        let mut y = workspace.matrix(x.rows(), self.rows);
        let (weight, rows, out): (&dyn Any, &dyn Any, &mut dyn Any) = (self, x, &mut y);
        if let (Some(Weight::<f32> { storage, .. }), Some(x), Some(out)) =
            (weight.downcast_ref(), rows.downcast_ref(), out.downcast_mut())
            && match storage {
                Storage::Dense(data) => few_rows_product(x, data, out),
                Storage::Bf16(data) => few_rows_product::<bf16>(x, data, out),
            }
        {
            return y;
        }
        if !(1..=thin::ROWS).contains(&x.rows()) {
            self.forward_in_blocks(x, &mut y, workspace);
            return y;
        }
        match &self.storage {
            Storage::Dense(data) => thin::forward(x, data, thin::dense, &mut y, workspace),
            Storage::Bf16(data) => thin::forward(x, data, thin::narrow, &mut y, workspace),
        }
        y
    }

    /// [`Self::forward`] in strided products.
    fn forward_in_blocks(&self, x: &Matrix<T>, y: &mut Matrix<T>, workspace: &Workspace<T>) {
        self.for_each_block(workspace, |first, block| {
            let end = first + block.len() / self.cols;
            let block = MatRef::new(block, end - first, self.cols);
            matmul(y.view_mut().columns(first, end), false, x.view(), block.t(), T::ONE);
        });
    }

    /// Whether products of so many rows are made of rows rounded to bf16 in vectors, so that these may be rounded where they are made.
    pub(crate) fn takes_rounded(&self, rows: usize, workspace: &Workspace<T>) -> bool {
        self.is_bf16() && RoundedRows::taken(rows, workspace)
    }

    /// [`Self::forward`] of rounded rows.
    ///
    /// # Panics
    /// When the shapes do not fit, or the weight is not held as bf16.
    pub(crate) fn forward_rounded(&self, x: &RoundedRows<T>, workspace: &Workspace<T>) -> Matrix<T> {
        let mut y = workspace.matrix(x.rows(), self.rows);
        self.product_of_rounded(x, &mut y, true, false, workspace);
        y
    }

    /// [`Self::backward`] of rounded rows.
    ///
    /// # Panics
    /// When the shapes do not fit, or the weight is not held as bf16.
    pub(crate) fn backward_rounded(
        &self,
        dy: &RoundedRows<T>,
        dx: &mut Matrix<T>,
        accumulate: bool,
        workspace: &Workspace<T>,
    ) {
        self.product_of_rounded(dy, dx, false, accumulate, workspace);
    }

    fn product_of_rounded(
        &self,
        x: &RoundedRows<T>,
        out: &mut Matrix<T>,
        transposed: bool,
        accumulate: bool,
        workspace: &Workspace<T>,
    ) {
        let (x, out, workspace): (&dyn Any, &mut dyn Any, &dyn Any) = (x, out, workspace);
        let operands = x.downcast_ref().zip(out.downcast_mut()).zip(workspace.downcast_ref());
        let (((x, out), workspace), Storage::Bf16(elements)) = (operands.expect("rounded rows are f32"), &self.storage)
        else {
            panic!("rounded rows meet weights that are held as bf16");
        };
        let w = Frozen { elements: &elements[..], cols: self.cols, transposed };
        products_of_rounded(x, &mut [Product { w, out }], accumulate, workspace);
    }

    /// `dx = dy W`, added to `dx` when `accumulate`: `dy [n, rows]`, `dx [n, cols]`.
    pub fn backward(&self, dy: &Matrix<T>, dx: &mut Matrix<T>, accumulate: bool, workspace: &Workspace<T>) {
        if products(dy, vec![(self, &mut *dx)], false, accumulate, workspace) {
            return;
        }
        let mut accumulate = accumulate;
        self.for_each_block(workspace, |first, block| {
            let end = first + block.len() / self.cols;
            let block = MatRef::new(block, end - first, self.cols);
            matmul(dx.view_mut(), accumulate, dy.view().columns(first, end), block, T::ONE);
            accumulate = true;
        });
    }

    /// Rows `ids` as a matrix: the embedding of tokens.
    ///
    /// # Panics
    /// When an id is not below `rows`; batches are checked when they are made.
    pub fn gather(&self, ids: &[u32], workspace: &Workspace<T>) -> Matrix<T> {
        let mut out = workspace.matrix(ids.len(), self.cols);
        for (row, &id) in ids.iter().enumerate() {
            let range = id as usize * self.cols..(id as usize + 1) * self.cols;
            match &self.storage {
                Storage::Dense(data) => out.row_mut(row).copy_from_slice(&data[range]),
                Storage::Bf16(data) => widen(&data[range], out.row_mut(row)),
            }
        }
        out
    }

    /// Adds the gradient of the elements to `gradient [rows * cols]`: `dW += dy^T x`, for `x [n, cols]` and `dy [n, rows]`.
    pub fn gradient(&self, x: &Matrix<T>, dy: &Matrix<T>, gradient: &mut [T]) {
        matmul(MatMut::new(gradient, self.rows, self.cols), true, dy.view().t(), x.view(), T::ONE);
    }

    /// Adds to `gradient [rows * cols]` that of [`Self::gather`]: row i of `dy` belongs to row `ids[i]`. Rows are added in their order.
    pub fn gather_gradient(&self, ids: &[u32], dy: &Matrix<T>, gradient: &mut [T]) {
        for (row, &id) in ids.iter().enumerate() {
            let to = &mut gradient[id as usize * self.cols..(id as usize + 1) * self.cols];
            to.iter_mut().zip(dy.row(row)).for_each(|(to, &from)| *to += from);
        }
    }

    /// Turns the storage into the compute type, so that the elements can be changed.
    pub fn thaw(&mut self) {
        if let Storage::Bf16(data) = &self.storage {
            let mut wide = vec![T::ZERO; data.len()];
            widen(data, &mut wide);
            self.storage = Storage::Dense(wide);
        }
    }

    /// The elements in the compute type, row-major; none while they are held as bf16.
    pub fn elements(&self) -> Option<&[T]> {
        if let Storage::Dense(data) = &self.storage { Some(data) } else { None }
    }

    /// As [`Self::elements`], to be changed.
    pub fn elements_mut(&mut self) -> Option<&mut [T]> {
        if let Storage::Dense(data) = &mut self.storage { Some(data) } else { None }
    }

    /// Replaces the elements, each rounded once to the storage; `elements` is row-major `[rows, cols]`.
    ///
    /// # Panics
    /// When the number of elements differs.
    pub fn set(&mut self, elements: &[f64]) {
        assert_eq!(elements.len(), self.rows * self.cols, "the elements have another shape than the weight");
        match &mut self.storage {
            Storage::Dense(data) => data.par_iter_mut().zip(elements).for_each(|(w, &value)| *w = T::from_f64(value)),
            Storage::Bf16(data) => {
                let rounded: Vec<bf16> = elements.par_iter().map(|&value| round_to_bf16(value)).collect();
                *data = rounded.into();
            }
        }
    }

    /// `W + delta`, computed in f64 and rounded once to the same storage; `delta` is row-major `[rows, cols]`.
    ///
    /// # Panics
    /// When the number of elements differs.
    pub fn plus(&self, delta: &[f64]) -> Self {
        assert_eq!(delta.len(), self.rows * self.cols, "the delta has another shape than the weight");
        let storage = match &self.storage {
            Storage::Dense(data) => {
                Storage::Dense(data.par_iter().zip(delta).map(|(w, d)| T::from_f64(w.to_f64() + d)).collect())
            }
            Storage::Bf16(data) => {
                let sum: Vec<bf16> = data.par_iter().zip(delta).map(|(w, d)| round_to_bf16(w.to_f64() + d)).collect();
                Storage::Bf16(sum.into())
            }
        };
        Self { storage, rows: self.rows, cols: self.cols }
    }

    /// The same with every element rounded to bf16, held as before.
    pub fn rounded_to_bf16(&self) -> Self {
        let storage = match &self.storage {
            Storage::Dense(data) => {
                Storage::Dense(data.par_iter().map(|w| T::from_f64(round_to_bf16(w.to_f64()).to_f64())).collect())
            }
            narrow @ Storage::Bf16(_) => narrow.clone(),
        };
        Self { storage, rows: self.rows, cols: self.cols }
    }

    /// All elements in f64, row-major.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.storage {
            Storage::Dense(data) => data.par_iter().map(|w| w.to_f64()).collect(),
            Storage::Bf16(data) => data.par_iter().map(|w| f64::from(w.to_f32())).collect(),
        }
    }

    /// Euclidean length of each row, computed in f64.
    pub fn row_lengths(&self) -> Vec<f64> {
        row_lengths(&self.to_f64(), self.cols)
    }

    /// Calls `work(first_row, elements)` for consecutive blocks of whole rows in the compute type; one block when nothing has to be widened. Block
    /// borders depend on the shape alone.
    fn for_each_block(&self, workspace: &Workspace<T>, mut work: impl FnMut(usize, &[T])) {
        match &self.storage {
            Storage::Dense(data) => work(0, data),
            Storage::Bf16(data) => {
                let rows =
                    (BLOCK / self.cols.max(1) / TILE_ROWS * TILE_ROWS).max(LEAST_ROWS).clamp(1, self.rows.max(1));
                let mut block = workspace.buffer(rows * self.cols);
                for (index, stored) in data.chunks(rows * self.cols).enumerate() {
                    let wide = &mut block[..stored.len()];
                    let piece = stored.len().div_ceil(16).max(4096);
                    wide.par_chunks_mut(piece).zip(stored.par_chunks(piece)).for_each(|(to, from)| widen(from, to));
                    work(index * rows, wide);
                }
            }
        }
    }
}

/// Each weight's `out = x W^T`, or `x W` where they are not `transposed`, by the kernels for frozen matrices: in bf16 arithmetic where the workspace has
/// it, else in f32; false, and nothing done, where the type or the machine asks for another way. The weights are held alike.
fn products<T: Real>(
    x: &Matrix<T>,
    outs: Vec<(&Weight<T>, &mut Matrix<T>)>,
    transposed: bool,
    accumulate: bool,
    workspace: &Workspace<T>,
) -> bool {
    let (x, workspace): (&dyn Any, &dyn Any) = (x, workspace);
    let (Some(x), Some(workspace)) = (x.downcast_ref(), workspace.downcast_ref()) else { return false };
    let (mut dense, mut narrow) = (Vec::new(), Vec::new());
    for (weight, out) in outs {
        let (weight, out): (&dyn Any, &mut dyn Any) = (weight, out);
        let (Some(weight), Some(out)) = (weight.downcast_ref::<Weight<f32>>(), out.downcast_mut()) else {
            return false;
        };
        let cols = weight.cols;
        match &weight.storage {
            Storage::Dense(elements) => {
                dense.push(Product { w: Frozen { elements: &elements[..], cols, transposed }, out })
            }
            Storage::Bf16(elements) => {
                narrow.push(Product { w: Frozen { elements: &elements[..], cols, transposed }, out })
            }
        }
    }
    assert!(dense.is_empty() || narrow.is_empty(), "weights that are held alike");
    if narrow.is_empty() {
        return panel_products(x, &mut dense, accumulate, workspace);
    }
    bf16_products(x, &mut narrow, accumulate, workspace) || panel_products(x, &mut narrow, accumulate, workspace)
}

/// Euclidean length of each row of a row-major matrix.
pub fn row_lengths(elements: &[f64], cols: usize) -> Vec<f64> {
    elements.par_chunks(cols.max(1)).map(|row| row.iter().map(|w| w * w).sum::<f64>().sqrt()).collect()
}

widest! {
    fn widen<T: Real>(from: &[bf16], to: &mut [T]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f64(f64::from(f32::from_bits(u32::from(from.to_bits()) << 16)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};
    use crate::tensor::Bf16Products;

    fn matrix(workspace: &Workspace<f64>, rows: usize, data: &[f64]) -> Matrix<f64> {
        let mut m = workspace.matrix(rows, data.len() / rows);
        m.copy_from(data);
        m
    }

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(1).unwrap();
        let weight = Weight::new(Storage::Dense(numbers(5 * 7, "w")), 5, 7);
        let (x, dy) = (numbers(3 * 7, "x"), numbers(3 * 5, "dy"));
        let mut dx = workspace.matrix(3, 7);
        weight.backward(&matrix(&workspace, 3, &dy), &mut dx, false, &workspace);
        check("linear dx", &x, dx.data(), |x| dot(weight.forward(&matrix(&workspace, 3, x), &workspace).data(), &dy));
        let once = dx.data().to_vec();
        weight.backward(&matrix(&workspace, 3, &dy), &mut dx, true, &workspace);
        assert!(dx.data().iter().zip(&once).all(|(two, one)| (two - 2.0 * one).abs() < 1e-12));
    }

    #[test]
    fn gradients_of_the_elements_are_those_of_forward_and_gather() {
        let workspace = Workspace::new(1).unwrap();
        let (w, x, dy) = (numbers(5 * 7, "w"), numbers(3 * 7, "x"), numbers(3 * 5, "dy"));
        let weight = |w: &[f64]| Weight::new(Storage::Dense(w.to_vec()), 5, 7);
        let (x, dy) = (matrix(&workspace, 3, &x), matrix(&workspace, 3, &dy));
        let mut gradient = vec![0.0; 5 * 7];
        weight(&w).gradient(&x, &dy, &mut gradient);
        check("dW", &w, &gradient, |w| dot(weight(w).forward(&x, &workspace).data(), dy.data()));
        let ids = [4, 0, 4];
        let mut gradient = vec![0.0; 5 * 7];
        weight(&w).gather_gradient(&ids, &x, &mut gradient);
        check("dE", &w, &gradient, |w| dot(weight(w).gather(&ids, &workspace).data(), x.data()));
    }

    #[test]
    fn thawing_keeps_the_values() {
        let mut weight =
            Weight::<f32>::new(Storage::Bf16(vec![bf16::from_f32(0.1), bf16::from_f32(-3.0)].into()), 1, 2);
        assert!(weight.elements_mut().is_none());
        weight.thaw();
        assert_eq!(weight.elements(), Some([bf16::from_f32(0.1).to_f32(), -3.0].as_slice()));
    }

    #[test]
    fn f64_is_not_rounded_whatever_the_arithmetic_of_bf16_products() {
        let workspace = Workspace::new(1).unwrap().with_bf16_products(Bf16Products::Portable);
        let stored: Vec<bf16> = numbers(3 * 5, "w").into_iter().map(bf16::from_f64).collect();
        let dense = Weight::new(Storage::Dense(stored.iter().map(|v| v.to_f64()).collect()), 3, 5);
        let narrow = Weight::new(Storage::Bf16(stored.into()), 3, 5);
        let x = matrix(&workspace, 32, &numbers(32 * 5, "x"));
        assert_eq!(dense.forward(&x, &workspace).data(), narrow.forward(&x, &workspace).data());
    }

    #[test]
    fn weights_of_the_same_rows_give_what_each_gives_alone() {
        let weight = |rows: usize, bf16: bool| {
            let elements: Vec<f32> = numbers(rows * 70, "w").into_iter().map(|w| w as f32).collect();
            let stored: Vec<bf16> = elements.iter().map(|&w| bf16::from_f32(w)).collect();
            Weight::new(if bf16 { Storage::Bf16(stored.into()) } else { Storage::Dense(elements) }, rows, 70)
        };
        for products in [Bf16Products::Widened, Bf16Products::Portable] {
            let workspace = Workspace::new(2).unwrap().with_bf16_products(products);
            for (storages, count) in [([true; 3], 40), ([false; 3], 40), ([true, false, true], 40), ([true; 3], 5)] {
                let mut x = workspace.matrix(count, 70);
                x.data_mut().iter_mut().zip(numbers(count * 70, "x")).for_each(|(x, value)| *x = value as f32);
                let weights = [(90, storages[0]), (1, storages[1]), (33, storages[2])].map(|(m, s)| weight(m, s));
                let [a, b, c] = &weights;
                let together = Weight::forward_each([a, b, c], &x, &workspace);
                for (weight, y) in weights.iter().zip(&together) {
                    assert_eq!(
                        weight.forward(&x, &workspace).data(),
                        y.data(),
                        "{products:?}, {storages:?}, {count} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn bf16_storage_equals_the_widened_matrix() {
        let workspace = Workspace::new(2).unwrap();
        // more than one block: 700 * 601 elements
        let (rows, cols) = (700, 601);
        let stored: Vec<bf16> = numbers(rows * cols, "w").into_iter().map(bf16::from_f64).collect();
        let dense = Weight::new(Storage::Dense(stored.iter().map(|v| v.to_f64()).collect()), rows, cols);
        let narrow = Weight::new(Storage::Bf16(stored.into()), rows, cols);
        let dy = matrix(&workspace, 3, &numbers(3 * rows, "dy"));
        let close = |a: &Matrix<f64>, b: &Matrix<f64>| {
            // block sums are added in another order: 700 terms of unit size in f64
            a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-11)
        };
        // few rows, in every number of rows that meet a weight's row together, and many
        for count in [1, 2, 3, 4, 7, thin::ROWS, thin::ROWS + 1] {
            let x = matrix(&workspace, count, &numbers(count * cols, "x"));
            let y = dense.forward(&x, &workspace);
            assert!(close(&y, &narrow.forward(&x, &workspace)), "{count} rows");
            let mut expected = workspace.matrix(count, rows);
            let elements = MatRef::new(dense.elements().unwrap(), rows, cols);
            matmul(expected.view_mut(), false, x.view(), elements.t(), 1.0);
            assert!(close(&y, &expected), "{count} rows");
        }
        let (mut a, mut b) = (workspace.matrix(3, cols), workspace.matrix(3, cols));
        dense.backward(&dy, &mut a, false, &workspace);
        narrow.backward(&dy, &mut b, false, &workspace);
        assert!(close(&a, &b));
        assert!(close(&dense.gather(&[699, 0], &workspace), &narrow.gather(&[699, 0], &workspace)));
    }
}
