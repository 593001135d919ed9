//! A model folder of pickled shards, the whole way: loading, and merging into a folder of safetensors.
//!
//! `scripts/golden_pickle.py` wrote `testdata/pickles/model` from a safetensors folder, half of its matrices transposed in the file; both must be the same
//! model to the bit. Single files, types and hostile ones are tested beside `weights::pickle`.

mod support;

use std::path::PathBuf;

use quanta_tune::checkpoint::merge_into;
use quanta_tune::model::{Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::Workspace;
use quanta_tune::weights::TensorFiles;
use serde_json::json;
use support::{assert_same_bits, attach, attachment, logits, method, perturb, saved_change};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata")).join(name)
}

#[test]
fn a_pickled_folder_is_the_model_of_its_safetensors() {
    let (pickled, plain) = (folder("pickles/model"), folder("models/llama_bf16_sharded"));
    let workspace = Workspace::new(1).unwrap();
    let batch = Batch::packed(&[&[1, 5, 9, 2, 40, 7], &[3, 3, 11]], Vec::new());
    for stored_as in [StoredAs::File, StoredAs::Compute] {
        let [ours, theirs] =
            [&pickled, &plain].map(|folder| logits(&load::<f32>(folder, stored_as).unwrap(), &batch, &workspace));
        assert_same_bits(&format!("{stored_as:?}"), &ours, &theirs);
    }
}

#[test]
fn merging_a_pickled_folder_writes_the_shards_of_safetensors() {
    let merged = [folder("pickles/model"), folder("models/llama_bf16_sharded")].map(|base| {
        let mut model: Decoder<f32> = load(&base, StoredAs::File).unwrap();
        let entries = [attachment(method("lora", &json!({ "r": 2 })), &["q_proj", "down_proj"], None)];
        attach(&mut model, &entries, 3);
        perturb(&mut model, 0.1, |_| true);
        let out = tempfile::tempdir().unwrap();
        merge_into(&base, &[(1.0, saved_change(&model, &entries))], None, out.path()).unwrap();
        out
    });
    let names = |folder: &tempfile::TempDir| {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with("golden"));
        names.sort();
        names
    };
    assert_eq!(names(&merged[0]), names(&merged[1]));
    let [ours, theirs] = merged.each_ref().map(|folder| TensorFiles::open_folder(folder.path()).unwrap());
    assert!(ours.names().eq(theirs.names()));
    for name in theirs.names() {
        assert_eq!(ours.bytes(name).unwrap(), theirs.bytes(name).unwrap(), "{name}");
    }
}
