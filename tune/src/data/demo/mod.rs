//! The world of the demonstration: names, scenes and the rule that says which names may meet which scene in which split.
//!
//! It is here so that the program can show itself without any download: a small base learns this world from generated text ([`corpus`]), and fine-tuning
//! learns to answer questions about it in DROP's form ([`questions`]). A pair of a name and a scene belongs to one split for good, so no passage of one split
//! can occur in another. Everything is a function of a seed, through named random streams.

pub mod corpus;
pub mod passage;
pub mod questions;
#[cfg(test)]
mod tests;

use crate::data::task::Split;

/// Who acts in the passages.
pub const NAMES: [&str; 32] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jan", "Kim", "Leo", "Mia", "Ned", "Ola", "Pia",
    "Rex", "Sam", "Tom", "Una", "Vera", "Will", "Yara", "Zoe", "Abe", "Bea", "Carl", "Dora", "Emil", "Fay", "Gil",
    "Ines",
];

/// Where the passages take place.
pub const TOWNS: [&str; 12] =
    ["Oslo", "Lima", "Rome", "Bern", "Cork", "Dover", "Paris", "Kiel", "Turin", "York", "Ghent", "Malmo"];

/// The counts that occur in passages; sums and differences of them occur in answers.
pub const COUNTS: std::ops::RangeInclusive<u32> = 2..=12;

/// The split that owns the pair of this name and this scene: half of the names of a scene train, and are in the pretraining text; a quarter each are held out.
pub fn owner(name: usize, scene: usize) -> Split {
    match (name + scene * 5 + name / 4) % 4 {
        0 => Split::Test,
        1 => Split::Dev,
        _ => Split::Train,
    }
}

/// The names that a split may use in a scene.
pub fn names(split: Split, scene: usize) -> Vec<usize> {
    (0..NAMES.len()).filter(|name| owner(*name, scene) == split).collect()
}
