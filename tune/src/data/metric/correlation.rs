//! Correlations of predicted and right numbers, over all rows together.
//!
//! A prediction's number is the whole text or the last number in it; a text without one counts as 0. A correlation is
//! no mean over rows, so a single row has no value of its own (NaN). Where one side is constant the correlation is undefined, and
//! 0 here.

use super::number::gold;
use super::{Metric, Needs, right_answers};
use crate::data::example::Example;

/// `sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2)`.
pub const PEARSON: Metric = Metric {
    name: "pearson",
    summary: "Pearson correlation of predicted and right numbers, over all rows together; 0 where either is constant",
    needs: Needs::Answers,
    together: Some(|rows| {
        let (predicted, right) = numbers(rows);
        pearson(&predicted, &right)
    }),
    score: |_, _| f64::NAN,
};

/// [`PEARSON`] of the ranks; equal numbers share the mean of their ranks.
pub const SPEARMAN: Metric = Metric {
    name: "spearman",
    summary: "Spearman correlation, of the numbers' ranks, over all rows together; 0 where either is constant",
    needs: Needs::Answers,
    together: Some(|rows| {
        let (predicted, right) = numbers(rows);
        pearson(&ranks(&predicted), &ranks(&right))
    }),
    score: |_, _| f64::NAN,
};

fn numbers(rows: &[(&str, &Example)]) -> (Vec<f64>, Vec<f64>) {
    let right = |example: &Example| right_answers(example).first().and_then(|answer| gold(answer));
    rows.iter().map(|(text, example)| (gold(text).unwrap_or(0.0), right(example).unwrap_or(0.0))).unzip()
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    // asked of the numbers themselves: their mean is rounded
    let is_constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if is_constant(x) || is_constant(y) {
        return 0.0;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    // differences below the smallest number leave nothing to divide by
    if xx == 0.0 || yy == 0.0 { 0.0 } else { (xy / xx.sqrt() / yy.sqrt()).clamp(-1.0, 1.0) }
}

/// Ranks from 1, ties at their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|at| values[**at] == values[order[first]]).count().max(1);
        for at in &order[first..first + tied] {
            ranks[*at] = first as f64 + (tied + 1) as f64 / 2.0;
        }
        first += tied;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(metric: &Metric, predicted: &[&str], right: &[&str]) -> f64 {
        let row = |answer: &&str| Example { answers: vec![answer.to_string()], ..Example::default() };
        let rows: Vec<Example> = right.iter().map(row).collect();
        metric.over(&predicted.iter().copied().zip(&rows).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_those_of_scipy() {
        let right = ["5.0", "3.8", "3.8", "0", "1.2", "4.4", "2.5", "3.8"];
        let predicted = ["4.1", " 3.5\n", "about 2.9", "0.7", "2.9", "4.6", "-1e-1", "3.5"];
        assert!((measure(&PEARSON, &predicted, &right) - 0.712_452_087_711_126_3).abs() < 1e-14);
        assert!((measure(&SPEARMAN, &predicted, &right) - 0.851_916_777_110_271).abs() < 1e-14);
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 0.0, 2.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
    }

    #[test]
    fn what_is_constant_correlates_with_nothing() {
        for metric in [&PEARSON, &SPEARMAN] {
            assert_eq!(measure(metric, &["0.1", "0.1", "0.1"], &["1", "2", "4"]), 0.0);
            assert_eq!(measure(metric, &["1", "2"], &["3", "3"]), 0.0);
            assert_eq!(measure(metric, &["none", ""], &["1", "2"]), 0.0);
            assert_eq!(measure(metric, &["1"], &["2"]), 0.0);
            assert_eq!(metric.over(&[]), 0.0);
            assert!((measure(metric, &["none", "1", "2"], &["3", "2", "1"]) + 1.0).abs() < 1e-15);
        }
    }
}
