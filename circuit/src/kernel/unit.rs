//! Products on a matrix unit that takes bf16 numbers alone: one block of them, on the unit and in plain Rust; and what else computes gates in bf16.
//!
//! A block is 32 rows times 32 columns of results. Its operands are cut into steps of 32 along the summed dimension k: a step of the left one is
//! `[32 rows][16 pairs]`, one of the right one `[2 halves][16 pairs][16 columns]`, where a pair is a word of 32 bits with elements 2 k and 2 k + 1, the even
//! one in the lower half. Products are exact, sums in f32. How numbers become bf16 numbers is the caller's: `parts` for gates.

pub use super::amx::{Tiles, usable};

/// Rows and columns of a block of results, and elements of the summed dimension that one step takes.
pub const SIDE: usize = 32;
/// Half a block: the columns of a tile, and the pairs of a step.
pub(crate) const HALF: usize = SIDE / 2;
/// Words of a step of either operand: 2 KiB.
pub const STEP: usize = SIDE * SIDE / 2;
/// Numbers of a block of results.
pub const BLOCK: usize = SIDE * SIDE;

/// What computes gates in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// On the tiles of Intel's AMX. Subnormal numbers count as zero.
    Amx,
    /// The same sums in the same order in plain code: slow, to judge the unit and what its arithmetic does.
    Portable,
    /// Vectors of pairs, AVX-512-BF16, for gradients alone: circuits are applied in f32. Subnormal numbers count as zero.
    Pairs,
}

impl Unit {
    /// Whether circuits are applied in its arithmetic, and not in f32.
    pub fn applies(self) -> bool {
        self != Self::Pairs
    }
}

/// A block of results: `sums [32, 32] += a b`, or `= a b` when `fresh`, for operands of as many steps.
///
/// As the unit does it: in each step the products of even and of odd elements are summed apart, each in order, then both sums are added.
#[inline(always)]
pub fn multiply(a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
    if fresh {
        sums.fill(0.0);
    }
    for (a, b) in a.chunks_exact(STEP).zip(b.chunks_exact(STEP)) {
        for (a, sums) in a.chunks_exact(HALF).zip(sums.chunks_exact_mut(SIDE)) {
            for (b, sums) in b.chunks_exact(STEP / 2).zip(sums.chunks_exact_mut(HALF)) {
                let (mut even, mut odd) = ([0.0; HALF], [0.0; HALF]);
                for (&a, b) in a.iter().zip(b.chunks_exact(HALF)) {
                    for j in 0..HALF {
                        even[j] += low(a) * low(b[j]);
                        odd[j] += high(a) * high(b[j]);
                    }
                }
                for j in 0..HALF {
                    sums[j] += even[j] + odd[j];
                }
            }
        }
    }
}

/// Whether the processor multiplies pairs of bf16 numbers in vectors, and has the instructions around them: [`Unit::Pairs`].
pub fn has_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Numbers as the words that operands are made of: the same memory.
#[inline(always)]
pub fn words(numbers: &mut [f32]) -> &mut [u32] {
    // SAFETY: both types have size and alignment 4, and every bit pattern is a value of each.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// The bits of the nearest bf16 number, ties to even; what is not a number stays one.
#[inline(always)]
pub fn nearest(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Where the halves of a register's words come from, in 16 bits each: one from its lower half, one from its upper half.
pub const fn in_turn() -> [i16; SIDE] {
    let mut places = [0; SIDE];
    let mut i = 0;
    while i < SIDE {
        places[i] = (i / 2 + i % 2 * HALF) as i16;
        i += 1;
    }
    places
}

/// The number in the lower half of a word.
#[inline(always)]
pub fn low(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

/// The number in the upper half of a word.
#[inline(always)]
fn high(word: u32) -> f32 {
    f32::from_bits(word & 0xffff_0000)
}

/// What computes blocks: [`Tiles`], or plain code.
pub(crate) trait Blocks {
    /// As [`multiply`].
    fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool);
}

impl Blocks for Tiles {
    #[inline(always)]
    fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
        Tiles::multiply(self, a, b, sums, fresh);
    }
}

/// Plain code.
pub(crate) struct Plain;

impl Blocks for Plain {
    #[inline(always)]
    fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
        multiply(a, b, sums, fresh);
    }
}
