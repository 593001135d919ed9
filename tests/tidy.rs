//! The habits of the house, checked: import order of the rooms, heads and length of files, where unsafe may stand, who may be named where, and that format,
//! lints and documentation are clean.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Rooms of the library, lowest first: a room imports only from rooms before it.
const ROOMS: [&str; 13] = [
    "config",
    "tensor",
    "weights",
    "hub",
    "ops",
    "adapter",
    "model",
    "data",
    "checkpoint",
    "eval",
    "train",
    "analysis",
    "run",
];

/// Longest file, in lines.
const LONGEST: usize = 500;

/// Longest function, in lines.
const LONGEST_FUNCTION: usize = 70;

/// Where unsafe code may stand besides the circuit's kernels.
const UNSAFE_FILES: [&str; 9] = [
    "tune/src/tensor/arena.rs",
    "tune/src/tensor/block.rs",
    "tune/src/tensor/few_rows.rs",
    "tune/src/tensor/gemm.rs",
    "tune/src/tensor/pack.rs",
    "tune/src/tensor/panels.rs",
    "tune/src/tensor/small.rs",
    "tune/src/tensor/vector.rs",
    "tune/src/weights/mmap.rs",
];

/// Names that may stand in one room alone, as code spells them: string constants or type paths.
const NAMES: [(&str, &[&str]); 3] = [
    (
        "tune/src/adapter/",
        &[
            "\"quanta\"",
            "\"lora\"",
            "\"full\"",
            "\"dora\"",
            "\"mora\"",
            "\"krona\"",
            "\"loha\"",
            "\"miss\"",
            "\"loretta-rep\"",
            "\"loretta-adp\"",
            "\"series\"",
            "\"parallel\"",
            "\"prefix\"",
            "\"LOKR\"",
            "\"PREFIX_TUNING\"",
            "\"QUANTA\"",
            "\"LORA\"",
            "\"FULL\"",
            "Method::Quanta",
            "Method::Lora",
            "Method::Full",
        ],
    ),
    (
        "tune/src/model/family/",
        &["\"llama\"", "\"mistral\"", "\"qwen2\"", "\"qwen3\"", "\"gemma2\"", "\"gemma3_text\"", "\"roberta\""],
    ),
    (
        "tune/src/data/task/",
        &[
            "jsonl::",
            "text::TASK",
            "drop::TASK",
            "commonsense::",
            "math::TASK",
            "messages::",
            "glue::",
            "\"jsonl\"",
            "\"drop\"",
            "\"commonsense\"",
            "\"messages\"",
            "\"rte\"",
            "\"sst2\"",
            "\"mrpc\"",
            "\"cola\"",
            "\"stsb\"",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// All Rust files of the workspace with their path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["circuit", "tune", "cli", "tests"].map(|part| root().join(part)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                files.push((name, text));
            }
        }
    }
    assert!(files.len() > 50, "the walk found the sources");
    files
}

/// Fails with every complaint there is.
fn report(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Code without comments and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let body = text.split("#[cfg(test)]").next().unwrap_or(text);
    body.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn rooms_import_only_from_lower_rooms() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let Some(room) = name.strip_prefix("tune/src/").and_then(|rest| rest.split(['/', '.']).next()) else {
            continue;
        };
        let Some(height) = ROOMS.iter().position(|known| *known == room) else {
            assert_eq!(room, "lib", "{name} lies in a room that the order does not know");
            continue;
        };
        let body: String = code(&text).collect::<Vec<_>>().join(" ").split_whitespace().collect();
        for above in &ROOMS[height + 1..] {
            // `crate::run::x`, `crate::run;` and `crate::{run::x}` alike
            let direct = [":", ";", ","].iter().any(|end| body.contains(&format!("crate::{above}{end}")));
            let grouped = body.split("crate::{").skip(1).any(|group| {
                let group = group.split(';').next().unwrap_or_default();
                group.split([',', '{', '}']).any(|item| item == *above || item.starts_with(&format!("{above}::")))
            });
            if direct || grouped {
                complaints.push(format!("{name}: {room} imports from {above}"));
            }
        }
    }
    report(complaints);
}

#[test]
fn the_circuit_stands_alone_and_only_the_program_talks() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let forbidden: &[&str] = match name.split('/').next() {
            Some("circuit") if name.starts_with("circuit/src") => {
                &["quanta_tune", "std::fs", "serde", "println!", "eprintln!"]
            }
            Some("tune") if name.starts_with("tune/src") => &["clap::", "anyhow::", "println!", "eprintln!", "stdout("],
            _ => &[],
        };
        for line in code(&text) {
            complaints.extend(
                forbidden
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{name}: {word}: {}", line.trim())),
            );
        }
    }
    report(complaints);
}

#[test]
fn files_say_what_they_are_and_stay_small() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//! ") {
            complaints.push(format!("{name}: the first line is to say what the file is (//!)"));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            complaints.push(format!("{name}: {lines} lines; split it by ideas below {LONGEST}"));
        }
        let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["utils", "util", "common", "helpers", "manager", "misc"].contains(&stem.as_str()) {
            complaints.push(format!("{name}: name the idea, not the drawer"));
        }
    }
    report(complaints);
}

#[test]
fn functions_stay_short() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ");
            if !head.starts_with("fn ") && !head.starts_with(concat!("unsafe", " fn "))
                || line.trim_end().ends_with(';')
            {
                continue;
            }
            // formatted code closes a function at the indentation it opened with
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |end| end + 1);
            if length > LONGEST_FUNCTION {
                complaints.push(format!("{name}:{}: {length} lines in one function", start + 1));
            }
        }
    }
    report(complaints);
}

#[test]
fn unsafe_stands_only_in_kernel_files() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let allowed = name.starts_with("circuit/src/kernel/") || UNSAFE_FILES.contains(&name.as_str());
        let uses =
            text.lines().any(|line| line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " fn")));
        if uses && !allowed {
            complaints.push(format!("{name}: holds unsafe code and is no kernel file"));
        }
    }
    report(complaints);
}

#[test]
fn methods_families_and_tasks_are_named_only_in_their_rooms() {
    let mut complaints = Vec::new();
    for (name, text) in
        sources().into_iter().filter(|(name, _)| name.starts_with("tune/src") || name.starts_with("cli/src"))
    {
        for (home, words) in NAMES.iter().filter(|(home, _)| !name.starts_with(home)) {
            for line in code(&text) {
                complaints.extend(
                    words
                        .iter()
                        .filter(|word| line.contains(**word))
                        .map(|word| format!("{name}: {word} belongs to {home}: {}", line.trim())),
                );
            }
        }
    }
    report(complaints);
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) {
    // a build folder of its own: the one of the running test is in use
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("tidy");
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target)
        .envs(environment.iter().copied())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo {}:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn format_is_clean() {
    cargo(&["fmt", "--all", "--check"], &[]);
}

#[test]
fn lints_and_documentation_are_clean() {
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[]);
    cargo(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")]);
}
