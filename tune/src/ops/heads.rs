//! Between token-major rows `[tokens, heads * head_dim]`, as linears write them, and group-major blocks `[groups][tokens][heads of a group, head_dim]`, as
//! attention reads them, with the rotary embedding applied on the way.
//!
//! A group is the query heads that share a key/value head; of keys and values each head is a group, and group-major is head-major. Each group of each tree is
//! one contiguous block, so that groups are handed to threads as disjoint slices, and the heads that meet the same keys lie beside each other.

use rayon::prelude::*;

use super::rope::Table;
use crate::tensor::{Matrix, Real, Workspace};

/// Elements that one parallel task moves, at least: one token of generation is sooner moved than handed to another thread.
const TASK: usize = 1 << 13;

/// Heads in groups.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// How many.
    pub count: usize,
    /// Heads of each.
    pub size: usize,
}

impl Groups {
    /// Query heads, of which as many share each key/value head.
    pub fn of_queries(heads: usize, kv_heads: usize) -> Self {
        Self { count: kv_heads, size: heads / kv_heads }
    }

    /// The heads of keys or values.
    pub fn of_keys(self) -> Self {
        Self { size: 1, ..self }
    }
}

/// Token-major `[tokens, heads * head_dim]` to group-major `[groups * tokens * heads of a group, head_dim]`, rotated when a table is given.
pub fn split<T: Real>(x: &Matrix<T>, groups: Groups, rope: Option<&Table<T>>, workspace: &Workspace<T>) -> Matrix<T> {
    let (tokens, width) = (x.rows(), x.cols() / groups.count);
    let head_dim = width / groups.size;
    let mut out = workspace.matrix(groups.count * tokens * groups.size, head_dim);
    let width = width.max(1);
    out.data_mut().par_chunks_mut(width).with_min_len(TASK / width).enumerate().for_each(|(place, out)| {
        let (group, token) = (place / tokens, place % tokens);
        let from = &x.row(token)[group * width..(group + 1) * width];
        match rope {
            Some(table) => {
                let heads = from.chunks(head_dim).zip(out.chunks_mut(head_dim));
                heads.for_each(|(from, out)| table.rotate(token, from, out));
            }
            None => out.copy_from_slice(from),
        }
    });
    out
}

/// Group-major to token-major: the inverse of [`split`], and, because a rotation's gradient is its inverse, also its gradient.
pub fn merge<T: Real>(x: &Matrix<T>, groups: Groups, rope: Option<&Table<T>>, workspace: &Workspace<T>) -> Matrix<T> {
    let (tokens, head_dim) = (x.rows() / (groups.count * groups.size), x.cols());
    let width = groups.size * head_dim;
    let mut out = workspace.matrix(tokens, groups.count * width);
    let size = (groups.count * width).max(1);
    out.data_mut().par_chunks_mut(size).with_min_len(TASK / size).enumerate().for_each(|(token, row)| {
        for (group, out) in row.chunks_mut(width).enumerate() {
            let from = &x.data()[(group * tokens + token) * width..][..width];
            match rope {
                Some(table) => {
                    let heads = from.chunks(head_dim).zip(out.chunks_mut(head_dim));
                    heads.for_each(|(from, out)| table.rotate_back(token, from, out));
                }
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
        let mut x = workspace.matrix(5, 24);
        x.copy_from(&numbers(120, "x"));
        let groupings = [(6, 1), (3, 2), (1, 6)].map(|(count, size)| Groups { count, size });
        for (table, groups) in
            [None, Some(&table)].into_iter().flat_map(|table| groupings.map(|groups| (table, groups)))
        {
            let split = split(&x, groups, table, &workspace);
            let mut rotated = vec![0.0; 4];
            for (token, head) in [(0, 0), (3, 2), (4, 5)] {
                let (group, member) = (head / groups.size, head % groups.size);
                let from = &x.row(token)[4 * head..][..4];
                match table {
                    Some(table) => table.rotate(token, from, &mut rotated),
                    None => rotated.copy_from_slice(from),
                }
                assert_eq!(split.row((group * 5 + token) * groups.size + member), rotated);
            }
            let merged = merge(&split, groups, table, &workspace);
            assert!(merged.data().iter().zip(x.data()).all(|(a, b)| (a - b).abs() < 1e-14));
        }
    }

    #[test]
    fn no_tokens_and_many_are_laid_out_alike() {
        let workspace = Workspace::new(2).unwrap();
        let groups = Groups::of_queries(6, 2);
        // so many that several tasks move them
        for tokens in [0, 1500] {
            let mut x = workspace.matrix(tokens, 24);
            x.copy_from(&numbers(tokens * 24, "x"));
            let laid = workspace.run(|| split(&x, groups, None, &workspace));
            for (place, row) in laid.data().chunks(4).enumerate() {
                let (group, token, member) = (place / 3 / tokens, place / 3 % tokens, place % 3);
                assert_eq!(row, &x.row(token)[(group * 3 + member) * 4..][..4]);
            }
            assert!(workspace.run(|| merge(&laid, groups, None, &workspace)).data() == x.data());
        }
    }
}
