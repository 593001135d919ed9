//! What the test suites share: numbers from named streams, comparisons that name the worst element, small random model folders, attaching.
//!
//! It is here so that every suite judges by the same measure: relative error is max|a - b| / max|b| over a tensor, gradients are compared with central
//! differences in f64, and "the same bits" means the bit patterns of whole vectors. What is claimed is left to the suites.

// each suite is a program of its own and uses its part of this file
#![allow(dead_code)]

pub mod diagonal;
pub mod forest;
pub mod golden;
pub mod methods;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

use quanta_tune::adapter::{Gradients, Layers, Method, Pass, Selection, Sites, method_named};
use quanta_tune::checkpoint::{AdapterFolder, Change, save_adapters};
use quanta_tune::config::{Problems, Section};
use quanta_tune::model::{Attachment, Decoder, read_folder_config};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Matrix, Real, Stream, Workspace};
use quanta_tune::weights::{Dtype, TensorFiles, TensorSpec, TensorWriter, default_metadata};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// `len` standard normal numbers from the stream called `name`.
pub fn numbers<T: Real>(len: usize, name: &str) -> Vec<T> {
    let mut stream = Stream::new(5, "test", name);
    (0..len).map(|_| T::from_f64(stream.normal())).collect()
}

/// A matrix of [`numbers`].
pub fn matrix<T: Real>(rows: usize, cols: usize, name: &str, workspace: &Workspace<T>) -> Matrix<T> {
    let mut matrix = workspace.matrix(rows, cols);
    matrix.copy_from(&numbers(rows * cols, name));
    matrix
}

/// Fails unless max|got - expected| / max|expected| is at most `tolerance`; says which element is worst.
pub fn assert_close<T: Real>(name: &str, got: &[T], expected: &[T], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: another number of elements");
    let scale = expected.iter().fold(0.0f64, |most, v| most.max(v.to_f64().abs()));
    let mut worst = (0, 0.0);
    for (index, (a, b)) in got.iter().zip(expected).enumerate() {
        let error = (a.to_f64() - b.to_f64()).abs();
        // a NaN is worse than any number
        if error > worst.1 || error.is_nan() {
            worst = (index, error);
        }
    }
    let (index, error) = worst;
    assert!(
        error <= tolerance * scale,
        "{name}: element {index} is {} instead of {}, relative error {:.1e} above {tolerance:.1e}",
        got[index],
        expected[index],
        error / scale
    );
}

/// The bit patterns of numbers: equal only when every bit is.
pub fn bits<T: Real>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

/// Fails unless both have the same bits; names the first element that differs.
pub fn assert_same_bits<T: Real>(name: &str, got: &[T], expected: &[T]) {
    assert_eq!(got.len(), expected.len(), "{name}: another number of elements");
    if let Some(index) = bits(got).iter().zip(bits(expected)).position(|(a, b)| *a != b) {
        panic!("{name}: element {index} is {} instead of {}", got[index], expected[index]);
    }
}

/// Central differences of `f` at `at` along each of `indices`, with step h = 1e-4 and one Richardson extrapolation with h / 2.
///
/// The truncation error falls to h^4 = 1e-16 times the fifth derivative; rounding is 1e-16 |f| / h = 1e-12 |f|. A tolerance of 1e-9 of the largest
/// component lies far above both for sums of unit size and far below any wrong term.
pub fn differences(at: &[f64], indices: &[usize], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = at.to_vec();
    let mut slope = |index: usize, h: f64| {
        x[index] = at[index] + h;
        let above = f(&x);
        x[index] = at[index] - h;
        let below = f(&x);
        x[index] = at[index];
        (above - below) / (2.0 * h)
    };
    indices.iter().map(|&i| (4.0 * slope(i, 5e-5) - slope(i, 1e-4)) / 3.0).collect()
}

