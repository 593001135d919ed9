//! The same seed gives the same bits on any number of threads: ten training steps, compared bit by bit.
//!
//! Batches have several hundred tokens and the head twelve hundred rows, so that products, attention, circuits and norms really are split. Covers both
//! storage types, every treatment of S, dropout, accumulation, clipping, recomputation and rounded rows.

mod support;

use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::loss::Label;
use quanta_tune::ops::{Batch, Segments};
use quanta_tune::tensor::{Bf16Products, Real, Stream, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::{attach, attachment, bits, method, random_folder};

const VOCABULARY: u32 = 1200;
const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
    })
}

/// Micro-batch `number`: three roots of 50 to 130 tokens and a prompt with three answers; every second token is labelled.
fn batch(number: u64) -> Batch {
    let mut stream = Stream::new(number, "test", "tokens");
    let mut length = |least: u64, most: u64| (least + stream.below(most - least)) as usize;
    let mut pieces: Vec<(usize, Option<usize>)> = (0..3).map(|_| (length(50, 130), None)).collect();
    pieces.push((length(40, 70), None));
    pieces.extend((0..3).map(|_| (length(3, 20), Some(3))));
    let segments = Segments::new(&pieces).unwrap();
    let tokens: Vec<u32> = (0..segments.tokens()).map(|_| stream.below(u64::from(VOCABULARY)) as u32).collect();
    let inside = segments.list().iter().flat_map(|segment| (segment.start + 1..segment.end).step_by(2));
    let labels = inside.map(|at| Label { row: at - 1, target: tokens[at], weight: 1.0 }).collect();
    Batch { tokens, segments, labels, choices: Vec::new(), targets: Vec::new() }
}

/// All that ten steps leave behind: losses, gradient norms, final parameters.
fn ten_steps<T: Real>(
    entries: &[Attachment],
    stored_as: StoredAs,
    recompute: bool,
    threads: usize,
    products: Option<Bf16Products>,
) -> Vec<u64> {
    let folder = random_folder(&config(), Dtype::Bf16);
    let mut model: Decoder<T> = load(folder.path(), stored_as).unwrap();
    attach(&mut model, entries, 11);
    let workspace = Workspace::new(threads).unwrap();
    let products = products.unwrap_or(workspace.bf16_products());
    let workspace = workspace.with_bf16_products(products);
    assert_eq!(workspace.threads(), threads);
    let settings = StepSettings { clip: Some(0.5), recompute, seed: 11 };
    let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
    let mut left = Vec::new();
    for index in 0..10 {
        // the third has one labelled row: products with a vector take another path
        let short = Batch::packed(&[&[index as u32, 5]], vec![Label { row: 0, target: 7, weight: 1.0 }]);
        let micro_batches = [batch(2 * (index as u64 % 3)), batch(2 * (index as u64 % 3) + 1), short];
        let report = step.take(&mut model, &micro_batches, index, 2e-3, &workspace).unwrap();
        left.extend([report.loss.to_bits(), report.gradient_norm.to_bits()]);
    }
    let (first, last) = (f64::from_bits(left[0]), f64::from_bits(left[18]));
    assert!(last < first, "nothing was learnt: the loss went from {first} to {last}");
    left.extend(model.attached().flat_map(|(_, attached)| bits(attached.adapter.parameters().trainable())));
    left
}

fn check<T: Real>(name: &str, entries: &[Attachment], stored_as: StoredAs, recompute: bool) {
    check_on::<T>(name, entries, stored_as, recompute, None);
}

fn check_on<T: Real>(
    name: &str,
    entries: &[Attachment],
    stored_as: StoredAs,
    recompute: bool,
    products: Option<Bf16Products>,
) {
    let one = ten_steps::<T>(entries, stored_as, recompute, 1, products);
    for threads in [2, 3, 4] {
        let other = ten_steps::<T>(entries, stored_as, recompute, threads, products);
        assert_eq!(other.len(), one.len());
        let differing = one.iter().zip(&other).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{name}: {threads} threads give another number first at this place");
    }
}

#[test]
fn quanta_with_s_folded() {
    let quanta = method("quanta", &json!({ "dims": [8, 4, 3], "s": "folded", "dropout": 0.1 }));
    check::<f32>(
        "folded",
        &[attachment(quanta, &["q_proj", "k_proj", "v_proj", "o_proj"], None)],
        StoredAs::Compute,
        false,
    );
}

#[test]
fn quanta_with_s_as_a_circuit() {
    let quanta = method("quanta", &json!({ "dims": [8, 5, 4], "s": "circuit" }));
    let modules = ["gate_proj", "up_proj", "down_proj"];
    check::<f32>("circuit", &[attachment(quanta, &modules, None)], StoredAs::Compute, true);
}

#[test]
fn lora_everywhere() {
    let lora = method("lora", &json!({ "r": 8, "dropout": 0.1 }));
    check::<f32>("lora", &[attachment(lora, &ALL, None)], StoredAs::Compute, false);
}

#[test]
fn both_on_a_base_kept_as_bf16() {
    let entries = [
        attachment(method("quanta", &json!({ "dims": [8, 4, 3] })), &["q_proj", "v_proj"], None),
        attachment(method("lora", &json!({ "r": 4 })), &["down_proj", "q_proj"], Some(&[1])),
    ];
    check::<f32>("bf16", &entries, StoredAs::File, false);
}

#[test]
fn both_with_rounded_rows() {
    let entries = [
        attachment(method("quanta", &json!({ "dims": [8, 4, 3], "s": "folded" })), &["q_proj", "v_proj"], None),
        attachment(method("lora", &json!({ "r": 4 })), &["down_proj", "gate_proj"], Some(&[1])),
    ];
    // vectors of pairs where the processor has them, and plain code
    for products in [Bf16Products::Widened.rounded(), Bf16Products::Portable.rounded()].into_iter().flatten() {
        check_on::<f32>("rounded", &entries, StoredAs::File, false, Some(products));
    }
}

#[test]
fn both_in_f64() {
    let entries = [
        attachment(method("quanta", &json!({ "dims": [8, 4, 3] })), &["q_proj", "v_proj"], Some(&[1])),
        attachment(method("lora", &json!({ "r": 4 })), &["down_proj"], Some(&[1])),
    ];
    check::<f64>("f64", &entries, StoredAs::Compute, false);
}
