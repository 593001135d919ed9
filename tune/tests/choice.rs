//! The objective `choice`: trees with a shared beginning against the same candidates as sequences of their own, and central differences.
//!
//! In f64, on a llama with grouped heads and a qwen2 with a tied head, both with adapters away from their start; candidates that share answer tokens, merge
//! across the border of prompt and answer, are cut differently, or have nothing in common.

mod support;

use quanta_tune::adapter::{Gradients, Pass};
use quanta_tune::data::encode::{Form, Options, Truncation, encode_candidates};
use quanta_tune::data::example::{Encoded, Example, shared_prefix};
use quanta_tune::data::question::{Question, pack_questions};
use quanta_tune::data::tokenizer::Tokenizer;
use quanta_tune::eval::choose;
use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Stream, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::{
    assert_close, attach, attachment, differences, llama_config, loss_and_gradients, method, perturb, qwen2_config,
    random_folder,
};

fn entries() -> [Attachment; 2] {
    [
        attachment(method("quanta", &json!({ "dims": [4, 3, 2] })), &["q_proj", "v_proj"], None),
        attachment(method("lora", &json!({ "r": 2 })), &["down_proj"], Some(&[1])),
    ]
}

fn model(config: &Value) -> Decoder<f64> {
    let folder = random_folder(config, Dtype::F64);
    let mut model = load(folder.path(), StoredAs::Compute).unwrap();
    attach(&mut model, &entries(), 7);
    perturb(&mut model, 0.2, |_| true);
    model
}

fn question(candidates: &[(&[u32], usize)], gold: usize) -> Question {
    let encoded = |(tokens, trained): &(&[u32], usize)| Encoded::with_tail(tokens.to_vec(), *trained, false);
    Question { candidates: candidates.iter().map(encoded).collect(), gold }
}

/// Questions of every shape: ordinary ones, a candidate that is all shared, answers that begin alike, nothing in common, one candidate alone.
fn questions() -> Vec<Question> {
    vec![
        question(&[(&[1, 5, 9, 3, 7, 2], 2), (&[1, 5, 9, 3, 8], 1), (&[1, 5, 9, 3, 4, 4, 6], 3)], 1),
        question(&[(&[1, 6, 6, 10, 11, 2], 4), (&[1, 6, 6, 10, 12], 3), (&[1, 6, 6], 1)], 2),
        question(&[(&[2, 3, 4], 1), (&[5, 3, 4, 8], 2)], 0),
        question(&[(&[1, 14, 15], 1)], 0),
    ]
}

fn gradients(model: &Decoder<f64>, batch: &Batch) -> (f64, Gradients<f64>) {
    let workspace = Workspace::new(2).unwrap();
    loss_and_gradients(model, batch, false, &Pass { workspace: &workspace, draw: None })
}

fn assert_tree_equals_sequences(model: &Decoder<f64>, questions: &[Question], label: &str) {
    let list: Vec<&Question> = questions.iter().collect();
    let (tree, apart) = (pack_questions(&list, true), pack_questions(&list, false));
    let ((loss, short), (same, long)) = (gradients(model, &tree), gradients(model, &apart));
    assert_close(label, &[loss], &[same], 1e-12);
    for slot in 0..short.slots() {
        assert_close(label, short.slot(slot), long.slot(slot), 1e-12);
    }
}

#[test]
fn a_tree_equals_its_candidates_as_sequences() {
    for config in [llama_config(), qwen2_config()] {
        let model = model(&config);
        let questions = questions();
        let list: Vec<&Question> = questions.iter().collect();
        assert!(pack_questions(&list, true).tokens.len() < pack_questions(&list, false).tokens.len());
        assert_tree_equals_sequences(&model, &questions, "all questions");
        for (index, question) in questions.iter().enumerate() {
            assert_tree_equals_sequences(&model, std::slice::from_ref(question), &format!("question {index}"));
        }
    }
}

