//! The workspace: where every operation gets its buffers and its threads.
//!
//! A buffer goes back to the workspace when it is dropped, so that after the first steps nothing is allocated any more, and so that memory falls while
//! the backward pass consumes what forward saved. The workspace also counts bytes: `peak_bytes` is what a run prints and `plan` estimates. A GPU stream
//! will live here beside the thread pool.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Matrix, Real};

/// Buffers and threads of one model run. Cheap to clone: clones share both.
#[derive(Clone)]
pub struct Workspace<T: Real> {
    pool: Arc<Pool<T>>,
    threads: Arc<rayon::ThreadPool>,
}

struct Pool<T> {
    free: Mutex<HashMap<usize, Vec<Box<[T]>>>>,
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl<T: Real> Workspace<T> {
    /// A workspace with its own pool of `threads` threads (0: one for each processor).
    ///
    /// # Errors
    /// When the system refuses to start the threads.
    pub fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let pool = Pool { free: Mutex::default(), live: AtomicUsize::new(0), peak: AtomicUsize::new(0) };
        Ok(Self { pool: Arc::new(pool), threads: Arc::new(threads) })
    }

    /// Runs `work` on the workspace's threads: parallel operations inside use these and no others.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
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
        let class = size_class(len);
        let reused = self.lock_free().get_mut(&class).and_then(Vec::pop);
        let data = reused.unwrap_or_else(|| vec![T::ZERO; class].into_boxed_slice());
        let live = self.pool.live.fetch_add(class, Ordering::Relaxed) + class;
        self.pool.peak.fetch_max(live, Ordering::Relaxed);
        let mut buffer = Buffer { data, len, pool: Arc::clone(&self.pool) };
        if cfg!(test) {
            buffer.fill(T::from_f64(f64::NAN));
        }
        buffer
    }

    /// Largest number of bytes that were in use at one time.
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak.load(Ordering::Relaxed) * size_of::<T>()
    }

    fn lock_free(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<Box<[T]>>>> {
        self.pool.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Numbers on loan from a [`Workspace`]; dropped, they return to it.
pub struct Buffer<T: Real> {
    data: Box<[T]>,
    len: usize,
    pool: Arc<Pool<T>>,
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let class = data.len();
        self.pool.live.fetch_sub(class, Ordering::Relaxed);
        let mut free = self.pool.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        free.entry(class).or_default().push(data);
    }
}

/// Capacity for a request: the next of eight steps between powers of two, so that batches of nearly equal length reuse each other's buffers at a cost of
/// at most an eighth.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(16);
    len.div_ceil(step) * step
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
        assert_eq!(workspace.peak_bytes(), size_class(1000) * 4);
    }

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for len in 128..5000 {
            let class = size_class(len);
            assert!(class >= len && class <= len + len / 8, "{len} -> {class}");
        }
    }
}
