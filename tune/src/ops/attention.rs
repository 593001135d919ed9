//! Softmax attention over the segment forest, with grouped key/value heads.
//!
//! Everything is group-major (see [`super::heads`]): `q, o [kv_heads][asking][group, head_dim]`, `k, v [kv_heads * tokens, head_dim]`; the tokens that ask are
//! all or some. The query heads of a group are rows beside each other, so that keys and values meet all of them at once. A token of a segment sees tokens of the
//! segment's ancestors and of its own segment: which of them is the layer's [`Rule`]. Keys that no token of a block sees are not touched. Scores exist for one
//! block of tokens and one group at a time (see `blocks`); forward keeps the logarithm of each softmax's denominator, from which backward computes the
//! probabilities again.
//!
//! With `s = scale q k^T`, `p = softmax(s)`, `o = p v` and `D = sum(do * o)`: `dv = p^T do`, `ds = p (do v^T - D)`, `dq = scale ds k`, `dk = scale ds^T q`.
//! A soft cap c bends scores first, `s' = c tanh(s / c)`, and multiplies ds by `1 - (s' / c)^2`. Dropout with the mask m makes `o = (p m) v`, `dv = (p m)^T do`,
//! `ds = p (m (do v^T) - D)`.

use std::ops::Range;

use rayon::prelude::*;

pub use super::blocks::Asking;
use super::blocks::Block;
use super::dropout;
use super::heads::Groups;
pub use super::rule::Rule;
use crate::tensor::vector::{self, widest};
use crate::tensor::{Buffer, MatMut, MatRef, Matrix, Real, Stream, Workspace, small_product};

/// The heads, the layer's rule and the segment table: what attention has to know of a model and a batch.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    /// The query heads: a group for each key/value head.
    pub groups: Groups,
    /// Scores and sight.
    pub rule: Rule,
    /// Who asks, and who sees whom.
    pub asking: Asking<'a>,
    /// What is dropped of the probabilities.
    pub dropout: Option<Dropout<'a>>,
}

/// Dropout of attention's probabilities.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    /// Probability that a key is dropped.
    pub p: f64,
    /// The random stream of a group of heads and a block of tokens, named by the first of them: the same in forward and backward.
    pub stream: &'a (dyn Fn(usize, usize) -> Stream + Sync),
}

impl Dropout<'_> {
    fn mask<T: Real>(&self, values: &mut Matrix<T>, kv_head: usize, block: &Block<'_>) {
        dropout::mask(values, self.p, (self.stream)(kv_head, block.token));
    }
}

/// `log(sum(exp(s)))` of each query, `[kv_heads][asking][group]`: what forward saves.
pub struct Saved<T: Real> {
    log_sum: Buffer<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        self.log_sum.len() * size_of::<T>()
    }
}

/// Attention output `o`, laid out as `q`.
///
/// # Panics
/// When rows are too few or too many for the layout.
pub fn forward<T: Real>(
    q: &Matrix<T>,
    k: &Matrix<T>,
    v: &Matrix<T>,
    layout: Layout<'_>,
    workspace: &Workspace<T>,
) -> (Matrix<T>, Saved<T>) {
    let Layout { groups: Groups { count: kv_heads, size: group }, rule, asking, .. } = layout;
    let dim = q.cols();
    assert!([k, v].iter().all(|m| m.rows() == kv_heads * asking.segments.keys()), "keys and values of all heads");
    let mut o = workspace.matrix(q.rows(), dim);
    let mut log_sum = workspace.buffer(q.rows());
    let trees = asking.segments.trees().iter();
    let blocks: Vec<Block<'_>> = trees.flat_map(|tree| asking.blocks(tree, rule, group)).collect();
    let parts: Vec<_> = blocks.iter().map(|block| block.places.clone()).collect();
    let outputs = cut(o.data_mut(), kv_heads, group * dim, &parts);
    let sums = cut(&mut log_sum, kv_heads, group, &parts);
    outputs.into_par_iter().zip(sums).enumerate().with_max_len(1).for_each(|(task, (o, log_sum))| {
        let (kv_head, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
        let [q, k, v] = [q, k, v].map(|matrix| of_head(matrix.data(), kv_head, kv_heads));
        let mut p = scores(&q[block.places.start * group * dim..][..o.len()], k, block, rule, dim, workspace);
        for (place, log_sum) in log_sum.chunks_mut(group).enumerate() {
            let visible = block.visible(place, rule);
            for (head, log_sum) in log_sum.iter_mut().enumerate() {
                *log_sum = softmax(p.row_mut(place * group + head), visible.clone());
            }
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut p, kv_head, block);
        }
        let mut offset = 0;
        for (index, keys) in block.keys.iter().enumerate() {
            let p = p.view().columns(offset, offset + keys.len());
            let v = MatRef::new(&v[keys.start * dim..], keys.len(), dim);
            small_product(MatMut::new(o, log_sum.len(), dim), index > 0, p, v, T::ONE, workspace);
            offset += keys.len();
        }
    });
    (o, Saved { log_sum })
}

