//! The generator judged from outside: what it writes is parsed back, and answers are found again from the passage's words alone.

use std::collections::BTreeSet;

use super::corpus::documents;
use super::passage::SCENES;
use super::questions::{Kind, Row, rows};
use super::{NAMES, TOWNS, owner};
use crate::data::task::Split;

/// The facts of a passage as its text has them: person, count, item.
fn parse(text: &str) -> Vec<(&str, u32, &str)> {
    let (_, list) = text.split_once(": ").expect("an account");
    let fact = |fact: &'_ str| -> (&str, u32, &str) {
        let words: Vec<&str> = fact.split(' ').collect();
        let [name, count, item] = words[..] else { panic!("{fact} is no fact of {text}") };
        // the borrow is of the passage's text
        let at = |word: &str| {
            let start = text.find(word).expect("a word of the text");
            &text[start..start + word.len()]
        };
        (at(name), count.parse().expect("a count"), at(item))
    };
    list.trim_end_matches('.').split(", ").map(fact).collect()
}

/// The answer by the question's words and the passage's, with nothing of the generator's own knowledge.
fn answer(passage: &str, question: &str) -> String {
    let facts = parse(passage);
    let words: Vec<&str> = question.trim_end_matches('?').split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let item = words.iter().find(|word| facts.iter().any(|fact| fact.2 == **word)).copied().unwrap_or_default();
    let people: Vec<&(&str, u32, &str)> = facts.iter().filter(|fact| fact.2 == item).collect();
    let named = || people.iter().filter(|fact| words.contains(&fact.0));
    let sorted = |reverse: bool| {
        let mut list: Vec<_> = people.clone();
        list.sort_by_key(|fact| fact.1);
        if reverse { list.last().unwrap().0.to_owned() } else { list[0].0.to_owned() }
    };
    match question {
        q if q.contains("town") => TOWNS.iter().find(|town| passage.contains(**town)).unwrap().to_string(),
        q if q.starts_with("How many people") => people.len().to_string(),
        q if q.starts_with("How many") => named().map(|fact| fact.1).sum::<u32>().to_string(),
        q if q.contains("the most") => sorted(true),
        q if q.contains("the fewest") => sorted(false),
        q if q.contains("more") => named().max_by_key(|fact| fact.1).unwrap().0.to_owned(),
        _ => people.iter().find(|fact| words.contains(&fact.1.to_string().as_str())).unwrap().0.to_owned(),
    }
}

fn all(split: Split) -> Vec<Row> {
    rows(split, 600, 5)
}

#[test]
fn answers_follow_from_the_passage_s_words() {
    for (_, split) in Split::NAMES {
        for row in all(split) {
            assert_eq!(row.answer, answer(&row.passage.text, &row.question), "{} {}", row.passage.text, row.question);
            assert!(!row.answer.is_empty());
        }
    }
}

#[test]
fn parts_share_no_passage_and_no_pair_of_person_and_scene() {
    let seen = |split: Split| {
        let rows = all(split);
        let passages: BTreeSet<String> = rows.iter().map(|row| row.passage.text.clone()).collect();
        assert_eq!(passages.len(), rows.len(), "no passage twice");
        let pair = |row: &Row| row.passage.facts.iter().map(|fact| (fact.name, row.passage.scene)).collect::<Vec<_>>();
        (passages, rows.iter().flat_map(pair).collect::<BTreeSet<_>>())
    };
    let parts = Split::NAMES.map(|(_, split)| seen(split));
    for (index, (passages, pairs)) in parts.iter().enumerate() {
        for (other_passages, other_pairs) in &parts[..index] {
            assert!(passages.is_disjoint(other_passages) && pairs.is_disjoint(other_pairs));
        }
    }
    // every person and every scene occurs in training: what is held out is their meeting
    let (_, train) = &parts[0];
    assert_eq!(train.iter().map(|pair| pair.0).collect::<BTreeSet<_>>().len(), NAMES.len());
    assert_eq!(train.iter().map(|pair| pair.1).collect::<BTreeSet<_>>().len(), SCENES.len());
}

#[test]
fn a_seed_names_the_rows_and_the_documents() {
    assert_eq!(rows(Split::Dev, 40, 1), rows(Split::Dev, 40, 1));
    assert_ne!(rows(Split::Dev, 40, 1), rows(Split::Dev, 40, 2));
    assert!(documents(0..50, 1).eq(documents(0..50, 1)));
    assert!(documents(7..8, 1).eq(documents(0..50, 1).skip(7).take(1)), "a document does not depend on those before");
}

#[test]
fn finding_adding_comparing_and_counting_are_asked_for() {
    let kinds: BTreeSet<Kind> = all(Split::Train).iter().map(|row| row.kind).collect();
    assert_eq!(kinds, BTreeSet::from([Kind::Number, Kind::Pair, Kind::More, Kind::People]));
}

#[test]
fn the_corpus_knows_neither_the_task_s_form_nor_held_out_pairs() {
    let held_out = |text: &str| {
        // an opening that only this scene has says which it is
        let scene = SCENES.iter().position(|scene| {
            scene.openings.iter().any(|opening| text.trim_start().starts_with(opening.split("{town}").next().unwrap()))
                && text.contains(scene.past)
        });
        let Some(scene) = scene.filter(|_| text.contains(": ")) else { return false };
        let first = text.split('\n').next().unwrap();
        parse(first).iter().any(|(name, ..)| {
            let name = NAMES.iter().position(|known| known == name).unwrap();
            owner(name, scene) != Split::Train
        })
    };
    let mut words = BTreeSet::new();
    for document in documents(0..2000, 3) {
        assert!(["Passage", "Question", "Answer"].iter().all(|markup| !document.contains(markup)), "{document}");
        assert!(!document.contains('\n') || !held_out(&document), "{document}");
        words.extend(document.split(|c: char| !c.is_alphanumeric()).map(str::to_owned));
    }
    assert!(words.len() < 400, "{} words", words.len());
}
