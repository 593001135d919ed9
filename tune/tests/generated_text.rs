//! Text while it is generated: stop rules, leading spaces, characters of several tokens.
//!
//! The model is a chain: its embedding is the identity, its layer adds nothing, and its head leads from each token to the one that follows it in a script, so
//! that a test says word by word what is generated.

mod support;

use std::path::Path;

use quanta_tune::data::tokenizer::Tokenizer;
use quanta_tune::eval::{Finish, GenerateError, GenerateOptions, GeneratedText, StopRule, generate_texts};
use quanta_tune::model::{Decoder, StoredAs, load, read_folder_config};
use quanta_tune::tensor::Workspace;
use quanta_tune::weights::{Dtype, TensorSpec, TensorWriter, default_metadata};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The vocabulary of all tests, in the manner of LLaMA: spaces as `▁`, bytes as `<0x..>`, the newline a byte.
const VOCABULARY: [&str; 24] = [
    "<unk>", "<s>", "</s>", "▁Once", "▁Lily", "a", "b", ".\n", "<0x0A>", "A", "<0xC3>", "<0xA9>", "<0xD0>", "<0xB6>",
    "<0xE2>", "<0x82>", "<0xAC>", "\n\n", "▁", "c", "d", "e", "f", "g",
];

fn id(token: &str) -> usize {
    VOCABULARY.iter().position(|known| *known == token).unwrap_or_else(|| panic!("no token {token}"))
}

fn tokenizer_json(newline_in_vocabulary: bool) -> Value {
    let spelling =
        |name: &&str| if newline_in_vocabulary || *name != "<0x0A>" { (*name).to_owned() } else { "h".into() };
    let vocab: Map<String, Value> = VOCABULARY.iter().map(spelling).zip((0..).map(|id| json!(id))).collect();
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let decoders = json!([
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ]);
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": true, "vocab": vocab, "merges": [],
        },
    })
}

/// A model folder whose model says each script's tokens one after the other; no token stands twice with different followers.
fn chain(scripts: &[&[&str]], newline_in_vocabulary: bool) -> TempDir {
    let size = VOCABULARY.len();
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": size, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": size, "rms_norm_eps": 1e-5, "max_position_embeddings": 40, "tie_word_embeddings": false, "eos_token_id": 2,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json(newline_in_vocabulary).to_string()).unwrap();
    let mut head = vec![0.0; size * size];
    for pair in scripts.iter().flat_map(|script| script.windows(2)) {
        head[id(pair[1]) * size + id(pair[0])] = 1.0;
    }
    write_chain(folder.path(), &head);
    folder
}

fn write_chain(folder: &Path, head: &[f64]) {
    let tensors = read_folder_config(folder).unwrap().inventory();
    let spec = |(name, shape): &(String, Vec<usize>)| TensorSpec::new(name, Dtype::F32, shape.clone());
    let specs = tensors.iter().map(spec).collect();
    let mut writer = TensorWriter::create(&folder.join("model.safetensors"), &default_metadata(), specs).unwrap();
    for (name, shape) in &tensors {
        let elements: usize = shape.iter().product();
        let values: Vec<f64> = match name.as_str() {
            "lm_head.weight" => head.to_vec(),
            "model.embed_tokens.weight" => (0..elements).map(|i| f64::from(i / shape[1] == i % shape[1])).collect(),
            _ => vec![f64::from(name.contains("norm")); elements],
        };
        writer.write_values(name, &values).unwrap();
    }
    writer.finish().unwrap();
}

/// What the chain in `folder` says after the prompts, and the pieces in which it was shown.
fn run(
    folder: &Path,
    prompts: &[&[&str]],
    rule: StopRule,
    most: usize,
) -> Result<(Vec<GeneratedText>, Vec<Vec<String>>), GenerateError> {
    let (model, tokenizer): (Decoder<f32>, _) =
        (load(folder, StoredAs::Compute).unwrap(), Tokenizer::from_folder(folder).unwrap());
    let prompts: Vec<Vec<u32>> =
        prompts.iter().map(|prompt| prompt.iter().map(|token| id(token) as u32).collect()).collect();
    let end_tokens = tokenizer.end_tokens().to_vec();
    let options = GenerateOptions { max_new_tokens: most, end_tokens, ..GenerateOptions::default() };
    let mut pieces = vec![Vec::new(); prompts.len()];
    let workspace = Workspace::new(1).unwrap();
    let texts = generate_texts(&model, &tokenizer, &prompts, rule, &options, &workspace, |sequence, piece| {
        assert!(!piece.is_empty());
        pieces[sequence].push(piece.to_owned());
    })?;
    for (text, pieces) in texts.iter().zip(&pieces) {
        assert_eq!(pieces.concat(), text.text, "what is shown is the text");
    }
    Ok((texts, pieces))
}

