//! Encoders with a head over whole sequences: outputs and ten training steps against transformers, gradients against central differences, packing,
//! dropout, and folders that lack the head.
//!
//! The folders and how they were made are described in `testdata/README.md`.

mod support;

use std::path::{Path, PathBuf};

use quanta_tune::adapter::{Draw, Layers, Pass, Selection, Sites};
use quanta_tune::checkpoint::{AdapterFolder, save_adapters};
use quanta_tune::data::batch::pack_targets;
use quanta_tune::eval::{GenerateOptions, StopRule, classify};
use quanta_tune::model::{
    Attachment, Decoder, LoadError, StoredAs, WantedHead, head_entry, load, load_with_head, read_folder_config, resolve,
};
use quanta_tune::ops::Batch;
use quanta_tune::ops::target::{Answer, Target};
use quanta_tune::run::{Finding, GenerateSettings, ModelDtype, Prompts, ScoreInput, generate, merge, score};
use quanta_tune::tensor::{Real, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Step, StepSettings};
use quanta_tune::weights::{Dtype, TensorFiles};
use serde_json::{Value, json};
use support::{
    assert_close, assert_same_bits, attach, attachment, bits, differences, llama_config, loss_and_gradients, method,
    object, perturb, random_folder, set, values,
};
use tempfile::TempDir;

const CASES: [&str; 3] = ["roberta_2", "roberta_3", "roberta_regression"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/encoders")).join(name)
}

/// What transformers computed for a folder.
struct Golden {
    sequences: Vec<Vec<u32>>,
    outputs: Vec<f64>,
    targets: Vec<f64>,
    losses: Vec<f64>,
}

fn golden(name: &str) -> Golden {
    let path = folder(name).join("golden.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::I64);
        let number = |b: &[u8]| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap();
        tensor.data().chunks_exact(8).map(number).collect::<Vec<u32>>()
    };
    let (tokens, lengths) = (integers("input_ids"), integers("lengths"));
    let mut rest = &tokens[..];
    let sequences = lengths.iter().map(|&length| {
        let (sequence, later) = rest.split_at(length as usize);
        rest = later;
        sequence.to_vec()
    });
    let sequences = sequences.collect();
    let numbers = TensorFiles::open_file(&path).unwrap();
    let read = |name: &str| numbers.read::<f64>(name).unwrap();
    Golden { sequences, outputs: read("outputs"), targets: read("targets"), losses: read("losses") }
}

fn packed(sequences: &[Vec<u32>]) -> Batch {
    let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    Batch::packed(&slices, Vec::new())
}

/// The sequences with their targets, classes where there are several outputs.
fn targeted(golden: &Golden) -> Batch {
    let labels = golden.outputs.len() / golden.sequences.len();
    let answer = |y: f64| if labels == 1 { Answer::Number(y) } else { Answer::Class(y as usize) };
    let target = |(segment, &y): (usize, &f64)| Target { segment, answer: answer(y), weight: 1.0 };
    Batch { targets: golden.targets.iter().enumerate().map(target).collect(), ..packed(&golden.sequences) }
}

fn outputs<T: Real>(model: &Decoder<T>, batch: &Batch, workspace: &Workspace<T>) -> Vec<T> {
    workspace.run(|| model.outputs(batch, &Pass { workspace, draw: None }).data().to_vec())
}

#[test]
fn outputs_are_those_of_transformers() {
    for name in CASES {
        let golden = golden(name);
        let model: Decoder<f64> = load(&folder(name), StoredAs::File).unwrap();
        let workspace = Workspace::new(2).unwrap();
        let got = outputs(&model, &packed(&golden.sequences), &workspace);
        assert_close(name, &got, &golden.outputs, 1e-9);
        let alone: Vec<f64> = golden
            .sequences
            .iter()
            .flat_map(|sequence| outputs(&model, &packed(std::slice::from_ref(sequence)), &workspace))
            .collect();
        assert_close(&format!("{name}, one by one"), &alone, &got, 1e-12);
        let single: Decoder<f32> = load(&folder(name), StoredAs::File).unwrap();
        let got = outputs(&single, &packed(&golden.sequences), &Workspace::new(2).unwrap());
        let expected: Vec<f32> = golden.outputs.iter().map(|&z| z as f32).collect();
        assert_close(&format!("{name} in f32"), &got, &expected, 1e-4);
    }
}

