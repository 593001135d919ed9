//! A SentencePiece `tokenizer.model`, as the converters of Hugging Face for LLaMA read it.
//!
//! The file is one message: pieces with scores and kinds, what the training was told, and how text is normalised. A piece spells a space as U+2581, and every
//! text gets one in front ("dummy prefix"). `legacy = true` is what the `tokenizer.json` files of LLaMA 1 and 2 were made with: the space is put in front
//! of every stretch between special tokens; with `false`, only in front of a text, and not where it begins with a space. Only unigram and BPE models
//! are read; one that asks for anything else is refused.

use serde_json::{Value, json};

use super::protobuf::{Field, Fields};
use super::settings::{Added, Settings};
use super::{Front, LONGEST_TOKEN, Parts, base64, pairs};

/// How a piece spells a space.
const SPACE: &str = "\u{2581}";
/// Kinds of pieces.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// Kinds of models.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
/// Tokenizer classes whose numbers are those of the file.
const CLASSES: [(&str, ()); 6] = [
    ("LlamaTokenizer", ()),
    ("CodeLlamaTokenizer", ()),
    ("MistralTokenizer", ()),
    ("PreTrainedTokenizer", ()),
    ("SentencePieceBackend", ()),
    ("TokenizersBackend", ()),
];

struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: u64,
}

/// What the file says besides its pieces; the values are those of files that do not say it.
struct Spec<'a> {
    kind: u64,
    byte_fallback: bool,
    space_behind: bool,
    bos: &'a str,
    eos: &'a str,
    characters: &'a [u8],
    dummy_prefix: bool,
    drops_spaces: bool,
    marks_spaces: bool,
}

/// Makes the parts of a tokenizer.
pub(super) fn parts(bytes: &[u8], settings: &Settings) -> Result<Parts, String> {
    if let Some(class) = settings.named_class()
        && settings.one_of(&CLASSES).is_none()
    {
        return Err(format!(
            "its tokenizer class `{class}` numbers the tokens in its own way: save it as tokenizer.json"
        ));
    }
    let (pieces, spec) = read(bytes)?;
    if spec.space_behind || !spec.marks_spaces {
        return Err("puts spaces elsewhere than in front of words: save it as tokenizer.json".to_owned());
    }
    let vocabulary: super::Vocabulary = pieces.iter().zip(0..).map(|(piece, id)| (piece.text.to_owned(), id)).collect();
    if vocabulary.len() < pieces.len() {
        return Err("has a piece twice: fetch it again".to_owned());
    }
    let unknown: Vec<usize> = (0..pieces.len()).filter(|&id| pieces[id].kind == UNKNOWN).collect();
    let &[unknown] = &unknown[..] else { return Err(format!("has {} unknown pieces instead of one", unknown.len())) };
    let model = match spec.kind {
        UNIGRAM => {
            let vocab: Vec<Value> = pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
            json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": spec.byte_fallback })
        }
        BPE => json!({
            "type": "BPE", "dropout": null, "unk_token": pieces[unknown].text, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": spec.byte_fallback, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges(&pieces)?,
        }),
        _ => return Err("is neither a unigram nor a BPE model: save it as tokenizer.json".to_owned()),
    };
    let prefix = settings.add_prefix_space.unwrap_or(spec.dummy_prefix);
    let (normalizer, pre_tokenizer) = spaces(&spec, prefix, settings.legacy.unwrap_or(true));
    let found = pieces.iter().filter(|piece| matches!(piece.kind, CONTROL | USER_DEFINED));
    let added = found.map(|piece| Added::new(piece.text, piece.kind == CONTROL));
    // the unknown piece is special too, as in every converted file
    let added = added.chain([Added::new(pieces[unknown].text, true)]).collect();
    let known = |text: &str| vocabulary.contains_key(text).then(|| text.to_owned());
    Ok(Parts {
        model,
        normalizer,
        pre_tokenizer,
        decoder: decoder(prefix),
        front: Front::Template(true),
        added,
        bos: known(spec.bos),
        eos: known(spec.eos),
        vocabulary,
    })
}

