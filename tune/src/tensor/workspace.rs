//! The workspace: where every operation gets its buffers and its threads.
//!
//! A buffer goes back to the workspace when it is dropped, so that after the first steps nothing is asked from the system any more, and so that memory falls
//! while the backward pass consumes what forward saved (see [`super::arena`]). The workspace also counts bytes: `peak_bytes` is what a run prints and `plan`
//! estimates. A GPU stream will live here beside the thread pool.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::arena::{Arena, Span};
use super::{Bf16Products, Matrix, Real, awake};

/// Buffers and threads of one model run. Cheap to clone: clones share both.
#[derive(Clone)]
pub struct Workspace<T: Real> {
    arena: Arc<Arena<T>>,
    threads: Arc<rayon::ThreadPool>,
    bf16_products: Bf16Products,
}

impl<T: Real> Workspace<T> {
    /// A workspace with its own pool of `threads` threads (0: one for each processor).
    ///
    /// # Errors
    /// When the system refuses to start the threads.
    pub fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        // a refused value is the program's to report
        let bf16_products = Bf16Products::of_process().map_or(Bf16Products::Widened, |(products, _)| products);
        Ok(Self { arena: Arena::new(), threads: Arc::new(threads), bf16_products })
    }

    /// The same with another arithmetic for products with bf16 weights than the process has chosen.
    ///
    /// # Panics
    /// Later, in products, when the machine has not got what it names.
    pub fn with_bf16_products(self, bf16_products: Bf16Products) -> Self {
        Self { bf16_products, ..self }
    }

    /// The arithmetic of products with bf16 weights, and of attention's where it says so.
    pub fn bf16_products(&self) -> Bf16Products {
        self.bf16_products
    }

    /// Runs `work` on the workspace's threads: parallel operations inside use these and no others.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// As [`Self::run`], with all threads awake until `work` is done: for one parallel operation after another, between which they would fall asleep. Waiting for
    /// files inside would waste them.
    pub fn run_awake<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        awake::run(&self.threads, work)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// A matrix whose contents are unspecified: the caller writes every element before reading any.
    pub fn matrix(&self, rows: usize, cols: usize) -> Matrix<T> {
        Matrix::from_buffer(self.buffer(rows * cols), rows, cols)
    }

    /// A matrix of zeros.
    pub fn zeros(&self, rows: usize, cols: usize) -> Matrix<T> {
        let mut matrix = self.matrix(rows, cols);
        matrix.data_mut().fill(T::ZERO);
        matrix
    }

    /// A buffer of `len` numbers whose contents are unspecified. In the crate's own tests they are NaN, so that a read before a write shows.
    pub fn buffer(&self, len: usize) -> Buffer<T> {
        let mut buffer = Buffer { span: self.arena.take(len), len };
        if cfg!(test) {
            buffer.fill(T::from_f64(f64::NAN));
        }
        buffer
    }

    /// Largest number of bytes that were in use at one time.
    pub fn peak_bytes(&self) -> usize {
        self.arena.peak() * size_of::<T>()
    }
}

/// Numbers on loan from a [`Workspace`]; dropped, they return to it.
pub struct Buffer<T: Real> {
    span: Span<T>,
    len: usize,
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.span.numbers()[..self.len]
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.span.numbers_mut()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let workspace = Workspace::<f32>::new(1).unwrap();
        let first = workspace.buffer(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(workspace.buffer(1001).as_ptr(), address);
        assert_eq!(workspace.peak_bytes(), 1008 * 4);
    }
}