/// A method from the keys that a config entry would hold.
pub fn method(name: &str, settings: &Value) -> Method {
    let problems = Problems::new();
    let mut section = Section::new("adapter", object(settings), &problems);
    let method = method_named(name).unwrap_or_else(|| panic!("no method {name}")).read(&mut section);
    section.finish();
    assert!(problems.is_empty(), "{name} {settings}: {problems}");
    method
}

/// The fields of a JSON object.
pub fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_else(|| panic!("{value} is no object"))
}

/// An entry that attaches `method` to the named modules in the given layers (none: in all).
pub fn attachment(method: Method, modules: &[&str], layers: Option<&[usize]>) -> Attachment {
    let sites = Sites::Names(modules.iter().map(|&module| module.to_owned()).collect());
    let layers = layers.map_or_else(Layers::default, |layers| Layers::only(layers.iter().copied()));
    Attachment { method, selection: Selection { sites, layers } }
}

/// A llama configuration with grouped heads and scaled rotary frequencies; every side fits circuits of 24 values.
pub fn llama_config() -> Value {
    serde_json::json!({
        "model_type": "llama", "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 29, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "tie_word_embeddings": false,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 24,
        },
    })
}

/// A qwen2 configuration: biases on queries, keys and values, tied head.
pub fn qwen2_config() -> Value {
    serde_json::json!({
        "model_type": "qwen2", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 3, "vocab_size": 23, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "rope_theta": 500.0,
    })
}

/// A mistral configuration whose window is shorter than most paths.
pub fn mistral_config() -> Value {
    serde_json::json!({
        "model_type": "mistral", "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 29, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "sliding_window": 4, "tie_word_embeddings": false, "rope_theta": 1000.0,
    })
}

/// A gemma2 configuration: norms on both sides, soft caps that bend, a window in two of three layers.
pub fn gemma2_config() -> Value {
    serde_json::json!({
        "model_type": "gemma2", "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 29, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "sliding_window": 3, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        "rope_theta": 1000.0,
    })
}

/// A gemma3_text configuration: norms on queries and keys besides, two rotary embeddings, a window in one of three layers, capped logits.
pub fn gemma3_config() -> Value {
    serde_json::json!({
        "model_type": "gemma3_text", "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 29, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "sliding_window": 5, "query_pre_attn_scalar": 5, "final_logit_softcapping": 4.0, "rope_theta": 5000.0,
        "rope_local_base_freq": 100.0, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    })
}

/// One configuration for each thing that decoders differ in.
pub fn decoder_configs() -> [Value; 5] {
    [llama_config(), qwen2_config(), mistral_config(), gemma2_config(), gemma3_config()]
}

/// Attaches entries with their initial values.
pub fn attach<T: Real>(model: &mut Decoder<T>, entries: &[Attachment], seed: u64) {
    let chosen = quanta_tune::model::resolve(entries, model.config()).unwrap();
    let Ok(()) = model.attach(entries, &chosen, seed, |_, _, _| Ok::<_, Infallible>(()));
}

/// What a folder with the model's adapters, written and opened again, makes of the weights.
pub fn saved_change<T: Real>(model: &Decoder<T>, entries: &[Attachment]) -> Change {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    save_adapters(&adapter, model, entries, "base").unwrap();
    let chosen = quanta_tune::model::resolve(entries, model.config()).unwrap();
    Change::new(AdapterFolder::open(&adapter).unwrap(), &model.config().attachable(), &chosen).unwrap()
}

/// Moves every trainable parameter of the chosen entries by `size` times a standard normal number of its own stream: away from the start, where zeros
/// and equal circuits hide terms.
pub fn perturb<T: Real>(model: &mut Decoder<T>, size: f64, entries: impl Fn(usize) -> bool) {
    for linear in model.linears_mut() {
        let name = linear.site().name.clone();
        for (place, attached) in linear.attached_mut().iter_mut().enumerate().filter(|(_, a)| entries(a.entry)) {
            let mut stream = Stream::new(6, "test", &format!("{name} {place}"));
            for value in attached.adapter.parameters_mut().trainable_mut() {
                *value += T::from_f64(size * stream.normal());
            }
        }
    }
    model.prepare();
}

