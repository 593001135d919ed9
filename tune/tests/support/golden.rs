//! Golden training runs: where they lie, and their tokens as packed batches.
//!
//! The files hold `input_ids` and `labels` of shape `[step, micro-batch, row, time]`; a label is predicted from the position before it and -100 counts for
//! nothing. What is compared with them is left to the suites.

use std::path::{Path, PathBuf};

use quanta_tune::adapter::Pass;
use quanta_tune::model::Decoder;
use quanta_tune::ops::Batch;
use quanta_tune::ops::loss::Label;
use quanta_tune::tensor::{Real, Workspace};

/// The repository's golden files.
pub fn own_golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden"))
}

/// Golden files given from outside.
pub fn given_golden() -> Option<PathBuf> {
    std::env::var_os("QUANTA_GOLDEN").map(PathBuf::from)
}

/// The tokens of a run.
pub struct Tokens {
    shape: Vec<usize>,
    ids: Vec<i64>,
    labels: Vec<i64>,
}

impl Tokens {
    /// Reads them from a safetensors file.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let read = |name: &str| -> Vec<i64> {
            let data = file.tensor(name).unwrap();
            data.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        Self {
            shape: file.tensor("input_ids").unwrap().shape().to_vec(),
            ids: read("input_ids"),
            labels: read("labels"),
        }
    }

    /// One micro-batch as packed roots; labels are those of the next token.
    pub fn batch(&self, step: usize, micro_batch: usize) -> Batch {
        let [_, micro_batches, rows, time] = self.shape[..] else { panic!("four axes") };
        let start = (step * micro_batches + micro_batch) * rows * time;
        let ids: Vec<u32> = self.ids[start..start + rows * time].iter().map(|&id| id as u32).collect();
        let labels = &self.labels[start..start + rows * time];
        let labels = (0..rows * time)
            .filter(|at| at % time > 0 && labels[*at] >= 0)
            .map(|at| Label { row: at - 1, target: labels[at] as u32, weight: 1.0 })
            .collect();
        Batch::packed(&ids.chunks(time).collect::<Vec<_>>(), labels)
    }
}

/// The logits of every token, row by row.
pub fn logits<T: Real>(model: &Decoder<T>, batch: &Batch, workspace: &Workspace<T>) -> Vec<T> {
    let rows: Vec<usize> = (0..batch.tokens.len()).collect();
    let pass = Pass { workspace, draw: None };
    workspace.run(|| model.logits(batch, &rows, &pass).data().to_vec())
}
