//! The kernels that compute gates on a matrix unit, or in its arithmetic: `parts` for the gates, and vectors of sixteen numbers around them; and the choice of
//! kernels for every unit.

use super::Kernels;
use super::gate::{BackwardGate, ForwardGate};
use super::parts;
#[cfg(target_arch = "x86_64")]
use super::unit::has_pairs;
use super::unit::{HALF, Plain, Unit};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::unit::{Tiles, usable};
#[cfg(target_arch = "x86_64")]
use super::vector::AVX512_PAIRS;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::vector::{AVX512_F32, Avx512F32};
use super::vector::{PORTABLE_WIDE_F32, Portable, Vector, best_f32};

/// Compiles the kernels that compute gates in blocks; what moves tokens is that of another table with vectors as wide.
macro_rules! unit_kernels {
    ($table:ident, $name:literal, $vector:ty, $blocks:expr, $moving:expr $(, $feature:literal)?) => {
        static $table: Kernels<f32> = {
            const { assert!(<$vector as Vector>::LANES == HALF && $moving.lanes == HALF, "half a block in a register") };
            $(#[target_feature(enable = $feature)])?
            unsafe fn forward(gate: &ForwardGate<'_, f32>) {
                // SAFETY: the caller's promise; the table is only handed out where the features were found.
                unsafe { parts::forward(gate, &$blocks) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn backward(gate: &BackwardGate<'_, f32>) {
                // SAFETY: as above.
                unsafe { parts::backward::<$vector>(gate, &$blocks) }
            }
            Kernels {
                name: $name,
                halves: false,
                packed_len: parts::packed_len,
                pack: parts::pack,
                forward_scratch: parts::forward_scratch,
                backward_scratch: parts::backward_scratch,
                forward,
                backward,
                ..$moving
            }
        };
    };
}

unit_kernels!(PLAIN, "portable-bf16", Portable<f32, 16>, Plain, PORTABLE_WIDE_F32);
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unit_kernels!(AMX, "amx-bf16", Avx512F32, Tiles::take(), AVX512_F32, "avx512f,avx512bw,avx512dq,avx512vl");

/// The kernels that compute gradients on a unit.
///
/// # Panics
/// Where the machine does not have it.
pub(crate) fn gradients_on(unit: Unit) -> &'static Kernels<f32> {
    match unit {
        #[cfg(target_arch = "x86_64")]
        Unit::Pairs => {
            assert!(has_pairs(), "AVX-512-BF16: not in this processor");
            &AVX512_PAIRS
        }
        #[cfg(not(target_arch = "x86_64"))]
        Unit::Pairs => panic!("AVX-512-BF16: not in this processor"),
        Unit::Portable => &PLAIN,
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Unit::Amx => {
            assert_eq!(usable(), Ok(()), "the matrix unit");
            &AMX
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        Unit::Amx => panic!("the matrix unit: not in this processor"),
    }
}

/// The kernels that apply circuits on a unit; those of f32, on any machine, for one that takes gradients alone.
///
/// # Panics
/// Where the machine does not have the unit.
pub(crate) fn applied_on(unit: Unit) -> &'static Kernels<f32> {
    if unit.applies() { gradients_on(unit) } else { best_f32() }
}
