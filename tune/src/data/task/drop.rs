//! The task `drop`: questions about a passage that need reading and a little arithmetic (Dua et al. 2019).
//!
//! Three forms of the data are read: rows with `passage`, `question` and `answers`; the public Hugging Face form, whose
//! answers are `answers_spans.spans`; and the original file, an object of passages with `qa_pairs`. The first answer is
//! trained, all count as right. The data set has no public test split: without one, the validation file is the test
//! split and dev rows come from training, as in the authors' program.

use super::files::{load_splits, read_bytes, without_mark};
use super::rows::{EXTENSIONS, Fields, collect, load_rows};
use super::{MAX_NEW_TOKENS, Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::metric::{DROP_F1, EM, F1};
use crate::data::objective::Objective;
use crate::data::python::strip;
use serde_json::{Map, Value};
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "drop",
    summary: "questions about passages: DROP's rows, its Hugging Face form as JSON, or the original files",
    form: Form::Template,
    extensions: EXTENSIONS,
    objective: Objective::Lm,
    outcome: None,
    metrics: &[&F1, &EM, &DROP_F1],
    generates: true,
    max_new_tokens: MAX_NEW_TOKENS,
    stops_at_newline: true,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    let mut splits = load_splits(path, EXTENSIONS, load_file)?;
    if splits.test.is_none() {
        splits.test = splits.valid.take();
    }
    Ok(splits)
}

fn load_file(path: &Path) -> Result<Vec<Example>, TaskError> {
    let bytes = read_bytes(path)?;
    match serde_json::from_slice(without_mark(&bytes)) {
        Ok(Value::Object(passages)) if !passages.contains_key("question") => {
            let rows = passages.into_iter().flat_map(|(_, passage)| original_rows(passage));
            collect(path, rows.enumerate().map(|(i, row)| (i + 1, row)))
        }
        _ => load_rows(path, read),
    }
}

fn read(row: &mut Fields) -> Example {
    let (passage, question) = (row.text("passage"), row.text("question"));
    let answers = match (row.has("answers"), row.has("answers_spans")) {
        (true, _) => row.texts("answers"),
        (false, true) => {
            let mut spans = row.object("answers_spans");
            let listed = spans.texts("spans");
            if let Err(problem) = spans.finish() {
                row.problem(problem);
            }
            listed
        }
        (false, false) => row.optional_text("answer").into_iter().collect(),
    };
    if row.is_fine() && answers.is_empty() {
        row.problem("no answer: give `answers`, `answers_spans` or `answer`");
    }
    example(&passage, &question, answers)
}

fn example(passage: &str, question: &str, answers: Vec<String>) -> Example {
    let first = answers.first().map_or("", String::as_str);
    Example {
        prompt: format!("Passage: {passage}\nQuestion: {}\nAnswer:", strip(question)),
        completion: format!(" {first}\n"),
        answers,
        ..Example::default()
    }
}

/// The questions of a passage of the original file. Those without any answer (nine of training) are left out, as the
/// Hugging Face form does.
fn original_rows(passage: Value) -> Vec<Result<Example, String>> {
    let Value::Object(map) = passage else { return vec![Err("expected an object for every passage".to_string())] };
    let mut fields = Fields::new(map);
    let (passage, pairs) = (fields.text("passage"), fields.value("qa_pairs"));
    let pairs = match pairs {
        Some(Value::Array(pairs)) => pairs,
        _ => {
            fields.problem("`qa_pairs` must be a list");
            Vec::new()
        }
    };
    if let Err(problem) = fields.finish() {
        return vec![Err(problem)];
    }
    pairs.into_iter().filter_map(|pair| original_row(&passage, pair).transpose()).collect()
}

fn original_row(passage: &str, pair: Value) -> Result<Option<Example>, String> {
    let Value::Object(map) = pair else { return Err("expected an object for every question".to_string()) };
    let mut fields = Fields::new(map);
    let question = fields.text("question");
    let more = match fields.value("validated_answers") {
        Some(Value::Array(more)) => more,
        _ => Vec::new(),
    };
    let first = fields.value("answer");
    fields.finish()?;
    let given: Vec<Vec<String>> = first.into_iter().chain(more).map(original_answer).collect::<Result<_, _>>()?;
    let answer_spans: Vec<Vec<String>> = given.into_iter().filter(|spans| !spans.is_empty()).collect();
    let answers: Vec<String> = answer_spans.concat();
    Ok((!answers.is_empty()).then(|| Example { answer_spans, ..example(passage, &question, answers) }))
}

