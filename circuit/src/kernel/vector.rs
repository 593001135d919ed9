//! Vector registers of the instruction sets, and the kernels compiled for each of them.
//!
//! One trait names the handful of register operations that the kernels use; the generic kernel code is written once and compiled here with AVX-512,
//! with AVX2 and FMA, and portably. The choice is made at run time, once for each call. What the kernels do is `gate`'s and `transfer`'s concern.

use super::Kernels;
use super::gate::{self, BackwardGate, ForwardGate};
use super::packing;
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
    /// Numbers of a product's summed dimension in a lane of its operands: one, or a pair of bf16 numbers in the bits of an f32. Sums have one in any case.
    const ELEMENTS: usize = 1;
    /// Whether gradient sums of columns that fill at most half a register are made of two operands at once: [`Vector::splat_two`], [`Vector::transpose_two`].
    const HALVES: bool = false;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// All lanes equal.
    unsafe fn splat(value: Self::Element) -> Self;
    /// Two neighbouring numbers in turn.
    #[inline(always)]
    unsafe fn splat_two(from: *const Self::Element) -> Self {
        let mut lanes = [Self::Element::default(); 16];
        for (lane, value) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller's promise for two numbers.
            *value = unsafe { *from.add(lane % 2) };
        }
        // SAFETY: a register has 16 numbers at most.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// The transposed block of the registers at the first `LANES / 2` of `rows`, two neighbouring numbers moved as one: half as many registers.
    #[inline(always)]
    unsafe fn transpose_two(rows: &[*const Self::Element; 8]) -> [Self; 8] {
        // SAFETY: the caller's promise of a register behind each pointer.
        unsafe {
            let mut columns = [Self::zero(); 8];
            for column in 0..Self::LANES / 2 {
                let mut lanes = [Self::Element::default(); 16];
                for lane in 0..Self::LANES {
                    lanes[lane] = *rows[lane / 2].add(2 * column + lane % 2);
                }
                columns[column] = Self::load(lanes.as_ptr());
            }
            columns
        }
    }
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
    /// `a b + c` of operands `a` and `b`.
    #[inline(always)]
    unsafe fn multiply(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::fused(a, b, c) }
    }
    /// An operand whose summed dimension goes from register to register: each lane has one number of either, or of the first alone.
    #[inline(always)]
    unsafe fn across(registers: [Self; 2]) -> Self {
        registers[0]
    }
    /// An operand whose summed dimension goes from lane to lane: the lanes have the numbers of both registers, or of the first alone, in turn.
    #[inline(always)]
    unsafe fn along(registers: [Self; 2]) -> Self {
        registers[0]
    }
    /// One lane of an operand.
    #[inline(always)]
    fn lane(numbers: [Self::Element; 2]) -> Self::Element {
        numbers[0]
    }
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
                halves: <$vector as Vector>::HALVES,
                packed_len: packing::packed_len::<$vector>,
                pack: packing::pack::<$vector>,
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
pub(crate) use x86::{AVX512_PAIRS, all_f32, all_f64};

#[cfg(test)]
pub(crate) mod plain_pairs;
#[cfg(target_arch = "x86_64")]
mod x86;
