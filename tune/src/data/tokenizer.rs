//! The tokenizer of a Hugging Face model folder: text to token ids and back.
//!
//! It is here because `tokenizer.json` alone does not say which token begins and which ends a text, and because its
//! template may add an end token that must not stand before an answer. The encoding itself is the `tokenizers` crate's.
//! What a prompt looks like, and which tokens are trained, is left to `encode`.

use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::models::ModelWrapper;

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
    /// The folder has no `tokenizer.json`.
    #[error("no tokenizer.json in {}: save the tokenizer in that form, a .model file is not read", folder.display())]
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
    /// in it are switched off. The begin and end tokens are those that `tokenizer_config.json` names, else
    /// `special_tokens_map.json`, else the ids in `generation_config.json`, else in `config.json`. Those four files
    /// may be missing.
    ///
    /// # Errors
    /// [`TokenizerError`] naming the file: absent or malformed `tokenizer.json`, malformed other files, special tokens
    /// that are not in the vocabulary.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(TokenizerError::Missing { folder: folder.to_path_buf() });
            }
            Err(source) => return Err(TokenizerError::Read { path, source }),
        };
        let inner = parse(&bytes).map_err(|reason| TokenizerError::Malformed { path, reason })?;
        let names = [folder.join("tokenizer_config.json"), folder.join("special_tokens_map.json")];
        let numbers = [folder.join("generation_config.json"), folder.join("config.json")];
        let (named, numbered) = (read_objects(&names)?, read_objects(&numbers)?);

        let bos = ids(&inner, &named, &numbered, "bos_token", "bos_token_id")?.first().copied();
        let end_tokens = ids(&inner, &named, &numbered, "eos_token", "eos_token_id")?;
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

    /// The tokens of a text exactly as the template makes them, with its end tokens: what an encoder's head expects.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encoding(text, true)?.get_ids().to_vec())
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

type Object = (PathBuf, serde_json::Map<String, Value>);

