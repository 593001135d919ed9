//! Packed batches without padding: token ranges in a forest.
//!
//! A batch is a flat list of tokens. A *segment* is a range of it with an optional parent: its tokens attend to all tokens of the parent, of the parent's
//! parent and so on, then causally to their own. Several roots are a packed batch; a prompt with one child for each candidate answer is a tree. Only
//! attention and positions read this table.

use std::ops::Range;

use thiserror::Error;

/// A token range `start..end` of the flat batch that continues its parent's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First token.
    pub start: usize,
    /// One past the last token.
    pub end: usize,
    /// Index of the segment that this one continues; none for a root.
    pub parent: Option<usize>,
}

impl Segment {
    /// The token range.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// What is wrong with a list of segments.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentError {
    /// A segment holds no token.
    #[error("segment {segment} is empty: leave it out")]
    Empty {
        /// The segment's index.
        segment: usize,
    },
    /// A parent does not stand before its child within the same tree.
    #[error(
        "segment {segment} names segment {parent} as its parent: a parent stands before its children, in the same tree"
    )]
    Parent {
        /// The segment's index.
        segment: usize,
        /// The parent it names.
        parent: usize,
    },
}

/// The segment table of a batch, checked, with what follows from it.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    list: Vec<Segment>,
    positions: Vec<usize>,
    trees: Vec<Range<usize>>,
    virtual_tokens: usize,
}

impl Segments {
    /// Builds the table from `(length, parent)` pairs in the order in which their tokens lie in the batch. A tree's segments follow each other, its root
    /// first.
    ///
    /// # Errors
    /// [`SegmentError`] for an empty segment, or a parent that does not stand before its child in the same tree.
    pub fn new(pieces: &[(usize, Option<usize>)]) -> Result<Self, SegmentError> {
        let mut table = Self::default();
        let mut root = 0;
        for (segment, &(length, parent)) in pieces.iter().enumerate() {
            if length == 0 {
                return Err(SegmentError::Empty { segment });
            }
            let start = table.positions.len();
            let first = match parent {
                None => {
                    root = segment;
                    table.trees.push(segment..segment);
                    0
                }
                Some(parent) if parent >= root && parent < segment => {
                    let parent: &Segment = &table.list[parent];
                    table.positions[parent.end - 1] + 1
                }
                Some(parent) => return Err(SegmentError::Parent { segment, parent }),
            };
            table.positions.extend(first..first + length);
            table.list.push(Segment { start, end: start + length, parent });
            if let Some(tree) = table.trees.last_mut() {
                tree.end = segment + 1;
            }
        }
        Ok(table)
    }

    /// The same table behind `count` virtual tokens, which stand before every root and are the same for all of them: they have keys and values but no queries, and
    /// lie behind all tokens in each head's keys. Positions move up by their number.
    pub fn behind(&self, count: usize) -> Self {
        let mut table = self.clone();
        table.positions.iter_mut().for_each(|position| *position += count);
        table.virtual_tokens += count;
        table
    }

    /// Number of virtual tokens.
    pub fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    /// Number of each head's keys: tokens, then virtual tokens.
    pub fn keys(&self) -> usize {
        self.tokens() + self.virtual_tokens
    }

    /// All segments in the order of their tokens.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Each token's position on the path from its root.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// The trees: ranges of segments that share a root. Tokens of different trees never see each other.
    pub fn trees(&self) -> &[Range<usize>] {
        &self.trees
    }

    /// Token range of a tree.
    pub fn tree_tokens(&self, tree: &Range<usize>) -> Range<usize> {
        self.list[tree.start].start..self.list[tree.end - 1].end
    }

    /// Token ranges of a segment's ancestors, root first; before it the virtual tokens, where there are any.
    pub fn ancestors(&self, segment: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut next = self.list[segment].parent;
        while let Some(parent) = next {
            ranges.push(self.list[parent].range());
            next = self.list[parent].parent;
        }
        if self.virtual_tokens > 0 {
            ranges.push(self.tokens()..self.keys());
        }
        ranges.reverse();
        ranges
    }

    /// Sum over tokens of the number of keys each attends to: the cost of attention in units of one query-key pair.
    pub fn pairs(&self) -> usize {
        self.positions.iter().map(|p| p + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_path_from_the_root() {
        let table = Segments::new(&[(3, None), (2, Some(0)), (1, Some(1)), (2, Some(0)), (2, None)]).unwrap();
        assert_eq!(table.positions(), [0, 1, 2, 3, 4, 5, 3, 4, 0, 1]);
        assert_eq!(table.trees(), [0..4, 4..5]);
        assert_eq!(table.tree_tokens(&(0..4)), 0..8);
        assert_eq!(table.ancestors(2), [0..3, 3..5]);
        assert_eq!(table.pairs(), 1 + 2 + 3 + 4 + 5 + 6 + 4 + 5 + 1 + 2);
    }

    #[test]
    fn wrong_tables_are_refused() {
        assert_eq!(Segments::new(&[(1, None), (0, None)]).unwrap_err(), SegmentError::Empty { segment: 1 });
        assert_eq!(Segments::new(&[(1, Some(0))]).unwrap_err(), SegmentError::Parent { segment: 0, parent: 0 });
        let other_tree = Segments::new(&[(1, None), (1, None), (1, Some(0))]).unwrap_err();
        assert_eq!(other_tree, SegmentError::Parent { segment: 2, parent: 0 });
    }
}