/// Values of a slot, piece after piece.
pub fn values(model: &Decoder<f64>, slot: usize) -> Vec<f64> {
    let trained = model.trained();
    trained[slot].tensors.iter().filter(|(t, _)| t.trainable).flat_map(|(_, values)| values.to_vec()).collect()
}

/// Writes them back, and brings up to date what follows from them.
pub fn set(model: &mut Decoder<f64>, slot: usize, values: &[f64]) {
    let mut from = values;
    for piece in &mut model.trained_mut()[slot].1 {
        let (now, later) = from.split_at(piece.len());
        piece.copy_from_slice(now);
        from = later;
    }
    model.prepare();
}

/// Loss sum and gradients of one batch.
pub fn loss_and_gradients<T: Real>(
    model: &Decoder<T>,
    batch: &Batch,
    recompute: bool,
    pass: &Pass<'_, T>,
) -> (f64, Gradients<T>) {
    let mut gradients = model.gradients();
    let outcome = pass.workspace.run(|| model.train(batch, recompute, &mut gradients, pass));
    (outcome.loss, gradients)
}

/// Logits of every token, flat.
pub fn logits<T: Real>(model: &Decoder<T>, batch: &Batch, workspace: &Workspace<T>) -> Vec<T> {
    let rows: Vec<usize> = (0..batch.tokens.len()).collect();
    workspace.run(|| model.logits(batch, &rows, &Pass { workspace, draw: None }).data().to_vec())
}

/// A model folder with this `config.json` and random weights, one stream a tensor: matrices with rows of about unit norm, norms near one, biases small.
pub fn random_folder(config: &Value, dtype: Dtype) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = read_folder_config(folder.path()).unwrap().inventory();
    write_tensors(&folder.path().join("model.safetensors"), &tensors, dtype);
    folder
}

/// Writes random tensors of these names and shapes.
pub fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>)], dtype: Dtype) {
    let spec = |(name, shape): &(String, Vec<usize>)| TensorSpec::new(name, dtype, shape.clone());
    let mut writer = TensorWriter::create(path, &default_metadata(), tensors.iter().map(spec).collect()).unwrap();
    for (name, shape) in tensors {
        let mut values: Vec<f64> = numbers(shape.iter().product(), name);
        match shape[..] {
            [_, cols] => values.iter_mut().for_each(|value| *value /= (cols as f64).sqrt()),
            _ if name.contains("norm") => values.iter_mut().for_each(|value| *value = 1.0 + 0.1 * *value),
            _ => values.iter_mut().for_each(|value| *value *= 0.1),
        }
        writer.write_values(name, &values).unwrap();
    }
    writer.finish().unwrap();
}

/// A copy of an f64 model folder with an update added to each named tensor.
pub fn merged_folder(folder: &Path, config: &Value, updates: &BTreeMap<String, Vec<f64>>) -> TempDir {
    let merged = tempfile::tempdir().unwrap();
    std::fs::write(merged.path().join("config.json"), config.to_string()).unwrap();
    let files = TensorFiles::open_folder(folder).unwrap();
    let spec = |name: &str| TensorSpec::new(name, Dtype::F64, &files.get(name).unwrap().shape[..]);
    let path = merged.path().join("model.safetensors");
    let mut writer = TensorWriter::create(&path, &default_metadata(), files.names().map(spec).collect()).unwrap();
    for name in files.names() {
        let mut values: Vec<f64> = files.read(name).unwrap();
        if let Some(update) = updates.get(name) {
            values.iter_mut().zip(update).for_each(|(value, v)| *value += v);
        }
        writer.write_values(name, &values).unwrap();
    }
    writer.finish().unwrap();
    merged
}
