//! A temporary folder with a small model, a tokenizer and data in it, the program started inside it, and a plain reader and writer of safetensors files
//! that shares no code with the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A temporary folder; every path given to it is relative to it, and the program runs in it.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A folder with the model `model` (from testdata, with a tokenizer) and 24 sums in `sums.jsonl`.
    pub fn new() -> Self {
        let workshop = Self::empty();
        workshop.add_model("llama", "model");
        workshop.write("sums.jsonl", sums(24));
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, making the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder above")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn read_json(&self, name: &str) -> Map<String, Value> {
        serde_json::from_str(&self.read(name)).expect("an object")
    }

    /// Copies a model folder of testdata to `name` and puts a tokenizer into it.
    pub fn add_model(&self, source: &str, name: &str) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/models").join(source);
        for entry in std::fs::read_dir(source).expect("testdata") {
            let entry = entry.expect("an entry");
            let file = entry.file_name().into_string().expect("a plain name");
            if !file.starts_with("golden") {
                self.write(&format!("{name}/{file}"), std::fs::read(entry.path()).expect("a file"));
            }
        }
        self.write(&format!("{name}/tokenizer.json"), tokenizer().to_string());
    }

    /// Every file below `name` with its content.
    pub fn files(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let (root, mut found, mut folders) = (self.path(name), BTreeMap::new(), vec![self.path(name)]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    // an empty folder is something left behind, too
                    found.insert(format!("{}/", path.strip_prefix(&root).expect("below").display()), Vec::new());
                    folders.push(path);
                } else {
                    let content = std::fs::read(&path).expect("a file");
                    found.insert(path.strip_prefix(&root).expect("below").display().to_string(), content);
                }
            }
        }
        found
    }

    /// Names of all files below `name`.
    pub fn names(&self, name: &str) -> Vec<String> {
        self.files(name).into_keys().filter(|name| !name.ends_with('/')).collect()
    }

    /// As [`Workshop::names`] of a run folder, without its event file, whose name is a time.
    pub fn run_names(&self, name: &str) -> Vec<String> {
        self.names(name).into_iter().filter(|name| !name.starts_with("tensorboard/")).collect()
    }

    /// Starts the program in the folder, with a hub cache of its own and without a network.
    pub fn start(&self, arguments: &[&str]) -> Output {
        self.start_with(&[], arguments)
    }

    /// [`Workshop::start`] with more variables in its environment.
    pub fn start_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quanta"));
        command.envs(variables.iter().copied());
        command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", self.path("cache"));
        command.args(arguments).current_dir(self.folder.path()).output().expect("the program starts")
    }

    /// Runs the program, which must succeed; its standard output.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.start(arguments);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{arguments:?}: {:?}\n{out}\n{err}", output.status);
        out
    }

    /// Runs the program with `--json`; the object it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// Trains `config` (a file) with overrides into `out`; the summary.
    pub fn train(&self, config: &str, out: &str, overrides: &[&str]) -> Value {
        let sets = overrides.iter().flat_map(|set| ["--set", *set]);
        let arguments: Vec<&str> = ["train", config, "--out", out].into_iter().chain(sets).collect();
        self.json(&arguments)
    }

    /// Log-probabilities of `tokens[1..]` as `folder` has them.
    pub fn score(&self, folder: &str, tokens: &str, more: &[&str]) -> Vec<f64> {
        let answer = self.json(&[&["score", folder, "--tokens", tokens], more].concat());
        let list = answer["token_logprobs"].as_array().expect("a list");
        assert!(list[0].is_null(), "nothing comes before the first token");
        let scores: Vec<f64> = list[1..].iter().map(|value| value.as_f64().expect("a number")).collect();
        let mean = -scores.iter().sum::<f64>() / scores.len() as f64;
        assert!((answer["mean_loss"].as_f64().expect("a number") - mean).abs() < 1e-9, "{answer}");
        assert!((answer["perplexity"].as_f64().expect("a number") / mean.exp() - 1.0).abs() < 1e-9, "{answer}");
        scores
    }

    /// Runs the program, which must refuse: the exit code, every one of `needles` on standard error, nothing on standard output, no panic, nothing said twice, and not a
    /// file or folder more, less or other than before. The message.
    pub fn refused(&self, arguments: &[&str], code: i32, needles: &[&str]) -> String {
        let before = self.files("");
        let output = self.start(arguments);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}: {err}");
        assert!(!err.contains("panicked") && !err.lines().any(is_doubled), "{arguments:?}: {err}");
        for needle in needles {
            assert!(err.contains(needle), "{arguments:?} should say `{needle}`: {err}");
        }
        let after = self.files("");
        assert!(before == after, "{arguments:?}: files changed: {:?} to {:?}", before.keys(), after.keys());
        err
    }

    /// [`Workshop::refused`] for `train` with the text of a configuration.
    pub fn refused_training(&self, config: &str, code: i32, needles: &[&str]) -> String {
        self.write("refused.toml", config);
        self.refused(&["train", "refused.toml", "--out", "runs/refused"], code, needles)
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

/// Whether a line ends with the same words twice, as it does when a cause is printed both in a message and behind it.
pub fn is_doubled(line: &str) -> bool {
    line.match_indices(": ").any(|(at, colon)| line[..at].ends_with(&line[at + colon.len()..]))
}

/// The adapters most tests use; both fit the hidden size 64.
pub const QUANTA: &str = "type = \"quanta\"\ndims = [4, 4, 4]\nsites = [\"q_proj\", \"v_proj\"]\n";
pub const LORA: &str = "type = \"lora\"\nr = 4\nalpha = 8\nsites = [\"q_proj\", \"v_proj\"]\n";

/// A configuration of the folder that [`Workshop::new`] makes, with these adapters.
pub fn config(adapters: &[&str]) -> String {
    let entries: String = adapters.iter().map(|adapter| format!("[[adapter]]\n{adapter}")).collect();
    format!(
        "[model]\npath = \"model\"\n[data]\npath = \"sums.jsonl\"\ndev = 4\n{entries}[train]\nlr = 1e-2\nsteps = 12\neval_every = 4\nbatch = 4\nseed = 7\n"
    )
}

/// Rows `a+b=` with their sums.
pub fn sums(rows: usize) -> String {
    let row =
        |i: usize| json!({ "prompt": format!("{}+{}=", i % 7, i % 5), "completion": format!("{}", i % 7 + i % 5) });
    (0..rows).map(|i| format!("{}\n", row(i))).collect()
}

/// A tokenizer with one token for each printable ASCII character and the newline, and `<s>` in front: 99 tokens.
pub fn tokenizer() -> Value {
    let names = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let vocab: Map<String, Value> = names.chain(characters).enumerate().map(|(id, name)| (name, json!(id))).collect();
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let begin = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null, "decoder": { "type": "Fuse" },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "post_processor": {
            "type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

/// Largest difference relative to the largest number of `b`; infinite where the lengths differ.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let difference = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f64, |most, d| if d > most || d.is_nan() { d } else { most });
    if a.len() == b.len() { difference / scale } else { f64::INFINITY }
}

/// One tensor of a safetensors file: type, shape, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self {
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        let (chunks, rest) = self.bytes.as_chunks::<4>();
        assert!(rest.is_empty());
        chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

pub type Tensors = BTreeMap<String, Stored>;

/// The tensors of a safetensors file, and its metadata.
pub fn read_tensors(file: &Path) -> (Tensors, Value) {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let metadata = header.remove("__metadata__").unwrap_or_default();
    let number = |value: &Value| value.as_u64().expect("a size") as usize;
    let tensor = |(name, info): (String, Value)| {
        let range = number(&info["data_offsets"][0])..number(&info["data_offsets"][1]);
        let shape = info["shape"].as_array().expect("a shape").iter().map(number).collect();
        let dtype = info["dtype"].as_str().expect("a type").to_owned();
        (name, Stored { dtype, shape, bytes: data[range].to_vec() })
    };
    (header.into_iter().map(tensor).collect(), metadata)
}

/// A safetensors file with these tensors.
pub fn tensor_file(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
