//! The index of a model whose tensors are spread over several safetensors files: `model.safetensors.index.json`.
//!
//! It says which shard holds which tensor. Shard names come from a stranger, so a name that is more than a plain file name is refused: it could point
//! anywhere on the machine. Opening the shards is left to `folder`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::error::WeightsError;

/// How many problems of one kind an error prints; the rest is counted.
pub(super) const LISTED: usize = 20;

/// One way in which an index and its shards disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexProblem {
    /// A shard's name is not a plain file name in the model folder.
    ShardName {
        /// The name in the index.
        shard: String,
    },
    /// A shard's file does not exist.
    MissingShard {
        /// Its name.
        shard: String,
    },
    /// A tensor is not in the shard that the index names.
    AbsentTensor {
        /// The tensor.
        tensor: String,
        /// The shard that should hold it.
        shard: String,
    },
    /// A tensor is in two shards, or listed twice.
    TwoShards {
        /// The tensor.
        tensor: String,
        /// One of the shards.
        first: String,
        /// The other.
        second: String,
    },
    /// The index lists no tensor at all.
    Empty,
}

impl fmt::Display for IndexProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShardName { shard } => write!(formatter, "shard name {shard:?} is not a plain file name"),
            Self::MissingShard { shard } => write!(formatter, "shard {shard} does not exist"),
            Self::AbsentTensor { tensor, shard } => write!(formatter, "tensor `{tensor}` is not in {shard}"),
            Self::TwoShards { tensor, first, second } => {
                write!(formatter, "tensor `{tensor}` is both in {first} and in {second}")
            }
            Self::Empty => write!(formatter, "it lists no tensor"),
        }
    }
}

/// The problems, one a line, the first [`LISTED`] of them.
pub(super) fn listing<T: fmt::Display>(problems: &[T]) -> String {
    let mut text: String = problems.iter().take(LISTED).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > LISTED {
        text.push_str(&format!("\n  and {} more", problems.len() - LISTED));
    }
    text
}

/// The index file's `weight_map`, as written.
#[derive(Debug)]
pub(super) struct Index {
    /// Tensor to shard.
    pub(super) shard_of: BTreeMap<String, String>,
    /// Tensors listed twice with different shards.
    pub(super) problems: Vec<IndexProblem>,
}

impl Index {
    /// Reads the index file.
    ///
    /// Errors: [`WeightsError::Io`], [`WeightsError::IndexJson`]; [`WeightsError::Index`] for shard names that are not plain file names.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let text = std::fs::read(path).map_err(WeightsError::io("read", path))?;
        let file: IndexFile =
            serde_json::from_slice(&text).map_err(|cause| WeightsError::IndexJson { path: path.to_owned(), cause })?;
        let mut index = Self { shard_of: BTreeMap::new(), problems: Vec::new() };
        for (tensor, shard) in file.weight_map.0 {
            match index.shard_of.get(&tensor) {
                Some(first) if *first != shard => {
                    index.problems.push(IndexProblem::TwoShards { tensor, first: first.clone(), second: shard });
                }
                Some(_) => {}
                None => {
                    index.shard_of.insert(tensor, shard);
                }
            }
        }
        if index.shard_of.is_empty() {
            index.problems.push(IndexProblem::Empty);
        }
        let bad = index.shards().into_iter().filter(|shard| !is_plain_file_name(shard));
        let bad: Vec<_> = bad.map(|shard| IndexProblem::ShardName { shard: shard.to_owned() }).collect();
        if !bad.is_empty() {
            return Err(WeightsError::Index { path: path.to_owned(), problems: bad });
        }
        Ok(index)
    }

    /// The shards' names, sorted: Hugging Face's numbered names sort in their order.
    pub(super) fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.shard_of.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// One path component that is neither `.` nor `..`, on any system.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':', '\0'])
}

/// What is read of the file; `metadata.total_size` is not needed, since the shards' own headers are checked.
#[derive(Deserialize)]
struct IndexFile {
    weight_map: Pairs,
}

/// An object's string entries with repetitions, which a map would hide.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Index, WeightsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors.index.json");
        std::fs::write(&path, text).unwrap();
        Index::open(&path)
    }

    #[test]
    fn shards_are_listed_once_and_in_order() {
        let text = r#"{"metadata":{"total_size":12},"weight_map":{"c":"m-2.safetensors","a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
        let index = open(text).unwrap();
        assert_eq!(index.shards(), ["m-1.safetensors", "m-2.safetensors"]);
        assert_eq!(index.shard_of["c"], "m-2.safetensors");
        assert!(index.problems.is_empty());
    }

    #[test]
    fn shard_names_that_leave_the_folder_are_refused() {
        for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "C:x", "x/", "a\\u0000"] {
            let error = open(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)).unwrap_err();
            let WeightsError::Index { problems, .. } = &error else { panic!("{name:?}: {error}") };
            assert!(matches!(problems[..], [IndexProblem::ShardName { .. }]), "{name:?}: {problems:?}");
        }
    }

    #[test]
    fn malformed_indices_are_refused_and_repetitions_reported() {
        for text in ["", "{}", "[]", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":{"a":"b"}"#]
        {
            assert!(matches!(open(text), Err(WeightsError::IndexJson { .. })), "{text}");
        }
        assert_eq!(open(r#"{"weight_map":{}}"#).unwrap().problems, [IndexProblem::Empty]);
        let twice = open(r#"{"weight_map":{"a":"x","a":"y"}}"#).unwrap();
        assert!(matches!(&twice.problems[..], [IndexProblem::TwoShards { tensor, .. }] if tensor == "a"));
    }

    #[test]
    fn a_long_listing_is_cut_and_counted() {
        let problems = vec![IndexProblem::Empty; 25];
        assert_eq!(listing(&problems).lines().count(), 1 + 20 + 1);
        assert!(listing(&problems).ends_with("and 5 more"));
    }
}
