//! Made-up rows of every task against what another program made of them: prompts, candidates, tokens, trained tokens and
//! metric values, all equal to the character, token and (metrics) 1e-12. `scripts/task_rows.py` writes the expectations.

use std::path::{Path, PathBuf};

use quanta_tune::data::chat::{Chat, ChatTemplate, encode_chat};
use quanta_tune::data::dataset::Dataset;
use quanta_tune::data::encode::{Form, Options, Truncation, encode, encode_candidates};
use quanta_tune::data::example::{Encoded, Example};
use quanta_tune::data::metric;
use quanta_tune::data::task::{self, Split, TASKS};
use quanta_tune::data::tokenizer::Tokenizer;
use serde_json::Value;

const TOKENIZERS: [&str; 2] = ["byte_level", "metaspace"];

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

fn golden(name: &str) -> Value {
    let path = testdata().join(format!("golden/tasks/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).expect("a golden file for every task")).expect("JSON")
}

fn tokenizer_folder(name: &str) -> PathBuf {
    testdata().join("tokenizers").join(name)
}

/// The rows as the task reads them from a file.
fn read(golden: &Value) -> Vec<Example> {
    let folder = tempfile::tempdir().unwrap();
    let kind = golden["file"].as_str().unwrap();
    let path = folder.path().join(format!("test.{kind}"));
    let text = match (kind, &golden["rows"]) {
        ("txt", _) => golden["text"].as_str().unwrap().to_string(),
        ("jsonl", Value::Array(rows)) => rows.iter().map(|row| format!("{row}\n")).collect(),
        (_, rows) => rows.to_string(),
    };
    std::fs::write(&path, text).unwrap();
    let task = task::find(golden["task"].as_str().unwrap()).unwrap();
    Dataset::rows(task, folder.path(), Split::Test).unwrap()
}

fn options(max_length: usize) -> Options {
    Options { max_length, truncation: Truncation::Left, append_eos: true }
}

fn limit(golden: &Value) -> usize {
    golden["limit"].as_u64().unwrap() as usize
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as usize).collect()
}

/// Fails unless tokens and trained positions are the expected ones.
fn compare(found: &Encoded, expected: &Value, what: &str) {
    let tokens: Vec<usize> = found.tokens.iter().map(|token| *token as usize).collect();
    assert_eq!(tokens, numbers(&expected["tokens"]), "tokens of {what}");
    let trained: Vec<usize> = found.trained_positions().collect();
    assert_eq!(trained, numbers(&expected["trained"]), "trained tokens of {what}");
    assert_eq!(trained.len(), found.trained_tokens());
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

#[test]
fn every_task_has_expected_rows() {
    for task in TASKS {
        let golden = golden(task.name);
        assert_eq!(golden["task"], task.name);
        assert!(task.name == "text" || golden["rows"].as_array().unwrap().len() >= 5, "{}", task.name);
    }
}

#[test]
fn templates_tokens_and_candidates_equal_the_reference() {
    for task in TASKS.iter().filter(|task| matches!(task.form, Form::Template | Form::Exact)) {
        let golden = golden(task.name);
        let rows = read(&golden);
        let expected = golden["expected"].as_array().unwrap();
        assert_eq!(rows.len(), expected.len());
        for (i, (row, expected)) in rows.iter().zip(expected).enumerate() {
            let what = format!("{} row {i}", task.name);
            assert_eq!(row.prompt, expected["prompt"].as_str().unwrap(), "{what}");
            assert_eq!(row.completion, expected["completion"].as_str().unwrap(), "{what}");
            assert_eq!(
                (&row.answers, &row.candidates),
                (&texts(&expected["answers"]), &texts(&expected["candidates"]))
            );
        }
        for name in TOKENIZERS {
            let tokenizer = Tokenizer::from_folder(&tokenizer_folder(name)).unwrap();
            let all = encode(&rows, task.form, &tokenizer, &options(2048)).unwrap();
            let short = encode(&rows, task.form, &tokenizer, &options(limit(&golden))).unwrap();
            let candidates = encode_candidates(&rows, task.form, &tokenizer, &options(2048)).unwrap();
            for (i, expected) in expected.iter().enumerate() {
                let what = format!("{} row {i} with {name}", task.name);
                compare(&all[i], &expected["encoded"][name], &what);
                compare(&short[i], &expected["short"][name], &format!("{what}, cut"));
                assert_eq!(short[i].truncated, all[i].tokens.len() > limit(&golden), "{what}");
                let made = expected["candidate_tokens"][name].as_array().unwrap();
                assert_eq!(candidates[i].len(), made.len(), "{what}");
                for (candidate, expected) in candidates[i].iter().zip(made) {
                    compare(candidate, expected, &format!("a candidate of {what}"));
                }
            }
        }
    }
}

#[test]
fn metrics_equal_the_reference() {
    let (mut compared, mut partial) = (0, 0);
    for task in TASKS.iter().filter(|task| matches!(task.form, Form::Template | Form::Exact)) {
        let golden = golden(task.name);
        for (row, expected) in read(&golden).iter().zip(golden["expected"].as_array().unwrap()) {
            for measured in expected["metrics"].as_array().unwrap() {
                let prediction = measured["prediction"].as_str().unwrap();
                for (name, value) in measured["values"].as_object().unwrap() {
                    let (found, value) =
                        ((metric::find(name).unwrap().score)(prediction, row), value.as_f64().unwrap());
                    assert!(
                        (found - value).abs() < 1e-12,
                        "{name} of {prediction:?} for {row:?}: {found}, not {value}"
                    );
                    compared += 1;
                    partial += usize::from(value > 0.0 && value < 1.0);
                }
            }
        }
    }
    assert!(compared > 500 && partial > 20, "{compared} values, {partial} between 0 and 1");
}

#[test]
fn windows_of_a_text_equal_the_reference() {
    let golden = golden("text");
    let rows = read(&golden);
    for name in TOKENIZERS {
        let tokenizer = Tokenizer::from_folder(&tokenizer_folder(name)).unwrap();
        let windows = encode(&rows, Form::Windows, &tokenizer, &options(limit(&golden))).unwrap();
        let expected = golden["windows"][name].as_array().unwrap();
        assert_eq!(windows.len(), expected.len());
        for (i, (window, expected)) in windows.iter().zip(expected).enumerate() {
            compare(window, expected, &format!("window {i} with {name}"));
        }
    }
}

#[test]
fn conversations_are_printed_and_masked_as_by_transformers() {
    let golden = golden("messages");
    let rows = read(&golden);
    for name in TOKENIZERS {
        let folder = tokenizer_folder(name);
        let template = ChatTemplate::from_folder(&folder).unwrap();
        let chat = Chat { template, roles: vec!["assistant".to_string()] };
        let encoded = encode_chat(&rows, &chat, &Tokenizer::from_folder(&folder).unwrap(), &options(2048)).unwrap();
        for (i, expected) in golden["expected"].as_array().unwrap().iter().enumerate() {
            let printed = |asks| chat.template.render(&rows[i].messages, asks).unwrap();
            assert_eq!(printed(false), expected["printed"][name].as_str().unwrap(), "row {i} with {name}");
            assert_eq!(printed(true), expected["asked"][name].as_str().unwrap(), "row {i} with {name}");
            compare(&encoded[i], &expected["encoded"][name], &format!("row {i} with {name}"));
        }
    }
}
