//! `train.products = "rounded"`: where it may stand, that it is done, and that a run keeps it.

use serde_json::Value;

use crate::fixture::{QUANTA, Workshop, config};

/// Trains with rounded rows in plain code, which every machine has, or with exact ones; the losses.
fn train(workshop: &Workshop, out: &str, products: &str) -> Vec<f64> {
    let set = format!("train.products={products}");
    let arguments = ["train", "bf16.toml", "--out", out, "--set", &set, "--set", "train.batch=12"];
    let output = workshop.start_with(&[("QUANTA_BF16_PRODUCTS", "portable")], &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = workshop.read(&format!("{out}/metrics.jsonl"));
    lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["loss"].as_f64()).collect()
}

#[test]
fn rows_are_rounded_where_that_is_asked_for() {
    let workshop = Workshop::new();
    workshop.write("bf16.toml", config(&[QUANTA]).replace("[model]", "[model]\ndtype = \"bf16\""));
    let (exact, rounded) = (train(&workshop, "exact", "exact"), train(&workshop, "rounded", "rounded"));
    assert_eq!(rounded, train(&workshop, "again", "rounded"), "the same bits every time");
    assert_eq!((exact.len(), rounded.len()), (12, 12));
    let apart = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
    assert!(apart > 1e-7 && apart < 2e-2, "{apart}: {exact:?} {rounded:?}");
    assert!(workshop.read("rounded/config.toml").contains("products = \"rounded\""));
    // a run from before the key was there says nothing of it, and is continued
    assert!(!workshop.read("exact/config.toml").contains("products"));
    let resumed = ["train", "bf16.toml", "--out", "rounded", "--resume", "--set", "train.batch=12"];
    workshop.refused(&resumed, 1, &["another configuration", "products = \"rounded\""]);
}

#[test]
fn weights_in_f32_are_refused() {
    let workshop = Workshop::new();
    let text = config(&[QUANTA]).replace("[train]", "[train]\nproducts = \"rounded\"");
    for dtype in ["f32", "f64"] {
        let text = text.replace("[model]", &format!("[model]\ndtype = \"{dtype}\""));
        workshop.refused_training(&text, 2, &["train.products", "model.dtype = \"bf16\""]);
    }
    // `auto` holds what the folder has, which is f32 here
    workshop.write("auto.toml", text);
    let arguments = ["train", "auto.toml", "--out", "runs/auto"];
    let output = workshop.start_with(&[("QUANTA_BF16_PRODUCTS", "portable")], &arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && message.contains("model.dtype = \"bf16\""), "{message}");
    assert!(!workshop.path("runs").exists());
    workshop.refused(&["bench", "gemm", "--rounded"], 2, &["--dtype bf16"]);
}
