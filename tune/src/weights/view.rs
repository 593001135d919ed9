//! A tensor as a view of a file: where its bytes lie, and how to copy those that do not follow one another into row-major order.
//!
//! Only pickled files (`pickle`) have tensors of the second kind: a matrix that was transposed before it was saved, a column of a larger one. Everything
//! else is handed out as it is mapped.

use std::ops::Range;

use safetensors::Dtype as StoredType;

/// A tensor whose bytes are in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The type of its numbers.
    pub(super) dtype: StoredType,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// From its first byte in the file to one past its last.
    pub(super) range: Range<usize>,
    /// In elements, for each axis; none where the elements follow one another.
    pub(super) strides: Option<Vec<usize>>,
}

/// The elements of `size` bytes each that `strides` (in elements, one for each axis) lead to, in row-major order.
///
/// Memory: the result. The caller has checked that every element lies in `bytes`.
pub(super) fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let (Some((&columns, outer)), Some((&step, steps))) = (shape.split_last(), strides.split_last()) else {
        return bytes.to_vec();
    };
    let mut out = Vec::with_capacity(shape.iter().product::<usize>() * size);
    // the indices of the row under way, and where it begins
    let mut index = vec![0; outer.len()];
    let mut start = 0;
    for _ in 0..outer.iter().product() {
        for column in 0..columns {
            out.extend_from_slice(&bytes[(start + column * step) * size..][..size]);
        }
        for axis in (0..outer.len()).rev() {
            index[axis] += 1;
            start += steps[axis];
            if index[axis] < outer[axis] {
                break;
            }
            start -= steps[axis] * outer[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_and_cut_views_are_gathered_in_their_own_order() {
        let bytes: Vec<u8> = (0..24).collect();
        assert_eq!(gather(&bytes, 1, &[4, 3], &[1, 4])[..6], [0, 4, 8, 1, 5, 9]);
        // [2, 3, 4] with its axes reversed
        let reversed = gather(&bytes, 1, &[4, 3, 2], &[1, 4, 12]);
        assert_eq!(reversed[..8], [0, 12, 4, 16, 8, 20, 1, 13]);
        // every other pair of bytes
        assert_eq!(gather(&bytes, 2, &[3], &[4]), [0, 1, 8, 9, 16, 17]);
        assert_eq!(gather(&bytes[..2], 2, &[], &[]), [0, 1]);
    }
}
