//! A collecting reader of one JSON object: typed keys with bounds and defaults, and a complaint about every other key.
//!
//! It is here so that a configuration is parsed once, at the rim, and all that is wrong with it is said at once.
//! Reading never stops: a bad value is reported and a placeholder goes on, and the caller asks [`Problems::check`] at
//! the end. Which keys exist, and what they mean, is left to the callers.
//!
//! ```
//! use quanta_tune::config::{Problems, Section, parse_toml};
//!
//! let problems = Problems::new();
//! let mut top = Section::new("", parse_toml("[train]\nlr_rate = 0.1\nbatch = 8", "run.toml", &problems)?, &problems);
//! let mut train = top.required_section("train");
//! top.finish();
//! let lr = train.f64("lr").positive().or(1e-4);
//! let batch = train.usize("batch").at_least(1).or(4);
//! let cosine = train.one_of("schedule", &[("linear", false), ("cosine", true)]).or(false);
//! train.finish();
//! assert_eq!((lr, batch, cosine), (1e-4, 8, false));
//! let all = problems.check("run.toml").unwrap_err().to_string();
//! assert!(all.ends_with("train.lr_rate: unknown key, did you mean `lr`?"));
//! # Ok::<(), quanta_tune::config::ConfigError>(())
//! ```

use super::{Problems, nearest};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Display;

/// The largest size that [`Section::usize`] takes: the product of two such sizes stays inside 64 bits, and no
/// dimension, length or count that a user writes is anywhere near it.
pub const SIZE_LIMIT: u64 = u32::MAX as u64;

/// One object of a configuration, being read.
///
/// A key whose value is null counts as absent: Hugging Face's configs write null for "not set".
#[derive(Debug)]
#[must_use = "call finish, so that unknown keys are reported"]
pub struct Section {
    path: String,
    map: Map<String, Value>,
    asked: BTreeSet<String>,
    ignored: BTreeSet<String>,
    problems: Problems,
}

impl Section {
    /// Starts reading `map`, which stands at `path` (empty for the top of a file).
    pub fn new(path: impl Into<String>, map: Map<String, Value>, problems: &Problems) -> Self {
        let (asked, ignored) = (BTreeSet::new(), BTreeSet::new());
        Self { path: path.into(), map, asked, ignored, problems: problems.clone() }
    }

    /// Full path of this section, or of one of its keys.
    pub fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_string(),
            (path, "") => path.to_string(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// A finite number; an integer will do.
    pub fn f64(&mut self, key: &str) -> Field<f64> {
        self.field(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()).ok_or(None))
    }

    /// A whole number from 0 to [`SIZE_LIMIT`]; `4.0` is refused.
    pub fn usize(&mut self, key: &str) -> Field<usize> {
        self.field(key, "a whole number from 0", read_size)
    }

    /// A whole number of 64 bits, for seeds.
    pub fn u64(&mut self, key: &str) -> Field<u64> {
        self.field(key, "a whole number from 0", |value| value.as_u64().ok_or(None))
    }

    /// `true` or `false`.
    pub fn bool(&mut self, key: &str) -> Field<bool> {
        self.field(key, "true or false", |value| value.as_bool().ok_or(None))
    }

    /// A text.
    pub fn string(&mut self, key: &str) -> Field<String> {
        self.field(key, "a text in quotes", |value| value.as_str().map(str::to_string).ok_or(None))
    }

