//! Attention of one new token for each of many sequences, over keys and values that were computed before; no gradient.
//!
//! [`super::attention`] is the definition and the judge: the same softmax over the same path, for its last token only. Here the path lies in pieces, runs of
//! consecutive tokens in several buffers, because sequences share the beginnings of their paths and grow at their ends. With one query a head there is
//! no packed product to gain from; each key and value is read once for all query heads of its group, a block at a time (scores by the kernel for few rows),
//! and the order of every sum depends on the path alone, not on the other sequences or the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::attention::{Rule, softmax};
use super::heads::Groups;
use crate::tensor::vector::{self, widest};
use crate::tensor::{Matrix, Real, Rows, Workspace, few_rows_here};

/// Keys or values that all query heads of a group meet one after another, while they are in the first cache.
const BLOCK: usize = 64;
/// Columns of values whose sums run side by side: a sum alone would wait for its own additions.
const WIDE: usize = 64;
const NARROW: usize = 16;

/// Keys and values of consecutive tokens, rotated, head-major.
#[derive(Clone)]
pub struct Run<'a, T> {
    /// Keys: those of head h begin at element `h * stride`, `head_dim` elements a token.
    pub keys: &'a [T],
    /// Values, laid out as the keys.
    pub values: &'a [T],
    /// Elements from one head to the next.
    pub stride: usize,
    /// The tokens that are seen.
    pub tokens: Range<usize>,
}

impl<'a, T> Run<'a, T> {
    /// The seen rows of a head, a block after the other.
    fn head(&self, data: &'a [T], head: usize, dim: usize) -> std::slice::Chunks<'a, T> {
        data[head * self.stride + self.tokens.start * dim..][..self.tokens.len() * dim].chunks(BLOCK * dim)
    }
}

/// The path of each sequence, its new token included, as runs from the root on.
pub struct Paths<'a, T> {
    runs: Vec<Run<'a, T>>,
    list: Vec<Path>,
}

struct Path {
    runs: Range<usize>,
    tokens: usize,
}

impl<'a, T> Default for Paths<'a, T> {
    fn default() -> Self {
        Self { runs: Vec::new(), list: Vec::new() }
    }
}

impl<'a, T> Paths<'a, T> {
    /// Adds the path of the next sequence, or the end of it that a window of so many tokens leaves.
    pub fn push(&mut self, runs: impl IntoIterator<Item = Run<'a, T>>, window: Option<usize>) {
        let start = self.runs.len();
        self.runs.extend(runs);
        let length: usize = self.runs[start..].iter().map(|run| run.tokens.len()).sum();
        let tokens = window.map_or(length, |window| window.min(length));
        let mut unseen = length - tokens;
        for run in &mut self.runs[start..] {
            let skipped = unseen.min(run.tokens.len());
            run.tokens.start += skipped;
            unseen -= skipped;
        }
        self.list.push(Path { runs: start..self.runs.len(), tokens });
    }
}

/// Attention output of one query a head and sequence, token-major `[sequences, heads * head_dim]`, as the output projection reads it.
///
/// `q [groups][sequences][heads of a group, head_dim]` is rotated; `o = softmax(scores(q K^T)) V` over each sequence's path, scores as `rule` makes them.
/// Sums in `T`. Windows are cut where paths are pushed.
///
/// # Panics
/// When `q` has not one row for each head and path, or a path is empty.
pub fn forward<T: Real>(
    q: &Matrix<T>,
    groups: Groups,
    paths: &Paths<'_, T>,
    rule: Rule,
    workspace: &Workspace<T>,
) -> Matrix<T> {
    let (sequences, dim) = (paths.list.len(), q.cols());
    let (kv_heads, group) = (groups.count, groups.size);
    assert_eq!(q.rows(), kv_heads * group * sequences, "one query for each head and path");
    assert!(paths.list.iter().all(|path| path.tokens > 0), "a path holds its new token at least");
    let longest = paths.list.iter().map(|path| path.tokens).max().unwrap_or(0);
    let scale = T::from_f64(rule.scale);
    let mut o = workspace.matrix(sequences, kv_heads * group * dim);
    let mut scores = workspace.matrix(sequences * kv_heads, group * longest);
    let tasks = o.data_mut().par_chunks_mut(group * dim).zip(scores.data_mut().par_chunks_mut(group * longest));
    tasks.enumerate().for_each(|(task, (o, scores))| {
        let (sequence, kv_head) = (task / kv_heads, task % kv_heads);
        let path = &paths.list[sequence];
        let runs = &paths.runs[path.runs.clone()];
        let first = (kv_head * sequences + sequence) * group * dim;
        let queries = Rows { data: &q.data()[first..][..group * dim], n: group, k: dim };
        let mut token = 0;
        for run in runs {
            for keys in run.head(run.keys, kv_head, dim) {
                score(queries, keys, &mut scores[token..], path.tokens);
                token += keys.len() / dim;
            }
        }
        let p = &mut scores[..group * path.tokens];
        p.chunks_mut(path.tokens).for_each(|row| {
            row.iter_mut().for_each(|score| *score = scale * *score);
            rule.bend(row);
            softmax(row, 0..path.tokens);
        });
        o.fill(T::ZERO);
        let mut token = 0;
        for run in runs {
            for values in run.head(run.values, kv_head, dim) {
                let count = values.len() / dim;
                for (member, o) in o.chunks_exact_mut(dim).enumerate() {
                    mix(&p[member * path.tokens + token..][..count], values, o);
                }
                token += count;
            }
        }
    });
    o
}

