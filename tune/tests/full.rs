//! Modules whose own parameters train: gradients against central differences, saving and merging, other adapters beside them.
//!
//! The models are those of `whole_model.rs`: a llama with a head of its own, a qwen2 with biases and a tied head, whose embedding and head are one parameter.

mod support;

use quanta_tune::adapter::{Draw, Pass, Sites};
use quanta_tune::checkpoint::{AdapterFolder, merge_into, save_adapters};
use quanta_tune::model::{AttachError, Attachment, Decoder, StoredAs, load, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Bf16Products, Real, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::forest::Forest;
use support::{
    assert_close, assert_same_bits, attach, attachment, bits, decoder_configs, differences, gemma2_config,
    gemma3_config, llama_config, logits, loss_and_gradients, method, qwen2_config, random_folder, set, values,
};

const DRAW: Draw = Draw { seed: 2, step: 3, micro_batch: 0 };

fn full(names: &[&str], layers: Option<&[usize]>) -> Attachment {
    attachment(method("full", &json!({})), names, layers)
}

fn everything() -> Attachment {
    let mut all = full(&[], None);
    all.selection.sites = Sites::from_text("all");
    all
}

fn lora(names: &[&str], layers: Option<&[usize]>) -> Attachment {
    attachment(method("lora", &json!({ "r": 2, "dropout": 0.1 })), names, layers)
}

fn model<T: Real>(config: &Value, entries: &[Attachment]) -> Decoder<T> {
    let folder = random_folder(config, Dtype::F64);
    let mut model = load(folder.path(), StoredAs::Compute).unwrap();
    attach(&mut model, entries, 7);
    model
}

fn check_gradients(config: &Value, entries: &[Attachment]) {
    let mut model = model(config, entries);
    let workspace = Workspace::new(1).unwrap();
    let pass = Pass { workspace: &workspace, draw: Some(DRAW) };
    let batch = Forest::new(model.config().vocab_size as u32).batch();
    let (_, gradients) = loss_and_gradients(&model, &batch, false, &pass);
    let (_, again) = loss_and_gradients(&model, &batch, true, &pass);
    for slot in 0..gradients.slots() {
        let (name, start) = (model.trained()[slot].site.name.clone(), values(&model, slot));
        // spread over the slot: matrices have hundreds of elements
        let some: Vec<usize> = (0..start.len()).step_by(start.len().div_ceil(40)).collect();
        let expected = differences(&start, &some, |values| {
            set(&mut model, slot, values);
            let log_p = workspace.run(|| model.log_probabilities(&batch, &pass));
            -log_p.iter().zip(&batch.labels).map(|(log_p, label)| label.weight * log_p).sum::<f64>()
        });
        set(&mut model, slot, &start);
        let got: Vec<f64> = some.iter().map(|&index| gradients.slot(slot)[index]).collect();
        assert_close(&name, &got, &expected, 1e-6);
        assert_same_bits(&name, again.slot(slot), gradients.slot(slot));
    }
}

#[test]
fn gradients_of_everything_are_central_differences() {
    check_gradients(&llama_config(), &[everything()]);
    check_gradients(&qwen2_config(), &[everything()]);
    check_gradients(&gemma2_config(), &[everything()]);
    check_gradients(&gemma3_config(), &[everything()]);
}

#[test]
fn gradients_of_norms_alone_are_central_differences() {
    for name in
        ["q_norm", "k_norm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
    {
        check_gradients(&gemma3_config(), &[full(&[name], Some(&[1]))]);
        check_gradients(&gemma3_config(), &[full(&[name], Some(&[1, 2])), lora(&["v_proj"], Some(&[1]))]);
    }
}

#[test]
fn gradients_beside_adapters_are_central_differences() {
    let some = full(&["embed_tokens", "input_layernorm", "down_proj"], None);
    check_gradients(&llama_config(), &[lora(&["q_proj"], None), some]);
    for names in [["k_proj", "norm"], ["post_attention_layernorm", "up_proj"], ["o_proj", "input_layernorm"]] {
        check_gradients(&qwen2_config(), &[full(&names, Some(&[1])), lora(&["v_proj"], Some(&[0]))]);
    }
    for last in ["norm", "lm_head"] {
        check_gradients(&llama_config(), &[full(&[last], None)]);
    }
}

#[test]
fn everything_is_every_parameter_of_the_model() {
    for config in decoder_configs() {
        let model = model::<f64>(&config, &[everything()]);
        let count: usize = model.trained().iter().map(|trained| trained.trainable()).sum();
        assert_eq!(count, model.config().parameters());
        assert_eq!(everything().method.parameters(&model.config().modules()[0]), model.trained()[0].trainable());
    }
}

#[test]
fn a_module_takes_one_entry_and_others_see_only_linears() {
    let config = model::<f64>(&llama_config(), &[]).config().clone();
    let clash = resolve(&[full(&["q_proj"], Some(&[1])), lora(&["q_proj"], None)], &config).unwrap_err();
    assert!(matches!(&clash[..], [AttachError::Unfrozen { entry: 1, other: 0, .. }]), "{clash:?}");
    assert!(resolve(&[full(&["q_proj"], Some(&[1])), lora(&["q_proj"], Some(&[0, 2]))], &config).is_ok());
    assert!(resolve(&[lora(&["embed_tokens"], None)], &config).is_err());
}

fn step<T: Real>(model: &mut Decoder<T>, batch: &Batch, threads: usize) {
    let workspace = Workspace::new(threads).unwrap();
    let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 4 };
    let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), model), model);
    for index in 0..3 {
        step.take(model, std::slice::from_ref(batch), index, 1e-2, &workspace).unwrap();
    }
}