/// A copy of a folder with another configuration.
fn with_config(name: &str, changes: Value) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in object(&changes) {
        config[key] = value;
    }
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    copy
}

fn without_dropout(name: &str) -> TempDir {
    with_config(name, json!({ "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0 }))
}

fn everything() -> Attachment {
    let mut all = attachment(method("full", &json!({})), &[], None);
    all.selection.sites = Sites::from_text("all");
    all
}

fn lora(names: &[&str], layers: Option<&[usize]>) -> Attachment {
    attachment(method("lora", &json!({ "r": 2, "dropout": 0.1 })), names, layers)
}

fn own_head() -> Attachment {
    attachment(method("full", &json!({})), &["classifier.dense", "classifier.out_proj"], None)
}

#[test]
fn ten_steps_of_everything_equal_those_of_pytorch() {
    for name in CASES {
        let golden = golden(name);
        let mut model: Decoder<f64> = load(without_dropout(name).path(), StoredAs::File).unwrap();
        attach(&mut model, &[everything()], 7);
        let batch = targeted(&golden);
        let workspace = Workspace::new(2).unwrap();
        let settings = StepSettings { clip: Some(1.0), recompute: false, seed: 4 };
        let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &model), &model);
        let losses: Vec<f64> = (0..10)
            .map(|index| step.take(&mut model, std::slice::from_ref(&batch), index, 0.01, &workspace).unwrap().loss)
            .collect();
        assert_close(name, &losses, &golden.losses, 1e-9);
    }
}

fn check_gradients(name: &str, entries: &[Attachment]) {
    let mut model: Decoder<f64> = load(&folder(name), StoredAs::File).unwrap();
    attach(&mut model, entries, 7);
    perturb(&mut model, 0.2, |_| true);
    let workspace = Workspace::new(1).unwrap();
    let pass = Pass { workspace: &workspace, draw: Some(Draw { seed: 2, step: 3, micro_batch: 0 }) };
    let mut batch = targeted(&golden(name));
    batch.targets.iter_mut().zip([1.0, 0.5, 2.0]).for_each(|(target, weight)| target.weight = weight);
    let (_, gradients) = loss_and_gradients(&model, &batch, false, &pass);
    let (_, again) = loss_and_gradients(&model, &batch, true, &pass);
    for slot in 0..gradients.slots() {
        let (name, start) = (model.trained()[slot].site.name.clone(), values(&model, slot));
        let some: Vec<usize> = (0..start.len()).step_by(start.len().div_ceil(12)).collect();
        let expected = differences(&start, &some, |values| {
            set(&mut model, slot, values);
            loss_and_gradients(&model, &batch, false, &pass).0
        });
        set(&mut model, slot, &start);
        let got: Vec<f64> = some.iter().map(|&index| gradients.slot(slot)[index]).collect();
        // the bias of keys moves no softmax: its gradient is rounding alone
        if got.iter().chain(&expected).any(|g| g.abs() > 1e-6) {
            assert_close(&name, &got, &expected, 1e-6);
        }
        assert_same_bits(&name, again.slot(slot), gradients.slot(slot));
    }
}

#[test]
fn gradients_of_everything_through_dropout_are_central_differences() {
    check_gradients("roberta_3", &[everything()]);
    check_gradients("roberta_regression", &[everything()]);
}

#[test]
fn gradients_of_adapters_and_head_are_central_differences() {
    check_gradients("roberta_2", &[lora(&["query", "value"], None), own_head()]);
    check_gradients("roberta_2", &[lora(&["intermediate.dense", "key"], Some(&[1]))]);
    check_gradients("roberta_2", &[own_head()]);
    check_gradients(
        "roberta_2",
        &[attachment(method("full", &json!({})), &["LayerNorm", "position_embeddings"], None)],
    );
    let quanta = method("quanta", &json!({ "dims": [4, 3, 2], "s": "circuit" }));
    check_gradients("roberta_2", &[attachment(quanta, &["query", "attention.output.dense"], None), own_head()]);
    let prefix = Selection { sites: Sites::Attention, layers: Layers::default() };
    let prefix = Attachment { method: method("prefix", &json!({ "num_virtual_tokens": 2 })), selection: prefix };
    check_gradients("roberta_2", &[prefix, own_head()]);
}

#[test]
fn adapters_go_to_linears_of_layers_only() {
    let config = read_folder_config(&folder("roberta_3")).unwrap();
    assert!(resolve(&[lora(&["out_proj"], None)], &config).is_err());
    let mut linears = lora(&[], None);
    linears.selection.sites = Sites::from_text("all-linear");
    assert_eq!(resolve(&[linears], &config).unwrap()[0].len(), 2 * 6);
    let mut own = everything();
    own.selection.sites = Sites::from_text("all-linear");
    assert_eq!(resolve(&[own], &config).unwrap()[0].len(), 2 * 6);
    assert_eq!(config.parameters(), {
        let files = TensorFiles::open_folder(&folder("roberta_3")).unwrap();
        files.names().map(|name| files.get(name).unwrap().shape.iter().product::<usize>()).sum::<usize>()
    });
}

#[test]
fn threads_change_no_bit_and_dropout_depends_on_the_step_alone() {
    let batch = targeted(&golden("roberta_2"));
    let run = |threads, step| {
        let mut model: Decoder<f32> = load(&folder("roberta_2"), StoredAs::File).unwrap();
        attach(&mut model, &[everything()], 7);
        let workspace = Workspace::new(threads).unwrap();
        let pass = Pass { workspace: &workspace, draw: Some(Draw { seed: 1, step, micro_batch: 0 }) };
        let (loss, gradients) = loss_and_gradients(&model, &batch, false, &pass);
        (loss, (0..gradients.slots()).map(|slot| bits(gradients.slot(slot))).collect::<Vec<_>>())
    };
    let one = run(1, 0);
    assert!([2, 3].into_iter().all(|threads| run(threads, 0) == one));
    assert_ne!(run(1, 1).0, one.0);
}

/// The head of a model as the files hold it.
fn head(model: &Decoder<f64>) -> Vec<Vec<f64>> {
    let workspace = Workspace::new(1).unwrap();
    let rows = |linear: &quanta_tune::model::Linear<f64>| {
        let ids: Vec<u32> = (0..linear.weight().rows() as u32).collect();
        linear.weight().gather(&ids, &workspace).data().to_vec()
    };
    model.head_linears().map(rows).collect()
}

#[test]
fn folders_without_a_head_give_the_encoder_and_a_head_from_a_named_stream() {
    let whole: Decoder<f64> = load(&folder("roberta_2"), StoredAs::File).unwrap();
    let sequences = golden("roberta_2").sequences;
    let workspace = Workspace::new(1).unwrap();
    for name in ["roberta_bare", "roberta_masked"] {
        let mut model: Decoder<f64> = load(&folder(name), StoredAs::File).unwrap();
        attach(&mut model, &[own_head()], 0);
        let mut given: Decoder<f64> = load(&folder("roberta_2"), StoredAs::File).unwrap();
        attach(&mut given, &[own_head()], 0);
        for slot in 0..2 {
            set(&mut model, slot, &values(&given, slot));
        }
        let batch = packed(&sequences);
        assert_close(name, &outputs(&model, &batch, &workspace), &outputs(&whole, &batch, &workspace), 1e-14);

        let with = |labels, seed| {
            load_with_head::<f64>(&folder(name), StoredAs::File, Some(WantedHead { labels, seed })).unwrap()
        };
        let five = with(5, 1);
        assert_eq!((head(&five)[0].len(), head(&five)[1].len(), five.config().labels), (24 * 24, 5 * 24, Some(5)));
        assert_eq!(outputs(&five, &batch, &workspace).len(), 5 * sequences.len());
        assert_eq!(head(&five), head(&with(5, 1)));
        assert_ne!(head(&five)[0], head(&with(5, 2))[0]);
        // 576 draws of standard deviation 0.02: their root mean square lies within 5 * 0.02 / sqrt(2 * 576) of it
        let square: f64 = head(&five)[0].iter().map(|w| w * w).sum::<f64>() / 576.0;
        assert!((square.sqrt() - 0.02).abs() < 0.003, "{}", square.sqrt());
    }
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let wanted =
        |path: &Path, labels| load_with_head::<f32>(path, StoredAs::File, Some(WantedHead { labels, seed: 0 })).err();
    assert!(wanted(&folder("roberta_3"), 3).is_none());
    assert!(matches!(wanted(&folder("roberta_3"), 2), Some(LoadError::Labels { labels: 3, wanted: 2 })));
    let decoder = random_folder(&llama_config(), Dtype::F32);
    assert!(matches!(wanted(decoder.path(), 2), Some(LoadError::NoHead)));
}

#[test]
fn configurations_that_ask_for_something_else_are_refused() {
    let changes = json!({
        "hidden_act": "relu", "position_embedding_type": "relative_key", "is_decoder": true, "hidden_dropout_prob": 1.0,
        "num_labels": 4, "num_attention_heads": 5, "rope_theta": 1.0, "max_position_embeddings": 1,
    });
    let error = read_folder_config(with_config("roberta_3", changes.clone()).path()).unwrap_err().to_string();
    for key in object(&changes).keys().filter(|key| *key != "num_labels") {
        assert!(error.contains(key.as_str()), "`{key}` is missing in: {error}");
    }
    assert!(error.contains("3 names for 4 classes"), "{error}");
    let error = load::<f32>(with_config("roberta_3", json!({ "type_vocab_size": 3 })).path(), StoredAs::File).err();
    assert!(error.unwrap().to_string().contains("token_type_embeddings.weight: expected [3, 24], found [1, 24]"));
}

fn outputs_found(folder: &Path, tokens: &[u32]) -> Vec<f64> {
    let report = score(folder, None, &ScoreInput::Tokens(tokens.to_vec()), None, 1).unwrap();
    match report.finding {
        Finding::Outputs(outputs) => outputs,
        Finding::Tokens(_) => panic!("an encoder gives outputs"),
    }
}

#[test]
fn the_head_is_trained_and_saved_beside_adapters_unless_an_entry_has_it() {
    let config = read_folder_config(&folder("roberta_bare")).unwrap();
    let lora = lora(&["query", "value"], None);
    let head = head_entry(&config, std::slice::from_ref(&lora)).unwrap();
    let modules = config.modules();
    let chosen = resolve(&[lora.clone(), head.clone()], &config).unwrap();
    let names: Vec<&str> = chosen[1].iter().map(|&index| modules[index].name.as_str()).collect();
    assert_eq!(names, ["classifier.dense", "classifier.out_proj"]);
    assert_eq!(head_entry(&config, &[lora.clone(), head]), None);
    assert_eq!(head_entry(&config, &[everything()]), None);
    let some = attachment(method("full", &json!({})), &["LayerNorm", "classifier.dense"], None);
    assert_eq!(head_entry(&config, &[some]), None);
    assert!(head_entry(&config, &[attachment(method("full", &json!({})), &["LayerNorm"], None)]).is_some());
    let decoder = random_folder(&llama_config(), Dtype::F32);
    assert_eq!(head_entry(&read_folder_config(decoder.path()).unwrap(), &[lora]), None);
}

#[test]
fn what_was_trained_on_a_folder_without_a_head_is_saved_read_back_and_merged() {
    let sequences = golden("roberta_2").sequences;
    for (base, stored) in [("roberta_bare", StoredAs::File), ("roberta_masked", StoredAs::Compute)] {
        let base = folder(base);
        let wanted = WantedHead { labels: 3, seed: 5 };
        let mut trained: Decoder<f32> = load_with_head(&base, stored, Some(wanted)).unwrap();
        let mut entries = vec![lora(&["query", "value"], None)];
        entries.extend(head_entry(trained.config(), &entries));
        attach(&mut trained, &entries, 7);
        let answers = sequences.iter().enumerate().map(|(i, tokens)| (&tokens[..], Answer::Class(i % 3)));
        let batch = pack_targets(&answers.collect::<Vec<_>>());
        let workspace = Workspace::new(1).unwrap();
        let settings = StepSettings { clip: Some(1.0), recompute: true, seed: 4 };
        let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), &trained), &trained);
        let losses: Vec<f64> = (0..30)
            .map(|i| step.take(&mut trained, std::slice::from_ref(&batch), i, 1e-2, &workspace).unwrap().loss)
            .collect();
        assert!(losses[29] < 0.5 * losses[0], "{losses:?}");

        let out = tempfile::tempdir().unwrap();
        let adapter = out.path().join("adapter");
        save_adapters(&adapter, &trained, &entries, &base.display().to_string()).unwrap();
        let said = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["task_type"], &said["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["classifier"])));
        assert_eq!(AdapterFolder::open(&adapter).unwrap().attachments(), entries);
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let expected = classify(&trained, &slices, 40, &workspace);
        assert_eq!(expected.len(), sequences.len());
        merge(&[(adapter.clone(), 1.0)], None, &out.path().join("merged"), None, 1).unwrap();
        for (tokens, expected) in sequences.iter().zip(&expected) {
            assert_close("read back", &outputs_found(&adapter, tokens), expected, 1e-5);
            assert_close("merged", &outputs_found(&out.path().join("merged"), tokens), expected, 1e-4);
        }
        let merged = read_folder_config(&out.path().join("merged")).unwrap();
        assert_eq!(merged.labels, Some(3));
    }
}

