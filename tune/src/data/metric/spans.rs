//! The official F1 of DROP (Dua et al. 2019, sec. 5): an answer is a set of spans, a span a set of words.
//!
//! It differs from plain token F1 in four ways: words are parted at hyphens too and numbers brought to one form; a word
//! counts once however often it stands in a span; a span with numbers matches only spans that share one of them; and an
//! answer of several spans is worth the mean over its spans of what was matched to each.

use super::text::without_articles;
use super::{Metric, Needs, best, right_answers};
use crate::data::python::{is_space, words};
use std::collections::BTreeSet;

/// DROP's own F1. A prediction is one span, as in the official program when it is given a text.
pub const DROP_F1: Metric = Metric {
    name: "drop-f1",
    summary: "the official F1 of DROP: numbers must match, several spans are averaged; the best over the listed answers",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let predicted = bag(prediction);
        if example.answer_spans.is_empty() {
            return best(right_answers(example).iter().map(|answer| aligned_f1(&predicted, [answer])));
        }
        best(example.answer_spans.iter().map(|spans| aligned_f1(&predicted, spans)))
    },
};

type Bag = BTreeSet<String>;

/// Mean over an answer's spans of the F1 of what is aligned to each, rounded to two places as officially. One predicted
/// span is aligned to the span it fits best; the others count 0.
fn aligned_f1<'a>(predicted: &Bag, spans: impl IntoIterator<Item = &'a String>) -> f64 {
    let scores: Vec<f64> = spans.into_iter().map(|span| f1(predicted, &bag(span))).collect();
    let mean = scores.iter().copied().fold(0.0, f64::max) / scores.len().max(1) as f64;
    (mean * 100.0).round_ties_even() / 100.0
}

/// F1 of two bags; 0 where the answer has numbers and the prediction none of them.
fn f1(predicted: &Bag, answer: &Bag) -> f64 {
    let mut numbers = answer.iter().filter(|word| number(word).is_some()).peekable();
    if numbers.peek().is_some() && !numbers.any(|word| predicted.contains(word)) {
        return 0.0;
    }
    let common = predicted.intersection(answer).count() as f64;
    let share = |bag: &Bag| if bag.is_empty() { 1.0 } else { common / bag.len() as f64 };
    let (precision, recall) = (share(predicted), share(answer));
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// The different words of a span: lower case, parted at spaces and hyphens, numbers in one form, without ASCII
/// punctuation (numbers keep theirs) and articles.
fn bag(span: &str) -> Bag {
    let mut bag = Bag::new();
    for part in span.to_lowercase().split([' ', '-']) {
        let bare: String = match number(part) {
            Some(_) => part.to_string(),
            None => part.chars().filter(|c| !c.is_ascii_punctuation()).collect(),
        };
        let bare = number(&bare).map_or(bare, |value| format!("{value:?}"));
        bag.extend(words(&without_articles(&bare)).map(str::to_string));
    }
    bag
}

/// The number that a word is.
fn number(word: &str) -> Option<f64> {
    word.trim_matches(is_space).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Example;

    fn score(prediction: &str, answers: &[&[&str]]) -> f64 {
        let answer_spans: Vec<Vec<String>> =
            answers.iter().map(|spans| spans.iter().map(|span| span.to_string()).collect()).collect();
        (DROP_F1.score)(prediction, &Example { answer_spans, ..Example::default() })
    }

    #[test]
    fn numbers_have_one_form_and_must_match() {
        assert_eq!(score("12", &[&["12.0"]]), 1.0);
        assert_eq!(score("about 12 yards", &[&["12 yards"]]), 0.8);
        assert_eq!(score("13 yards", &[&["12 yards"]]), 0.0);
        assert_eq!(score("$12,000", &[&["12000"]]), 1.0);
        assert_eq!(score("yards", &[&["field yards"]]), 0.67);
    }

    #[test]
    fn hyphens_part_words_and_words_count_once() {
        assert_eq!(score("twenty-one", &[&["Twenty one."]]), 1.0);
        assert_eq!(score("red red red", &[&["the red"]]), 1.0);
        assert_eq!(score("", &[&["red"]]), 0.0);
        assert_eq!(score("the", &[&["a"]]), 1.0);
    }

    #[test]
    fn several_spans_are_averaged_and_the_best_answer_counts() {
        assert_eq!(score("Ann", &[&["Ann", "Bob"]]), 0.5);
        assert_eq!(score("Ann Bob", &[&["Ann", "Bob"]]), 0.33);
        assert_eq!(score("Ann", &[&["Ann", "Bob"], &["Ann"]]), 1.0);
        let alone = Example { answers: vec!["Ann".to_string(), "Bob".to_string()], ..Example::default() };
        assert_eq!((DROP_F1.score)("Bob", &alone), 1.0);
    }
}
