//! The task `commonsense`: COMMONSENSE170K and its eight test sets, in the LLM-Adapters form.
//!
//! Rows are `instruction`, `answer` (and `input`, empty, and `output`, which repeats the answer). The prompt is the
//! cleaned instruction and `Answer:`; a candidate is ` the correct answer is {option}.` for every option that the
//! instruction names behind `answer format:`. Choosing and training among candidates is left to the rooms above.

use super::files::load_groups;
use super::instruction::{clean, instruction};
use super::rows::{EXTENSIONS, Fields, load_rows};
use super::{MAX_NEW_TOKENS, Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::metric::ACCURACY;
use crate::data::objective::Objective;
use crate::data::python::strip;
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "commonsense",
    summary: "multiple choice as in COMMONSENSE170K: a file, a folder of splits, or a folder with a folder for each set",
    form: Form::Template,
    extensions: EXTENSIONS,
    objective: Objective::Choice,
    outcome: None,
    metrics: &[&ACCURACY],
    generates: false,
    max_new_tokens: MAX_NEW_TOKENS,
    stops_at_newline: true,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_groups(path, EXTENSIONS, |file| load_rows(file, read))
}

fn read(row: &mut Fields) -> Example {
    let (instruction, answer) = (instruction(row), row.text("answer").to_lowercase());
    let options = options(&instruction);
    if row.is_fine() && options.is_empty() {
        row.problem("`instruction` names no options: it needs `answer format:` and the options with / between them");
    } else if row.is_fine() && !options.contains(&answer) {
        row.problem(format!("`answer` must be one of {}", options.join(", ")));
    }
    let completion = |option: &str| format!(" the correct answer is {option}.");
    Example {
        prompt: format!("{}\nAnswer:", clean(&instruction)),
        completion: completion(&answer),
        candidates: options.iter().map(|option| completion(option)).collect(),
        answers: vec![answer],
        ..Example::default()
    }
}

/// The options behind the first `answer format:`, in lower case, up to the line's end; empty without any.
fn options(instruction: &str) -> Vec<String> {
    const MARK: &str = "answer format:";
    let text = instruction.to_lowercase();
    let Some(start) = text.find(MARK) else { return Vec::new() };
    let line = text[start + MARK.len()..].split('\n').next().unwrap_or_default();
    let options = line.split('/').map(|option| strip(option).to_string());
    options.filter(|option| !option.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(row: &str) -> Result<Example, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.json");
        std::fs::write(&path, format!("[{row}]")).unwrap();
        load(&path).map(|splits| splits.train[0].clone())
    }

    #[test]
    fn options_are_candidates_and_the_answer_is_among_them() {
        let row = read_one(
            r#"{"instruction": "Which is red?\n\nAnswer1: a rose\nAnswer2: grass\n\nAnswer Format: answer1/ Answer2 /answer3\nend",
                "input": "", "output": "the correct answer is answer2", "answer": "Answer2"}"#,
        )
        .unwrap();
        let prompt =
            "Which is red? Answer1: a rose. Answer2: grass. Answer Format: answer1/ Answer2 /answer3. end\nAnswer:";
        assert_eq!(row.prompt, prompt);
        assert_eq!(row.completion, " the correct answer is answer2.");
        let candidates = [1, 2, 3].map(|i| format!(" the correct answer is answer{i}."));
        assert_eq!((row.candidates.as_slice(), row.answers), (&candidates[..], vec!["answer2".to_string()]));
    }

    #[test]
    fn rows_without_options_or_with_another_answer_are_named() {
        for (row, needle) in [
            (r#"{"instruction": "True?", "answer": "true"}"#, "names no options"),
            (r#"{"instruction": "True? Answer format: true/false", "answer": "yes"}"#, "must be one of true, false"),
            (r#"{"instruction": "x answer format: a/b", "input": "y", "answer": "a"}"#, "`input` is not part"),
            (r#"{"answer": "a"}"#, "line 1: `instruction` is missing"),
            (r#"{"instruction": "x answer format: /", "answer": ""}"#, "names no options"),
        ] {
            let error = read_one(row).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
