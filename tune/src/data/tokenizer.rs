//! The tokenizer of a Hugging Face model folder: text to token ids and back.
//!
//! It is here because `tokenizer.json` alone does not say which token begins and which ends a text, and because its
//! template may add an end token that must not stand before an answer. The encoding itself is the `tokenizers` crate's.
//! What a prompt looks like, and which tokens are trained, is left to `encode`.

use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tokenizers::models::ModelWrapper;
use tokenizers::{PostProcessor, TruncationParams, truncate_encodings};

use super::vocabulary;

/// Why a folder's tokenizer cannot be used, or a text cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file of the folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The folder has no tokenizer.
    #[error("no tokenizer in {}: there is no tokenizer.json, no tokenizer.model, and no vocab.json with merges.txt", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A special token is named that the vocabulary does not have.
    #[error("{}: {role} `{token}` is not in the vocabulary of tokenizer.json", path.display())]
    UnknownSpecial {
        /// The file that names it.
        path: PathBuf,
        /// `bos_token` or `eos_token`.
        role: &'static str,
        /// Its text.
        token: String,
    },
    /// `add_bos_token` is set, but no file names the token.
    #[error("{}: add_bos_token is true, but no file names bos_token: name it", folder.display())]
    NoBos {
        /// The folder.
        folder: PathBuf,
    },
    /// The tokenizer refuses a text.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// The tokenizer's reason.
        reason: String,
    },
    /// No tokenizer can be made of a text.
    #[error("cannot make a tokenizer: {reason}")]
    Train {
        /// The trainer's reason.
        reason: String,
    },
    /// The tokenizer refuses token ids.
    #[error("cannot decode the tokens: {reason}")]
    Decode {
        /// The tokenizer's reason.
        reason: String,
    },
}

/// How the begin-of-text token is put in front of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// As the template of `tokenizer.json` says.
    Template,
    /// Always: `add_bos_token` is true.
    Always,
    /// Never, even if the template has it: `add_bos_token` is false.
    Never,
}

