//! `train.products = "rounded"`: where it may stand, that it is done, and that a run keeps it.

use serde_json::Value;

use crate::fixture::{QUANTA, Workshop, config};

/// Trains with rounded rows in plain code, which every machine has, or with exact ones; the summary.
fn train(workshop: &Workshop, out: &str, products: &str) -> Value {
    let set = format!("train.products={products}");
    let arguments = ["train", "bf16.toml", "--out", out, "--json", "--set", &set, "--set", "train.batch=12"];
    let output = workshop.start_with(&[("QUANTA_BF16_PRODUCTS", "portable")], &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a summary")
}

#[test]
fn rows_are_rounded_where_that_is_asked_for() {
    let workshop = Workshop::new();
    let text = config(&[QUANTA]);
    workshop.write("bf16.toml", text.replace("[model]", "[model]\ndtype = \"bf16\""));
    let [exact, rounded, again] =
        [("exact", "exact"), ("rounded", "rounded"), ("again", "rounded")].map(|(out, products)| {
            train(&workshop, out, products);
            let lines = workshop.read(&format!("{out}/metrics.jsonl"));
            let losses = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["loss"].as_f64());
            losses.collect::<Vec<f64>>()
        });
    assert_eq!(rounded, again, "the same bits every time");
    let apart = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
    assert!(exact.len() >= 12 && apart > 1e-7 && apart < 2e-2, "{apart}: {exact:?} {rounded:?}");
    assert!(workshop.read("rounded/config.toml").contains("products = \"rounded\""));
    assert!(workshop.read("exact/config.toml").contains("products = \"exact\""));
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
    workshop.refused_training(&text, 2, &["train.products", "model.dtype = \"bf16\""]);
    workshop.refused(&["bench", "gemm", "--rounded"], 1, &["--dtype bf16"]);
}
