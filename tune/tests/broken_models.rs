//! Wrong and hostile model folders and adapter entries: each is an error that says what to change, never a panic, and never much memory.
//!
//! A good folder is written first, then one thing is broken. Errors of the tensor files alone are tested beside `weights`, those of single config keys beside
//! `config`; here it is the whole way that a user takes.

mod support;

use std::fs;
use std::path::PathBuf;

use quanta_tune::adapter::{Layers, Selection, Sites};
use quanta_tune::model::{Attachment, LoadError, StoredAs, load, read_folder_config, resolve};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::{attachment, llama_config, method, object, qwen2_config, random_folder, write_tensors};
use tempfile::TempDir;

/// The error of loading, whole.
fn refusal(folder: &TempDir) -> String {
    let Err(error) = load::<f32>(folder.path(), StoredAs::File) else { panic!("a broken folder was loaded") };
    error.to_string()
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

fn good() -> TempDir {
    random_folder(&llama_config(), Dtype::Bf16)
}

fn tensors_path(folder: &TempDir) -> PathBuf {
    folder.path().join("model.safetensors")
}

/// A good folder whose configuration is changed key by key; null removes a key.
fn with_config(mut config: Value, changes: Value) -> TempDir {
    let folder = random_folder(&config, Dtype::Bf16);
    for (key, value) in object(&changes) {
        config[key] = value;
    }
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn the_folder_that_is_broken_below_is_good() {
    load::<f32>(good().path(), StoredAs::File).unwrap();
    load::<f64>(random_folder(&qwen2_config(), Dtype::F32).path(), StoredAs::File).unwrap();
}

#[test]
fn a_folder_without_config_or_weights_is_refused() {
    let folder = good();
    fs::remove_file(tensors_path(&folder)).unwrap();
    assert_says(&refusal(&folder), &["model.safetensors", "give a Hugging Face model folder"]);
    fs::write(folder.path().join("pytorch_model.bin"), b"pickle").unwrap();
    assert_says(&refusal(&folder), &["pytorch_model.bin", "no zip archive"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_says(&refusal(&folder), &["cannot read", "config.json"]);
    let gone = folder.path().join("no such folder");
    assert!(matches!(load::<f32>(&gone, StoredAs::File), Err(LoadError::Config(_))));
}

#[test]
fn malformed_configurations_are_refused_with_their_place() {
    let folder = good();
    let write = |text: &[u8]| fs::write(folder.path().join("config.json"), text).unwrap();
    write(b"{\n  \"model_type\": \"llama\",\n  oops\n}");
    assert_says(&refusal(&folder), &["config.json", "line 3"]);
    for text in [&b""[..], b"[1, 2]", b"\"llama\"", b"null", b"{}", b"{\"model_type\": 7}", b"\xff\xfe\x00", b"{\"a\":"]
    {
        write(text);
        assert_says(&refusal(&folder), &["config.json"]);
    }
    // deep nesting must not exhaust the stack
    write("[".repeat(100_000).as_bytes());
    assert_says(&refusal(&folder), &["config.json"]);
}

#[test]
fn every_unhandled_attribute_is_named_at_once() {
    let changes = json!({
        "sliding_window": 4096, "hidden_act": "gelu", "quantization_config": { "bits": 4 }, "num_experts": 8,
        "rope_parameters": { "rope_type": "yarn", "factor": 2.0 }, "attention_dropout": 0.1,
    });
    let message = refusal(&with_config(llama_config(), changes));
    let keys = [
        "sliding_window",
        "hidden_act",
        "quantization_config",
        "num_experts",
        "rope_parameters",
        "yarn",
        "attention_dropout",
    ];
    assert_says(&message, &keys);
    assert_says(&message, &["6 problems to mend"]);
    let message = refusal(&with_config(qwen2_config(), json!({ "use_sliding_window": "yes", "attention_bias": true })));
    assert_says(&message, &["2 problems", "use_sliding_window", "attention_bias"]);
    let message =
        refusal(&with_config(qwen2_config(), json!({ "layer_types": ["full_attention", "sliding_attention"] })));
    assert_says(&message, &["layer_types", "use_sliding_window"]);
    let message = refusal(&with_config(llama_config(), json!({ "model_type": "mamba" })));
    assert_says(&message, &["model_type", "mamba", "llama, mistral, qwen2"]);
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    let cases = [
        (json!({ "num_key_value_heads": 3 }), "num_key_value_heads"),
        (json!({ "head_dim": 5 }), "head"),
        (json!({ "head_dim": null, "num_attention_heads": 5 }), "num_attention_heads"),
        (json!({ "hidden_size": 0 }), "hidden_size"),
        (json!({ "hidden_size": -24 }), "hidden_size"),
        (json!({ "hidden_size": 24.5 }), "hidden_size"),
        (json!({ "hidden_size": null }), "hidden_size"),
        (json!({ "vocab_size": "29" }), "vocab_size"),
        (json!({ "num_hidden_layers": 0 }), "num_hidden_layers"),
        (json!({ "rms_norm_eps": 0.0 }), "rms_norm_eps"),
        (json!({ "rope_parameters": { "rope_theta": -1.0 } }), "rope_theta"),
        (json!({ "rope_parameters": { "rope_type": "linear" } }), "factor"),
        (json!({ "rope_parameters": { "rope_type": "llama3", "factor": 8.0 } }), "original_max_position_embeddings"),
        (json!({ "model_type": "" }), "model_type"),
        (json!({ "intermediate_size": 1e30 }), "intermediate_size"),
    ];
    for (changes, word) in cases {
        assert_says(&refusal(&with_config(llama_config(), changes)), &["config.json", word]);
    }
}

/// The configuration alone must not make the program allocate: sizes are believed only once the file has them.
#[test]
fn sizes_far_beyond_the_file_are_refused_without_much_memory() {
    let sizes = ["hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"];
    for key in sizes.into_iter().chain(["num_key_value_heads", "head_dim", "num_hidden_layers"]) {
        let message = refusal(&with_config(llama_config(), json!({ key: 4_000_000_000u64 })));
        assert_says(&message, &["config.json", key, "at most"]);
    }
    // sizes that some model might have, but not this file; 4 divides them, as grouped heads ask
    for key in sizes {
        let message = refusal(&with_config(llama_config(), json!({ key: 1_000_000 })));
        assert!(message.contains("expected [") && message.contains("000000"), "{key}: {message}");
    }
    let all: serde_json::Map<_, _> = sizes.map(|key| (key.to_owned(), json!(1_000_000))).into_iter().collect();
    assert_says(&refusal(&with_config(llama_config(), Value::Object(all))), &["expected ["]);
}

/// Every key of a good configuration with every kind of wrong value: an answer of either kind, never a panic.
#[test]
fn no_value_of_any_key_panics() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(1e300),
        json!(-0.0),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!([1]),
        json!({}),
        json!({ "rope_type": [] }),
        json!({ "rope_type": "llama3" }),
    ];
    for config in [llama_config(), qwen2_config()] {
        let folder = random_folder(&config, Dtype::Bf16);
        for key in object(&config).keys() {
            for value in &values {
                let mut changed = config.clone();
                changed[key] = value.clone();
                fs::write(folder.path().join("config.json"), changed.to_string()).unwrap();
                if let Err(error) = load::<f32>(folder.path(), StoredAs::File) {
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}

#[test]
fn missing_wrong_and_surplus_tensors_are_one_message() {
    let folder = good();
    let mut tensors = read_folder_config(folder.path()).unwrap().inventory();
    tensors.retain(|(name, _)| !name.contains("layers.1.self_attn.q_proj") && name != "lm_head.weight");
    for (name, shape) in &mut tensors {
        if name == "model.layers.0.mlp.down_proj.weight" {
            shape.reverse();
        }
    }
    tensors.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![24]));
    tensors.push(("model.layers.3.self_attn.q_proj.weight".into(), vec![24, 24]));
    // left behind by old writers, and harmless
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![3]));
    write_tensors(&tensors_path(&folder), &tensors, Dtype::Bf16);
    let message = refusal(&folder);
    assert_says(&message, &["2 missing", "model.layers.1.self_attn.q_proj.weight", "lm_head.weight"]);
    assert_says(&message, &["model.layers.0.mlp.down_proj.weight: expected [24, 36], found [36, 24]"]);
    assert_says(
        &message,
        &["2 surplus", "model.layers.0.self_attn.q_proj.bias", "model.layers.3.self_attn.q_proj.weight"],
    );
    assert!(!message.contains("inv_freq"), "{message}");
}

#[test]
fn weights_of_another_model_are_refused_tensor_by_tensor() {
    let folder = with_config(llama_config(), json!({ "num_hidden_layers": 4, "vocab_size": 30 }));
    let message = refusal(&folder);
    assert_says(&message, &["9 missing", "model.layers.3.mlp.up_proj.weight", "expected [30, 24], found [29, 24]"]);
    // a tied head may be stored too; an untied one must be
    load::<f32>(with_config(llama_config(), json!({ "tie_word_embeddings": true })).path(), StoredAs::File).unwrap();
    let message = refusal(&with_config(qwen2_config(), json!({ "tie_word_embeddings": false })));
    assert_says(&message, &["1 missing", "lm_head.weight"]);
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let folder = good();
    let whole = fs::read(tensors_path(&folder)).unwrap();
    let lengths = (0..64).chain((64..whole.len()).step_by(997)).chain([whole.len() - 1]);
    for length in lengths {
        fs::write(tensors_path(&folder), &whole[..length]).unwrap();
        assert_says(&refusal(&folder), &["model.safetensors"]);
    }
    fs::write(tensors_path(&folder), [&whole[..], &[0]].concat()).unwrap();
    assert_says(&refusal(&folder), &["fetch the file again"]);
}

/// A safetensors file with this header before `data` bytes.
fn hostile(header: &Value, data: usize) -> Vec<u8> {
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn headers_that_lie_about_sizes_are_refused() {
    let folder = good();
    let tensor =
        |shape: Value, offsets: Value| json!({ "w": { "dtype": "F32", "shape": shape, "data_offsets": offsets } });
    let lies = [
        tensor(json!([2, 2]), json!([0, 1_000_000_000_000u64])),
        tensor(json!([1_000_000, 1_000_000]), json!([0, 16])),
        tensor(json!([u64::MAX, 2]), json!([0, 16])),
        tensor(json!([2, 2]), json!([16, 0])),
        tensor(json!([2, 2]), json!([u64::MAX - 15, u64::MAX])),
        tensor(json!([2, 2]), json!([4, 20])),
        tensor(json!([2]), json!([0, 8])),
        tensor(json!([-2, -2]), json!([0, 16])),
    ];
    for header in lies {
        fs::write(tensors_path(&folder), hostile(&header, 16)).unwrap();
        assert_says(&refusal(&folder), &["model.safetensors"]);
    }
    for claimed in [0, 1, 1 << 20, 1 << 40, u64::MAX - 8, u64::MAX] {
        let mut bytes = hostile(&json!({}), 16);
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        fs::write(tensors_path(&folder), bytes).unwrap();
        assert_says(&refusal(&folder), &["model.safetensors"]);
    }
}

#[test]
fn no_changed_byte_of_the_header_panics() {
    let folder = good();
    let whole = fs::read(tensors_path(&folder)).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for at in (0..header).step_by(11) {
        for byte in [b'9', b'"', 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            fs::write(tensors_path(&folder), bytes).unwrap();
            refused += usize::from(load::<f32>(folder.path(), StoredAs::File).is_err());
        }
    }
    // some bytes are padding, or were what they became
    assert!(refused > header / 11 * 2, "{refused} of {}", header / 11 * 3);
}

/// The messages of entries that do not fit the good folder's model.
fn problems(entries: &[Attachment]) -> Vec<String> {
    let config = read_folder_config(good().path()).unwrap();
    let errors = resolve(entries, &config).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn settings_that_do_not_fit_a_site_are_refused_over_all_entries() {
    let quanta = |dims: &[usize]| method("quanta", &json!({ "dims": dims }));
    let entries = [
        attachment(quanta(&[16, 8, 8]), &["q_proj", "v_proj"], None),
        attachment(quanta(&[4, 3, 2]), &["q_proj"], None),
        attachment(method("lora", &json!({ "r": 13 })), &["v_proj"], Some(&[1])),
        attachment(quanta(&[2, 2]), &["down_proj"], Some(&[2])),
    ];
    let messages = problems(&entries);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_says(
        &messages[0],
        &["adapter.0", "16-8-8", "1024", "self_attn.q_proj [24, 24]", "product is 24", "5 more sites"],
    );
    assert_says(&messages[1], &["adapter.2", "r = 13", "model.layers.1.self_attn.v_proj", "up to 12"]);
    assert_says(&messages[2], &["adapter.3", "2-2", "mlp.down_proj [24, 36]"]);
}

#[test]
fn unknown_sites_are_refused_with_the_nearest_name() {
    let lora = || method("lora", &json!({ "r": 2 }));
    let pattern = |text: &str| {
        let selection = Selection { sites: Sites::from_text(text), layers: Layers::default() };
        Attachment { method: lora(), selection }
    };
    let entries = [
        attachment(lora(), &["q_prj", "v_proj", "nonsense"], None),
        attachment(lora(), &["down_proj"], Some(&[2, 3])),
        pattern("q_proj"),
        pattern("*("),
        attachment(lora(), &["lm_head"], None),
    ];
    let messages = problems(&entries);
    assert_eq!(messages.len(), 6, "{messages:?}");
    assert_says(&messages[0], &["adapter.0", "`q_prj`", "did you mean `q_proj`", "gate_proj"]);
    assert_says(&messages[1], &["adapter.0", "`nonsense`"]);
    assert!(!messages[1].contains("did you mean"), "{}", messages[1]);
    assert_says(&messages[2], &["adapter.1", "layer 3", "0 to 2"]);
    assert_says(&messages[3], &["adapter.2", "`q_proj`", "none", "model.layers.0.self_attn.q_proj"]);
    assert_says(&messages[4], &["adapter.3", "regular expression"]);
    assert_says(&messages[5], &["adapter.4", "`lm_head`"]);
}
