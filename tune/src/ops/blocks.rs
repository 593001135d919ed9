//! Blocks of queries that attention computes at a time, and the keys that each of them sees.

use std::ops::Range;

use super::Segments;
use super::rule::Rule;

/// Tokens of a block at most: more of them meet more keys that only later ones see.
const MOST: usize = 64;
/// Queries of a block about, where heads share keys: more of them share one packing of the keys. 72 and 144 were no faster with three heads a group.
const QUERIES: usize = 96;
/// Tokens of a block at least, however many heads a group has: the scores of a block grow with the group from there on.
const LEAST: usize = 16;

/// The tokens that ask: all of a batch, or some of them.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Who sees whom.
    pub segments: &'a Segments,
    /// The tokens that have queries, ascending; none: all. The i-th of them has place i, where a group has its queries.
    pub tokens: Option<&'a [usize]>,
}

impl<'a> Asking<'a> {
    /// The places of those that ask among a range of tokens.
    fn places(&self, tokens: Range<usize>) -> Range<usize> {
        let place = |token: usize| self.tokens.map_or(token, |list| list.partition_point(|&asking| asking < token));
        place(tokens.start)..place(tokens.end)
    }

    /// The places of each tree.
    pub(super) fn trees(&self) -> Vec<Range<usize>> {
        self.segments.trees().iter().map(|tree| self.places(self.segments.tree_tokens(tree))).collect()
    }

    /// The blocks of a tree's queries, of `heads` heads that share their keys.
    pub(super) fn blocks(self, tree: &Range<usize>, rule: Rule, heads: usize) -> impl Iterator<Item = Block<'a>> {
        let size = (QUERIES / heads).clamp(LEAST, MOST);
        tree.clone().flat_map(move |index| {
            let segment = self.segments.list()[index].range();
            let mut path = self.segments.ancestors(index);
            let inherited: usize = path.iter().map(Range::len).sum();
            path.push(segment.clone());
            let places = self.places(segment.clone());
            places.clone().step_by(size).map(move |start| {
                let places = start..(start + size).min(places.end);
                let tokens = self.tokens.map(|list| &list[places.clone()]);
                let first = tokens.map_or(places.start, |tokens| tokens[0]);
                let last = tokens.map_or(places.end - 1, |tokens| tokens[tokens.len() - 1]);
                let position = inherited + first - segment.start;
                let seen = rule.seen(position..position + last - first + 1, inherited + segment.len());
                Block { places, token: first, tokens, keys: section(&path, seen.clone()), position, first: seen.start }
            })
        })
    }
}

/// Tokens of one segment that ask, one after another, and the ranges of keys that any of them sees, in the order of the path.
pub(super) struct Block<'a> {
    /// Their places among the tokens that ask.
    pub places: Range<usize>,
    /// The first one's token.
    pub token: usize,
    /// Their tokens, where those are not all from the first one on.
    tokens: Option<&'a [usize]>,
    /// The keys.
    pub keys: Vec<Range<usize>>,
    /// Position of the first token.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_places_once_and_in_order() {
        let segments = Segments::new(&[(70, None), (2, Some(0)), (130, Some(1)), (1, Some(0)), (5, None)]).unwrap();
        let some: Vec<usize> = (0..segments.tokens()).filter(|token| token % 5 != 2 && *token != 202).collect();
        for (heads, size) in [(1, 64), (2, 48), (3, 32), (5, 19), (6, 16), (71, 16), (130, 16)] {
            for tokens in [None, Some(&some[..]), Some(&[])] {
                let asking = Asking { segments: &segments, tokens };
                let rule = Rule::causal(4);
                let trees = segments.trees();
                for (tree, places) in trees.iter().zip(asking.trees()) {
                    let mut next = places.start;
                    for block in asking.blocks(tree, rule, heads) {
                        assert_eq!(block.places.start, next);
                        assert!((1..=size).contains(&block.places.len()), "{heads} heads: {:?}", block.places);
                        next = block.places.end;
                        let token = tokens.map_or(block.places.start, |tokens| tokens[block.places.start]);
                        assert_eq!(block.token, token);
                        // the last token of a causal block sees itself last
                        assert_eq!(
                            block.visible(block.places.len() - 1, rule).end,
                            block.keys.iter().map(Range::len).sum::<usize>()
                        );
                    }
                    assert_eq!(next, places.end);
                }
                let longest = trees
                    .iter()
                    .flat_map(|tree| asking.blocks(tree, rule, heads))
                    .map(|block| block.places.len())
                    .max();
                assert_eq!(longest, if tokens.is_some_and(<[usize]>::is_empty) { None } else { Some(size) });
            }
        }
    }
}
