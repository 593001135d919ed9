//! Five tasks of GLUE (Wang et al. 2019): one or two sentences, and a class or a number.
//!
//! An encoder reads the sentences as its tokenizer joins them and answers with its head; a decoder reads the prompt that
//! stands in the table below and chooses among the classes' texts, or writes the number. Two forms of the data are read:
//! GLUE's own `.tsv` files and rows of JSON as on the Hugging Face hub. Test files of GLUE have no labels: such a file is
//! no split. How sentences become tokens is left to `whole` and to the encoding.

use super::files::load_splits;
use super::rows::{Fields, load_rows, load_table};
use super::{RowProblem, Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::Example;
use crate::data::metric::{ACCURACY, CLASS_F1, MATTHEWS, PEARSON, SPEARMAN};
use crate::data::objective::{Objective, Outcome};
use std::path::Path;

const EXTENSIONS: &[&str] = &["tsv", "jsonl", "json"];

/// Recognising textual entailment.
pub(super) const RTE: Task = Task {
    name: "rte",
    summary: "whether a premise entails a hypothesis: RTE of GLUE as .tsv, or its rows as JSON",
    outcome: Some(Outcome::Classes(&["entailment", "not_entailment"])),
    metrics: &[&ACCURACY],
    load: |path| load(path, &ENTAILMENT),
    ..CLASSES
};

/// Sentiment of phrases.
pub(super) const SST2: Task = Task {
    name: "sst2",
    summary: "whether a phrase of a film review is positive: SST-2 of GLUE as .tsv, or its rows as JSON",
    outcome: Some(Outcome::Classes(&["negative", "positive"])),
    metrics: &[&ACCURACY],
    load: |path| load(path, &SENTIMENT),
    ..CLASSES
};

/// Paraphrases.
pub(super) const MRPC: Task = Task {
    name: "mrpc",
    summary: "whether two sentences say the same: MRPC of GLUE as .tsv, or its rows as JSON",
    outcome: Some(Outcome::Classes(&["not_equivalent", "equivalent"])),
    metrics: &[&CLASS_F1, &ACCURACY],
    load: |path| load(path, &PARAPHRASE),
    ..CLASSES
};

/// Linguistic acceptability.
pub(super) const COLA: Task = Task {
    name: "cola",
    summary: "whether a sentence is acceptable English: CoLA of GLUE as .tsv, or its rows as JSON",
    outcome: Some(Outcome::Classes(&["unacceptable", "acceptable"])),
    metrics: &[&MATTHEWS, &ACCURACY],
    load: |path| load(path, &ACCEPTABILITY),
    ..CLASSES
};

/// Similarity of meaning.
pub(super) const STSB: Task = Task {
    name: "stsb",
    summary: "how similar two sentences are, from 0 to 5: STS-B of GLUE as .tsv, or its rows as JSON",
    outcome: Some(Outcome::Number),
    objective: Objective::Lm,
    metrics: &[&PEARSON, &SPEARMAN],
    generates: true,
    load: |path| load(path, &SIMILARITY),
    ..CLASSES
};

/// What tasks with classes have in common.
const CLASSES: Task = Task {
    name: "",
    summary: "",
    form: Form::Template,
    extensions: EXTENSIONS,
    objective: Objective::Choice,
    outcome: None,
    metrics: &[],
    generates: false,
    max_new_tokens: 8,
    stops_at_newline: true,
    load: |_| Ok(Splits { train: Vec::new(), valid: None, test: None }),
};

/// The rows of one task.
struct Kind {
    /// Keys of each sentence, any one of them.
    sentences: &'static [&'static [&'static str]],
    /// Names of the classes in files, in the order of their numbers, and what a decoder answers; none: a number.
    classes: &'static [(&'static str, &'static str)],
    /// What stands before each sentence in the prompt.
    before: &'static [&'static str],
    /// What a decoder is asked, behind the sentences.
    question: &'static str,
    /// Columns of a table without a line of names.
    columns: &'static [&'static str],
}

const FIRST: &[&str] = &["sentence1", "premise", "#1 String", "text1"];
const SECOND: &[&str] = &["sentence2", "hypothesis", "#2 String", "text2"];
const ONLY: &[&str] = &["sentence", "text"];
const LABEL: &[&str] = &["label", "Quality", "score"];

const ENTAILMENT: Kind = Kind {
    sentences: &[FIRST, SECOND],
    classes: &[("entailment", " True"), ("not_entailment", " False")],
    before: &["", "Question: "],
    question: " True or False?",
    columns: &[],
};

const SENTIMENT: Kind = Kind {
    sentences: &[ONLY],
    classes: &[("negative", " negative"), ("positive", " positive")],
    before: &[""],
    question: "\nQuestion: Is this sentence positive or negative?",
    columns: &[],
};

