//! The data of one run: rows read, chosen, encoded and counted.
//!
//! It is here so that training, evaluation and inspection all see exactly the same samples. It walks the room's path
//! once and adds no rule of its own but one: a running text is divided by its windows, not by its files. Batches and
//! the order of training are left to the training loop.

use super::chat::{Chat, encode_chat};
use super::encode::{EncodeError, Form, Options, encode, encode_candidates};
use super::example::{Encoded, Example};
use super::objective::Objective;
use super::sample::{Available, Chosen, Counts};
use super::statistics::Statistics;
use super::task::{Split, Splits, Task, TaskError, no_train_file};
use super::tokenizer::Tokenizer;
use super::whole::encode_whole;
use std::path::Path;

/// Why the data of a run cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The rows cannot be read.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Rows cannot be encoded.
    #[error("{part} samples: {source}")]
    Encode {
        /// Which part: `train`, `dev` or `test`.
        part: &'static str,
        /// What is wrong.
        source: EncodeError,
    },
    /// Nothing is left to train on.
    #[error("no training samples are left: {rows} rows, of which {dev} are dev samples: lower data.dev or add rows")]
    NoTrainRows {
        /// Rows of the train split.
        rows: usize,
        /// Rows that went to dev.
        dev: usize,
    },
    /// Test samples are wanted of a data set without a test split.
    #[error("{wanted} test samples are wanted, but the data has no test split: add a test file or set data.test = 0")]
    NoTestSplit {
        /// Samples wanted.
        wanted: usize,
    },
}

/// One part of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The rows as text, in the order drawn; empty for a running text, whose sequences are not rows.
    pub examples: Vec<Example>,
    /// The rows as tokens, in the same order.
    pub encoded: Vec<Encoded>,
    /// The candidates of each row as tokens, in the same order, the row's own in theirs; empty where no row has any.
    pub candidates: Vec<Vec<Encoded>>,
}

impl Part {
    /// Length statistics of the part.
    pub fn statistics(&self) -> Statistics {
        Statistics::new(&self.encoded)
    }
}

/// The data of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// What is trained on.
    pub train: Part,
    /// What the best checkpoint is chosen by.
    pub dev: Part,
    /// What the result is measured on.
    pub test: Part,
}

impl Dataset {
    /// Reads, chooses and encodes the rows of a run.
    ///
    /// Under an objective of whole rows the sentences of a row are encoded, under any other what its task makes of it.
    /// Conversations need a `chat`, other tasks ignore it. `counts.test` of `None` takes the whole test split where there is one; a number above 0 asks for one.
    ///
    /// # Errors
    /// [`DatasetError`], before anything long is done: files that cannot be read, rows that cannot be used, nothing to
    /// train on.
    pub fn load(
        task: &Task,
        path: &Path,
        counts: Counts,
        tokenizer: &Tokenizer,
        options: &Options,
        chat: Option<&Chat>,
        objective: Objective,
    ) -> Result<Self, DatasetError> {
        let splits = (task.load)(path)?;
        if splits.train.is_empty() {
            return Err(no_train_file(path, task.extensions).into());
        }
        if splits.test.is_none() && counts.test.unwrap_or(0) > 0 {
            return Err(DatasetError::NoTestSplit { wanted: counts.test.unwrap_or(0) });
        }
        if task.form == Form::Windows {
            let encoded = |part: &'static str, rows: &[Example]| {
                encode(rows, task.form, tokenizer, options).map_err(|source| DatasetError::Encode { part, source })
            };
            return by_windows(&splits, counts, encoded);
        }
        by_rows(splits, counts, |part, examples| {
            let failed = |source| DatasetError::Encode { part, source };
            if objective.is_of_whole_rows() {
                let encoded = encode_whole(&examples, tokenizer, options).map_err(failed)?;
                return Ok(Part { examples, encoded, candidates: Vec::new() });
            }
            let encoded = match chat.filter(|_| task.form == Form::Chat) {
                Some(chat) => encode_chat(&examples, chat, tokenizer, options).map_err(failed)?,
                None => encode(&examples, task.form, tokenizer, options).map_err(failed)?,
            };
            let candidates = match examples.iter().all(|row| row.candidates.is_empty()) {
                true => Vec::new(),
                false => encode_candidates(&examples, task.form, tokenizer, options).map_err(failed)?,
            };
            Ok(Part { examples, encoded, candidates })
        })
    }
}

