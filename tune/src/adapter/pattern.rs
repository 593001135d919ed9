//! Settings that differ from site to site: a table from patterns to values, read as PEFT reads `rank_pattern`.
//!
//! A pattern is a regular expression for a module path or for its ending after a dot: `q_proj`, `layers.0.self_attn.q_proj`, `layers\.[0-3]\..*`. The first
//! that matches counts, in alphabetical order, which is the order in which PEFT writes them.

use regex::Regex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::Section;

/// Values for the sites that patterns match.
#[derive(Clone, Debug)]
pub struct Pattern<V>(Vec<(String, Regex, V)>);

impl<V> Default for Pattern<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: PartialEq> PartialEq for Pattern<V> {
    fn eq(&self, other: &Self) -> bool {
        let same = |((a, _, x), (b, _, y)): (&(String, Regex, V), &(String, Regex, V))| a == b && x == y;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl<V: DeserializeOwned + Serialize> Pattern<V> {
    /// Reads the table at `key`; each value has to be `wanted`, which `holds` says.
    pub fn read(section: &mut Section, key: &str, wanted: &str, holds: impl Fn(&V) -> bool) -> Self {
        let Some(value) = section.value(key) else { return Self::default() };
        let Value::Object(map) = value else {
            section.problem(key, format!("is a table from module names to {wanted}"));
            return Self::default();
        };
        let mut list = Vec::new();
        for (name, value) in sorted(map) {
            let at = format!("{key}.{name}");
            let value = serde_json::from_value(value).ok().filter(&holds);
            match (Regex::new(&format!("^(?:.*\\.)?(?:{name})$")), value) {
                (Ok(regex), Some(value)) => list.push((name, regex, value)),
                (Err(_), _) => section.problem(&at, "is neither a module name nor a regular expression"),
                (_, None) => section.problem(&at, format!("must be {wanted}")),
            }
        }
        Self(list)
    }

    /// Values for whole module paths.
    pub fn of_names(names: impl IntoIterator<Item = (String, V)>) -> Self {
        let mut list: Vec<_> = names.into_iter().map(|(name, value)| (regex::escape(&name), value)).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        let compiled =
            |name: &str| Regex::new(&format!("^(?:.*\\.)?(?:{name})$")).expect("an escaped name is a pattern");
        Self(list.into_iter().map(|(name, value)| (name.clone(), compiled(&name), value)).collect())
    }

    /// The value for a site, if a pattern matches its name.
    pub fn at(&self, site: &str) -> Option<&V> {
        self.0.iter().find(|(_, regex, _)| regex.is_match(site)).map(|(_, _, value)| value)
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The table, as [`Self::read`] reads it.
    pub fn to_value(&self) -> Value {
        self.0.iter().map(|(name, _, value)| (name.clone(), json!(value))).collect()
    }
}

fn sorted(map: Map<String, Value>) -> Vec<(String, Value)> {
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problems;

    fn read(value: Value) -> (Pattern<usize>, Vec<String>) {
        let problems = Problems::new();
        let map = Map::from_iter([("rank_pattern".to_owned(), value)]);
        let mut section = Section::new("adapter.0", map, &problems);
        let pattern = Pattern::read(&mut section, "rank_pattern", "a whole number from 1", |rank| *rank > 0);
        (pattern, problems.to_vec().into_iter().map(|problem| problem.path).collect())
    }

    #[test]
    fn names_endings_and_expressions_match_as_in_peft() {
        let (pattern, problems) =
            read(json!({ "q_proj": 4, "layers.0.self_attn.v_proj": 2, "model\\.layers\\.[1-2]\\..*o_proj": 3 }));
        assert_eq!(problems, Vec::<String>::new());
        let at = |name: &str| pattern.at(name).copied();
        assert_eq!(at("model.layers.5.self_attn.q_proj"), Some(4));
        assert_eq!(at("model.layers.0.self_attn.v_proj"), Some(2));
        assert_eq!(at("model.layers.1.self_attn.v_proj"), None);
        assert_eq!(at("model.layers.2.self_attn.o_proj"), Some(3));
        // an ending counts only after a dot
        assert_eq!(at("model.layers.2.self_attn.xq_proj"), None);
        assert_eq!(read(pattern.to_value()).0, pattern);
    }

    #[test]
    fn wrong_patterns_and_values_are_reported_with_their_place() {
        let (_, problems) = read(json!({ "(": 4, "q_proj": 0, "v_proj": "many" }));
        assert_eq!(
            problems,
            ["adapter.0.rank_pattern.(", "adapter.0.rank_pattern.q_proj", "adapter.0.rank_pattern.v_proj"]
        );
        assert_eq!(read(json!(3)).1, ["adapter.0.rank_pattern"]);
    }
}
