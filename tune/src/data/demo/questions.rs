//! What can be asked of a passage, and the right answers.
//!
//! A [`Point`] is one thing that follows from a passage; its answer is computed here from the facts. Rows of the task ask for points in the task's own words;
//! the corpus states the same points in others.

use super::passage::{Fact, Passage, pick};
use super::{NAMES, TOWNS};
use crate::data::task::Split;
use crate::tensor::Stream;

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The count of a person.
    Number,
    /// The person with a count.
    Name,
    /// The town.
    Town,
    /// The sum of two counts.
    Pair,
    /// Which of two has more.
    More,
    /// Who has most.
    Most,
    /// Who has fewest.
    Fewest,
    /// How many people have an item.
    People,
}

impl Kind {
    /// The kinds as often as rows ask for them: half of the questions are for finding a number, the others for adding, comparing and counting. The other kinds
    /// are left to the corpus: a base of this size does not learn them well enough to be asked.
    pub const ASKED: [Kind; 10] = [
        Kind::Number,
        Kind::Pair,
        Kind::Number,
        Kind::More,
        Kind::Number,
        Kind::People,
        Kind::Number,
        Kind::Pair,
        Kind::Number,
        Kind::More,
    ];

    fn questions(self) -> &'static [&'static str] {
        match self {
            Kind::Number => &["How many {item} did {a} {base}?"],
            Kind::Name => &["Who {past} {n} {item}?"],
            Kind::Town => &["In which town was it?"],
            Kind::Pair => &["How many {item} did {a} and {b} {base} together?"],
            Kind::More => &["Who {past} more {item}, {x} or {y}?"],
            Kind::Most => &["Who {past} the most {item}?"],
            Kind::Fewest => &["Who {past} the fewest {item}?"],
            Kind::People => &["How many people {past} {item}?"],
        }
    }
}

/// One thing that follows from a passage: the words it is told with, and its answer.
#[derive(Clone, Debug)]
pub struct Point {
    /// What is asked for.
    pub kind: Kind,
    /// The right answer: a number, a name or a town.
    pub answer: String,
    slots: Vec<(&'static str, String)>,
}

impl Point {
    /// Draws a point of `kind`, if the passage has one.
    pub fn draw(kind: Kind, passage: &Passage, stream: &mut Stream) -> Option<Self> {
        let item = passage.facts[pick(passage.facts.len(), stream)].item;
        let mut facts: Vec<&Fact> = passage.about(item).collect();
        let needed = match kind {
            Kind::Number | Kind::Name | Kind::Town | Kind::People => 1,
            Kind::Pair | Kind::More | Kind::Most | Kind::Fewest => 2,
        };
        if facts.len() < needed {
            return None;
        }
        let order = stream.permutation(facts.len());
        let people = facts.len();
        facts = order.into_iter().map(|i| facts[i]).collect();
        let (x, y) = (facts[0].name, facts.get(1).map_or(facts[0].name, |fact| fact.name));
        match kind {
            Kind::More => facts[..2].sort_by_key(|fact| std::cmp::Reverse(fact.count)),
            Kind::Most => facts.sort_by_key(|fact| std::cmp::Reverse(fact.count)),
            Kind::Fewest => facts.sort_by_key(|fact| fact.count),
            _ => {}
        }
        let (a, b) = (facts[0], *facts.get(1).unwrap_or(&facts[0]));
        let answer = match kind {
            Kind::Number => a.count.to_string(),
            Kind::Name | Kind::More | Kind::Most | Kind::Fewest => NAMES[a.name].to_string(),
            Kind::Town => TOWNS[passage.town].to_string(),
            Kind::Pair => (a.count + b.count).to_string(),
            Kind::People => people.to_string(),
        };
        let words = passage.words();
        let slots = vec![
            ("{a}", NAMES[a.name].to_string()),
            ("{b}", NAMES[b.name].to_string()),
            ("{x}", NAMES[x].to_string()),
            ("{y}", NAMES[y].to_string()),
            ("{n}", a.count.to_string()),
            ("{m}", b.count.to_string()),
            ("{item}", words.items[item].to_string()),
            ("{past}", words.past.to_string()),
            ("{base}", words.base.to_string()),
            ("{town}", TOWNS[passage.town].to_string()),
            ("{answer}", answer.clone()),
        ];
        Some(Self { kind, answer, slots })
    }

    /// The point told after a pattern.
    pub fn tell(&self, pattern: &str) -> String {
        self.slots.iter().fold(pattern.to_string(), |text, (slot, word)| text.replace(slot, word))
    }

    /// The point as a question of the task.
    pub fn question(&self, stream: &mut Stream) -> String {
        let ways = self.kind.questions();
        self.tell(ways[pick(ways.len(), stream)])
    }
}

/// One row of the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The text to read.
    pub passage: Passage,
    /// What is asked.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// What the question asks for.
    pub kind: Kind,
}

/// Draws `count` rows of a split, no two with the same passage; the kinds take turns.
pub fn rows(split: Split, count: usize, seed: u64) -> Vec<Row> {
    let mut stream = Stream::new(seed, "demo", split.name());
    let mut seen = std::collections::HashSet::new();
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let kind = Kind::ASKED[rows.len() % Kind::ASKED.len()];
        let passage = Passage::draw(split, &mut stream);
        if let Some(point) = Point::draw(kind, &passage, &mut stream)
            && seen.insert(passage.text.clone())
        {
            rows.push(Row { question: point.question(&mut stream), answer: point.answer, kind, passage });
        }
    }
    rows
}
