//! Softmax attention over the segment forest, with grouped key/value heads.
//!
//! Everything is head-major (see [`super::heads`]): `q, o [heads * tokens, head_dim]`, `k, v [kv_heads * tokens, head_dim]`. A query of a segment sees
//! tokens of the segment's ancestors and of its own segment: which of them is the layer's [`Rule`]. Keys that no query of a block sees are not touched.
//! Scores exist for one block of queries at a time; forward keeps the logarithm of each softmax's denominator, from which backward computes the
//! probabilities again.
//!
//! With `s = scale q k^T`, `p = softmax(s)`, `o = p v` and `D = sum(do * o)`: `dv = p^T do`, `ds = p (do v^T - D)`, `dq = scale ds k`, `dk = scale ds^T q`.
//! A soft cap c bends scores first, `s' = c tanh(s / c)`, and multiplies ds by `1 - (s' / c)^2`. Dropout with the mask m makes `o = (p m) v`, `dv = (p m)^T do`,
//! `ds = p (m (do v^T) - D)`.

use std::ops::Range;

use rayon::prelude::*;

pub use super::rule::Rule;
use super::{Segments, dropout};
use crate::tensor::vector::{self, widest};
use crate::tensor::{Buffer, MatMut, MatRef, Matrix, Real, Stream, Workspace, matmul_here};

/// Queries whose scores exist at one time.
const BLOCK: usize = 64;

/// Head counts, the layer's rule and the segment table: what attention has to know of a model and a batch.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Scores and sight.
    pub rule: Rule,
    /// Who sees whom.
    pub segments: &'a Segments,
    /// What is dropped of the probabilities.
    pub dropout: Option<Dropout<'a>>,
}

/// Dropout of attention's probabilities.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    /// Probability that a key is dropped.
    pub p: f64,
    /// The random stream of a query head and a block of queries, named by its first: the same in forward and backward.
    pub stream: &'a (dyn Fn(usize, usize) -> Stream + Sync),
}

impl Dropout<'_> {
    fn mask<T: Real>(&self, values: &mut Matrix<T>, head: usize, block: &Block) {
        dropout::mask(values, self.p, (self.stream)(head, block.queries.start));
    }
}

/// `log(sum(exp(s)))` of each head and query, `[heads * tokens]`: what forward saves.
pub struct Saved<T: Real> {
    log_sum: Buffer<T>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        self.log_sum.len() * size_of::<T>()
    }
}

/// Attention output `o`, head-major.
pub fn forward<T: Real>(
    q: &Matrix<T>,
    k: &Matrix<T>,
    v: &Matrix<T>,
    layout: Layout<'_>,
    workspace: &Workspace<T>,
) -> (Matrix<T>, Saved<T>) {
    let (tokens, dim, group) = (layout.segments.tokens(), q.cols(), layout.heads / layout.kv_heads);
    let mut o = workspace.matrix(q.rows(), dim);
    let mut log_sum = workspace.buffer(q.rows());
    let outputs = split_trees(o.data_mut(), tokens, dim, layout.segments);
    let sums = split_trees(&mut log_sum, tokens, 1, layout.segments);
    let trees = layout.segments.trees();
    outputs.into_par_iter().zip(sums).enumerate().with_max_len(1).for_each(|(task, (o, log_sum))| {
        let (head, tree) = (task / trees.len(), &trees[task % trees.len()]);
        let first = layout.segments.tree_tokens(tree).start;
        let keys = layout.segments.keys();
        let (q, k, v) =
            (head_rows(q, head, tokens), head_rows(k, head / group, keys), head_rows(v, head / group, keys));
        for block in blocks(layout.segments, tree, layout.rule) {
            let mut p = scores(&q[block.queries.start * dim..], k, &block, layout.rule, dim, workspace);
            let rows = block.queries.start - first;
            for i in 0..p.rows() {
                log_sum[rows + i] = softmax(p.row_mut(i), block.visible(i, layout.rule));
            }
            if let Some(dropout) = layout.dropout {
                dropout.mask(&mut p, head, &block);
            }
            let o = &mut o[rows * dim..];
            let mut offset = 0;
            for (index, keys) in block.keys.iter().enumerate() {
                let p = p.view().columns(offset, offset + keys.len());
                let v = MatRef::new(&v[keys.start * dim..], keys.len(), dim);
                matmul_here(MatMut::new(o, block.queries.len(), dim), index > 0, p, v, T::ONE);
                offset += keys.len();
            }
        }
    });
    (o, Saved { log_sum })
}

