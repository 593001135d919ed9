//! Broken models, data and adapters: exit code 1 with the file and the cause on standard error, before anything is trained or written.

use serde_json::{Value, json};

use super::fixture::{LORA, QUANTA, Stored, Workshop, config, read_tensors, sums, tensor_file};

/// A workshop, after a change to it, refuses to train.
fn refused_after(change: impl FnOnce(&Workshop), needles: &[&str]) {
    let workshop = Workshop::new();
    change(&workshop);
    workshop.refused_training(&config(&[QUANTA]), 1, needles);
}

fn remove(workshop: &Workshop, name: &str) {
    std::fs::remove_file(workshop.path(name)).expect("a file to remove");
}

/// Changes the weights of the model.
fn with_weights(workshop: &Workshop, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(workshop.path("model/model.safetensors")).expect("weights");
    change(&mut bytes);
    workshop.write("model/model.safetensors", bytes);
}

fn with_model_config(workshop: &Workshop, change: &[(&str, Value)]) {
    let mut map = workshop.read_json("model/config.json");
    map.extend(change.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    workshop.write("model/config.json", Value::Object(map).to_string());
}

#[test]
fn missing_files_are_named() {
    refused_after(|w| std::fs::remove_dir_all(w.path("model")).expect("a model"), &["model/config.json"]);
    refused_after(|w| remove(w, "model/config.json"), &["model/config.json"]);
    refused_after(|w| remove(w, "model/tokenizer.json"), &["no tokenizer in model: there is no tokenizer.json"]);
    refused_after(
        |w| remove(w, "model/model.safetensors"),
        &["model holds none of model.safetensors, pytorch_model.bin"],
    );
    refused_after(|w| remove(w, "sums.jsonl"), &["cannot read sums.jsonl"]);
    let workshop = Workshop::new();
    workshop.add_model("llama_bf16_sharded", "model");
    remove(&workshop, "model/model.safetensors");
    remove(&workshop, "model/model-00002-of-00003.safetensors");
    let adapter = "type = \"lora\"\nsites = [\"q_proj\"]\n";
    workshop.refused_training(&config(&[adapter]), 1, &["model-00002-of-00003.safetensors"]);
}

#[test]
fn weights_that_are_cut_off_or_lie_are_refused() {
    let name = "model/model.safetensors";
    refused_after(|w| with_weights(w, |bytes| bytes.truncate(0)), &[name, "0 bytes, too few"]);
    refused_after(|w| with_weights(w, |bytes| bytes.truncate(7)), &[name, "7 bytes, too few"]);
    refused_after(|w| with_weights(w, |bytes| bytes.truncate(100)), &[name, "claims a header"]);
    refused_after(|w| with_weights(w, |bytes| bytes.truncate(bytes.len() - 1)), &[name, "cut off"]);
    refused_after(|w| with_weights(w, |bytes| bytes.push(0)), &[name, "header accounts for"]);
    refused_after(
        |w| with_weights(w, |bytes| bytes[..8].fill(0xff)),
        &[name, "claims a header of 18446744073709551615 bytes"],
    );
    refused_after(|w| with_weights(w, |bytes| bytes[8] = b'x'), &[name, "malformed"]);
    // a header whose offsets or shapes reach beyond what is there, of the same length so that nothing else is wrong
    let lie = |from: &'static str, to: &'static str| {
        move |workshop: &Workshop| {
            assert_eq!(from.len(), to.len());
            with_weights(workshop, |bytes| {
                let at =
                    bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("the text to change");
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            });
        }
    };
    refused_after(lie("\"shape\":[64,64]", "\"shape\":[99,64]"), &[name, "do not fit"]);
    refused_after(lie("\"data_offsets\":[0,", "\"data_offsets\":[4,"), &[name]);
    refused_after(lie("\"dtype\":\"F32\"", "\"dtype\":\"F64\""), &[name, "do not fit"]);
}

#[test]
fn every_difference_of_tensors_and_config_is_named() {
    let change = |workshop: &Workshop| {
        let (mut tensors, _) = read_tensors(&workshop.path("model/model.safetensors"));
        tensors.remove("model.layers.1.mlp.up_proj.weight").expect("a weight");
        tensors.remove("model.norm.weight").expect("a weight");
        tensors.insert("model.layers.0.self_attn.q_proj.weight".into(), Stored::f32(&[64, 63], &[0.0; 64 * 63]));
        tensors.insert("model.layers.2.mlp.up_proj.weight".into(), Stored::f32(&[1], &[0.0]));
        workshop.write("model/model.safetensors", tensor_file(&tensors));
    };
    let needles = [
        "2 missing:\n  model.layers.1.mlp.up_proj.weight\n  model.norm.weight",
        "1 surplus:\n  model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight: expected [64, 64], found [64, 63]",
    ];
    refused_after(change, &needles);
}

#[test]
fn model_configs_that_are_not_handled_are_refused_by_name() {
    let refused = |changes: &[(&str, Value)], needles: &[&str]| {
        refused_after(|workshop| with_model_config(workshop, changes), &[&["model/config.json"], needles].concat());
    };
    refused(
        &[
            ("quantization_config", json!({ "bits": 4 })),
            ("hidden_act", json!("gelu")),
            ("num_key_value_heads", json!(3)),
        ],
        &[
            "3 problems to mend",
            "quantization_config: unknown key",
            "hidden_act: \"gelu\" is not supported",
            "num_key_value_heads: 3",
        ],
    );
    refused(
        &[("model_type", json!("gpt2"))],
        &["`gpt2` is not one of the families handled: llama, mistral, qwen2, qwen3, gemma2, gemma3_text, roberta"],
    );
    refused(&[("model_type", json!(""))], &["model_type"]);
    refused(
        &[("rope_parameters", json!({ "rope_type": "yarn", "factor": 2 }))],
        &["`yarn` is not one of the rotary scalings handled"],
    );
    refused(&[("hidden_size", json!(0))], &["hidden_size: must be at least 1"]);
    refused_after(|w| w.write("model/config.json", "{ \"model_type\": "), &["model/config.json, line 1"]);
    refused_after(|w| w.write("model/config.json", "[]"), &["expected an object in braces, found a list"]);
}

#[test]
fn tokenizers_that_do_not_belong_are_refused() {
    refused_after(|w| w.write("model/tokenizer.json", "{}"), &["model/tokenizer.json"]);
    refused_after(|w| w.write("model/tokenizer.json", "not JSON"), &["model/tokenizer.json"]);
    refused_after(
        |w| w.write("model/tokenizer_config.json", "{\"eos_token\": \"<end>\"}"),
        &["eos_token `<end>` is not in the vocabulary"],
    );
    let beyond = |workshop: &Workshop| {
        let text = workshop.read("model/tokenizer.json").replace("\"=\":32", "\"=\":160");
        assert!(text.contains("\"=\":160"), "the fixture's token for =");
        workshop.write("model/tokenizer.json", text);
    };
    refused_after(
        beyond,
        &["token 160 is beyond the model's 160 embeddings: these tokens, or the tokenizer, belong to another model"],
    );
}

#[test]
fn rows_that_cannot_be_read_are_all_named_with_their_lines() {
    let rows = format!("{}{{\"prompt\": \"a\"}}\n\nnot JSON\n{{\"prompt\": 1, \"completion\": \"b\"}}\n[]\n", sums(2));
    let needles = [
        "sums.jsonl: 4 malformed rows",
        "line 3: `completion` is missing",
        "line 5: not JSON",
        "line 6: `prompt` must be a text in quotes",
        "line 7: expected an object",
    ];
    refused_after(|w| w.write("sums.jsonl", rows), &needles);
    refused_after(|w| w.write("sums.jsonl", "\n\n"), &["sums.jsonl holds no rows"]);
    refused_after(|w| w.write("sums.jsonl", b"{\"prompt\": \"\xff\", \"completion\": \"a\"}"), &["line 1: not UTF-8"]);
    refused_after(
        |w| w.write("sums.jsonl", sums(4)),
        &["no training samples are left: 4 rows, of which 4 are dev samples"],
    );
    refused_after(
        |w| w.write("sums.jsonl", sums(3)),
        &["no training samples are left: 3 rows, of which 3 are dev samples"],
    );
}

#[test]
fn samples_without_a_trained_token_are_all_named() {
    let workshop = Workshop::new();
    workshop.write(
        "sums.jsonl",
        sums(6)
            + "{\"prompt\": \"a\", \"completion\": \"\"}\n"
            + &sums(1)
            + "{\"prompt\": \"\", \"completion\": \"\"}\n",
    );
    let text = config(&[QUANTA]).replace("dev = 4", "dev = 0");
    let needles = ["2 samples cannot be used", "(line 7): no trained token", "(line 9): no trained token"];
    workshop.refused_training(&text, 1, &needles);
    // inspection refuses what training would
    workshop.refused(&["inspect", "refused.toml"], 1, &needles);
    workshop.write("sums.jsonl", format!("{}{}\n", sums(1), json!({ "prompt": "a".repeat(40), "completion": "b" })));
    let cut = text.replace("dev = 0", "dev = 0\nmax_length = 16\ntruncation = \"right\"");
    workshop.refused_training(
        &cut,
        1,
        &["1 sample cannot be used", "(line 2): no trained token is left of 43 tokens at max_length 16"],
    );
    workshop.refused_training(&cut.replace("right", "refuse"), 1, &["43 tokens exceed max_length 16"]);
    workshop.refused_training(
        &cut.replace("dev = 0", "dev = 0\ntest = 1"),
        1,
        &["1 test samples are wanted, but the data has no test split"],
    );
}

#[test]
fn adapter_folders_that_do_not_fit_are_refused_with_all_that_is_wrong() {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[LORA]));
    workshop.train("train.toml", "run", &["train.steps=1"]);
    let (tensors, _) = read_tensors(&workshop.path("run/adapter/adapter_model.safetensors"));
    let name =
        |layer: usize, part: &str| format!("base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight");
    let mut broken = tensors.clone();
    broken.remove(&name(0, "lora_A")).expect("a factor");
    broken.insert(name(1, "lora_B"), Stored::f32(&[4, 64], &[0.0; 256]));
    broken.insert(name(2, "lora_A"), Stored::f32(&[1], &[0.0]));
    workshop.write("run/adapter/adapter_model.safetensors", tensor_file(&broken));
    let needles = [
        format!("1 missing:\n  {}", name(0, "lora_A")),
        format!("1 surplus:\n  {}", name(2, "lora_A")),
        format!("{}: expected [64, 4], found [4, 64]", name(1, "lora_B")),
    ];
    let needles = needles.each_ref().map(String::as_str);
    for folder in ["run", "run/adapter"] {
        workshop.refused(&["score", folder, "--text", "ab"], 1, &needles);
        workshop.refused(&["merge", folder, "--out", "merged"], 1, &needles);
    }
    workshop.write("run/adapter/adapter_model.safetensors", &tensor_file(&tensors)[..1000]);
    workshop.refused(&["score", "run", "--text", "ab"], 1, &["adapter_model.safetensors", "cut off"]);
    remove(&workshop, "run/adapter/adapter_model.safetensors");
    workshop.refused(&["score", "run", "--text", "ab"], 1, &["adapter_model.safetensors"]);
    std::fs::remove_dir_all(workshop.path("run/adapter")).expect("an adapter");
    // as a run is that was stopped before its first validation
    for command in [&["score", "run", "--text", "ab"][..], &["merge", "run", "--out", "merged"]] {
        let said = ["the run in run has kept no adapter yet", "quanta train run/config.toml --out run --resume"];
        workshop.refused(command, 1, &said);
    }
}

