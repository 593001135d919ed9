//! From logits to the next token: the most probable one, or one drawn from the probabilities after temperature, top-k and top-p, in transformers' order.
//!
//! It is here because the choice must not depend on how sequences are batched or on the threads: ties go to the lowest id, sums run over ids in ascending
//! order in f64, and each draw has a random stream named by its sequence and position.

use crate::tensor::{Real, Stream};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; zero: the most probable token, whatever the other settings.
    pub temperature: f64,
    /// Only the k largest logits, with all that equal the smallest of them; none: all.
    pub top_k: Option<usize>,
    /// Only the most probable tokens: each one whose more probable ones together stay below this share. One: all.
    pub top_p: f64,
    /// Names the random streams.
    pub seed: u64,
}

impl Default for Sampling {
    /// The most probable token.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// The token that follows at `position` (tokens generated before it) of `sequence`; none where the logits hold NaN or infinity, or are minus infinity
    /// all of them.
    pub fn choose<T: Real>(&self, logits: &[T], sequence: usize, position: usize) -> Option<u32> {
        let best = greatest(logits)?;
        if self.temperature == 0.0 {
            return Some(best as u32);
        }
        let uniform = Stream::new(self.seed, "generate", &format!("{sequence}/{position}")).uniform();
        Some(self.draw(logits, logits[best].to_f64(), uniform))
    }

    /// The token that `uniform` in [0, 1) falls on, ids in ascending order.
    fn draw<T: Real>(&self, logits: &[T], greatest: f64, uniform: f64) -> u32 {
        let floor = self.top_k.and_then(|k| kth_largest(logits, k.max(1))).unwrap_or(f64::NEG_INFINITY);
        // relative to the greatest: at least one of them is one
        let weight = |logit: f64| if logit < floor { 0.0 } else { ((logit - greatest) / self.temperature).exp() };
        let mut weights: Vec<f64> = logits.iter().map(|logit| weight(logit.to_f64())).collect();
        if self.top_p < 1.0 {
            keep_most_probable(&mut weights, self.top_p);
        }
        let mut left = uniform * weights.iter().sum::<f64>();
        let mut last = 0;
        for (id, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            if left < weight {
                return id as u32;
            }
            left -= weight;
            last = id;
        }
        // the last subtraction may round to just above nothing
        last as u32
    }
}

/// Index of the greatest logit, the lowest among equals.
fn greatest<T: Real>(logits: &[T]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (id, &logit) in logits.iter().enumerate() {
        let value = logit.to_f64();
        if value.is_nan() || value == f64::INFINITY {
            return None;
        }
        if value > best.map_or(f64::NEG_INFINITY, |best| logits[best].to_f64()) {
            best = Some(id);
        }
    }
    best
}

/// The k-th largest logit; none where there are not more than k.
fn kth_largest<T: Real>(logits: &[T], k: usize) -> Option<f64> {
    if k >= logits.len() {
        return None;
    }
    let mut values: Vec<f64> = logits.iter().map(|logit| logit.to_f64()).collect();
    // no NaN among them: `greatest` came first
    Some(*values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1)
}