/// Gradients `(dq, dk, dv)`, head-major, from the gradient `d_o` of the output.
pub fn backward<T: Real>(
    d_o: &Matrix<T>,
    inputs: [&Matrix<T>; 3],
    o: &Matrix<T>,
    saved: &Saved<T>,
    layout: Layout<'_>,
    workspace: &Workspace<T>,
) -> [Matrix<T>; 3] {
    let [q, k, v] = inputs;
    let (tokens, dim, group) = (layout.segments.tokens(), q.cols(), layout.heads / layout.kv_heads);
    let mut dq = workspace.matrix(q.rows(), dim);
    let (mut dk, mut dv) = (workspace.zeros(k.rows(), dim), workspace.zeros(v.rows(), dim));
    let trees = layout.segments.trees();
    // one task for each key/value head and tree: it owns dk and dv there and the dq of the head's group, so that every sum has one fixed order
    let mut dq_parts: Vec<Option<&mut [T]>> =
        split_trees(dq.data_mut(), tokens, dim, layout.segments).into_iter().map(Some).collect();
    let tasks: Vec<Vec<&mut [T]>> = (0..layout.kv_heads * trees.len())
        .map(|task| {
            let (kv_head, tree) = (task / trees.len(), task % trees.len());
            let heads = kv_head * group..(kv_head + 1) * group;
            heads.filter_map(|head| dq_parts[head * trees.len() + tree].take()).collect()
        })
        .collect();
    let (all_keys, shared) = (layout.segments.keys(), layout.segments.virtual_tokens() * dim);
    let dk_parts = split_trees(dk.data_mut(), all_keys, dim, layout.segments);
    let dv_parts = split_trees(dv.data_mut(), all_keys, dim, layout.segments);
    // what all trees share has a part in each task, too; they are added up afterwards, in order
    let width = (2 * shared).max(1);
    let mut shared_parts = workspace.zeros(tasks.len(), width);
    let parts = dk_parts.into_par_iter().zip(dv_parts).zip(shared_parts.data_mut().par_chunks_mut(width));
    tasks.into_par_iter().zip(parts).enumerate().with_max_len(1).for_each(|(task, (dq, ((dk, dv), both)))| {
        let (kv_head, tree) = (task / trees.len(), &trees[task % trees.len()]);
        let (virtual_dk, virtual_dv) = both.split_at_mut(shared);
        let (k, v) = (head_rows(k, kv_head, all_keys), head_rows(v, kv_head, all_keys));
        let mut keys = Keys { k, v, dk, dv, virtual_dk, virtual_dv };
        for (member, dq) in dq.into_iter().enumerate() {
            let head = kv_head * group + member;
            let queries = Queries {
                head,
                q: head_rows(q, head, tokens),
                o: head_rows(o, head, tokens),
                d_o: head_rows(d_o, head, tokens),
                log_sum: &saved.log_sum[head * tokens..(head + 1) * tokens],
                dq,
            };
            backward_head(queries, &mut keys, layout, tree, dim, workspace);
        }
    });
    for (task, both) in shared_parts.data().chunks(width).enumerate() {
        let at = (task / trees.len() * all_keys + tokens) * dim;
        for (sum, part) in [&mut dk, &mut dv].into_iter().zip(both.chunks_exact(shared.max(1))) {
            sum.data_mut()[at..at + shared].iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
        }
    }
    [dq, dk, dv]
}

/// One query head: whole columns of its inputs, and its tree's part of `dq`.
struct Queries<'a, T> {
    head: usize,
    q: &'a [T],
    o: &'a [T],
    d_o: &'a [T],
    log_sum: &'a [T],
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

