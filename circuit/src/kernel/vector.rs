//! Vector registers of the instruction sets, and the kernels compiled for each of them.
//!
//! One trait names the handful of register operations that the kernels use; the generic kernel code is written once and compiled here with AVX-512,
//! with AVX2 and FMA, and portably. The choice is made at run time, once for each call. What the kernels do is `gate`'s and `transfer`'s concern.

use super::Kernels;
use super::gate::{self, BackwardGate, ForwardGate};
use super::schedule;
use super::transfer::{self, Transfer};
use crate::Real;

/// A vector register of `LANES` numbers.
///
/// # Safety
/// Every method may only be called on a machine that has the implementing instruction set; the pointers must be valid for the lanes touched, with any
/// alignment.
pub(crate) unsafe trait Vector: Copy {
    /// The number type.
    type Element: Real;
    /// Numbers in a register, at most 16.
    const LANES: usize;
    /// Gate rows computed together: 4 or 8, such that three times as many registers and four more exist.
    const ROWS: usize;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// All lanes equal.
    unsafe fn splat(value: Self::Element) -> Self;
    /// Reads a register.
    unsafe fn load(from: *const Self::Element) -> Self;
    /// Writes a register.
    unsafe fn store(self, to: *mut Self::Element);
    /// `a * b + c`, rounded once where the instruction set can.
    unsafe fn fused(a: Self, b: Self, c: Self) -> Self;
    /// One lane of [`Vector::fused`].
    unsafe fn fused_one(a: Self::Element, b: Self::Element, c: Self::Element) -> Self::Element;
    /// `a + b`.
    unsafe fn add(a: Self, b: Self) -> Self;
    /// The transposed block of the registers at the first `LANES` of `rows`: as many registers, and zeros behind them.
    unsafe fn transpose(rows: &[*const Self::Element; 16]) -> [Self; 16];
    /// Writes [`Vector::transpose`] to an array whose rows are `stride` numbers apart.
    #[inline(always)]
    unsafe fn transpose_to(rows: &[*const Self::Element; 16], to: *mut Self::Element, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let columns = Self::transpose(rows);
            for i in 0..Self::LANES {
                columns[i].store(to.add(i * stride));
            }
        }
    }
}

/// Registers as arrays: what the compiler makes of them is up to the target. No fused multiply-add, which would be a library call without hardware.
#[derive(Clone, Copy)]
pub(crate) struct Portable<T, const N: usize>([T; N]);

