//! LLaMA 3's `tokenizer.model`: one line for each byte string, in base 64, with its rank.
//!
//! The format is tiktoken's. A string's rank is its number, and the order in which pairs are joined. Text is split by one regular expression first; a
//! piece that is in the vocabulary as a whole is taken whole. The file holds no special tokens: they follow behind the last rank, and their names are those of
//! `tokenizer_config.json`, or else of LLaMA 3.1.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::settings::{Added, Settings};
use super::{Front, LONGEST_TOKEN, Parts, Vocabulary, base64, byte_characters, pairs};

/// How text is split (the expression of LLaMA 3's tokenizer).
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BEGIN: &str = "<|begin_of_text|>";
const END: &str = "<|end_of_text|>";
/// Number of special tokens.
const SPECIAL: usize = 256;
/// Those of LLaMA 3.1 that have a meaning, by their place behind the ranks; the others are reserved.
const MEANT: [(usize, &str); 8] = [
    (0, BEGIN),
    (1, END),
    (4, "<|finetune_right_pad_id|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (8, "<|eom_id|>"),
    (9, "<|eot_id|>"),
    (10, "<|python_tag|>"),
];

/// Whether a `tokenizer.model` is of this kind: its first line is base 64, a space and a number.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    let line = bytes.iter().take(4 * LONGEST_TOKEN).position(|&byte| byte == b'\n').map(|end| &bytes[..end]);
    line.is_some_and(|line| entry(line).is_some())
}

/// Makes the parts of a tokenizer.
pub(super) fn parts(bytes: &[u8], settings: &Settings) -> Result<Parts, String> {
    let strings = read(bytes)?;
    let entries: Vec<(u32, &[u8])> = (0..).zip(strings.iter().map(Vec::as_slice)).collect();
    let characters = byte_characters();
    let spell = |string: &[u8]| string.iter().map(|&byte| characters[usize::from(byte)]).collect::<String>();
    let merges: Vec<Value> =
        pairs(&entries, splits).into_iter().map(|(left, right)| json!([spell(left), spell(right)])).collect();
    let vocabulary: Vocabulary = entries.iter().map(|&(rank, string)| (spell(string), rank)).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
        "vocab": vocabulary, "merges": merges,
    });
    let added = if settings.lists_tokens() { Vec::new() } else { special() };
    Ok(Parts {
        model,
        normalizer: Value::Null,
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": PATTERN }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] }),
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        front: Front::Template(true),
        bos: Some(BEGIN.to_owned()),
        eos: Some(END.to_owned()),
        added,
        vocabulary,
    })
}

/// The special tokens of LLaMA 3.1.
fn special() -> Vec<Added> {
    let mut meant = MEANT.iter().peekable();
    let mut reserved = 0;
    let name = |place: usize| match meant.next_if(|(at, _)| *at == place) {
        Some((_, name)) => Added::new(*name, true),
        None => {
            reserved += 1;
            Added::new(format!("<|reserved_special_token_{}|>", reserved - 1), true)
        }
    };
    (0..SPECIAL).map(name).collect()
}

/// The byte strings in the order of their ranks.
fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let mut strings = Vec::new();
    let mut seen = HashSet::new();
    for (number, line) in lines {
        let (string, rank) =
            entry(line).ok_or_else(|| format!("line {} is no byte string with its rank", number + 1))?;
        if rank != strings.len() {
            return Err(format!("line {} has rank {rank} where {} is the next one", number + 1, strings.len()));
        }
        if string.is_empty() || string.len() > LONGEST_TOKEN || !seen.insert(string.clone()) {
            return Err(format!("the byte string in line {} is empty, too long, or there before", number + 1));
        }
        strings.push(string);
    }
    Ok(strings)
}

/// One line: base 64, a space, a number.
fn entry(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let space = line.iter().position(|&byte| byte == b' ')?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    Some((base64::decode(&line[..space])?, rank))
}

/// All ways to cut a byte string in two.
fn splits(string: &[u8]) -> Vec<(&[u8], &[u8])> {
    (1..string.len()).map(|at| string.split_at(at)).collect()
}
