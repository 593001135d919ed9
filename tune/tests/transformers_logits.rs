//! Logits of tiny model folders against Hugging Face transformers, in every way a folder can be loaded.
//!
//! Judges the whole reading path: configuration, shards, tensor types, families, rotary scaling, biases, tied heads. The folders and how they were made are
//! described in `testdata/README.md`.

mod support;

use std::path::{Path, PathBuf};

use quanta_tune::model::{Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Bf16Products, Real, Workspace};
use quanta_tune::weights::TensorFiles;
use support::{assert_close, logits};

fn models() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/models"))
}

fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(models()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("golden_logits.safetensors").exists()).collect();
    folders.sort();
    folders
}

/// `input_ids [rows, time]`, or `[tokens]` with their `lengths`, as packed roots.
fn batch(folder: &Path) -> Batch {
    let bytes = std::fs::read(folder.join("golden_logits.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::I64);
        let number = |b: &[u8]| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap();
        (tensor.data().chunks_exact(8).map(number).collect::<Vec<u32>>(), tensor.shape().to_vec())
    };
    let (tokens, shape) = integers("input_ids");
    let lengths = if shape.len() == 1 { integers("lengths").0 } else { vec![shape[1] as u32; shape[0]] };
    let mut rest = &tokens[..];
    let mut sequences = Vec::new();
    for length in lengths {
        let (sequence, later) = rest.split_at(length as usize);
        sequences.push(sequence);
        rest = later;
    }
    assert!(rest.is_empty());
    Batch::packed(&sequences, Vec::new())
}

fn ours<T: Real>(folder: &Path, stored_as: StoredAs) -> Vec<T> {
    ours_by(Workspace::<T>::new(2).unwrap().bf16_products(), folder, stored_as)
}

fn ours_by<T: Real>(products: Bf16Products, folder: &Path, stored_as: StoredAs) -> Vec<T> {
    let model: Decoder<T> = load(folder, stored_as).unwrap();
    logits(&model, &batch(folder), &Workspace::new(2).unwrap().with_bf16_products(products))
}

fn check<T: Real>(folder: &Path, tolerance: f64) {
    let name = format!("{} in {}", folder.file_name().unwrap().display(), T::NAME);
    let golden = TensorFiles::open_file(&folder.join("golden_logits.safetensors")).unwrap();
    let expected: Vec<T> = golden.read("logits").unwrap();
    for stored_as in [StoredAs::File, StoredAs::Compute] {
        assert_close(&format!("{name}, {stored_as:?}"), &ours(folder, stored_as), &expected, tolerance);
    }
}

#[test]
fn every_folder_gives_the_logits_of_transformers() {
    let names: Vec<_> = folders().iter().map(|folder| folder.file_name().unwrap().to_os_string()).collect();
    assert!(names.len() >= 12, "folders are missing: {names:?}");
    for folder in folders() {
        check::<f32>(&folder, 1e-4);
        // the golden logits are f32: in f64 the same models differ by about 1e-6 (testdata/README.md)
        check::<f64>(&folder, 1e-5);
    }
}

#[test]
fn weights_kept_as_bf16_give_the_same_logits() {
    let folder = models().join("llama_bf16_sharded");
    let (model, dense) =
        (load::<f32>(&folder, StoredAs::File).unwrap(), load::<f32>(&folder, StoredAs::Compute).unwrap());
    assert!(model.linears().all(|linear| linear.weight().is_bf16()));
    assert!(dense.linears().all(|linear| !linear.weight().is_bf16()));
    assert_eq!(2 * model.weight_bytes(), dense.weight_bytes());
    // the weights are the same numbers; only sums over blocks of rows may differ, and what a matrix unit makes of the rows
    let dense = ours(&folder, StoredAs::Compute);
    for (products, tolerance) in [(Bf16Products::Widened, 1e-5), (Bf16Products::Portable, 1e-4)] {
        let got = ours_by::<f32>(products, &folder, StoredAs::File);
        assert_close(&format!("f32, {products:?}"), &got, &dense, tolerance);
    }
    assert_close("f64", &ours::<f64>(&folder, StoredAs::File), &ours(&folder, StoredAs::Compute), 1e-13);
}

#[test]
fn rounding_weights_to_bf16_moves_the_logits_a_little() {
    for folder in folders() {
        let golden = TensorFiles::open_file(&folder.join("golden_logits.safetensors")).unwrap();
        let expected: Vec<f32> = golden.read("logits").unwrap();
        let got = ours_by::<f32>(Bf16Products::Widened, &folder, StoredAs::Bf16);
        // 2^-9 of every weight, a dozen matrices deep
        assert_close(&format!("{} as bf16", folder.display()), &got, &expected, 12.0 / 512.0);
        let stored_in_bf16 = folder.ends_with("llama_bf16_sharded");
        assert_eq!(got == ours::<f32>(&folder, StoredAs::Compute), stored_in_bf16, "{}", folder.display());
    }
}
