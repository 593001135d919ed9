//! From what a pickle claims of its tensors to places in the file.
//!
//! A storage is an entry of the archive; a tensor is a view of it by offset, shape and strides, counted in elements. A view that is contiguous is a range of
//! the file. Any other one (a transposed matrix, a column) keeps its strides and is gathered when it is read. Views with more elements than their
//! storage, which repeat elements, are refused: a few bytes could claim any amount of memory.

use std::collections::HashSet;

use safetensors::Dtype as StoredType;

use super::PickleProblem;
use super::archive::Archive;
use super::machine::{Claims, Tensor};
use crate::weights::view::View;

/// Longest key of a storage; PyTorch numbers them.
const LONGEST_KEY: usize = 64;

/// Checks all claims against the archive.
pub(super) fn locate(archive: &Archive, claims: Claims<'_>) -> Result<Vec<(String, View)>, PickleProblem> {
    let mut seen = HashSet::with_capacity(claims.tensors.len());
    let mut tensors = Vec::with_capacity(claims.tensors.len());
    for (name, tensor) in claims.tensors {
        if !seen.insert(name) {
            return Err(PickleProblem::Twice { tensor: name.to_owned() });
        }
        tensors.push((name.to_owned(), place(archive, name, tensor)?));
    }
    Ok(tensors)
}

fn place(archive: &Archive, name: &str, tensor: Tensor<'_>) -> Result<View, PickleProblem> {
    let Tensor { storage, dtype, offset, shape, strides } = tensor;
    let key = || storage.key.chars().take(LONGEST_KEY).collect::<String>();
    let entry = Some(storage.key).filter(|key| key.len() <= LONGEST_KEY);
    let entry = entry.and_then(|key| archive.entry(&format!("data/{key}")));
    let entry = entry.ok_or_else(|| PickleProblem::NoStorage { key: key() })?;
    // an untyped storage counts bytes; then the tensor has a type of its own
    let counted = storage.dtype.unwrap_or(StoredType::U8);
    let bytes = storage.numbers.checked_mul(counted.bitsize() as u64 / 8);
    if bytes != Some(entry.len() as u64) {
        let dtype = counted.to_string();
        return Err(PickleProblem::StorageSize { key: key(), numbers: storage.numbers, dtype, bytes: entry.len() });
    }
    let dtype = dtype.unwrap_or(counted);
    let size = dtype.bitsize() / 8;
    let numbers = entry.len() / size;
    let outside = || {
        let shape = shape.iter().copied().take(8).collect();
        PickleProblem::OutsideStorage { tensor: name.chars().take(200).collect(), shape, numbers }
    };
    let count = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
    // a product that overflows beside an axis of length zero is as absurd as one without
    let count = count.filter(|&count| count <= numbers).ok_or_else(outside)?;
    if count == 0 {
        return Ok(View { dtype, shape, range: entry.start..entry.start, strides: None });
    }
    let steps = shape.iter().zip(&strides).map(|(&axis, &stride)| (axis - 1).checked_mul(stride));
    let last = steps.into_iter().try_fold(offset, |sum, step| sum.checked_add(step?));
    let last = last.filter(|&last| last < numbers).ok_or_else(outside)?;
    // both products are at most the entry's length
    let range = entry.start + offset * size..entry.start + (last + 1) * size;
    let strides = (!is_contiguous(&shape, &strides)).then_some(strides);
    Ok(View { dtype, shape, range, strides })
}

/// Whether the elements follow one another: axes of length one may have any stride.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().filter(|(axis, _)| **axis != 1).all(|(axis, stride)| {
        let follows = *stride == expected;
        // a divisor of the number of elements
        expected *= axis;
        follows
    })
}
