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
pub use super::rule::Rule;
use crate::tensor::vector::{self, widest};
use crate::tensor::{Buffer, MatMut, MatRef, Matrix, Real, Stream, Workspace, small_product};

/// Head counts, the layer's rule and the segment table: what attention has to know of a model and a batch.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Scores and sight.
    pub rule: Rule,
    /// Who asks, and who sees whom.
    pub asking: Asking<'a>,
    /// What is dropped of the probabilities.
    pub dropout: Option<Dropout<'a>>,
}

impl Layout<'_> {
    /// Query heads of each key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
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
pub fn forward<T: Real>(
    q: &Matrix<T>,
    k: &Matrix<T>,
    v: &Matrix<T>,
    layout: Layout<'_>,
    workspace: &Workspace<T>,
) -> (Matrix<T>, Saved<T>) {
    let Layout { kv_heads, rule, asking, .. } = layout;
    let (dim, group) = (q.cols(), layout.group());
    let mut o = workspace.matrix(q.rows(), dim);
    let mut log_sum = workspace.buffer(q.rows());
    let trees = asking.segments.trees().iter();
    let blocks: Vec<Block<'_>> = trees.flat_map(|tree| asking.blocks(tree, rule, group)).collect();
    let parts: Vec<_> = blocks.iter().map(|block| block.rows.clone()).collect();
    let outputs = cut(o.data_mut(), kv_heads, group * dim, &parts);
    let sums = cut(&mut log_sum, kv_heads, group, &parts);
    outputs.into_par_iter().zip(sums).enumerate().with_max_len(1).for_each(|(task, (o, log_sum))| {
        let (kv_head, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
        let [q, k, v] = [q, k, v].map(|matrix| of_head(matrix.data(), kv_head, kv_heads));
        let mut p = scores(&q[block.rows.start * group * dim..][..o.len()], k, block, rule, dim, workspace);
        for (row, log_sum) in log_sum.iter_mut().enumerate() {
            *log_sum = softmax(p.row_mut(row), block.visible(row / group, rule));
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
    let (Layout { kv_heads, asking, .. }, dim) = (layout, q.cols());
    let mut dq = workspace.matrix(q.rows(), dim);
    let (mut dk, mut dv) = (workspace.zeros(k.rows(), dim), workspace.zeros(v.rows(), dim));
    // one task for each key/value head and tree: it owns dk and dv there and the dq of the head's group, so that every sum has one fixed order
    let (trees, parts) = (asking.segments.trees(), asking.trees());
    let dq_parts = cut(dq.data_mut(), kv_heads, layout.group() * dim, &parts);
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
    let (Layout { asking, rule, .. }, group) = (layout, layout.group());
    let (tokens, first) = (asking.segments.tokens(), asking.segments.tree_tokens(tree).start);
    let scale = T::from_f64(rule.scale);
    let inverse_cap = T::from_f64(rule.softcap.map_or(0.0, |cap| 1.0 / cap));
    for block in asking.blocks(tree, rule, group) {
        let (rows, at) = (block.rows.len() * group, block.rows.start * group);
        let [q, o, d_o] = [queries.q, queries.o, queries.d_o].map(|data| &data[at * dim..][..rows * dim]);
        let mut p = scores(q, keys.k, &block, rule, dim, workspace);
        let mut ds = workspace.matrix(rows, p.cols());
        let [q, d_o] = [q, d_o].map(|data| MatRef::new(data, rows, dim));
        let mut offset = 0;
        for range in &block.keys {
            let v = MatRef::new(&keys.v[range.start * dim..], range.len(), dim);
            small_product(ds.view_mut().columns(offset, offset + range.len()), false, d_o, v.t(), T::ONE, workspace);
            offset += range.len();
        }
        if let Some(dropout) = layout.dropout {
            dropout.mask(&mut ds, queries.kv_head, &block);
        }
        for (row, o) in o.chunks(dim).enumerate() {
            let (visible, log_sum) = (block.visible(row / group, rule), queries.log_sum[at + row]);
            let (p, ds) = (p.row_mut(row), ds.row_mut(row));
            let along = vector::dot(&queries.d_o[(at + row) * dim..][..dim], o);
            score_gradients(&mut p[visible.clone()], &mut ds[visible.clone()], log_sum, along, inverse_cap);
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
            small_product(MatMut::new(&mut dk[from..], len, dim), true, ds.t(), q, scale, workspace);
            small_product(MatMut::new(&mut dv[from..], len, dim), true, p.t(), d_o, T::ONE, workspace);
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

/// Cuts `[heads][places][width]` into disjoint slices, one for each head and part, heads outermost. `parts` are the places of each, one after another.
fn cut<'a, T>(mut data: &'a mut [T], heads: usize, width: usize, parts: &[Range<usize>]) -> Vec<&'a mut [T]> {
    let mut slices = Vec::with_capacity(heads * parts.len());
    for part in (0..heads).flat_map(|_| parts) {
        let (slice, rest) = data.split_at_mut(part.len() * width);
        slices.push(slice);
        data = rest;
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Segments;
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

    fn all(segments: &Segments) -> Asking<'_> {
        Asking { segments, tokens: None }
    }

    /// Some tokens: gaps, a run across blocks, a segment without any.
    fn some() -> Vec<usize> {
        (0..76).filter(|token| token % 3 == 1 || (50..70).contains(token) || *token == 80).collect()
    }

    fn matrix(workspace: &Workspace<f64>, values: &[f64]) -> Matrix<f64> {
        let mut m = workspace.matrix(values.len() / DIM, DIM);
        m.copy_from(values);
        m
    }

    /// Where the query of one of four heads stands, two of them sharing a key/value head.
    fn row_of(head: usize, tokens: usize, token: usize) -> usize {
        (head / 2 * tokens + token) * 2 + head % 2
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
            let layout = Layout { heads: 4, kv_heads: 2, rule, asking: all(segments), dropout: None };
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
                        let place = row_of(head, tokens, token);
                        let query = &q[place * DIM..][..DIM];
                        let score = |&t: &usize| {
                            let s = rule.scale * dot(query, &row(&k, head / 2, t));
                            rule.softcap.map_or(s, |cap| cap * (s / cap).tanh())
                        };
                        let scores: Vec<f64> = seen.iter().map(score).collect();
                        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                        for i in 0..DIM {
                            let expected: f64 =
                                seen.iter().zip(&scores).map(|(&t, s)| s.exp() / sum * row(&v, head / 2, t)[i]).sum();
                            assert!((o.row(place)[i] - expected).abs() < 1e-12, "{rule:?}");
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
            let (dropout, some) = ([None, Some(dropped)][index % 2], some());
            let asking = Asking { segments, tokens: (index % 3 == 1).then_some(&some) };
            let queries = asking.tokens.map_or(segments.tokens(), <[usize]>::len);
            let keys = segments.keys();
            let (q, k, v) =
                (numbers(4 * queries * DIM, "q"), numbers(2 * keys * DIM, "k"), numbers(2 * keys * DIM, "v"));
            let d_o = numbers(4 * queries * DIM, "do");
            let layout = Layout { heads: 4, kv_heads: 2, rule, asking, dropout };
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
    fn some_queries_are_answered_as_among_all() {
        let (workspace, some) = (Workspace::new(2).unwrap(), some());
        for (segments, rule) in forests().iter().flat_map(|segments| rules().map(move |rule| (segments, rule))) {
            let (tokens, keys) = (segments.tokens(), segments.keys());
            let q = matrix(&workspace, &numbers(4 * tokens * DIM, "q"));
            let [k, v] = ["k", "v"].map(|name| matrix(&workspace, &numbers(2 * keys * DIM, name)));
            let run = |q: &Matrix<f64>, tokens: Option<&[usize]>| {
                let asking = Asking { segments, tokens };
                let layout = Layout { heads: 4, kv_heads: 2, rule, asking, dropout: None };
                forward(q, &k, &v, layout, &workspace).0
            };
            let whole = run(&q, None);
            for asked in [&some[..], &[tokens - 1], &[]] {
                let rows: Vec<usize> = (0..2)
                    .flat_map(|group| asked.iter().map(move |&token| (group, token)))
                    .flat_map(|(group, token)| [2 * group, 2 * group + 1].map(|head| row_of(head, tokens, token)))
                    .collect();
                let picked: Vec<f64> = rows.iter().flat_map(|&row| q.row(row)).copied().collect();
                let picked = matrix(&workspace, &picked);
                let part = run(&picked, Some(asked));
                assert_eq!(part.rows(), rows.len());
                for (index, row) in rows.into_iter().enumerate() {
                    let apart = part.row(index).iter().zip(whole.row(row)).map(|(a, b)| (a - b).abs());
                    assert!(apart.fold(0.0, f64::max) < 1e-14, "{rule:?}, row {row}");
                }
            }
        }
    }

    #[test]
    fn keys_outside_the_window_weigh_nothing_at_all() {
        let (workspace, segments) = (Workspace::new(1).unwrap(), forest());
        let tokens = segments.tokens();
        let rule = Rule { window: Some(4), ..Rule::causal(DIM) };
        let layout = Layout { heads: 1, kv_heads: 1, rule, asking: all(&segments), dropout: None };
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
