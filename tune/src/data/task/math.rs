//! The task `math`: word problems with worked solutions, as in MATH10K and its four test sets.
//!
//! The LLM-Adapters form (`instruction`, `output`, `answer`) is read, and the original rows of GSM8K, AQuA, SVAMP and
//! MAWPS, which are brought to it. The prompt is the cleaned instruction and `Answer:`, the completion the cleaned
//! output. A row without a worked solution is trained on its bare answer.

use super::files::load_groups;
use super::instruction::{clean, instruction};
use super::rows::{EXTENSIONS, Fields, load_rows};
use super::{Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::metric::MATH;
use crate::data::objective::Objective;
use crate::data::python::strip;
use regex::Regex;
use std::path::Path;
use std::sync::LazyLock;

pub(super) const TASK: Task = Task {
    name: "math",
    summary: "word problems: MATH10K's form and its test sets, or original rows of GSM8K, AQuA, SVAMP and MAWPS",
    form: Form::Template,
    extensions: EXTENSIONS,
    objective: Objective::Lm,
    outcome: None,
    metrics: &[&MATH],
    generates: true,
    // Almost no worked solution of MATH10K ends within the authors' 50 tokens, nine of ten within these.
    max_new_tokens: 256,
    stops_at_newline: true,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_groups(path, EXTENSIONS, |file| load_rows(file, read))
}

/// Reads a row of whichever form its keys say.
fn read(row: &mut Fields) -> Example {
    let (instruction, output, answer) = if row.has("Body") {
        (join(&[&row.text("Body"), &row.text("Question")]), String::new(), row.text_or_number("Answer"))
    } else if row.has("original_text") {
        (row.text("original_text"), String::new(), row.text_or_number("ans"))
    } else if row.has("options") {
        aqua(row)
    } else if row.has("question") {
        gsm8k(row)
    } else {
        (instruction(row), row.optional_text("output").unwrap_or_default(), row.text_or_number("answer"))
    };
    let answer = strip(&answer).to_string();
    if row.is_fine() && answer.is_empty() {
        row.problem("the answer is empty");
    }
    let output = if strip(&output).is_empty() { answer.clone() } else { clean(&output) };
    Example {
        prompt: format!("{}\nAnswer:", clean(&instruction)),
        completion: format!(" {output}\n"),
        answers: vec![answer],
        group: row.optional_text("source").unwrap_or_default(),
        ..Example::default()
    }
}

// A constant pattern that the tests compile.
static CALCULATIONS: LazyLock<Regex> = LazyLock::new(|| Regex::new("<<[^<>]*>>").expect("a valid pattern"));

/// A row of GSM8K: the solution without the calculator's `<<...>>`, and the number behind `####`.
fn gsm8k(row: &mut Fields) -> (String, String, String) {
    let (question, solution) = (row.text("question"), row.text("answer"));
    let Some((worked, answer)) = solution.rsplit_once("####") else {
        if row.is_fine() {
            row.problem("`answer` must end with #### and the number");
        }
        return Default::default();
    };
    let (worked, answer) = (CALCULATIONS.replace_all(worked, ""), strip(answer).replace(',', ""));
    (question, join(&[&worked, &format!("The answer is {answer}.")]), answer)
}

/// A row of AQuA: the options behind the question, in the words of the collection's test set, and the letter.
fn aqua(row: &mut Fields) -> (String, String, String) {
    let (question, options, letter) = (row.text("question"), row.texts("options"), row.text("correct"));
    let rationale = row.optional_text("rationale").unwrap_or_default();
    let mut instruction = format!("{question} Answer Choices:");
    for option in &options {
        match option.split_once(')') {
            Some((letter, text)) => instruction += &format!(" ({}) {}", letter.trim_start_matches('('), strip(text)),
            None => row.problem(format!("the option `{option}` must be a letter, a closing bracket and a text")),
        }
    }
    (instruction, join(&[&rationale, &format!("The answer is {letter}.")]), letter)
}

/// Texts below each other, those without words left out.
fn join(texts: &[&str]) -> String {
    let filled: Vec<&str> = texts.iter().map(|text| strip(text)).filter(|text| !text.is_empty()).collect();
    filled.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(row: &str) -> Result<(String, String, String), TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.json");
        std::fs::write(&path, row).unwrap();
        let row = load(&path)?.train.remove(0);
        Ok((row.prompt, row.completion, row.answers.concat()))
    }

    #[test]
    fn every_form_becomes_a_prompt_a_completion_and_an_answer() {
        for (row, prompt, completion, answer) in [
            (
                r#"{"instruction": "Two and two?\n ", "input": "", "output": "2+2\n\nThus:\n4.", "answer": " 4.0 "}"#,
                "Two and two?\nAnswer:",
                " 2+2. Thus: 4.\n",
                "4.0",
            ),
            (r#"{"instruction": "Two\n", "output": "", "answer": 4.0}"#, "Two.\nAnswer:", " 4\n", "4"),
            (
                r#"{"question": "How many?", "answer": "3*400 = <<3*400=1200>>1200 in all\n#### 1,200"}"#,
                "How many?\nAnswer:",
                " 3*400 = 1200 in all. The answer is 1200.\n",
                "1200",
            ),
            (
                r#"{"question": "Which?", "options": ["A)3 m", "B) 4 m"], "rationale": "It is 4\nCorrect - B", "correct": "B"}"#,
                "Which? Answer Choices: (A) 3 m (B) 4 m\nAnswer:",
                " It is 4. Correct - B. The answer is B.\n",
                "B",
            ),
            (
                r#"{"ID": "1", "Body": "He had 3 cars", "Question": "How many?", "Equation": "", "Answer": 3.0, "Type": ""}"#,
                "He had 3 cars. How many?\nAnswer:",
                " 3\n",
                "3",
            ),
            (
                r#"{"id": 1, "original_text": "He ate 0.5 .", "equation": "x", "ans": 1.8333333333333335}"#,
                "He ate 0.5 .\nAnswer:",
                " 1.8333333333333335\n",
                "1.8333333333333335",
            ),
        ] {
            let found = read_one(row).unwrap();
            assert_eq!(found, (prompt.to_string(), completion.to_string(), answer.to_string()));
        }
    }

    #[test]
    fn rows_that_lack_something_are_named() {
        for (row, needle) in [
            (r#"{"question": "q", "answer": "no mark"}"#, "must end with ####"),
            (r#"{"question": "q", "answer": "it is\n#### "}"#, "the answer is empty"),
            (r#"{"question": "q", "options": ["A 3"], "correct": "A"}"#, "the option `A 3`"),
            (r#"{"instruction": "q", "output": "o"}"#, "`answer` is missing"),
            (r#"{"instruction": " ", "output": "o", "answer": "1"}"#, "`instruction` is empty"),
            (r#"{"prompt": "q"}"#, "`instruction` is missing"),
        ] {
            let error = read_one(row).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn the_source_of_a_row_is_its_group_unless_a_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        let row = r#"{"instruction": "q", "output": "", "answer": "1", "source": "mine"}"#;
        std::fs::write(folder.path().join("train.jsonl"), row).unwrap();
        assert_eq!(load(folder.path()).unwrap().train[0].group, "mine");
        std::fs::create_dir(folder.path().join("other")).unwrap();
        std::fs::rename(folder.path().join("train.jsonl"), folder.path().join("other/test.jsonl")).unwrap();
        let splits = load(folder.path()).unwrap();
        assert_eq!((splits.train.len(), splits.test.unwrap()[0].group.as_str()), (0, "other"));
    }
}
