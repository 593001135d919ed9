//! Tests of the tokenizer, and the small tokenizer that the tests of this room share.

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
        let tokenizer = load(&tokenizer_json(template.clone()), &[("tokenizer_config.json", config.clone())]).unwrap();
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
