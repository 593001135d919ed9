//! The laws of the method table that need a model or files: settings and parameters survive a round trip bit for bit, a step leaves the base alone, every
//! entry of a config starts from streams of its own.
//!
//! The model is a tiny random one, the sites are of three shapes. Laws of a method at one site are in `laws.rs`; the model's own arithmetic is judged in
//! `whole_model.rs`.

mod support;

use std::path::Path;

use quanta_tune::adapter::{Method, Parameters, Site, method_named, methods};
use quanta_tune::config::{Problems, Section};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::ops::loss::Label;
use quanta_tune::tensor::{Real, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use quanta_tune::weights::{Dtype, TensorFiles, TensorSpec, TensorWriter, WeightsError, default_metadata};
use support::methods::ROWS;
use support::{assert_same_bits, attach, attachment, bits, llama_config, logits, perturb, random_folder};

/// Sites `[24, 24]`, `[12, 24]` and `[24, 36]`.
const MODULES: [&str; 3] = ["q_proj", "v_proj", "down_proj"];

fn batch() -> Batch {
    let tokens: Vec<u32> = (0..14).map(|i| (i * i + 3) % 29).collect();
    let label = |row| Label { row, target: tokens[row + 1], weight: 1.0 };
    let labels = [1, 2, 5, 8, 11].map(label).to_vec();
    Batch::packed(&[&tokens[..8], &tokens[8..]], labels)
}

fn entries(method: Method) -> [Attachment; 1] {
    [attachment(method, &MODULES, None)]
}

/// `quanta train` writes settings into the run folder, PEFT's keys into the adapter folder; both are read back.
#[test]
fn settings_survive_both_round_trips() {
    for row in ROWS {
        let method = row.method();
        let read = |map, from_peft: bool| {
            let problems = Problems::new();
            let mut section = Section::new("adapter", map, &problems);
            let info = method_named(row.name).unwrap();
            if from_peft {
                assert!(info.claims(&section.string("peft_type").required(), &section), "{}", row.label());
            }
            let read = if from_peft { info.read_peft(&mut section) } else { info.read(&mut section) };
            // a key that was written and is not read is lost
            section.finish();
            assert!(problems.is_empty(), "{}: {problems}", row.label());
            read
        };
        assert_eq!(read(method.write(), false), method, "{}", row.label());
        let mut folder = method.write_peft();
        folder.insert("peft_type".to_owned(), method.peft_type().into());
        assert_eq!(read(folder, true), method, "{}", row.label());
    }
}

#[test]
fn names_in_configs_and_in_peft_folders_are_unique() {
    for (index, method) in methods().iter().enumerate() {
        for other in &methods()[..index] {
            assert!(method.name != other.name, "{}", method.name);
        }
    }
}

/// Every parameter of a model's adapters, trainable or not, under its site's name.
fn save<T: Real>(model: &Decoder<T>, path: &Path) {
    let dtype = if T::NAME == "f64" { Dtype::F64 } else { Dtype::F32 };
    let mut specs = Vec::new();
    for (site, attached) in model.attached() {
        let tensors = attached.adapter.parameters().tensors();
        specs.extend(tensors.iter().map(|t| TensorSpec::new(format!("{}.{}", site.name, t.name), dtype, &t.shape[..])));
    }
    // refuses a name that two tensors share
    let mut writer = TensorWriter::create(path, &default_metadata(), specs).unwrap();
    for (site, attached) in model.attached() {
        let parameters = attached.adapter.parameters();
        for tensor in parameters.tensors() {
            writer.write_values(&format!("{}.{}", site.name, tensor.name), parameters.values(tensor)).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// The model of `folder` with the parameters of a file in place of initial values.
fn restored<T: Real>(folder: &Path, entries: &[Attachment], file: &Path, seed: u64) -> Decoder<T> {
    let mut model: Decoder<T> = load(folder, StoredAs::Compute).unwrap();
    let chosen = resolve(entries, model.config()).unwrap();
    let files = TensorFiles::open_file(file).unwrap();
    let fill = |_: usize, site: &Site, parameters: &mut Parameters<T>| {
        for tensor in parameters.tensors().to_vec() {
            parameters.set(&tensor.name, &files.read::<T>(&format!("{}.{}", site.name, tensor.name))?);
        }
        Ok::<_, WeightsError>(())
    };
    model.attach(entries, &chosen, seed, fill).unwrap();
    model
}

#[test]
fn saved_and_loaded_parameters_give_the_same_bits() {
    fn check<T: Real>() {
        let folder = random_folder(&llama_config(), Dtype::F32);
        let (workspace, batch) = (Workspace::<T>::new(1).unwrap(), batch());
        for row in ROWS {
            let entries = entries(row.method());
            let mut model: Decoder<T> = load(folder.path(), StoredAs::Compute).unwrap();
            attach(&mut model, &entries, 1);
            let start = logits(&model, &batch, &workspace);
            perturb(&mut model, 0.1, |_| true);
            let file = folder.path().join("saved.safetensors");
            save(&model, &file);
            let again = restored::<T>(folder.path(), &entries, &file, 2);
            let expected = logits(&model, &batch, &workspace);
            assert!(bits(&start) != bits(&expected), "{}: the parameters were not moved", row.label());
            assert_same_bits(&row.label(), &logits(&again, &batch, &workspace), &expected);
        }
    }
    check::<f32>();
    check::<f64>();
}

/// All rows of every linear's working weight.
fn weights<T: Real>(model: &Decoder<T>, workspace: &Workspace<T>) -> Vec<Vec<u64>> {
    let rows = |rows: usize| (0..rows as u32).collect::<Vec<_>>();
    model
        .linears()
        .map(|linear| bits(linear.weight().gather(&rows(linear.weight().rows()), workspace).data()))
        .collect()
}

#[test]
fn a_step_moves_the_adapter_and_nothing_else() {
    let folder = random_folder(&llama_config(), Dtype::F32);
    let path = folder.path().join("model.safetensors");
    let (before, workspace) = (std::fs::read(&path).unwrap(), Workspace::<f32>::new(1).unwrap());
    for row in ROWS {
        let mut model: Decoder<f32> = load(folder.path(), StoredAs::File).unwrap();
        let untouched = weights(&model, &workspace);
        attach(&mut model, &entries(row.method()), 1);
        let attached = weights(&model, &workspace);
        for (linear, (before, after)) in model.linears().zip(untouched.iter().zip(&attached)) {
            assert!(linear.trains() || before == after, "{}: {} changed", row.label(), linear.site().name);
        }
        let frozen = |model: &Decoder<f32>| -> Vec<_> {
            model.attached().map(|(_, attached)| bits(attached.adapter.parameters().frozen())).collect()
        };
        let trainable = |model: &Decoder<f32>| -> Vec<_> {
            model.attached().map(|(_, attached)| bits(attached.adapter.parameters().trainable())).collect()
        };
        let (frozen_before, trainable_before) = (frozen(&model), trainable(&model));
        let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 1 };
        let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
        let loss = |step: &mut Step<f32>, model: &mut Decoder<f32>, index| {
            step.take(model, &[batch()], index, 1e-2, &workspace).unwrap().loss
        };
        let first = loss(&mut step, &mut model, 0);
        assert_eq!(weights(&model, &workspace), attached, "{}: a weight moved", row.label());
        assert_eq!(frozen(&model), frozen_before, "{}: a frozen parameter moved", row.label());
        let moved = trainable(&model).iter().zip(&trainable_before).all(|(after, before)| after != before);
        assert!(moved, "{}: a site did not train", row.label());
        let last = (1..8).map(|index| loss(&mut step, &mut model, index)).last().unwrap();
        assert!(last < first, "{}: the loss rose from {first} to {last}", row.label());
    }
    assert!(std::fs::read(&path).unwrap() == before, "the file of the base model was written to");
}

#[test]
fn entries_of_one_method_start_from_streams_of_their_own() {
    let folder = random_folder(&llama_config(), Dtype::F32);
    // a site takes one magnitude
    for row in ROWS.iter().filter(|row| !row.method().has_magnitude()) {
        let start = |seed| {
            let mut model: Decoder<f64> = load(folder.path(), StoredAs::Compute).unwrap();
            attach(&mut model, &[entries(row.method()), entries(row.method())].concat(), seed);
            let starts = model.attached().map(|(site, attached)| {
                (site.name.clone(), attached.entry, attached.slot, bits(attached.adapter.parameters().trainable()))
            });
            starts.collect::<Vec<_>>()
        };
        let first = start(1);
        assert_eq!(first, start(1), "{}", row.label());
        let sites = MODULES.len() * 3;
        assert_eq!(first.len(), 2 * sites);
        // slots are given entry by entry; both entries of a site stand together here
        for pair in first.chunks(2) {
            let [(site, 0, slot, a), (same, 1, other, b)] = pair else {
                panic!("entries out of order at {}", pair[0].0)
            };
            assert_eq!((site, slot + sites), (same, *other));
            assert_eq!(row.drawn, a != b, "{} at {site}", row.label());
        }
    }
}
