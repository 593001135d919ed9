//! From tokens to text while they are generated, and the rules by which a text ends.
//!
//! A newline often is not a token of its own: LLaMA-3 and Qwen write `.\n` as one token. The rule [`StopRule::Newline`] therefore looks at the decoded
//! text; the authors' rule, which waits for the newline token alone and may never fire, is kept by the name `reference`.

use super::generate::{Finish, GenerateError, GenerateOptions, generate};
use crate::data::tokenizer::{Tokenizer, TokenizerError};
use crate::model::Decoder;
use crate::tensor::{Real, Workspace};

/// What ends a text besides end tokens and length limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopRule {
    /// A newline anywhere in the decoded text; the text ends before it.
    #[default]
    Newline,
    /// The token that the tokenizer writes for a single newline, as in the authors' program: newlines inside of other tokens do not count. The text ends
    /// before it.
    NewlineToken,
    /// Nothing.
    None,
}

impl StopRule {
    /// All rules.
    pub const ALL: [Self; 3] = [Self::Newline, Self::NewlineToken, Self::None];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newline => "newline",
            Self::NewlineToken => "reference",
            Self::None => "none",
        }
    }

    /// The rule with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedText {
    /// The new text as it continues the prompt, without what the stop rule stopped at and without special tokens.
    pub text: String,
    /// The new tokens, with the one that the stop rule stopped at.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// Continues prompts by [`generate`] and decodes as it goes; `show(i, piece)` is given every new piece of text i as soon as it is whole characters.
///
/// # Errors
/// As [`generate`], and when a token cannot be decoded or the rule needs a newline token and the tokenizer has none.
pub fn generate_texts<T: Real>(
    model: &Decoder<T>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    rule: StopRule,
    options: &GenerateOptions,
    workspace: &Workspace<T>,
    mut show: impl FnMut(usize, &str),
) -> Result<Vec<GeneratedText>, GenerateError> {
    let newline = if rule == StopRule::NewlineToken { Some(newline_token(tokenizer)?) } else { None };
    let mut texts: Vec<TextStream> = prompts.iter().map(|prompt| TextStream::new(tokenizer, prompt)).collect();
    let mut failure = None;
    let generated = generate(model, prompts, options, workspace, |sequence, tokens| {
        let Some(&token) = tokens.last() else { return false };
        if newline == Some(token) {
            return true;
        }
        let text = &mut texts[sequence];
        let shown = text.settled.len();
        if let Err(error) = text.push(token) {
            failure = Some(error);
            return true;
        }
        let stops = rule == StopRule::Newline && text.cut_at_newline();
        if text.settled.len() > shown {
            show(sequence, &text.settled[shown..]);
        }
        stops
    })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let mut finished = Vec::with_capacity(prompts.len());
    for (sequence, (text, generated)) in texts.into_iter().zip(generated).enumerate() {
        if !text.pending.is_empty() {
            show(sequence, &text.pending);
        }
        let text = text.settled + &text.pending;
        finished.push(GeneratedText { text, tokens: generated.tokens, finish: generated.finish });
    }
    Ok(finished)
}

/// The token of a single newline.
fn newline_token(tokenizer: &Tokenizer) -> Result<u32, GenerateError> {
    // tokenizers that put a space in front of every text give two tokens, the last one is the newline
    let token = tokenizer.encode_bare("\n")?.last().copied().ok_or(GenerateError::NoNewlineToken)?;
    if tokenizer.decode(&[token], false)? == "\n" { Ok(token) } else { Err(GenerateError::NoNewlineToken) }
}

/// Decodes token by token. What a token adds depends on those before it (a leading space, a character of several tokens), so the last tokens are decoded with
/// and without the new ones; what is no whole character yet waits for the next token.
struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens that were settled last, at first the prompt's, and those that are not yet. It begins where a character does: some decoders give up a whole
    /// run of bytes for one that is cut.
    window: Vec<u32>,
    /// Tokens of the window whose text is settled.
    read: usize,
    /// The text up to there.
    settled: String,
    /// The text behind it, which the next token may change.
    pending: String,
}

impl<'a> TextStream<'a> {
    /// A text that continues `prompt`.
    fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        Self { tokenizer, window: prompt.to_vec(), read: prompt.len(), settled: String::new(), pending: String::new() }
    }

    fn push(&mut self, token: u32) -> Result<(), TokenizerError> {
        self.window.push(token);
        let before = self.tokenizer.decode(&self.window[..self.read], true)?;
        let after = self.tokenizer.decode(&self.window, true)?;
        // a decoder that mends what stands before (a space before a full stop) leaves no clean border: what is common is settled
        let common = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let added = &after[common..];
        if added.ends_with(char::REPLACEMENT_CHARACTER) {
            // a cut character may have spoilt the settled ones before it
            let spoilt = common < before.len();
            self.pending = match spoilt {
                true => self.tokenizer.decode(&self.window[self.read..], true)?,
                false => added.to_owned(),
            };
        } else {
            self.settled.push_str(added);
            self.pending.clear();
            // a token without text (a special one) is no place to begin at: the next would lose its leading space
            if !added.is_empty() {
                self.window.drain(..self.read);
            }
            self.read = self.window.len();
        }
        Ok(())
    }

    /// Ends the text before its first newline; whether there is one.
    fn cut_at_newline(&mut self) -> bool {
        if let Some(at) = self.settled.find('\n') {
            self.settled.truncate(at);
            self.pending.clear();
            return true;
        }
        let Some(at) = self.pending.find('\n') else { return false };
        self.pending.truncate(at);
        true
    }
}