/// Sets to zero the weights of tokens whose more probable ones (of equals: those with lower ids) make up at least the share `top_p`.
fn keep_most_probable(weights: &mut [f64], top_p: f64) {
    let total: f64 = weights.iter().sum();
    // n weights of at most (1 - p) / n of the total make up at most 1 - p together: what is larger than each of them has at least p already, so the
    // long tail need not be sorted
    let tail = (1.0 - top_p) / weights.len() as f64 * total;
    let mut ids: Vec<usize> = (0..weights.len()).filter(|&id| weights[id] > tail).collect();
    ids.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut before = 0.0;
    ids.retain(|&id| {
        let kept = before < top_p * total;
        before += weights[id];
        kept
    });
    let mut kept = vec![false; weights.len()];
    ids.into_iter().for_each(|id| kept[id] = true);
    weights.iter_mut().zip(kept).filter(|(_, kept)| !kept).for_each(|(weight, _)| *weight = 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logarithms of six probabilities, in no order; 2 and 5 are equal.
    const PROBABILITIES: [f64; 6] = [0.05, 0.4, 0.15, 0.22, 0.03, 0.15];

    fn logits() -> Vec<f64> {
        // a constant changes nothing
        PROBABILITIES.iter().map(|p| p.ln() + 3.0).collect()
    }

    /// Relative frequencies of 40,000 draws.
    fn frequencies(sampling: Sampling) -> [f64; 6] {
        let (logits, draws) = (logits(), 40_000);
        let mut counts = [0; 6];
        for sequence in 0..draws {
            counts[sampling.choose(&logits, sequence, 7).unwrap() as usize] += 1;
        }
        counts.map(|count| f64::from(count) / draws as f64)
    }

    /// Five standard errors of each frequency, at most 5 * 0.5 / sqrt(40000).
    fn check(name: &str, sampling: Sampling, weights: [f64; 6]) {
        let (got, total) = (frequencies(sampling), weights.iter().sum::<f64>());
        for (id, (got, weight)) in got.into_iter().zip(weights).enumerate() {
            let expected: f64 = weight / total;
            let error = 5.0 * (expected * (1.0 - expected) / 40_000.0).sqrt();
            assert!((got - expected).abs() <= error, "{name}: token {id} at {got} instead of {expected}");
        }
    }

    #[test]
    fn tokens_come_as_often_as_transformers_rules_say() {
        let plain = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
        let [a, b, c, d, e, _] = PROBABILITIES;
        check("plain", plain, PROBABILITIES);
        check("temperature", Sampling { temperature: 0.5, ..plain }, PROBABILITIES.map(|p| p * p));
        check("top-k 2", Sampling { top_k: Some(2), ..plain }, [0.0, b, 0.0, d, 0.0, 0.0]);
        check("a tie at the border of top-k", Sampling { top_k: Some(3), ..plain }, [0.0, b, c, d, 0.0, c]);
        check("top-k of all", Sampling { top_k: Some(9), ..plain }, PROBABILITIES);
        // 0.4 + 0.22 = 0.62, and the first 0.15 makes 0.77
        check("top-p 0.7", Sampling { top_p: 0.7, ..plain }, [0.0, b, c, d, 0.0, 0.0]);
        check("top-p 0.61", Sampling { top_p: 0.61, ..plain }, [0.0, b, 0.0, d, 0.0, 0.0]);
        check("top-p 0.93", Sampling { top_p: 0.93, ..plain }, [a, b, c, d, 0.0, c]);
        check("top-p 0.99", Sampling { top_p: 0.99, ..plain }, [a, b, c, d, e, c]);
        check("a tiny top-p", Sampling { top_p: 1e-9, ..plain }, [0.0, b, 0.0, 0.0, 0.0, 0.0]);
        // of the four that top-k leaves, 0.4 / 0.92 < 0.66 < 0.62 / 0.92: top-p counts what is left
        check("both", Sampling { top_k: Some(3), top_p: 0.66, ..plain }, [0.0, b, 0.0, d, 0.0, 0.0]);
        // squares: 0.16 / 0.2568 = 0.623, so that one token is enough where the plain probabilities need two
        check("temperature first", Sampling { temperature: 0.5, top_p: 0.62, ..plain }, [0.0, b, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_draw_depends_on_seed_sequence_and_position_alone() {
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let draws = |seed, sequence| {
            let choose = |position| sampling(seed).choose(&logits(), sequence, position).unwrap();
            (0..50).map(choose).collect::<Vec<u32>>()
        };
        assert_eq!(draws(1, 2), draws(1, 2));
        assert_ne!(draws(1, 2), draws(2, 2));
        assert_ne!(draws(1, 2), draws(1, 3));
        assert!(draws(1, 2).windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_most_probable_token_has_the_lowest_id_among_equals() {
        let greedy = Sampling { top_k: Some(1), top_p: 0.1, ..Sampling::default() };
        assert_eq!(greedy.choose(&[1.0f32, 3.0, -2.0, 3.0], 0, 0), Some(1));
        assert_eq!(greedy.choose(&[f32::NEG_INFINITY, -5.0], 0, 0), Some(1));
    }

    #[test]
    fn logits_that_are_no_numbers_give_no_token() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            assert_eq!(sampling.choose(&[0.0, f64::NAN], 0, 0), None);
            assert_eq!(sampling.choose(&[f64::INFINITY, 0.0], 0, 0), None);
            assert_eq!(sampling.choose(&[f64::NEG_INFINITY; 2], 0, 0), None);
        }
    }

    #[test]
    fn extreme_temperatures_stay_numbers() {
        for (temperature, expected) in [(1e-300, Some(1)), (1e300, None)] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let tokens: Vec<u32> = (0..60).map(|s| sampling.choose(&logits(), s, 0).unwrap()).collect();
            assert!(tokens.iter().all(|&token| expected.is_none_or(|expected| token == expected)));
            assert_eq!(tokens.iter().any(|&token| token != tokens[0]), expected.is_none());
        }
    }
}
