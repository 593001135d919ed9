//! Log-probability of every token of a text, and the mean loss over encoded samples.

use crate::adapter::Pass;
use crate::data::batch::{Weighting, pack};
use crate::data::example::Encoded;
use crate::model::Decoder;
use crate::tensor::{Real, Workspace};

/// How probable a model finds a token sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Natural logarithm of each token's probability given those before it; the first token has none.
    pub log_probabilities: Vec<f64>,
}

impl Score {
    /// Mean of the negative log-probabilities; none for fewer than two tokens.
    pub fn mean_loss(&self) -> Option<f64> {
        let count = self.log_probabilities.len();
        (count > 0).then(|| -self.log_probabilities.iter().sum::<f64>() / count as f64)
    }

    /// `exp(mean loss)`.
    pub fn perplexity(&self) -> Option<f64> {
        self.mean_loss().map(f64::exp)
    }
}

/// Scores one sequence; entry i of the result belongs to token i + 1.
///
/// # Panics
/// When a token id is not below the model's vocabulary size, or there is no token.
pub fn score_tokens<T: Real>(model: &Decoder<T>, tokens: &[u32], workspace: &Workspace<T>) -> Score {
    let whole = Encoded::with_tail(tokens.to_vec(), tokens.len(), false);
    let batch = pack(&[&whole], Weighting::Token);
    let pass = Pass { workspace, draw: None };
    Score { log_probabilities: workspace.run_awake(|| model.log_probabilities(&batch, &pass)) }
}

/// Mean loss over the trained tokens of `samples`, each token counting once, in packed batches of about `batch_tokens` tokens; none without a trained
/// token.
pub fn mean_loss<T: Real>(
    model: &Decoder<T>,
    samples: &[Encoded],
    batch_tokens: usize,
    workspace: &Workspace<T>,
) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    let mut rest = samples;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |sample: &&Encoded| {
            tokens += sample.tokens.len();
            tokens <= batch_tokens
        };
        let size = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(size);
        let batch = pack(&now.iter().collect::<Vec<_>>(), Weighting::Token);
        let pass = Pass { workspace, draw: None };
        let log_probabilities = workspace.run_awake(|| model.log_probabilities(&batch, &pass));
        sum -= log_probabilities.iter().sum::<f64>();
        count += log_probabilities.len();
        rest = later;
    }
    (count > 0).then(|| sum / count as f64)
}