/// Gradients `(dq, dk, dv)`, laid out as `q`, `k` and `v`, from the gradient `d_o` of the output.
pub fn backward<T: Real>(
    d_o: &Matrix<T>,
    inputs: [&Matrix<T>; 3],
    o: &Matrix<T>,
    saved: &Saved<T>,
    layout: Layout<'_>,
    workspace: &Workspace<T>,
) -> [Matrix<T>; 3] {
    let [q, k, v] = inputs;
    let Layout { groups: Groups { count: kv_heads, size: group }, asking, .. } = layout;
    let dim = q.cols();
    let mut dq = workspace.matrix(q.rows(), dim);
    let (mut dk, mut dv) = (workspace.zeros(k.rows(), dim), workspace.zeros(v.rows(), dim));
    // one task for each key/value head and tree: it owns dk and dv there and the dq of the head's group, so that every sum has one fixed order
    let (trees, parts) = (asking.segments.trees(), asking.trees());
    let dq_parts = cut(dq.data_mut(), kv_heads, group * dim, &parts);
    let (tokens, all_keys) = (asking.segments.tokens(), asking.segments.keys());
    let shared = asking.segments.virtual_tokens() * dim;
    let key_parts: Vec<_> = trees.iter().map(|tree| asking.segments.tree_tokens(tree)).collect();
    // virtual tokens lie behind all trees' keys of a head
    let [dk_parts, dv_parts] = [&mut dk, &mut dv].map(|gradient| {
        let each = gradient.data_mut().chunks_exact_mut((all_keys * dim).max(1));
        each.flat_map(|head| cut(&mut head[..tokens * dim], 1, dim, &key_parts)).collect::<Vec<_>>()
    });
    // what all trees share has a part in each task, too; they are added up afterwards, in order
    let width = (2 * shared).max(1);
    let mut shared_parts = workspace.zeros(dq_parts.len(), width);
    let both_parts = shared_parts.data_mut().par_chunks_mut(width);
    let all_parts = dk_parts.into_par_iter().zip(dv_parts).zip(both_parts);
    dq_parts.into_par_iter().zip(all_parts).enumerate().with_max_len(1).for_each(|(task, (dq, ((dk, dv), both)))| {
        let (kv_head, tree) = (task / trees.len(), task % trees.len());
        let (virtual_dk, virtual_dv) = both.split_at_mut(shared);
        let [q, k, v, o, d_o] = [q, k, v, o, d_o].map(|matrix| of_head(matrix.data(), kv_head, kv_heads));
        let log_sum = of_head(&saved.log_sum, kv_head, kv_heads);
        let queries = Queries { kv_head, q, o, d_o, log_sum, first: parts[tree].start, dq };
        let keys = Keys { k, v, dk, dv, virtual_dk, virtual_dv };
        backward_group(queries, keys, layout, &trees[tree], dim, workspace);
    });
    for (task, both) in shared_parts.data().chunks(width).enumerate() {
        let at = (task / trees.len() * all_keys + tokens) * dim;
        for (sum, part) in [&mut dk, &mut dv].into_iter().zip(both.chunks_exact(shared.max(1))) {
            sum.data_mut()[at..at + shared].iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
        }
    }
    [dq, dk, dv]
}

/// One group of query heads: whole columns of its inputs, and its tree's part of `dq`.
struct Queries<'a, T> {
    kv_head: usize,
    q: &'a [T],
    o: &'a [T],
    d_o: &'a [T],
    log_sum: &'a [T],
    /// The place among the tokens that ask which `dq` begins with.
    first: usize,
    dq: &'a mut [T],
}

/// One key/value head: whole columns of its inputs, and its tree's part of the gradients.
struct Keys<'a, T> {
    k: &'a [T],
    v: &'a [T],
    dk: &'a mut [T],
    dv: &'a mut [T],
    /// The tree's part of the virtual tokens' gradients.
    virtual_dk: &'a mut [T],
    virtual_dv: &'a mut [T],
}

