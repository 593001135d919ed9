//! Ten steps of QuanTA training in f64 against Hugging Face transformers and PyTorch: logits, losses, gradient norms, final gates.
//!
//! Reads every folder below `train/` of `QUANTA_GOLDEN`, or of `testdata/golden`; the format is described in `testdata/README.md`.

mod support;

use std::path::{Path, PathBuf};

use quanta_tune::adapter::{Layers, Method, Quanta, Selection, Sites};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::Workspace;
use quanta_tune::train::{AdamW, AdamWSettings, Schedule, Shape, Step, StepSettings};
use quanta_tune::weights::TensorFiles;
use serde_json::Value;
use support::golden::{Tokens, given_golden, logits, own_golden};

fn golden() -> PathBuf {
    given_golden().unwrap_or_else(own_golden)
}

/// Relative error as everywhere in this project: max|a - b| / max|b|.
fn close(name: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{name}: another number of elements");
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let (worst, error) = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .enumerate()
        .fold((0, 0.0), |w, e| if e.1 > w.1 { e } else { w });
    assert!(
        error <= 1e-8 * scale,
        "{name}: element {worst} is {} instead of {}, relative error {:.1e}",
        got[worst],
        expected[worst],
        error / scale
    );
}

fn check(folder: &Path, recompute: bool) {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let facts: Value = serde_json::from_slice(&std::fs::read(folder.join("golden_train.json")).unwrap()).unwrap();
    let numbers =
        |key: &str| -> Vec<f64> { facts[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let integer = |key: &str| facts[key].as_u64().unwrap() as usize;
    let file = TensorFiles::open_file(&folder.join("golden_train.safetensors")).unwrap();
    let tokens = Tokens::read(&folder.join("golden_train.safetensors"));
    let workspace = Workspace::<f64>::new(2).unwrap();
    let mut model: Decoder<f64> = load(folder, StoredAs::Compute).unwrap();
    close(
        &format!("{name} base"),
        &logits(&model, &tokens.batch(0, 0), &workspace),
        &file.read("base_logits").unwrap(),
    );

    let dims: Vec<usize> = numbers("dims").iter().map(|&d| d as usize).collect();
    let targets = facts["targets"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let selection = Selection { sites: Sites::Names(targets), layers: Layers::default() };
    let attachments = [Attachment { method: Method::Quanta(Quanta::new(&dims).unwrap()), selection }];
    // not `resolve`, which also refuses circuits that are mostly padding: here any shape is to be right
    let chosen = [attachments[0].selection.resolve(&model.config().sites()).unwrap()];
    let fill = |_: usize, site: &quanta_tune::adapter::Site, parameters: &mut quanta_tune::adapter::Parameters<f64>| {
        for tensor in parameters.tensors().to_vec() {
            let gate = tensor.name.rsplit('.').next().unwrap();
            parameters.set(&tensor.name, &file.read::<f64>(&format!("{}.init_gate.{gate}", site.name))?);
        }
        Ok::<(), quanta_tune::weights::WeightsError>(())
    };
    model.attach(&attachments, &chosen, 0, fill).unwrap();
    close(
        &format!("{name} first"),
        &logits(&model, &tokens.batch(0, 0), &workspace),
        &file.read("first_logits").unwrap(),
    );

    let steps = integer("steps");
    let shape = Schedule {
        peak: facts["lr"].as_f64().unwrap(),
        warmup_steps: integer("warmup_steps"),
        total_steps: steps,
        shape: Shape::Linear,
    };
    let settings = StepSettings { clip: facts["clip_grad_norm"].as_f64(), recompute, seed: 0 };
    let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for index in 0..steps {
        let batches: Vec<Batch> = (0..integer("accumulation")).map(|m| tokens.batch(index, m)).collect();
        let report = step.take(&mut model, &batches, index, shape.rate(index), &workspace).unwrap();
        losses.push(report.loss);
        norms.push(report.gradient_norm);
    }
    close(&format!("{name} losses"), &losses, &numbers("losses"));
    close(&format!("{name} gradient norms"), &norms, &numbers("grad_norms_before_clip"));
    for (site, attached) in model.attached() {
        let parameters = attached.adapter.parameters();
        for tensor in parameters.tensors().iter().filter(|tensor| tensor.trainable) {
            let gate = format!("{}.final_gate.{}", site.name, tensor.name.rsplit('.').next().unwrap());
            close(&format!("{name} {gate}"), parameters.values(tensor), &file.read(&gate).unwrap());
        }
    }
    close(
        &format!("{name} final"),
        &logits(&model, &tokens.batch(0, 0), &workspace),
        &file.read("final_logits").unwrap(),
    );
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(golden().join("train"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden_train.json").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no golden training run");
    folders
}

#[test]
fn ten_steps_equal_the_reference() {
    folders().iter().for_each(|folder| check(folder, false));
}

#[test]
fn recomputing_layers_changes_nothing() {
    folders().iter().for_each(|folder| check(folder, true));
}