/// A loaded tokenizer. Encoding is deterministic and may run on several threads at once.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    end_tokens: Vec<u32>,
    begin: Begin,
    adds_bos: bool,
    vocab_size: usize,
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    ///
    /// `tokenizer.json` holds the vocabulary and the rules; truncation, padding and merge dropout that may be stored
    /// in it are switched off. Where it is missing, `tokenizer.model` or `vocab.json` with `merges.txt` is read
    /// (`vocabulary`). The begin and end tokens are those that `tokenizer_config.json` names, else
    /// `special_tokens_map.json`, else the ids in `generation_config.json`, else in `config.json`. Those four files
    /// may be missing.
    ///
    /// # Errors
    /// [`TokenizerError`] naming the file: absent or malformed `tokenizer.json`, malformed other files, special tokens
    /// that are not in the vocabulary.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let (bytes, path, defaults) = match std::fs::read(&path) {
            Ok(bytes) => (bytes, path, [None, None]),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let rules = vocabulary::read(folder)?;
                let rules = rules.ok_or_else(|| TokenizerError::Missing { folder: folder.to_path_buf() })?;
                (rules.json, folder.to_path_buf(), [rules.bos, rules.eos])
            }
            Err(source) => return Err(TokenizerError::Read { path, source }),
        };
        let inner = parse(&bytes).map_err(|reason| TokenizerError::Malformed { path, reason })?;
        let names = [folder.join("tokenizer_config.json"), folder.join("special_tokens_map.json")];
        let numbers = [folder.join("generation_config.json"), folder.join("config.json")];
        let (named, numbered) = (read_objects(&names)?, read_objects(&numbers)?);

        let [default_bos, default_eos] = defaults.map(|token| token.and_then(|token| inner.token_to_id(&token)));
        let bos = ids(&inner, &named, &numbered, "bos_token", "bos_token_id")?.first().copied().or(default_bos);
        let mut end_tokens = ids(&inner, &named, &numbered, "eos_token", "eos_token_id")?;
        if end_tokens.is_empty() {
            end_tokens.extend(default_eos);
        }
        let begin = match named.iter().find_map(|(_, object)| object.get("add_bos_token")).and_then(Value::as_bool) {
            Some(true) if bos.is_none() => return Err(TokenizerError::NoBos { folder: folder.to_path_buf() }),
            Some(true) => Begin::Always,
            Some(false) => Begin::Never,
            None => Begin::Template,
        };
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |last| *last as usize + 1);
        let eos = end_tokens.first().copied();
        let mut tokenizer = Self { inner, bos, eos, end_tokens, begin, adds_bos: false, vocab_size };
        tokenizer.adds_bos = bos.is_some() && tokenizer.encode("a")?.first() == bos.as_ref();
        Ok(tokenizer)
    }

    /// The tokens of a text, with what the template puts in front and without what it puts behind.
    ///
    /// Where the folder asks for a begin token (`add_bos_token`, or the template), exactly one stands in front, also if
    /// the text spells one out itself. An end token that the text spells out stays.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.encoding(text, true)?;
        let (tokens, from_template) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let kept = from_template.iter().rposition(|flag| *flag == 0).map_or_else(
            // No text at all: of the template's tokens, those up to the begin token stand in front.
            || tokens.iter().position(|token| Some(*token) == self.bos).map_or(0, |first| first + 1),
            |last| last + 1,
        );
        let mut tokens = tokens[..kept].to_vec();
        let Some(bos) = self.bos else { return Ok(tokens) };
        let in_front = tokens.iter().take_while(|token| **token == bos).count();
        let from_template = in_front > 0 && from_template[0] == 1;
        match self.begin {
            Begin::Always if in_front == 0 => tokens.insert(0, bos),
            Begin::Always => drop(tokens.drain(1..in_front)),
            Begin::Template if from_template => drop(tokens.drain(1..in_front)),
            Begin::Never if from_template => drop(tokens.remove(0)),
            Begin::Template | Begin::Never => {}
        }
        Ok(tokens)
    }

    /// The tokens of a text and nothing else: no template, no begin token.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encoding(text, false)?.get_ids().to_vec())
    }

    /// The tokens of a text and nothing else, each with the bytes of the text that it stands for.
    ///
    /// The places cover the text in order: white space that a tokenizer leaves out of a token's own offsets belongs to
    /// the token behind it, and the tokens that share a character all stand for it.
    pub fn encode_placed(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode { reason: e.to_string() };
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        let mut before = 0;
        let place = |(token, offsets): (&u32, &(usize, usize))| {
            let start = offsets.0.min(before);
            before = before.max(offsets.1);
            (*token, start..before)
        };
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(place).collect())
    }

    /// The tokens of a text exactly as the template makes them, with its end tokens: what an encoder's head expects.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encoding(text, true)?.get_ids().to_vec())
    }

    /// The tokens of one or two sentences, joined as the template says, with its end tokens, and how many they are
    /// before they are cut to `max_length`: longest first, the template's own tokens never.
    pub fn encode_sentences(
        &self,
        first: &str,
        second: Option<&str>,
        max_length: usize,
    ) -> Result<(Vec<u32>, usize), TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode { reason: e.to_string() };
        let (first, second) =
            (self.encoding(first, false)?, second.map(|text| self.encoding(text, false)).transpose()?);
        let added = self.added_tokens(second.is_some());
        let before = first.len() + second.as_ref().map_or(0, tokenizers::Encoding::len) + added;
        let limit = TruncationParams { max_length: max_length.saturating_sub(added), ..TruncationParams::default() };
        let (first, second) = truncate_encodings(first, second, &limit).map_err(failed)?;
        let joined = self.inner.post_process(first, second, true).map_err(failed)?;
        Ok((joined.get_ids().to_vec(), before))
    }

    /// Whether the template puts something between two sentences.
    pub fn parts_pairs(&self) -> bool {
        self.added_tokens(true) > self.added_tokens(false)
    }

    fn added_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The text of some tokens; with `skip_special`, without special tokens. Ids beyond the vocabulary are left out.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(tokens, skip_special).map_err(|e| TokenizerError::Decode { reason: e.to_string() })
    }

    /// What one token adds to a text, for display: its own leading space included, special tokens spelled out.
    ///
    /// A token that is no text by itself (a byte of a longer character) is shown as the vocabulary spells it.
    pub fn token_text(&self, token: u32) -> String {
        let Some(spelling) = self.inner.id_to_token(token) else { return format!("<{token}?>") };
        // Decoders treat the first token apart (LLaMA's drops its space), so the token is decoded behind itself.
        let (once, twice) = (self.decode(&[token], false), self.decode(&[token, token], false));
        match (once, twice) {
            (Ok(once), Ok(twice)) => match twice.strip_prefix(&once) {
                Some(added) if !added.is_empty() && !added.contains('\u{fffd}') => added.to_string(),
                _ => spelling,
            },
            _ => spelling,
        }
    }

    /// The token that begins a text, if the folder names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the folder names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token that ends generation: [`eos`](Self::eos) first, then what `generation_config.json` and
    /// `config.json` add.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Whether [`encode`](Self::encode) puts the begin token in front.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether `add_bos_token` is set in the folder, rather than implied by the template.
    pub fn declares_bos(&self) -> bool {
        self.begin == Begin::Always
    }

    /// One past the largest token id: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn encoding(&self, text: &str, template: bool) -> Result<tokenizers::Encoding, TokenizerError> {
        self.inner.encode_fast(text, template).map_err(|e| TokenizerError::Encode { reason: e.to_string() })
    }
}

