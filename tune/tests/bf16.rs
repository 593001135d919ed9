//! What bf16 weights cost in accuracy: the demonstration's pretrained model, held as bf16, against the same weights in f64. Its products are judged in f32 and
//! in the arithmetic of matrix units, which plain code has on every machine; and as this machine computes them, where that is something else.

mod support;

use std::path::Path;

use quanta_tune::adapter::{Draw, Pass};
use quanta_tune::data::batch::{Weighting, pack};
use quanta_tune::data::demo::questions::{Row, rows};
use quanta_tune::data::example::Encoded;
use quanta_tune::data::task::Split;
use quanta_tune::data::tokenizer::Tokenizer;
use quanta_tune::model::{Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Bf16Products, Real, Rounder, Workspace};
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

/// A workspace for each arithmetic of products with bf16 weights.
fn workspaces() -> Vec<Workspace<f32>> {
    let own = Workspace::new(2).unwrap();
    let here = own.bf16_products();
    let mut kernels = vec![Bf16Products::Widened, Bf16Products::Portable, Bf16Products::Rounded(Rounder::Portable)];
    for kernel in [Some(here), here.rounded()].into_iter().flatten() {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    }
    kernels.into_iter().map(|kernel| own.clone().with_bf16_products(kernel)).collect()
}

/// Whether rows are rounded, which is allowed more.
fn rounds(kernel: Bf16Products) -> bool {
    matches!(kernel, Bf16Products::Rounded(_))
}

/// `1 - cos` of two vectors, and `|a - b| / |b|`.
fn compare(a: &[f64], b: &[f64]) -> (f64, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(), (dot(&difference, &difference) / dot(b, b)).sqrt())
}

/// The mean loss of each batch, and for each slot its gradients, one batch after the other.
fn measured<T: Real>(model: &Decoder<T>, batches: &[Batch], workspace: &Workspace<T>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (mut losses, mut slots) = (Vec::new(), vec![Vec::new(); model.trained().len()]);
    for batch in batches {
        let draw = Some(Draw { seed: 0, step: 0, micro_batch: 0 });
        let (loss, gradients) = loss_and_gradients(model, batch, false, &Pass { workspace, draw });
        losses.push(loss / batch.weight());
        for (slot, all) in slots.iter_mut().enumerate() {
            all.extend(gradients.slot(slot).iter().map(|v| v.to_f64()));
        }
    }
    (losses, slots)
}

#[test]
fn loss_and_gradients_are_those_of_f64() {
    let (narrow, exact, batches) = (model::<f32>(StoredAs::Bf16), model::<f64>(StoredAs::Compute), batches(BATCHES));
    let expected = measured(&exact, &batches, &Workspace::new(2).unwrap());
    for workspace in workspaces() {
        let (kernel, got) = (workspace.bf16_products(), measured(&narrow, &batches, &workspace));
        let loss = got.0.iter().zip(&expected.0).map(|(a, b)| (a - b).abs()).sum::<f64>() / BATCHES as f64;
        for (slot, (a, b)) in got.1.iter().zip(&expected.1).enumerate() {
            let (turned, _) = compare(a, b);
            assert!(turned < 1e-2, "{kernel:?}, slot {slot}: cosine 1 - {turned:.1e}");
        }
        let (turned, apart) = compare(&got.1.concat(), &expected.1.concat());
        println!(
            "{kernel:?}: loss off by {loss:.1e}; gradient: cosine 1 - {turned:.1e}, relative difference {apart:.1e}"
        );
        // of rounded rows within 1e-3 of the loss itself
        let limit = if rounds(kernel) { 1e-3 * expected.0.iter().sum::<f64>() / BATCHES as f64 } else { 1e-3 };
        assert!(loss < limit && turned < 1e-3, "{kernel:?}: loss off by {loss:.1e}, cosine 1 - {turned:.1e}");
    }
}

/// What one step makes of the adapters: `T - S` is the change, because T began as S.
fn updates<T: Real>(stored: StoredAs, batches: &[Batch], workspace: &Workspace<T>) -> Vec<f64> {
    let mut model = model::<T>(stored);
    step(&model).take(&mut model, batches, 0, 1e-4, workspace).unwrap();
    model.attached().flat_map(|(_, attached)| attached.adapter.update().unwrap()).collect()
}

#[test]
fn one_step_moves_the_adapters_as_in_f64() {
    let batches = batches(BATCHES);
    let expected = updates::<f64>(StoredAs::Compute, &batches, &Workspace::new(2).unwrap());
    for workspace in workspaces() {
        let kernel = workspace.bf16_products();
        let (_, apart) = compare(&updates(StoredAs::Bf16, &batches, &workspace), &expected);
        println!("{kernel:?}: after one step at 1e-4 the updates differ by {apart:.1e}");
        // the first step takes the sign of each gradient, whatever its size: rounding turns the smallest
        assert!(
            apart < if rounds(kernel) { 0.2 } else { 0.05 },
            "{kernel:?}: after one step the updates differ by {apart:.1e}"
        );
    }
}

#[test]
fn fifty_steps_are_those_of_f32() {
    let all = batches(50);
    let losses = |stored, workspace: &Workspace<f32>| {
        let mut model = model::<f32>(stored);
        let mut step = step(&model);
        let mut take = |(index, batch): (usize, &Batch)| {
            step.take(&mut model, std::slice::from_ref(batch), index, 3e-3, workspace).unwrap().loss
        };
        all.iter().enumerate().map(&mut take).collect::<Vec<f64>>()
    };
    let wide = losses(StoredAs::Compute, &Workspace::new(2).unwrap());
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&wide[40..]) < 0.7 * mean(&wide[..5]), "the run learns nothing: {wide:?}");
    for workspace in workspaces() {
        let (kernel, narrow) = (workspace.bf16_products(), losses(StoredAs::Bf16, &workspace));
        let apart = narrow.iter().zip(&wide).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        println!("{kernel:?}: fifty losses from {:.3} to {:.3}, at most {apart:.1e} apart", wide[0], mean(&wide[40..]));
        // rounding grows with every step: what is asked is that no curve leaves the other by more than the noise between two batches
        assert!(apart < 0.05, "{kernel:?}: the curves part by {apart:.1e}: {narrow:?} and {wide:?}");
    }
}
