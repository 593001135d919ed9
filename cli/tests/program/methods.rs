//! Every method from the command line: the table, a short training, what can be merged merged and what cannot refused, export, several adapters at once.
//!
//! The suite takes the names from `quanta methods` and knows only which keys a small site needs.

use serde_json::Value;

use super::fixture::{LORA, QUANTA, Workshop, config, relative};

const PROBE: &str = "1,22,14,23,32,20,24,2,50,60,70,80,90,5";

/// A config entry of a method at the fixture's sites of 64 features: its defaults but for sizes.
fn entry(name: &str) -> String {
    let keys = match name {
        "quanta" => "dims = \"auto\"",
        "mora" | "lora" | "dora" | "loha" | "miss" => "r = 2",
        "loretta-rep" => "r = 4\ntt_rank = 3",
        "loretta-adp" => "bottleneck = 8\ntt_rank = 3",
        "series" | "parallel" => "bottleneck = 8",
        "prefix" => return format!("type = \"{name}\"\nnum_virtual_tokens = 3\n"),
        _ => "",
    };
    format!("type = \"{name}\"\nsites = [\"q_proj\", \"v_proj\"]\n{keys}\n")
}

/// Trains the entries.
fn train(workshop: &Workshop, entries: &[&str], out: &str, overrides: &[&str]) {
    workshop.write("train.toml", config(entries));
    workshop.train("train.toml", out, overrides);
}

fn table(workshop: &Workshop) -> Vec<Value> {
    workshop.json(&["methods", "--site", "64x64"]).as_array().expect("a list").clone()
}

#[test]
fn the_table_says_what_each_method_is() {
    let workshop = Workshop::empty();
    let rows = table(&workshop);
    assert!(rows.len() >= 12, "{}", rows.len());
    for row in &rows {
        assert!(row["formula"].as_str().is_some_and(|formula| !formula.is_empty()), "{row}");
        assert!(row["mergeable"].is_boolean() && row["peft_compatible"].is_boolean(), "{row}");
    }
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    // rank 8 on 64 x 64, and a magnitude of 64
    assert_eq!((&of("lora")["parameters"], &of("dora")["parameters"]), (&Value::from(1024), &Value::from(1088)));
    assert_eq!(of("prefix")["parameters"], Value::Null);
    assert_eq!(
        (&of("series")["mergeable"], &of("krona")["peft_compatible"]),
        (&Value::from(false), &Value::from(true))
    );
    let text = workshop.run(&["methods"]);
    assert!(text.contains("merges") && text.contains("4096 inputs"), "{text}");
    workshop.refused(&["methods", "--site", "64"], 2, &["such as 4096x11008"]);
}

#[test]
fn every_method_trains_is_scored_and_merges_or_says_that_it_cannot() {
    let workshop = Workshop::new();
    for row in table(&workshop) {
        let name = row["name"].as_str().expect("a name");
        let (run, merged) = (format!("run-{name}"), format!("merged-{name}"));
        train(&workshop, &[&entry(name)], &run, &[]);
        let adapted = workshop.score(&run, PROBE, &[]);
        let base = workshop.score("model", PROBE, &[]);
        assert!(relative(&adapted, &base) > 1e-6, "{name}: training changed nothing");
        let adapter = format!("{run}/adapter");
        assert_eq!(workshop.score(&adapter, PROBE, &[]), adapted, "{name}: the adapter alone is something else");
        if row["mergeable"] == Value::Bool(true) {
            workshop.run(&["merge", &run, "--out", &merged, "--dtype", "f32"]);
            let error = relative(&workshop.score(&merged, PROBE, &[]), &adapted);
            assert!(error < 1e-4, "{name}: merged differs by {error:.1e}");
        } else {
            workshop.refused(&["merge", &run, "--out", &merged], 1, &[name, "cannot be merged or exported"]);
            assert!(!workshop.path(&merged).exists());
        }
    }
}

#[test]
fn a_stack_of_methods_on_one_site_is_merged_as_one() {
    let workshop = Workshop::new();
    let entries = ["quanta", "lora", "krona", "magnitude"].map(entry);
    train(&workshop, &entries.each_ref().map(String::as_str), "run", &[]);
    let adapted = workshop.score("run", PROBE, &[]);
    workshop.run(&["merge", "run", "--out", "merged", "--dtype", "f32"]);
    let error = relative(&workshop.score("merged", PROBE, &[]), &adapted);
    assert!(error < 1e-4, "{error:.1e}");
    let twice = config(&[&entry("dora"), &entry("magnitude")]);
    workshop.refused_training(&twice, 2, &["already has a magnitude, from adapter.0"]);
}

