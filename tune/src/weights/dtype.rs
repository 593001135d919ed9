//! Storage types of weights and the exact conversions between their bytes and numbers.
//!
//! A weight is stored in one of four floating-point types and computed with in `f32` or `f64`. This file is the only place where a stored byte becomes a
//! number and a number a stored byte; every conversion rounds at most once, to nearest, ties to even. Which tensor has which type is left to `folder`.

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use quanta_circuit::Real;
use safetensors::Dtype as StoredType;

use super::error::WeightsError;

/// A floating-point type that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE double precision, 8 bytes.
    F64,
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes: 11 significant bits, largest value 65504.
    F16,
    /// The upper half of an `f32`, 2 bytes: 8 significant bits, the range of `f32`.
    Bf16,
}

impl Dtype {
    /// The storage type with the bits of a compute type.
    pub fn of<T: Real>() -> Self {
        if size_of::<T>() == size_of::<f64>() { Self::F64 } else { Self::F32 }
    }

    /// All four, widest first.
    pub const ALL: [Self; 4] = [Self::F64, Self::F32, Self::F16, Self::Bf16];

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in our configs: `f64`, `f32`, `f16`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The name in Hugging Face's `config.json` (`torch_dtype`, `dtype`): `float64`, `float32`, `float16`, `bfloat16`.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// The name in a safetensors header: `F64`, `F32`, `F16`, `BF16`.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The type as the safetensors crate names it, if it is one that weights are computed from.
    pub(super) fn from_stored(stored: StoredType) -> Option<Self> {
        match stored {
            StoredType::F64 => Some(Self::F64),
            StoredType::F32 => Some(Self::F32),
            StoredType::F16 => Some(Self::F16),
            StoredType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Numbers from little-endian bytes of this type.
    ///
    /// Widening is exact; `F64` to `f32` rounds once. Memory: the result alone.
    ///
    /// Errors: [`WeightsError::RaggedBytes`] where the bytes end inside an element.
    pub fn decode<T: Real>(self, bytes: &[u8]) -> Result<Vec<T>, WeightsError> {
        let mut values = Vec::with_capacity(bytes.len() / self.bytes());
        match self {
            Self::F64 => values.extend(elements(self, bytes)?.map(|b| T::from_f64(f64::from_le_bytes(b)))),
            Self::F32 => values.extend(elements(self, bytes)?.map(|b| T::from_f64(f64::from(f32::from_le_bytes(b))))),
            Self::Bf16 => values.extend(elements(self, bytes)?.map(|b| T::from_f64(f64::from(widen_bf16(b))))),
            Self::F16 => {
                // In blocks, because the processor's conversion of half precision works on several values at once.
                let mut elements = elements(self, bytes)?.map(f16::from_le_bytes);
                let (mut halves, mut singles) = ([f16::ZERO; 256], [0.0_f32; 256]);
                loop {
                    let mut count = 0;
                    for (slot, value) in halves.iter_mut().zip(elements.by_ref().take(256)) {
                        *slot = value;
                        count += 1;
                    }
                    if count == 0 {
                        break;
                    }
                    halves[..count].convert_to_f32_slice(&mut singles[..count]);
                    values.extend(singles[..count].iter().map(|&value| T::from_f64(f64::from(value))));
                }
            }
        }
        Ok(values)
    }

    /// `bf16` numbers from little-endian bytes of this type: the same bits from `Bf16`, rounded once from the others.
    ///
    /// Errors: [`WeightsError::RaggedBytes`].
    pub fn decode_bf16(self, bytes: &[u8]) -> Result<Vec<bf16>, WeightsError> {
        Ok(match self {
            Self::Bf16 => elements(self, bytes)?.map(bf16::from_le_bytes).collect(),
            Self::F16 => elements(self, bytes)?.map(|b| bf16::from_f32(f16::from_le_bytes(b).to_f32())).collect(),
            Self::F32 => elements(self, bytes)?.map(|b| bf16::from_f32(f32::from_le_bytes(b))).collect(),
            Self::F64 => elements(self, bytes)?.map(|b| round_to_bf16(f64::from_le_bytes(b))).collect(),
        })
    }

    /// Appends numbers to `out` as little-endian bytes of this type, each rounded once to nearest, ties to even; beyond the largest value to infinity.
    pub fn encode<T: Real>(self, values: &[T], out: &mut Vec<u8>) {
        match self {
            Self::F64 => append(values, out, |value| value.to_f64().to_le_bytes()),
            Self::F32 => append(values, out, |value| (value.to_f64() as f32).to_le_bytes()),
            Self::F16 => append(values, out, |value| round_to_f16(value.to_f64()).to_le_bytes()),
            Self::Bf16 => append(values, out, |value| round_to_bf16(value.to_f64()).to_le_bytes()),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Dtype {
    type Err = WeightsError;

    /// Reads any of the three names of a type; [`WeightsError::UnknownDtype`] otherwise.
    fn from_str(name: &str) -> Result<Self, WeightsError> {
        Self::ALL
            .into_iter()
            .find(|dtype| [dtype.name(), dtype.config_name(), dtype.safetensors_name()].contains(&name))
            .ok_or_else(|| WeightsError::UnknownDtype { name: name.to_owned() })
    }
}

/// The bytes of each element, of `N` bytes as `dtype` has.
fn elements<const N: usize>(dtype: Dtype, bytes: &[u8]) -> Result<impl Iterator<Item = [u8; N]>, WeightsError> {
    debug_assert_eq!(N, dtype.bytes());
    let (elements, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(WeightsError::RaggedBytes { dtype, bytes: bytes.len() });
    }
    Ok(elements.iter().copied())
}

/// Appends the bytes of each value. The room is made first, so that the loop has no branch and is vectorised.
fn append<T: Real, const N: usize>(values: &[T], out: &mut Vec<u8>, bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + N * values.len(), 0);
    let (slots, _) = out[start..].as_chunks_mut::<N>();
    for (slot, &value) in slots.iter_mut().zip(values) {
        *slot = bytes(value);
    }
}

/// A `bf16` is the upper half of the `f32` of the same value.
fn widen_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// An `f64` rounded once to `bf16`.
///
/// Going through the nearest `f32` would round twice: 1 + 2^-8 + 2^-40 becomes the tie 1 + 2^-8 in `f32` and then falls to 1, where 1 + 2^-7 is nearest.
/// (`bf16::from_f64` of the half crate drops the low 32 bits of the significand and falls to 1 as well.)
pub fn round_to_bf16(value: f64) -> bf16 {
    bf16::from_f32(round_to_odd(value))
}

/// An `f64` rounded once to `f16`; see [`round_to_odd`].
fn round_to_f16(value: f64) -> f16 {
    f16::from_f32(round_to_odd(value))
}

/// Rounds to `f32` such that a further rounding to a type of at most 22 significant bits equals rounding `value` to that type directly.
///
/// An inexact result is cut towards zero and its last bit set, so that it can never look like a tie (S. Boldo, G. Melquiond, "Emulation of FMA and
/// correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57, 2008). This holds below the normal range too, where the
/// spacing of `f32` is 2^-149 and that of `bf16` 2^-133.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    // Fewer bits as an integer means nearer to zero, whatever the sign; infinity steps down to the largest finite value, which is odd.
    let bits = nearest.to_bits();
    let cut = if f64::from(nearest).abs() > value.abs() { bits - 1 } else { bits };
    f32::from_bits(cut | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_bits(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    /// Nearest value of a 16-bit type by search over its non-negative values, ties to the even bit pattern: slow, and free of the tricks above.
    /// `infinity` is the bit pattern that stands for it, `beyond` the value one step past the largest finite one.
    fn nearest_by_search(value: f64, widen: impl Fn(u16) -> f64, infinity: u16, beyond: f64) -> u16 {
        let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
        let at = |bits: u16| if bits == infinity { beyond } else { widen(bits) };
        let (mut low, mut high) = (0, infinity);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if at(middle) <= value.abs() { low = middle } else { high = middle }
        }
        // Halves of neighbouring 16-bit values are exact in f64, and so is the comparison with their middle.
        let middle = (at(low) + at(high)) / 2.0;
        let up = value.abs() > middle || (value.abs() == middle && low % 2 == 1);
        sign | if up { high } else { low }
    }

    fn check_rounding(value: f64) {
        let bf = nearest_by_search(value, |b| f64::from(bf16::from_bits(b).to_f32()), 0x7f80, 2.0_f64.powi(128));
        assert_eq!(round_to_bf16(value).to_bits(), bf, "bf16 of {value:e}");
        let half = nearest_by_search(value, |b| f64::from(f16::from_bits(b).to_f32()), 0x7c00, 65536.0);
        assert_eq!(round_to_f16(value).to_bits(), half, "f16 of {value:e}");
    }

    #[test]
    fn f64_is_rounded_once_to_the_nearest_16_bit_value() {
        let tie_and_a_bit = 1.0 + 2.0_f64.powi(-8) + 2.0_f64.powi(-40);
        assert_eq!(f64::from(round_to_bf16(tie_and_a_bit).to_f32()), 1.0 + 2.0_f64.powi(-7));
        assert_eq!(
            f64::from(bf16::from_f32(tie_and_a_bit as f32).to_f32()),
            1.0,
            "the case must tell the two ways apart"
        );
        assert_eq!(f64::from(round_to_bf16(1.0 + 2.0_f64.powi(-8)).to_f32()), 1.0, "ties go to even");
        let mut random = random_bits(1);
        for _ in 0..30_000 {
            // Exponents over the whole range of both types, below and above it; significands often near ties.
            let exponent = 1023 - 160 + random() % 300;
            let keep = random() % 53;
            let fraction = (random() >> 12) & !((1_u64 << keep) - 1) | (random() % 3).min(1);
            let value = f64::from_bits((random() & (1 << 63)) | (exponent << 52) | fraction);
            check_rounding(value);
        }
        for bits in (0..0x7f80_u16).step_by(7).chain(0..300).chain(0x7f00..0x7f80) {
            let (low, high) = (widen_bf16(bits.to_le_bytes()), widen_bf16((bits + 1).to_le_bytes()));
            if high.is_finite() {
                let middle = (f64::from(low) + f64::from(high)) / 2.0;
                for value in [middle, middle.next_up(), middle.next_down(), -middle.next_up()] {
                    check_rounding(value);
                }
            }
        }
    }

    #[test]
    fn infinities_nan_and_signed_zero_keep_their_kind() {
        for dtype in Dtype::ALL {
            let mut bytes = Vec::new();
            dtype.encode(&[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0, 0.0, 1e300], &mut bytes);
            assert_eq!(bytes.len(), 6 * dtype.bytes());
            let back: Vec<f64> = dtype.decode(&bytes).unwrap();
            assert_eq!(back[..2], [f64::INFINITY, f64::NEG_INFINITY]);
            assert!(back[2].is_nan() && back[3].is_sign_negative() && back[4].is_sign_positive());
            assert_eq!(back[5] == 1e300, dtype == Dtype::F64, "{dtype}");
        }
    }

    #[test]
    fn every_16_bit_value_survives_a_round_trip() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let mut through_f32 = Vec::new();
            dtype.encode(&dtype.decode::<f32>(&all).unwrap(), &mut through_f32);
            let mut through_f64 = Vec::new();
            dtype.encode(&dtype.decode::<f64>(&all).unwrap(), &mut through_f64);
            assert_eq!(through_f32, through_f64);
            for (was, is) in all.chunks_exact(2).zip(through_f32.chunks_exact(2)) {
                let nan = dtype.decode::<f32>(was).unwrap()[0].is_nan();
                assert!(was == is || (nan && dtype.decode::<f32>(is).unwrap()[0].is_nan()), "{dtype} {was:?} {is:?}");
            }
        }
        let same: Vec<u8> = Dtype::Bf16.decode_bf16(&all).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(same, all, "bf16 storage is copied bit by bit");
    }

    #[test]
    fn wide_values_survive_and_narrow_once() {
        let mut random = random_bits(2);
        let singles: Vec<f32> = (0..1000).map(|_| f32::from_bits(random() as u32)).filter(|v| !v.is_nan()).collect();
        let doubles: Vec<f64> = (0..1000).map(|_| f64::from_bits(random())).filter(|v| !v.is_nan()).collect();
        let (mut bytes4, mut bytes8) = (Vec::new(), Vec::new());
        Dtype::F32.encode(&singles, &mut bytes4);
        Dtype::F64.encode(&doubles, &mut bytes8);
        assert_eq!(Dtype::F32.decode::<f32>(&bytes4).unwrap(), singles);
        assert_eq!(Dtype::F64.decode::<f64>(&bytes8).unwrap(), doubles);
        assert_eq!(bytes4[..4], singles[0].to_le_bytes());
        let narrowed: Vec<f32> = doubles.iter().map(|&v| v as f32).collect();
        assert_eq!(Dtype::F64.decode::<f32>(&bytes8).unwrap(), narrowed);
        let rounded: Vec<bf16> = doubles.iter().map(|&v| round_to_bf16(v)).collect();
        assert_eq!(Dtype::F64.decode_bf16(&bytes8).unwrap(), rounded);
        let mut written = Vec::new();
        Dtype::Bf16.encode(&singles, &mut written);
        let read: Vec<u8> = Dtype::F32.decode_bf16(&bytes4).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn names_are_read_and_bytes_must_be_whole() {
        for dtype in Dtype::ALL {
            for name in [dtype.name(), dtype.config_name(), dtype.safetensors_name(), &dtype.to_string()] {
                assert_eq!(name.parse::<Dtype>().unwrap(), dtype);
            }
            assert!(matches!(dtype.decode::<f32>(&[0; 9]), Err(WeightsError::RaggedBytes { bytes: 9, .. })));
            assert!(dtype.decode_bf16(&[0; 9]).is_err());
        }
        let error = "int8".parse::<Dtype>().unwrap_err().to_string();
        assert!(error.contains("int8") && error.contains("bf16"), "{error}");
    }
}