    /// One of several names; the name is returned.
    pub fn choice<'c>(&mut self, key: &str, names: &[&'c str]) -> Field<&'c str> {
        let table: Vec<(&str, &'c str)> = names.iter().map(|name| (*name, *name)).collect();
        self.one_of(key, &table)
    }

    /// One of several names, each standing for a value.
    pub fn one_of<T: Copy>(&mut self, key: &str, table: &[(&str, T)]) -> Field<T> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", listed(&names));
        self.field(key, &expected, |value| {
            let text = value.as_str().ok_or(None)?;
            table.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
                let hint = nearest(text, names.iter().copied()).map(|name| format!(", did you mean `{name}`?"));
                Some(format!("`{}` is not {expected}{}", clipped(text), hint.unwrap_or_default()))
            })
        })
    }

    /// A list of whole numbers from 0.
    pub fn usize_list(&mut self, key: &str) -> Field<Vec<usize>> {
        self.list(key, "a list of whole numbers from 0", read_size)
    }

    /// A list of finite numbers.
    pub fn f64_list(&mut self, key: &str) -> Field<Vec<f64>> {
        self.list(key, "a list of numbers", |value| value.as_f64().filter(|number| number.is_finite()).ok_or(None))
    }

    /// A list of texts.
    pub fn strings(&mut self, key: &str) -> Field<Vec<String>> {
        self.list(key, "a list of texts", |value| value.as_str().map(str::to_string).ok_or(None))
    }

    /// A list of texts, or a single text: `(texts, was a list)`.
    pub fn strings_or_string(&mut self, key: &str) -> Field<(Vec<String>, bool)> {
        self.field(key, "a text or a list of texts", |value| match value {
            Value::String(text) => Ok((vec![text.clone()], false)),
            Value::Array(_) => {
                read_list(value, &|item| item.as_str().map(str::to_string).ok_or(None)).map(|texts| (texts, true))
            }
            _ => Err(None),
        })
    }

    /// The section below `key`, if it is there.
    pub fn section(&mut self, key: &str) -> Option<Section> {
        let path = self.path_of(key);
        let problems = self.problems.clone();
        let map = self.field(key, "a section", |value| value.as_object().cloned().ok_or(None)).optional()?;
        Some(Section::new(path, map, &problems))
    }

    /// The section below `key`; an empty one with a problem where it is missing.
    pub fn required_section(&mut self, key: &str) -> Section {
        let path = self.path_of(key);
        let problems = self.problems.clone();
        let map = self.field(key, "a section", |value| value.as_object().cloned().ok_or(None)).required();
        Section::new(path, map, &problems)
    }

    /// The sections of an array of tables (`[[adapter]]`), in order; none where the key is missing.
    pub fn sections(&mut self, key: &str) -> Vec<Section> {
        let path = self.path_of(key);
        let problems = self.problems.clone();
        let maps = self.list(key, "a list of sections", |value| value.as_object().cloned().ok_or(None)).or_default();
        let numbered = maps.into_iter().enumerate();
        numbered.map(|(i, map)| Section::new(format!("{path}.{i}"), map, &problems)).collect()
    }

    /// The value below `key` as it is, if it is there: for what has no fixed type.
    pub fn value(&mut self, key: &str) -> Option<Value> {
        self.asked.insert(key.to_string());
        self.map.get(key).filter(|value| !value.is_null()).cloned()
    }

    /// The value of `key` as it stands, to tell kinds of sections apart. Does not count as asking for it.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// Whether `key` is there and not null. Does not count as asking for it.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether `key` is there, be it null: for keys that null means something for. Does not count as asking for it.
    pub fn has_key(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Keys that may stand here and are not read.
    pub fn ignore(&mut self, keys: &[&str]) {
        self.ignored.extend(keys.iter().map(|key| key.to_string()));
    }

    /// Reports a problem with `key` (an empty key: with this section).
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        self.problems.add(self.path_of(key), message);
    }

    /// The list that this section reports to.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Reports every key that was neither asked for nor ignored, with the nearest of those that were asked for.
    pub fn finish(self) {
        let known = |key: &String| self.asked.contains(key) || self.ignored.contains(key);
        for (key, _) in self.map.iter().filter(|(key, value)| !value.is_null() && !known(key)) {
            let near = nearest(key, self.asked.iter().map(String::as_str));
            // A key that is already there is not what the writer forgot.
            let hint = near.filter(|name| !self.map.contains_key(*name) || near_enough(key, name));
            let hint = hint.map_or(String::new(), |name| format!(", did you mean `{name}`?"));
            self.problems.add(self.path_of(key), format!("unknown key{hint}"));
        }
    }

    fn list<T>(&mut self, key: &str, expected: &str, read: impl Fn(&Value) -> Reading<T>) -> Field<Vec<T>> {
        self.field(key, expected, |value| read_list(value, &read))
    }

    fn field<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&Value) -> Reading<T>) -> Field<T> {
        self.asked.insert(key.to_string());
        let (path, problems) = (self.path_of(key), self.problems.clone());
        let found = self.map.get(key).filter(|value| !value.is_null());
        let value = found.and_then(|value| match read(value) {
            Ok(read) => Some(read),
            Err(message) => {
                let message = message.unwrap_or_else(|| format!("expected {expected}, found {}", shown(value)));
                problems.add(&path, message);
                None
            }
        });
        let expected = expected.to_string();
        Field { present: found.is_some(), value, expected, path, problems }
    }
}

/// What a reader of one value answers: the value, or the message, where it has a better one than "expected, found".
type Reading<T> = Result<T, Option<String>>;