/// `query . key` for each of some keys, a query's scores `longest` behind those of the one before.
fn score<T: Real>(queries: Rows<'_, T>, keys: &[T], scores: &mut [T], longest: usize) {
    if !few_rows_here(queries, keys, scores, longest) {
        for (query, scores) in queries.data.chunks(queries.k).zip(scores.chunks_mut(longest)) {
            products(query, keys, scores);
        }
    }
}

widest! {
    /// `query . key` for each of some keys.
    fn products<T: Real>(query: &[T], keys: &[T], scores: &mut [T]) {
        for (key, score) in keys.chunks_exact(query.len()).zip(scores) {
            let key = &key[..query.len()];
            *score = vector::sum(query.len(), |i| query[i] * key[i]);
        }
    }

    /// Adds to `o` each of some values times its probability, in their order.
    fn mix<T: Real>(p: &[T], values: &[T], o: &mut [T]) {
        let dim = o.len();
        let (wide, narrow) = (dim / WIDE * WIDE, dim / NARROW * NARROW);
        for from in (0..wide).step_by(WIDE) {
            mix_columns::<T, WIDE>(p, values, o, from);
        }
        for from in (wide..narrow).step_by(NARROW) {
            mix_columns::<T, NARROW>(p, values, o, from);
        }
        for from in narrow..dim {
            mix_columns::<T, 1>(p, values, o, from);
        }
    }
}

/// `N` columns of [`mix`], whose sums stay in registers.
#[inline(always)]
fn mix_columns<T: Real, const N: usize>(p: &[T], values: &[T], o: &mut [T], from: usize) {
    let dim = o.len();
    let o = &mut o[from..][..N];
    let mut sums = [T::ZERO; N];
    sums.copy_from_slice(o);
    for (&p, value) in p.iter().zip(values.chunks_exact(dim)) {
        let value = &value[from..][..N];
        for i in 0..N {
            sums[i] += p * value[i];
        }
    }
    o.copy_from_slice(&sums);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::numbers;
    use crate::ops::{Segments, attention};

    /// The last token of every segment of a forest, its path cut into the runs of its ancestors and two of its own.
    fn check<T: Real>(tolerance: f64) {
        let windows = [(None, None), (Some(2), Some(1.5)), (Some(72), None)];
        for ((heads, kv_heads, dim), (window, softcap)) in [(4, 2, 4), (3, 3, 18), (14, 2, 20)].into_iter().zip(windows)
        {
            let rule = Rule { window, softcap, ..Rule::causal(dim) };
            let workspace = Workspace::<T>::new(2).unwrap();
            let pieces = [(70, None), (2, Some(0)), (3, Some(1)), (1, Some(0)), (5, None)];
            let segments = Segments::new(&pieces).unwrap();
            let tokens = segments.tokens();
            let (groups, group) = (Groups::of_queries(heads, kv_heads), heads / kv_heads);
            let row_of = |head: usize, (of, place): (usize, usize)| (head / group * of + place) * group + head % group;
            let matrix = |rows: usize, name: &str| {
                let mut m = workspace.matrix(rows, dim);
                let values: Vec<T> = numbers(rows * dim, name).into_iter().map(T::from_f64).collect();
                m.copy_from(&values);
                m
            };
            let (q, k, v) =
                (matrix(heads * tokens, "q"), matrix(kv_heads * tokens, "k"), matrix(kv_heads * tokens, "v"));
            let asking = attention::Asking { segments: &segments, tokens: None };
            let layout = attention::Layout { groups, rule, asking, dropout: None };
            let (expected, _) = attention::forward(&q, &k, &v, layout, &workspace);

            let run = |range: Range<usize>| {
                let (keys, values) = (&k.data()[range.start * dim..], &v.data()[range.start * dim..]);
                Run { keys, values, stride: tokens * dim, tokens: 0..range.len() }
            };
            let mut paths = Paths::default();
            let mut last = workspace.matrix(heads * pieces.len(), dim);
            for (index, segment) in segments.list().iter().enumerate() {
                let middle = segment.start + segment.range().len() / 2;
                let own = [segment.start..middle, middle..segment.end];
                paths.push(segments.ancestors(index).into_iter().chain(own).map(run), window);
                for head in 0..heads {
                    let [to, from] = [(pieces.len(), index), (tokens, segment.end - 1)].map(|at| row_of(head, at));
                    last.row_mut(to).copy_from_slice(q.row(from));
                }
            }
            let o = forward(&last, groups, &paths, rule, &workspace);
            for (index, segment) in segments.list().iter().enumerate() {
                for head in 0..heads {
                    let expected = expected.row(row_of(head, (tokens, segment.end - 1)));
                    let got = &o.row(index)[head * dim..(head + 1) * dim];
                    let close = |(a, b): (&T, &T)| (a.to_f64() - b.to_f64()).abs() < tolerance;
                    assert!(got.iter().zip(expected).all(close), "{index} {head}");
                }
            }
        }
    }

    #[test]
    fn a_new_token_sees_its_path_as_attention_defines_it() {
        // 75 terms of unit size
        check::<f64>(1e-13);
        check::<f32>(5e-5);
    }
}
