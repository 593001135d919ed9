//! The adapter folder as an interface: what PEFT writes is read, what it means is computed, what cannot be honoured is refused by name, and what the
//! program writes has the keys, names and shapes that PEFT reads.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::fixture::{LORA, QUANTA, Stored, Tensors, Workshop, config, read_tensors, relative, tensor_file};

const PROBE: &str = "1,22,14,23,32,20,24,2,50,60,70,80,90,5";

/// `adapter_config.json` as PEFT 0.21.2 writes it for `LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])`.
const WRITTEN_BY_PEFT: &str = r#"{
  "alora_invocation_tokens": null,
  "alpha_pattern": {},
  "arrow_config": null,
  "auto_mapping": null,
  "base_model_name_or_path": "model",
  "bias": "none",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "kasa_config": null,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 8,
  "lora_bias": false,
  "lora_dropout": 0.0,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "monteclora_config": null,
  "peft_type": "LORA",
  "peft_version": "0.21.2",
  "qalora_group_size": 16,
  "r": 4,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "v_proj",
    "q_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false,
  "velora_config": null
}"#;

/// A key of the configuration and its new value.
type Change = (&'static str, Value);

/// Changes, and the layers and modules that they choose.
type Case<'a> = (&'a [Change], &'a [usize], &'a [&'a str]);

/// Numbers in (-0.5, 0.5) that repeat late: enough to tell every element from every other.
fn numbers(count: usize, from: u32) -> Vec<f32> {
    let mut state = from.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// Tensors of rank 4 on `modules` of `layers` of the fixture's model, named as PEFT names them.
fn factors(layers: &[usize], modules: &[&str]) -> Tensors {
    let mut tensors = Tensors::new();
    for layer in layers {
        for (index, module) in modules.iter().enumerate() {
            let site = format!("base_model.model.model.layers.{layer}.{module}");
            let seed = (10 * layer + index) as u32;
            tensors.insert(format!("{site}.lora_A.weight"), Stored::f32(&[4, 64], &numbers(256, 2 * seed)));
            tensors.insert(format!("{site}.lora_B.weight"), Stored::f32(&[64, 4], &numbers(256, 2 * seed + 1)));
        }
    }
    tensors
}

/// A workshop with the folder `adapter`: PEFT's configuration with changes, and these tensors.
fn workshop(changes: &[Change], tensors: &Tensors) -> Workshop {
    let workshop = Workshop::new();
    let mut map: Map<String, Value> = serde_json::from_str(WRITTEN_BY_PEFT).expect("PEFT's text");
    map.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    workshop.write("adapter/adapter_config.json", Value::Object(map).to_string());
    workshop.write("adapter/adapter_model.safetensors", tensor_file(tensors));
    workshop
}

/// Writes the folder `expected`: the model with `W + 2 B A` at every adapted site, computed here in f64.
fn merge_by_hand(workshop: &Workshop, factors: &Tensors) {
    workshop.add_model("llama", "expected");
    let (mut weights, _) = read_tensors(&workshop.path("model/model.safetensors"));
    let sites: BTreeSet<&str> = factors.keys().filter_map(|name| name.strip_suffix(".lora_A.weight")).collect();
    for site in sites {
        let [a, b] = ["A", "B"].map(|factor| factors[&format!("{site}.lora_{factor}.weight")].values());
        let name = format!("{}.weight", site.strip_prefix("base_model.model.").expect("PEFT's prefix"));
        let mut values = weights[&name].values();
        for (index, value) in values.iter_mut().enumerate() {
            let (row, col) = (index / 64, index % 64);
            let product: f64 = (0..4).map(|k| f64::from(b[4 * row + k]) * f64::from(a[64 * k + col])).sum();
            *value = (f64::from(*value) + 2.0 * product) as f32;
        }
        weights.insert(name, Stored::f32(&[64, 64], &values));
    }
    workshop.write("expected/model.safetensors", tensor_file(&weights));
}

const QV: &[&str] = &["self_attn.q_proj", "self_attn.v_proj"];

#[test]
fn what_peft_writes_is_the_model_it_means() {
    let all = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"][..];
    let cases: [Case; 5] = [
        (&[], &[0, 1], QV),
        (&[("target_modules", json!(".*self_attn\\.[qkvo]_proj"))], &[0, 1], all),
        (&[("layers_to_transform", json!(1)), ("layers_pattern", json!("layers"))], &[1], QV),
        (&[("layers_to_transform", json!([0]))], &[0], QV),
        (
            &[("lora_alpha", json!(8.0)), ("init_lora_weights", json!("gaussian")), ("lora_dropout", json!(0.1))],
            &[0, 1],
            QV,
        ),
    ];
    for (changes, layers, modules) in cases {
        let tensors = factors(layers, modules);
        let workshop = workshop(changes, &tensors);
        merge_by_hand(&workshop, &tensors);
        let expected = workshop.score("expected", PROBE, &[]);
        let base = workshop.score("model", PROBE, &[]);
        assert!(relative(&expected, &base) > 1e-2, "{changes:?}: the adapter does something");
        let adapted = workshop.score("adapter", PROBE, &["--base", "model"]);
        assert!(relative(&adapted, &expected) < 1e-5, "{changes:?}: {adapted:?}\n{expected:?}");
        // the base that the folder names is found from where the program runs
        assert_eq!(workshop.score("adapter", PROBE, &[]), adapted);
        workshop.json(&["merge", "adapter", "--out", "merged"]);
        let (merged, expected) =
            ["merged", "expected"].map(|name| read_tensors(&workshop.path(name).join("model.safetensors")).0).into();
        assert!(merged == expected, "{changes:?}: merged weights are rounded once, as by hand");
    }
}

#[test]
fn what_would_be_another_model_is_refused_by_name() {
    let tensors = factors(&[0, 1], QV);
    let changes = [
        ("bias", json!("lora_only")),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["experts"])),
        ("trainable_token_indices", json!([1])),
        ("exclude_modules", json!(["v_proj"])),
        ("layers_pattern", json!("blocks")),
        ("task_type", json!("SEQ_CLS")),
        ("lora_bias", json!(true)),
        ("a_key_of_tomorrow", json!(1)),
    ];
    for change in &changes {
        let workshop = workshop(std::slice::from_ref(change), &tensors);
        let named = format!("{}: ", change.0);
        workshop.refused(
            &["score", "adapter", "--text", "ab"],
            1,
            &["adapter/adapter_config.json: 1 problem to mend", &named],
        );
    }
    let workshop = workshop(&changes, &tensors);
    let named: Vec<String> = changes.iter().map(|(key, _)| format!("\n{key}: ")).collect();
    let needles: Vec<&str> = named.iter().map(String::as_str).chain(["11 problems to mend"]).collect();
    workshop.refused(&["merge", "adapter", "--out", "merged"], 1, &needles);
}

#[test]
fn unknown_types_and_broken_configurations_are_refused() {
    let tensors = factors(&[0, 1], QV);
    let refused = |change: Change, needles: &[&str]| {
        workshop(&[change], &tensors).refused(&["score", "adapter", "--text", "ab"], 1, needles)
    };
    refused(("peft_type", json!("LORAX")), &["1 problem to mend", "`LORAX` is not one of", "did you mean `LORA`?"]);
    refused(("peft_type", json!("")), &["peft_type"]);
    refused(("peft_type", Value::Null), &["peft_type: missing"]);
    refused(("r", json!(0)), &["r: must be at least 1"]);
    refused(("r", json!(8)), &["lora_A.weight: expected [8, 64], found [4, 64]"]);
    refused(("target_modules", json!(["q_proj", "v_proj", "k_proj"])), &["4 missing", "k_proj.lora_A.weight"]);
    refused(("target_modules", json!(["q_proj"])), &["4 surplus", "v_proj.lora_A.weight"]);
    let nowhere = workshop(&[("target_modules", json!(["query"]))], &tensors);
    nowhere.refused(
        &["score", "adapter", "--text", "ab"],
        2,
        &["adapter: 1 problem to mend", "no site is called `query`"],
    );
    let workshop = workshop(&[("base_model_name_or_path", json!("meta/none"))], &tensors);
    workshop.refused(
        &["score", "adapter", "--text", "ab"],
        1,
        &["the base model of adapter cannot be found at meta/none", "--base"],
    );
    workshop.write("adapter/adapter_config.json", "{ \"r\": 4,");
    workshop.refused(&["score", "adapter", "--text", "ab"], 1, &["adapter_config.json, line 1"]);
}

/// Keys that PEFT has had for years: nothing newer is written.
const SHARED_KEYS: [&str; 10] = [
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_type",
    "revision",
    "target_modules",
    "task_type",
];
const LORA_KEYS: [&str; 9] = [
    "alpha_pattern",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
];

/// Trains one step; the adapter's configuration (its text checked to be in PEFT's style) and tensors.
fn written(adapter: &str) -> (Map<String, Value>, Tensors) {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[adapter]));
    workshop.train("train.toml", "run", &["train.steps=1"]);
    let text = workshop.read("run/adapter/adapter_config.json");
    let top: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next()).collect();
    assert!(top.is_sorted() && top.len() > 10, "sorted keys, two spaces: {text}");
    let (tensors, metadata) = read_tensors(&workshop.path("run/adapter/adapter_model.safetensors"));
    assert_eq!(metadata, json!({ "format": "pt" }));
    let map = workshop.read_json("run/adapter/adapter_config.json");
    assert_eq!(map["base_model_name_or_path"], json!(workshop.path("model")));
    (map, tensors)
}

