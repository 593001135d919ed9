//! The task `jsonl`: a user's own prompts and completions, one JSON object a line.
//!
//! It is here for data that no named task knows. `prompt` and `completion` are texts and are used exactly as they are;
//! `candidates` and `answers` (lists of texts) are optional; other keys are left alone. A `.json` file holds an array
//! of the same objects. What is trained, and the end token, is left to the encoding.

use super::{MAX_NEW_TOKENS, RowProblem, Splits, Task, TaskError, load_splits, read_bytes, without_mark};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::objective::Objective;
use serde_json::Value;
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "jsonl",
    summary: "prompt and completion from a .jsonl file (one object a line), a .json array, or a folder of them",
    form: Form::Exact,
    objective: Objective::Lm,
    metrics: &[],
    max_new_tokens: MAX_NEW_TOKENS,
    stops_at_newline: false,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_splits(path, &["jsonl", "json"], load_file)
}

fn load_file(path: &Path) -> Result<Vec<Example>, TaskError> {
    let bytes = read_bytes(path)?;
    let text = without_mark(&bytes);
    let is_array = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let rows = if is_array { array_rows(text, path)? } else { line_rows(text) };
    let (mut examples, mut problems) = (Vec::new(), Vec::new());
    for (line, row) in rows {
        match row.and_then(|value| example(value, line)) {
            Ok(example) => examples.push(example),
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

fn line_rows(text: &[u8]) -> Vec<Row> {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parse = |line: &[u8]| serde_json::from_slice(line).map_err(|e| reason(line, &e));
    filled.map(|(i, line)| (i + 1, parse(line))).collect()
}

fn array_rows(text: &[u8], path: &Path) -> Result<Vec<Row>, TaskError> {
    let malformed = |line, message| {
        let problems = vec![RowProblem { line, message }];
        TaskError::Malformed { path: path.to_path_buf(), problems }
    };
    if text.trim_ascii().is_empty() {
        return Err(TaskError::Empty { path: path.to_path_buf() });
    }
    match serde_json::from_slice(text) {
        Ok(Value::Array(rows)) => Ok(rows.into_iter().enumerate().map(|(i, row)| (i + 1, Ok(row))).collect()),
        Ok(_) => {
            Err(malformed(1, "a .json file must hold an array of objects: one object a line is .jsonl".to_string()))
        }
        Err(e) => Err(malformed(e.line(), reason(text, &e))),
    }
}

/// The parser's reason, in one line without the row's text, which may be long.
fn reason(text: &[u8], error: &serde_json::Error) -> String {
    if std::str::from_utf8(text).is_err() {
        return "not UTF-8 text: save the file as UTF-8".to_string();
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    format!("not JSON, column {}: {message}", error.column())
}

fn example(value: Value, line: usize) -> Result<Example, String> {
    let Value::Object(mut row) = value else { return Err("expected an object in braces".to_string()) };
    let mut problems = Vec::new();
    let mut text = |key: &str| match row.remove(key) {
        Some(Value::String(text)) => text,
        Some(_) => {
            problems.push(format!("`{key}` must be a text in quotes"));
            String::new()
        }
        None => {
            problems.push(format!("`{key}` is missing"));
            String::new()
        }
    };
    let (prompt, completion) = (text("prompt"), text("completion"));
    let mut texts = |key: &str| match row.remove(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => serde_json::from_value(value).unwrap_or_else(|_| {
            problems.push(format!("`{key}` must be a list of texts"));
            Vec::new()
        }),
    };
    let (answers, candidates): (Vec<String>, Vec<String>) = (texts("answers"), texts("candidates"));
    if problems.is_empty() && !candidates.is_empty() && !candidates.contains(&completion) {
        problems.push("`completion` must be one of `candidates`, to the character".to_string());
    }
    match problems.is_empty() {
        true => Ok(Example { prompt, completion, answers, candidates, line, ..Example::default() }),
        false => Err(problems.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Example>, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        load(&path).map(|splits| splits.train)
    }

    #[test]
    fn rows_keep_their_text_and_their_line() {
        let text = "\u{feff}{\"prompt\": \" a\\n\", \"completion\": \"b \", \"other\": [1]}\n\n  \r\n\
            {\"completion\": \"é\", \"prompt\": \"\", \"answers\": [\"x\"], \"candidates\": [\"e\", \"é\"]}\r\n";
        let rows = read("a.jsonl", text.as_bytes()).unwrap();
        let first = Example { prompt: " a\n".into(), completion: "b ".into(), line: 1, ..Example::default() };
        assert_eq!(rows[0], first);
        assert_eq!((rows[1].completion.as_str(), rows[1].line), ("é", 4));
        assert_eq!((rows[1].answers.as_slice(), rows[1].candidates.len()), (&["x".to_string()][..], 2));
    }

    #[test]
    fn an_array_is_read_like_lines() {
        let rows = read(
            "a.json",
            b"[{\"prompt\": \"a\", \"completion\": \"b\"},\n {\"prompt\": \"c\", \"completion\": \"d\"}]",
        )
        .unwrap();
        assert_eq!((rows[1].prompt.as_str(), rows[1].line), ("c", 2));
        assert!(matches!(read("a.json", b"[]"), Err(TaskError::Empty { .. })));
        assert!(matches!(read("a.json", b" \n"), Err(TaskError::Empty { .. })));
        let error = read("a.json", b"{\"prompt\": \"a\", \"completion\": \"b\"}").unwrap_err().to_string();
        assert!(error.contains("array of objects"), "{error}");
        let error = read("a.json", b"[{\"prompt\": \"a\"},\n{\"prompt\": 1, \"completion\": null}, 3]")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1: `completion` is missing"), "{error}");
        assert!(error.contains("line 2: `prompt` must be a text in quotes, `completion` must be"), "{error}");
        assert!(error.contains("line 3: expected an object"), "{error}");
    }

    #[test]
    fn every_malformed_line_is_named_and_twenty_are_printed() {
        let mut text = Vec::new();
        for i in 0..60 {
            text.extend_from_slice(match i % 5 {
                0 => b"{\"prompt\": \"a\", \"completion\": \"b\"}\n".as_slice(),
                1 => b"{\"prompt\": \"a\"\n",
                2 => b"[1, 2]\n",
                3 => b"{\"prompt\": \"\xff\", \"completion\": \"b\"}\n",
                _ => b"{\"prompt\": \"a\", \"completion\": \"b\", \"candidates\": [\"c\"]}\n",
            });
        }
        let error = read("a.jsonl", &text).unwrap_err();
        let TaskError::Malformed { problems, .. } = &error else { panic!("{error}") };
        assert_eq!(problems.len(), 48);
        assert_eq!(problems[..5].iter().map(|problem| problem.line).collect::<Vec<_>>(), [2, 3, 4, 5, 7]);
        let printed = error.to_string();
        assert_eq!(printed.lines().count(), 22, "{printed}");
        assert!(printed.contains("line 4: not UTF-8") && printed.ends_with("and 28 more"), "{printed}");
        assert!(printed.contains("line 5: `completion` must be one of"), "{printed}");
    }

    #[test]
    fn hostile_files_are_errors_of_bounded_length() {
        for bytes in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            assert!(matches!(read("a.jsonl", bytes), Err(TaskError::Empty { .. })));
        }
        let huge = [b"{\"prompt\": \"".as_slice(), &vec![b'x'; 8 << 20], b"\", \"completion\": 1}"].concat();
        let error = read("a.jsonl", &huge).unwrap_err().to_string();
        assert!(error.len() < 400, "{}", error.len());
        let deep = "[".repeat(100_000);
        assert!(matches!(read("a.jsonl", deep.as_bytes()), Err(TaskError::Malformed { .. })));
        assert!(matches!(read("a.json", deep.as_bytes()), Err(TaskError::Malformed { .. })));
        assert!(matches!(read("a.jsonl", &[0; 64]), Err(TaskError::Malformed { .. })));
        assert!(matches!(load(Path::new("no/such/file.jsonl")), Err(TaskError::Read { .. })));
    }
}
