//! Matrix products with strides, by the `gemm` crate: the one door to its unsafe interface.
//!
//! The wrapper checks shapes and that every strided element lies inside its slice, then calls the kernel with the current rayon pool. The kernel's split
//! over threads never cuts the summed dimension and its block sizes depend on the shape alone, so results do not depend on the number of threads (tested
//! below).

#[cfg(target_arch = "x86_64")]
use std::any::TypeId;

use super::Real;

/// The instruction set that products of real numbers run on: `avx512f`, `fma`, `neon` or `portable`, by the rule of the `gemm` crate.
pub fn product_kernel() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512f";
        }
        if is_x86_feature_detected!("fma") {
            return "fma";
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        return "neon";
    }
    "portable"
}

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: 'static> MatRef<'a, T> {
    /// Row-major `[rows, cols]` at the start of `data`.
    ///
    /// # Panics
    /// When `data` is shorter than `rows * cols`.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a slice of {} holds no {rows} x {cols} matrix", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed matrix; nothing moves.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Columns `start..end`.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn columns(self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.cols, "columns {start}..{end} of {}", self.cols);
        let offset = if start == end { 0 } else { start * self.col_stride };
        Self { data: &self.data[offset..], cols: end - start, ..self }
    }

    /// The same matrix, if it is one of f32.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn into_f32(self) -> Option<MatRef<'a, f32>> {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Some(MatRef { data: as_f32(data)?, rows, cols, row_stride, col_stride })
    }

    /// The elements as they lie, the distance between lines of them that follow each other, and whether these lines are the matrix's columns.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn lines(self) -> (&'a [T], usize, bool) {
        debug_assert!(self.col_stride == 1 || self.row_stride == 1, "views are made of row-major matrices");
        if self.col_stride == 1 { (self.data, self.row_stride, false) } else { (self.data, self.col_stride, true) }
    }

    fn last(&self) -> usize {
        last(self.rows, self.cols, self.row_stride, self.col_stride)
    }
}

/// A strided matrix to write.
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: 'static> MatMut<'a, T> {
    /// Row-major `[rows, cols]` at the start of `data`.
    ///
    /// # Panics
    /// When `data` is shorter than `rows * cols`.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a slice of {} holds no {rows} x {cols} matrix", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Columns `start..end`.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn columns(self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.cols, "columns {start}..{end} of {}", self.cols);
        let offset = if start == end { 0 } else { start * self.col_stride };
        Self { data: &mut self.data[offset..], cols: end - start, ..self }
    }

    /// The same matrix, if it is one of f32.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn into_f32(self) -> Option<MatMut<'a, f32>> {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Some(MatMut { data: as_f32_mut(data)?, rows, cols, row_stride, col_stride })
    }

    /// The elements from the first on, and the distance between rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn into_lines(self) -> (&'a mut [T], usize) {
        debug_assert_eq!(self.col_stride, 1, "what is written is row-major");
        (self.data, self.row_stride)
    }
}

/// The slice as what it is, if that is f32.
#[cfg(target_arch = "x86_64")]
pub(super) fn as_f32<T: 'static>(slice: &[T]) -> Option<&[f32]> {
    let same = TypeId::of::<T>() == TypeId::of::<f32>();
    // SAFETY: T is f32
    same.then(|| unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) })
}

/// [`as_f32`] of what may be changed.
#[cfg(target_arch = "x86_64")]
fn as_f32_mut<T: 'static>(slice: &mut [T]) -> Option<&mut [f32]> {
    let same = TypeId::of::<T>() == TypeId::of::<f32>();
    // SAFETY: T is f32
    same.then(|| unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), slice.len()) })
}

fn last(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// `dst = scale * a b`, or `dst += scale * a b` when `accumulate`.
///
/// `a [m, k]`, `b [k, n]`, `dst [m, n]`, any strides. Products and sums in `T`. Runs on the current rayon pool when the product is large.
///
/// # Panics
/// When the shapes do not fit or a stride leaves its slice.
pub fn matmul<T: Real>(dst: MatMut<'_, T>, accumulate: bool, a: MatRef<'_, T>, b: MatRef<'_, T>, scale: T) {
    product(dst, accumulate, a, b, scale, gemm::Parallelism::Rayon(0));
}

/// [`matmul`] on the calling thread alone, with the same bits: for products in loops that are spread over the threads already.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_here<T: Real>(dst: MatMut<'_, T>, accumulate: bool, a: MatRef<'_, T>, b: MatRef<'_, T>, scale: T) {
    product(dst, accumulate, a, b, scale, gemm::Parallelism::None);
}