impl Dataset {
    /// All rows of one split, as text, in the order of the file; a single file is whichever split is asked for.
    ///
    /// # Errors
    /// [`TaskError`]: files that cannot be read, or a data set without that split.
    pub fn rows(task: &Task, path: &Path, split: Split) -> Result<Vec<Example>, TaskError> {
        let splits = (task.load)(path)?;
        if !path.is_dir() {
            return Ok(splits.train);
        }
        let (has, wanted) = (splits.names(), split.name());
        splits.take(split).ok_or_else(|| TaskError::NoSplit { path: path.to_path_buf(), wanted, has })
    }
}

fn by_rows(
    splits: Splits,
    counts: Counts,
    encoded: impl Fn(&'static str, Vec<Example>) -> Result<Part, DatasetError>,
) -> Result<Dataset, DatasetError> {
    let (valid, test) = (splits.valid.as_ref(), splits.test.as_ref());
    let chosen = choose(splits.train.len(), valid.map(Vec::len), test.map(Vec::len), counts)?;
    let part = |name, rows: &[Example], positions: &[usize]| {
        encoded(name, positions.iter().map(|position| rows[*position].clone()).collect())
    };
    Ok(Dataset {
        train: part("train", &splits.train, &chosen.train)?,
        dev: part("dev", valid.unwrap_or(&splits.train), &chosen.dev)?,
        test: part("test", test.map_or(&[], Vec::as_slice), &chosen.test)?,
    })
}

fn by_windows(
    splits: &Splits,
    counts: Counts,
    encoded: impl Fn(&'static str, &[Example]) -> Result<Vec<Encoded>, DatasetError>,
) -> Result<Dataset, DatasetError> {
    let train = encoded("train", &splits.train)?;
    let valid = splits.valid.as_ref().map(|rows| encoded("dev", rows)).transpose()?;
    let test = splits.test.as_ref().map(|rows| encoded("test", rows)).transpose()?;
    let chosen = choose(train.len(), valid.as_ref().map(Vec::len), test.as_ref().map(Vec::len), counts)?;
    let part = |windows: &[Encoded], positions: &[usize]| Part {
        encoded: positions.iter().map(|position| windows[*position].clone()).collect(),
        ..Part::default()
    };
    Ok(Dataset {
        train: part(&train, &chosen.train),
        dev: part(valid.as_ref().unwrap_or(&train), &chosen.dev),
        test: part(test.as_deref().unwrap_or(&[]), &chosen.test),
    })
}

fn choose(train: usize, valid: Option<usize>, test: Option<usize>, counts: Counts) -> Result<Chosen, DatasetError> {
    let chosen = Chosen::new(Available { train, valid, test }, counts);
    if chosen.train.is_empty() {
        let dev = if valid.is_some() { 0 } else { chosen.dev.len() };
        return Err(DatasetError::NoTrainRows { rows: train, dev });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::encode::Truncation;
    use crate::data::sample::permutation;
    use crate::data::task::find;
    use crate::data::tokenizer::tests::small;

    fn lines(prefix: &str, n: usize) -> String {
        (0..n).map(|i| format!("{{\"prompt\": \"{prefix}{i}:\", \"completion\": \" {i}\"}}\n")).collect()
    }

    fn counts(train: Option<usize>, dev: usize, test: Option<usize>) -> Counts {
        Counts { train, dev, test, seed: 42 }
    }

    fn load(task: &str, path: &Path, counts: Counts) -> Result<Dataset, DatasetError> {
        let options = Options { max_length: 8, truncation: Truncation::Left, append_eos: true };
        Dataset::load(find(task).unwrap(), path, counts, &small(), &options, None, Objective::Lm)
    }

    #[test]
    fn rows_are_drawn_and_encoded_in_the_permutation_s_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, lines("q", 10)).unwrap();
        let data = load("jsonl", &path, counts(Some(4), 3, None)).unwrap();
        let drawn = |part: &Part| part.examples.iter().map(|row| row.line - 1).collect::<Vec<_>>();
        assert_eq!((drawn(&data.train), drawn(&data.dev)), (vec![8, 1, 5, 0], vec![7, 2, 9]));
        assert_eq!(small().decode(&data.train.encoded[1].tokens, false).unwrap(), "<s>q1: 1</s>");
        assert_eq!(data.train.statistics().trained.unwrap().total, 12);
        assert!(data.test.encoded.is_empty());
    }

    #[test]
    fn a_folder_s_own_splits_are_used() {
        let folder = tempfile::tempdir().unwrap();
        for (name, rows) in [("train", 10), ("valid", 6), ("test", 5)] {
            std::fs::write(folder.path().join(format!("{name}.jsonl")), lines(&name[..1], rows)).unwrap();
        }
        let data = load("jsonl", folder.path(), counts(None, 2, None)).unwrap();
        assert_eq!((data.train.examples.len(), data.test.examples.len()), (10, 5));
        let dev: Vec<&str> = data.dev.examples.iter().map(|row| row.prompt.as_str()).collect();
        let expected: Vec<String> = permutation(43, 6)[..2].iter().map(|i| format!("v{i}:")).collect();
        assert_eq!(dev, expected);
    }

    #[test]
    fn a_running_text_is_divided_by_windows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "0123456789".repeat(7)).unwrap();
        let data = load("text", &path, counts(None, 3, None)).unwrap();
        // 70 tokens in windows of 7 and the begin token.
        assert_eq!((data.train.encoded.len(), data.dev.encoded.len()), (7, 3));
        assert!(data.train.encoded.iter().all(|window| window.tokens.len() == 8 && window.tokens[0] == 1));
    }

    #[test]
    fn candidates_are_encoded_beside_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        let row = |i: usize| {
            format!("{{\"prompt\": \"q{i}\", \"completion\": \" b\", \"candidates\": [\" a\", \" b\", \" cd\"]}}\n")
        };
        std::fs::write(&path, row(1) + &row(2)).unwrap();
        let data = load("jsonl", &path, counts(None, 0, None)).unwrap();
        assert_eq!(data.train.candidates.len(), 2);
        for (row, candidates) in data.train.encoded.iter().zip(&data.train.candidates) {
            assert_eq!((candidates.len(), &candidates[1]), (3, row));
        }
        std::fs::write(&path, lines("q", 3)).unwrap();
        assert!(load("jsonl", &path, counts(None, 0, None)).unwrap().train.candidates.is_empty());
    }

    #[test]
    fn rows_of_one_split_are_had_without_a_train_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.jsonl");
        std::fs::write(&path, lines("t", 4)).unwrap();
        let task = find("jsonl").unwrap();
        assert_eq!(Dataset::rows(task, folder.path(), Split::Test).unwrap().len(), 4);
        assert_eq!(Dataset::rows(task, &path, Split::Dev).unwrap().len(), 4);
        let error = Dataset::rows(task, folder.path(), Split::Train).unwrap_err().to_string();
        assert!(error.contains("has no train split, only test"), "{error}");
        let error = load("jsonl", folder.path(), counts(None, 0, None)).unwrap_err();
        assert!(matches!(error, DatasetError::Task(TaskError::NoTrainFile { .. })), "{error}");
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, lines("q", 3)).unwrap();
        assert!(matches!(load("jsonl", &path, counts(None, 0, Some(1))), Err(DatasetError::NoTestSplit { wanted: 1 })));
        let error = load("jsonl", &path, counts(Some(2), 9, Some(0))).unwrap_err();
        assert!(matches!(error, DatasetError::NoTrainRows { rows: 3, dev: 3 }), "{error}");
        std::fs::write(&path, lines("q", 3) + "{\"prompt\": \"p\", \"completion\": \"\"}\n").unwrap();
        let error = load("jsonl", &path, counts(None, 0, None)).unwrap_err().to_string();
        assert!(error.starts_with("train samples: 1 sample cannot be used\nsample "), "{error}");
        assert!(error.contains("(line 4): no trained token"), "{error}");
    }
}
