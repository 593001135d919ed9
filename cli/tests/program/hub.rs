//! Models of the hub by name, from a cache and without a network: the whole path, and what a run remembers. Fetching is tested beside `hub`.

use serde_json::Value;

use super::fixture::{LORA, Workshop, config};

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A workshop whose model lies in the cache as `org/tiny`.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    workshop.add_model("llama", &format!("cache/models--org--tiny/snapshots/{COMMIT}"));
    workshop.write("cache/models--org--tiny/refs/main", COMMIT);
    workshop.write("train.toml", config(&[LORA]).replace("path = \"model\"", "path = \"hub:org/tiny\""));
    workshop
}

#[test]
fn a_model_in_the_cache_is_trained_scored_and_merged_by_its_name() {
    let workshop = workshop();
    let tokens = "1,22,14,23,32,20";
    assert_eq!(workshop.score("hub:org/tiny", tokens, &[]), workshop.score("model", tokens, &[]));
    assert!(workshop.run(&["plan", "train.toml"]).contains("llama"));
    workshop.train("train.toml", "run", &[]);
    assert!(workshop.read("run/config.toml").contains(&format!("path = \"hub:org/tiny@{COMMIT}\"")));
    let adapter = workshop.read_json("run/adapter/adapter_config.json");
    assert_eq!(adapter["base_model_name_or_path"], Value::from("org/tiny"));
    let run = workshop.score("run", tokens, &[]);
    assert_eq!(workshop.score("run/adapter", tokens, &[]), run);
    assert_eq!(workshop.score("run/adapter", tokens, &["--base", &format!("hub:org/tiny@{COMMIT}")]), run);
    // the commit counts, not what the branch is at now
    workshop.write("cache/models--org--tiny/refs/main", "0".repeat(40));
    assert_eq!(workshop.score("run", tokens, &[]), run);
    workshop.run(&["merge", "run", "--out", "merged"]);
    assert!(workshop.names("merged").contains(&"model.safetensors".to_owned()));
}

#[test]
fn without_a_network_what_is_missing_is_listed() {
    let workshop = workshop();
    let missing = ["HF_HUB_OFFLINE", "hub:org/other", "config.json, model.safetensors are missing"];
    workshop.refused(&["score", "hub:org/other", "--text", "a"], 1, &missing);
    let other = config(&[LORA]).replace("path = \"model\"", "path = \"hub:org/other@v2\"");
    workshop.refused_training(&other, 1, &["hub:org/other@v2"]);
    std::fs::remove_file(workshop.path(&format!("cache/models--org--tiny/snapshots/{COMMIT}/model.safetensors")))
        .unwrap();
    workshop.refused(&["score", "hub:org/tiny", "--text", "a"], 1, &["model.safetensors is missing"]);
    assert!(workshop.run(&["plan", "train.toml"]).contains("llama"), "planning takes no weights");
    workshop.refused(&["score", "hub:org", "--base", "hub:a/b/c", "--text", "a"], 1, &["hub:org"]);
    workshop.refused(&["score", "hub:../x", "--text", "a"], 2, &["names no model", "hub:org/name"]);
}
