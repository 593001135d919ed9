//! Generation: prompts in, new tokens out, many sequences at a time.
//!
//! Prompts are run in packed batches, neighbours that begin alike as trees, and continue with kept keys and values, one pass a token for all live
//! sequences. A sequence that is finished leaves; when half of the places are free, the next prompts come in. What a sequence says does not depend on its
//! neighbours but for rounding (other row counts sum products in another order), and not on the threads at all.

use rayon::prelude::*;
use thiserror::Error;

use super::prefix::{fitting, plant};
use super::sampling::Sampling;
use crate::adapter::Pass;
use crate::data::tokenizer::TokenizerError;
use crate::model::{Continuation, Decoder, ModelConfig};
use crate::tensor::{Matrix, Real, Workspace};

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add to a prompt.
    pub max_new_tokens: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Tokens that end a sequence; they are not part of what is generated.
    pub end_tokens: Vec<u32>,
    /// Most sequences that are continued together.
    pub sequences: usize,
    /// About how many prompt tokens are run in one batch.
    pub prompt_tokens: usize,
}

impl Default for GenerateOptions {
    /// 50 tokens, the most probable each time; 64 sequences together.
    fn default() -> Self {
        let sampling = Sampling::default();
        Self { max_new_tokens: 50, sampling, end_tokens: Vec::new(), sequences: 64, prompt_tokens: 8192 }
    }
}

impl GenerateOptions {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// The first such setting.
    pub fn check(&self) -> Result<(), GenerateError> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(GenerateError::Temperature { temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(GenerateError::TopP { top_p });
        }
        let zero = [
            (top_k.unwrap_or(1), "top-k"),
            (self.max_new_tokens, "max-new-tokens"),
            (self.sequences, "the number of sequences"),
        ];
        zero.iter().find(|(count, _)| *count == 0).map_or(Ok(()), |&(_, name)| Err(GenerateError::Zero { name }))
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token came.
    Eos,
    /// The stop rule said so.
    Stop,
    /// `max_new_tokens` were generated, or prompt and new tokens fill the length the model was made for.
    Length,
}

impl Finish {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What followed a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, without an end token; with the token that the stop rule stopped at.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// Why nothing can be generated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A temperature below zero, or no number.
    #[error(
        "temperature {temperature} means nothing: zero takes the most probable token, larger numbers draw more evenly"
    )]
    Temperature {
        /// What was given.
        temperature: f64,
    },
    /// A share that is none.
    #[error("top-p {top_p} means nothing: it is a share of the probability, above 0 and at most 1")]
    TopP {
        /// What was given.
        top_p: f64,
    },
    /// A count of zero.
    #[error("{name} must be at least 1")]
    Zero {
        /// The setting.
        name: &'static str,
    },
    /// A prompt without tokens.
    #[error("prompt {prompt} is empty and the tokenizer has no begin token to start from: give it some text")]
    Empty {
        /// Index of the prompt, from 1.
        prompt: usize,
    },
    /// A prompt longer than the model's positions.
    #[error("prompt {prompt} has {tokens} tokens, more than the {max_length} this model was made for: shorten it")]
    TooLong {
        /// Index of the prompt, from 1.
        prompt: usize,
        /// Its tokens.
        tokens: usize,
        /// Longest sequence.
        max_length: usize,
    },
    /// A token without an embedding.
    #[error(
        "prompt {prompt} holds token {token}, beyond the model's {vocab_size} embeddings: the tokenizer belongs to another model"
    )]
    Vocabulary {
        /// Index of the prompt, from 1.
        prompt: usize,
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The model computes no numbers.
    #[error(
        "the model gives no finite logits after {position} new tokens of prompt {prompt}: its weights, or the adapter's, hold infinite values or NaN"
    )]
    NotFinite {
        /// Index of the prompt, from 1.
        prompt: usize,
        /// Tokens generated before.
        position: usize,
    },
    /// The stop rule needs a token that the tokenizer has not.
    #[error("the tokenizer writes no line end as a token of its own: use the stop rule `newline`")]
    NoNewlineToken,
    /// The tokenizer cannot decode what was generated.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl GenerateError {
    /// Whether the arguments are wrong, rather than the model or the data.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Temperature { .. } | Self::TopP { .. } | Self::Zero { .. } | Self::Empty { .. })
    }
}

/// Refuses prompts that the model cannot continue.
///
/// # Errors
/// The first prompt that is empty, too long, or holds a token beyond the vocabulary.
pub fn check_prompts(config: &ModelConfig, prompts: &[Vec<u32>]) -> Result<(), GenerateError> {
    let (vocab_size, max_length) = (config.vocab_size, config.max_length);
    for (prompt, tokens) in (1..).zip(prompts) {
        if tokens.is_empty() {
            return Err(GenerateError::Empty { prompt });
        }
        if tokens.len() > max_length {
            return Err(GenerateError::TooLong { prompt, tokens: tokens.len(), max_length });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(GenerateError::Vocabulary { prompt, token, vocab_size });
        }
    }
    Ok(())
}

