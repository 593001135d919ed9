//! The header of a safetensors file: eight bytes of length, JSON, then the tensors' data end to end.
//!
//! Source: the safetensors format, github.com/huggingface/safetensors (README, "Format"). The layout rules (no holes, no overlaps) are checked by the
//! safetensors crate. What it does not say is checked here first: a name given twice (its map keeps the last), offsets beyond the file (their sum can
//! overflow in it), and which tensor is at fault. Left to others: opening files (`mmap`, `folder`), values (`dtype`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use safetensors::Dtype as StoredType;
use safetensors::tensor::{Metadata, TensorInfo as StoredInfo};
use serde::Deserialize;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};

use super::error::WeightsError;

/// Bytes of the length field.
pub(super) const LENGTH_BYTES: usize = 8;
/// The longest header that the format's readers accept, in bytes.
pub(super) const HEADER_LIMIT: usize = 100_000_000;
/// The header's key that is no tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// A header that is true of its file.
#[derive(Debug)]
pub(super) struct Header {
    /// The `__metadata__` strings.
    pub(super) metadata: BTreeMap<String, String>,
    /// The tensors in the order of their data.
    pub(super) tensors: Vec<(String, StoredInfo)>,
    /// Where the data begins in the file.
    pub(super) data_start: usize,
}

/// Reads and checks the header of a whole file.
///
/// On success every tensor's `data_offsets`, counted from `data_start`, lie in `bytes`, follow one another without hole or overlap, and are as long as
/// its shape and type say. Memory: a small multiple of the header's length, which is never taken on trust beyond the length of `bytes`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Header, WeightsError> {
    let path_buf = || path.to_owned();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(WeightsError::TooShort { path: path_buf(), bytes: bytes.len() as u64 });
    };
    let claimed = u64::from_le_bytes(*length);
    let possible = rest.len().min(HEADER_LIMIT);
    let header_bytes = usize::try_from(claimed)
        .ok()
        .filter(|&n| n <= possible)
        .ok_or_else(|| WeightsError::HeaderLength { path: path_buf(), claimed, possible: possible as u64 })?;
    let (header, data) = rest.split_at(header_bytes);
    // A copy: the checks below must hold for the very text that was checked, even if another program rewrites the mapped file meanwhile.
    let text = String::from_utf8(header.to_vec())
        .map_err(|error| WeightsError::HeaderText { path: path_buf(), cause: error.utf8_error() })?;
    let entries: Entries =
        serde_json::from_str(&text).map_err(|cause| WeightsError::HeaderJson { path: path_buf(), cause })?;
    if entries.metadata_count > 1 {
        return Err(WeightsError::DuplicateTensor { path: path_buf(), tensor: METADATA_KEY.to_owned() });
    }
    let metadata = entries.metadata;
    let mut tensors = check_claims(path, entries.tensors, data.len())?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let layout =
        Metadata::new(None, tensors.clone()).map_err(|cause| WeightsError::Layout { path: path_buf(), cause })?;
    if layout.data_len() != data.len() {
        let (used, available) = (layout.data_len() as u64, data.len() as u64);
        return Err(WeightsError::Unaccounted { path: path_buf(), used, available });
    }
    Ok(Header { metadata, tensors, data_start: LENGTH_BYTES + header_bytes })
}

/// Turns the entries into tensors, refusing repeated names, unknown types, data outside the file and sizes that are not shape times type.
fn check_claims(
    path: &Path,
    claims: Vec<(String, Claim)>,
    available: usize,
) -> Result<Vec<(String, StoredInfo)>, WeightsError> {
    let path_buf = || path.to_owned();
    let mut seen = HashSet::with_capacity(claims.len());
    let mut tensors = Vec::with_capacity(claims.len());
    for (tensor, claim) in claims {
        if !seen.insert(tensor.clone()) {
            return Err(WeightsError::DuplicateTensor { path: path_buf(), tensor });
        }
        let (begin, end) = claim.data_offsets;
        if begin > end || end > available as u64 {
            return Err(WeightsError::OutsideFile {
                path: path_buf(),
                tensor,
                begin,
                end,
                available: available as u64,
            });
        }
        let name: StrDeserializer<'_, NameError> = claim.dtype.as_str().into_deserializer();
        let Ok(dtype) = StoredType::deserialize(name) else {
            return Err(WeightsError::UnsupportedDtype { path: path_buf(), tensor, dtype: claim.dtype });
        };
        let bits = claim.shape.iter().try_fold(dtype.bitsize(), |product, &axis| product.checked_mul(axis));
        // Both ends are at most `available`, a usize.
        let bytes = (end - begin) as usize;
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != bytes) {
            let (shape, dtype) = (claim.shape, claim.dtype);
            return Err(WeightsError::SizeMismatch { path: path_buf(), tensor, dtype, shape, bytes: end - begin });
        }
        let data_offsets = (begin as usize, end as usize);
        tensors.push((tensor, StoredInfo { dtype, shape: claim.shape, data_offsets }));
    }
    Ok(tensors)
}

/// The header's entries as written, repetitions included.
struct Entries {
    metadata: BTreeMap<String, String>,
    metadata_count: usize,
    tensors: Vec<(String, Claim)>,
}

