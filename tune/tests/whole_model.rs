//! A whole decoder in f64: gradients against central differences, recomputation, where backward stops, trees against separate sequences.
//!
//! The models are tiny and random: a llama with grouped heads and scaled rotary frequencies, a qwen2 with biases and a tied head, a mistral with a window,
//! two gemmas with every kind of norm, soft caps and layers that differ. What each method does at
//! a site is judged in `laws.rs`, each operation beside its own code.

mod support;

use std::collections::BTreeMap;

use quanta_tune::adapter::{Draw, Gradients, Method, Pass};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::ops::loss::Label;
use quanta_tune::tensor::{Stream, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::forest::{Forest, packed};
use support::{
    assert_close, assert_same_bits, attach, attachment, decoder_configs, differences, gemma2_config, gemma3_config,
    llama_config, logits, loss_and_gradients, method, mistral_config, perturb, qwen2_config, random_folder,
};

const DRAW: Draw = Draw { seed: 2, step: 3, micro_batch: 0 };

fn lora(r: usize) -> Method {
    method("lora", &json!({ "r": r }))
}

fn quanta(settings: Value) -> Method {
    method("quanta", &settings)
}

fn model(config: &Value, entries: &[Attachment]) -> Decoder<f64> {
    let folder = random_folder(config, Dtype::F64);
    let mut model = load(folder.path(), StoredAs::Compute).unwrap();
    attach(&mut model, entries, 7);
    model
}

/// Every kind of site, folded and unfolded, with and without dropout, and sites that carry two or three adapters.
fn mixed() -> [Attachment; 6] {
    let free = json!({ "plan": "4-3-2: (-1,-2) (-3)", "s": "circuit", "dropout": 0.2 });
    let small = json!({ "plan": "6-4: (-1) (-2) (-1)", "s": "folded" });
    [
        attachment(quanta(json!({ "dims": [4, 3, 2], "s": "folded" })), &["q_proj"], Some(&[1])),
        attachment(quanta(free), &["v_proj", "o_proj"], None),
        attachment(quanta(small), &["k_proj", "gate_proj", "down_proj"], Some(&[0, 1])),
        attachment(
            method("lora", &json!({ "r": 2, "alpha": 3.0, "dropout": 0.2 })),
            &["up_proj", "q_proj"],
            Some(&[1]),
        ),
        attachment(quanta(json!({ "plan": "4-6: (-1) (-2)", "init": "identity" })), &["q_proj"], None),
        attachment(lora(1), &["down_proj"], Some(&[0])),
    ]
}

/// The loss sum by scoring alone, with dropout as in the pass.
fn scored_loss(model: &Decoder<f64>, batch: &Batch, pass: &Pass<'_, f64>) -> f64 {
    let log_p = pass.workspace.run(|| model.log_probabilities(batch, pass));
    -log_p.iter().zip(&batch.labels).map(|(log_p, label)| label.weight * log_p).sum::<f64>()
}

fn set_slot(model: &mut Decoder<f64>, slot: usize, values: &[f64]) {
    let mut slots = model.trained_mut();
    let (_, pieces) = slots.iter_mut().find(|(at, _)| *at == slot).unwrap();
    pieces[0].copy_from_slice(values);
}

/// Where each slot is, for failures' messages, and its parameters.
fn slots(model: &Decoder<f64>) -> BTreeMap<usize, (String, Vec<f64>)> {
    let slot = |(site, attached): (&quanta_tune::adapter::Site, &quanta_tune::model::Attached<f64>)| {
        let name = format!("{} entry {}", site.name, attached.entry);
        (attached.slot, (name, attached.adapter.parameters().trainable().to_vec()))
    };
    model.attached().map(slot).collect()
}

fn check_gradients(config: &Value) {
    let mut model = model(config, &mixed());
    perturb(&mut model, 0.2, |_| true);
    let workspace = Workspace::new(1).unwrap();
    let pass = Pass { workspace: &workspace, draw: Some(DRAW) };
    let batch = Forest::new(model.config().vocab_size as u32).batch();
    let (loss, gradients) = loss_and_gradients(&model, &batch, false, &pass);
    assert_close("loss", &[loss], &[scored_loss(&model, &batch, &pass)], 1e-13);
    for (slot, (name, start)) in slots(&model) {
        let all: Vec<usize> = (0..start.len()).collect();
        let expected = differences(&start, &all, |values| {
            set_slot(&mut model, slot, values);
            scored_loss(&model, &batch, &pass)
        });
        set_slot(&mut model, slot, &start);
        // a loss of about 100 in f64 over steps of 1e-4: rounding of 1e-14 * 100 / 1e-4 = 1e-8 on gradients of 1 to 10
        assert_close(&name, gradients.slot(slot), &expected, 1e-7);
    }
}

#[test]
fn gradients_of_a_llama_are_central_differences() {
    check_gradients(&llama_config());
}

#[test]
fn gradients_of_a_qwen2_are_central_differences() {
    check_gradients(&qwen2_config());
}

#[test]
fn gradients_through_windows_are_central_differences() {
    check_gradients(&mistral_config());
}

#[test]
fn gradients_through_norms_on_both_sides_and_soft_caps_are_central_differences() {
    check_gradients(&gemma2_config());
}

#[test]
fn gradients_through_norms_of_queries_and_keys_are_central_differences() {
    check_gradients(&gemma3_config());
}

#[test]
fn recomputation_changes_no_bit() {
    for config in decoder_configs() {
        let mut model = model(&config, &mixed());
        perturb(&mut model, 0.2, |_| true);
        let workspace = Workspace::new(1).unwrap();
        let pass = Pass { workspace: &workspace, draw: Some(DRAW) };
        let batch = Forest::new(model.config().vocab_size as u32).batch();
        let (mut kept, mut recomputed) = (model.gradients(), model.gradients());
        let first = model.train(&batch, false, &mut kept, &pass);
        let second = model.train(&batch, true, &mut recomputed, &pass);
        assert_eq!(first.loss.to_bits(), second.loss.to_bits());
        for (slot, (name, _)) in slots(&model) {
            assert_same_bits(&name, recomputed.slot(slot), kept.slot(slot));
        }
        let inputs = model.config().layers * batch.tokens.len() * model.config().hidden_size * size_of::<f64>();
        assert_eq!(second.saved_bytes, inputs, "one input for each layer is all that recomputation keeps");
        assert!(first.saved_bytes > 5 * inputs, "{} bytes kept without it", first.saved_bytes);
    }
}

/// A label of weight zero has its row computed and changes nothing else, so that all rows together judge the few that somebody reads.
#[test]
fn rows_that_nobody_reads_change_nothing() {
    for config in decoder_configs() {
        let mut model = model(&config, &mixed());
        perturb(&mut model, 0.2, |_| true);
        let workspace = Workspace::new(2).unwrap();
        let pass = Pass { workspace: &workspace, draw: None };
        let mut few = Forest::new(model.config().vocab_size as u32).batch();
        few.labels = few.labels.into_iter().step_by(4).collect();
        let mut all = few.clone();
        all.labels.extend((0..few.tokens.len()).map(|row| Label { row, target: 0, weight: 0.0 }));
        for recompute in [false, true] {
            let (loss, gradients) = loss_and_gradients(&model, &few, recompute, &pass);
            let (expected, judge) = loss_and_gradients(&model, &all, recompute, &pass);
            assert_close("loss", &[loss], &[expected], 1e-13);
            for (slot, (name, _)) in slots(&model) {
                assert_close(&name, gradients.slot(slot), judge.slot(slot), 1e-12);
            }
        }
        // any order, and a row twice
        let whole = logits(&model, &few, &workspace);
        let vocab = model.config().vocab_size;
        let rows = [few.tokens.len() - 1, 2, 7, 2];
        let some = workspace.run(|| model.logits(&few, &rows, &pass).data().to_vec());
        let expected: Vec<f64> = rows.iter().flat_map(|row| &whole[row * vocab..][..vocab]).copied().collect();
        assert_close("logits", &some, &expected, 1e-12);
    }
}

/// Gradients of the first `count` slots.
fn leading(gradients: &Gradients<f64>, count: usize) -> Vec<&[f64]> {
    (0..count).map(|slot| gradients.slot(slot)).collect()
}

/// Adapters that start at zero are attached everywhere below; they change nothing but how far backward has to go.
#[test]
fn backward_stops_without_losing_a_gradient() {
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = llama_config();
    let workspace = Workspace::new(1).unwrap();
    let pass = Pass { workspace: &workspace, draw: None };
    let batch = Forest::new(29).batch();
    let subject = |names: &[&str], layers: &[usize]| {
        attachment(quanta(json!({ "plan": "4-3-2: (-1,-2) (-3)" })), names, Some(layers))
    };
    let choices: Vec<Vec<&str>> = modules
        .iter()
        .map(|&module| vec![module])
        .chain([vec!["q_proj", "down_proj"], vec!["o_proj", "up_proj"], vec!["v_proj", "o_proj"]])
        .collect();
    for names in &choices {
        for layers in [&[0][..], &[2], &[1, 2], &[0, 2]] {
            let label = format!("{names:?} of layers {layers:?}");
            let mut alone = model(&config, &[subject(names, layers)]);
            perturb(&mut alone, 0.2, |_| true);
            let count = alone.gradients().slots();
            assert_eq!(count, names.len() * layers.len());
            let mut all = model(&config, &[subject(names, layers), attachment(lora(1), &modules, None)]);
            perturb(&mut all, 0.2, |entry| entry == 0);
            let (loss, short) = loss_and_gradients(&alone, &batch, false, &pass);
            let (same_loss, long) = loss_and_gradients(&all, &batch, false, &pass);
            assert_close(&label, &[loss], &[same_loss], 1e-14);
            assert!((count..long.slots()).all(|slot| long.slot(slot).iter().any(|&v| v != 0.0)), "{label}: a dead end");
            for (short, long) in leading(&short, count).into_iter().zip(leading(&long, count)) {
                assert_close(&label, short, long, 1e-13);
            }
        }
    }
}

#[test]
fn a_model_without_adapters_has_a_loss_and_no_gradient() {
    let (model, workspace) = (model(&llama_config(), &[]), Workspace::new(1).unwrap());
    let pass = Pass { workspace: &workspace, draw: None };
    let batch = Forest::new(29).batch();
    let (loss, gradients) = loss_and_gradients(&model, &batch, false, &pass);
    assert_eq!(gradients.slots(), 0);
    assert_close("loss", &[loss], &[scored_loss(&model, &batch, &pass)], 1e-13);
}

/// Sums of losses and gradients over batches.
fn sums(model: &Decoder<f64>, batches: &[Batch], pass: &Pass<'_, f64>) -> (f64, Gradients<f64>) {
    let mut gradients = model.gradients();
    let losses =
        batches.iter().map(|batch| pass.workspace.run(|| model.train(batch, false, &mut gradients, pass).loss));
    (losses.sum(), gradients)
}

#[test]
fn a_tree_equals_its_paths_as_separate_sequences() {
    for config in decoder_configs() {
        // dropout masks belong to places in the batch, so trees and sequences are compared without
        let mut model = model(&config, &mixed());
        perturb(&mut model, 0.2, |_| true);
        let workspace = Workspace::new(1).unwrap();
        let pass = Pass { workspace: &workspace, draw: None };
        let forest = Forest::new(model.config().vocab_size as u32);
        let tree = forest.batch();
        let (loss, gradients) = sums(&model, std::slice::from_ref(&tree), &pass);
        let mut stream = Stream::new(1, "test", "choice of paths");
        let any = forest.sequences(|paths| stream.below(paths as u64) as usize);
        let ways =
            [("first path", forest.sequences(|_| 0)), ("any path", any), ("last path", forest.sequences(|n| n - 1))];
        for (name, sequences) in ways {
            for batches in [vec![packed(&sequences)], sequences] {
                assert_eq!(batches.iter().map(Batch::weight).sum::<f64>(), tree.weight());
                assert!(batches.iter().map(|batch| batch.tokens.len()).sum::<usize>() > tree.tokens.len());
                let (separate_loss, separate) = sums(&model, &batches, &pass);
                let name = format!("{name} in {} batches", batches.len());
                assert_close(&name, &[separate_loss], &[loss], 1e-12);
                for (slot, (site, _)) in slots(&model) {
                    assert_close(&format!("{name}: {site}"), separate.slot(slot), gradients.slot(slot), 1e-12);
                }
            }
        }
    }
}

#[test]
fn a_row_that_predicts_for_several_children_counts_each() {
    let (mut model, workspace) = (model(&llama_config(), &mixed()), Workspace::new(1).unwrap());
    perturb(&mut model, 0.2, |_| true);
    let pass = Pass { workspace: &workspace, draw: None };
    let tree = Forest::new(29).batch();
    // the root's last token predicts the first tokens of its three children
    let last = tree.segments.list()[0].end - 1;
    assert_eq!(tree.labels.iter().filter(|label| label.row == last).count(), 3);
    let one_by_one: Vec<Batch> =
        tree.labels.iter().map(|&label| Batch { labels: vec![label], ..tree.clone() }).collect();
    let (loss, gradients) = sums(&model, std::slice::from_ref(&tree), &pass);
    let (sum, separate) = sums(&model, &one_by_one, &pass);
    assert_close("loss", &[loss], &[sum], 1e-12);
    let mut reversed = tree.clone();
    reversed.labels.reverse();
    let (same, in_reverse) = sums(&model, &[reversed], &pass);
    assert_close("labels in reverse", &[same], &[loss], 1e-14);
    for (slot, (site, _)) in slots(&model) {
        assert_close(&site, gradients.slot(slot), separate.slot(slot), 1e-12);
        assert_close(&format!("{site} in reverse"), in_reverse.slot(slot), gradients.slot(slot), 1e-13);
    }
}

/// A merged site is a plain linear: the tiny model with every update added to its weights in a new folder gives the adapted logits.
#[test]
fn the_adapted_model_equals_the_merged_folder() {
    for config in decoder_configs() {
        let folder = random_folder(&config, Dtype::F64);
        let mut adapted: Decoder<f64> = load(folder.path(), StoredAs::Compute).unwrap();
        attach(&mut adapted, &mixed(), 7);
        perturb(&mut adapted, 0.2, |_| true);
        let mut updates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (site, attached) in adapted.attached() {
            let update = attached.adapter.update().unwrap();
            let sum = updates.entry(format!("{}.weight", site.name)).or_insert_with(|| vec![0.0; update.len()]);
            sum.iter_mut().zip(&update).for_each(|(sum, v)| *sum += v);
        }
        let merged = support::merged_folder(folder.path(), &config, &updates);
        let merged: Decoder<f64> = load(merged.path(), StoredAs::Compute).unwrap();
        let (workspace, batch) = (Workspace::new(1).unwrap(), Forest::new(20).batch());
        assert_close("logits", &logits(&adapted, &batch, &workspace), &logits(&merged, &batch, &workspace), 1e-12);
    }
}
