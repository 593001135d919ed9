//! Between token-major rows `[tokens, heads * head_dim]`, as linears write them, and head-major blocks `[heads][tokens, head_dim]`, as attention reads
//! them, with the rotary embedding applied on the way.
//!
//! Head-major, each head of each tree is one contiguous block, so that heads are handed to threads as disjoint slices.

use rayon::prelude::*;

use super::rope::Table;
use crate::tensor::{Matrix, Real, Workspace};

/// Elements that one parallel task moves, at least: one token of generation is sooner moved than handed to another thread.
const TASK: usize = 1 << 13;

/// Token-major `[tokens, heads * head_dim]` to head-major `[heads * tokens, head_dim]`, rotated when a table is given.
pub fn split<T: Real>(x: &Matrix<T>, heads: usize, rope: Option<&Table<T>>, workspace: &Workspace<T>) -> Matrix<T> {
    let (tokens, head_dim) = (x.rows(), x.cols() / heads);
    let mut out = workspace.matrix(heads * tokens, head_dim);
    let size = (tokens * head_dim).max(1);
    out.data_mut().par_chunks_mut(size).with_min_len(TASK / size).enumerate().for_each(|(head, block)| {
        for (token, out) in block.chunks_mut(head_dim).enumerate() {
            let row = &x.row(token)[head * head_dim..(head + 1) * head_dim];
            match rope {
                Some(table) => table.rotate(token, row, out),
                None => out.copy_from_slice(row),
            }
        }
    });
    out
}

/// Head-major to token-major: the inverse of [`split`], and, because a rotation's gradient is its inverse, also its gradient.
pub fn merge<T: Real>(x: &Matrix<T>, heads: usize, rope: Option<&Table<T>>, workspace: &Workspace<T>) -> Matrix<T> {
    let (tokens, head_dim) = (x.rows() / heads, x.cols());
    let mut out = workspace.matrix(tokens, heads * head_dim);
    let size = heads * head_dim;
    out.data_mut().par_chunks_mut(size).with_min_len(TASK / size).enumerate().for_each(|(token, row)| {
        for (head, out) in row.chunks_mut(head_dim).enumerate() {
            let from = x.row(head * tokens + token);
            match rope {
                Some(table) => table.rotate_back(token, from, out),
                None => out.copy_from_slice(from),
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::numbers;
    use crate::ops::rope::{Rope, Scaling};

    #[test]
    fn merge_undoes_split() {
        let workspace = Workspace::new(2).unwrap();
        let rope = Rope { theta: 100.0, scaling: Scaling::Linear { factor: 2.0 }, head_dim: 4 };
        let table = rope.table(&[0, 1, 2, 0, 1], &workspace);
        let mut x = workspace.matrix(5, 12);
        x.copy_from(&numbers(60, "x"));
        for table in [None, Some(&table)] {
            let split = split(&x, 3, table, &workspace);
            if table.is_none() {
                assert_eq!(split.row(2 * 5 + 3), &x.row(3)[8..12]);
            }
            let merged = merge(&split, 3, table, &workspace);
            assert!(merged.data().iter().zip(x.data()).all(|(a, b)| (a - b).abs() < 1e-14));
        }
    }
}
