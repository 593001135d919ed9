//! `quanta score`: how probable a model finds a text, token by token; what the head of an encoder gives for it.

use std::path::{Path, PathBuf};

use super::source::{Source, workspace};
use super::{ModelDtype, RunError};
use crate::data::tokenizer::Tokenizer;
use crate::eval::{Score, classify, score_tokens};
use crate::tensor::Real;

/// What to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoreInput {
    /// A text, encoded by the model's tokenizer with its begin token.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
    /// The text of a file.
    File(PathBuf),
}

/// What a model finds of a token sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Log-probabilities of all tokens but the first.
    Tokens(Score),
    /// Outputs of a head over whole sequences.
    Outputs(Vec<f64>),
}

/// A scored token sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreReport {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Their texts, where the folder has a tokenizer.
    pub texts: Option<Vec<String>>,
    /// What the model finds.
    pub finding: Finding,
}

/// Scores `input` with the model, run or adapter in `folder`; without a `dtype` a run is scored in its own. Adapters are merged in memory, see
/// [`Decoder::merge`](crate::model::Decoder::merge); beside weights held as bf16 they stay as they are.
///
/// # Errors
/// When the folder cannot be loaded or the input not be encoded.
pub fn score(
    folder: &Path,
    base: Option<&Path>,
    input: &ScoreInput,
    dtype: Option<ModelDtype>,
    threads: usize,
) -> Result<ScoreReport, RunError> {
    let source = Source::open(folder, base)?;
    let tokenizer = match input {
        ScoreInput::Tokens(_) => Tokenizer::from_folder(&source.base).ok(),
        _ => Some(Tokenizer::from_folder(&source.base)?),
    };
    // a head over whole sequences reads a text as its template prints it, end tokens included
    let is_encoder = source.config.labels.is_some();
    let encode = |text: &str| match &tokenizer {
        Some(tokenizer) if is_encoder => tokenizer.encode_template(text),
        Some(tokenizer) => tokenizer.encode(text),
        None => Ok(Vec::new()),
    };
    let tokens = match input {
        ScoreInput::Tokens(tokens) => tokens.clone(),
        ScoreInput::Text(text) => encode(text)?,
        ScoreInput::File(path) => {
            let text = std::fs::read_to_string(path).map_err(RunError::io("read", path))?;
            encode(&text)?
        }
    };
    if tokens.is_empty() {
        return Err(RunError::Usage("scoring needs a token".into()));
    }
    if !is_encoder && tokens.len() < 2 {
        return Err(RunError::Usage("scoring needs at least two tokens: each is scored given those before it".into()));
    }
    let (vocab_size, max_length) = (source.config.vocab_size, source.config.max_length);
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
        return Err(RunError::Vocabulary { token, vocab_size });
    }
    if tokens.len() > max_length {
        return Err(RunError::TooLong { tokens: tokens.len(), max_length });
    }
    let dtype = dtype.unwrap_or(source.dtype);
    let finding = match dtype {
        ModelDtype::F64 => run::<f64>(&source, &tokens, dtype, threads)?,
        _ => run::<f32>(&source, &tokens, dtype, threads)?,
    };
    let not_finite = match &finding {
        Finding::Tokens(score) => score.log_probabilities.iter().position(|p| !p.is_finite()).map(|before| before + 1),
        Finding::Outputs(outputs) => outputs.iter().position(|z| !z.is_finite()).map(|_| 0),
    };
    if let Some(position) = not_finite {
        return Err(RunError::ScoreNotFinite { position });
    }
    let texts = tokenizer.map(|tokenizer| tokens.iter().map(|&token| tokenizer.token_text(token)).collect());
    Ok(ScoreReport { tokens, texts, finding })
}

fn run<T: Real>(source: &Source, tokens: &[u32], dtype: ModelDtype, threads: usize) -> Result<Finding, RunError> {
    let workspace = workspace(threads)?;
    let model = source.load_merged::<T>(dtype.stored_as(), &workspace)?;
    if model.config().labels.is_some() {
        return Ok(Finding::Outputs(classify(&model, &[tokens], tokens.len(), &workspace).concat()));
    }
    Ok(Finding::Tokens(score_tokens(&model, tokens, &workspace)))
}
