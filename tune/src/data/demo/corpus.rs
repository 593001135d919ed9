//! The text that the demonstration's base is pretrained on: passages of the world, each followed by what follows from it, told in many ways.
//!
//! The skills of reading and reckoning are learnt here; the task's own markup and its bare answers never occur, so the form of the task is left to
//! fine-tuning.

use super::passage::{Passage, SCENES, pick};
use super::questions::{Kind, Point};
use super::{COUNTS, NAMES, TOWNS};
use crate::data::task::Split;
use crate::tensor::Stream;

/// Who asks and who replies in a dialogue.
const ROLES: [(&str, &str); 4] = [("Teacher", "Pupil"), ("Visitor", "Guide"), ("Child", "Uncle"), ("Judge", "Witness")];

/// Ways to state a point.
fn statements(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Number => {
            &["{a} {past} {n} {item}.", "The {item} of {a} were {n} in number.", "As for {a}, the count was {n}."]
        }
        Kind::Name => {
            &["The one with {n} {item} was {a}.", "The number {n} belongs to {a}.", "{n} {item} go back to {a}."]
        }
        Kind::Town => &["All this took place in {town}.", "The town was {town}."],
        Kind::Pair => &[
            "Taken together, {a} and {b} {past} {answer} {item}.",
            "The sum for {a} and {b} is {answer}.",
            "{a} with {n} and {b} with {m} make {answer}.",
            "{n} and {m} make {answer}.",
        ],
        Kind::More => &[
            "Of {x} and {y}, it was {a} who {past} more {item}.",
            "Between {x} and {y}, {a} was ahead.",
            "{n} is more than {m}.",
        ],
        Kind::Most => {
            &["Nobody {past} more {item} than {a}.", "With {item}, {a} came first.", "The most {item} went to {a}."]
        }
        Kind::Fewest => {
            &["Nobody {past} fewer {item} than {a}.", "With {item}, {a} came last.", "The fewest {item} went to {a}."]
        }
        Kind::People => &["As for {item}, {answer} people {past} them.", "With {item} there were {answer} people."],
    }
}

/// The shortest way to state a point: most of what is learnt is learnt from these notes, because hardly a word in them is known beforehand.
fn note(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "{a} {n}.",
        Kind::Name => "{n} {a}.",
        Kind::Town => "Town {town}.",
        Kind::Pair => "{a} and {b} {answer}.",
        Kind::More => "{x} or {y} {a}.",
        Kind::Most => "Most {item} {a}.",
        Kind::Fewest => "Fewest {item} {a}.",
        Kind::People => "People with {item} {answer}.",
    }
}

/// Ways to reply to a question; none is the bare answer.
const REPLIES: [&str; 4] = [
    "It was {answer}, as far as I can tell.",
    "{answer}, if what I have read is right.",
    "I would say {answer}, but read it again.",
    "{answer} is what I make of it, my friend.",
];

/// How a document goes on after its passage.
#[derive(Clone, Copy)]
enum Style {
    Retold,
    Notes,
    Prose,
    Dialogue,
}

/// Styles with the number of points told, as often as they are drawn.
const STYLES: [(Style, usize); 6] = [
    (Style::Retold, 8),
    (Style::Notes, 16),
    (Style::Notes, 16),
    (Style::Prose, 10),
    (Style::Dialogue, 6),
    (Style::Dialogue, 6),
];

/// A list of words that is read two or three times. Nothing in it can be foretold but by looking back, which is the first thing a reader has to learn: without
/// such lists a model of this size learns the phrases and never to look up a fact.
fn list(stream: &mut Stream) -> String {
    let mut word = || {
        let scene = &SCENES[pick(SCENES.len(), stream)];
        match pick(5, stream) {
            0 => TOWNS[pick(TOWNS.len(), stream)].to_string(),
            1 => NAMES[pick(NAMES.len(), stream)].to_string(),
            2 => scene.items[pick(2, stream)].to_string(),
            3 => scene.past.to_string(),
            _ => (COUNTS.start() + pick(COUNTS.count(), stream) as u32).to_string(),
        }
    };
    let words: Vec<String> = (0..14).map(|_| word()).collect();
    let words = words[..6 + pick(9, stream)].join(" ");
    vec![words; 2 + pick(2, stream)].join(". ")
}

/// How often each kind is told; what the others rest on comes most often.
const MIX: [Kind; 14] = [
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Name,
    Kind::Name,
    Kind::Name,
    Kind::Town,
    Kind::Pair,
    Kind::Pair,
    Kind::More,
    Kind::Most,
    Kind::Fewest,
    Kind::People,
    Kind::People,
];

/// One document: a passage and what follows from it.
pub fn document(stream: &mut Stream) -> String {
    if pick(4, stream) == 0 {
        return list(stream);
    }
    let passage = Passage::draw(Split::Train, stream);
    let (asks, gives) = ROLES[pick(ROLES.len(), stream)];
    let (style, points) = STYLES[pick(STYLES.len(), stream)];
    let mut told: Vec<String> = Vec::with_capacity(points);
    for _ in 0..5 * points {
        let kind = if matches!(style, Style::Retold) { Kind::Number } else { MIX[pick(MIX.len(), stream)] };
        let Some(point) = Point::draw(kind, &passage, stream) else { continue };
        let sentence = match style {
            Style::Retold => point.tell("{a} {n} {item}."),
            Style::Notes => point.tell(note(point.kind)),
            Style::Prose => {
                let ways = statements(point.kind);
                point.tell(ways[pick(ways.len(), stream)])
            }
            Style::Dialogue => {
                let reply = point.tell(REPLIES[pick(REPLIES.len(), stream)]);
                format!("{asks}: {}\n{gives}: {reply}", point.question(stream))
            }
        };
        // said twice, it could be copied instead of found out; where looking back is all there is to learn, that is no loss
        if told.len() < points && (matches!(style, Style::Retold) || !told.contains(&sentence)) {
            told.push(sentence);
        }
    }
    // a word in front, so that a name never begins a line: there it would be another token
    let (head, between) = match style {
        Style::Retold => ("Again: ", " "),
        Style::Notes => ("Notes: ", " "),
        Style::Prose => ("In short: ", " "),
        Style::Dialogue => ("", "\n"),
    };
    format!("{}\n{head}{}", passage.text, told.join(between))
}

/// Documents `from..to` of the corpus; each has a random stream of its own.
pub fn documents(range: std::ops::Range<usize>, seed: u64) -> impl Iterator<Item = String> {
    range.map(move |index| document(&mut Stream::new(seed, "demo", &format!("document {index}"))))
}
