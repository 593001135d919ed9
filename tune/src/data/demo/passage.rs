//! Passages: a scene, a town, and who did how much of what, told in one of the scene's ways.
//!
//! It is here as the single source of facts: questions and statements are derived from a [`Passage`], never from one another. The words of every sentence are
//! in the tables of this file.

use super::{COUNTS, NAMES, TOWNS, names};
use crate::data::task::Split;
use crate::tensor::Stream;

/// What happens in a passage, and the words for it.
#[derive(Debug)]
pub struct Scene {
    /// How a passage begins.
    pub openings: [&'static str; 2],
    /// Past tense and participle of what is done.
    pub past: &'static str,
    /// The same as an infinitive.
    pub base: &'static str,
    /// What it is done with, in the plural.
    pub items: [&'static str; 2],
}

/// How the account of who did what begins; the facts follow as a list, each number behind its person, so that a small reader can find it.
const ACCOUNTS: [&str; 3] = ["They {past}", "This is what they {past}", "What they {past} that day"];

/// How a fact is told.
const FACT: &str = "{a} {n} {item}";

const fn scene(openings: [&'static str; 2], past: &'static str, base: &'static str, items: [&'static str; 2]) -> Scene {
    Scene { openings, past, base, items }
}

/// All scenes.
pub const SCENES: [Scene; 12] = [
    scene(
        ["The boats came home to {town}.", "It was a calm day at sea near {town}."],
        "caught",
        "catch",
        ["trout", "crabs"],
    ),
    scene(["The market of {town} was open.", "It was market day in {town}."], "sold", "sell", ["pears", "eggs"]),
    scene(["The ovens of {town} were hot.", "It was early in {town}."], "baked", "bake", ["pies", "rolls"]),
    scene(["Spring came to {town}.", "The park in {town} was bare."], "planted", "plant", ["roses", "trees"]),
    scene(["It was raining in {town}.", "The school of {town} was quiet."], "read", "read", ["books", "poems"]),
    scene(["The beach of {town} was empty.", "The tide was low near {town}."], "found", "find", ["shells", "stones"]),
    scene(["The hall of {town} was full.", "There was a match in {town}."], "scored", "score", ["goals", "points"]),
    scene(["The farm lay outside {town}.", "The sun rose over {town}."], "fed", "feed", ["hens", "goats"]),
    scene(["The shop in {town} was busy.", "There was work to do in {town}."], "carved", "carve", ["spoons", "bowls"]),
    scene(["It was a holiday in {town}.", "The post left {town} at noon."], "sent", "send", ["cards", "letters"]),
    scene(["The fruit near {town} was ripe.", "It was autumn in {town}."], "picked", "pick", ["plums", "figs"]),
    scene(["The studio in {town} was bright.", "A fair was held in {town}."], "painted", "paint", ["vases", "masks"]),
];

/// One person's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Index into [`NAMES`].
    pub name: usize,
    /// How many; no two facts of a passage have the same.
    pub count: u32,
    /// Which of the scene's items: 0 or 1.
    pub item: usize,
}

/// A passage with the facts it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Index into [`SCENES`].
    pub scene: usize,
    /// Index into [`TOWNS`].
    pub town: usize,
    /// In the order told.
    pub facts: Vec<Fact>,
    /// The passage as the reader sees it.
    pub text: String,
}

impl Passage {
    /// Draws a passage whose pairs of name and scene all belong to `split`.
    pub fn draw(split: Split, stream: &mut Stream) -> Self {
        let scene = pick(SCENES.len(), stream);
        let town = pick(TOWNS.len(), stream);
        let people = 3 + pick(2, stream);
        let names = names(split, scene);
        let order = stream.permutation(names.len());
        let counts: Vec<u32> = COUNTS.collect();
        let count_order = stream.permutation(counts.len());
        let main = pick(2, stream);
        let is_mixed = people == 4 || pick(2, stream) == 0;
        let facts: Vec<Fact> = (0..people)
            .map(|i| {
                // the first two told share the main item, so that there is always something to add and to compare
                let item = if is_mixed && i >= 2 && pick(2, stream) == 0 { 1 - main } else { main };
                Fact { name: names[order[i]], count: counts[count_order[i]], item }
            })
            .collect();
        let told = stream.permutation(people);
        let facts: Vec<Fact> = told.iter().map(|i| facts[*i].clone()).collect();
        let text = tell(scene, town, &facts, stream);
        Self { scene, town, facts, text }
    }

    /// The words of this passage's scene.
    pub fn words(&self) -> &'static Scene {
        &SCENES[self.scene]
    }

    /// The facts about an item.
    pub fn about(&self, item: usize) -> impl Iterator<Item = &Fact> {
        self.facts.iter().filter(move |fact| fact.item == item)
    }
}

fn tell(scene: usize, town: usize, facts: &[Fact], stream: &mut Stream) -> String {
    let words = &SCENES[scene];
    let opening = words.openings[pick(2, stream)].replace("{town}", TOWNS[town]);
    let account = ACCOUNTS[pick(ACCOUNTS.len(), stream)].replace("{past}", words.past);
    let fact = |fact: &Fact| {
        let told = FACT.replace("{a}", NAMES[fact.name]).replace("{n}", &fact.count.to_string());
        told.replace("{item}", words.items[fact.item])
    };
    let facts: Vec<String> = facts.iter().map(fact).collect();
    format!("{opening} {account}: {}.", facts.join(", "))
}

/// Uniform in `0..bound`.
pub(super) fn pick(bound: usize, stream: &mut Stream) -> usize {
    stream.below(bound as u64) as usize
}