/// Reads `tokenizer.json`.
///
/// The `tokenizers` crate panics on some damaged files instead of answering an error: on broken syntax inside of
/// certain parts, and on parts that contradict themselves. Syntax is therefore checked first, and what still unwinds
/// is an error like any other.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| e.to_string())?;
    let trial = || {
        let inner = read_rules(bytes)?;
        // One text through every rule, so that contradictions show here and not in the middle of a run.
        inner.encode_fast("a \u{e9}\n", true).map_err(|e| e.to_string())?;
        Ok(inner)
    };
    std::panic::catch_unwind(trial).unwrap_or_else(|_| Err("its parts contradict each other".to_string()))
}

fn read_rules(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
    inner.with_truncation(None).map_err(|e| e.to_string())?;
    inner.with_padding(None);
    // Merge dropout draws from a hidden random stream: the same text would not give the same tokens twice.
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        inner.with_model(bpe);
    }
    Ok(inner)
}

pub(super) type Object = (PathBuf, serde_json::Map<String, Value>);

/// The objects of those of the files that exist.
pub(super) fn read_objects(paths: &[PathBuf]) -> Result<Vec<Object>, TokenizerError> {
    let mut objects = Vec::new();
    for path in paths {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(TokenizerError::Read { path: path.clone(), source }),
        };
        let object = serde_json::from_slice(&bytes)
            .map_err(|e| TokenizerError::Malformed { path: path.clone(), reason: e.to_string() })?;
        objects.push((path.clone(), object));
    }
    Ok(objects)
}

/// Ids of a special token: the named one first, then those that the model's files list, without repeats.
fn ids(
    inner: &tokenizers::Tokenizer,
    named: &[Object],
    numbered: &[Object],
    role: &'static str,
    key: &str,
) -> Result<Vec<u32>, TokenizerError> {
    let mut found: Vec<u32> = Vec::new();
    for (path, object) in named {
        // Either a text or an object with the text under `content`.
        let value = object.get(role).map(|value| value.get("content").unwrap_or(value));
        let Some(token) = value.and_then(Value::as_str) else { continue };
        let unknown = || TokenizerError::UnknownSpecial { path: path.clone(), role, token: token.to_string() };
        found.push(inner.token_to_id(token).ok_or_else(unknown)?);
        break;
    }
    for (_, object) in numbered {
        let listed = match object.get(key) {
            Some(Value::Array(items)) => items.as_slice(),
            Some(single) => std::slice::from_ref(single),
            None => &[],
        };
        // An id that the vocabulary lacks (some configs keep -1 or a default of another model) cannot occur in a text.
        let known = listed.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok());
        for id in known.filter(|id| inner.id_to_token(*id).is_some()) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
pub(in crate::data) mod tests;
