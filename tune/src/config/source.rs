//! From text to one JSON object: TOML and JSON files, and the `--set key=value` overrides.
//!
//! It is here so that the rest of the program reads one kind of value, whatever the file was. Syntax errors carry line
//! and column; values that JSON cannot hold (dates, infinities) become problems. Keys and types are checked by
//! `section`.

use super::{ConfigError, Problems};
use serde_json::{Map, Value};
use std::path::Path;

/// Reads a TOML file; see [`parse_toml`].
pub fn read_toml(path: &Path, problems: &Problems) -> Result<Map<String, Value>, ConfigError> {
    parse_toml(&read_text(path)?, &path.display().to_string(), problems)
}

/// Reads a JSON file; see [`parse_json`].
pub fn read_json(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    parse_json(&read_text(path)?, &path.display().to_string())
}

/// The top table of a TOML text as a JSON object.
///
/// Dates, times and non-finite numbers are added to `problems` with their path and stand as null.
/// `origin` names the text in error messages.
///
/// # Errors
/// [`ConfigError::Syntax`] with line and column where the text is not TOML.
pub fn parse_toml(text: &str, origin: &str, problems: &Problems) -> Result<Map<String, Value>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let (line, column) = position(text, e.span().map_or(0, |span| span.start));
        ConfigError::Syntax { origin: origin.to_string(), line, column, message: one_line(e.message()) }
    })?;
    Ok(table.into_iter().map(|(key, value)| (key.clone(), to_json(value, &key, problems))).collect())
}

/// The top object of a JSON text.
///
/// # Errors
/// [`ConfigError::Syntax`] where the text is not JSON, or its top value is not an object.
pub fn parse_json(text: &str, origin: &str) -> Result<Map<String, Value>, ConfigError> {
    let syntax = |line, column, message| ConfigError::Syntax { origin: origin.to_string(), line, column, message };
    // Some editors put a byte-order mark in front; JSON's grammar has no place for it.
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(syntax(1, 1, format!("expected an object in braces, found {}", super::section::kind(&other)))),
        Err(e) => {
            let message = e.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
            Err(syntax(e.line(), e.column(), one_line(message)))
        }
    }
}

/// Applies overrides of the form `train.lr=1e-3` or `adapter.0.dims=[8,4,2]` to a configuration.
///
/// The key is a path of names and array positions; tables on the way are made where they are missing, and the position
/// just behind an array's end appends. The value is read as TOML; bare words (`model.path=models/tiny`,
/// `data.task=jsonl`) and dates are taken as strings. What cannot be applied is added to `problems` under the key, and
/// the rest is applied.
pub fn apply_overrides(table: &mut Map<String, Value>, overrides: &[impl AsRef<str>], problems: &Problems) {
    for text in overrides {
        let text = text.as_ref();
        let Some((key, value)) = text.split_once('=') else {
            problems.add("", format!("override `{text}` has no value: write key=value"));
            continue;
        };
        let key = key.trim();
        let parts: Vec<&str> = key.split('.').map(str::trim).collect();
        if parts.iter().any(|part| part.is_empty()) {
            problems.add(
                "",
                format!("override `{text}` has an empty name in its key: write key=value or section.key=value"),
            );
            continue;
        }
        match override_value(key, value.trim(), problems).and_then(|value| set(table, &parts, value)) {
            Ok(()) => {}
            Err(message) => problems.add(key, message),
        }
    }
}

fn override_value(key: &str, text: &str, problems: &Problems) -> Result<Value, String> {
    let parsed: Result<toml::Table, _> = format!("value = {text}").parse();
    match parsed.as_ref().ok().filter(|table| table.len() == 1).and_then(|table| table.get("value")) {
        Some(toml::Value::Datetime(date)) => Ok(Value::String(date.to_string())),
        Some(value) => Ok(to_json(value.clone(), key, problems)),
        None if text.is_empty() => Err("override has no value: write \"\" for an empty text".to_string()),
        None if text.starts_with(['"', '\'', '[', '{']) => {
            let reason = parsed.err().map_or("more than one value".to_string(), |e| one_line(e.message()));
            Err(format!("override value `{text}` is not TOML: {reason}"))
        }
        None => Ok(Value::String(text.to_string())),
    }
}

