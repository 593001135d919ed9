//! The task `jsonl`: a user's own prompts and completions, one JSON object a line.
//!
//! It is here for data that no named task knows. `prompt` and `completion` are texts and are used exactly as they are;
//! `candidates` and `answers` (lists of texts) and `group` (a text) are optional; other keys are left alone. A `.json`
//! file holds an array of the same objects. What is trained, and the end token, is left to the encoding.

use super::files::load_splits;
use super::rows::{EXTENSIONS, Fields, load_rows};
use super::{MAX_NEW_TOKENS, Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::metric::{ACCURACY, EM, F1};
use crate::data::objective::Objective;
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "jsonl",
    summary: "prompt and completion from a .jsonl file (one object a line), a .json array, or a folder of them",
    form: Form::Exact,
    extensions: EXTENSIONS,
    objective: Objective::Lm,
    outcome: None,
    metrics: &[&ACCURACY, &F1, &EM],
    generates: false,
    max_new_tokens: MAX_NEW_TOKENS,
    stops_at_newline: false,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_splits(path, EXTENSIONS, |file| load_rows(file, read))
}

fn read(row: &mut Fields) -> Example {
    let (prompt, completion) = (row.text("prompt"), row.text("completion"));
    let (answers, candidates) = (row.texts("answers"), row.texts("candidates"));
    let group = row.optional_text("group").unwrap_or_default();
    if !candidates.is_empty() && !candidates.contains(&completion) {
        row.problem("`completion` must be one of `candidates`, to the character");
    }
    Example { prompt, completion, answers, candidates, group, ..Example::default() }
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
        let lines = read("a.json", b"{\"prompt\": \"a\", \"completion\": \"b\"}").unwrap();
        assert_eq!(lines.len(), 1);
        let error = read("a.json", b"{\"prompt\":\n\"a\", \"completion\": \"b\"}").unwrap_err().to_string();
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