fn check(folder: &TempDir, prompt: &[&str], rule: StopRule, most: usize, text: &str, tokens: usize, finish: Finish) {
    let (texts, _) = run(folder.path(), &[prompt], rule, most).unwrap();
    let got = (texts[0].text.as_str(), texts[0].tokens.len(), texts[0].finish);
    assert_eq!(got, (text, tokens, finish), "{prompt:?} by {rule:?}");
}

#[test]
fn a_newline_ends_a_text_by_the_rule_of_its_name() {
    let folder = chain(&[&["a", "b", ".\n", "A", "<0x0A>", "c", "</s>"]], true);
    check(&folder, &["a"], StopRule::Newline, 30, "b.", 2, Finish::Stop);
    check(&folder, &["a"], StopRule::NewlineToken, 30, "b.\nA", 4, Finish::Stop);
    check(&folder, &["a"], StopRule::None, 30, "b.\nA\nc", 5, Finish::Eos);
    check(&folder, &["a"], StopRule::None, 3, "b.\nA", 3, Finish::Length);
    // the newline at the very front, as a token of its own
    check(&folder, &["A"], StopRule::Newline, 30, "", 1, Finish::Stop);
    check(&folder, &["A"], StopRule::NewlineToken, 30, "", 1, Finish::Stop);
    // a newline in the prompt ends nothing
    check(&folder, &["a", ".\n"], StopRule::Newline, 30, "A", 2, Finish::Stop);
    check(&folder, &["<0x0A>"], StopRule::Newline, 30, "c", 1, Finish::Eos);
}

#[test]
fn texts_of_a_batch_end_for_themselves() {
    let folder = chain(&[&["a", "b", ".\n", "A", "<0x0A>", "c", "</s>"], &["d", "e", "f", "\n\n"]], true);
    let prompts: [&[&str]; 4] = [&["a"], &["d"], &["<0x0A>"], &["A"]];
    let (texts, _) = run(folder.path(), &prompts, StopRule::Newline, 30).unwrap();
    assert_eq!(texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>(), ["b.", "ef", "c", ""]);
}

#[test]
fn a_text_continues_its_prompt_with_leading_space() {
    let folder = chain(&[&["a", "▁Lily", "<s>", "▁Once", "</s>"]], true);
    check(&folder, &["▁Once", "a"], StopRule::None, 30, " Lily Once", 3, Finish::Eos);
    // behind the begin token alone a text starts without one, as the tokenizer's decoder wants it
    let folder = chain(&[&["<s>", "▁Lily", "▁Once", "</s>"]], true);
    check(&folder, &["<s>"], StopRule::None, 30, "Lily Once", 2, Finish::Eos);
}

#[test]
fn characters_of_several_tokens_are_shown_whole() {
    let bytes = ["<0xC3>", "<0xA9>", "<0xD0>", "<0xB6>", "<0xE2>", "<0x82>", "<0xAC>"];
    let script = [&["a"][..], &bytes, &["b", "</s>"]].concat();
    let folder = chain(&[&script], true);
    let (texts, pieces) = run(folder.path(), &[&["a"], &["<0xC3>", "<0xA9>"]], StopRule::Newline, 30).unwrap();
    assert_eq!((texts[0].text.as_str(), texts[1].text.as_str()), ("éж€b", "ж€b"));
    assert_eq!(pieces[0], ["é", "ж", "€", "b"]);
    // a length limit in the middle of a character leaves one mark for each of its bytes, and those before it whole
    check(&folder, &["a"], StopRule::Newline, 3, "é\u{fffd}", 3, Finish::Length);
    check(&folder, &["a"], StopRule::Newline, 6, "éж\u{fffd}\u{fffd}", 6, Finish::Length);
    // a newline ends the text although the character before it never became whole
    let folder = chain(&[&["a", "<0xE2>", "<0x82>", ".\n", "c", "</s>"]], true);
    check(&folder, &["a"], StopRule::Newline, 30, "\u{fffd}\u{fffd}.", 3, Finish::Stop);
}

#[test]
fn the_reference_rule_needs_a_newline_token() {
    let folder = chain(&[&["a", "b", "</s>"]], false);
    let error = run(folder.path(), &[&["a"]], StopRule::NewlineToken, 9).unwrap_err();
    assert!(matches!(error, GenerateError::NoNewlineToken), "{error}");
    check(&folder, &["a"], StopRule::Newline, 9, "b", 1, Finish::Eos);
}

#[test]
fn rules_have_names() {
    assert_eq!(StopRule::ALL.map(|rule| StopRule::named(rule.name())), StopRule::ALL.map(Some));
    assert_eq!(StopRule::named("reference"), Some(StopRule::NewlineToken));
    assert_eq!(StopRule::named("newlines"), None);
}
