//! Answers that are the letter of an option.

use super::{Metric, Needs, best, right_answers, value};

/// Whether the last character in A to E is the answer.
pub const OPTION: Metric = Metric {
    name: "option",
    summary: "whether the last of the capital letters A to E in the text is the answer",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let chosen = last_option(prediction);
        best(right_answers(example).iter().map(|answer| value(chosen.is_some() && chosen == last_option(answer))))
    },
};

/// [`OPTION`] as the authors' program decides: by the first letter of its list, which goes on to K without J, wherever
/// it stands. The A of "Answer" is one.
pub const REFERENCE_OPTION: Metric = Metric {
    name: "reference-option",
    summary: "as the authors' program: whether the first capital letter among A to I and K in the text is the answer",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let chosen = prediction.chars().find(|c| matches!(c, 'A'..='I' | 'K'));
        best(right_answers(example).iter().map(|answer| value(chosen.is_some() && chosen == last_option(answer))))
    },
};

/// The last of A to E.
pub(super) fn last_option(text: &str) -> Option<char> {
    text.chars().rev().find(|c| matches!(c, 'A'..='E'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Example;

    #[test]
    fn the_last_letter_counts_and_the_reference_takes_the_first() {
        let row = Example { answers: vec!["C".to_string()], ..Example::default() };
        for (prediction, right, reference) in [
            ("The answer is (C).", 1.0, 1.0),
            ("A is too small, so C", 1.0, 0.0),
            ("C, not D", 0.0, 1.0),
            ("c", 0.0, 0.0),
            ("", 0.0, 0.0),
            ("In all C", 1.0, 0.0),
        ] {
            assert_eq!((OPTION.score)(prediction, &row), right, "{prediction}");
            assert_eq!((REFERENCE_OPTION.score)(prediction, &row), reference, "{prediction}");
        }
    }
}
