//! Answers of word problems, whichever form they have: the row decides between a number and an option.
//!
//! It is here so that a data set that mixes both has one metric. What each form compares is left to `number` and
//! `option`.

use super::number::{NUMBER, REFERENCE_NUMBER};
use super::option::{OPTION, REFERENCE_OPTION};
use super::{Metric, Needs, right_answers};
use crate::data::example::Example;
use crate::data::python::strip;

/// [`OPTION`] where the row's answer is a letter from A to E, else [`NUMBER`].
pub const MATH: Metric = Metric {
    name: "math",
    summary: "`option` where the answer is a letter from A to E, else `number`",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| (if is_option(example) { OPTION } else { NUMBER }.score)(prediction, example),
};

/// [`REFERENCE_OPTION`] where the row's answer is a letter from A to E, else [`REFERENCE_NUMBER`].
pub const REFERENCE_MATH: Metric = Metric {
    name: "reference-math",
    summary: "as the authors' program: `reference-option` where the answer is a letter, else `reference-number`",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        (if is_option(example) { REFERENCE_OPTION } else { REFERENCE_NUMBER }.score)(prediction, example)
    },
};

fn is_option(example: &Example) -> bool {
    right_answers(example).iter().all(|answer| matches!(strip(answer), "A" | "B" | "C" | "D" | "E"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_s_form_decides() {
        let row = |answer: &str| Example { answers: vec![answer.to_string()], ..Example::default() };
        let prediction = "5 of them. The answer is B";
        assert_eq!(((MATH.score)(prediction, &row("B ")), (MATH.score)(prediction, &row("5.0"))), (1.0, 1.0));
        assert_eq!(((MATH.score)(prediction, &row("A")), (MATH.score)(prediction, &row("4"))), (0.0, 0.0));
        assert_eq!((REFERENCE_MATH.score)(prediction, &row("4")), 1.0);
        assert_eq!((REFERENCE_MATH.score)("A or B", &row("B")), 0.0);
    }
}
