//! Outputs of a head over whole sequences, for many sequences in packed batches, and their loss.

use crate::adapter::Pass;
use crate::model::Decoder;
use crate::ops::Batch;
use crate::ops::target::{Answer, loss};
use crate::tensor::{Real, Workspace};

/// The outputs of the head for each sequence, in their order; batches hold about `batch_tokens` tokens.
///
/// # Panics
/// When a sequence is empty or longer than the model allows, a token id is not below its vocabulary size, or its head is one over the vocabulary.
pub fn classify<T: Real>(
    model: &Decoder<T>,
    sequences: &[&[u32]],
    batch_tokens: usize,
    workspace: &Workspace<T>,
) -> Vec<Vec<f64>> {
    let mut all = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |sequence: &&&[u32]| {
            tokens += sequence.len();
            tokens <= batch_tokens
        };
        let size = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(size);
        let batch = Batch::packed(now, Vec::new());
        let outputs = workspace.run_awake(|| model.outputs(&batch, &Pass { workspace, draw: None }));
        all.extend((0..now.len()).map(|row| outputs.row(row).iter().map(|z| z.to_f64()).collect::<Vec<f64>>()));
        rest = later;
    }
    all
}

/// The outputs of the head for each row, in their order, and the mean of the rows' losses.
///
/// # Panics
/// As [`classify`], and when a row's class is not below the number of outputs.
pub fn judge<T: Real>(
    model: &Decoder<T>,
    rows: &[(Vec<u32>, Answer)],
    batch_tokens: usize,
    workspace: &Workspace<T>,
) -> (Vec<Vec<f64>>, f64) {
    let sequences: Vec<&[u32]> = rows.iter().map(|(tokens, _)| &tokens[..]).collect();
    let outputs = classify(model, &sequences, batch_tokens, workspace);
    let sum: f64 = outputs.iter().zip(rows).map(|(outputs, (_, answer))| loss(outputs, *answer)).sum();
    (outputs, sum / rows.len().max(1) as f64)
}
