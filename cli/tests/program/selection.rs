//! What may be chosen: sites by name, pattern or all, layers, plans of gates, starts, tasks; and what inspection shows of the data.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fixture::{LORA, QUANTA, Workshop, config, read_tensors, relative, sums};

/// The adapted modules in the run's adapter file, by their path below `model.layers`.
fn adapted(workshop: &Workshop, run: &str) -> BTreeSet<String> {
    let (tensors, _) = read_tensors(&workshop.path(run).join("adapter/adapter_model.safetensors"));
    let module = |name: &String| {
        let rest = name.strip_prefix("base_model.model.model.layers.").unwrap_or_else(|| panic!("{name}"));
        // without the parameter's own name of two parts
        rest.rsplitn(3, '.').last().expect("a module").to_owned()
    };
    tensors.keys().map(module).collect()
}

fn train(adapter: &str) -> (Workshop, BTreeSet<String>) {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[adapter]));
    workshop.train("train.toml", "run", &["train.steps=2"]);
    let modules = adapted(&workshop, "run");
    // the folder says the same to whoever reads it
    assert_eq!(workshop.json(&["merge", "run/adapter", "--out", "merged"])["sites"], modules.len());
    (workshop, modules)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn layers_choose_among_the_sites() {
    for layers in ["\"1\"", "[1]"] {
        let (workshop, modules) = train(&format!("{QUANTA}layers = {layers}\n"));
        assert_eq!(modules, set(&["1.self_attn.q_proj", "1.self_attn.v_proj"]));
        assert_eq!(workshop.read_json("run/adapter/adapter_config.json")["layers_to_transform"], json!([1]));
    }
}

#[test]
fn a_pattern_must_match_a_whole_name() {
    let adapter = "type = \"lora\"\nr = 2\nsites = '.*\\.0\\.mlp\\.(up|down)_proj'\n";
    let (workshop, modules) = train(adapter);
    assert_eq!(modules, set(&["0.mlp.down_proj", "0.mlp.up_proj"]));
    assert_eq!(
        workshop.read_json("run/adapter/adapter_config.json")["target_modules"],
        ".*\\.0\\.mlp\\.(up|down)_proj"
    );
    workshop.refused_training(
        &config(&["type = \"lora\"\nr = 2\nsites = \"up_proj\"\n"]),
        2,
        &["`up_proj` matches none", "model.layers.0"],
    );
}

#[test]
fn all_linear_is_every_linear_but_the_head() {
    let (workshop, modules) = train("type = \"quanta\"\ndims = [5, 4, 4]\nsites = \"all-linear\"\n");
    assert_eq!(modules.len(), 2 * 7);
    assert!(modules.iter().all(|name| name.ends_with("_proj")), "{modules:?}");
    assert_eq!(workshop.read_json("run/adapter/adapter_config.json")["target_modules"], "all-linear");
}

