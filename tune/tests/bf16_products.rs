//! What products in the arithmetic of matrix units do to a model: its loss and gradients beside those in f64, on the same bf16 weights.
//!
//! The plain code stands in for the matrix unit, which does the same arithmetic, so that this is judged on every machine. Products themselves are judged in
//! `tensor/tiles.rs`.

mod support;

use quanta_tune::adapter::{Gradients, Pass};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::loss::Label;
use quanta_tune::ops::{Batch, Segments};
use quanta_tune::tensor::{Bf16Products, Real, Rounder, Stream, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::{attach, attachment, bits, loss_and_gradients, method, perturb, random_folder};

const VOCABULARY: u32 = 300;

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 96, "intermediate_size": 250, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
    })
}

fn entries() -> [Attachment; 2] {
    let quanta = method("quanta", &json!({ "dims": [8, 4, 3] }));
    let lora = method("lora", &json!({ "r": 4 }));
    [attachment(quanta, &["q_proj", "v_proj"], None), attachment(lora, &["o_proj", "up_proj", "down_proj"], None)]
}

/// Three sequences, 150 tokens, of which all but the first are labelled.
fn batch() -> Batch {
    let segments = Segments::new(&[(70, None), (50, None), (30, None)]).unwrap();
    let mut stream = Stream::new(9, "test", "tokens");
    let tokens: Vec<u32> = (0..segments.tokens()).map(|_| stream.below(u64::from(VOCABULARY)) as u32).collect();
    let inside = segments.list().iter().flat_map(|segment| segment.start + 1..segment.end);
    let labels = inside.map(|at| Label { row: at - 1, target: tokens[at], weight: 1.0 }).collect();
    Batch { tokens, segments, labels, choices: Vec::new(), targets: Vec::new() }
}

/// The mean loss, and the gradient of each trained tensor with its name, away from the adapters' start.
fn measured<T: Real>(stored_as: StoredAs, products: Bf16Products, threads: usize) -> (f64, Vec<(String, Vec<f64>)>) {
    let folder = random_folder(&config(), Dtype::Bf16);
    let mut model: Decoder<T> = load(folder.path(), stored_as).unwrap();
    attach(&mut model, &entries(), 11);
    perturb(&mut model, 0.05, |_| true);
    let workspace = Workspace::new(threads).unwrap().with_bf16_products(products);
    let batch = batch();
    let (loss, gradients): (f64, Gradients<T>) =
        loss_and_gradients(&model, &batch, false, &Pass { workspace: &workspace, draw: None });
    let mut tensors = Vec::new();
    for (site, attached) in model.attached() {
        let mut rest = gradients.slot(attached.slot);
        for tensor in attached.adapter.parameters().tensors().iter().filter(|tensor| tensor.trainable) {
            let (piece, behind) = rest.split_at(tensor.elements());
            tensors.push((format!("{} {}", site.name, tensor.name), piece.iter().map(|v| v.to_f64()).collect()));
            rest = behind;
        }
        assert!(rest.is_empty(), "{}: every number belongs to a tensor", site.name);
    }
    (loss / batch.labels.len() as f64, tensors)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn losses_and_gradients_are_nearly_those_in_f64() {
    let (exact_loss, exact) = measured::<f64>(StoredAs::Compute, Bf16Products::Widened, 1);
    let (loss, got) = measured::<f32>(StoredAs::File, Bf16Products::Portable, 1);
    println!("loss {loss} instead of {exact_loss}");
    // a product is off by 2^-16 of its size at most, and signs are at random: the loss by less, and directions by the square of some of these
    assert!((loss - exact_loss).abs() <= 1.5e-5 * exact_loss, "loss {loss} instead of {exact_loss}");
    assert!(loss != measured::<f32>(StoredAs::File, Bf16Products::Widened, 1).0, "no product was in that arithmetic");
    let mut worst = 1.0f64;
    for ((name, got), (_, exact)) in got.iter().zip(&exact) {
        let cosine = cosine(got, exact);
        worst = worst.min(cosine);
        assert!(cosine >= 1.0 - 1e-7, "{name}: cosine {cosine}");
    }
    let all =
        |tensors: &[(String, Vec<f64>)]| tensors.iter().flat_map(|(_, values)| values.clone()).collect::<Vec<_>>();
    let whole = cosine(&all(&got), &all(&exact));
    println!(
        "{} tensors, cosine at least 1 - {:.1e}, of the whole gradient 1 - {:.1e}",
        got.len(),
        1.0 - worst,
        1.0 - whole
    );
    assert!(whole >= 1.0 - 1e-8, "whole gradient: cosine {whole}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // in plain code, and as this machine rounds rows, if it does
    let here = Workspace::<f32>::new(1).unwrap().bf16_products().rounded();
    for products in [Some(Bf16Products::Portable), Bf16Products::Portable.rounded(), here].into_iter().flatten() {
        let (loss, gradients) = measured::<f32>(StoredAs::File, products, 1);
        for threads in [2, 3, 4] {
            let (other, tensors) = measured::<f32>(StoredAs::File, products, threads);
            assert_eq!(loss.to_bits(), other.to_bits(), "{products:?}, {threads} threads");
            for ((name, one), (_, other)) in gradients.iter().zip(&tensors) {
                assert!(bits(one) == bits(other), "{products:?}, {name} on {threads} threads");
            }
        }
    }
}

/// On bf16 weights S stands beside T, and both are circuits in the same arithmetic.
#[test]
fn quanta_starts_at_the_base_model_to_the_bit() {
    let (folder, batch) = (random_folder(&config(), Dtype::Bf16), batch());
    for products in [Bf16Products::Widened, Bf16Products::Portable, Bf16Products::Rounded(Rounder::Portable)] {
        let workspace = Workspace::new(2).unwrap().with_bf16_products(products);
        let scores = |entries: &[Attachment]| {
            let mut model: Decoder<f32> = load(folder.path(), StoredAs::File).unwrap();
            attach(&mut model, entries, 11);
            let pass = Pass { workspace: &workspace, draw: None };
            workspace.run(|| model.log_probabilities(&batch, &pass))
        };
        let base = scores(&[]);
        for init in ["uniform", "identity"] {
            let quanta = method("quanta", &json!({ "dims": [8, 4, 3], "init": init }));
            let started = scores(&[attachment(quanta, &["q_proj", "v_proj", "down_proj"], None)]);
            assert!(bits(&started) == bits(&base), "{init}, {products:?}");
        }
    }
}
