//! The bytes of activations that a plan estimates are those that the workspace counts: within a tenth, for configurations that differ in what is largest.
//!
//! Weights and optimiser are counted from their shapes and need no test; the rest of a process (program, tokenizer, data) is measured by
//! `quanta train --dry-run`, which prints the estimate beside it. And the operations of tokens that nobody reads, and
//! what QuanTA's frozen copy S costs.

mod support;

use quanta_tune::adapter::Sites;
use quanta_tune::config::Problems;
use quanta_tune::data::batch::{Weighting, pack, pack_targets};
use quanta_tune::data::example::Encoded;
use quanta_tune::model::{Attachment, Cost, Training, head_entry, random, read_config, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::ops::target::Answer;
use quanta_tune::tensor::{Bf16Products, Rounder, Stream, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use serde_json::{Value, json};
use support::{attach, attachment, method, object};

const ATTENTION: [&str; 4] = ["q_proj", "k_proj", "v_proj", "o_proj"];
const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn llama(layers: usize, vocab: usize) -> Value {
    json!({
        "model_type": "llama", "hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": layers, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": vocab, "max_position_embeddings": 512,
    })
}

fn roberta() -> Value {
    json!({
        "model_type": "roberta", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 300,
        "max_position_embeddings": 130, "num_labels": 3,
    })
}

/// A step: a batch of `samples` sequences of `length` tokens, the last `trained` of each trained.
struct Case {
    name: &'static str,
    model: Value,
    entries: Vec<Attachment>,
    samples: usize,
    length: usize,
    trained: usize,
    recompute: bool,
    bf16: bool,
    products: Option<Bf16Products>,
}

impl Case {
    /// Bytes counted and bytes estimated.
    fn run(&self) -> (f64, f64) {
        let config = read_config(object(&self.model), &Problems::new()).expect("a model");
        let mut entries = self.entries.clone();
        entries.extend(head_entry(&config, &entries));
        let chosen = resolve(&entries, &config).unwrap();
        let training = Training {
            tokens: self.samples * self.length,
            length: self.length,
            labels: self.samples * if config.labels.is_some() { 1 } else { self.trained },
            number_bytes: 4,
            weight_bytes: if self.bf16 { 2 } else { 4 },
            recompute: self.recompute,
        };
        let cost = Cost::of(&config, &entries, &chosen, training);
        let (vocab, classes) = (config.vocab_size as u64, config.labels.is_some());
        let mut model = random::<f32>(config, 0.02, 0, self.bf16);
        attach(&mut model, &entries, 1);
        // one thread: with more, more blocks of scores exist at a time
        let mut workspace = Workspace::new(1).unwrap();
        if let Some(products) = self.products {
            workspace = workspace.with_bf16_products(products);
        }
        let settings = StepSettings { clip: None, recompute: self.recompute, seed: 1 };
        let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
        let mut stream = Stream::new(3, "test", "tokens");
        let mut tokens = || -> Vec<u32> { (0..self.length).map(|_| stream.below(vocab) as u32).collect() };
        let sequences: Vec<Vec<u32>> = (0..self.samples).map(|_| tokens()).collect();
        let batch: Batch = if classes {
            let pairs: Vec<_> = sequences.iter().map(|tokens| (tokens.as_slice(), Answer::Class(1))).collect();
            pack_targets(&pairs)
        } else {
            let encoded: Vec<Encoded> =
                sequences.into_iter().map(|tokens| Encoded::with_tail(tokens, self.trained, false)).collect();
            pack(&encoded.iter().collect::<Vec<_>>(), Weighting::Token)
        };
        step.take(&mut model, &[batch], 0, 1e-4, &workspace).unwrap();
        (workspace.peak_bytes() as f64, (cost.saved_bytes + cost.working_bytes) as f64)
    }
}

fn everything() -> Attachment {
    let mut all = attachment(method("full", &json!({})), &[], None);
    all.selection.sites = Sites::from_text("all");
    all
}

#[test]
fn activations_take_what_the_plan_says() {
    let entry =
        |name: &str, settings: Value, modules: &[&str]| vec![attachment(method(name, &settings), modules, None)];
    let quanta = || entry("quanta", json!({ "dims": [4, 6, 6] }), &["q_proj", "v_proj"]);
    let plain = |name, model, entries| Case {
        name,
        model,
        entries,
        samples: 3,
        length: 100,
        trained: 5,
        recompute: false,
        bf16: false,
        products: None,
    };
    let rounded = Some(Bf16Products::Rounded(Rounder::Portable));
    let pairs = Bf16Products::Widened.rounded();
    let cases = [
        plain("QuanTA on q and v", llama(5, 600), quanta()),
        Case { bf16: true, ..plain("bf16", llama(5, 600), quanta()) },
        Case { bf16: true, products: rounded, ..plain("bf16, rounded rows", llama(5, 600), quanta()) },
        Case { bf16: true, products: pairs, ..plain("bf16, rounded in pairs where they are", llama(5, 600), quanta()) },
        Case { recompute: true, ..plain("recomputation", llama(6, 600), quanta()) },
        Case {
            samples: 8,
            length: 30,
            ..plain("LoRA everywhere", llama(4, 600), entry("lora", json!({ "r": 16, "dropout": 0.1 }), &ALL))
        },
        Case { trained: 99, ..plain("everything trains", llama(3, 600), vec![everything()]) },
        Case { trained: 99, ..plain("a large vocabulary", llama(1, 6_000), quanta()) },
        plain("an encoder", roberta(), entry("lora", json!({ "r": 4 }), &["query", "value"])),
        plain("DoRA in attention", llama(4, 600), entry("dora", json!({ "r": 4 }), &ATTENTION)),
        plain(
            "bottlenecks in series",
            llama(4, 600),
            entry("series", json!({ "bottleneck": 32 }), &["up_proj", "o_proj"]),
        ),
        plain(
            "upper layers only",
            llama(6, 600),
            vec![attachment(method("lora", &json!({ "r": 4 })), &["v_proj"], Some(&[4]))],
        ),
    ];
    let mut wrong = Vec::new();
    for case in &cases {
        let (counted, estimated) = case.run();
        let off = 100.0 * (estimated / counted - 1.0);
        println!("{}: counted {counted} estimated {estimated}, {off:+.1} %", case.name);
        if off.abs() > 10.0 {
            wrong.push(format!("{}: estimated {estimated} for {counted} bytes, {off:+.1} %", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tokens_that_nobody_reads_are_spared_most_of_the_last_layer() {
    let config = read_config(object(&llama(3, 50)), &Problems::new()).expect("a model");
    let attachments = [attachment(method("lora", &json!({ "r": 2 })), &["q_proj", "v_proj"], None)];
    let chosen = resolve(&attachments, &config).unwrap();
    let cost = |labels, recompute| {
        let run = Training { tokens: 100, length: 20, labels, number_bytes: 4, weight_bytes: 4, recompute };
        Cost::of(&config, &attachments, &chosen, run)
    };
    // queries and output, the MLP, scores and values over ten keys in the mean; the adapter at q
    let (linears, attention, adapter) = (2 * 2 * 144 * 144 + 3 * 2 * 144 * 384, 4 * 144 * 10, 2 * 2 * (144 + 144));
    for (recompute, times) in [(false, 1), (true, 2)] {
        let (all, few) = (cost(100, recompute), cost(25, recompute));
        assert_eq!(all.forward_flops - few.forward_flops, times * (linears + attention) * 3 / 4);
        assert_eq!(all.backward_flops - few.backward_flops, (linears + attention * 5 / 2) * 3 / 4);
        assert_eq!(all.adapter_flops - few.adapter_flops, (2 + times) * adapter * 3 / 4);
    }
}

#[test]
fn the_frozen_copy_is_counted_where_it_is_computed_or_held() {
    let config = read_config(object(&llama(3, 50)), &Problems::new()).expect("a model");
    let cost = |s: Option<&str>, weight_bytes| {
        let mut settings = json!({ "dims": [4, 6, 6] });
        if let Some(s) = s {
            settings["s"] = s.into();
        }
        let attachments = [attachment(method("quanta", &settings), &["q_proj"], None)];
        let chosen = resolve(&attachments, &config).unwrap();
        let run = Training { tokens: 10, length: 10, labels: 10, number_bytes: 4, weight_bytes, recompute: false };
        Cost::of(&config, &attachments, &chosen, run)
    };
    // beside T: forward and the input's gradient once more, of gates of 24, 24 and 36 rows on 144 features, in three layers
    let once = 3 * 2 * 144 * (24 + 24 + 36);
    for weight_bytes in [2, 4] {
        let (circuit, folded) = (cost(Some("circuit"), weight_bytes), cost(Some("folded"), weight_bytes));
        assert_eq!(circuit.adapter_flops - folded.adapter_flops, 2 * once);
        // a bf16 weight is shared with the file, or with another run: folding makes a copy
        let copies = if weight_bytes == 2 { 3 * 144 * 144 * 2 } else { 0 };
        assert_eq!(folded.weight_bytes - circuit.weight_bytes, copies);
    }
    assert_eq!(cost(None, 2), cost(Some("circuit"), 2));
    assert_eq!(cost(None, 4), cost(Some("folded"), 4));
}
