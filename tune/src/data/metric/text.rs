//! Answers in free text: token F1 and exact match, after both texts are brought to a plain form.
//!
//! The plain form and the two scores are SQuAD's (Rajpurkar et al. 2016). They are here for questions with short
//! answers; answers that are sets of spans have a metric of their own.

use super::{Metric, Needs, best, right_answers, value};
use crate::data::python::words;
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Token F1, the best over the answers that count.
pub const F1: Metric = Metric {
    name: "f1",
    summary: "token F1 of the texts without case, punctuation and articles, the best over the listed answers",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let predicted = plain(prediction);
        best(right_answers(example).iter().map(|answer| token_f1(&predicted, &plain(answer))))
    },
};

/// Exact match, of any answer that counts.
pub const EM: Metric = Metric {
    name: "em",
    summary: "whether the text equals a listed answer without case, punctuation and articles",
    needs: Needs::Answers,
    together: None,
    score: |prediction, example| {
        let predicted = plain(prediction);
        best(right_answers(example).iter().map(|answer| value(predicted == plain(answer))))
    },
};

// A constant pattern that the tests compile.
static ARTICLES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:a|an|the)\b").expect("a valid pattern"));

/// The words of a text in lower case, without ASCII punctuation and then without the articles a, an, the.
fn plain(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    words(&without_articles(&text)).map(str::to_string).collect()
}

/// A lower-case text with a space in place of each article.
pub(super) fn without_articles(text: &str) -> Cow<'_, str> {
    ARTICLES.replace_all(text, " ")
}

/// F1 of the words that two texts have in common, each as often as both have it: 2 common / (words of both).
/// 0 without a common word, also if neither has any: as the authors' program counts.
fn token_f1(predicted: &[String], answer: &[String]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0u32;
    for word in predicted {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let common = f64::from(common);
    let (precision, recall) = (common / predicted.len() as f64, common / answer.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Example;

    fn row(answers: &[&str]) -> Example {
        Example { answers: answers.iter().map(|text| text.to_string()).collect(), ..Example::default() }
    }

    #[test]
    fn case_punctuation_articles_and_spaces_do_not_count() {
        let row = row(&["the  Eiffel-Tower, in Paris."]);
        for same in ["eiffeltower in paris", "An EIFFELTOWER in\nthe Paris!", "'eiffeltower' in paris a"] {
            assert_eq!(((EM.score)(same, &row), (F1.score)(same, &row)), (1.0, 1.0), "{same}");
        }
        // "theory" is not an article, and a dash beyond ASCII parts words without being taken out.
        assert_eq!(plain("The theory of an\u{1f}a\u{2013}z"), ["theory", "of", "\u{2013}z"]);
    }

    #[test]
    fn f1_counts_words_as_often_as_both_have_them() {
        // Two words in common of four and three: precision 1/2, recall 2/3.
        let value = (F1.score)("red red blue green", &row(&["red red yellow"]));
        assert!((value - 4.0 / 7.0).abs() < 1e-15, "{value}");
        assert_eq!((F1.score)("red", &row(&["blue"])), 0.0);
        let nothing = row(&["a"]);
        assert_eq!(
            ((F1.score)("the", &nothing), (EM.score)("the", &nothing), (F1.score)("", &nothing)),
            (0.0, 1.0, 0.0)
        );
    }

    #[test]
    fn the_best_answer_counts() {
        let row = row(&["blue", "red green", "red"]);
        assert_eq!(
            ((F1.score)("red", &row), (EM.score)("red green", &row), (EM.score)("green", &row)),
            (1.0, 1.0, 0.0)
        );
    }
}
