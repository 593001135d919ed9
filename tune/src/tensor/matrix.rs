//! A dense row-major matrix on loan from the workspace: the one shape activations have (`[tokens, features]`).

use rayon::prelude::*;

use super::{Buffer, MatMut, MatRef, Real, vector};

/// Elements handled by one parallel task.
const CHUNK: usize = 1 << 15;

/// Row-major `[rows, cols]`.
pub struct Matrix<T: Real> {
    buffer: Buffer<T>,
    rows: usize,
    cols: usize,
}

impl<T: Real> Matrix<T> {
    pub(super) fn from_buffer(buffer: Buffer<T>, rows: usize, cols: usize) -> Self {
        debug_assert_eq!(buffer.len(), rows * cols);
        Self { buffer, rows, cols }
    }

    /// The same elements as rows of another length.
    ///
    /// # Panics
    /// When the number of elements differs.
    pub fn reshaped(self, rows: usize, cols: usize) -> Self {
        assert_eq!(self.rows * self.cols, rows * cols, "another number of elements");
        Self { rows, cols, ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements, row after row.
    pub fn data(&self) -> &[T] {
        &self.buffer
    }

    /// All elements, row after row, to be changed.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.buffer
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[T] {
        &self.buffer[row * self.cols..(row + 1) * self.cols]
    }

    /// One row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let cols = self.cols;
        &mut self.buffer[row * cols..(row + 1) * cols]
    }

    /// The matrix as an operand of [`super::matmul`].
    pub fn view(&self) -> MatRef<'_, T> {
        MatRef::new(&self.buffer, self.rows, self.cols)
    }

    /// The matrix as the destination of [`super::matmul`].
    pub fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(&mut self.buffer, self.rows, self.cols)
    }

    /// Copies `source` into this matrix.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_from(&mut self, source: &[T]) {
        self.buffer.copy_from_slice(source);
    }

    /// Adds `other` element by element.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn add(&mut self, other: &Matrix<T>) {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "sum of matrices of different shapes");
        let parts = self.buffer.par_chunks_mut(CHUNK).zip(other.data().par_chunks(CHUNK));
        parts.for_each(|(to, from)| vector::add(to, from));
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.buffer.len() * size_of::<T>()
    }
}
