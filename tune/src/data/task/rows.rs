//! Rows of JSON: files of one object a line or of an array of objects, and the typed fields of an object. Tables of
//! columns with tabs between them are read into the same fields.
//!
//! It is here so that every task refuses what it cannot read in the same words, all rows at once. Which fields a row
//! has is left to the tasks.

use super::files::{read_bytes, without_mark};
use super::{RowProblem, TaskError};
use crate::data::example::Example;
use serde_json::{Map, Value};
use std::path::Path;

/// Endings of files that hold such rows.
pub(super) const EXTENSIONS: &[&str] = &["jsonl", "json"];

/// The fields of one row, taken one by one; what is wrong with them is collected.
pub(super) struct Fields {
    map: Map<String, Value>,
    problems: Vec<String>,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self { map, problems: Vec::new() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether nothing has been wrong so far.
    pub(super) fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, message: impl Into<String>) {
        self.problems.push(message.into());
    }

    /// A value as it is; `None` if the key is absent or null.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, key: &str) -> String {
        if !self.map.contains_key(key) {
            self.problem(format!("`{key}` is missing"));
            return String::new();
        }
        match self.map.remove(key) {
            Some(Value::String(text)) => text,
            _ => {
                self.problem(format!("`{key}` must be a text in quotes"));
                String::new()
            }
        }
    }

    /// A text or a number that must be there; a whole number is written without a point.
    pub(super) fn text_or_number(&mut self, key: &str) -> String {
        match self.map.get(key).and_then(Value::as_f64) {
            Some(number) => {
                let written = self.map.remove(key).unwrap_or_default().to_string();
                if number.fract() == 0.0 { written.strip_suffix(".0").unwrap_or(&written).to_string() } else { written }
            }
            None => self.text(key),
        }
    }

    /// A text that may be absent or null.
    pub(super) fn optional_text(&mut self, key: &str) -> Option<String> {
        self.has(key).then(|| self.text(key))
    }

    /// A list of texts; empty if absent or null.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        serde_json::from_value(value).unwrap_or_else(|_| {
            self.problem(format!("`{key}` must be a list of texts"));
            Vec::new()
        })
    }

    /// The fields of an object that must be there.
    pub(super) fn object(&mut self, key: &str) -> Fields {
        match self.value(key) {
            Some(Value::Object(map)) => Fields::new(map),
            _ => {
                self.problem(format!("`{key}` must be an object in braces"));
                Fields::new(Map::new())
            }
        }
    }

    /// What is wrong, in one line.
    pub(super) fn finish(self) -> Result<(), String> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems.join(", ")) }
    }
}

/// Reads a file: each row by `read`, which reports what is wrong to the fields.
///
/// # Errors
/// A file that cannot be read or holds no row, or all rows that are malformed.
pub(super) fn load_rows(path: &Path, read: impl Fn(&mut Fields) -> Example) -> Result<Vec<Example>, TaskError> {
    let bytes = read_bytes(path)?;
    let row = |value: Result<Value, String>| {
        let Value::Object(map) = value? else { return Err("expected an object in braces".to_string()) };
        let mut fields = Fields::new(map);
        let example = read(&mut fields);
        fields.finish().map(|()| example)
    };
    let rows = json_rows(path, without_mark(&bytes))?;
    collect(path, rows.into_iter().map(|(line, value)| (line, row(value))))
}

/// Reads a table: lines of columns with tabs between them and no quoting, the first of them the columns' names.
///
/// With `columns`, a table whose first line holds none of these names has these columns, and no line of names.
///
/// # Errors
/// As [`load_rows`]; a line with another number of columns is malformed.
pub(super) fn load_table(
    path: &Path,
    columns: &[&str],
    read: impl Fn(&mut Fields) -> Example,
) -> Result<Vec<Example>, TaskError> {
    let bytes = read_bytes(path)?;
    let lines = without_mark(&bytes).split(|byte| *byte == b'\n').enumerate();
    let mut lines = lines.map(|(i, line)| (i + 1, line.strip_suffix(b"\r").unwrap_or(line))).peekable();
    let Some((_, first)) = lines.peek() else { return collect(path, []) };
    let first = String::from_utf8_lossy(first).into_owned();
    let named: Vec<&str> = first.split('\t').map(str::trim).collect();
    let has_names = columns.is_empty() || named.iter().any(|name| columns.contains(name));
    let names = if has_names { &named[..] } else { columns };
    let row = |line: &[u8]| {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8 text: save the file as UTF-8".to_string())?;
        let cells = line.split('\t').count();
        if cells != names.len() {
            return Err(format!("expected {} columns with tabs between them, got {cells}", names.len()));
        }
        let cell = |(name, cell): (&&str, &str)| (name.to_string(), Value::from(cell));
        let mut fields = Fields::new(names.iter().zip(line.split('\t')).map(cell).collect());
        let example = read(&mut fields);
        fields.finish().map(|()| example)
    };
    let filled = lines.skip(usize::from(has_names)).filter(|(_, line)| !line.is_empty());
    collect(path, filled.map(|(i, line)| (i, row(line))))
}

/// The rows, or every problem with them.
pub(super) fn collect(
    path: &Path,
    rows: impl IntoIterator<Item = (usize, Result<Example, String>)>,
) -> Result<Vec<Example>, TaskError> {
    let (mut examples, mut problems) = (Vec::new(), Vec::new());
    for (line, row) in rows {
        match row {
            Ok(example) => examples.push(Example { line, ..example }),
            Err(message) => problems.push(RowProblem { line, message }),
        }
    }
    match (problems.is_empty(), examples.is_empty()) {
        (false, _) => Err(TaskError::Malformed { path: path.to_path_buf(), problems }),
        (true, true) => Err(TaskError::Empty { path: path.to_path_buf() }),
        (true, false) => Ok(examples),
    }
}

type Row = (usize, Result<Value, String>);

/// An array where a `.json` file begins with a bracket, else one value a line.
fn json_rows(path: &Path, text: &[u8]) -> Result<Vec<Row>, TaskError> {
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let is_array = is_json && text.trim_ascii_start().first() == Some(&b'[');
    if is_array {
        return match serde_json::from_slice(text) {
            Ok(Value::Array(rows)) => Ok(rows.into_iter().enumerate().map(|(i, row)| (i + 1, Ok(row))).collect()),
            Ok(_) => Err(not_rows(path)),
            Err(e) => {
                let problems = vec![RowProblem { line: e.line(), message: reason(text, &e) }];
                Err(TaskError::Malformed { path: path.to_path_buf(), problems })
            }
        };
    }
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parse = |line: &[u8]| serde_json::from_slice(line).map_err(|e| reason(line, &e));
    let rows: Vec<Row> = filled.map(|(i, line)| (i + 1, parse(line))).collect();
    let is_one_value = || serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
    if is_json && rows.first().is_some_and(|(_, row)| row.is_err()) && is_one_value() {
        return Err(not_rows(path));
    }
    Ok(rows)
}

fn not_rows(path: &Path) -> TaskError {
    let message = "a .json file must hold an array of objects, or one object a line".to_string();
    TaskError::Malformed { path: path.to_path_buf(), problems: vec![RowProblem { line: 1, message }] }
}

/// The parser's reason, in one line without the row's text, which may be long.
pub(super) fn reason(text: &[u8], error: &serde_json::Error) -> String {
    if std::str::from_utf8(text).is_err() {
        return "not UTF-8 text: save the file as UTF-8".to_string();
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    format!("not JSON, column {}: {message}", error.column())
}
