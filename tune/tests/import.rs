//! A checkpoint in the layout of the paper's authors: imported, it is the model that it stands for; of another base, merged or broken, it is refused.
//!
//! `scripts/golden_import.py` wrote the checkpoint and the logits of W0 + T - S in f64. What names and shapes are gates of is tested beside
//! `adapter::authors`.

mod support;

use std::path::{Path, PathBuf};

use quanta_tune::checkpoint::AdapterFolder;
use quanta_tune::model::{Decoder, StoredAs, load, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::run::{ImportReport, RunError, import};
use quanta_tune::tensor::Workspace;
use quanta_tune::weights::{Dtype, TensorFiles};
use support::{assert_close, logits, random_folder};

fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata")).join(name)
}

fn base() -> PathBuf {
    data("golden/train/llama_mha")
}

fn imported(from: &Path) -> Result<(tempfile::TempDir, ImportReport), RunError> {
    let folder = tempfile::tempdir().unwrap();
    let report = import(from, &base(), &folder.path().join("adapter"))?;
    Ok((folder, report))
}

fn input() -> Batch {
    let bytes = std::fs::read(data("import/golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    let tokens: Vec<u32> =
        ids.data().chunks_exact(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap()).collect();
    Batch::packed(&tokens.chunks(ids.shape()[1]).collect::<Vec<_>>(), Vec::new())
}

#[test]
fn an_imported_checkpoint_gives_the_logits_of_t_minus_s() {
    let (folder, report) = imported(&data("import/authors")).unwrap();
    let sizes: Vec<_> = report.entries.iter().map(|entry| (entry.sites, entry.parameters)).collect();
    // 4-8-2: 16^2 + 8^2 + 32^2; 4-4-4: 3 x 16^2; 4-4-8: 32^2 + 32^2 + 16^2; two layers each
    assert_eq!(sizes, [(2, 2688), (2, 1536), (2, 4608)]);
    assert_eq!(report.comparison.tensors, 21);
    assert!((1e-3..0.03).contains(&report.comparison.difference), "{}", report.comparison.difference);
    let adapter = AdapterFolder::open(&report.out).unwrap();
    let mut model: Decoder<f64> = load(&base(), StoredAs::Compute).unwrap();
    let attachments = adapter.attachments();
    let chosen = resolve(&attachments, model.config()).unwrap();
    adapter.check(&model.config().modules(), &chosen).unwrap();
    model.attach(&attachments, &chosen, 0, |entry, site, values| adapter.fill(entry, site, values)).unwrap();
    let golden = TensorFiles::open_file(&data("import/golden.safetensors")).unwrap();
    let expected: Vec<f64> = golden.read("logits").unwrap();
    assert_close("logits", &logits(&model, &input(), &Workspace::new(2).unwrap()), &expected, 1e-9);
    let config = std::fs::read_to_string(folder.path().join("adapter/2/adapter_config.json")).unwrap();
    for words in ["\"down_proj\"", "\"layers_to_transform\": null", "llama_mha"] {
        assert!(config.contains(words), "{words} is missing in {config}");
    }
}

#[test]
fn gates_keep_their_bits() {
    let (folder, _) = imported(&data("import/authors/pytorch_model.bin")).unwrap();
    let theirs = TensorFiles::open_file(&data("import/authors/pytorch_model.bin")).unwrap();
    let ours = TensorFiles::open_file(&folder.path().join("adapter/0/adapter_model.safetensors")).unwrap();
    let site = "base_model.model.model.layers.1.self_attn.q_proj";
    for (index, axes) in ["-1 -2", "-1 -3", "-2 -3"].into_iter().enumerate() {
        for (letter, set) in [("T", "quanta_weights"), ("S", "quanta_weights2")] {
            let (ours, theirs) =
                (ours.bytes(&format!("{site}.quanta_{letter}.{index}")), theirs.bytes(&format!("{site}.{set}.{axes}")));
            assert_eq!(ours.unwrap(), theirs.unwrap(), "{letter} on {axes}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_base_is_refused_with_the_tensor_that_differs_most() {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(base().join("config.json")).unwrap()).unwrap();
    let other = random_folder(&config, Dtype::F32);
    let out = tempfile::tempdir().unwrap();
    let error = import(&data("import/authors"), other.path(), &out.path().join("adapter")).unwrap_err().to_string();
    for words in ["another base model", "differs by", "--base"] {
        assert!(error.contains(words), "{words} is missing in {error}");
    }
    assert!(!out.path().join("adapter").exists());
    // of another size, no gate fits
    let mut smaller = config;
    smaller["hidden_size"] = 8.into();
    smaller["head_dim"] = 2.into();
    let other = random_folder(&smaller, Dtype::F32);
    assert!(matches!(
        import(&data("import/authors"), other.path(), &out.path().join("adapter")),
        Err(RunError::Attach { .. })
    ));
}

#[test]
fn merged_checkpoints_and_files_without_gates_are_refused() {
    let message = |path: &Path| imported(path).unwrap_err().to_string();
    let merged = message(&data("import/merged.bin"));
    assert!(merged.contains("merged.merged") && merged.contains("model.train()"), "{merged}");
    let plain = message(&base());
    assert!(plain.contains("quanta_weights"), "{plain}");
    let out = tempfile::tempdir().unwrap();
    assert!(import(&data("import/authors"), &base(), out.path()).is_ok(), "an empty folder is filled");
    assert!(import(&data("import/authors"), &base(), out.path()).is_err(), "what exists is kept");
}