#[test]
fn an_exported_adapter_keeps_what_it_says() {
    let workshop = Workshop::new();
    train(&workshop, &[LORA], "lora", &[]);
    train(&workshop, &[QUANTA], "quanta", &[]);
    // an update of the rank asked for is kept whole
    let report = workshop.json(&["export", "lora", "--as", "lora", "--rank", "8", "--out", "same"]);
    assert!(report["kept"].as_f64().is_some_and(|kept| kept > 0.999_999), "{report}");
    let error = relative(&workshop.score("same", PROBE, &[]), &workshop.score("lora", PROBE, &[]));
    assert!(error < 1e-4, "{error:.1e}");
    let stored = workshop.read_json("same/adapter_config.json");
    assert_eq!((stored["peft_type"].as_str(), stored["r"].as_u64()), (Some("LORA"), Some(8)));
    // a circuit's update is of full rank: a low rank loses some, the full one nothing
    let kept = |rank: &str, out: &str| {
        let report = workshop.json(&["export", "quanta", "--as", "lora", "--rank", rank, "--out", out]);
        report["kept"].as_f64().expect("a share")
    };
    let (few, all) = (kept("4", "few"), kept("1000", "all"));
    assert!(few < 0.99 && few > 0.05 && all > 0.999_999, "{few} {all}");
    let error = relative(&workshop.score("all", PROBE, &[]), &workshop.score("quanta", PROBE, &[]));
    assert!(error < 1e-4, "{error:.1e}");
    workshop.refused(&["export", "quanta", "--as", "dora", "--rank", "4", "--out", "x"], 2, &["use lora"]);
    workshop.refused(&["export", "model", "--as", "lora", "--rank", "4", "--out", "x"], 2, &["without an adapter"]);
    workshop.refused(&["export", "quanta", "--as", "lora", "--rank", "4", "--out", "few"], 1, &["few"]);
}

#[test]
fn several_adapters_are_merged_with_their_factors() {
    let workshop = Workshop::new();
    train(&workshop, &[LORA], "a", &["train.seed=1"]);
    train(&workshop, &[QUANTA], "b", &["train.seed=2"]);
    let merge = |folders: &[&str], more: &[&str], out: &str| {
        workshop.run(&[&["merge"], folders, more, &["--dtype", "f32", "--out", out]].concat());
        super::fixture::read_tensors(&workshop.path(&format!("{out}/model.safetensors"))).0
    };
    let both = merge(&["a", "b"], &["--weights", "0.5,-2"], "both");
    let (a, b) = (merge(&["a"], &[], "only-a"), merge(&["b"], &[], "only-b"));
    let (base, _) = super::fixture::read_tensors(&workshop.path("model/model.safetensors"));
    let mut changed = 0;
    for (name, tensor) in &both {
        let (got, w0) = (tensor.values(), base[name].values());
        let expected: Vec<f64> = a[name]
            .values()
            .iter()
            .zip(b[name].values())
            .zip(&w0)
            .map(|((a, b), w)| {
                f64::from(*w) + 0.5 * (f64::from(*a) - f64::from(*w)) - 2.0 * (f64::from(b) - f64::from(*w))
            })
            .collect();
        let got: Vec<f64> = got.iter().map(|value| f64::from(*value)).collect();
        assert!(relative(&got, &expected) < 1e-6, "{name}");
        changed += usize::from(a[name].values() != w0);
    }
    assert!(changed > 0);
    // one after the other is the same as both at once where each counts once
    assert_eq!(merge(&["a", "b"], &[], "sum").len(), both.len());
    workshop.refused(&["merge", "a", "b", "--weights", "1", "--out", "x"], 2, &["1 numbers for 2 folders"]);
    workshop.add_model("qwen2", "other");
    train(&workshop, &[LORA], "c", &["model.path=other"]);
    workshop.refused(&["merge", "a", "c", "--out", "x"], 2, &["merge adapters of one base"]);
}
