//! The instruction sets of x86-64.

use std::arch::x86_64::*;

use super::super::unit;
use super::*;

/// A vector type of one register class; `$shuffle` transposes a block in registers.
macro_rules! register {
    ($name:ident, $register:ty, $element:ty, $lanes:literal, $rows:literal,
     $zero:ident, $splat:ident, $load:ident, $store:ident, $fused:ident, $add:ident, $shuffle:ident $(, { $($operands:item)* })?) => {
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
            $($($operands)*)?
        }
    };
}

/// Halves of a register of f32: two numbers are moved as one f64.
macro_rules! halves_512 {
    () => {
        const HALVES: bool = true;
        #[inline(always)]
        unsafe fn splat_two(from: *const f32) -> Self {
            // SAFETY: the caller's promise of the instruction set and of two numbers.
            Self(unsafe { _mm512_castpd_ps(_mm512_set1_pd(from.cast::<f64>().read_unaligned())) })
        }
        #[inline(always)]
        unsafe fn transpose_two(rows: &[*const f32; 8]) -> [Self; 8] {
            // SAFETY: the caller's promise of the instruction set and of a register behind each pointer.
            unsafe {
                let block = rows.map(|row| _mm512_loadu_pd(row.cast()));
                transpose_512_f64(block).map(|column| Self(_mm512_castpd_ps(column)))
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
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    transpose_512_f32,
    {
        halves_512!();
    }
);
register!(
    Avx512F64,
    __m512d,
    f64,
    8,
    8,
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
    _mm256_setzero_pd,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    transpose_256_f64
);

// Numbers and sums are f32; operands are pairs of bf16 numbers.
register!(
    Avx512Pairs,
    __m512,
    f32,
    16,
    8,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    transpose_512_f32,
    {
        const ELEMENTS: usize = 2;
        halves_512!();
        #[inline(always)]
        unsafe fn multiply(a: Self, b: Self, c: Self) -> Self {
            // SAFETY: the caller's promise of the instruction set, here and below; all types are the same bits.
            Self(unsafe {
                _mm512_dpbf16_ps(
                    c.0,
                    std::mem::transmute::<__m512, __m512bh>(a.0),
                    std::mem::transmute::<__m512, __m512bh>(b.0),
                )
            })
        }
        #[inline(always)]
        unsafe fn across([even, odd]: [Self; 2]) -> Self {
            // SAFETY: as above; an array of 32 i16 has the size of a register.
            unsafe {
                let places = _mm512_loadu_epi16(const { unit::in_turn() }.as_ptr());
                let rounded = Self::along([even, odd]);
                Self(_mm512_castsi512_ps(_mm512_permutexvar_epi16(places, _mm512_castps_si512(rounded.0))))
            }
        }
        #[inline(always)]
        unsafe fn along([first, second]: [Self; 2]) -> Self {
            // SAFETY: as above.
            Self(unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second.0, first.0)) })
        }
        #[inline(always)]
        fn lane(numbers: [f32; 2]) -> f32 {
            let [even, odd] = numbers.map(unit::nearest);
            f32::from_bits(even | odd << 16)
        }
    }
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
kernels!(AVX512_PAIRS, "avx512-bf16", Avx512Pairs, f32, "avx512f,avx512bw,avx512bf16");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_are_moved_as_one() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let block: [[f32; 16]; 8] = std::array::from_fn(|row| std::array::from_fn(|col| (16 * row + col) as f32));
        let rows = block.each_ref().map(|row| row.as_ptr());
        let numbers = |register: Avx512F32| {
            let mut numbers = [0.0; 16];
            // SAFETY: the processor was asked; sixteen numbers have room.
            unsafe { register.store(numbers.as_mut_ptr()) };
            numbers
        };
        // SAFETY: the processor was asked; every row has sixteen numbers.
        let (columns, twice) = unsafe { (Avx512F32::transpose_two(&rows), Avx512F32::splat_two(rows[1].add(3))) };
        for (at, column) in columns.into_iter().enumerate() {
            assert_eq!(numbers(column), std::array::from_fn(|lane| block[lane / 2][2 * at + lane % 2]));
        }
        assert_eq!(numbers(twice), std::array::from_fn(|lane| block[1][3 + lane % 2]));
    }
}