/// The spans of an answer of the original file: its number, else its spans, else its date.
fn original_answer(answer: Value) -> Result<Vec<String>, String> {
    let Value::Object(map) = answer else { return Err("expected an object for every answer".to_string()) };
    let mut fields = Fields::new(map);
    let number = if fields.has("number") { fields.text_or_number("number") } else { String::new() };
    let mut date = if fields.has("date") { fields.object("date") } else { Fields::new(Map::new()) };
    let parts = ["day", "month", "year"].map(|key| date.optional_text(key).unwrap_or_default());
    let spans = fields.texts("spans");
    fields.finish().and(date.finish())?;
    if !number.is_empty() {
        return Ok(vec![number]);
    }
    if !spans.is_empty() {
        return Ok(spans);
    }
    let filled: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    Ok(if filled.is_empty() { Vec::new() } else { vec![filled.join(" ")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const PLAIN: &str =
        "{\"passage\": \"Ann ran 3 km. \", \"question\": \" How far?\\n\", \"answers\": [\"3 km\", \"3\"]}\n";
    const PUBLIC: &str = "{\"section_id\": \"s\", \"passage\": \"Ann ran 3 km. \", \"question\": \" How far?\\n\", \
        \"answers_spans\": {\"spans\": [\"3 km\", \"3\"], \"types\": [\"span\", \"number\"]}}\n";

    #[test]
    fn rows_and_the_public_form_are_the_same_examples() {
        let data = folder(&[("a_train.jsonl", PLAIN), ("validation.jsonl", PUBLIC)]);
        let splits = load(data.path()).unwrap();
        let row = &splits.train[0];
        assert_eq!(row.prompt, "Passage: Ann ran 3 km. \nQuestion: How far?\nAnswer:");
        assert_eq!((row.completion.as_str(), row.answers.len()), (" 3 km\n", 2));
        assert_eq!((splits.valid, splits.test.unwrap()), (None, splits.train.clone()));
    }

    #[test]
    fn the_original_file_keeps_spans_together() {
        let text = r#"{"p1": {"passage": "P", "qa_pairs": [
            {"question": "Who?", "answer": {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["Ann", "Bob"]},
             "validated_answers": [{"number": "2", "date": {}, "spans": []}, {"number": "", "date": {}, "spans": []}]},
            {"question": "When?", "answer": {"number": "", "date": {"day": "3", "month": "May", "year": ""}, "spans": []}},
            {"question": "None?", "answer": {"number": "", "date": {}, "spans": []}}]}}"#;
        let data = folder(&[("drop_dataset_train.json", text)]);
        let rows = load(data.path()).unwrap().train;
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].completion.as_str(), &rows[0].answers),
            (" Ann\n", &["Ann", "Bob", "2"].map(String::from).to_vec())
        );
        let spans = [vec!["Ann".to_string(), "Bob".to_string()], vec!["2".to_string()]];
        assert_eq!(rows[0].answer_spans, spans);
        assert_eq!((rows[1].completion.as_str(), rows[1].line), (" 3 May\n", 2));
    }

    #[test]
    fn rows_without_an_answer_are_named() {
        let bad = "{\"passage\": \"p\", \"question\": \"q\"}\n{\"passage\": \"p\", \"question\": \"q\", \"answers\": []}\n\
            {\"passage\": \"p\", \"question\": \"q\", \"answers_spans\": {\"spans\": [1]}}\n{\"passage\": 1}\n";
        let data = folder(&[("train.jsonl", &(PLAIN.to_string() + bad))]);
        let error = load(data.path()).unwrap_err().to_string();
        assert!(
            error.contains("4 malformed rows\nline 2: no answer") && error.contains("line 3: no answer"),
            "{error}"
        );
        assert!(error.contains("line 4: `spans` must be a list of texts"), "{error}");
        assert!(error.contains("line 5: `passage` must be a text in quotes, `question` is missing"), "{error}");
        let data = folder(&[("train.json", "{\"p\": {\"qa_pairs\": 3}, \"r\": 1}")]);
        let error = load(data.path()).unwrap_err().to_string();
        assert!(error.contains("`passage` is missing, `qa_pairs` must be a list"), "{error}");
    }
}