/// One key of a [`Section`], read but not yet taken: bounds first, then [`or`](Field::or),
/// [`required`](Field::required) or [`optional`](Field::optional).
#[derive(Debug)]
#[must_use = "take the value with or, required or optional"]
pub struct Field<T> {
    present: bool,
    value: Option<T>,
    expected: String,
    path: String,
    problems: Problems,
}

impl<T> Field<T> {
    /// The value, or `default` where the key is absent (or was refused, which has been reported).
    pub fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }

    /// The value if the key is there.
    pub fn optional(self) -> Option<T> {
        self.value
    }

    /// Refuses a value that `holds` does not hold for, with `message` (for example `must be even`).
    pub fn must(mut self, message: &str, holds: impl FnOnce(&T) -> bool) -> Self {
        if self.value.as_ref().is_some_and(|value| !holds(value)) {
            self.problems.add(&self.path, message);
            self.value = None;
        }
        self
    }
}

impl<T: Default> Field<T> {
    /// The value; an absent key is a problem, and the type's default then stands in.
    pub fn required(self) -> T {
        if !self.present {
            self.problems.add(&self.path, format!("missing: expected {}", self.expected));
        }
        self.value.unwrap_or_default()
    }

    /// The value, or the type's default where the key is absent.
    pub fn or_default(self) -> T {
        self.value.unwrap_or_default()
    }
}

impl<T: PartialOrd + Display> Field<T> {
    /// Refuses a value below `least`.
    pub fn at_least(self, least: T) -> Self {
        let message = format!("must be at least {least}{}", self.got());
        self.must(&message, |value| *value >= least)
    }

    /// Refuses a value above `most`.
    pub fn at_most(self, most: T) -> Self {
        let message = format!("must be at most {most}{}", self.got());
        self.must(&message, |value| *value <= most)
    }

    fn got(&self) -> String {
        self.value.as_ref().map_or(String::new(), |value| format!(", got {value}"))
    }
}

impl Field<f64> {
    /// Refuses zero and negative numbers.
    pub fn positive(self) -> Self {
        let message = format!("must be above 0{}", self.got());
        self.must(&message, |value| *value > 0.0)
    }
}

/// What a value is, in words: `a text`, `a list`, ...
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

fn read_size(value: &Value) -> Reading<usize> {
    let number = value.as_u64().ok_or(None)?;
    let size = usize::try_from(number).ok().filter(|_| number <= SIZE_LIMIT);
    size.ok_or_else(|| Some(format!("{number} is too large: at most {SIZE_LIMIT}")))
}

fn read_list<T>(value: &Value, read: &impl Fn(&Value) -> Reading<T>) -> Reading<Vec<T>> {
    let items = value.as_array().ok_or(None)?;
    let at = |(i, item)| {
        read(item).map_err(|message| {
            let message = message.unwrap_or_else(|| format!("cannot be {}", shown(item)));
            Some(format!("entry {i} {message}"))
        })
    };
    items.iter().enumerate().map(at).collect()
}

/// The kind of a value and, where it is short, the value itself.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text \"{}\"", clipped(text)),
        other => kind(other).to_string(),
    }
}