fn keys(map: &Map<String, Value>) -> BTreeSet<&str> {
    map.keys().map(String::as_str).collect()
}

#[test]
fn a_written_lora_folder_has_pefts_keys_names_and_shapes() {
    let (map, tensors) = written(LORA);
    assert_eq!(keys(&map), SHARED_KEYS.into_iter().chain(LORA_KEYS).collect());
    // every key that PEFT writes too has the value PEFT wrote for the same settings
    let peft: Map<String, Value> = serde_json::from_str(WRITTEN_BY_PEFT).expect("PEFT's text");
    for (key, value) in
        map.iter().filter(|(key, _)| !["base_model_name_or_path", "target_modules"].contains(&key.as_str()))
    {
        assert_eq!(value, &peft[key], "{key}");
    }
    assert_eq!(map["target_modules"], json!(["q_proj", "v_proj"]));
    let expected = factors(&[0, 1], QV);
    let shapes = |tensors: &Tensors| {
        tensors.iter().map(|(name, t)| (name.clone(), t.dtype.clone(), t.shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&tensors), shapes(&expected));
}

#[test]
fn a_written_quanta_folder_has_both_circuits_and_its_plan() {
    let (map, tensors) = written(QUANTA);
    let own = ["dims", "dropout", "dtype", "init", "plan", "quanta_format"];
    assert_eq!(keys(&map), SHARED_KEYS.into_iter().chain(own).collect());
    assert_eq!([&map["peft_type"], &map["dtype"]], ["QUANTA", "float32"]);
    assert_eq!([&map["dims"], &map["plan"], &map["quanta_format"]], [&json!([4, 4, 4]), &json!("4-4-4"), &json!(1)]);
    let mut names = BTreeSet::new();
    for (layer, module, circuit, gate) in (0..2).flat_map(|l| {
        QV.iter().flat_map(move |m| ["S", "T"].into_iter().flat_map(move |c| (0..3).map(move |g| (l, m, c, g))))
    }) {
        names.insert(format!("base_model.model.model.layers.{layer}.{module}.quanta_{circuit}.{gate}"));
    }
    assert_eq!(tensors.keys().cloned().collect::<BTreeSet<_>>(), names);
    assert!(tensors.values().all(|tensor| tensor.dtype == "F32" && tensor.shape == [4, 4, 4, 4]));
}
