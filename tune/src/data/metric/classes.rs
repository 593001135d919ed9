//! Metrics of a choice between two classes that rows make together: F1 and the Matthews correlation.
//!
//! A row's classes are its candidates in their order, and class 1 is the second. Both are functions of the four counts
//! of right and wrong answers, not means over rows; a row by itself has the value of [`ACCURACY`](super::ACCURACY).
//! Where a count of the denominator is zero the value is undefined, and 0 here, as scikit-learn has it.

use super::choice::ACCURACY;
use super::{Metric, Needs};
use crate::data::example::Example;
use crate::data::python::strip;

/// `2 TP / (2 TP + FP + FN)`, class 1 being positive.
pub const CLASS_F1: Metric = Metric {
    name: "class-f1",
    summary: "F1 of class 1, the second candidate, over all rows together; 0 where nothing is or is said to be of class 1",
    needs: Needs::Candidates,
    together: Some(|rows| {
        let counts = Counts::of(rows);
        let wrong = counts.false_positive + counts.false_negative;
        ratio(2.0 * counts.true_positive, 2.0 * counts.true_positive + wrong)
    }),
    score: ACCURACY.score,
};

/// `(TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))` (Matthews 1975).
pub const MATTHEWS: Metric = Metric {
    name: "matthews",
    summary: "Matthews correlation of the class said and the right one, over all rows together; 0 where either is always the same",
    needs: Needs::Candidates,
    together: Some(|rows| {
        let Counts { true_positive, true_negative, false_positive, false_negative } = Counts::of(rows);
        let said = (true_positive + false_positive) * (true_negative + false_negative);
        let right = (true_positive + false_negative) * (true_negative + false_positive);
        ratio(true_positive * true_negative - false_positive * false_negative, (said * right).sqrt())
    }),
    score: ACCURACY.score,
};

/// The table of right and wrong answers.
#[derive(Default)]
struct Counts {
    true_positive: f64,
    true_negative: f64,
    false_positive: f64,
    false_negative: f64,
}

impl Counts {
    fn of(rows: &[(&str, &Example)]) -> Self {
        let mut counts = Self::default();
        for (prediction, example) in rows {
            let is_positive = |text: &str| example.candidates.get(1).is_some_and(|second| strip(second) == strip(text));
            *match (is_positive(prediction), is_positive(&example.completion)) {
                (true, true) => &mut counts.true_positive,
                (false, false) => &mut counts.true_negative,
                (true, false) => &mut counts.false_positive,
                (false, true) => &mut counts.false_negative,
            } += 1.0;
        }
        counts
    }
}

fn ratio(above: f64, below: f64) -> f64 {
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(metric: &Metric, said: &[u8], right: &[u8]) -> f64 {
        let candidates = [" no".to_string(), " yes".to_string()];
        let row = |class: &u8| Example {
            completion: candidates[usize::from(*class)].clone(),
            candidates: candidates.to_vec(),
            ..Example::default()
        };
        let rows: Vec<Example> = right.iter().map(row).collect();
        let said = said.iter().map(|class| candidates[usize::from(*class)].trim());
        metric.over(&said.zip(&rows).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_those_of_scikit_learn() {
        let right = [1, 1, 1, 0, 1, 0, 0, 1, 1, 0];
        let said = [1, 0, 1, 0, 1, 1, 0, 1, 1, 1];
        // TP 5, FN 1, FP 2, TN 2
        assert!((measure(&CLASS_F1, &said, &right) - 0.769_230_769_230_769_3).abs() < 1e-15);
        assert!((measure(&MATTHEWS, &said, &right) - 0.356_348_322_549_899_2).abs() < 1e-15);
        let opposite: Vec<u8> = right.iter().map(|class| 1 - class).collect();
        assert!((measure(&MATTHEWS, &opposite, &right) + 1.0).abs() < 1e-15);
        assert_eq!((measure(&CLASS_F1, &right, &right), measure(&MATTHEWS, &right, &right)), (1.0, 1.0));
    }

    #[test]
    fn what_is_undefined_is_zero() {
        for (said, right) in [([0, 0, 0], [0, 1, 0]), ([1, 1, 1], [0, 0, 0]), ([0, 0, 0], [0, 0, 0])] {
            assert_eq!(measure(&MATTHEWS, &said, &right), 0.0, "{said:?}");
            assert_eq!(measure(&CLASS_F1, &said, &right), 0.0, "{said:?}");
        }
    }
}
