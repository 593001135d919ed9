//! The task `text`: a plain text file, learnt from the first word to the last.
//!
//! It is here for pretraining and for adapting to a style. A file is one row without a prompt; that it is read in
//! windows of the length limit is its form's doing, in the encoding.

use super::files::{load_splits, read_bytes, without_mark};
use super::{MAX_NEW_TOKENS, Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::objective::Objective;
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "text",
    summary: "running text from a .txt file or a folder of them, in windows of max_length, every token trained",
    form: Form::Windows,
    extensions: EXTENSIONS,
    objective: Objective::Lm,
    outcome: None,
    metrics: &[],
    generates: false,
    max_new_tokens: MAX_NEW_TOKENS,
    stops_at_newline: false,
    load,
};

const EXTENSIONS: &[&str] = &["txt"];

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_splits(path, EXTENSIONS, load_file)
}

fn load_file(path: &Path) -> Result<Vec<Example>, TaskError> {
    let bytes = read_bytes(path)?;
    let completion = String::from_utf8(without_mark(&bytes).to_vec()).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        TaskError::NotText { path: path.to_path_buf(), line }
    })?;
    if completion.trim().is_empty() {
        return Err(TaskError::Empty { path: path.to_path_buf() });
    }
    Ok(vec![Example { completion, line: 1, ..Example::default() }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Splits, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, bytes).unwrap();
        load(&path)
    }

    #[test]
    fn a_file_is_one_row_with_all_its_text() {
        let splits = read("\u{feff} é\r\nb\n".as_bytes()).unwrap();
        assert_eq!(splits.train.len(), 1);
        assert_eq!(splits.train[0].completion, " é\r\nb\n");
        assert_eq!(splits.train[0].prompt, "");
        assert_eq!((splits.valid, splits.test), (None, None));
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error_with_its_line() {
        let error = read(b"one\ntwo\nthr\xffee\n").unwrap_err();
        assert!(matches!(error, TaskError::NotText { line: 3, .. }), "{error}");
        assert!(matches!(read(b"\xff\xfe"), Err(TaskError::NotText { line: 1, .. })));
    }

    #[test]
    fn empty_and_missing_files_are_errors() {
        for bytes in [&b""[..], b" \n\t\n", b"\xef\xbb\xbf"] {
            assert!(matches!(read(bytes), Err(TaskError::Empty { .. })));
        }
        assert!(matches!(load(Path::new("no/such/file.txt")), Err(TaskError::Read { .. })));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(load(folder.path()), Err(TaskError::NoTrainFile { .. })));
    }
}