const PARAPHRASE: Kind = Kind {
    sentences: &[FIRST, SECOND],
    classes: &[("not_equivalent", " no"), ("equivalent", " yes")],
    before: &["Sentence 1: ", "Sentence 2: "],
    question: "\nQuestion: Do both sentences mean the same thing, yes or no?",
    columns: &[],
};

const ACCEPTABILITY: Kind = Kind {
    sentences: &[ONLY],
    classes: &[("unacceptable", " no"), ("acceptable", " yes")],
    before: &[""],
    question: "\nQuestion: Is this sentence grammatically acceptable, yes or no?",
    columns: &["source", "label", "original", "sentence"],
};

const SIMILARITY: Kind = Kind {
    sentences: &[FIRST, SECOND],
    classes: &[],
    before: &["Sentence 1: ", "Sentence 2: "],
    question: "\nQuestion: How similar are the two sentences, from 0.0 to 5.0?",
    columns: &[],
};

/// Largest similarity.
const LARGEST: f64 = 5.0;

fn load(path: &Path, kind: &Kind) -> Result<Splits, TaskError> {
    let is_test = |file: &Path| file.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("test"));
    let mut splits = load_splits(path, EXTENSIONS, |file| {
        let rows = match file.extension().is_some_and(|end| end.eq_ignore_ascii_case("tsv")) {
            true => load_table(file, kind.columns, |row| kind.read(row))?,
            false => load_rows(file, |row| kind.read(row))?,
        };
        let unlabelled: Vec<usize> = rows.iter().filter(|row| row.completion.is_empty()).map(|row| row.line).collect();
        match unlabelled.len() {
            0 => Ok(rows),
            all if all == rows.len() && is_test(file) && path.is_dir() => Ok(Vec::new()),
            _ => {
                let problem = |line| RowProblem { line, message: "no label: give `label` or `score`".to_string() };
                let problems = unlabelled.into_iter().map(problem).collect();
                Err(TaskError::Malformed { path: file.to_path_buf(), problems })
            }
        }
    })?;
    splits.test = splits.test.filter(|rows| !rows.is_empty());
    Ok(splits)
}

impl Kind {
    /// A row; its completion is empty where it has no label.
    fn read(&self, row: &mut Fields) -> Example {
        let sentences: Vec<String> = self.sentences.iter().map(|keys| row.text(present(row, keys))).collect();
        let label = present(row, LABEL);
        let label = if row.has(label) { row.text_or_number(label) } else { String::new() };
        let labelled = !["", "-1"].contains(&label.trim());
        let candidates: Vec<String> = self.classes.iter().map(|(_, text)| text.to_string()).collect();
        let (mut completion, mut answers) = (String::new(), Vec::new());
        if labelled && self.classes.is_empty() {
            let number = label.trim().parse().ok().filter(|number| (0.0..=LARGEST).contains(number));
            match number {
                Some(number) => {
                    completion = format!(" {number:.1}\n");
                    answers.push(label.trim().to_string());
                }
                None => row.problem("the label must be a number from 0 to 5"),
            }
        } else if labelled {
            let is_named =
                |(index, (name, _)): (usize, &(&str, &str))| label.trim() == *name || label.trim() == index.to_string();
            match self.classes.iter().enumerate().position(is_named) {
                Some(class) => {
                    completion.clone_from(&candidates[class]);
                    answers.push(candidates[class].trim().to_string());
                }
                None => {
                    let names: Vec<&str> = self.classes.iter().map(|(name, _)| *name).collect();
                    row.problem(format!("the label must be one of {}, or its number from 0", names.join(", ")));
                }
            }
        }
        let prompt = self.prompt(&sentences);
        Example { prompt, completion, answers, candidates, sentences, ..Example::default() }
    }

    fn prompt(&self, sentences: &[String]) -> String {
        let lines: Vec<String> =
            self.before.iter().zip(sentences).map(|(before, text)| format!("{before}{}", text.trim())).collect();
        format!("{}{}\nAnswer:", lines.join("\n"), self.question)
    }
}