/// Rows and columns of a product and the length of its sums.
///
/// # Panics
/// When the shapes do not fit or a stride leaves its slice.
pub(super) fn fit<T: Real>(dst: &MatMut<'_, T>, a: MatRef<'_, T>, b: MatRef<'_, T>) -> [usize; 3] {
    let (m, n, k) = (dst.rows, dst.cols, a.cols);
    assert!(
        a.rows == m && b.rows == k && b.cols == n,
        "product of [{}, {}] and [{}, {}] into [{m}, {n}]",
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
    assert!(a.last() <= a.data.len() && b.last() <= b.data.len(), "an operand's stride leaves its slice");
    assert!(last(m, n, dst.row_stride, dst.col_stride) <= dst.data.len(), "the destination's stride leaves its slice");
    [m, n, k]
}

fn product<T: Real>(
    dst: MatMut<'_, T>,
    accumulate: bool,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    scale: T,
    parallelism: gemm::Parallelism,
) {
    let [m, n, k] = fit(&dst, a, b);
    if m == 0 || n == 0 {
        return;
    }
    let alpha = if accumulate { T::ONE } else { T::ZERO };
    // SAFETY: the assertions above place every element (i, j) of the three matrices inside its slice; `dst` is borrowed exclusively and the operands
    // are shared borrows, so they do not overlap it; its two strides address distinct elements because it was made row-major.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.data.as_mut_ptr(),
            dst.col_stride as isize,
            dst.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Stream, Workspace};

    fn random(len: usize, name: &str) -> Vec<f64> {
        let mut stream = Stream::new(7, "test", name);
        (0..len).map(|_| stream.normal()).collect()
    }

    #[test]
    fn matmul_equals_the_definition_for_every_stride() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (1, 40, 9), (33, 1, 20), (70, 65, 130), (5, 6, 1), (4, 3, 0)] {
            let (a, b) = (random(m * k, "a"), random(k * n, "b"));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let view_a = if ta { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
                let view_b = if tb { MatRef::new(&b, n, k).t() } else { MatRef::new(&b, k, n) };
                for accumulate in [false, true] {
                    let mut dst = vec![if accumulate { 1.0 } else { f64::NAN }; m * n];
                    matmul(MatMut::new(&mut dst, m, n), accumulate, view_a, view_b, -0.5);
                    for i in 0..m {
                        for j in 0..n {
                            let at = |r: usize, c: usize| if ta { a[c * m + r] } else { a[r * k + c] };
                            let bt = |r: usize, c: usize| if tb { b[c * k + r] } else { b[r * n + c] };
                            let sum: f64 = (0..k).map(|l| at(i, l) * bt(l, j)).sum();
                            let expected = if accumulate { 1.0 - 0.5 * sum } else { -0.5 * sum };
                            // k products of unit size: rounding grows with sqrt(k), 1e-12 is far above it and far below a wrong term
                            assert!((dst[i * n + j] - expected).abs() < 1e-12, "{m} {n} {k} at {i},{j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in [(1, 700, 300), (257, 300, 513), (600, 64, 64), (64, 2000, 600), (1000, 1000, 17)] {
            let a: Vec<f32> = random(m * k, "a").into_iter().map(|v| v as f32).collect();
            let b: Vec<f32> = random(k * n, "b").into_iter().map(|v| v as f32).collect();
            let results: Vec<Vec<f32>> = [1, 2, 3, 4]
                .map(|threads| {
                    let mut dst = vec![0.0; m * n];
                    let workspace = Workspace::<f32>::new(threads).unwrap();
                    workspace.run(|| {
                        let b = MatRef::new(&b, n, k).t();
                        matmul(MatMut::new(&mut dst, m, n), false, MatRef::new(&a, m, k), b, 1.0);
                    });
                    dst
                })
                .into();
            for other in &results[1..] {
                assert!(other == &results[0], "{m} {n} {k}");
            }
        }
    }
}
