//! The demonstration's data on disk: rows in DROP's form, and the text that its base was pretrained on.

use std::path::Path;

use serde_json::json;

use crate::data::demo::corpus::documents;
use crate::data::demo::questions::rows;
use crate::data::task::Split;
use crate::run::RunError;
use crate::weights::write_file;

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoCounts {
    /// Training rows.
    pub train: usize,
    /// Rows that choose the best adapter.
    pub dev: usize,
    /// Rows that the result is measured on.
    pub test: usize,
    /// Documents of the pretraining text; 0: none is written.
    pub documents: usize,
}

/// Writes `train.jsonl`, `dev.jsonl` and `test.jsonl` into `folder`, and `corpus.jsonl` and `corpus.txt` where documents are wanted.
///
/// # Errors
/// When a file cannot be written.
pub fn write_data(folder: &Path, counts: DemoCounts, seed: u64) -> Result<(), RunError> {
    std::fs::create_dir_all(folder).map_err(RunError::io("create", folder))?;
    for (split, count) in [(Split::Train, counts.train), (Split::Dev, counts.dev), (Split::Test, counts.test)] {
        let line = |row: crate::data::demo::questions::Row| {
            let value = json!({
                "passage": row.passage.text, "question": row.question, "answer": row.answer, "answers": [row.answer],
            });
            format!("{value}\n")
        };
        let text: String = rows(split, count, seed).into_iter().map(line).collect();
        write_file(&folder.join(format!("{}.jsonl", split.name())), text.as_bytes())?;
    }
    if counts.documents > 0 {
        let (mut lines, mut text) = (String::new(), String::new());
        for document in documents(0..counts.documents, seed) {
            lines.push_str(&format!("{}\n", json!({ "prompt": "", "completion": format!(" {document}") })));
            text.push_str(&format!(" {document}\n"));
        }
        write_file(&folder.join("corpus.jsonl"), lines.as_bytes())?;
        write_file(&folder.join("corpus.txt"), text.as_bytes())?;
    }
    Ok(())
}
