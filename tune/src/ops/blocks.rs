//! Blocks of queries that attention computes at a time, and the keys that each of them sees.

use std::ops::Range;

use super::Segments;
use super::rule::Rule;

/// Tokens of a block at most.
const MOST: usize = 64;
/// Queries of a block about, where a token has several: its keys are packed once for all of them, and tokens of a block see some keys in vain.
const QUERIES: usize = 96;
/// Tokens of a block at least.
const LEAST: usize = 16;

/// The tokens that ask: all of a batch, or some of them.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Who sees whom.
    pub segments: &'a Segments,
    /// The tokens that have queries, ascending; none: all. Queries i of a group are those of the i-th of them.
    pub tokens: Option<&'a [usize]>,
}

impl<'a> Asking<'a> {
    /// The rows of queries of a range of tokens.
    fn rows(&self, tokens: Range<usize>) -> Range<usize> {
        let row = |token: usize| self.tokens.map_or(token, |list| list.partition_point(|&asking| asking < token));
        row(tokens.start)..row(tokens.end)
    }

    /// The rows of queries of each tree.
    pub(super) fn trees(&self) -> Vec<Range<usize>> {
        self.segments.trees().iter().map(|tree| self.rows(self.segments.tree_tokens(tree))).collect()
    }

    /// The blocks of a tree's queries, of `heads` heads that share their keys.
    pub(super) fn blocks(self, tree: &Range<usize>, rule: Rule, heads: usize) -> impl Iterator<Item = Block<'a>> {
        let size = (QUERIES / heads).clamp(LEAST, MOST);
        tree.clone().flat_map(move |index| {
            let segment = self.segments.list()[index].range();
            let mut path = self.segments.ancestors(index);
            let inherited: usize = path.iter().map(Range::len).sum();
            path.push(segment.clone());
            let rows = self.rows(segment.clone());
            rows.clone().step_by(size).map(move |start| {
                let rows = start..(start + size).min(rows.end);
                let tokens = self.tokens.map(|list| &list[rows.clone()]);
                let first = tokens.map_or(rows.start, |tokens| tokens[0]);
                let last = tokens.map_or(rows.end - 1, |tokens| tokens[tokens.len() - 1]);
                let position = inherited + first - segment.start;
                let seen = rule.seen(position..position + last - first + 1, inherited + segment.len());
                Block { rows, token: first, tokens, keys: section(&path, seen.clone()), position, first: seen.start }
            })
        })
    }
}

/// Tokens of one segment that ask, one after another, and the ranges of keys that any of them sees, in the order of the path.
pub(super) struct Block<'a> {
    /// Their places among the tokens that ask.
    pub rows: Range<usize>,
    /// The first one's token.
    pub token: usize,
    /// Their tokens, where those are not all from the first one on.
    tokens: Option<&'a [usize]>,
    /// The keys.
    pub keys: Vec<Range<usize>>,
    /// Position of the first query.
    position: usize,
    /// Position of the first key.
    first: usize,
}

impl Block<'_> {
    /// Which of the block's keys token `i` of the block sees.
    pub fn visible(&self, i: usize, rule: Rule) -> Range<usize> {
        let held: usize = self.keys.iter().map(Range::len).sum();
        let position = self.position + self.tokens.map_or(i, |tokens| tokens[i] - self.token);
        let seen = rule.seen(position..position + 1, self.first + held);
        seen.start.max(self.first) - self.first..seen.end - self.first
    }
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