/// Normalizer and pre-tokenizer: where the space in front of a text is put.
fn spaces(spec: &Spec, prefix: bool, legacy: bool) -> (Value, Value) {
    let mut steps = Vec::new();
    if !spec.characters.is_empty() {
        steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64::encode(spec.characters) }));
    }
    if spec.drops_spaces {
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": "^ +" }, "content": "" }));
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
    }
    let metaspace = if legacy {
        if prefix {
            steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE }));
        Value::Null
    } else {
        let scheme = if prefix { "first" } else { "never" };
        json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false })
    };
    if spec.drops_spaces {
        // those at the end go after they were marked: a mark that the text itself ends in goes with them
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": format!("[ {SPACE}]+$") }, "content": "" }));
    }
    let normalizer = if steps.is_empty() { Value::Null } else { json!({ "type": "Sequence", "normalizers": steps }) };
    (normalizer, metaspace)
}

/// Back to text: spaces, bytes, and without the space that was put in front.
fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// Pairs of pieces that make a piece, highest score first.
fn merges(pieces: &[Piece]) -> Result<Vec<[String; 2]>, String> {
    if pieces.iter().any(|piece| piece.text.len() > LONGEST_TOKEN) {
        return Err(format!("has a piece of more than {LONGEST_TOKEN} bytes: it is no model of words"));
    }
    let mut entries: Vec<(u32, &Piece)> = (0..).zip(pieces).collect();
    entries.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    let entries: Vec<(u32, &str)> = entries.into_iter().map(|(id, piece)| (id, piece.text)).collect();
    Ok(pairs(&entries, splits).into_iter().map(|(left, right)| [left.to_owned(), right.to_owned()]).collect())
}

/// All ways to cut a text in two.
fn splits(text: &str) -> Vec<(&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at)).collect()
}

fn read(bytes: &[u8]) -> Result<(Vec<Piece<'_>>, Spec<'_>), String> {
    let mut spec = Spec {
        kind: UNIGRAM,
        byte_fallback: false,
        space_behind: false,
        bos: "<s>",
        eos: "</s>",
        characters: &[],
        dummy_prefix: true,
        drops_spaces: true,
        marks_spaces: true,
    };
    let mut pieces = Vec::new();
    let mut parts = [false; 3];
    for field in Fields::new(bytes) {
        let (number, value) = field?;
        match (number, value) {
            (1, Field::Bytes(message)) => pieces.push(Piece::read(message)?),
            (2, Field::Bytes(message)) => spec.read_trainer(message)?,
            (3, Field::Bytes(message)) => spec.read_normalizer(message)?,
            _ => continue,
        }
        parts[number as usize - 1] = true;
    }
    // the pieces come first: a file that is cut off between two of them lacks the rest
    if parts.contains(&false) {
        return Err("lacks its pieces or its settings: it is no SentencePiece model, or is cut off".to_owned());
    }
    Ok((pieces, spec))
}

impl<'a> Piece<'a> {
    fn read(message: &'a [u8]) -> Result<Self, String> {
        let mut piece = Self { text: "", score: 0.0, kind: 1 };
        for field in Fields::new(message) {
            match field? {
                (1, Field::Bytes(bytes)) => piece.text = text(bytes)?,
                (2, Field::Four(bytes)) => piece.score = f32::from_le_bytes(bytes),
                (3, Field::Integer(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        if piece.text.is_empty() || !piece.score.is_finite() {
            return Err("has a piece without text or with a score that is no number: fetch it again".to_owned());
        }
        Ok(piece)
    }
}

impl<'a> Spec<'a> {
    fn read_trainer(&mut self, message: &'a [u8]) -> Result<(), String> {
        for field in Fields::new(message) {
            match field? {
                (3, Field::Integer(kind)) => self.kind = kind,
                (24, Field::Integer(flag)) => self.space_behind = flag != 0,
                (35, Field::Integer(flag)) => self.byte_fallback = flag != 0,
                (46, Field::Bytes(bytes)) => self.bos = text(bytes)?,
                (47, Field::Bytes(bytes)) => self.eos = text(bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &'a [u8]) -> Result<(), String> {
        for field in Fields::new(message) {
            match field? {
                (2, Field::Bytes(bytes)) => self.characters = bytes,
                (3, Field::Integer(flag)) => self.dummy_prefix = flag != 0,
                (4, Field::Integer(flag)) => self.drops_spaces = flag != 0,
                (5, Field::Integer(flag)) => self.marks_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "has text that is not UTF-8: fetch it again".to_owned())
}
