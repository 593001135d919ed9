//! `quanta report` on run folders that training wrote, and `quanta info`.

use serde_json::Value;

use super::fixture::{LORA, QUANTA, Workshop, config};

/// A workshop with two runs.
fn two_runs() -> Workshop {
    let workshop = Workshop::new();
    for (adapter, run) in [(QUANTA, "runs/quanta"), (LORA, "runs/lora")] {
        workshop.write("train.toml", config(&[adapter]));
        workshop.train("train.toml", run, &[]);
    }
    workshop
}

#[test]
fn one_run_gets_its_report_into_its_folder() {
    let workshop = two_runs();
    let before = workshop.files("");
    assert_eq!(workshop.run(&["report", "runs/quanta"]).trim(), "runs/quanta/report.html");
    let page = workshop.read("runs/quanta/report.html");
    // queries and values of two layers, three gates of 16 x 16 each
    for text in [
        "<h1>quanta</h1>",
        "1 run on model with sums.jsonl, task jsonl",
        "Training loss",
        "Validation loss",
        "12 steps",
        "3,072 = ",
        "Complete configuration of quanta",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(workshop.run(&["report", "runs/quanta/"]).trim(), "runs/quanta/report.html");
    assert_eq!(workshop.read("runs/quanta/report.html"), page, "the same run, the same page");
    let mut after = workshop.files("");
    after.remove("runs/quanta/report.html");
    assert!(after == before, "nothing else is written");
}

#[test]
fn several_runs_are_drawn_over_each_other() {
    let workshop = two_runs();
    workshop.refused(&["report", "runs/quanta", "runs/lora"], 2, &["--out"]);
    workshop.run(&["report", "runs/quanta", "runs/lora", "--out", "both.html"]);
    let page = workshop.read("both.html");
    assert!(page.contains("<h1>quanta, lora</h1>") && page.contains("2 runs on model"), "{page}");
    assert_eq!(page.matches("class=\"tone-0\"").count(), page.matches("class=\"tone-1\"").count());
    // the numbers of the page are those of the log
    for run in ["quanta", "lora"] {
        let log = workshop.read(&format!("runs/{run}/metrics.jsonl"));
        let mut lines = log.lines().map(|line| serde_json::from_str(line).expect("an object"));
        let best = lines.rfind(|line: &Value| line["best"] == true).expect("a best validation");
        let loss = best["eval_loss"].as_f64().expect("a number");
        assert!(page.contains(&format!(">{loss:.4}</td>")), "{loss} of {run}: {page}");
    }
    // a run that is still going, seen in the middle of a line; a base model that has moved away
    let log = workshop.read("runs/lora/metrics.jsonl");
    workshop.write("runs/lora/metrics.jsonl", &log[..log.len() - 20]);
    std::fs::rename(workshop.path("model"), workshop.path("elsewhere")).expect("a rename");
    workshop.run(&["report", "runs/quanta", "runs/lora", "--out", "both.html"]);
    assert!(!workshop.read("both.html").contains("Trainable"));
}

#[test]
fn what_is_no_run_or_no_report_is_refused() {
    let workshop = two_runs();
    workshop.write("notes.html", "<p>mine");
    workshop.refused(
        &["report", "runs/quanta", "--out", "notes.html"],
        1,
        &["notes.html exists", "choose another file"],
    );
    workshop.refused(&["report", "runs/quanta", "--out", "runs"], 1, &["runs exists"]);
    workshop.refused(&["report", "model"], 1, &["model is not a run folder", "config.toml"]);
    workshop.refused(&["report", "absent"], 1, &["absent is not a run folder"]);
    workshop.refused(&["report", "runs/quanta", "--out", "no/such/folder.html"], 1, &["no/such/folder.html"]);
    workshop.refused(&["report"], 2, &["RUN_DIR"]);
    let log = workshop.read("runs/lora/metrics.jsonl");
    workshop.write("runs/lora/metrics.jsonl", format!("{{\"step\": 1}}\n{log}"));
    workshop.refused(&["report", "runs/lora"], 1, &["metrics.jsonl, line 1", "neither a step"]);
}

#[test]
fn the_machine_is_described() {
    let workshop = Workshop::empty();
    let info = workshop.json(&["info"]);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["threads"].as_u64().is_some_and(|threads| threads > 0));
    let text = workshop.run(&["info"]);
    for key in ["circuit_kernel", "product_kernel", "bf16_product_kernel", "architecture", "system"] {
        let word = info[key].as_str().expect("a text");
        assert!(!word.is_empty() && text.contains(word), "{key}: {text}");
    }
}