fn all_bits<T: Real>(model: &Decoder<T>) -> Vec<Vec<u64>> {
    model.trained().iter().flat_map(|t| t.tensors.iter().map(|(_, values)| bits(values)).collect::<Vec<_>>()).collect()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for config in [llama_config(), qwen2_config()] {
        let batch = Forest::new(23).batch();
        let run = |threads| {
            let mut model = model::<f32>(&config, &[everything()]);
            let start = all_bits(&model);
            step(&mut model, &batch, threads);
            let end = all_bits(&model);
            assert!(start.iter().zip(&end).all(|(a, b)| a != b), "something does not move");
            end
        };
        let one = run(1);
        assert!([2, 3].into_iter().all(|threads| run(threads) == one));
    }
}

#[test]
fn what_was_trained_is_saved_read_back_and_merged() {
    for stored in [Dtype::F32, Dtype::Bf16] {
        for config in [llama_config(), qwen2_config()] {
            let base = random_folder(&config, stored);
            let entries = [full(&["embed_tokens", "norm", "k_proj", "input_layernorm"], None), lora(&["v_proj"], None)];
            let mut trained: Decoder<f32> = load(base.path(), StoredAs::File).unwrap();
            attach(&mut trained, &entries, 7);
            let batch = Forest::new(23).batch();
            step(&mut trained, &batch, 1);
            let out = tempfile::tempdir().unwrap();
            save_adapters(&out.path().join("adapter"), &trained, &entries, "base").unwrap();
            let saved = AdapterFolder::open(&out.path().join("adapter")).unwrap();
            assert_eq!(saved.attachments(), entries);
            let chosen = resolve(&entries, trained.config()).unwrap();
            saved.check(&trained.config().modules(), &chosen).unwrap();
            let mut again: Decoder<f32> = load(base.path(), StoredAs::File).unwrap();
            again.attach(&entries, &chosen, 0, |entry, site, p| saved.fill(entry, site, p)).unwrap();
            assert_eq!(all_bits(&again), all_bits(&trained));
            let change = support::saved_change(&trained, &entries);
            std::fs::create_dir(out.path().join("merged")).unwrap();
            merge_into(base.path(), &[(1.0, change)], Some(Dtype::F32), &out.path().join("merged")).unwrap();
            let merged: Decoder<f32> = load(&out.path().join("merged"), StoredAs::File).unwrap();
            // on AMX, products with the bf16 weights of one and the f32 weights of the other differ by more
            let workspace = Workspace::new(1).unwrap().with_bf16_products(Bf16Products::Widened);
            let [a, b] = [&merged, &trained].map(|model| logits(model, &batch, &workspace));
            assert_close("merged", &a, &b, 1e-5);
        }
    }
}

/// PEFT's `modules_to_save` goes by endings of the text alone: `norm` would choose every norm there.
#[test]
fn saved_modules_are_named_so_that_peft_chooses_the_same() {
    let base = random_folder(&llama_config(), Dtype::F32);
    let saved_names = |names: &[&str]| {
        let entries = [lora(&["v_proj"], None), full(names, None)];
        let mut model: Decoder<f32> = load(base.path(), StoredAs::File).unwrap();
        attach(&mut model, &entries, 7);
        let out = tempfile::tempdir().unwrap();
        save_adapters(&out.path().join("adapter"), &model, &entries, "base").unwrap();
        let text = std::fs::read_to_string(out.path().join("adapter/adapter_config.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        json["modules_to_save"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let names: Vec<String> = saved_names(&["norm"]);
    assert_eq!(names, ["model.norm"]);
    let names: Vec<String> = saved_names(&["lm_head", "input_layernorm"]);
    assert_eq!(names, ["lm_head", "input_layernorm"]);
}
