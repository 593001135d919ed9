//! A learned prefix of attention: what it means, its gradients, trees, generation, files.
//!
//! Its agreement with PEFT is judged in `golden_methods.rs`; what is attached to linears in `laws.rs`.

mod support;

use quanta_tune::adapter::{Pass, Selection, Sites};
use quanta_tune::checkpoint::{AdapterFolder, save_adapters};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Stream, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::forest::{Forest, packed};
use support::{
    assert_close, assert_same_bits, attach, attachment, differences, gemma3_config, llama_config, logits,
    loss_and_gradients, method, mistral_config, qwen2_config, random_folder,
};

/// An entry of the only method that stands at attention.
fn prefix(settings: &Value) -> Attachment {
    let selection = Selection { sites: Sites::Attention, layers: Default::default() };
    Attachment { method: method("prefix", settings), selection }
}

fn forms() -> [Value; 2] {
    [
        json!({ "num_virtual_tokens": 3 }),
        json!({ "num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 5 }),
    ]
}

fn configs() -> [Value; 4] {
    [llama_config(), qwen2_config(), mistral_config(), gemma3_config()]
}

fn model(config: &Value, entries: &[Attachment]) -> Decoder<f64> {
    let folder = random_folder(config, Dtype::F64);
    let mut model = load(folder.path(), StoredAs::Compute).unwrap();
    attach(&mut model, entries, 7);
    model
}

/// Replaces the values of the prefix's slot.
fn set(model: &mut Decoder<f64>, slot: usize, values: &[f64]) {
    {
        let mut slots = model.trained_mut();
        let (_, pieces) = slots.iter_mut().find(|(at, _)| *at == slot).unwrap();
        pieces[0].copy_from_slice(values);
    }
    model.prepare();
}

fn values(model: &Decoder<f64>, slot: usize) -> Vec<f64> {
    let trained = model.trained();
    let tensors = trained[slot].tensors.iter().filter(|(tensor, _)| tensor.trainable);
    tensors.flat_map(|(_, values)| values.to_vec()).collect()
}

#[test]
fn gradients_are_central_differences() {
    for (config, form) in configs().iter().flat_map(|config| forms().map(|form| (config, form))) {
        // beside it an adapter in the upper layer: its gradient has to be right as well, and the lower layer trains by the prefix alone
        let lora = attachment(method("lora", &json!({ "r": 2 })), &["q_proj", "v_proj"], Some(&[1]));
        let mut model = model(config, &[prefix(&form), lora]);
        support::perturb(&mut model, 0.2, |_| true);
        let (workspace, batch) = (Workspace::new(2).unwrap(), Forest::new(20).batch());
        let pass = Pass { workspace: &workspace, draw: None };
        for recompute in [false, true] {
            let (_, gradients) = loss_and_gradients(&model, &batch, recompute, &pass);
            for slot in 0..gradients.slots() {
                let at = values(&model, slot);
                // all of the small slots, a part of the large ones
                let indices: Vec<usize> = (0..at.len()).step_by(at.len().div_ceil(24)).collect();
                let expected = differences(&at, &indices, |values| {
                    set(&mut model, slot, values);
                    let log_p = workspace.run(|| model.log_probabilities(&batch, &pass));
                    -log_p.iter().zip(&batch.labels).map(|(log_p, label)| label.weight * log_p).sum::<f64>()
                });
                set(&mut model, slot, &at);
                let got: Vec<f64> = indices.iter().map(|&index| gradients.slot(slot)[index]).collect();
                assert_close(&format!("{} {form} slot {slot}", config["model_type"]), &got, &expected, 1e-8);
            }
        }
    }
}

/// A tree behind a prefix is its paths behind the prefix, one after another: logits, loss and gradients.
#[test]
fn trees_equal_separate_sequences() {
    for (config, form) in configs().iter().flat_map(|config| forms().map(|form| (config, form))) {
        let model = model(config, &[prefix(&form)]);
        let workspace = Workspace::new(2).unwrap();
        let pass = Pass { workspace: &workspace, draw: None };
        let forest = Forest::new(20);
        let (tree, flat) = (forest.batch(), packed(&forest.sequences(|_| 0)));
        let [(loss, ours), (expected, theirs)] =
            [&tree, &flat].map(|batch| loss_and_gradients(&model, batch, false, &pass));
        assert_close("loss", &[loss], &[expected], 1e-12);
        assert_close("gradient", ours.slot(0), theirs.slot(0), 1e-11);
    }
}

/// Without a window, virtual tokens are seen by all and move everything by their number: keys equal to those of real tokens mean those tokens.
#[test]
fn a_prefix_of_real_keys_and_values_is_those_tokens() {
    let config = llama_config();
    let folder = random_folder(&config, Dtype::F64);
    let base: Decoder<f64> = load(folder.path(), StoredAs::Compute).unwrap();
    let workspace = Workspace::new(1).unwrap();
    let pass = Pass { workspace: &workspace, draw: None };
    let tokens: Vec<u32> = (0..9).map(|i| (i * 5 + 2) % 20).collect();
    let whole = Batch::packed(&[&tokens], Vec::new());
    // the keys of token 0 are not rotated: a prefix of it alone can be written down
    let (kept, _) = workspace.run(|| base.prefill(&Batch::packed(&[&tokens[..1]], Vec::new()), &[0], &pass));
    let row: Vec<f64> = kept.layers().iter().flat_map(|[keys, values]| [keys.data(), values.data()].concat()).collect();
    let mut model = model(&config, &[prefix(&json!({ "num_virtual_tokens": 1 }))]);
    set(&mut model, 0, &row);
    let behind = Batch::packed(&[&tokens[1..]], Vec::new());
    let expected = logits(&base, &whole, &workspace);
    let vocabulary = base.config().vocab_size;
    assert_close("logits", &logits(&model, &behind, &workspace), &expected[vocabulary..], 1e-12);
}

#[test]
fn generation_with_kept_keys_sees_the_prefix() {
    for (config, form) in configs().iter().flat_map(|config| forms().map(|form| (config, form))) {
        let model = model(config, &[prefix(&form)]);
        let workspace = Workspace::new(2).unwrap();
        let (pass, vocabulary) = (Pass { workspace: &workspace, draw: None }, model.config().vocab_size as u64);
        let mut stream = Stream::new(8, "test", "tokens");
        let mut text: Vec<u32> = (0..7).map(|_| stream.below(vocabulary) as u32).collect();
        let batch = Batch::packed(&[&text], Vec::new());
        let (kept, _) = workspace.run(|| model.prefill(&batch, &[6], &pass));
        let mut live = vec![kept.continuation(0)];
        for step in 0..20 {
            let next = stream.below(vocabulary) as u32;
            text.push(next);
            let got = workspace.run(|| model.step(&mut live, &[next], &pass));
            let all = logits(&model, &Batch::packed(&[&text], Vec::new()), &workspace);
            let expected = &all[(text.len() - 1) * vocabulary as usize..];
            assert_close(&format!("{form} step {step}"), got.row(0), expected, 1e-12);
        }
    }
}

#[test]
fn the_same_bits_come_from_any_number_of_threads_and_from_a_folder() {
    for form in forms() {
        let (config, entries) = (qwen2_config(), [prefix(&form)]);
        let model = model(&config, &entries);
        let batch = Forest::new(20).batch();
        let run = |threads| {
            let workspace = Workspace::new(threads).unwrap();
            let pass = Pass { workspace: &workspace, draw: None };
            loss_and_gradients(&model, &batch, false, &pass).1.slot(0).to_vec()
        };
        let first = run(1);
        [2, 3].into_iter().for_each(|threads| assert_same_bits("threads", &run(threads), &first));

        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("adapter");
        save_adapters(&folder, &model, &entries, "base").unwrap();
        let saved = AdapterFolder::open(&folder).unwrap();
        assert_eq!(saved.attachments(), entries);
        let chosen = resolve(&entries, model.config()).unwrap();
        saved.check(&model.config().attachable(), &chosen).unwrap();
        let base = random_folder(&config, Dtype::F64);
        let mut again: Decoder<f64> = load(base.path(), StoredAs::Compute).unwrap();
        let fill = |entry: usize, site: &_, parameters: &mut _| saved.fill(entry, site, parameters);
        again.attach(&entries, &chosen, 99, fill).unwrap();
        let workspace = Workspace::new(1).unwrap();
        assert_same_bits("logits", &logits(&again, &batch, &workspace), &logits(&model, &batch, &workspace));
    }
}

#[test]
fn two_prefixes_are_refused() {
    let config = model(&llama_config(), &[]).config().clone();
    let error = resolve(&[prefix(&forms()[0]), prefix(&forms()[1])], &config).unwrap_err();
    assert!(error[0].to_string().contains("already has a learned prefix, from adapter.0"), "{}", error[0]);
}