fn clipped(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let rest = if short.len() < text.len() { "..." } else { "" };
    short.escape_debug().to_string() + rest
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn near_enough(key: &str, name: &str) -> bool {
    strsim::damerau_levenshtein(key, name) <= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn section(value: Value) -> (Section, Problems) {
        let Value::Object(map) = value else { panic!("the test reads an object") };
        let problems = Problems::new();
        (Section::new("train", map, &problems), problems)
    }

    #[test]
    fn values_defaults_and_nulls_are_read() {
        let (mut s, problems) = section(json!({"lr": 1, "batch": 8, "names": "all", "sites": ["q", "k"], "clip": null,
            "dims": [4, 2], "on": true, "seed": u64::MAX, "kind": "b", "weights": [1, 0.5]}));
        assert_eq!(s.f64("lr").positive().or(1e-4), 1.0);
        assert_eq!(s.usize("batch").at_least(1).at_most(8).or(4), 8);
        assert_eq!(s.f64("clip").optional(), None);
        assert_eq!(s.usize("steps").or(7), 7);
        assert_eq!(s.usize_list("dims").required(), [4, 2]);
        assert_eq!(s.f64_list("weights").required(), [1.0, 0.5]);
        assert_eq!(s.strings_or_string("names").required(), (vec!["all".to_string()], false));
        assert_eq!(s.strings_or_string("sites").required(), (vec!["q".to_string(), "k".to_string()], true));
        assert!(s.bool("on").required());
        assert_eq!(s.u64("seed").required(), u64::MAX);
        assert_eq!(s.choice("kind", &["a", "b"]).or("a"), "b");
        assert_eq!(s.one_of("kind", &[("a", 1), ("b", 2)]).or(1), 2);
        assert!(s.has("lr") && !s.has("clip"));
        s.finish();
        assert_eq!(problems.to_string(), "");
    }

    #[test]
    fn a_wrong_type_says_what_was_expected_and_what_was_found() {
        let (mut s, problems) =
            section(json!({"lr": "fast", "batch": 4.0, "steps": -1, "huge": 1u64 << 50, "over": 1e30,
            "dims": [4, "x"], "sites": [1], "on": 1, "name": ["a"], "kind": "liner"}));
        s.f64("lr").or(0.5);
        for key in ["batch", "steps", "huge", "over"] {
            assert_eq!(s.usize(key).or(3), 3);
        }
        s.usize_list("dims").required();
        s.strings_or_string("sites").required();
        s.bool("on").required();
        s.string("name").required();
        s.choice("kind", &["linear", "cosine"]).or("linear");
        s.finish();
        let expected = [
            "train.lr: expected a number, found the text \"fast\"",
            "train.batch: expected a whole number from 0, found 4.0",
            "train.steps: expected a whole number from 0, found -1",
            "train.huge: 1125899906842624 is too large: at most 4294967295",
            "train.over: expected a whole number from 0, found 1e+30",
            "train.dims: entry 1 cannot be the text \"x\"",
            "train.sites: entry 0 cannot be 1",
            "train.on: expected true or false, found 1",
            "train.name: expected a text in quotes, found a list",
            "train.kind: `liner` is not one of `linear`, `cosine`, did you mean `linear`?",
        ];
        assert_eq!(problems.to_string().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_missing_required_key_is_one_problem_and_a_refused_one_is_too() {
        let (mut s, problems) = section(json!({"b": "x", "n": null}));
        assert_eq!(s.usize("a").required(), 0);
        assert_eq!(s.usize("b").required(), 0);
        assert_eq!(s.string("n").required(), "");
        s.required_section("c").finish();
        s.finish();
        let text = problems.to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.starts_with("train.a: missing: expected a whole number from 0\n"), "{text}");
    }

    #[test]
    fn bounds_are_problems_that_name_the_value() {
        let (mut s, problems) = section(json!({"lr": 0, "batch": 0, "p": 1.5, "rank": 3}));
        s.f64("lr").positive().or(1e-4);
        s.usize("batch").at_least(1).or(4);
        s.f64("p").at_least(0.0).at_most(1.0).or(0.0);
        assert_eq!(s.usize("rank").must("must be even", |rank| rank % 2 == 0).or(2), 2);
        s.finish();
        let expected = "train.lr: must be above 0, got 0\ntrain.batch: must be at least 1, got 0\n\
            train.p: must be at most 1, got 1.5\ntrain.rank: must be even";
        assert_eq!(problems.to_string(), expected);
    }

    #[test]
    fn unknown_keys_are_reported_with_the_nearest_known_one() {
        let (mut s, problems) = section(json!({"epoch": 1, "lr_rate": 1, "torch_dtype": "x", "unset": null, "zzz": 1}));
        s.f64("lr").or(1.0);
        s.usize("epochs").or(3);
        s.ignore(&["torch_dtype"]);
        s.finish();
        let expected = [
            "train.epoch: unknown key, did you mean `epochs`?",
            "train.lr_rate: unknown key, did you mean `lr`?",
            "train.zzz: unknown key",
        ];
        assert_eq!(problems.to_string().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sections_below_report_with_their_full_path() {
        let (mut s, problems) = section(json!({"adapter": [{"rank": 1}, {"rnk": 2}], "rope": {"type": 3}, "bad": [1]}));
        let adapters = s.sections("adapter");
        assert_eq!(adapters.len(), 2);
        for mut adapter in adapters {
            adapter.usize("rank").or(8);
            adapter.finish();
        }
        let mut rope = s.section("rope").unwrap();
        rope.string("type").required();
        rope.problem("", "is odd");
        rope.finish();
        assert!(s.section("absent").is_none());
        assert!(s.sections("bad").is_empty());
        s.finish();
        let expected = [
            "train.adapter.1.rnk: unknown key, did you mean `rank`?",
            "train.rope.type: expected a text in quotes, found 3",
            "train.rope: is odd",
            "train.bad: entry 0 cannot be 1",
        ];
        assert_eq!(problems.to_string().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let (mut s, problems) = section(json!({"lr": "x".repeat(1 << 20)}));
        s.f64("lr").or(1.0);
        s.finish();
        assert!(problems.to_string().len() < 200);
    }
}
