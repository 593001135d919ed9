//! Runs that are killed, interrupted or begun from something else: what is left is what an uninterrupted run would have left.
//!
//! `QUANTA_KILLS` sets how often a run is killed at an arbitrary instant; a few times by default.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::{LORA, QUANTA, Workshop, config, sums};

/// A run of 60 steps with a checkpoint after every third and a validation after every fifth, so that the two do not fall together.
fn long(workshop: &Workshop, adapters: &[&str]) {
    let text = config(adapters).replace(
        "steps = 12\neval_every = 4",
        "steps = 60\neval_every = 5\ncheckpoint_every = 3\nkeep_checkpoints = 2",
    );
    workshop.write("long.toml", text.replace("type = \"quanta\"", "type = \"quanta\"\ndropout = 0.1"));
}

fn spawn(workshop: &Workshop, out: &str, threads: usize) -> Child {
    let threads = format!("train.threads={threads}");
    let arguments = ["train", "long.toml", "--resume", "--out", out, "--set", &threads];
    Command::new(env!("CARGO_BIN_EXE_quanta"))
        .args(arguments)
        .current_dir(workshop.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Everything a run leaves, but for times: the event file's name and content, speeds, seconds, and the number of threads.
fn left(workshop: &Workshop, out: &str) -> BTreeMap<String, Vec<u8>> {
    let files = workshop.files(out).into_iter().filter(|(name, _)| !name.contains("tfevents"));
    let timeless = |(name, bytes): (String, Vec<u8>)| {
        let kept = match name.rsplit('/').next() {
            Some("metrics.jsonl") => {
                String::from_utf8(bytes).unwrap().lines().map(without_times).collect::<String>().into()
            }
            Some("state.json") => without_times(&String::from_utf8(bytes).unwrap()).into_bytes(),
            Some("config.toml") => {
                let text = String::from_utf8(bytes).unwrap();
                text.lines().filter(|line| !line.starts_with("threads")).collect::<String>().into_bytes()
            }
            _ => bytes,
        };
        (name, kept)
    };
    files.map(timeless).collect()
}

fn without_times(line: &str) -> String {
    let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    for key in ["tokens_per_second", "seconds"] {
        value.as_object_mut().unwrap().remove(key);
    }
    if let Some(state) = value.get_mut("state") {
        state.as_object_mut().unwrap().remove("seconds");
    }
    format!("{value}\n")
}

/// A small generator for instants: which they are does not matter, but that they differ.
fn instants(count: usize, longest: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |index| longest.mul_f64(((index * 37 + 11) % 101) as f64 / 101.0))
}

#[test]
fn a_run_killed_at_any_instant_ends_as_if_it_had_not_been() {
    let kills: usize = std::env::var("QUANTA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for (threads, adapters, packing) in [(1, &[QUANTA][..], ""), (2, &[QUANTA, LORA], "batch_tokens = 15\n")] {
        let workshop = Workshop::new();
        long(&workshop, adapters);
        workshop.write("long.toml", workshop.read("long.toml") + packing);
        let clock = Instant::now();
        assert!(spawn(&workshop, "whole", threads).wait().unwrap().success());
        let expected = left(&workshop, "whole");
        let mut instants = instants(kills, clock.elapsed().mul_f64(1.2)).peekable();
        let mut survived = 0;
        // a run that ends before its instant is begun anew elsewhere, until all instants are used up
        for attempt in 0.. {
            let out = format!("killed{attempt}");
            for instant in instants.by_ref() {
                let mut child = spawn(&workshop, &out, threads);
                std::thread::sleep(instant);
                child.kill().unwrap();
                survived += usize::from(!child.wait().unwrap().success());
                if workshop.path(&format!("{out}/checkpoints/step-60")).exists() {
                    break;
                }
            }
            assert!(spawn(&workshop, &out, threads).wait().unwrap().success(), "the last part of {out}");
            let got = left(&workshop, &out);
            assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{out}");
            for (name, bytes) in &expected {
                assert!(got[name] == *bytes, "{out}/{name} differs");
            }
            if instants.peek().is_none() {
                break;
            }
        }
        assert!(survived > 0 || kills == 0, "no run was killed before its end");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_run_with_a_checkpoint_and_no_error() {
    let workshop = Workshop::new();
    long(&workshop, &[QUANTA]);
    workshop.write("sums.jsonl", sums(400));
    let mut child = spawn(&workshop, "run", 1);
    // the first checkpoint says that the loop is under way
    let clock = Instant::now();
    while !workshop.path("run/checkpoints").exists() && clock.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(child.wait().unwrap().success(), "an interrupt is no failure");
    let checkpoints = workshop.names("run/checkpoints");
    assert!(checkpoints.iter().any(|name| name.ends_with("state.json")), "{checkpoints:?}");
    assert!(workshop.names("run").iter().all(|name| !name.contains(".tmp")));
    assert!(spawn(&workshop, "run", 1).wait().unwrap().success());
    assert!(spawn(&workshop, "whole", 1).wait().unwrap().success());
    assert!(left(&workshop, "run") == left(&workshop, "whole"));
}

#[test]
fn only_the_same_run_is_continued() {
    let workshop = Workshop::new();
    workshop.write("run.toml", config(&[QUANTA]));
    workshop.train("run.toml", "run", &[]);
    workshop.refused(
        &["train", "run.toml", "--out", "run", "--resume", "--set", "train.lr=1e-3"],
        1,
        &["another configuration", "`lr = 0.01`", "`lr = 0.001`"],
    );
    workshop.write("other/notes.txt", "mine");
    workshop.refused(&["train", "run.toml", "--out", "other", "--resume"], 1, &["not a run folder"]);
    workshop.refused(&["train", "run.toml", "--out", "run"], 1, &["run"]);
    let before = left(&workshop, "run");
    let again = workshop.json(&["train", "run.toml", "--out", "run", "--resume"]);
    assert_eq!(again["steps"], 12);
    assert!(left(&workshop, "run") == before, "a finished run stays as it is");
    workshop.write("run/checkpoints/step-12/state.json", "{\"format\": 9, \"step\": 12}");
    workshop.refused(&["train", "run.toml", "--out", "run", "--resume"], 1, &["format", "newer"]);
}

#[test]
fn training_starts_from_the_values_of_another_run() {
    let workshop = Workshop::new();
    workshop.write("run.toml", config(&[QUANTA]));
    workshop.train("run.toml", "first", &[]);
    let on = workshop.train("run.toml", "second", &["train.init_from=first"]);
    let fresh = workshop.train("run.toml", "third", &[]);
    let start = |summary: &Value| summary["start_eval_loss"].as_f64().unwrap();
    let best = |summary: &Value| summary["best_eval_loss"].as_f64().unwrap();
    assert!((start(&on) - best(&fresh)).abs() < 1e-6, "{on} does not start where the first ended: {fresh}");
    workshop.write("lora.toml", config(&[LORA]));
    let refused = ["train", "lora.toml", "--out", "fourth", "--set", "train.init_from=first"];
    workshop.refused(&refused, 1, &["values to start from are of quanta", "choose another adapter"]);
}

#[test]
fn a_run_without_progress_ends_early() {
    let workshop = Workshop::new();
    workshop.write("run.toml", config(&[LORA]).replace("lr = 1e-2", "lr = 0.0"));
    let summary = workshop.train("run.toml", "run", &["train.steps=100", "train.eval_every=2", "train.patience=3"]);
    // the first validation is the best there can be, three more say nothing new
    assert_eq!((&summary["steps"], &summary["best_step"]), (&8.into(), &2.into()));
}

#[test]
fn a_dry_run_takes_one_step_and_writes_nothing() {
    let workshop = Workshop::new();
    workshop.write("run.toml", config(&[QUANTA]));
    let before = workshop.files("");
    let report = workshop.json(&["train", "run.toml", "--dry-run"]);
    assert!(report["loss"].as_f64().unwrap() > 0.0 && report["tokens"].as_u64().unwrap() > 0, "{report}");
    assert!(report["estimated_bytes"].as_u64().unwrap() > 0);
    assert!(workshop.run(&["train", "run.toml", "--dry-run"]).contains("nothing was written"));
    assert!(workshop.files("") == before);
}
