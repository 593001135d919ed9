//! Pairs of bf16 numbers in plain code: the judge of gates on them where no instruction multiplies pairs, for tests alone.

use super::super::unit::{low, nearest};
use super::*;

const LANES: usize = 16;

/// Sixteen f32 numbers, or, as an operand, sixteen pairs in their bits.
#[derive(Clone, Copy)]
pub(crate) struct PlainPairs(Portable<f32, LANES>);

fn high(lane: f32) -> f32 {
    f32::from_bits(lane.to_bits() & 0xffff_0000)
}

// SAFETY: plain Rust, within the pointers' promises.
unsafe impl Vector for PlainPairs {
    type Element = f32;
    const LANES: usize = LANES;
    const ROWS: usize = 4;
    const ELEMENTS: usize = 2;
    const HALVES: bool = true;

    unsafe fn zero() -> Self {
        Self(Portable([0.0; LANES]))
    }
    unsafe fn splat(value: f32) -> Self {
        Self(Portable([value; LANES]))
    }
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        Self(unsafe { Portable::load(from) })
    }
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { self.0.store(to) }
    }
    unsafe fn fused(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { Portable::fused(a.0, b.0, c.0) })
    }
    unsafe fn fused_one(a: f32, b: f32, c: f32) -> f32 {
        c + a * b
    }
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { Portable::add(a.0, b.0) })
    }
    unsafe fn transpose(rows: &[*const f32; 16]) -> [Self; 16] {
        // SAFETY: as above.
        unsafe { Portable::transpose(rows) }.map(Self)
    }
    unsafe fn multiply(Self(a): Self, Self(b): Self, Self(mut c): Self) -> Self {
        for i in 0..LANES {
            let of_low = |x: f32| low(x.to_bits());
            c.0[i] += high(a.0[i]) * high(b.0[i]);
            c.0[i] += of_low(a.0[i]) * of_low(b.0[i]);
        }
        Self(c)
    }
    unsafe fn across([Self(even), Self(odd)]: [Self; 2]) -> Self {
        Self(Portable(std::array::from_fn(|i| Self::lane([even.0[i], odd.0[i]]))))
    }
    unsafe fn along([Self(first), Self(second)]: [Self; 2]) -> Self {
        let numbers = [first.0, second.0].concat();
        Self(Portable(std::array::from_fn(|i| Self::lane([numbers[2 * i], numbers[2 * i + 1]]))))
    }
    fn lane(numbers: [f32; 2]) -> f32 {
        let [even, odd] = numbers.map(nearest);
        f32::from_bits(even | odd << 16)
    }
}

kernels!(PLAIN_PAIRS, "plain pairs", PlainPairs, f32);
