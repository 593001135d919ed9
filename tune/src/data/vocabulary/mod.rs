//! Tokenizers of folders without `tokenizer.json`: the same rules, made from the vocabulary files that came before it.
//!
//! Three kinds of files are read: a SentencePiece `tokenizer.model` (LLaMA 1 and 2, Mistral), a `tokenizer.model` of ranked byte strings (LLaMA 3), and
//! `vocab.json` with `merges.txt` (GPT-2, Qwen2, RoBERTa). Each becomes what Hugging Face's converters make of it, as the JSON of a `tokenizer.json`, so
//! that there is one way in: `tokenizer` reads it like any other. Which tokens are special, and whether one begins a text, is in
//! `tokenizer_config.json` and its siblings ([`settings`]). What the files do not say and a converter would have to guess is an error.

mod base64;
mod byte_level;
mod protobuf;
mod ranks;
mod sentencepiece;
mod settings;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Value, json};

use super::tokenizer::TokenizerError;
use settings::{Added, Settings};

/// Longest entry of a vocabulary, in bytes: looking for its parts takes time that grows with the square.
const LONGEST_TOKEN: usize = 1024;

/// What a folder's vocabulary files make.
#[derive(Debug)]
pub(super) struct Rules {
    /// A `tokenizer.json`.
    pub(super) json: Vec<u8>,
    /// The begin token that goes with such files where no other file names one.
    pub(super) bos: Option<String>,
    /// As `bos`, the end token.
    pub(super) eos: Option<String>,
}

/// The parts of a `tokenizer.json` that one kind of file determines.
struct Parts {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    front: Front,
    /// Tokens that are found in a text before anything else, as the files themselves say.
    added: Vec<Added>,
    bos: Option<String>,
    eos: Option<String>,
    /// The model's entries with their numbers.
    vocabulary: Vocabulary,
}

/// What is put around a text.
enum Front {
    /// The begin token if the settings do not say otherwise (the argument), and the end token if they ask for it.
    Template(bool),
    /// `<s> text </s>`, the tokens being those of the roles `cls_token` and `sep_token`.
    Enclosed,
}

type Vocabulary = std::collections::HashMap<String, u32>;

/// Makes the rules of a folder without `tokenizer.json`; none if it has no vocabulary that is known.
///
/// # Errors
/// [`TokenizerError`] naming the file that is malformed or asks for something else than is done here.
pub(super) fn read(folder: &Path) -> Result<Option<Rules>, TokenizerError> {
    let model = folder.join("tokenizer.model");
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let parts = if let Some(bytes) = read_if_there(&model)? {
        let settings = Settings::read(folder)?;
        let parts = match ranks::looks_like(&bytes) {
            true => ranks::parts(&bytes, &settings),
            false => sentencepiece::parts(&bytes, &settings),
        };
        (settings, parts.map_err(|reason| malformed(&model, reason))?)
    } else if let (Some(vocab_bytes), Some(merges_bytes)) = (read_if_there(&vocab)?, read_if_there(&merges)?) {
        let settings = Settings::read(folder)?;
        let parts = byte_level::parts(&vocab_bytes, &merges_bytes, &settings);
        let at = |file: byte_level::File| if file == byte_level::File::Merges { &merges } else { &vocab };
        (settings, parts.map_err(|(file, reason)| malformed(at(file), reason))?)
    } else {
        return Ok(None);
    };
    let (settings, parts) = parts;
    assemble(parts, &settings).map(Some).map_err(|reason| malformed(folder, reason))
}

