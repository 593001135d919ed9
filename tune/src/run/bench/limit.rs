//! What the machine can do at most, measured beside what is judged by it: fused multiply-adds that wait for nothing, and reading memory.
//!
//! Both are loops in safe Rust that the `pulp` crate compiles for the widest vectors of the machine, as the product kernels are. They run on all threads of
//! the current pool. They are limits of f32 arithmetic with vectors: a machine with units for whole matrices can do more in narrower types.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Sums that do not wait for each other: two units with a latency of five cycles have work at all times, and 16 registers hold them and two constants.
const SUMS: usize = 12;

/// Shortest measurement, in seconds.
const SHORTEST: f64 = 0.02;

/// Floating-point operations a second of independent f32 fused multiply-adds, two for each, on all threads of the current pool.
pub(super) fn multiply_adds() -> f64 {
    let mut rounds = 1 << 12;
    loop {
        let clock = Instant::now();
        let done: f64 = rayon::broadcast(|_| Arch::new().dispatch(MultiplyAdds { rounds })).into_iter().sum();
        let seconds = clock.elapsed().as_secs_f64();
        if seconds >= SHORTEST {
            return done / seconds;
        }
        rounds *= 2;
    }
}

/// Bytes a second at which all threads of the current pool read `buffer` once, each a part of its own.
///
/// # Panics
/// When the buffer is empty.
pub(super) fn reading(buffer: &[f32]) -> f64 {
    let part = buffer.len().div_ceil(rayon::current_num_threads());
    let clock = Instant::now();
    let sum: f32 = buffer.par_chunks(part).map(|part| Arch::new().dispatch(Sum(part))).sum();
    black_box(sum);
    size_of_val(buffer) as f64 / clock.elapsed().as_secs_f64()
}

/// `s = s / 2 + 1` for every sum, again and again; returns the operations.
struct MultiplyAdds {
    rounds: usize,
}

impl WithSimd for MultiplyAdds {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (half, one) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(1.0)));
        // different starts, or the compiler computes one sum for all
        let mut sums = [half; SUMS];
        sums.iter_mut().enumerate().for_each(|(index, sum)| *sum = simd.splat_f32s(black_box(index as f32)));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, half, one);
            }
        }
        let total: f32 = sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum();
        black_box(total);
        2.0 * (self.rounds * SUMS * S::F32_LANES) as f64
    }
}

/// The sum of a slice, in eight vectors.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let (blocks, others) = vectors.as_chunks::<8>();
        let mut sums = [simd.splat_f32s(0.0); 8];
        for block in blocks {
            for lane in 0..8 {
                sums[lane] = simd.add_f32s(sums[lane], block[lane]);
            }
        }
        let sum = sums.iter().chain(others).fold(simd.splat_f32s(0.0), |sum, &vector| simd.add_f32s(sum, vector));
        simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_once() {
        for len in [1, 7, 16, 129, 1000] {
            let numbers: Vec<f32> = (0..len).map(|i| i as f32).collect();
            // whole numbers below 2^24: exact in any order
            assert_eq!(Arch::new().dispatch(Sum(&numbers)), (len * (len - 1) / 2) as f32);
        }
    }

    #[test]
    fn a_round_is_two_operations_a_lane_and_sum() {
        let once = Arch::new().dispatch(MultiplyAdds { rounds: 1 });
        assert_eq!(Arch::new().dispatch(MultiplyAdds { rounds: 5 }), 5.0 * once);
        assert!(once >= (2 * SUMS) as f64 && once <= (2 * SUMS * 16) as f64);
    }
}
