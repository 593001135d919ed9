//! Prompts that begin alike as one forest, so that what they share is computed once.
//!
//! Only neighbours are compared: tasks list the questions on a passage, and a header in front of all of them, next to each other.

use crate::ops::{Batch, Segments};

/// Fewest common tokens that are worth a segment of their own.
const LEAST: usize = 16;

/// A batch of prompts as a forest.
pub(super) struct Planted {
    /// The batch, without labels.
    pub batch: Batch,
    /// The segment whose last token ends each prompt.
    pub leaves: Vec<usize>,
}

impl Planted {
    /// The row of each prompt's last token.
    pub fn last_rows(&self) -> Vec<usize> {
        self.leaves.iter().map(|&leaf| self.batch.segments.list()[leaf].end - 1).collect()
    }
}

/// How many of the first `most` prompts fit a forest of about `budget` tokens; at least one, unless there is none.
pub(super) fn fitting(prompts: &[&[u32]], budget: usize, most: usize) -> usize {
    let mut tokens = 0;
    let added = |index: usize| {
        let shared = index.checked_sub(1).map_or(0, |before| common(prompts[before], prompts[index]));
        prompts[index].len() - if shared < LEAST { 0 } else { shared }
    };
    let fits = |index: &usize| {
        tokens += added(*index);
        tokens <= budget
    };
    (0..prompts.len().min(most)).take_while(fits).count().max(1).min(prompts.len())
}

/// Plants prompts, none of them empty. Where neighbours share [`LEAST`] tokens or more beyond what all around them share, these become a segment; the
/// rest of each prompt is a child of it. Prompts that are equal, or that others begin with, end at the same or at an inner segment.
pub(super) fn plant(prompts: &[&[u32]]) -> Planted {
    let shared: Vec<usize> = prompts.windows(2).map(|pair| common(pair[0], pair[1])).collect();
    let mut forest = Forest { prompts, shared, tokens: Vec::new(), pieces: Vec::new(), leaves: Vec::new() };
    forest.grow(0, prompts.len(), 0, None);
    let segments = Segments::new(&forest.pieces).unwrap_or_else(|error| {
        unreachable!("pieces are never empty and parents stand before their children: {error}")
    });
    Planted {
        batch: Batch { tokens: forest.tokens, segments, labels: Vec::new(), choices: Vec::new(), targets: Vec::new() },
        leaves: forest.leaves,
    }
}

struct Forest<'a> {
    prompts: &'a [&'a [u32]],
    /// Tokens that prompt i and prompt i + 1 have in common.
    shared: Vec<usize>,
    tokens: Vec<u32>,
    pieces: Vec<(usize, Option<usize>)>,
    leaves: Vec<usize>,
}

impl Forest<'_> {
    /// Plants prompts `start..end`, whose first `from` tokens are those of the path that ends at `parent`.
    fn grow(&mut self, start: usize, end: usize, from: usize, parent: Option<usize>) {
        if end - start == 1 {
            let leaf = self.piece(start, from, self.prompts[start].len(), parent);
            self.leaves.extend(leaf);
            return;
        }
        let least = self.shared[start..end - 1].iter().copied().min().unwrap_or(0);
        let pays = least >= from + LEAST;
        let (from, parent) = if pays { (least, self.piece(start, from, least, parent)) } else { (from, parent) };
        // neighbours that share no more than this, or too little to be worth a segment, part here
        let border = if pays { least + 1 } else { from + LEAST };
        let mut first = start;
        for index in start..end {
            if index + 1 == end || self.shared[index] < border {
                self.grow(first, index + 1, from, parent);
                first = index + 1;
            }
        }
    }

    /// Tokens `from..to` of a prompt as a segment below `parent`; `parent` itself where there are none.
    fn piece(&mut self, prompt: usize, from: usize, to: usize, parent: Option<usize>) -> Option<usize> {
        if from == to {
            return parent;
        }
        self.tokens.extend_from_slice(&self.prompts[prompt][from..to]);
        self.pieces.push((to - from, parent));
        Some(self.pieces.len() - 1)
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens on the path to a segment.
    fn path(batch: &Batch, leaf: usize) -> Vec<u32> {
        let own = batch.segments.list()[leaf].range();
        batch.segments.ancestors(leaf).into_iter().chain([own]).flat_map(|range| batch.tokens[range].to_vec()).collect()
    }

    fn check(prompts: &[Vec<u32>]) -> Planted {
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let planted = plant(&prompts);
        assert_eq!(planted.leaves.len(), prompts.len());
        for (prompt, &leaf) in prompts.iter().zip(&planted.leaves) {
            assert_eq!(path(&planted.batch, leaf), *prompt);
        }
        planted
    }

    fn text(parts: &[(u32, usize)]) -> Vec<u32> {
        parts.iter().flat_map(|&(token, count)| vec![token; count]).collect()
    }

    #[test]
    fn neighbours_share_what_they_begin_with_at_any_depth() {
        let header = (1, 20);
        let prompts = [
            text(&[header, (2, 30), (3, 4)]),
            text(&[header, (2, 30), (4, 5)]),
            text(&[header, (2, 30)]),
            text(&[header, (5, 40), (6, 1)]),
            text(&[header, (5, 40), (6, 1)]),
            text(&[header, (7, 2)]),
            text(&[(8, 3)]),
        ];
        let planted = check(&prompts);
        let parents: Vec<_> = planted.batch.segments.list().iter().map(|segment| segment.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(1), Some(0), Some(0), None]);
        assert_eq!(planted.leaves, [2, 3, 1, 4, 4, 5, 6], "prompts that end inside the tree share its segments");
        assert_eq!(planted.batch.tokens.len(), 20 + 30 + 4 + 5 + 41 + 2 + 3);
        assert_eq!(planted.last_rows()[2], 49);
        let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let fitting = |budget, most| fitting(&slices, budget, most);
        assert_eq!((fitting(105, 99), fitting(104, 99), fitting(59, 99), fitting(58, 99)), (7, 6, 3, 1));
        assert_eq!((fitting(0, 99), fitting(105, 2)), (1, 2));
    }

    #[test]
    fn a_short_common_beginning_is_not_worth_a_segment() {
        let planted = check(&[text(&[(1, LEAST - 1), (2, 9)]), text(&[(1, LEAST - 1), (3, 9)]), text(&[(1, 2)])]);
        assert_eq!(planted.batch.segments.trees().len(), 3);
        let planted = check(&[text(&[(1, LEAST), (2, 9)]), text(&[(1, LEAST), (3, 9)]), text(&[(1, 2)])]);
        assert_eq!(planted.batch.segments.trees().len(), 2);
    }

    #[test]
    fn random_prompts_are_planted_whole() {
        let mut stream = crate::tensor::Stream::new(1, "test", "prompts");
        for _ in 0..200 {
            let count = 1 + stream.below(12) as usize;
            let mut prompts: Vec<Vec<u32>> = Vec::new();
            for _ in 0..count {
                // a beginning of the prompt before it, cut anywhere, then something new
                let before = prompts.last().cloned().unwrap_or_default();
                let mut prompt = before[..stream.below(before.len() as u64 + 1) as usize].to_vec();
                let more = stream.below(60) as usize + usize::from(prompt.is_empty());
                prompt.extend((0..more).map(|_| stream.below(3) as u32));
                prompts.push(prompt);
            }
            let planted = check(&prompts);
            assert!(planted.batch.tokens.len() <= prompts.iter().map(Vec::len).sum());
        }
    }
}