fn backward_head<T: Real>(
    queries: Queries<'_, T>,
    keys: &mut Keys<'_, T>,
    layout: Layout<'_>,
    tree: &Range<usize>,
    dim: usize,
    workspace: &Workspace<T>,
) {
    let Layout { segments, rule, .. } = layout;
    let first = segments.tree_tokens(tree).start;
    let scale = T::from_f64(rule.scale);
    let inverse_cap = T::from_f64(rule.softcap.map_or(0.0, |cap| 1.0 / cap));
    for block in blocks(segments, tree, rule) {
        let (rows, at) = (block.queries.len(), block.queries.start * dim);
        let d_o = MatRef::new(&queries.d_o[at..], rows, dim);
        let mut p = scores(&queries.q[at..], keys.k, &block, rule, dim, workspace);
        let mut ds = workspace.matrix(rows, p.cols());
        let mut offset = 0;
        for range in &block.keys {
            let v = MatRef::new(&keys.v[range.start * dim..], range.len(), dim);
            matmul_here(ds.view_mut().columns(offset, offset + range.len()), false, d_o, v.t(), T::ONE);
            offset += range.len();
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut ds, queries.head, &block);
        }
        for i in 0..rows {
            let token = block.queries.start + i;
            let row = token * dim..(token + 1) * dim;
            let along = vector::dot(&queries.d_o[row.clone()], &queries.o[row]);
            let (visible, log_sum) = (block.visible(i, rule), queries.log_sum[token]);
            let (p, ds) = (p.row_mut(i), ds.row_mut(i));
            score_gradients(&mut p[visible.clone()], &mut ds[visible.clone()], log_sum, along, inverse_cap);
            for row in [p, ds] {
                row[..visible.start].fill(T::ZERO);
                row[visible.end..].fill(T::ZERO);
            }
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut p, queries.head, &block);
        }
        let q = MatRef::new(&queries.q[at..], rows, dim);
        let dq = &mut queries.dq[at - first * dim..];
        let mut offset = 0;
        for (index, range) in block.keys.iter().enumerate() {
            let len = range.len();
            let (from, dk, dv) = match range.start.checked_sub(segments.tokens()) {
                Some(at) => (at * dim, &mut *keys.virtual_dk, &mut *keys.virtual_dv),
                None => ((range.start - first) * dim, &mut *keys.dk, &mut *keys.dv),
            };
            let (p, ds) = (p.view().columns(offset, offset + len), ds.view().columns(offset, offset + len));
            let k = MatRef::new(&keys.k[range.start * dim..], len, dim);
            matmul_here(MatMut::new(dq, rows, dim), index > 0, ds, k, scale);
            matmul_here(MatMut::new(&mut dk[from..], len, dim), true, ds.t(), q, scale);
            matmul_here(MatMut::new(&mut dv[from..], len, dim), true, p.t(), d_o, T::ONE);
            offset += len;
        }
    }
}

/// Consecutive queries of one segment and the ranges of keys that any of them sees, in the order of the path.
struct Block {
    queries: Range<usize>,
    keys: Vec<Range<usize>>,
    /// Position of the first query.
    position: usize,
    /// Position of the first key.
    first: usize,
}

impl Block {
    /// Which of the block's keys query `i` of the block sees.
    fn visible(&self, i: usize, rule: Rule) -> Range<usize> {
        let held: usize = self.keys.iter().map(Range::len).sum();
        let seen = rule.seen(self.position + i..self.position + i + 1, self.first + held);
        seen.start.max(self.first) - self.first..seen.end - self.first
    }
}

fn blocks<'a>(segments: &'a Segments, tree: &Range<usize>, rule: Rule) -> impl Iterator<Item = Block> + 'a {
    tree.clone().flat_map(move |index| {
        let segment = segments.list()[index].range();
        let mut path = segments.ancestors(index);
        let inherited: usize = path.iter().map(Range::len).sum();
        path.push(segment.clone());
        segment.clone().step_by(BLOCK).map(move |start| {
            let queries = start..(start + BLOCK).min(segment.end);
            let position = inherited + start - segment.start;
            let seen = rule.seen(position..position + queries.len(), inherited + segment.len());
            Block { queries, keys: section(&path, seen.clone()), position, first: seen.start }
        })
    })
}