/// Puts the parts together.
fn assemble(parts: Parts, settings: &Settings) -> Result<Rules, String> {
    let Parts { model, normalizer, pre_tokenizer, decoder, front, added, bos, eos, vocabulary } = parts;
    let named = |role: &str, default: &Option<String>| settings.special(role).or_else(|| default.clone());
    let (begin, end) = (named("bos_token", &bos), named("eos_token", &eos));
    let added = settings.place(&vocabulary, added, [&begin, &end].into_iter().flatten())?;
    let id = |token: &str| {
        let new = added.iter().find(|(_, added)| added.content == token).map(|(id, _)| *id);
        let id = new.or_else(|| vocabulary.get(token).copied());
        id.ok_or_else(|| format!("token `{token}` is not in the vocabulary"))
    };
    let post_processor = match front {
        Front::Enclosed => {
            let role = |role: &str, default: &str| {
                let token = settings.special(role).unwrap_or_else(|| default.to_owned());
                id(&token).map(|id| json!([token, id]))
            };
            json!({
                "type": "RobertaProcessing", "sep": role("sep_token", "</s>")?, "cls": role("cls_token", "<s>")?,
                "trim_offsets": true, "add_prefix_space": settings.add_prefix_space.unwrap_or(false),
            })
        }
        Front::Template(by_default) => {
            let begin = begin.as_ref().filter(|_| settings.add_bos.unwrap_or(by_default));
            let end = end.as_ref().filter(|_| settings.add_eos.unwrap_or(false));
            let with_id = |token: &String| id(token).map(|id| (token.clone(), id));
            template(begin.map(with_id).transpose()?, end.map(with_id).transpose()?)
        }
    };
    let added: Vec<Value> = added.iter().map(|(id, added)| added.to_value(*id)).collect();
    let rules = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model,
    });
    let known = |token: Option<String>| token.filter(|token| id(token).is_ok());
    Ok(Rules { json: rules.to_string().into_bytes(), bos: known(bos), eos: known(eos) })
}

/// A template that puts these tokens around a text.
fn template(begin: Option<(String, u32)>, end: Option<(String, u32)>) -> Value {
    let special = |token: &Option<(String, u32)>, part: u32| {
        token.as_ref().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": part } }))
    };
    let sequence = |name: &str, part: u32| {
        let text = json!({ "Sequence": { "id": name, "type_id": part } });
        [special(&begin, part), Some(text), special(&end, part)].into_iter().flatten().collect::<Vec<_>>()
    };
    let (single, second) = (sequence("A", 0), sequence("B", 1));
    let tokens: serde_json::Map<String, Value> = [&begin, &end]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })))
        .collect();
    let pair = [single.clone(), second].concat();
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read { path: path.to_owned(), source }),
    }
}

fn malformed(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), reason }
}

/// Pairs of entries that make an entry, those of earlier entries first.
///
/// `entries`: number and text of the entries in the order in which they are to be made. The pairs of one entry are ordered by the numbers of their parts;
/// this is the order in the files that Hugging Face converted. Every entry is at most [`LONGEST_TOKEN`] long.
fn pairs<'a, T: AsRef<[u8]> + ?Sized + std::hash::Hash + Eq>(
    entries: &[(u32, &'a T)],
    splits: impl Fn(&'a T) -> Vec<(&'a T, &'a T)>,
) -> Vec<(&'a T, &'a T)> {
    let numbers: std::collections::HashMap<&T, u32> = entries.iter().map(|&(number, text)| (text, number)).collect();
    let mut pairs = Vec::new();
    for &(_, text) in entries {
        let known = |(left, right)| Some(((*numbers.get(left)?, *numbers.get(right)?), (left, right)));
        let mut own: Vec<_> = splits(text).into_iter().filter_map(known).collect();
        own.sort_by_key(|(numbers, _)| *numbers);
        pairs.extend(own.into_iter().map(|(_, pair)| pair));
    }
    pairs
}

/// The character that byte-level vocabularies write for each byte: printable ones stand for themselves, the others follow from U+0100 on.
fn byte_characters() -> [char; 256] {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        // 256 bytes: at most U+01FF, all of them characters
        let byte = byte as u8;
        if printable(byte) {
            return char::from(byte);
        }
        let character = char::from_u32(next).unwrap_or('\u{fffd}');
        next += 1;
        character
    })
}