// SAFETY: plain Rust, within the pointers' promises.
unsafe impl<T: Real, const N: usize> Vector for Portable<T, N> {
    type Element = T;
    const LANES: usize = N;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([T::ZERO; N])
    }
    #[inline(always)]
    unsafe fn splat(value: T) -> Self {
        Self([value; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller's promise; an array of T has no other layout than T's.
        Self(unsafe { from.cast::<[T; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[T; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fused(a: Self, b: Self, mut c: Self) -> Self {
        for i in 0..N {
            c.0[i] += a.0[i] * b.0[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn fused_one(a: T, b: T, c: T) -> T {
        c + a * b
    }
    #[inline(always)]
    unsafe fn add(a: Self, mut b: Self) -> Self {
        for i in 0..N {
            b.0[i] += a.0[i];
        }
        b
    }
    #[inline(always)]
    unsafe fn transpose(rows: &[*const T; 16]) -> [Self; 16] {
        let mut columns = [Self([T::ZERO; N]); 16];
        for row in 0..N {
            for col in 0..N {
                // SAFETY: the caller's promise for rows and block.
                columns[col].0[row] = unsafe { *rows[row].add(col) };
            }
        }
        columns
    }
}

/// Compiles the kernels for a vector type; the second form enables the instruction set for them.
macro_rules! kernels {
    ($table:ident, $name:literal, $vector:ty, $element:ty $(, $feature:literal)?) => {
        pub(crate) static $table: Kernels<$element> = {
            $(#[target_feature(enable = $feature)])?
            unsafe fn forward(gate: &ForwardGate<'_, $element>) {
                // SAFETY: the caller's promise; the table is only handed out where the features were found.
                unsafe { gate::forward::<$vector>(gate) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn backward(gate: &BackwardGate<'_, $element>) {
                // SAFETY: as above.
                unsafe { gate::backward::<$vector>(gate) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn load(rows: &Transfer<$element>) {
                // SAFETY: as above.
                unsafe { transfer::load::<$vector>(rows) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn unload(rows: &Transfer<$element>, scale: $element) {
                // SAFETY: as above.
                unsafe { transfer::unload::<$vector>(rows, scale) }
            }
            Kernels {
                name: $name,
                lanes: <$vector as Vector>::LANES,
                packed_len: |rows, cols| rows * cols,
                pack: |gates, rows, cols, packed| schedule::pack(gates, rows, cols, <$vector as Vector>::ROWS, packed),
                forward_scratch: gate::forward_scratch,
                backward_scratch: gate::backward_scratch,
                forward,
                backward,
                load,
                unload,
            }
        };
    };
}

kernels!(PORTABLE_F32, "portable", Portable<f32, 4>, f32);
kernels!(PORTABLE_F64, "portable", Portable<f64, 2>, f64);

// As wide as half a block of a matrix unit: for what is around `unit_kernels`' blocks in plain code.
kernels!(PORTABLE_WIDE_F32, "portable", Portable<f32, 16>, f32);

/// The kernels of this machine for f32.
pub(crate) fn best_f32() -> &'static Kernels<f32> {
    all_f32()[0]
}

/// The kernels of this machine for f64.
pub(crate) fn best_f64() -> &'static Kernels<f64> {
    all_f64()[0]
}

#[cfg(not(target_arch = "x86_64"))]
/// All kernels that this machine can run, the fastest first.
pub(crate) fn all_f32() -> &'static [&'static Kernels<f32>] {
    &[&PORTABLE_F32]
}

#[cfg(not(target_arch = "x86_64"))]
/// All kernels that this machine can run, the fastest first.
pub(crate) fn all_f64() -> &'static [&'static Kernels<f64>] {
    &[&PORTABLE_F64]
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use x86::{AVX512_F32, Avx512F32, has_avx512};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{all_f32, all_f64};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The instruction sets of x86-64.

    use super::*;
    use std::arch::x86_64::*;

    /// A vector type of one register class; `$shuffle` transposes a block in registers.
    macro_rules! register {
        ($name:ident, $register:ty, $element:ty, $lanes:literal, $rows:literal, $features:literal,
         $zero:ident, $splat:ident, $load:ident, $store:ident, $fused:ident, $add:ident, $shuffle:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($register);

            // SAFETY: each method is the instruction of its name; the caller promises the instruction set and the pointers.
            unsafe impl Vector for $name {
                type Element = $element;
                const LANES: usize = $lanes;
                const ROWS: usize = $rows;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the caller's promise of the instruction set, here and below.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn splat(value: $element) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $splat(value) })
                }
                #[inline(always)]
                unsafe fn load(from: *const $element) -> Self {
                    // SAFETY: as above, and the pointer's promise.
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $element) {
                    // SAFETY: as above, and the pointer's promise.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn fused(a: Self, b: Self, c: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $fused(a.0, b.0, c.0) })
                }
                #[inline(always)]
                unsafe fn fused_one(a: $element, b: $element, c: $element) -> $element {
                    // The instruction set has FMA, so this is one instruction, not a call.
                    a.mul_add(b, c)
                }
                #[inline(always)]
                unsafe fn add(a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $add(a.0, b.0) })
                }
                #[inline(always)]
                unsafe fn transpose(rows: &[*const $element; 16]) -> [Self; 16] {
                    // SAFETY: as above, and the pointers' promise for `LANES` rows of `LANES` numbers each.
                    unsafe {
                        let mut block = [$zero(); $lanes];
                        for i in 0..$lanes {
                            block[i] = $load(rows[i]);
                        }
                        let shuffled = $shuffle(block);
                        let mut columns = [Self($zero()); 16];
                        for i in 0..$lanes {
                            columns[i] = Self(shuffled[i]);
                        }
                        columns
                    }
                }
            }
        };
    }

    register!(
        Avx512F32,
        __m512,
        f32,
        16,
        8,
        "avx512f",
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        transpose_512_f32
    );
    register!(
        Avx512F64,
        __m512d,
        f64,
        8,
        8,
        "avx512f",
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd,
        transpose_512_f64
    );
    register!(
        Avx2F32,
        __m256,
        f32,
        8,
        4,
        "avx2,fma",
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        transpose_256_f32
    );
    register!(
        Avx2F64,
        __m256d,
        f64,
        4,
        4,
        "avx2,fma",
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd,
        transpose_256_f64
    );

    // All four transpositions have two stages. First, groups of rows (4 for f32, 2 for f64: the numbers in 128 bits) are transposed inside each 128-bit
    // part, so that part j of register (g, c) holds column size*j + c of the rows of group g. Then the 128-bit parts are transposed across the groups.

    #[inline(always)]
    unsafe fn transpose_512_f32(r: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: the caller's promise of the instruction set.
        unsafe {
            let mut u = [[_mm512_setzero_ps(); 4]; 4];
            for g in 0..4 {
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(r[4 * g], r[4 * g + 1]));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(r[4 * g], r[4 * g + 1]));
                let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]));
                let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]));
                u[g][0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
                u[g][1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
                u[g][2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
                u[g][3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
            }
            let mut out = r;
            for c in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(u[0][c], u[1][c]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(u[0][c], u[1][c]);
                let even2 = _mm512_shuffle_f32x4::<0x88>(u[2][c], u[3][c]);
                let odd2 = _mm512_shuffle_f32x4::<0xdd>(u[2][c], u[3][c]);
                out[c] = _mm512_shuffle_f32x4::<0x88>(even, even2);
                out[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
                out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
                out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn transpose_512_f64(r: [__m512d; 8]) -> [__m512d; 8] {
        // SAFETY: the caller's promise of the instruction set.
        unsafe {
            let mut u = [[_mm512_setzero_pd(); 2]; 4];
            for g in 0..4 {
                u[g][0] = _mm512_unpacklo_pd(r[2 * g], r[2 * g + 1]);
                u[g][1] = _mm512_unpackhi_pd(r[2 * g], r[2 * g + 1]);
            }
            let mut out = r;
            for c in 0..2 {
                let even = _mm512_shuffle_f64x2::<0x88>(u[0][c], u[1][c]);
                let odd = _mm512_shuffle_f64x2::<0xdd>(u[0][c], u[1][c]);
                let even2 = _mm512_shuffle_f64x2::<0x88>(u[2][c], u[3][c]);
                let odd2 = _mm512_shuffle_f64x2::<0xdd>(u[2][c], u[3][c]);
                out[c] = _mm512_shuffle_f64x2::<0x88>(even, even2);
                out[2 + c] = _mm512_shuffle_f64x2::<0x88>(odd, odd2);
                out[4 + c] = _mm512_shuffle_f64x2::<0xdd>(even, even2);
                out[6 + c] = _mm512_shuffle_f64x2::<0xdd>(odd, odd2);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn transpose_256_f32(r: [__m256; 8]) -> [__m256; 8] {
        // SAFETY: the caller's promise of the instruction set.
        unsafe {
            let mut u = [[_mm256_setzero_ps(); 4]; 2];
            for g in 0..2 {
                let low = _mm256_castps_pd(_mm256_unpacklo_ps(r[4 * g], r[4 * g + 1]));
                let high = _mm256_castps_pd(_mm256_unpackhi_ps(r[4 * g], r[4 * g + 1]));
                let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]));
                let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]));
                u[g][0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2));
                u[g][1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2));
                u[g][2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2));
                u[g][3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2));
            }
            let mut out = r;
            for c in 0..4 {
                out[c] = _mm256_permute2f128_ps::<0x20>(u[0][c], u[1][c]);
                out[4 + c] = _mm256_permute2f128_ps::<0x31>(u[0][c], u[1][c]);
            }
            out
        }
    }

    #[inline(always)]
    unsafe fn transpose_256_f64(r: [__m256d; 4]) -> [__m256d; 4] {
        // SAFETY: the caller's promise of the instruction set.
        unsafe {
            let mut out = r;
            for c in 0..2 {
                let unpack = |g: usize| {
                    if c == 0 {
                        _mm256_unpacklo_pd(r[2 * g], r[2 * g + 1])
                    } else {
                        _mm256_unpackhi_pd(r[2 * g], r[2 * g + 1])
                    }
                };
                let (first, second) = (unpack(0), unpack(1));
                out[c] = _mm256_permute2f128_pd::<0x20>(first, second);
                out[2 + c] = _mm256_permute2f128_pd::<0x31>(first, second);
            }
            out
        }
    }

    kernels!(AVX512_F32, "avx512", Avx512F32, f32, "avx512f");
    kernels!(AVX512_F64, "avx512", Avx512F64, f64, "avx512f");
    kernels!(AVX2_F32, "avx2", Avx2F32, f32, "avx2,fma");
    kernels!(AVX2_F64, "avx2", Avx2F64, f64, "avx2,fma");

    /// Whether all instructions are there that the code around the matrix unit is compiled for.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }

    /// How many of the tables, portable first, this machine can run.
    fn available() -> usize {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            1
        } else if !is_x86_feature_detected!("avx512f") {
            2
        } else {
            3
        }
    }

    /// All kernels that this machine can run, the fastest first.
    pub(crate) fn all_f32() -> &'static [&'static Kernels<f32>] {
        static ALL: [&Kernels<f32>; 3] = [&AVX512_F32, &AVX2_F32, &PORTABLE_F32];
        &ALL[3 - available()..]
    }

    /// All kernels that this machine can run, the fastest first.
    pub(crate) fn all_f64() -> &'static [&'static Kernels<f64>] {
        static ALL: [&Kernels<f64>; 3] = [&AVX512_F64, &AVX2_F64, &PORTABLE_F64];
        &ALL[3 - available()..]
    }
}