/// The tokens at `positions` of a path that consists of `ranges`.
fn section(ranges: &[Range<usize>], positions: Range<usize>) -> Vec<Range<usize>> {
    let mut before = 0;
    let mut cut = |range: &Range<usize>| {
        let (from, to) = (positions.start.max(before), positions.end.min(before + range.len()));
        let part = (from < to).then(|| range.start + from - before..range.start + to - before);
        before += range.len();
        part
    };
    ranges.iter().filter_map(&mut cut).collect()
}

/// Scores of a block, `[queries, keys]`; columns that a row does not see are computed but meaningless.
fn scores<T: Real>(q: &[T], k: &[T], block: &Block, rule: Rule, dim: usize, workspace: &Workspace<T>) -> Matrix<T> {
    let total = block.keys.iter().map(Range::len).sum();
    let mut s = workspace.matrix(block.queries.len(), total);
    let q = MatRef::new(q, block.queries.len(), dim);
    let mut offset = 0;
    for keys in &block.keys {
        let k = MatRef::new(&k[keys.start * dim..], keys.len(), dim);
        matmul_here(s.view_mut().columns(offset, offset + keys.len()), false, q, k.t(), T::from_f64(rule.scale));
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

fn head_rows<T: Real>(matrix: &Matrix<T>, head: usize, tokens: usize) -> &[T] {
    &matrix.data()[head * tokens * matrix.cols()..(head + 1) * tokens * matrix.cols()]
}

/// Cuts `[heads][rows][width]` into disjoint slices, one for each head and tree, heads outermost; rows behind the tokens are left out.
fn split_trees<'a, T>(data: &'a mut [T], rows: usize, width: usize, segments: &Segments) -> Vec<&'a mut [T]> {
    let mut parts = Vec::new();
    for mut head in data.chunks_mut((rows * width).max(1)) {
        for tree in segments.trees() {
            let (part, rest) = head.split_at_mut(segments.tree_tokens(tree).len() * width);
            parts.push(part);
            head = rest;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    const DIM: usize = 4;

    /// Two trees: a root of 70 (more than one block) with two children and a grandchild, and a single root.
    fn forest() -> Segments {
        Segments::new(&[(70, None), (2, Some(0)), (3, Some(1)), (1, Some(0)), (5, None)]).unwrap()
    }

    /// The same, and the same behind virtual tokens.
    fn forests() -> [Segments; 2] {
        [forest(), forest().behind(3)]
    }

    fn matrix(workspace: &Workspace<f64>, values: &[f64]) -> Matrix<f64> {
        let mut m = workspace.matrix(values.len() / DIM, DIM);
        m.copy_from(values);
        m
    }

    /// The plain rule; windows shorter and longer than a block, and shorter than a segment; a soft cap that bends; sight of the whole path.
    fn rules() -> [Rule; 6] {
        let plain = Rule::causal(DIM);
        [
            plain,
            Rule { window: Some(1), ..plain },
            Rule { window: Some(3), softcap: Some(1.5), ..plain },
            Rule { window: Some(67), scale: 0.3, ..plain },
            Rule { causal: false, ..plain },
            Rule { causal: false, window: Some(66), softcap: Some(2.0), ..plain },
        ]
    }

    /// Whether a query sees a key, both as positions on one path.
    fn sees(rule: Rule, query: usize, key: usize) -> bool {
        (key <= query || !rule.causal) && rule.window.is_none_or(|window| query.abs_diff(key) < window)
    }

    #[test]
    fn forward_is_the_definition_on_every_path() {
        let workspace = Workspace::new(2).unwrap();
        for (segments, rule) in forests().iter().flat_map(|segments| rules().map(move |rule| (segments, rule))) {
            let (tokens, keys) = (segments.tokens(), segments.keys());
            let (q, k, v) =
                (numbers(4 * tokens * DIM, "q"), numbers(2 * keys * DIM, "k"), numbers(2 * keys * DIM, "v"));
            let layout = Layout { heads: 4, kv_heads: 2, rule, segments, dropout: None };
            let inputs = [&q, &k, &v].map(|m| matrix(&workspace, m));
            let (o, _) = forward(&inputs[0], &inputs[1], &inputs[2], layout, &workspace);
            for (index, segment) in segments.list().iter().enumerate() {
                let mut path: Vec<usize> = segments.ancestors(index).into_iter().flatten().collect();
                path.extend(segment.range());
                for token in segment.range() {
                    let position = segments.positions()[token];
                    let seen: Vec<usize> =
                        (0..path.len()).filter(|&key| sees(rule, position, key)).map(|key| path[key]).collect();
                    for head in 0..4 {
                        let row = |m: &[f64], head: usize, t: usize| m[(head * keys + t) * DIM..][..DIM].to_vec();
                        let query = &q[(head * tokens + token) * DIM..][..DIM];
                        let score = |&t: &usize| {
                            let s = rule.scale * dot(query, &row(&k, head / 2, t));
                            rule.softcap.map_or(s, |cap| cap * (s / cap).tanh())
                        };
                        let scores: Vec<f64> = seen.iter().map(score).collect();
                        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                        for i in 0..DIM {
                            let expected: f64 =
                                seen.iter().zip(&scores).map(|(&t, s)| s.exp() / sum * row(&v, head / 2, t)[i]).sum();
                            assert!((o.row(head * tokens + token)[i] - expected).abs() < 1e-12, "{rule:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let workspace = Workspace::new(2).unwrap();
        let stream = |head, query| Stream::new(3, "dropout", &format!("{head}/{query}"));
        let dropped = Dropout { p: 0.3, stream: &stream };
        let forests = forests();
        let cases = forests.iter().flat_map(|segments| rules().map(move |rule| (segments, rule)));
        for (index, (segments, rule)) in cases.enumerate() {
            let dropout = [None, Some(dropped)][index % 2];
            let (tokens, keys) = (segments.tokens(), segments.keys());
            let (q, k, v) =
                (numbers(4 * tokens * DIM, "q"), numbers(2 * keys * DIM, "k"), numbers(2 * keys * DIM, "v"));
            let d_o = numbers(4 * tokens * DIM, "do");
            let layout = Layout { heads: 4, kv_heads: 2, rule, segments, dropout };
            let run = |q: &[f64], k: &[f64], v: &[f64]| {
                forward(&matrix(&workspace, q), &matrix(&workspace, k), &matrix(&workspace, v), layout, &workspace)
            };
            let (o, saved) = run(&q, &k, &v);
            let inputs = [&q, &k, &v].map(|m| matrix(&workspace, m));
            let [q_ref, k_ref, v_ref] = &inputs;
            let grads = backward(&matrix(&workspace, &d_o), [q_ref, k_ref, v_ref], &o, &saved, layout, &workspace);
            check(&format!("dq {rule:?}"), &q, grads[0].data(), |q| dot(run(q, &k, &v).0.data(), &d_o));
            check(&format!("dk {rule:?}"), &k, grads[1].data(), |k| dot(run(&q, k, &v).0.data(), &d_o));
            check(&format!("dv {rule:?}"), &v, grads[2].data(), |v| dot(run(&q, &k, v).0.data(), &d_o));
        }
    }

    #[test]
    fn keys_outside_the_window_weigh_nothing_at_all() {
        let (workspace, segments) = (Workspace::new(1).unwrap(), forest());
        let tokens = segments.tokens();
        let rule = Rule { window: Some(4), ..Rule::causal(DIM) };
        let layout = Layout { heads: 1, kv_heads: 1, rule, segments: &segments, dropout: None };
        let (q, k, mut v) = (numbers(tokens * DIM, "q"), numbers(tokens * DIM, "k"), numbers(tokens * DIM, "v"));
        let run = |v: &[f64]| {
            forward(&matrix(&workspace, &q), &matrix(&workspace, &k), &matrix(&workspace, v), layout, &workspace).0
        };
        let before = run(&v);
        // the root's token 66 is 4 positions before the first token of its children
        v[66 * DIM..67 * DIM].fill(1e30);
        let after = run(&v);
        for token in 70..tokens {
            assert_eq!(before.row(token), after.row(token), "token {token}");
        }
        assert_ne!(before.row(69), after.row(69));
    }
}