#[test]
fn what_peft_saves_of_adapters_and_head_is_read() {
    let expected = TensorFiles::open_file(&folder("adapter").join("golden.safetensors")).unwrap();
    let expected: Vec<f64> = expected.read("outputs").unwrap();
    for (tokens, expected) in golden("roberta_2").sequences.iter().zip(expected.chunks(3)) {
        let tokens = ScoreInput::Tokens(tokens.clone());
        let report = score(&folder("adapter"), None, &tokens, Some(ModelDtype::F64), 1).unwrap();
        let Finding::Outputs(outputs) = report.finding else { panic!("an encoder gives outputs") };
        assert_close("PEFT", &outputs, expected, 1e-9);
    }
}

#[test]
fn an_encoder_is_scored_by_its_outputs_and_asked_for_no_tokens() {
    let golden = golden("roberta_regression");
    for (tokens, expected) in golden.sequences.iter().zip(&golden.outputs) {
        assert_close("score", &outputs_found(&folder("roberta_regression"), tokens), &[*expected], 1e-4);
    }
    let copy = without_dropout("roberta_2");
    let settings =
        GenerateSettings { options: GenerateOptions::default(), rule: StopRule::None, dtype: None, threads: 1 };
    let error = generate(copy.path(), None, &Prompts::Text("a".into()), &settings, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("choose a decoder"), "{error}");
    let long = ScoreInput::Tokens(vec![5; 73]);
    let error = score(copy.path(), None, &long, None, 1).unwrap_err().to_string();
    assert!(error.contains("73 tokens are more than the 72"), "{error}");
}
