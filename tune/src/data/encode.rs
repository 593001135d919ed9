//! From text to tokens: which tokens a row has, which of them are trained, and what is cut where it is too long.
//!
//! It is here, in one file, because the numbers of a run depend on every detail of it. Three forms exist: a task's
//! template (the rule of the authors' program), a text exactly as given with an end token behind, and a running text
//! in windows. Reading rows is left to the tasks, choosing them to `sample`.
//!
//! In the first two forms the trained tokens are the last tokens(prompt + completion) - tokens(prompt) of the whole
//! text's encoding: a tokenizer may merge across the boundary, so the prompt's own tokens need not be a prefix of the
//! whole. Where a merge leaves nothing by that count (`Q: ` and `yes`, if ` yes` is one token), the trained tokens are
//! those from the first that differs from the prompt's own; the authors' program would train on nothing.

use super::chat::ChatError;
use super::example::{Encoded, Example};
use super::python::strip_start;
use super::tokenizer::{Tokenizer, TokenizerError};
use rayon::prelude::*;
use std::fmt;
use std::ops::Range;

/// How the text of a row becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Spaces at the prompt's ends are dropped; so are white space before the whole text and spaces behind it (a final
    /// newline stays). No end token.
    Template,
    /// Prompt and completion as they are; the end token behind, if wanted.
    Exact,
    /// A running text, cut into windows of the length limit; every token after a window's first is trained.
    Windows,
    /// A conversation, printed by the model's chat template, the messages of chosen roles trained; see
    /// [`encode_chat`](super::chat::encode_chat).
    Chat,
}

/// What is done with a row that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// Tokens are cut from the front; the begin token stays.
    Left,
    /// Tokens are cut from the end, trained ones first.
    Right,
    /// Tokens are cut from the end of the longer of two sentences, until both are equally long, then of both: what
    /// transformers does for encoders. In a single text as [`Right`](Self::Right).
    LongestFirst,
    /// It is an error.
    Refuse,
    /// As [`Left`](Self::Left), but the begin token stays only where `add_bos_token` is set in the tokenizer's folder:
    /// what the authors' program does. LLaMA-3's begin token, which comes from its template, is lost then.
    Reference,
}

impl Truncation {
    /// Every policy with its name in a config.
    pub const NAMES: [(&'static str, Truncation); 5] = [
        ("left", Truncation::Left),
        ("right", Truncation::Right),
        ("longest-first", Truncation::LongestFirst),
        ("refuse", Truncation::Refuse),
        ("reference-truncation", Truncation::Reference),
    ];
}

/// The settings of an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Most tokens of one sequence, the begin and end tokens included; at least 2. For a task that generates, what is
    /// left after the new tokens.
    pub max_length: usize,
    /// What is done with longer ones.
    pub truncation: Truncation,
    /// Whether [`Form::Exact`] puts the end token behind the completion.
    pub append_eos: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_length: 2048, truncation: Truncation::Left, append_eos: true }
    }
}

/// Why one row cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The completion has no token of its own.
    #[error("no trained token: the completion adds no token to the prompt, give it a text")]
    NoTrainedToken,
    /// All of the completion was cut off.
    #[error(
        "no trained token is left of {tokens} tokens at max_length {max_length}: raise it or use truncation \"left\""
    )]
    AllCut {
        /// Tokens before the cut.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// The row is longer than the limit, and the policy is to refuse.
    #[error("{tokens} tokens exceed max_length {max_length}: raise it, or set truncation to \"left\" or \"right\"")]
    TooLong {
        /// Tokens of the row.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// A conversation in which none of the roles to train speaks.
    #[error("no message of the roles {roles}: choose others in data.roles, or leave the conversation out")]
    NoTrainedRole {
        /// The roles to train.
        roles: String,
    },
    /// The chat template cannot print the conversation.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The tokenizer refuses the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One row that cannot be used.
#[derive(Debug)]
pub struct RowFailure {
    /// Position among the rows given, from 0.
    pub index: usize,
    /// Position in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub error: RowError,
}

/// Why rows cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The limit leaves no room.
    #[error("max_length {max_length} is too short: a sequence needs at least 2 tokens, one to read and one to predict")]
    LimitTooShort {
        /// The limit.
        max_length: usize,
    },
    /// An end token is wanted, and the tokenizer names none.
    #[error("the tokenizer names no end token: name eos_token in tokenizer_config.json, or set append_eos = false")]
    NoEndToken,
    /// Conversations are to be encoded without a template.
    #[error("conversations need the model's chat template: add chat_template.jinja to its folder")]
    NoChatTemplate,
    /// Rows have two sentences, and the tokenizer does not tell them apart.
    #[error(
        "the tokenizer puts nothing between two sentences: give tokenizer.json a post_processor for pairs, as encoders have one"
    )]
    NoPairs,
    /// Some rows cannot be used: all of them are listed, the first 20 printed.
    #[error("{}", Failures(failures))]
    Rows {
        /// Every row that failed, in order.
        failures: Vec<RowFailure>,
    },
}

