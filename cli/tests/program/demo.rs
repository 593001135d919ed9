//! `quanta demo`: its data, its embedded model, and, where `QUANTA_DEMO_SEEDS` asks for some seeds, what it promises of its scores.

use std::path::Path;

use serde_json::Value;

use crate::fixture::Workshop;

#[test]
fn data_is_a_function_of_the_seed() {
    let workshop = Workshop::empty();
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        workshop.run(&["demo", "--corpus", "20", "--out", out, "--seed", seed]);
    }
    let names = ["corpus.jsonl", "corpus.txt", "dev.jsonl", "test.jsonl", "train.jsonl"];
    assert_eq!(workshop.names("a"), names);
    assert!(workshop.files("a") == workshop.files("b"));
    for name in names {
        assert_ne!(workshop.read(&format!("a/{name}")), workshop.read(&format!("c/{name}")), "{name}");
    }
    let row: Value = serde_json::from_str(workshop.read("a/test.jsonl").lines().next().unwrap()).unwrap();
    for key in ["passage", "question", "answer", "answers"] {
        assert!(row[key].is_string() || row[key].is_array(), "{key}: {row}");
    }
}

#[test]
fn the_embedded_model_is_small_and_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tune/demo/base");
    let sizes = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= 6 << 20, "{} is more than 6 MiB", folder.display());
    let workshop = Workshop::empty();
    let folder = folder.display().to_string();
    // a sentence of its world is far likelier to it than one of others
    let loss = |text: &str| workshop.json(&["score", &folder, "--text", text])["mean_loss"].as_f64().unwrap();
    let (known, strange) = (loss(" The market of Oslo was open."), loss(" The sonnet of jazz was blue."));
    assert!(known < 1.5 && strange > known + 1.0, "{known} and {strange}");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let workshop = Workshop::empty();
    workshop.write("mine/notes.txt", "mine");
    workshop.refused(&["demo", "--out", "mine"], 1, &["mine"]);
}

#[test]
fn scores_are_as_promised_for_every_seed_asked_for() {
    let seeds: u64 = std::env::var("QUANTA_DEMO_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in 1..=seeds {
        let workshop = Workshop::empty();
        let report = workshop.json(&["demo", "--out", "out", "--seed", &seed.to_string()]);
        let rows = report["rows"].as_array().unwrap();
        let f1 = |row: &Value| row["metrics"]["f1"].as_f64().unwrap();
        let [base, quanta, lora] = &rows[..] else { panic!("{report}") };
        assert!(f1(base) <= 0.20 && f1(quanta) >= 0.70, "seed {seed}: {report}");
        assert!(quanta["trainable"].as_u64() <= lora["trainable"].as_u64(), "{report}");
        assert!(workshop.read("out/report.html").contains("</html>"));
    }
}