/// Continues each prompt until an end token, the stop rule or a length limit; one result a prompt, in their order.
///
/// `stop(i, tokens)` is called after every new token of prompt i that is no end token, with all its new tokens; true ends the sequence. A prompt that
/// already has the model's greatest length gets no token.
///
/// # Errors
/// Settings or prompts that mean nothing, and logits that are no numbers.
pub fn generate<T: Real>(
    model: &Decoder<T>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    workspace: &Workspace<T>,
    mut stop: impl FnMut(usize, &[u32]) -> bool,
) -> Result<Vec<Generated>, GenerateError> {
    options.check()?;
    check_prompts(model.config(), prompts)?;
    let room = |prompt: &Vec<u32>| options.max_new_tokens.min(model.config().max_length - prompt.len());
    let mut run = Generation {
        model,
        options,
        workspace,
        limits: prompts.iter().map(room).collect(),
        results: vec![Generated { tokens: Vec::new(), finish: Finish::Length }; prompts.len()],
        live: Live { sequences: Vec::new(), continuations: Vec::new() },
    };
    let open: Vec<usize> = (0..prompts.len()).filter(|&index| run.limits[index] > 0).collect();
    let mut waiting = &open[..];
    loop {
        let places = options.sequences - run.live.sequences.len();
        if !waiting.is_empty() && 2 * places >= options.sequences {
            let next: Vec<&[u32]> = waiting.iter().take(places).map(|&index| &prompts[index][..]).collect();
            let (now, later) = waiting.split_at(fitting(&next, options.prompt_tokens, places));
            run.admit(now, &next[..now.len()], &mut stop)?;
            waiting = later;
        } else if !run.live.sequences.is_empty() {
            run.step(&mut stop)?;
        } else {
            return Ok(run.results);
        }
    }
}

/// The sequences that are being continued.
struct Live<T: Real> {
    /// The prompt of each.
    sequences: Vec<usize>,
    continuations: Vec<Continuation<T>>,
}

/// A call of [`generate`] on its way.
struct Generation<'a, T: Real> {
    model: &'a Decoder<T>,
    options: &'a GenerateOptions,
    workspace: &'a Workspace<T>,
    /// Most new tokens of each prompt.
    limits: Vec<usize>,
    results: Vec<Generated>,
    live: Live<T>,
}

impl<T: Real> Generation<'_, T> {
    /// Runs prompts and chooses the first token of each.
    fn admit(
        &mut self,
        sequences: &[usize],
        prompts: &[&[u32]],
        stop: &mut impl FnMut(usize, &[u32]) -> bool,
    ) -> Result<(), GenerateError> {
        let planted = plant(prompts);
        let (prefix, chosen) = self.workspace.run_awake(|| {
            let pass = Pass { workspace: self.workspace, draw: None };
            let (prefix, logits) = self.model.prefill(&planted.batch, &planted.last_rows(), &pass);
            (prefix, self.choose(sequences, &logits))
        });
        let continuations = planted.leaves.iter().map(|&leaf| prefix.continuation(leaf)).collect();
        let admitted = self.settle(Live { sequences: sequences.to_vec(), continuations }, chosen, stop)?;
        self.live.sequences.extend(admitted.sequences);
        self.live.continuations.extend(admitted.continuations);
        Ok(())
    }

    /// Gives every live sequence its last token and chooses the next.
    fn step(&mut self, stop: &mut impl FnMut(usize, &[u32]) -> bool) -> Result<(), GenerateError> {
        let mut live = std::mem::replace(&mut self.live, Live { sequences: Vec::new(), continuations: Vec::new() });
        let last = |&sequence: &usize| self.results[sequence].tokens.last().copied();
        let tokens: Vec<u32> = live.sequences.iter().filter_map(last).collect();
        let chosen = self.workspace.run_awake(|| {
            let pass = Pass { workspace: self.workspace, draw: None };
            let logits = self.model.step(&mut live.continuations, &tokens, &pass);
            self.choose(&live.sequences, &logits)
        });
        self.live = self.settle(live, chosen, stop)?;
        Ok(())
    }

    /// The next token of each sequence.
    fn choose(&self, sequences: &[usize], logits: &Matrix<T>) -> Vec<Option<u32>> {
        let choose = |(row, &sequence): (usize, &usize)| {
            self.options.sampling.choose(logits.row(row), sequence, self.results[sequence].tokens.len())
        };
        sequences.par_iter().enumerate().map(choose).collect()
    }

    /// Adds the chosen tokens to the results; what is not finished is left.
    fn settle(
        &mut self,
        live: Live<T>,
        chosen: Vec<Option<u32>>,
        stop: &mut impl FnMut(usize, &[u32]) -> bool,
    ) -> Result<Live<T>, GenerateError> {
        let mut left = Live { sequences: Vec::new(), continuations: Vec::new() };
        for ((sequence, continuation), token) in live.sequences.into_iter().zip(live.continuations).zip(chosen) {
            let result = &mut self.results[sequence];
            let position = result.tokens.len();
            let token = token.ok_or(GenerateError::NotFinite { prompt: sequence + 1, position })?;
            if self.options.end_tokens.contains(&token) {
                result.finish = Finish::Eos;
                continue;
            }
            result.tokens.push(token);
            if stop(sequence, &result.tokens) {
                result.finish = Finish::Stop;
            } else if result.tokens.len() < self.limits[sequence] {
                left.sequences.push(sequence);
                left.continuations.push(continuation);
            }
        }
        Ok(left)
    }
}