struct Failures<'a>(&'a [RowFailure]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "sample" } else { "samples" };
        write!(f, "{} {plural} cannot be used", self.0.len())?;
        for RowFailure { index, line, error } in self.0.iter().take(PRINTED_FAILURES) {
            write!(f, "\nsample {index} (line {line}): {error}")?;
        }
        match self.0.len().saturating_sub(PRINTED_FAILURES) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

const PRINTED_FAILURES: usize = 20;

/// Bytes of running text that are tokenised at once: a tokenizer's working memory is many times its text's size.
const CHUNK_BYTES: usize = 1 << 20;

/// Encodes rows, in order; [`Form::Windows`] makes any number of sequences from a row, the others one.
///
/// # Errors
/// [`EncodeError`]: settings that cannot work, or every row that has no trained token, is too long under
/// [`Truncation::Refuse`], or is refused by the tokenizer.
pub fn encode(
    examples: &[Example],
    form: Form,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Vec<Encoded>, EncodeError> {
    let end = end_token(form, tokenizer, options)?;
    if form == Form::Chat {
        return Err(EncodeError::NoChatTemplate);
    }
    let row = |example: &Example| match form {
        Form::Windows => windows(&example.completion, tokenizer, options.max_length),
        _ => encode_row(&example.prompt, &example.completion, form, end, tokenizer, options).map(|row| vec![row]),
    };
    Ok(collect(examples, row)?.into_iter().flatten().collect())
}

/// Encodes every candidate of every row behind the row's prompt, each with its own trained tokens.
///
/// The prompt is computed once where the sequences of a row begin alike, see
/// [`shared_prefix`](super::example::shared_prefix).
///
/// # Errors
/// As [`encode`].
pub fn encode_candidates(
    examples: &[Example],
    form: Form,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Vec<Vec<Encoded>>, EncodeError> {
    let end = end_token(form, tokenizer, options)?;
    collect(examples, |example| {
        let candidates = example.candidates.iter();
        candidates.map(|text| encode_row(&example.prompt, text, form, end, tokenizer, options)).collect()
    })
}

/// Encodes the prompt alone, for generation: cut to the limit, nothing trained, never an end token.
///
/// # Errors
/// [`RowError::TooLong`] under [`Truncation::Refuse`], or the tokenizer's error.
pub fn encode_prompt(
    prompt: &str,
    form: Form,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<(Vec<u32>, bool), RowError> {
    let text = if form == Form::Template { strip_start(prompt).trim_matches(' ') } else { prompt };
    let mut tokens = tokenizer.encode(text)?;
    let removed = cut(&tokens, tokenizer, options)?;
    tokens.drain(removed.clone());
    Ok((tokens, !removed.is_empty()))
}

fn end_token(form: Form, tokenizer: &Tokenizer, options: &Options) -> Result<Option<u32>, EncodeError> {
    check_limit(options)?;
    match (form == Form::Exact && options.append_eos, tokenizer.eos()) {
        (true, None) => Err(EncodeError::NoEndToken),
        (wanted, end) => Ok(end.filter(|_| wanted)),
    }
}

/// Refuses a limit that leaves nothing to predict.
pub(super) fn check_limit(options: &Options) -> Result<(), EncodeError> {
    match options.max_length {
        0 | 1 => Err(EncodeError::LimitTooShort { max_length: options.max_length }),
        _ => Ok(()),
    }
}

/// Applies `row` to every example on all threads; the results stand in the examples' order.
pub(super) fn collect<T: Send>(
    examples: &[Example],
    row: impl Fn(&Example) -> Result<T, RowError> + Sync + Send,
) -> Result<Vec<T>, EncodeError> {
    let results: Vec<Result<T, RowError>> = examples.par_iter().map(row).collect();
    let (mut rows, mut failures) = (Vec::with_capacity(examples.len()), Vec::new());
    for (index, (result, example)) in results.into_iter().zip(examples).enumerate() {
        match result {
            Ok(row) => rows.push(row),
            Err(error) => failures.push(RowFailure { index, line: example.line, error }),
        }
    }
    if failures.is_empty() { Ok(rows) } else { Err(EncodeError::Rows { failures }) }
}

fn encode_row(
    prompt: &str,
    completion: &str,
    form: Form,
    end: Option<u32>,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Encoded, RowError> {
    let whole = format!("{prompt}{completion}");
    let (prompt, whole) = match form {
        Form::Template => (prompt.trim_matches(' '), whole.trim_matches(' ')),
        _ => (prompt, whole.as_str()),
    };
    let mut tokens = tokenizer.encode(whole)?;
    let alone = tokenizer.encode(prompt)?;
    let answer = match tokens.len().saturating_sub(alone.len()) {
        0 => tokens.len() - tokens.iter().zip(&alone).take_while(|(a, b)| a == b).count(),
        more => more,
    };
    // The authors count on the texts as they are, and drop what white space stands in front of the whole only
    // afterwards.
    if form == Form::Template && strip_start(whole).len() < whole.len() {
        tokens = tokenizer.encode(strip_start(whole).trim_matches(' '))?;
    }
    if answer == 0 {
        // An end token alone would train the model to say nothing.
        return Err(RowError::NoTrainedToken);
    }
    tokens.extend(end);
    let before = tokens.len();
    let removed = cut(&tokens, tokenizer, options)?;
    tokens.drain(removed.clone());
    let truncated = !removed.is_empty();
    let first_trained = before - (answer + usize::from(end.is_some())).min(before);
    let trained = match options.truncation {
        Truncation::Right | Truncation::LongestFirst => tokens.len().saturating_sub(first_trained),
        _ => before - first_trained,
    };
    // Nothing stands before the first token that could predict it; a begin token is given, never predicted.
    let trained = trained.min(tokens.len().saturating_sub(1));
    match trained {
        0 if truncated => Err(RowError::AllCut { tokens: before, max_length: options.max_length }),
        0 => Err(RowError::NoTrainedToken),
        _ => Ok(Encoded::with_tail(tokens, trained, truncated)),
    }
}

/// The positions to take out of a sequence so that it fits the limit; empty where it fits.
pub(super) fn cut(tokens: &[u32], tokenizer: &Tokenizer, options: &Options) -> Result<Range<usize>, RowError> {
    let (length, max_length) = (tokens.len(), options.max_length);
    if length <= max_length {
        return Ok(0..0);
    }
    let begins = tokens.first().copied() == tokenizer.bos();
    let keeps_first = match options.truncation {
        Truncation::Refuse => return Err(RowError::TooLong { tokens: length, max_length }),
        Truncation::Right | Truncation::LongestFirst => return Ok(max_length..length),
        Truncation::Left => begins,
        Truncation::Reference => begins && tokenizer.declares_bos(),
    };
    let first = usize::from(keeps_first);
    Ok(first..length - max_length + first)
}

/// Cuts a running text into windows of at most `max_length` tokens.
///
/// With a begin token, each window is that token and the next `max_length - 1` of the text. Without, each window
/// starts with the last token of the one before, so that here too every token of the text (but its very first) is
/// trained exactly once. A last window of fewer than two tokens is dropped.
fn windows(text: &str, tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Encoded>, RowError> {
    let pieces: Vec<&str> = chunks(text, CHUNK_BYTES);
    let tokens: Vec<Vec<u32>> =
        pieces.par_iter().map(|piece| tokenizer.encode_bare(piece)).collect::<Result<_, TokenizerError>>()?;
    let tokens = tokens.concat();
    let begin = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let overlap = usize::from(begin.is_none());
    let starts = (0..tokens.len()).step_by(max_length - 1);
    let window = |start: usize| {
        let end = (start + max_length - 1 + overlap).min(tokens.len());
        let tokens: Vec<u32> = begin.into_iter().chain(tokens[start..end].iter().copied()).collect();
        Encoded::with_tail(tokens, max_length, false)
    };
    let windows: Vec<Encoded> = starts.map(window).filter(|window| !window.trained.is_empty()).collect();
    if windows.is_empty() { Err(RowError::NoTrainedToken) } else { Ok(windows) }
}

/// Pieces of at least `size` bytes that end behind a newline which no white space follows, so that no token of a usual
/// tokenizer spans two.
fn chunks(text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > size {
        let bytes = rest.as_bytes();
        let ends = |i: &usize| bytes[*i - 1] == b'\n' && !bytes[*i].is_ascii_whitespace();
        let Some(end) = (size..bytes.len()).find(ends) else { break };
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