#[test]
fn weights_that_are_no_numbers_are_noticed() {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[LORA]));
    workshop.train("train.toml", "run", &["train.steps=1"]);
    // the last element of the last tensor of the file
    with_weights(&workshop, |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    workshop.refused(
        &["merge", "run", "--out", "merged"],
        1,
        &["merged and adapted logits differ", "nothing was written"],
    );
    let output = workshop.start(&["train", "train.toml", "--out", "again"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("the validation loss after step 0 is not finite")
            && message.contains("the model's weights hold infinite values or NaN"),
        "{message}"
    );
    assert_eq!(workshop.run_names("again"), ["config.toml", "metrics.jsonl"], "no adapter of numbers that ran away");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let workshop = Workshop::new();
    workshop.add_model("llama_bf16_sharded", "other");
    workshop.write("train.toml", config(&[LORA]));
    workshop.train("train.toml", "run", &["train.steps=1"]);
    workshop.refused(
        &["score", "run", "--text", "ab", "--base", "other"],
        1,
        &["q_proj.lora_A.weight: expected [4, 56], found [4, 64]"],
    );
    workshop.refused(
        &["merge", "run/adapter", "--out", "merged", "--base", "other"],
        1,
        &["expected [4, 56], found [4, 64]"],
    );
    std::fs::rename(workshop.path("model"), workshop.path("moved")).expect("a model to move");
    let message = workshop.refused(
        &["score", "run/adapter", "--text", "ab"],
        1,
        &["the base model of run/adapter cannot be found", "--base"],
    );
    assert!(message.contains(&workshop.path("model").display().to_string()), "{message}");
    workshop.refused(&["score", "run", "--text", "ab"], 1, &["model/config.json"]);
    assert_eq!(workshop.score("run", "1,2,3", &["--base", "moved"]).len(), 2);
}

#[test]
fn a_model_without_numbers_is_not_scored() {
    let workshop = Workshop::new();
    // the last tensor's last value, little-endian f32: NaN
    with_weights(&workshop, |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    workshop.refused(&["score", "model", "--tokens", "1,2,3"], 1, &["no finite probability"]);
}
