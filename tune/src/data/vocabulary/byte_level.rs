//! `vocab.json` with `merges.txt`: byte-level BPE as GPT-2 has it, and its relatives.
//!
//! The two files do not say how text is split before pairs are joined, nor what stands around it: that is known by the tokenizer's class alone, which
//! `tokenizer_config.json` names (or the model type implies).

use serde_json::{Value, json};

use super::settings::{Added, Settings};
use super::{Front, Parts, Vocabulary};

/// How Qwen2 splits text: as LLaMA 3, but every digit by itself.
const DIGIT_BY_DIGIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const END_OF_TEXT: &str = "<|endoftext|>";

/// The classes that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// GPT-2's own expression; nothing around a text.
    Plain,
    /// Text is composed (NFC) and split with every digit by itself.
    Composed,
    /// As GPT-2, between `<s>` and `</s>`.
    Encoder,
}

const CLASSES: [(&str, Class); 3] =
    [("GPT2Tokenizer", Class::Plain), ("Qwen2Tokenizer", Class::Composed), ("RobertaTokenizer", Class::Encoder)];

/// Which of the two files is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Vocabulary,
    Merges,
}

/// Makes the parts of a tokenizer.
pub(super) fn parts(vocab: &[u8], merges: &[u8], settings: &Settings) -> Result<Parts, (File, String)> {
    let class = settings.one_of(&CLASSES).ok_or_else(|| {
        let names = CLASSES.map(|(name, _)| name).join(", ");
        let words = settings.class_words();
        let reason = format!(
            "belongs to a tokenizer class that says how text is split ({names}), and {words}: name it as tokenizer_class in tokenizer_config.json, or save it as tokenizer.json"
        );
        (File::Vocabulary, reason)
    })?;
    let vocabulary: Vocabulary =
        serde_json::from_slice(vocab).map_err(|error| (File::Vocabulary, error.to_string()))?;
    let merges = read_merges(merges).map_err(|reason| (File::Merges, reason))?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
    });
    let prefix = settings.add_prefix_space.unwrap_or(false);
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex });
    let (normalizer, pre_tokenizer) = match class {
        Class::Plain | Class::Encoder => (Value::Null, bytes(true)),
        Class::Composed => {
            let split = json!({ "type": "Split", "pattern": { "Regex": DIGIT_BY_DIGIT }, "behavior": "Isolated", "invert": false });
            (json!({ "type": "NFC" }), json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] }))
        }
    };
    let (front, begin, end) = match class {
        Class::Plain => (Front::Template(false), Some(END_OF_TEXT), END_OF_TEXT),
        Class::Composed => (Front::Template(false), None, END_OF_TEXT),
        Class::Encoder => (Front::Enclosed, Some("<s>"), "</s>"),
    };
    let known = |token: &&str| vocabulary.contains_key(*token);
    let own = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].into_iter().filter(|_| class == Class::Encoder);
    let added = own.filter(known).map(|token| match token {
        // the blank in front of a gap belongs to it
        "<mask>" => Added::new(token, true).with_left_blank(),
        _ => Added::new(token, true),
    });
    Ok(Parts {
        model,
        normalizer,
        pre_tokenizer,
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        front,
        added: added.collect(),
        bos: begin.map(str::to_owned),
        eos: Some(end.to_owned()),
        vocabulary,
    })
}

/// The pairs, one a line; the first line may say a version.
fn read_merges(bytes: &[u8]) -> Result<Vec<[&str; 2]>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    let lines = lines.filter(|(number, line)| !line.is_empty() && !(*number == 0 && line.starts_with("#version")));
    lines
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => Ok([left, right]),
            _ => Err(format!("line {} is no pair of tokens with one space between them", number + 1)),
        })
        .collect()
}
