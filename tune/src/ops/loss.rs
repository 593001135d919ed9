//! Cross-entropy over a list of labels: logits exist only for rows that carry one, and only for a chunk of rows at a time.
//!
//! A label is `(row, target, weight)`. One row may carry several: the last token of a shared prompt predicts the first token of every candidate. Losses and
//! gradients are weighted *sums*; the training step divides once by the total weight. The [`Head`] may bend its logits below a soft cap.

use quanta_circuit::unit::SIDE;

use super::Weight;
use crate::tensor::vector::{log_sum_exp, widest};
use crate::tensor::{Matrix, Real, Workspace};

/// One prediction that counts: the hidden state of `row` is to give `target`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Token of the batch whose hidden state predicts.
    pub row: usize,
    /// The token id to be predicted.
    pub target: u32,
    /// Factor of this prediction's loss in the sum.
    pub weight: f64,
}

/// The output head: `z = hidden W^T`, and with a soft cap `c tanh(z / c)`.
pub struct Head<'a, T> {
    /// `W`, `[vocab, d]`.
    pub weight: &'a Weight<T>,
    /// Bound of the logits.
    pub softcap: Option<f64>,
}

impl<T: Real> Head<'_, T> {
    /// Logits of every row, `[n, vocab]`.
    pub fn logits(&self, hidden: &Matrix<T>, workspace: &Workspace<T>) -> Matrix<T> {
        let mut logits = self.weight.forward(hidden, workspace);
        if let Some(cap) = self.softcap.map(T::from_f64) {
            logits.data_mut().iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
        }
        logits
    }
}

/// Logits that exist at one time, in elements, of vocabularies that are not large.
const CHUNK: usize = 1 << 22;

/// Rows whose logits exist at one time: as many as a matrix unit wants, or more.
pub fn chunk_rows(vocab: usize) -> usize {
    (CHUNK / vocab.max(1)).max(SIDE)
}

/// Distinct rows of `labels` in ascending order: those the head has to compute.
pub fn rows(labels: &[Label]) -> Vec<usize> {
    let mut rows: Vec<usize> = labels.iter().map(|label| label.row).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Log-probability of each label's target, in the order of `labels`.
///
/// `hidden [rows.len(), d]` are the normalised states of [`rows`]`(labels)`.
pub fn log_probabilities<T: Real>(
    hidden: &Matrix<T>,
    head: &Head<'_, T>,
    labels: &[Label],
    workspace: &Workspace<T>,
) -> Vec<f64> {
    let mut out = vec![0.0; labels.len()];
    each_chunk(hidden, head, labels, workspace, |logits, _, order, first| {
        for &index in order {
            let label = labels[index];
            let row = logits.row(first[index]);
            out[index] = row[label.target as usize].to_f64() - log_sum_exp(row).to_f64();
        }
    });
    out
}

/// The weighted sum of `-log p(target)` and its gradient with respect to `hidden`.
///
/// `hidden [rows.len(), d]`; the gradient has the shape of `hidden`: `d logits = weight (softmax - onehot)`, times `1 - (logits / c)^2` below a soft cap c.
/// The head's own gradient is added to `d_head [vocab * d]` where one is given. Weights may be negative.
pub fn forward_backward<T: Real>(
    hidden: &Matrix<T>,
    head: &Head<'_, T>,
    labels: &[Label],
    mut d_head: Option<&mut [T]>,
    workspace: &Workspace<T>,
) -> (f64, Matrix<T>) {
    let mut losses = vec![0.0; labels.len()];
    let mut d_hidden = workspace.matrix(hidden.rows(), hidden.cols());
    each_chunk(hidden, head, labels, workspace, |logits, start, order, first| {
        let mut at = 0;
        for row in 0..logits.rows() {
            let values = logits.row_mut(row);
            let bent: Vec<T> = head.softcap.map_or(Vec::new(), |_| values.to_vec());
            let log_sum = log_sum_exp(values);
            let mut total = 0.0;
            let labelled = order[at..].iter().take_while(|&&index| first[index] == row).count();
            for &index in &order[at..at + labelled] {
                let label = labels[index];
                losses[index] = label.weight * (log_sum.to_f64() - values[label.target as usize].to_f64());
                total += label.weight;
            }
            let total = T::from_f64(total);
            weigh(values, log_sum, total);
            for &index in &order[at..at + labelled] {
                values[labels[index].target as usize] -= T::from_f64(labels[index].weight);
            }
            let inverse_cap = T::from_f64(head.softcap.map_or(0.0, |cap| 1.0 / cap));
            for (value, &bent) in values.iter_mut().zip(&bent) {
                let share = bent * inverse_cap;
                *value *= T::ONE - share * share;
            }
            at += labelled;
        }
        let mut chunk = workspace.matrix(logits.rows(), hidden.cols());
        head.weight.backward(logits, &mut chunk, false, workspace);
        let cols = hidden.cols();
        d_hidden.data_mut()[start * cols..][..chunk.data().len()].copy_from_slice(chunk.data());
        if let Some(d_head) = &mut d_head {
            chunk.copy_from(&hidden.data()[start * cols..][..chunk.data().len()]);
            head.weight.gradient(&chunk, logits, d_head);
        }
    });
    (losses.iter().sum(), d_hidden)
}

/// Computes logits chunk by chunk and calls `work(logits, first_row, order, row_in_chunk)`: `order` are the chunk's labels sorted by row, and
/// `row_in_chunk[label]` the row of `logits` that a label reads.
fn each_chunk<T: Real>(
    hidden: &Matrix<T>,
    head: &Head<'_, T>,
    labels: &[Label],
    workspace: &Workspace<T>,
    mut work: impl FnMut(&mut Matrix<T>, usize, &[usize], &[usize]),
) {
    let rows = rows(labels);
    assert_eq!(rows.len(), hidden.rows(), "hidden states of exactly the labelled rows");
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&index| labels[index].row);
    let height = chunk_rows(head.weight.rows());
    let mut local = vec![0; labels.len()];
    let mut from = 0;
    for start in (0..rows.len()).step_by(height) {
        let end = (start + height).min(rows.len());
        let count = order[from..].iter().take_while(|&&index| labels[index].row <= rows[end - 1]).count();
        let mut row = start;
        for &index in &order[from..from + count] {
            while rows[row] != labels[index].row {
                row += 1;
            }
            local[index] = row - start;
        }
        let mut part = workspace.matrix(end - start, hidden.cols());
        part.copy_from(&hidden.data()[start * hidden.cols()..end * hidden.cols()]);
        let mut logits = head.logits(&part, workspace);
        work(&mut logits, start, &order[from..from + count], &local);
        from += count;
    }
}