fn backward_group<T: Real>(
    queries: Queries<'_, T>,
    keys: Keys<'_, T>,
    layout: Layout<'_>,
    tree: &Range<usize>,
    dim: usize,
    workspace: &Workspace<T>,
) {
    let Layout { groups: Groups { size: group, .. }, asking, rule, .. } = layout;
    let (tokens, first) = (asking.segments.tokens(), asking.segments.tree_tokens(tree).start);
    let scale = T::from_f64(rule.scale);
    let inverse_cap = T::from_f64(rule.softcap.map_or(0.0, |cap| 1.0 / cap));
    for block in asking.blocks(tree, rule, group) {
        let (rows, at) = (block.places.len() * group, block.places.start * group);
        let [q, o, d_o] = [queries.q, queries.o, queries.d_o].map(|data| &data[at * dim..][..rows * dim]);
        let mut p = scores(q, keys.k, &block, rule, dim, workspace);
        let mut ds = workspace.matrix(rows, p.cols());
        let [q_view, d_o_view] = [q, d_o].map(|data| MatRef::new(data, rows, dim));
        let mut offset = 0;
        for range in &block.keys {
            let v = MatRef::new(&keys.v[range.start * dim..], range.len(), dim);
            small_product(
                ds.view_mut().columns(offset, offset + range.len()),
                false,
                d_o_view,
                v.t(),
                T::ONE,
                workspace,
            );
            offset += range.len();
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut ds, queries.kv_head, &block);
        }
        for (row, (o, d_o)) in o.chunks(dim).zip(d_o.chunks(dim)).enumerate() {
            let (visible, log_sum) = (block.visible(row / group, rule), queries.log_sum[at + row]);
            let (p, ds) = (p.row_mut(row), ds.row_mut(row));
            score_gradients(
                &mut p[visible.clone()],
                &mut ds[visible.clone()],
                log_sum,
                vector::dot(d_o, o),
                inverse_cap,
            );
            for row in [p, ds] {
                row[..visible.start].fill(T::ZERO);
                row[visible.end..].fill(T::ZERO);
            }
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut p, queries.kv_head, &block);
        }
        let dq = &mut queries.dq[(at - queries.first * group) * dim..];
        let mut offset = 0;
        for (index, range) in block.keys.iter().enumerate() {
            let len = range.len();
            let (from, dk, dv) = match range.start.checked_sub(tokens) {
                Some(at) => (at * dim, &mut *keys.virtual_dk, &mut *keys.virtual_dv),
                None => ((range.start - first) * dim, &mut *keys.dk, &mut *keys.dv),
            };
            let (p, ds) = (p.view().columns(offset, offset + len), ds.view().columns(offset, offset + len));
            let k = MatRef::new(&keys.k[range.start * dim..], len, dim);
            small_product(MatMut::new(dq, rows, dim), index > 0, ds, k, scale, workspace);
            small_product(MatMut::new(&mut dk[from..], len, dim), true, ds.t(), q_view, scale, workspace);
            small_product(MatMut::new(&mut dv[from..], len, dim), true, p.t(), d_o_view, T::ONE, workspace);
            offset += len;
        }
    }
}

/// Scores of a block, `[queries, keys]`; columns that a row does not see are computed but meaningless.
fn scores<T: Real>(q: &[T], k: &[T], block: &Block<'_>, rule: Rule, dim: usize, workspace: &Workspace<T>) -> Matrix<T> {
    let total = block.keys.iter().map(Range::len).sum();
    let queries = q.len() / dim;
    let q = MatRef::new(q, queries, dim);
    let mut s = workspace.matrix(queries, total);
    let mut offset = 0;
    for keys in &block.keys {
        let k = MatRef::new(&k[keys.start * dim..], keys.len(), dim);
        small_product(
            s.view_mut().columns(offset, offset + keys.len()),
            false,
            q,
            k.t(),
            T::from_f64(rule.scale),
            workspace,
        );
        offset += keys.len();
    }
    rule.bend(s.data_mut());
    s
}

widest! {
    /// Turns scores s into probabilities p, and the gradients of the probabilities into those of the scores before the soft cap.
    fn score_gradients<T: Real>(p: &mut [T], ds: &mut [T], log_sum: T, along: T, inverse_cap: T) {
        for (p, ds) in p.iter_mut().zip(ds) {
            let bent = *p * inverse_cap;
            *p = (*p - log_sum).exp();
            *ds = *p * (*ds - along) * (T::ONE - bent * bent);
        }
    }
}

/// Replaces the visible part of a row of scores by its softmax and the rest by zeros; returns `log sum exp` of what is visible.
pub(super) fn softmax<T: Real>(row: &mut [T], visible: Range<usize>) -> T {
    row[..visible.start].fill(T::ZERO);
    row[visible.end..].fill(T::ZERO);
    vector::softmax(&mut row[visible])
}

/// What belongs to a key/value head among `of`: its keys or values, or the rows of its group.
fn of_head<T>(data: &[T], kv_head: usize, of: usize) -> &[T] {
    let len = data.len() / of;
    &data[kv_head * len..(kv_head + 1) * len]
}

/// Cuts `[heads][places][width]` into disjoint slices, one for each head and part, heads outermost. `parts` are the places of each, one after another, and
/// together all there are.
fn cut<'a, T>(mut data: &'a mut [T], heads: usize, width: usize, parts: &[Range<usize>]) -> Vec<&'a mut [T]> {
    let mut slices = Vec::with_capacity(heads * parts.len());
    for part in (0..heads).flat_map(|_| parts) {
        let (slice, rest) = data.split_at_mut(part.len() * width);
        slices.push(slice);
        data = rest;
    }
    assert!(data.is_empty(), "{} numbers of no head and place", data.len());
    slices
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