#[test]
fn gradients_are_central_differences_of_the_choice() {
    let mut model = model(&llama_config());
    let questions = questions();
    let batch = pack_questions(&questions.iter().collect::<Vec<_>>(), true);
    let workspace = Workspace::new(1).unwrap();
    let (loss, gradients) = gradients(&model, &batch);
    let choices = choose(&model, &questions, 1000, &workspace);
    assert_close("loss", &[choices.loss * questions.len() as f64], &[loss], 1e-12);
    for slot in 0..gradients.slots() {
        let start = model.trained_mut()[slot].1[0].to_vec();
        let some: Vec<usize> = (0..start.len()).step_by(start.len().div_ceil(12)).collect();
        let expected = differences(&start, &some, |values| {
            model.trained_mut()[slot].1[0].copy_from_slice(values);
            choose(&model, &questions, 1000, &workspace).loss * questions.len() as f64
        });
        model.trained_mut()[slot].1[0].copy_from_slice(&start);
        let got: Vec<f64> = some.iter().map(|&index| gradients.slot(slot)[index]).collect();
        assert_close(&format!("slot {slot}"), &got, &expected, 1e-6);
    }
}

#[test]
fn batching_changes_no_choice() {
    let model = model(&qwen2_config());
    let mut stream = Stream::new(3, "test", "questions");
    let random = |stream: &mut Stream| {
        let prompt: Vec<u32> = (0..3 + stream.below(9)).map(|_| stream.below(23) as u32).collect();
        let candidate = |stream: &mut Stream| {
            let own: Vec<u32> = (0..1 + stream.below(3)).map(|_| stream.below(23) as u32).collect();
            Encoded::with_tail([prompt.clone(), own.clone()].concat(), own.len(), false)
        };
        Question { candidates: (0..4).map(|_| candidate(stream)).collect(), gold: 0 }
    };
    let questions: Vec<Question> = (0..9).map(|_| random(&mut stream)).collect();
    let workspace = Workspace::new(2).unwrap();
    let together = choose(&model, &questions, 10_000, &workspace);
    for (index, question) in questions.iter().enumerate() {
        let alone = choose(&model, std::slice::from_ref(question), 1, &workspace);
        assert_eq!(alone.chosen[0], together.chosen[index]);
        assert_close("scores", &alone.scores[0], &together.scores[index], 1e-12);
    }
}

/// A tokenizer of single characters that merges `: y` across the border of prompt and answer, and `es` within.
fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    vocab.insert("<s>".into(), json!(0));
    for letter in " abcdefghijklmnoqrstuvwxy:.".chars() {
        vocab.insert(letter.to_string(), json!(vocab.len()));
    }
    for merged in [": ", ": y", "es"] {
        vocab.insert(merged.into(), json!(vocab.len()));
    }
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": [[":", " "], [": ", "y"], ["e", "s"]], "dropout": null,
        "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false });
    let post = json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } });
    let added = json!([{ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }]);
    let whole = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": post, "decoder": null, "model": model });
    std::fs::write(folder.path().join("tokenizer.json"), whole.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>"}"#).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn encoded(max_length: usize) -> Question {
    let row = Example {
        prompt: "is it so:".into(),
        completion: " yes".into(),
        candidates: vec![" yes".into(), " no".into(), " yes or no, who can say".replace(',', "")],
        ..Example::default()
    };
    let options = Options { max_length, truncation: Truncation::Left, append_eos: false };
    let candidates = encode_candidates(std::slice::from_ref(&row), Form::Exact, &tokenizer(), &options).unwrap();
    Question::all(&[row], &candidates).remove(0)
}

#[test]
fn merges_across_the_border_and_different_cuts_change_nothing() {
    let mut config = llama_config();
    config["vocab_size"] = json!(31);
    let model = model(&config);
    let whole = encoded(60);
    // the prompt's own `:` is no token of the candidates: it merges with what follows, differently for yes and no
    let prefix = shared_prefix(&whole.candidates);
    assert_eq!(prefix, 1 + "is it so".len());
    assert_tree_equals_sequences(&model, std::slice::from_ref(&whole), "merged");
    let cut = encoded(16);
    assert!(cut.candidates.iter().any(|c| c.truncated) && cut.candidates.iter().any(|c| !c.truncated));
    assert!(shared_prefix(&cut.candidates) < prefix, "cut from the left, they no longer begin alike");
    assert_tree_equals_sequences(&model, std::slice::from_ref(&cut), "cut");
}
