//! Merging: a model folder whose weights are those that adapters make of the base's, computed from the base folder's files tensor by tensor and rounded once.
//!
//! The base files are only read. Every change is formed in f64 from the file's W0 and rounded once to the type written; tensors that nothing changes are copied
//! bit by bit when their type does not change. Tensors get the names they have in the model, and a head that was trained and that the base lacks is added. Several adapters are merged as `W = W0 + sum_i c_i (W_i - W0)`, W_i what adapter i alone makes of W0.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Change, CheckpointError};
use crate::config::read_json;
use crate::model::{FileNames, read_folder_config};
use crate::weights::{Dtype, TensorFiles, TensorSpec, TensorWriter, default_metadata, write_file};

/// Writes the merged model to `out`, an existing empty folder: the base folder's shards with the changes merged in, each times its factor, and its other
/// files.
///
/// `dtype`: the type of all floating-point tensors; none keeps each tensor's own.
///
/// # Errors
/// When a file cannot be read or written.
pub fn merge_into(
    base: &Path,
    changes: &[(f64, Change)],
    dtype: Option<Dtype>,
    out: &Path,
) -> Result<(), CheckpointError> {
    let files = TensorFiles::open_folder(base)?;
    let config = read_folder_config(base)?;
    let names = FileNames::of(&files, &config);
    let added = added(changes, |name| files.get(names.in_files(name)).is_some());
    let mut placed = Map::new();
    let mut total = 0usize;
    for (index, file) in files.files().iter().enumerate() {
        let name = file.safetensors_name();
        let mut specs = Vec::new();
        for tensor in &file.tensors {
            let info = files.info(tensor)?;
            specs.push(TensorSpec::new(names.in_model(tensor), dtype.unwrap_or(info.dtype), info.shape.clone()));
        }
        if index + 1 == files.files().len() {
            let dtype = dtype.or(specs.first().map(|spec| spec.dtype)).unwrap_or(Dtype::F32);
            specs.extend(added.iter().map(|(name, shape)| TensorSpec::new(name, dtype, &shape[..])));
        }
        for spec in &specs {
            total += spec.shape.iter().product::<usize>() * spec.dtype.bytes();
            placed.insert(spec.name.clone(), json!(name));
        }
        let mut writer = TensorWriter::create(&out.join(&name), &default_metadata(), specs.clone())?;
        for spec in &specs {
            let held = names.in_files(&spec.name);
            if added.iter().any(|(name, _)| *name == spec.name) {
                // what the base lacks counts as zero
                let zeros = vec![0.0; spec.shape.iter().product()];
                writer.write_values(&spec.name, &merged(&spec.name, zeros, changes)?)?;
            } else if changes.iter().any(|(_, change)| change.touches(&spec.name)) {
                writer.write_values(&spec.name, &merged(&spec.name, files.read(held)?, changes)?)?;
            } else if spec.dtype == files.info(held)?.dtype {
                writer.write_bytes(&spec.name, &files.bytes(held)?)?;
            } else {
                writer.write_values(&spec.name, &files.read::<f64>(held)?)?;
            }
        }
        writer.finish()?;
    }
    if files.files().len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": placed });
        write_json(&out.join("model.safetensors.index.json"), &index)?;
    }
    let output = config.head_sites().pop().map(|site| format!("{}.weight", site.name));
    let labels = added.iter().find(|(name, _)| Some(name) == output.as_ref()).map(|(_, shape)| shape[0]);
    copy_companions(base, dtype, labels, out)
}

/// Name and shape of the trained tensors that the base lacks.
fn added(changes: &[(f64, Change)], held: impl Fn(&str) -> bool) -> Vec<(String, Vec<usize>)> {
    let sites = changes.iter().flat_map(|(_, change)| change.own_sites());
    let tensors = sites
        .flat_map(|site| site.own().into_iter().map(move |(name, shape)| (format!("{}.{name}", site.name), shape)));
    let mut list: Vec<(String, Vec<usize>)> = tensors.filter(|(name, _)| !held(name)).collect();
    list.sort();
    list.dedup();
    list
}

/// A tensor after all changes, in f64.
fn merged(tensor: &str, w0: Vec<f64>, changes: &[(f64, Change)]) -> Result<Vec<f64>, CheckpointError> {
    if let [(factor, change)] = changes
        && *factor == 1.0
    {
        return change.apply(tensor, w0);
    }
    let mut sum = w0.clone();
    for (factor, change) in changes.iter().filter(|(_, change)| change.touches(tensor)) {
        let alone = change.apply(tensor, w0.clone())?;
        sum.iter_mut().zip(alone.iter().zip(&w0)).for_each(|(sum, (w, w0))| *sum += factor * (w - w0));
    }
    Ok(sum)
}

/// Copies everything that is no weight file; `config.json` gets the new type where one is asked for, and the outputs of a head that was added.
fn copy_companions(
    base: &Path,
    dtype: Option<Dtype>,
    labels: Option<usize>,
    out: &Path,
) -> Result<(), CheckpointError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { action, path, source }
    };
    for entry in std::fs::read_dir(base).map_err(failed("read", base))? {
        let path = entry.map_err(failed("read", base))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_file() || !is_companion(&name) {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(failed("read", &path))?;
        write_file(&out.join(&name), &bytes)?;
    }
    if dtype.is_some() || labels.is_some() {
        let mut config = read_json(&base.join("config.json"))?;
        if let Some(dtype) = dtype {
            let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
            config.insert(key.to_owned(), json!(dtype.config_name()));
        }
        if let Some(labels) = labels {
            let names: Map<String, Value> = (0..labels).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
            let indices: Map<String, Value> = (0..labels).map(|i| (format!("LABEL_{i}"), json!(i))).collect();
            config.remove("num_labels");
            config.insert("id2label".to_owned(), Value::Object(names));
            config.insert("label2id".to_owned(), Value::Object(indices));
        }
        write_json(&out.join("config.json"), &Value::Object(config))?;
    }
    Ok(())
}

/// Configuration, tokenizer and documentation travel with a merged model; weights in any format and adapters do not.
fn is_companion(name: &str) -> bool {
    const WEIGHTS: [&str; 9] = [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".tmp"];
    let index = name.ends_with(".index.json");
    !(index || name.starts_with('.') || name.starts_with("adapter_") || WEIGHTS.iter().any(|end| name.ends_with(end)))
}

fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    let mut text = serde_json::to_string_pretty(value).expect("a value is JSON");
    text.push('\n');
    Ok(write_file(path, text.as_bytes())?)
}
