//! Micro-batches by tokens: a step's samples over as few micro-batches as fit into a budget, and the most that one can hold.
//!
//! Samples of very different lengths, counted by the piece, make micro-batches of very different sizes: the largest decides the memory, the small ones leave the
//! products idle. Losses and gradients of a step are sums over its samples, so that how they lie in micro-batches changes rounding, and which numbers dropout
//! draws, and nothing else. Which samples a step has is left to the loop, what a sample takes to `data`.

use std::cmp::Reverse;

use crate::data::samples::Size;

/// `chosen` over bins of at most `budget` tokens each: the longest first, each into the first bin that has room for it (first fit decreasing, which needs at
/// most 11/9 of the fewest bins there can be, and 6/9 of one more: Dosa 2007). Equal lengths keep their order. A sample longer than the budget has a bin of its own.
pub(super) fn first_fit(chosen: &[usize], tokens: impl Fn(usize) -> usize, budget: usize) -> Vec<Vec<usize>> {
    let mut sized: Vec<(usize, usize)> = chosen.iter().map(|&sample| (tokens(sample), sample)).collect();
    // a stable sort
    sized.sort_by_key(|&(tokens, _)| Reverse(tokens));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for (tokens, sample) in sized {
        match bins.iter_mut().find(|(full, _)| full.saturating_add(tokens) <= budget) {
            Some((full, bin)) => {
                *full += tokens;
                bin.push(sample);
            }
            None => bins.push((tokens, vec![sample])),
        }
    }
    bins.into_iter().map(|(_, bin)| bin).collect()
}

/// The most that `count` samples of these `sizes` take together, of which no more than `budget` tokens, or one sample, lie in a micro-batch.
pub(super) fn largest(mut sizes: Vec<Size>, count: usize, budget: Option<usize>) -> Size {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let length = sizes.iter().map(|size| size.length).max().unwrap_or(1);
    let together = sizes.iter().take(count);
    let (tokens, labels) = together.fold((0, 0), |sum, size| (sum.0 + size.tokens, sum.1 + size.labels));
    let Some(budget) = budget else { return Size { tokens, length, labels } };
    let tokens = tokens.min(budget.max(sizes.first().map_or(0, |size| size.tokens)));
    Size { tokens, length, labels: most_labels(sizes, count, tokens) }
}

/// A bound on the labels of `count` samples that have no more than `room` tokens together: those with the most labels, or those with the most labels for a token
/// until the room is full, the last in part; whichever are fewer.
fn most_labels(mut sizes: Vec<Size>, count: usize, mut room: usize) -> usize {
    sizes.sort_unstable_by_key(|size| Reverse(size.labels));
    let by_count = sizes.iter().take(count).map(|size| size.labels).sum::<usize>();
    sizes.sort_unstable_by(|a, b| (b.labels * a.tokens).cmp(&(a.labels * b.tokens)));
    let mut by_room = 0;
    for size in &sizes {
        let part = size.tokens.min(room);
        by_room += size.labels * part / size.tokens.max(1);
        room -= part;
    }
    by_count.min(by_room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(tokens: usize, labels: usize) -> Size {
        Size { tokens, length: tokens, labels }
    }

    #[test]
    fn the_longest_come_first_and_the_short_fill_what_they_leave() {
        let tokens = [3, 7, 12, 3, 5, 1];
        let packed = |budget| first_fit(&[5, 0, 1, 2, 3, 4], |sample| tokens[sample], budget);
        assert_eq!(packed(10), [vec![2], vec![1, 0], vec![4, 3, 5]]);
        assert_eq!(packed(1), [vec![2], vec![1], vec![4], vec![0], vec![3], vec![5]]);
        assert_eq!(packed(usize::MAX), [vec![2, 1, 4, 0, 3, 5]]);
        assert_eq!(first_fit(&[], |sample| tokens[sample], 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn the_most_a_micro_batch_holds() {
        let sizes = vec![size(8, 1), size(20, 2), size(6, 6), size(5, 1)];
        assert_eq!(largest(sizes.clone(), 2, None), size(28, 3).of_length(20));
        assert_eq!(largest(sizes.clone(), 4, Some(1)), size(20, 8).of_length(20));
        assert_eq!(largest(sizes.clone(), 4, Some(1000)), size(39, 10).of_length(20));
        assert_eq!(largest(Vec::new(), 4, Some(10)), size(0, 0).of_length(1));
    }

    impl Size {
        fn of_length(self, length: usize) -> Self {
            Self { length, ..self }
        }
    }

    proptest! {
        #[test]
        fn every_sample_once_within_the_budget_and_the_bound(
            sizes in prop::collection::vec((1usize..60, 1usize..9), 1..50), budget in 1usize..120,
        ) {
            let sizes: Vec<Size> = sizes.into_iter().map(|(tokens, labels)| size(tokens, labels)).collect();
            // an order that is not that of the samples
            let chosen: Vec<usize> = (0..sizes.len()).rev().collect();
            let packed = first_fit(&chosen, |sample| sizes[sample].tokens, budget);
            prop_assert_eq!(&packed, &first_fit(&chosen, |sample| sizes[sample].tokens, budget));
            let mut all = packed.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
            let most = largest(sizes.clone(), sizes.len(), Some(budget));
            let sum = |bin: &[usize], of: fn(&Size) -> usize| bin.iter().map(|&sample| of(&sizes[sample])).sum::<usize>();
            for bin in &packed {
                let tokens = sum(bin, |size| size.tokens);
                prop_assert!(tokens <= budget || bin.len() == 1, "{} tokens", tokens);
                prop_assert!(tokens <= most.tokens && sum(bin, |size| size.labels) <= most.labels);
            }
            // two micro-batches that would fit into one are never left apart
            let fullness = |bin: &Vec<usize>| sum(bin, |size| size.tokens);
            for (index, bin) in packed.iter().enumerate() {
                prop_assert!(packed[..index].iter().all(|before| fullness(before) + fullness(bin) > budget));
            }
        }
    }
}
