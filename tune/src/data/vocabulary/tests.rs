//! Folders whose vocabulary files are damaged, contradict one another, or belong to something else; and what is assumed where files say nothing.
//!
//! That good ones give the right tokens is tested in `tests/vocabularies.rs`.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::data::tokenizer::Tokenizer;

fn vocabularies(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/tokenizers/vocabularies").join(name)
}

/// A copy of a folder with some files changed; none removes one.
fn changed(name: &str, changes: &[(&str, Option<Vec<u8>>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(vocabularies(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for (file, content) in changes {
        let path = folder.path().join(file);
        match content {
            Some(content) => std::fs::write(path, content).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
    folder
}

fn refusal(folder: &TempDir) -> String {
    Tokenizer::from_folder(folder.path()).unwrap_err().to_string()
}

fn config(value: serde_json::Value) -> (&'static str, Option<Vec<u8>>) {
    ("tokenizer_config.json", Some(value.to_string().into_bytes()))
}

#[test]
fn what_files_do_not_say_follows_from_their_kind() {
    let folder = changed("sentencepiece_bpe", &[("tokenizer_config.json", None)]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    let tokenizer = Tokenizer::from_folder(&vocabularies("ranks")).unwrap();
    let first = u32::try_from(tokenizer.vocab_size() - 256).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(first), Some(first + 1)));
    assert_eq!(tokenizer.encode_bare("<|eot_id|><|reserved_special_token_247|>").unwrap(), [first + 9, first + 255]);
    // the class by the model type, where no file names it
    let model = ("config.json", Some(json!({ "model_type": "gpt2" }).to_string().into_bytes()));
    let folder = changed("gpt2", &[("tokenizer_config.json", None), model]);
    let (inferred, named) = (Tokenizer::from_folder(folder.path()), Tokenizer::from_folder(&vocabularies("gpt2")));
    let text = "a  b <|endoftext|> 12";
    assert_eq!(inferred.unwrap().encode(text).unwrap(), named.unwrap().encode(text).unwrap());
    let tokenizer = Tokenizer::from_folder(&vocabularies("roberta")).unwrap();
    let tokens = tokenizer.encode_template("hi").unwrap();
    assert_eq!((tokens[0], *tokens.last().unwrap()), (0, 2));
}

#[test]
fn settings_beside_a_vocabulary_count() {
    let settings = json!({
        "add_bos_token": false, "add_eos_token": true, "eos_token": "</s>", "pad_token": "[PAD]",
        "additional_special_tokens": ["<|end|>"], "tokenizer_class": "LlamaTokenizerFast",
    });
    let folder = changed("sentencepiece_bpe", &[config(settings)]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let last = u32::try_from(tokenizer.vocab_size()).unwrap() - 1;
    assert_eq!(tokenizer.encode_template("[PAD]<|end|>").unwrap(), [last - 1, last, 2]);
    assert!(!tokenizer.adds_bos());
    let numbered = ("added_tokens.json", Some(format!("{{\"<|new|>\": {}}}", last - 1).into_bytes()));
    let folder = changed("sentencepiece_bpe", &[numbered]);
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().encode_bare("<|new|>").unwrap(), [last - 1]);
}

#[test]
fn contradictions_and_foreign_classes_are_refused() {
    let hole = json!({ "added_tokens_decoder": { "9999": { "content": "<x>" } } });
    assert!(refusal(&changed("sentencepiece_bpe", &[config(hole)])).contains("`<x>` has number 9999 where"));
    let other = json!({ "added_tokens_decoder": { "7": { "content": "<s>" } } });
    assert!(refusal(&changed("sentencepiece_bpe", &[config(other)])).contains("number 1 in the vocabulary and 7"));
    let foreign = config(json!({ "tokenizer_class": "GemmaTokenizer" }));
    assert!(refusal(&changed("sentencepiece_bpe", &[foreign.clone()])).contains("`gemmatokenizer`"));
    let message = refusal(&changed("gpt2", &[foreign]));
    assert!(message.contains("Qwen2Tokenizer") && message.contains("`gemmatokenizer`"), "{message}");
    assert!(refusal(&changed("gpt2", &[("tokenizer_config.json", None)])).contains("no file says which"));
    assert!(refusal(&changed("gpt2", &[("merges.txt", None)])).contains("vocab.json with merges.txt"));
    let bad = |file: &'static str, content: &str| refusal(&changed("gpt2", &[(file, Some(content.into()))]));
    for content in ["a", "a b c", "a  b", " b", "a ", "#version: 1\na"] {
        assert!(bad("merges.txt", content).contains("no pair of tokens"), "{content}");
    }
    assert!(bad("merges.txt", "zzz qqq").contains("contradict") || bad("merges.txt", "zzz qqq").contains("vocab"));
    for content in ["", "[]", "{\"a\": -1}", "{\"a\": \"b\"}"] {
        assert!(bad("vocab.json", content).contains("vocab.json"), "{content}");
    }
    let ranks = |content: &str| refusal(&changed("ranks", &[("tokenizer.model", Some(content.into()))]));
    assert!(ranks("YQ== 0\nYg== 2\n").contains("rank 2 where 1"));
    assert!(ranks("YQ== 0\nYQ== 1\n").contains("line 2"));
    assert!(ranks("YQ== 0\nnothing\n").contains("line 2"));
}

#[test]
fn damaged_sentencepiece_files_are_refused_or_read_but_never_panic() {
    let whole = std::fs::read(vocabularies("sentencepiece_unigram").join("tokenizer.model")).unwrap();
    let folder = changed("sentencepiece_unigram", &[]);
    let path = folder.path().join("tokenizer.model");
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Tokenizer::from_folder(folder.path()).is_err(), "{length} of {} bytes", whole.len());
    }
    let mut state = 3_u64;
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) {
            let _ = tokenizer.encode("a b 12 \u{e9}");
        }
    }
}