widest! {
    /// Turns a row of logits into `factor softmax`.
    fn weigh<T: Real>(row: &mut [T], log_sum: T, factor: T) {
        row.iter_mut().for_each(|value| *value = factor * (*value - log_sum).exp());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Storage;
    use crate::ops::difference::{check, numbers};

    #[test]
    fn gradient_and_log_probabilities_agree_with_the_loss() {
        let workspace = Workspace::new(1).unwrap();
        let values = numbers(9 * 5, "head");
        let weight = |values: &[f64]| Weight::new(Storage::Dense(values.to_vec()), 9, 5);
        let label = |row, target, weight| Label { row, target, weight };
        // row 4 predicts two tokens, out of order
        let labels = [label(4, 2, 1.0), label(0, 8, 0.5), label(4, 7, 2.0), label(9, 0, 1.0)];
        assert_eq!(rows(&labels), [0, 4, 9]);
        let hidden = numbers(3 * 5, "hidden");
        let matrix = |values: &[f64]| {
            let mut m = workspace.matrix(3, 5);
            m.copy_from(values);
            m
        };
        for softcap in [None, Some(2.0)] {
            let loss = |hidden: &[f64], values: &[f64], d_head: Option<&mut [f64]>| {
                let head = Head { weight: &weight(values), softcap };
                forward_backward(&matrix(hidden), &head, &labels, d_head, &workspace)
            };
            let mut d_head = vec![0.0; 9 * 5];
            let (sum, gradient) = loss(&hidden, &values, Some(&mut d_head));
            check("d head", &values, &d_head, |values| loss(&hidden, values, None).0);
            check("d hidden", &hidden, gradient.data(), |hidden| loss(hidden, &values, None).0);
            let head = Head { weight: &weight(&values), softcap };
            let log_p = log_probabilities(&matrix(&hidden), &head, &labels, &workspace);
            let expected: f64 = log_p.iter().zip(&labels).map(|(log_p, label)| -label.weight * log_p).sum();
            assert!((sum - expected).abs() < 1e-12);
            let largest = head.logits(&matrix(&hidden), &workspace).data().iter().fold(0.0f64, |m, z| m.max(z.abs()));
            assert_eq!(largest < 2.0, softcap.is_some(), "{largest}");
        }
    }

    #[test]
    fn chunks_do_not_change_the_loss() {
        let workspace = Workspace::new(2).unwrap();
        // 3 rows a chunk: CHUNK / vocab
        let vocab = CHUNK / 3;
        let weight = Weight::new(Storage::Dense(numbers(vocab, "head").iter().map(|v| *v as f32).collect()), vocab, 1);
        let head = Head { weight: &weight, softcap: None };
        let labels: Vec<Label> = (0..8).map(|i| Label { row: 2 * i, target: 5 * i as u32, weight: 1.0 }).collect();
        let mut hidden = workspace_matrix(8);
        hidden.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * i as f32);
        let all = forward_backward(&hidden, &head, &labels, None, &Workspace::new(2).unwrap());
        for (i, label) in labels.iter().enumerate() {
            let mut one = workspace_matrix(1);
            one.copy_from(hidden.row(i));
            let (_, gradient) =
                forward_backward(&one, &head, &[Label { row: 0, ..*label }], None, &Workspace::new(1).unwrap());
            // a sum of `vocab` products in f32, in another blocking
            assert!((gradient.row(0)[0] - all.1.row(i)[0]).abs() < 1e-4, "row {i}");
        }
        drop(workspace as Workspace<f32>);

        fn workspace_matrix(rows: usize) -> Matrix<f32> {
            Workspace::new(1).unwrap().matrix(rows, 1)
        }
    }
}
