//! What bf16 weights cost in accuracy: the demonstration's pretrained model, held as bf16 and computed as this machine computes it, against the same weights in f64.

mod support;

use std::path::Path;

use quanta_tune::adapter::{Draw, Pass};
use quanta_tune::data::batch::{Weighting, pack};
use quanta_tune::data::demo::Split;
use quanta_tune::data::demo::questions::{Row, rows};
use quanta_tune::data::example::Encoded;
use quanta_tune::data::tokenizer::Tokenizer;
use quanta_tune::model::{Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Real, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use serde_json::json;
use support::{attach, attachment, loss_and_gradients, method};

const BATCHES: usize = 8;
const ROWS: usize = 8;

fn base() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/base"))
}

/// Batches of the demonstration's questions with their answers.
fn batches(count: usize) -> Vec<Batch> {
    let tokenizer = Tokenizer::from_folder(base()).unwrap();
    let sample = |row: Row| {
        let mut tokens = tokenizer.encode(&format!("{}\n{}\n", row.passage.text, row.question)).unwrap();
        let answer = tokenizer.encode_bare(&row.answer).unwrap();
        tokens.extend(&answer);
        Encoded::with_tail(tokens, answer.len(), false)
    };
    let samples: Vec<Encoded> = rows(Split::Train, count * ROWS, 1).into_iter().map(sample).collect();
    samples.chunks(ROWS).map(|chunk| pack(&chunk.iter().collect::<Vec<_>>(), Weighting::Token)).collect()
}

/// The model with the demonstration's circuits at every linear but the MLP's.
fn model<T: Real>(stored: StoredAs) -> Decoder<T> {
    let mut model = load(base(), stored).unwrap();
    let quanta = method("quanta", &json!({ "dims": [8, 4, 4] }));
    attach(&mut model, &[attachment(quanta, &["q_proj", "k_proj", "v_proj", "o_proj"], None)], 3);
    model
}

fn step<T: Real>(model: &Decoder<T>) -> Step<T> {
    let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 0 };
    Step::new(settings, AdamW::new(AdamWSettings::default(), model), model)
}

/// `1 - cos` of two vectors, and `|a - b| / |b|`.
fn compare(a: &[f64], b: &[f64]) -> (f64, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(), (dot(&difference, &difference) / dot(b, b)).sqrt())
}

#[test]
fn loss_and_gradients_are_those_of_f64() {
    let (narrow, exact) = (model::<f32>(StoredAs::Bf16), model::<f64>(StoredAs::Compute));
    let (narrow_space, exact_space) = (Workspace::new(2).unwrap(), Workspace::new(2).unwrap());
    let (mut loss, mut all) = (0.0, (Vec::new(), Vec::new()));
    let mut slots = vec![(Vec::new(), Vec::new()); narrow.trained().len()];
    for batch in batches(BATCHES) {
        let draw = Some(Draw { seed: 0, step: 0, micro_batch: 0 });
        let got = loss_and_gradients(&narrow, &batch, false, &Pass { workspace: &narrow_space, draw });
        let expected = loss_and_gradients(&exact, &batch, false, &Pass { workspace: &exact_space, draw });
        loss += (got.0 - expected.0).abs() / batch.weight() / BATCHES as f64;
        for (slot, (a, b)) in slots.iter_mut().enumerate() {
            a.extend(got.1.slot(slot).iter().map(|&v| f64::from(v)));
            b.extend(expected.1.slot(slot));
        }
    }
    for (slot, (a, b)) in slots.iter().enumerate() {
        let (turned, _) = compare(a, b);
        assert!(turned < 1e-2, "slot {slot}: cosine 1 - {turned:.1e}");
        all.0.extend(a);
        all.1.extend(b);
    }
    let (turned, apart) = compare(&all.0, &all.1);
    println!("loss off by {loss:.1e}; gradient: cosine 1 - {turned:.1e}, relative difference {apart:.1e}");
    assert!(loss < 1e-3 && turned < 1e-3, "loss off by {loss:.1e}, cosine 1 - {turned:.1e}");
}

#[test]
fn one_step_moves_the_adapters_as_in_f64() {
    let (mut narrow, mut exact) = (model::<f32>(StoredAs::Bf16), model::<f64>(StoredAs::Compute));
    let (narrow_space, exact_space) = (Workspace::new(2).unwrap(), Workspace::new(2).unwrap());
    let all = batches(BATCHES);
    step(&narrow).take(&mut narrow, &all, 0, 1e-4, &narrow_space).unwrap();
    step(&exact).take(&mut exact, &all, 0, 1e-4, &exact_space).unwrap();
    // T - S is the change, because T began as S
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    for ((_, a), (_, b)) in narrow.attached().zip(exact.attached()) {
        got.extend(a.adapter.update().unwrap());
        expected.extend(b.adapter.update().unwrap());
    }
    let (_, apart) = compare(&got, &expected);
    println!("after one step at 1e-4 the updates differ by {apart:.1e}");
    assert!(apart < 0.05, "after one step the updates differ by {apart:.1e}");
}

#[test]
fn fifty_steps_are_those_of_f32() {
    let all = batches(50);
    let losses = |stored| {
        let (mut model, workspace) = (model::<f32>(stored), Workspace::new(2).unwrap());
        let mut step = step(&model);
        let mut take = |(index, batch): (usize, &Batch)| {
            step.take(&mut model, std::slice::from_ref(batch), index, 3e-3, &workspace).unwrap().loss
        };
        all.iter().enumerate().map(&mut take).collect::<Vec<f64>>()
    };
    let (narrow, wide) = (losses(StoredAs::Bf16), losses(StoredAs::Compute));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&wide[40..]) < 0.7 * mean(&wide[..5]), "the run learns nothing: {wide:?}");
    let apart = narrow.iter().zip(&wide).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
    println!("fifty losses from {:.3} to {:.3}, at most {apart:.1e} apart", wide[0], mean(&wide[40..]));
    // rounding grows with every step: what is asked is that no curve leaves the other by more than the noise between two batches
    assert!(apart < 0.05, "the curves part by {apart:.1e}: {narrow:?} and {wide:?}");
}