/// The objects of those of the files that exist.
fn read_objects(paths: &[PathBuf]) -> Result<Vec<Object>, TokenizerError> {
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
pub(in crate::data) mod tests {
    use super::*;
    use serde_json::json;

    /// A vocabulary of `<unk> <s> </s>` and the printable ASCII characters with space and newline, one token each,
    /// plus a few merges.
    pub(in crate::data) fn tokenizer_json(template: Value) -> Value {
        let mut vocab = serde_json::Map::new();
        let characters = (' '..='~').chain(['\n']).map(String::from);
        let names = ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(characters);
        for name in names.chain(["ab", "\nA", ".\n"].map(String::from)) {
            vocab.insert(name, json!(vocab.len()));
        }
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": null, "pre_tokenizer": null, "post_processor": template, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": [["a", "b"], ["\n", "A"], [".", "\n"]]}})
    }

    /// A template of begin tokens, the text, and end tokens.
    pub(in crate::data) fn template(begin: &[&str], end: &[&str]) -> Value {
        let special = |name: &&str| json!({"SpecialToken": {"id": name, "type_id": 0}});
        let mut single: Vec<Value> = begin.iter().map(special).collect();
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        single.extend(end.iter().map(special));
        json!({"type": "TemplateProcessing", "single": single, "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {
            "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}})
    }

    pub(in crate::data) fn load(tokenizer: &Value, others: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        for (name, value) in others {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        Tokenizer::from_folder(folder.path())
    }

    /// The small tokenizer with begin token `<s>`, end token `</s>` and BOS by template.
    pub(in crate::data) fn small() -> Tokenizer {
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
        load(&tokenizer_json(template(&["<s>"], &[])), &[("tokenizer_config.json", config)]).unwrap()
    }

    /// The small tokenizer with an end token and no begin token.
    pub(in crate::data) fn without_bos() -> Tokenizer {
        load(&tokenizer_json(Value::Null), &[("tokenizer_config.json", json!({"eos_token": "</s>"}))]).unwrap()
    }

    #[test]
    fn the_begin_token_stands_once_in_front_and_no_end_token_behind() {
        let names = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let declared = |flag: bool| json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": flag});
        let (none, begin, both) = (Value::Null, template(&["<s>"], &[]), template(&["<s>"], &["</s>"]));
        let doubled = template(&["<s>", "<s>"], &[]);
        for (template, config, with_bos) in [
            (&none, &names, false),
            (&none, &declared(true), true),
            (&begin, &names, true),
            (&begin, &declared(true), true),
            (&both, &names, true),
            (&both, &declared(true), true),
            (&doubled, &names, true),
            (&both, &declared(false), false),
        ] {
            let tokenizer =
                load(&tokenizer_json(template.clone()), &[("tokenizer_config.json", config.clone())]).unwrap();
            let bare = tokenizer.encode_bare("ab c").unwrap();
            let front: &[u32] = if with_bos { &[1] } else { &[] };
            assert_eq!(tokenizer.encode("ab c").unwrap(), [front, &bare].concat(), "{template} {config}");
            assert_eq!(tokenizer.encode("").unwrap(), front, "{template} {config}");
            assert_eq!(tokenizer.adds_bos(), with_bos, "{template} {config}");
            assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        }
    }

    #[test]
    fn special_tokens_in_the_text_itself_are_kept_but_the_begin_token_is_not_doubled() {
        let tokenizer = small();
        assert_eq!(tokenizer.encode("<s>ab</s>").unwrap(), tokenizer.encode("ab</s>").unwrap());
        assert_eq!(tokenizer.encode("ab</s>").unwrap().last(), Some(&2));
        let both = load(&tokenizer_json(template(&["<s>"], &["</s>"])), &[]).unwrap();
        assert_eq!(both.encode_template("ab").unwrap(), [1, 99, 2]);
    }

    #[test]
    fn begin_and_end_tokens_come_from_the_first_file_that_has_them() {
        let json = tokenizer_json(Value::Null);
        let map = ("special_tokens_map.json", json!({"eos_token": {"content": "</s>"}}));
        let generation = ("generation_config.json", json!({"bos_token_id": 1, "eos_token_id": [5, 2, 99999, -1]}));
        let config = ("config.json", json!({"bos_token_id": 3, "eos_token_id": 4}));
        let tokenizer = load(&json, &[map, generation.clone(), config.clone()]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert_eq!(tokenizer.end_tokens(), [2, 5, 4]);
        assert_eq!(load(&json, &[generation, config]).unwrap().eos(), Some(5));
        assert_eq!(load(&json, &[]).unwrap().eos(), None);
    }

    #[test]
    fn truncation_padding_and_dropout_in_the_file_are_switched_off() {
        let mut json = tokenizer_json(Value::Null);
        json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
        json["model"]["dropout"] = json!(0.9);
        let tokenizer = load(&json, &[]).unwrap();
        let text = "ababababababababab";
        assert_eq!(tokenizer.encode(text).unwrap(), vec![99; 9]);
    }

    #[test]
    fn decoding_inverts_encoding_and_tokens_have_a_text() {
        let tokenizer = small();
        let tokens = tokenizer.encode("ab c.\n").unwrap();
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "ab c.\n");
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "<s>ab c.\n");
        assert_eq!(tokenizer.token_text(99), "ab");
        assert_eq!(tokenizer.token_text(1), "<s>");
        assert_eq!(tokenizer.token_text(4000), "<4000?>");
        assert_eq!(tokenizer.vocab_size(), 3 + 96 + 3);
    }

    #[test]
    fn missing_and_malformed_files_are_errors_that_name_the_file() {
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Tokenizer::from_folder(empty.path()), Err(TokenizerError::Missing { .. })));
        for text in ["", "{}", "[1]", "{\"model\": {\"type\": \"BPE\"}}", "\u{0}", "nonsense"] {
            std::fs::write(empty.path().join("tokenizer.json"), text).unwrap();
            let error = Tokenizer::from_folder(empty.path()).unwrap_err();
            assert!(matches!(error, TokenizerError::Malformed { .. }), "{text}: {error}");
            assert!(error.to_string().contains("tokenizer.json"));
        }
        std::fs::write(empty.path().join("tokenizer.json"), [0xff, 0xfe]).unwrap();
        assert!(matches!(Tokenizer::from_folder(empty.path()), Err(TokenizerError::Malformed { .. })));
        let json = tokenizer_json(Value::Null);
        let bad = load(&json, &[("tokenizer_config.json", json!([1]))]).unwrap_err();
        assert!(bad.to_string().contains("tokenizer_config.json"), "{bad}");
        let unknown = load(&json, &[("tokenizer_config.json", json!({"bos_token": "<bos>"}))]).unwrap_err();
        assert!(matches!(unknown, TokenizerError::UnknownSpecial { role: "bos_token", .. }), "{unknown}");
        let none = load(&json, &[("tokenizer_config.json", json!({"add_bos_token": true}))]).unwrap_err();
        assert!(matches!(none, TokenizerError::NoBos { .. }), "{none}");
    }

    #[test]
    fn rules_that_make_the_parser_panic_are_an_error() {
        let mut json = tokenizer_json(Value::Null);
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": 3});
        assert!(matches!(load(&json, &[]), Err(TokenizerError::Malformed { .. })));
    }

    #[test]
    fn a_damaged_tokenizer_file_is_read_or_refused_without_a_panic() {
        let text = tokenizer_json(template(&["<s>"], &[])).to_string();
        let folder = tempfile::tempdir().unwrap();
        let mut refused = 0;
        for step in (0..text.len()).step_by(37) {
            let mut bytes = text.clone().into_bytes();
            match step % 2 {
                0 => bytes.truncate(step),
                _ => bytes[step] = b'9',
            }
            std::fs::write(folder.path().join("tokenizer.json"), &bytes).unwrap();
            match Tokenizer::from_folder(folder.path()) {
                Ok(tokenizer) => drop(tokenizer.encode("ab c</s>\u{1f600}")),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 20);
    }
}