#[test]
fn plans_starts_and_the_place_of_s_are_kept_with_the_adapter() {
    let adapter = "type = \"quanta\"\nplan = \"8-4-2: (-1,-2) (-3) (-1,-3) (-1,-2)\"\nsites = [\"o_proj\"]\ns = \"circuit\"\ninit = \"identity\"\n";
    let (workshop, _) = train(adapter);
    let kept = workshop.read_json("run/adapter/adapter_config.json");
    assert_eq!(kept["plan"], "8-4-2: (-1,-2) (-3) (-1,-3) (-1,-2)");
    assert_eq!((&kept["dims"], &kept["s"], &kept["init"]), (&json!([8, 4, 2]), &json!("circuit"), &json!("identity")));
    let (tensors, _) = read_tensors(&workshop.path("run/adapter/adapter_model.safetensors"));
    let site = "base_model.model.model.layers.0.self_attn.o_proj";
    let identity = tensors[&format!("{site}.quanta_S.1")].values();
    assert_eq!(
        identity,
        (0..64).map(|i| if i % 9 == 0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>(),
        "an 8 x 8 identity"
    );
    assert_ne!(tensors[&format!("{site}.quanta_T.1")].values(), identity, "T has moved");
}

#[test]
fn running_text_is_learnt_in_windows() {
    let workshop = Workshop::new();
    workshop.write("book/train.txt", "The cat sat on the mat. ".repeat(40));
    workshop.write("train.toml", config(&[QUANTA]));
    let settings = ["data.task=text", "data.path=book", "data.max_length=33"];
    let summary = workshop.train("train.toml", "run", &settings);
    assert!(summary["best_eval_loss"].as_f64() < summary["start_eval_loss"].as_f64(), "{summary}");
    let set: Vec<&str> = settings.iter().flat_map(|set| ["--set", *set]).collect();
    let inspected = workshop.json(&[&["inspect", "train.toml"], &set[..]].concat());
    // 960 characters in windows of 32 behind the begin token, four of them for validation
    let train = &inspected["parts"][0];
    assert_eq!(train["statistics"]["sequences"], 26);
    assert_eq!(train["statistics"]["trained"]["max"], 32);
    assert_eq!(train["samples"][0]["tokens"][0], 1);
}

#[test]
fn inspection_marks_what_is_trained() {
    let workshop = Workshop::new();
    workshop.write("sums.jsonl", "{\"prompt\": \"2+3=\", \"completion\": \"5\"}\n");
    workshop.write("train.toml", config(&[QUANTA]));
    let text = workshop.run(&["inspect", "train.toml", "--set", "data.dev=0"]);
    assert!(text.contains("2+3=[[5") && text.contains("1 sequences, 0 truncated"), "{text}");
    let inspected = workshop.json(&["inspect", "train.toml", "--set", "data.dev=0"]);
    let sample = &inspected["parts"][0]["samples"][0];
    // characters follow the three special tokens from the space on
    let id = |character: char| character as u32 - ' ' as u32 + 3;
    let tokens: Vec<u32> = [1].into_iter().chain("2+3=5".chars().map(id)).chain([2]).collect();
    assert_eq!(sample["tokens"], json!(tokens));
    assert_eq!(sample["trained_from"], 5);
    let answer: String = sample["texts"].as_array().expect("texts")[5..].iter().filter_map(Value::as_str).collect();
    assert_eq!(answer, "5</s>");
}

#[test]
fn epochs_and_accumulation_count_steps_as_defined() {
    let workshop = Workshop::new();
    workshop.write("sums.jsonl", sums(14));
    workshop.write(
        "train.toml",
        config(&[QUANTA]).replace("steps = 12\n", "epochs = 1.5\naccumulate = 2\nschedule = \"cosine\"\n"),
    );
    let summary = workshop.train("train.toml", "run", &["train.batch=2"]);
    // ten samples by batches of two times two: three steps an epoch, the third of half the size; 4.5 rounds up
    assert_eq!(summary["steps"], 5);
    assert_eq!(workshop.train("train.toml", "short", &["train.epochs=0.01"])["steps"], 1, "never less than one");
}

#[test]
fn micro_batches_by_tokens_give_the_same_training() {
    let workshop = Workshop::new();
    // prompts of 4 to 33 characters, so that the lengths matter
    let row =
        |i: usize| json!({ "prompt": format!("{}+1=", "1".repeat(1 + i * 7 % 30)), "completion": (i % 9).to_string() });
    workshop.write("sums.jsonl", (0..24).map(|i| format!("{}\n", row(i))).collect::<String>());
    workshop.write("train.toml", config(&[QUANTA]).replace("batch = 4", "batch = 4\naccumulate = 2"));
    workshop.refused(
        &["plan", "train.toml", "--set", "train.batch_tokens=0"],
        2,
        &["train.batch_tokens", "at least 1"],
    );
    let wide = ["model.dtype=f64"];
    let plain = workshop.train("train.toml", "plain", &wide);
    let packed = workshop.train("train.toml", "packed", &[&wide[..], &["train.batch_tokens=60"]].concat());
    for key in ["steps", "tokens", "best_step"] {
        assert_eq!(plain[key], packed[key], "{key}");
    }
    let losses = |out: &str, key: &str| -> Vec<f64> {
        let lines = workshop.read(&format!("{out}/metrics.jsonl"));
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        lines.filter_map(|line| line[key].as_f64()).collect()
    };
    for key in ["loss", "grad_norm", "eval_loss", "lr"] {
        // AdamW divides gradients by their size: rounding of the smallest grows with every step
        assert!(relative(&losses("packed", key), &losses("plain", key)) < 1e-9, "{key}");
    }
    let micro_batch = |set: &[&str]| {
        let plan = workshop.json(&[&["plan", "train.toml", "--set", "data.max_length=50"], set].concat());
        plan["micro_batch"]["tokens"].as_u64().expect("a number")
    };
    let tokens = |tokens: usize| micro_batch(&["--set", &format!("train.batch_tokens={tokens}")]);
    assert_eq!([micro_batch(&[]), tokens(60), tokens(7), tokens(100_000)], [200, 60, 50, 400]);
    let dry = |set: &str| workshop.json(&["train", "train.toml", "--dry-run", "--set", set]);
    let (few, many) = (dry("train.batch_tokens=100000"), dry("train.batch_tokens=40"));
    assert_eq!((&few["micro_batches"], &few["tokens"]), (&json!(1), &many["tokens"]));
    assert!(
        many["micro_batches"].as_u64() > Some(1) && many["estimated_bytes"].as_u64() < few["estimated_bytes"].as_u64()
    );
}

#[test]
fn every_family_trains() {
    for model in ["llama3", "llama_linear", "qwen2"] {
        let workshop = Workshop::new();
        workshop.add_model(model, model);
        workshop.write("train.toml", config(&["type = \"lora\"\nr = 4\nsites = \"all-linear\"\n"]));
        let summary = workshop.train("train.toml", "run", &[&format!("model.path={model}")]);
        assert!(summary["best_eval_loss"].as_f64() < summary["start_eval_loss"].as_f64(), "{model}: {summary}");
        let report = workshop.json(&["merge", "run", "--out", "merged"]);
        assert!(report["difference"].as_f64() < Some(1e-4), "{model}: {report}");
    }
}

#[test]
fn the_documentation_lists_every_key_of_a_complete_configuration() {
    let workshop = Workshop::new();
    workshop.write("both.toml", config(&[QUANTA, LORA]));
    workshop.train(
        "both.toml",
        "run",
        &["train.steps=1", "train.batch_tokens=99", "data.dev=2", "adapter.0.layers=[0]"],
    );
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md")).expect("docs/config.md");
    let mut section = String::new();
    let mut keys = 0;
    for line in workshop.read("run/config.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys += 1;
            // a method's own keys stand in the method's table, without a section
            let listed = [format!("`{section}{key}`"), format!("| `{key}` |")].iter().any(|form| manual.contains(form));
            assert!(listed, "{section}{key} is not in docs/config.md");
        }
    }
    assert!(keys > 30, "the whole configuration was read");
}
