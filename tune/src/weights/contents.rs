//! What one weight file says of itself, whatever its format: tensors with their places, and metadata.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorInfo as StoredInfo;

use super::error::WeightsError;
use super::view::View;
use super::{header, pickle};

/// What a mapped file says of itself.
pub(super) struct Contents {
    /// In the order of their data.
    pub(super) tensors: Vec<(String, View)>,
    /// What the file says beside its tensors.
    pub(super) metadata: BTreeMap<String, String>,
}

impl Contents {
    /// Reads a header, or a whole pickle. Errors where either is malformed.
    pub(super) fn of(path: &Path, bytes: &[u8]) -> Result<Self, WeightsError> {
        if pickle::is_pickle(path) {
            return Ok(Self { tensors: pickle::parse(path, bytes)?, metadata: BTreeMap::new() });
        }
        let header = header::parse(path, bytes)?;
        let place = |(name, info): (String, StoredInfo)| {
            let range = header.data_start + info.data_offsets.0..header.data_start + info.data_offsets.1;
            (name, View { dtype: info.dtype, shape: info.shape, range, strides: None })
        };
        Ok(Self { tensors: header.tensors.into_iter().map(place).collect(), metadata: header.metadata })
    }
}