/// The key that a row has; the first where it has none, which is then reported as missing.
fn present(row: &Fields, keys: &[&'static str]) -> &'static str {
    keys.iter().find(|key| row.has(key)).copied().unwrap_or(keys[0])
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

    const HEAD: &str = "index\tsentence1\tsentence2\tlabel\n";

    #[test]
    fn glue_s_own_tables_are_read() {
        let train = format!("{HEAD}0\tIt \"rains .\tIt is wet.\tentailment\r\n1\tA\tB\tnot_entailment\n");
        let unlabelled = "index\tsentence1\tsentence2\n0\tA\tB\n";
        let folder = folder(&[("train.tsv", &train), ("dev.tsv", &train), ("test.tsv", unlabelled)]);
        let splits = (RTE.load)(folder.path()).unwrap();
        assert_eq!((splits.train.len(), splits.valid.as_ref().map(Vec::len), &splits.test), (2, Some(2), &None));
        let row = &splits.train[0];
        assert_eq!((&row.sentences[..], row.line), (&["It \"rains .".to_string(), "It is wet.".to_string()][..], 2));
        assert_eq!(row.prompt, "It \"rains .\nQuestion: It is wet. True or False?\nAnswer:");
        assert_eq!(
            (row.completion.as_str(), &row.candidates[..]),
            (" True", &[" True", " False"].map(String::from)[..])
        );
        assert_eq!(splits.train[1].completion, " False");
        // a byte-order mark, and names of columns that are MRPC's
        let mrpc = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\tA .\tB .\n";
        std::fs::write(folder.path().join("a.tsv"), mrpc).unwrap();
        let row = (MRPC.load)(&folder.path().join("a.tsv")).unwrap().train.remove(0);
        assert_eq!((row.completion.as_str(), row.sentences.join("|").as_str()), (" yes", "A .|B ."));
        assert!(row.prompt.starts_with("Sentence 1: A .\nSentence 2: B .\nQuestion: Do both"), "{}", row.prompt);
    }

    #[test]
    fn a_table_without_names_of_columns_is_that_of_cola() {
        let folder = folder(&[
            ("train.tsv", "gj04\t1\t\tThe sentence is good.\ngj04\t0\t*\tIs good the.\n"),
            ("dev.tsv", "label\tsentence\n0\tIs good the.\n"),
        ]);
        let splits = (COLA.load)(folder.path()).unwrap();
        let answers: Vec<&str> = splits.train.iter().map(|row| row.completion.as_str()).collect();
        assert_eq!((answers, splits.train[0].line), (vec![" yes", " no"], 1));
        assert_eq!(splits.valid.unwrap()[0].sentences, ["Is good the."]);
    }

    #[test]
    fn rows_of_json_are_read() {
        let stsb = "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": 3.799999952316284, \"idx\": 0}\n\
            {\"sentence1\": \"a\", \"sentence2\": \"b\", \"score\": 5}\n";
        let folder = folder(&[("train.jsonl", stsb), ("sst2.json", "[{\"sentence\": \"fine \", \"label\": 1}]")]);
        let rows = (STSB.load)(&folder.path().join("train.jsonl")).unwrap().train;
        assert_eq!((rows[0].completion.as_str(), rows[0].answers[0].as_str()), (" 3.8\n", "3.799999952316284"));
        assert_eq!((rows[1].completion.as_str(), rows[1].answers[0].as_str()), (" 5.0\n", "5"));
        assert!(rows[0].candidates.is_empty());
        let row = (SST2.load)(&folder.path().join("sst2.json")).unwrap().train.remove(0);
        assert_eq!((row.completion.as_str(), row.sentences[0].as_str()), (" positive", "fine "));
        assert_eq!(row.prompt, "fine\nQuestion: Is this sentence positive or negative?\nAnswer:");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let text = format!("{HEAD}0\tA\tB\tmaybe\n1\tA\tB\n2\tA\tB\t-1\n3\tA\tB\t0\n");
        let folder = folder(&[("train.tsv", &text), ("none.tsv", ""), ("test.tsv", "sentence1\tsentence2\na\tb\n")]);
        let error = |task: &Task, file: &str| (task.load)(&folder.path().join(file)).unwrap_err().to_string();
        let message = error(&RTE, "train.tsv");
        assert!(message.contains("line 2: the label must be one of entailment, not_entailment, or its"), "{message}");
        assert!(message.contains("line 3: expected 4 columns with tabs between them, got 3"), "{message}");
        std::fs::write(folder.path().join("train.tsv"), format!("{HEAD}2\tA\tB\t-1\n3\tA\tB\t0\n")).unwrap();
        assert!(error(&RTE, "train.tsv").ends_with("1 malformed row\nline 2: no label: give `label` or `score`"));
        assert!(error(&STSB, "test.tsv").contains("line 2: no label"), "a file that is asked for by name");
        assert!(
            error(&COLA, "test.tsv").contains("line 1: `sentence` is missing")
                || error(&COLA, "test.tsv").contains("columns")
        );
        assert!(error(&RTE, "none.tsv").ends_with("holds no rows"));
        for label in ["5.1", "-0.5", "NaN", "high"] {
            let row = format!("{{\"sentence1\": \"\", \"sentence2\": \"\", \"label\": \"{label}\"}}");
            std::fs::write(folder.path().join("a.jsonl"), row).unwrap();
            assert!(error(&STSB, "a.jsonl").contains("must be a number from 0 to 5"), "{label}");
        }
    }
}
