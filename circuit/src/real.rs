//! The two number types of the library, f32 and f64, behind one trait.
//!
//! It exists so that every operation is written once and can be checked in f64 by finite differences while it runs in f32. It holds only what the
//! operations use; storage types (bf16, f16) are not arithmetic types and live with the weights.

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::exponential;
use crate::kernel::unit::Unit;
use crate::kernel::{Kernels, unit_kernels, vector};

/// A real number type that operations compute in: `f32` or `f64`.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Debug
    + Display
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Distance from one to the next larger number.
    const EPSILON: Self;
    /// Negative infinity, the identity of `max`.
    const NEG_INFINITY: Self;
    /// Name as configs and files write it: `f32` or `f64`.
    const NAME: &'static str;

    /// Rounds an `f64` to this type.
    fn from_f64(value: f64) -> Self;
    /// Widens to `f64`, exactly.
    fn to_f64(self) -> f64;
    /// Base-e exponential; in f32 to two units in the last place, without branches, so that loops over it become vectors.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The larger of two numbers.
    fn max(self, other: Self) -> Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// The gate kernels of the best instruction set of this machine. The type cannot be named outside the crate, so no other type implements `Real`.
    #[doc(hidden)]
    fn kernels() -> &'static Kernels<Self>;
    /// The gate kernels that apply circuits on a unit; those of [`Self::kernels`] for a type that no unit takes.
    #[doc(hidden)]
    fn applied_on(unit: Unit) -> &'static Kernels<Self>;
    /// The same for gradients.
    #[doc(hidden)]
    fn gradients_on(unit: Unit) -> &'static Kernels<Self>;
}

macro_rules! real {
    ($type:ident, $exp:expr, $kernels:expr, $applied_on:expr, $gradients_on:expr) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const EPSILON: Self = $type::EPSILON;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const NAME: &'static str = stringify!($type);

            fn from_f64(value: f64) -> Self {
                value as $type
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            fn ln(self) -> Self {
                $type::ln(self)
            }
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            fn tanh(self) -> Self {
                $type::tanh(self)
            }
            fn abs(self) -> Self {
                $type::abs(self)
            }
            fn max(self, other: Self) -> Self {
                $type::max(self, other)
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                $type::mul_add(self, a, b)
            }
            fn is_finite(self) -> bool {
                $type::is_finite(self)
            }
            fn kernels() -> &'static Kernels<Self> {
                $kernels()
            }
            fn applied_on(unit: Unit) -> &'static Kernels<Self> {
                $applied_on(unit)
            }
            fn gradients_on(unit: Unit) -> &'static Kernels<Self> {
                $gradients_on(unit)
            }
        }
    };
}

real!(f32, exponential::exp, vector::best_f32, unit_kernels::applied_on, unit_kernels::gradients_on);
real!(f64, f64::exp, vector::best_f64, |_| vector::best_f64(), |_| vector::best_f64());
