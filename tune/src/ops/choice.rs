//! Choosing among candidates: the score of a candidate is the mean log-probability of its answer tokens, the loss the cross-entropy of the right one over
//! the scores.
//!
//! With `s_c = (1 / n_c) sum_t log p(t)` over the n_c labels of candidate c and `q = softmax(s)`: `loss = -log q_gold`, and the derivative by one label's
//! log-probability is `(q_c - [c = gold]) / n_c`. So the loss's gradient is that of ordinary labels whose weights are `([c = gold] - q_c) / n_c`: the head
//! and everything below it know nothing of choices. This is the objective of the authors' program for commonsense; the paper does not mention it.

use std::ops::Range;

/// One question of a batch: which labels belong to which candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The labels of each candidate, as ranges of the batch's list.
    pub candidates: Vec<Range<usize>>,
    /// The right candidate.
    pub gold: usize,
}

impl Choice {
    /// Each candidate's score, from the log-probabilities of the batch's labels.
    pub fn scores(&self, log_probabilities: &[f64]) -> Vec<f64> {
        let mean =
            |labels: &Range<usize>| log_probabilities[labels.clone()].iter().sum::<f64>() / labels.len().max(1) as f64;
        self.candidates.iter().map(mean).collect()
    }
}

/// The best of some scores; of equal ones the first.
pub fn best(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, index| if scores[index] > scores[best] { index } else { best })
}

/// The sum of the questions' losses, and for each label the weight that gives its gradient.
pub fn weigh(choices: &[Choice], log_probabilities: &[f64]) -> (f64, Vec<f64>) {
    let mut weights = vec![0.0; log_probabilities.len()];
    let mut loss = 0.0;
    for choice in choices {
        let scores = choice.scores(log_probabilities);
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
        loss += log_sum - scores[choice.gold];
        for (index, (labels, score)) in choice.candidates.iter().zip(&scores).enumerate() {
            let right = if index == choice.gold { 1.0 } else { 0.0 };
            weights[labels.clone()].fill((right - (score - log_sum).exp()) / labels.len().max(1) as f64);
        }
    }
    (loss, weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, numbers};

    #[test]
    fn weights_are_the_negative_derivatives_of_the_loss() {
        let choices =
            [Choice { candidates: vec![0..3, 3..4, 4..6], gold: 1 }, Choice { candidates: vec![6..8, 8..9], gold: 0 }];
        let log_p: Vec<f64> = numbers(9, "log p").iter().map(|v| -v.abs()).collect();
        let (_, weights) = weigh(&choices, &log_p);
        let gradient: Vec<f64> = weights.iter().map(|weight| -weight).collect();
        check("d log p", &log_p, &gradient, |log_p| weigh(&choices, log_p).0);
    }

    #[test]
    fn equal_candidates_cost_the_logarithm_of_their_number() {
        let choice = Choice { candidates: vec![0..1, 1..3, 3..4], gold: 2 };
        let (loss, _) = weigh(std::slice::from_ref(&choice), &[-2.0; 4]);
        assert!((loss - 3f64.ln()).abs() < 1e-15);
        assert_eq!(choice.scores(&[-1.0, -2.0, -4.0, 0.0]), [-1.0, -3.0, 0.0]);
        assert_eq!((best(&[-3.0, -1.0, -1.0]), best(&[f64::NAN, 1.0])), (1, 0));
    }
}
