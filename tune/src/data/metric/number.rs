//! Answers that are a number: the last one in the text.

use super::{Metric, Needs, best, right_answers, value};
use crate::data::python::strip;
use regex::Regex;
use std::sync::LazyLock;

/// Whether the last number of the text is the answer, to 5e-5.
pub const NUMBER: Metric = Metric {
    name: "number",
    summary: "whether the last number of the text is the answer, to 5e-5; a text without a number is wrong",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let is_right = |(predicted, answer): (f64, f64)| (predicted - answer).abs() < TOLERANCE;
        let pairs = right_answers(example).iter().filter_map(|answer| last_number(prediction).zip(gold(answer)));
        best(pairs.map(|pair| value(is_right(pair))))
    },
};

/// [`NUMBER`] as the authors' program decides: a parenthesis of theirs takes the absolute value of the comparison
/// instead of the difference, so that every number above the answer is right; a text without a number counts as
/// infinity, and is right too.
pub const REFERENCE_NUMBER: Metric = Metric {
    name: "reference-number",
    summary: "as the authors' program: any number not below the answer is right, and so is a text without a number",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let predicted = last_number(prediction).unwrap_or(f64::INFINITY);
        let answers = right_answers(example).iter().filter_map(|answer| gold(answer));
        best(answers.map(|answer| value(answer - predicted < REFERENCE_TOLERANCE)))
    },
};

const TOLERANCE: f64 = 5e-5;
const REFERENCE_TOLERANCE: f64 = 1e-5;

// A constant pattern that the tests compile.
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-?[0-9]+\.?[0-9]*").expect("a valid pattern"));

/// The last number of a text, its commas removed first.
fn last_number(text: &str) -> Option<f64> {
    let text = text.replace(',', "");
    NUMBERS.find_iter(&text).last().and_then(|found| found.as_str().parse().ok())
}

/// The number that an answer is, or the last that it mentions.
pub(super) fn gold(answer: &str) -> Option<f64> {
    let whole = strip(answer).parse().ok().filter(|number: &f64| number.is_finite());
    whole.or_else(|| last_number(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Example;

    fn score(metric: &Metric, prediction: &str, answer: &str) -> f64 {
        (metric.score)(prediction, &Example { answers: vec![answer.to_string()], ..Example::default() })
    }

    #[test]
    fn the_last_number_counts_without_commas() {
        for (prediction, answer, right) in [
            ("3 + 4 = 7. The answer is 1,234.", "1234.0", 1.0),
            ("so -5", "-5", 1.0),
            ("10-3", "-3", 1.0),
            ("7 apples and 8", "7", 0.0),
            ("0.33333", "0.3333333333", 1.0),
            ("0.3333", "0.33334", 1.0),
            ("0.3333", "0.33336", 0.0),
            ("none", "7", 0.0),
            ("", "0", 0.0),
            ("9", "1e1", 0.0),
            ("10", "1e1", 1.0),
            ("7", "seven", 0.0),
        ] {
            assert_eq!(score(&NUMBER, prediction, answer), right, "{prediction} {answer}");
        }
        let huge = "9".repeat(400);
        assert_eq!(score(&NUMBER, &huge, &huge), 0.0);
    }

    #[test]
    fn the_reference_accepts_every_larger_number_and_none_at_all() {
        for (prediction, right) in [("8", 1.0), ("1000", 1.0), ("no idea", 1.0), ("7", 0.0), ("7.99999999", 1.0)] {
            assert_eq!(score(&REFERENCE_NUMBER, prediction, "8.0"), right, "{prediction}");
        }
    }
}
