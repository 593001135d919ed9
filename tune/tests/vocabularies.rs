//! Tokenizers made from vocabulary files, against the tokens that Hugging Face's converters, or the formats' own libraries, make of hard texts.
//!
//! Reads every folder of `QUANTA_VOCABULARIES`, or of `testdata/tokenizers/vocabularies`; `scripts/golden_tokenizers.py` wrote them, and writes others for
//! published tokenizers, which are too large to be kept.

use std::path::{Path, PathBuf};

use quanta_tune::data::tokenizer::Tokenizer;
use serde_json::Value;

fn vocabularies() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/tokenizers/vocabularies");
    std::env::var_os("QUANTA_VOCABULARIES").map_or_else(|| PathBuf::from(own), PathBuf::from)
}

fn check(folder: &Path) {
    let name = folder.file_name().unwrap().display().to_string();
    let tokenizer = Tokenizer::from_folder(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let ids = |list: &Value| -> Vec<u32> { serde_json::from_value(list.clone()).unwrap() };
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let (mut wrong, mut tokens) = (Vec::new(), 0);
    for (index, text) in texts.iter().enumerate() {
        let bare = tokenizer.encode_bare(text).unwrap();
        tokens += bare.len();
        for (kind, got, expected) in [
            ("bare", bare, ids(&golden["bare"][index])),
            ("template", tokenizer.encode_template(text).unwrap(), ids(&golden["template"][index])),
        ] {
            if got != expected {
                wrong.push(format!("{kind} {text:?}: {got:?} instead of {expected:?}"));
            }
        }
    }
    println!("{name}: {} texts, {tokens} tokens, {} differ", texts.len(), wrong.len());
    wrong.truncate(10);
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

#[test]
fn every_vocabulary_gives_the_tokens_of_its_converter() {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(vocabularies()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("golden.json").exists());
    folders.sort();
    assert!(folders.len() >= 7, "folders are missing: {folders:?}");
    folders.iter().for_each(|folder| check(folder));
}
