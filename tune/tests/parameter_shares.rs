//! The trainable shares that the paper prints in Tables 2, 3, 4, F.5, F.6 and F.7, counted by planning each row's configuration for a bare `config.json`.
//!
//! `testdata/paper/parameter_shares.json` holds the rows: what the paper prints, the configuration, the count that the definitions give, and, where the two
//! disagree, why. Left to others: whether a method's count is that of its parameters (`laws.rs`).

use std::path::{Path, PathBuf};

use quanta_tune::run::{RunConfig, plan};
use serde_json::Value;

fn paper() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/paper")
}

fn rows() -> Vec<Value> {
    let facts: Value = serde_json::from_slice(&std::fs::read(paper().join("parameter_shares.json")).unwrap()).unwrap();
    facts["rows"].as_array().unwrap().clone()
}

#[test]
fn every_row_counts_what_its_definition_says_and_agrees_with_the_paper_or_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (mut complaints, mut counted) = (Vec::new(), 0);
    for row in rows() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let label = format!("table {}, {}, {}", text("table"), text("model"), text("method"));
        let Some(entries) = row["entries"].as_str() else {
            // what the paper says too little of has a note instead
            assert!(row["note"].is_string(), "{label}: neither entries nor a note");
            continue;
        };
        let model = paper().join("models").join(text("model"));
        let path = folder.path().join("quanta.toml");
        std::fs::write(&path, format!("[model]\npath = {:?}\n{entries}", model.display().to_string())).unwrap();
        let report = match RunConfig::read(&path, &[]).and_then(|config| plan(&config)) {
            Ok(report) => report,
            Err(error) => {
                complaints.push(format!("{label}: {error}"));
                continue;
            }
        };
        counted += 1;
        let expected = row["trainable"].as_u64().unwrap() as usize;
        if report.trainable() != expected {
            complaints.push(format!("{label}: {} parameters instead of {expected}", report.trainable()));
        }
        let share = if text("of") == "base" { report.percent_of_base() } else { report.percent_of_total() };
        let printed = text("printed_percent");
        let digits = printed.split_once('.').map_or(0, |(_, digits)| digits.len());
        let agrees = format!("{share:.digits$}") == printed;
        if agrees != row["agrees"].as_bool().unwrap() || !(agrees || row["note"].is_string()) {
            complaints
                .push(format!("{label}: {share:.4} % against {printed} %, agrees {agrees}, note {}", row["note"]));
        }
    }
    assert!(counted >= 60, "{counted} rows were counted");
    assert!(complaints.is_empty(), "{} rows:\n{}", complaints.len(), complaints.join("\n"));
}