/// What a header says of one tensor, unchecked. The type is a string so that an unknown one can be reported with the tensor's name.
#[derive(Deserialize)]
struct Claim {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries { metadata: BTreeMap::new(), metadata_count: 0, tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        entries.metadata_count += 1;
                        let strings: Option<HashMap<String, String>> = map.next_value()?;
                        entries.metadata.extend(strings.unwrap_or_default());
                    } else {
                        entries.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the given header text and `data` zero bytes.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn parse_text(header: &str, data: usize) -> Result<Header, WeightsError> {
        parse(Path::new("x.safetensors"), &file(header, data))
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"s":{"dtype":"F64","shape":[],"data_offsets":[28,36]}}"#;

    #[test]
    fn a_true_header_is_read_in_data_order() {
        let header = parse_text(GOOD, 36).unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "s"]);
        assert_eq!(header.tensors[1].1.shape, [2, 3]);
        assert_eq!(header.metadata["format"], "pt");
        assert_eq!(header.data_start, 8 + GOOD.len());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(GOOD, 36);
        for length in 0..whole.len() {
            assert!(parse(Path::new("x"), &whole[..length]).is_err(), "{length} of {} bytes accepted", whole.len());
        }
        let mut longer = whole;
        longer.push(0);
        assert!(matches!(
            parse(Path::new("x"), &longer),
            Err(WeightsError::Unaccounted { used: 36, available: 37, .. })
        ));
    }

    #[test]
    fn every_flipped_bit_and_random_bytes_give_an_answer() {
        let whole = file(GOOD, 36);
        let header_end = 8 + GOOD.len();
        for position in 0..header_end {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                check_promises(&bytes);
            }
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + draw(8) {
                let at = draw(header_end);
                // Half of the changes are digits and punctuation, which survive the parser and reach the checks behind it.
                bytes[at] = if draw(2) == 0 { draw(256) as u8 } else { b"0123456789,:[]{}\""[draw(17)] };
            }
            check_promises(&bytes);
        }
    }

    /// Whatever `parse` accepts must be safe to slice.
    fn check_promises(bytes: &[u8]) {
        let Ok(header) = parse(Path::new("x"), bytes) else { return };
        let data = &bytes[header.data_start..];
        let mut end = 0;
        for (_, info) in &header.tensors {
            assert_eq!(info.data_offsets.0, end);
            end = info.data_offsets.1;
            assert_eq!(
                info.shape.iter().product::<usize>() * info.dtype.bitsize(),
                8 * data[info.data_offsets.0..end].len()
            );
        }
        assert_eq!(end, data.len());
    }

    #[test]
    fn an_absurd_header_length_is_refused_before_anything_is_allocated() {
        for claimed in [1 << 60, u64::MAX, u64::MAX - 7, HEADER_LIMIT as u64 + 1, GOOD.len() as u64 + 37] {
            let mut bytes = file(GOOD, 36);
            bytes[..8].copy_from_slice(&claimed.to_le_bytes());
            let Err(WeightsError::HeaderLength { claimed: got, possible, .. }) = parse(Path::new("x"), &bytes) else {
                panic!("{claimed} accepted")
            };
            assert_eq!((got, possible), (claimed, GOOD.len() as u64 + 36));
        }
    }

    #[test]
    fn data_outside_the_file_is_refused_by_tensor() {
        let header = r#"{"big":{"dtype":"F32","shape":[288230376151711744],"data_offsets":[0,1152921504606846976]}}"#;
        let error = parse_text(header, 64).unwrap_err();
        assert!(
            matches!(&error, WeightsError::OutsideFile { tensor, available: 64, .. } if tensor == "big"),
            "{error}"
        );
        // Eight tensors whose sizes fit one by one, but whose sum wraps around.
        let eighth = 1_u64 << 61;
        let entries: Vec<String> = (0..8_u64)
            .map(|i| {
                let (begin, end) = (i * eighth, (i * eighth).wrapping_add(eighth).wrapping_sub(u64::from(i == 7)));
                format!(r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
            })
            .collect();
        let error = parse_text(&format!("{{{}}}", entries.join(",")), 64).unwrap_err();
        assert!(matches!(error, WeightsError::OutsideFile { .. }), "{error}");
    }

    #[test]
    fn lies_about_sizes_and_places_are_named() {
        let size = |text: &str, data| matches!(parse_text(text, data), Err(WeightsError::SizeMismatch { .. }));
        let layout = |text: &str, data| matches!(parse_text(text, data), Err(WeightsError::Layout { .. }));
        assert!(size(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8));
        assert!(size(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}"#, 8));
        assert!(size(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, 1));
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        assert!(layout(&two("[0,4]", "[2,6]"), 6), "overlap");
        assert!(layout(&two("[0,4]", "[0,4]"), 4), "shared data");
        assert!(layout(&two("[0,4]", "[6,10]"), 10), "hole");
        assert!(layout(&two("[1,5]", "[5,9]"), 9), "hole at the start");
        assert!(matches!(parse_text(&two("[4,0]", "[4,8]"), 8), Err(WeightsError::OutsideFile { .. })), "backwards");
        assert!(parse_text(&two("[4,8]", "[0,4]"), 8).is_ok(), "any order of names");
    }

    #[test]
    fn names_twice_and_bad_text_are_refused() {
        let twice = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        assert!(matches!(parse_text(twice, 4), Err(WeightsError::DuplicateTensor { tensor, .. }) if tensor == "a"));
        assert!(matches!(
            parse_text(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
            Err(WeightsError::DuplicateTensor { .. })
        ));
        let unknown = r#"{"a":{"dtype":"Q4","shape":[4],"data_offsets":[0,4]}}"#;
        let error = parse_text(unknown, 4).unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains("Q4"), "{error}");
        for text in ["", "[]", "null", "{", r#"{"a":1}"#, r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}}"#] {
            assert!(matches!(parse_text(text, 4), Err(WeightsError::HeaderJson { .. })), "{text}");
        }
        let mut bytes = file(GOOD, 36);
        bytes[20] = 0xff;
        assert!(matches!(parse(Path::new("x"), &bytes), Err(WeightsError::HeaderText { .. })));
        let deep = "[".repeat(100_000);
        assert!(parse_text(&format!(r#"{{"a":{{"dtype":"U8","x":{deep}"#), 0).is_err());
    }
}
