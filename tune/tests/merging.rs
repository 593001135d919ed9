//! Merging in memory, as evaluation and generation load adapters: the merged model is the adapted one to rounding and nothing is attached any more, what is no
//! matrix stays beside the weight, and weights held as bf16 stay as they are.
//!
//! Methods come from the table of `support/methods.rs`; merging one linear of every shape is judged in `laws.rs`.

mod support;

use quanta_tune::adapter::Method;
use quanta_tune::eval::{GenerateOptions, generate};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Real, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::json;
use support::methods::ROWS;
use support::{assert_close, assert_same_bits, attach, attachment, bits, llama_config, logits, method, perturb};

/// Sites `[24, 24]`, `[12, 24]` and `[24, 36]`, one of them writing to the residual stream.
const MODULES: [&str; 3] = ["q_proj", "v_proj", "down_proj"];
/// Layers of the model.
const LAYERS: usize = 3;

/// A random model with these entries, moved away from their start.
fn adapted<T: Real>(entries: &[Attachment], stored_as: StoredAs) -> Decoder<T> {
    let folder = support::random_folder(&llama_config(), Dtype::Bf16);
    let mut model = load(folder.path(), stored_as).unwrap();
    attach(&mut model, entries, 5);
    perturb(&mut model, 0.1, |_| true);
    model
}

fn batch() -> Batch {
    let tokens: Vec<u32> = (0..21).map(|i| (i * i + 3) % 29).collect();
    Batch::packed(&[&tokens[..8], &tokens[8..]], Vec::new())
}

/// Rounding of f64, and of f32 through three layers.
fn rounding<T: Real>() -> f64 {
    if T::NAME == "f64" { 1e-12 } else { 1e-4 }
}

/// Merges, and judges logits and what is left beside the weights: `merged` sites lose their adapters, `left` adapters stay.
fn check<T: Real>(label: &str, entries: &[Attachment], merged: usize, left: usize) {
    let label = format!("{label} in {}", T::NAME);
    let (mut model, workspace) = (adapted::<T>(entries, StoredAs::Compute), Workspace::new(2).unwrap());
    let bare = logits(&adapted::<T>(&[], StoredAs::Compute), &batch(), &workspace);
    let expected = logits(&model, &batch(), &workspace);
    assert!(bits(&bare) != bits(&expected), "{label}: the adapters do nothing");
    assert_eq!((model.merge(), model.attached().count()), (merged, left), "{label}");
    assert_close(&label, &logits(&model, &batch(), &workspace), &expected, rounding::<T>());
    assert_eq!(model.merge(), 0, "{label}: once is enough");
}

fn check_both(label: &str, entries: &[Attachment], merged: usize, left: usize) {
    check::<f32>(label, entries, merged, left);
    check::<f64>(label, entries, merged, left);
}

fn quanta(s: &str) -> Method {
    method("quanta", &json!({ "dims": [4, 3, 2], "s": s }))
}

#[test]
fn merged_models_give_the_logits_of_adapted_ones() {
    for row in ROWS {
        let sites = MODULES.len() * LAYERS;
        let (merged, left) = if row.method().mergeable() { (sites, 0) } else { (0, sites) };
        check_both(&row.label(), &[attachment(row.method(), &MODULES, None)], merged, left);
    }
}

#[test]
fn a_site_with_something_that_is_no_matrix_stays_as_it_is() {
    let (lora, series) = (method("lora", &json!({ "r": 2 })), method("series", &json!({ "bottleneck": 3 })));
    for matrix in [lora, quanta("folded"), method("dora", &json!({ "r": 2 }))] {
        // q_proj and down_proj hold both, v_proj the matrix alone
        let entries =
            [attachment(matrix.clone(), &MODULES, None), attachment(series.clone(), &["q_proj", "down_proj"], None)];
        check_both(matrix.name(), &entries, LAYERS, 4 * LAYERS);
    }
}

#[test]
fn stacks_are_merged_together() {
    let all = |method: Method| attachment(method, &MODULES, None);
    let lora = all(method("lora", &json!({ "r": 2 })));
    let magnitude = all(method("magnitude", &json!({})));
    for s in ["folded", "circuit", "reference"] {
        let entries = [all(quanta(s)), lora.clone(), all(quanta("folded")), magnitude.clone()];
        check_both(s, &entries, MODULES.len() * LAYERS, 0);
    }
}

#[test]
fn modules_that_train_themselves_are_weights_already() {
    let own = attachment(method("full", &json!({})), &["k_proj", "lm_head"], None);
    let entries = [attachment(quanta("folded"), &["q_proj"], None), own];
    check_both("full", &entries, LAYERS, 0);
}

#[test]
fn merged_models_generate_the_same_tokens() {
    let entries = [
        attachment(quanta("circuit"), &["q_proj", "v_proj"], None),
        attachment(method("dora", &json!({ "r": 2 })), &["k_proj", "down_proj"], None),
        attachment(method("parallel", &json!({ "bottleneck": 3 })), &["up_proj"], None),
    ];
    let (mut model, workspace) = (adapted::<f64>(&entries, StoredAs::Compute), Workspace::new(2).unwrap());
    let prompts: Vec<Vec<u32>> = vec![vec![3, 1, 4], vec![1, 5, 9, 2, 6, 5], vec![3, 1, 4, 8]];
    let options = GenerateOptions { max_new_tokens: 40, ..GenerateOptions::default() };
    let texts = |model: &Decoder<f64>| generate(model, &prompts, &options, &workspace, |_, _| false).unwrap();
    let expected = texts(&model);
    assert_eq!((model.merge(), model.attached().count()), (4 * LAYERS, LAYERS));
    assert_eq!(texts(&model), expected);
}

#[test]
fn weights_held_as_bf16_stay_with_their_adapters_beside() {
    let workspace = Workspace::<f32>::new(2).unwrap();
    for method in [quanta("folded"), quanta("circuit"), method("lora", &json!({ "r": 2 }))] {
        for stored_as in [StoredAs::File, StoredAs::Bf16] {
            let mut model = adapted::<f32>(&[attachment(method.clone(), &MODULES, None)], stored_as);
            let expected = logits(&model, &batch(), &workspace);
            assert_eq!((model.merge(), model.attached().count()), (0, MODULES.len() * LAYERS));
            assert_same_bits(method.name(), &logits(&model, &batch(), &workspace), &expected);
        }
    }
}

#[test]
fn merged_weights_are_the_same_bits_for_any_number_of_threads() {
    let dora = method("dora", &json!({ "r": 2 }));
    for method in [quanta("folded"), dora, method("loha", &json!({ "r": 2 })), method("krona", &json!({}))] {
        let weights = |threads| {
            let workspace = Workspace::<f32>::new(threads).unwrap();
            let mut model = adapted::<f32>(&[attachment(method.clone(), &MODULES, None)], StoredAs::Compute);
            assert_eq!(workspace.run(|| model.merge()), MODULES.len() * LAYERS);
            model.linears().flat_map(|linear| bits(linear.weight().elements().unwrap())).collect::<Vec<_>>()
        };
        assert!(weights(1) == weights(3), "{}", method.name());
    }
}