fn set(table: &mut Map<String, Value>, parts: &[&str], value: Value) -> Result<(), String> {
    let mut place = table.entry(parts[0]).or_insert(Value::Null);
    for (depth, part) in parts.iter().enumerate().skip(1) {
        let position: Option<usize> = part.parse().ok();
        if place.is_null() {
            *place = if position.is_some() { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
        }
        let before = parts[..depth].join(".");
        let kind = super::section::kind(place);
        place = match (place, position) {
            (Value::Object(map), _) => map.entry(*part).or_insert(Value::Null),
            (Value::Array(items), Some(position)) => {
                if position > items.len() {
                    return Err(format!("`{before}` has {} entries, so there is no entry {position}", items.len()));
                }
                if position == items.len() {
                    items.push(Value::Null);
                }
                &mut items[position]
            }
            (Value::Array(_), None) => {
                return Err(format!("`{before}` is a list: write a position, for example `{before}.0.{part}`"));
            }
            _ => return Err(format!("`{before}` is {kind}, not a section")),
        };
    }
    *place = value;
    Ok(())
}

fn to_json(value: toml::Value, path: &str, problems: &Problems) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Float(number) => serde_json::Number::from_f64(number).map_or_else(
            || {
                problems.add(path, format!("{number} is not a finite number"));
                Value::Null
            },
            Value::Number,
        ),
        toml::Value::Datetime(date) => {
            problems.add(
                path,
                format!("{date} is a date or time, which no key takes: put it in quotes if a text is meant"),
            );
            Value::Null
        }
        toml::Value::Array(items) => Value::Array(
            items.into_iter().enumerate().map(|(i, item)| to_json(item, &format!("{path}.{i}"), problems)).collect(),
        ),
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(key, value)| (key.clone(), to_json(value, &format!("{path}.{key}"), problems)))
                .collect(),
        ),
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })
}

/// Line and column, both from 1, of a byte offset; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn one_line(message: &str) -> String {
    message.trim().trim_end_matches('.').replace('\n', ", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn overridden(start: Value, overrides: &[&str]) -> (Value, String) {
        let Value::Object(mut map) = start else { panic!("the test starts from an object") };
        let problems = Problems::new();
        apply_overrides(&mut map, overrides, &problems);
        (Value::Object(map), problems.to_string())
    }

    #[test]
    fn toml_becomes_json() {
        let problems = Problems::new();
        let text = "a = 1\nb = 1.5\n[c]\nd = [true, \"x\"]\n[[e]]\nf = 2\n";
        let map = parse_toml(text, "t", &problems).unwrap();
        assert_eq!(Value::Object(map), json!({"a": 1, "b": 1.5, "c": {"d": [true, "x"]}, "e": [{"f": 2}]}));
        assert!(problems.is_empty());
    }

    #[test]
    fn dates_and_non_finite_numbers_are_problems_with_their_path() {
        let problems = Problems::new();
        let map = parse_toml("[a]\nb = 2024-05-31\nc = [1.0, inf]\nd = nan\n", "t", &problems).unwrap();
        assert_eq!(map["a"]["c"], json!([1.0, null]));
        let paths: Vec<String> = problems.to_vec().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["a.b", "a.c.1", "a.d"]);
    }

    #[test]
    fn syntax_errors_carry_line_and_column() {
        let error = parse_toml("[train]\nné = \nlr = 1\n", "run.toml", &Problems::new()).unwrap_err();
        assert!(error.to_string().starts_with("run.toml, line 2, column 2: "), "{error}");
        let error = parse_toml("[train]\nlr = = 1\n", "run.toml", &Problems::new()).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 2, column: 6, .. }), "{error}");
        let error = parse_toml("a = 1\na = 2\n", "run.toml", &Problems::new()).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error}");
        let error = parse_json("{\n  \"a\": nope}", "config.json").unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error}");
        assert!(!error.to_string().contains("at line"), "{error}");
        assert!(parse_json("[1]", "config.json").unwrap_err().to_string().contains("found a list"));
        assert!(parse_json("", "config.json").is_err());
    }

    #[test]
    fn a_missing_or_binary_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        assert!(read_toml(&path, &Problems::new()).unwrap_err().to_string().contains("run.toml"));
        std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(matches!(read_toml(&path, &Problems::new()), Err(ConfigError::Read { .. })));
        assert!(matches!(read_json(&path), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn overrides_set_values_of_every_type() {
        let start = json!({"train": {"lr": 1e-4}, "adapter": [{"type": "quanta", "dims": [4, 4]}]});
        let overrides = [
            "train.lr=1e-3",
            "adapter.0.dims=[8,4,2]",
            "model.path = models/tiny-1",
            "train.fast=true",
            "name=2024-05-31",
        ];
        let (after, problems) = overridden(start, &overrides);
        assert_eq!(problems, "");
        assert_eq!(
            after,
            json!({"train": {"lr": 1e-3, "fast": true}, "adapter": [{"type": "quanta", "dims": [8, 4, 2]}],
                "model": {"path": "models/tiny-1"}, "name": "2024-05-31"})
        );
    }

    #[test]
    fn overrides_make_missing_tables_and_append_to_lists() {
        let (after, problems) =
            overridden(json!({}), &["adapter.0.type=lora", "adapter.0.rank=8", "adapter.1.type=quanta"]);
        assert_eq!(problems, "");
        assert_eq!(after, json!({"adapter": [{"type": "lora", "rank": 8}, {"type": "quanta"}]}));
    }

    #[test]
    fn every_override_that_cannot_be_applied_is_reported_and_the_others_are_applied() {
        let overrides = ["a", ".b=1", "c=[1,", "d=", "e.x=1", "f.3=1", "f.x=1", "h='q' y", "g=nan", "ok=1"];
        let (after, problems) = overridden(json!({"e": 3, "f": [1]}), &overrides);
        assert_eq!(problems.lines().count(), 9, "{problems}");
        assert_eq!(after["ok"], json!(1));
        assert_eq!((&after["e"], &after["f"]), (&json!(3), &json!([1])));
    }
}
