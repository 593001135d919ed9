//! Tasks with classes and numbers: an encoder from nothing trained on whole rows, measured, continued and written as PEFT has it; a decoder on the same
//! rows as prompts.

use serde_json::{Value, json};

use super::fixture::{Workshop, read_tensors};

const ENCODER: &str = r#"{ "model_type": "roberta", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "layer_norm_eps": 1e-5, "hidden_act": "gelu", "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0 }"#;

const LORA: &str = "type = \"lora\"\nr = 2\nsites = [\"query\", \"value\"]\n";
const QUANTA: &str = "type = \"quanta\"\ndims = [4, 4]\nsites = [\"query\", \"value\"]\n";

/// Pairs of sentences about animals; those whose first is a cat belong together.
fn pairs(rows: usize, label: impl Fn(bool) -> &'static str, name: &str) -> String {
    let animals = ["cat", "dog", "bird"];
    let row = |i: usize| {
        let (first, second) = (animals[i % 3], animals[(i / 3) % 3]);
        format!("{i}\tthe {first} sat .\ta {second} sat .\t{}\n", label(first == "cat"))
    };
    format!("index\tsentence1\tsentence2\t{name}\n") + &(0..rows).map(row).collect::<String>()
}

/// A folder with an encoder and its tokenizer, and the rows of two tasks.
fn workshop() -> Workshop {
    let workshop = Workshop::empty();
    let entailment = |together| if together { "entailment" } else { "not_entailment" };
    let similarity = |together| if together { "5.000" } else { "1.5" };
    for (task, text) in [("rte", pairs(36, entailment, "label")), ("stsb", pairs(36, similarity, "score"))] {
        workshop.write(&format!("{task}/train.tsv"), &text);
        workshop.write(&format!("{task}/dev.tsv"), &text);
        workshop.write(&format!("{task}/test.tsv"), "index\tsentence1\tsentence2\n0\ta\tb\n");
    }
    workshop.write("encoder.json", ENCODER);
    workshop.run(&["init", "--weights", "encoder.json", "--tokenizer", "rte/train.tsv", "--out", "model"]);
    let tensors = read_tensors(&workshop.path("model/model.safetensors")).0;
    assert!(tensors.keys().all(|name| name.starts_with("roberta.")), "a head is the task's");
    workshop
}

fn config(task: &str, adapter: &str) -> String {
    format!(
        "[model]\npath = \"model\"\n[data]\ntask = \"{task}\"\npath = \"{task}\"\ndev = 36\n[[adapter]]\n{adapter}\
         [train]\nlr = 1e-2\nsteps = 150\neval_every = 50\nbatch = 6\nseed = 3\n"
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

#[test]
fn an_encoder_learns_classes_and_numbers() {
    let workshop = workshop();
    for (task, metrics) in [("rte", &["accuracy"][..]), ("stsb", &["pearson", "spearman"])] {
        for (name, adapter) in [("lora", LORA), ("quanta", QUANTA)] {
            let (file, run) = (format!("{task}-{name}.toml"), format!("{task}-{name}"));
            workshop.write(&file, config(task, adapter));
            let summary = workshop.train(&file, &run, &[]);
            let (first, last) = (number(&summary["first_loss"]), number(&summary["last_loss"]));
            assert!(last < 0.8 * first, "{run}: {summary}");
            let names: Vec<&String> = summary["best_metrics"].as_object().expect("metrics").keys().collect();
            assert_eq!(names, metrics);
            // what is chosen as best is what eval finds again
            let found = workshop.json(&["eval", &run, "--split", "dev"]);
            assert_eq!((&found["count"], found["samples"].as_array().map(Vec::len)), (&json!(36), Some(36)));
            for metric in metrics {
                let (best, again) = (number(&summary["best_metrics"][metric]), number(&found["metrics"][metric]));
                assert!((best - again).abs() < 1e-6, "{run}, {metric}: {best} {again}");
            }
            assert!((number(&summary["best_eval_loss"]) - number(&found["loss"])).abs() < 1e-5, "{found}");
            let sample = &found["samples"][0];
            if task == "rte" {
                assert!(sample["answer"] == " True" || sample["answer"] == " False", "{sample}");
                assert_eq!((&sample["gold"], sample["score"].is_f64()), (&json!(["True"]), true));
            } else {
                assert!(sample["answer"].as_str().is_some_and(|text| text.parse::<f64>().is_ok()), "{sample}");
                assert_eq!((&sample["gold"], &sample["score"]), (&json!(["5.000"]), &Value::Null));
            }
        }
    }
    workshop.refused(&["eval", "rte-lora"], 1, &["has no test split, only train and dev"]);
    // a merged folder holds the head and gives the same answers
    workshop.run(&["merge", "rte-lora", "--out", "merged"]);
    let [run, merged] = [&["eval", "rte-lora"][..], &["eval", "merged", "--task", "rte", "--data", "rte"]]
        .map(|arguments| workshop.json(&[arguments, &["--split", "dev"]].concat()));
    assert_eq!(run["metrics"], merged["metrics"]);
    assert_eq!(workshop.json(&["score", "rte-lora", "--text", "a cat"])["logits"].as_array().map(Vec::len), Some(2));
}

#[test]
fn peft_finds_its_own_names() {
    let workshop = workshop();
    workshop.write("lora.toml", config("stsb", LORA));
    workshop.train("lora.toml", "run", &["train.steps=2"]);
    let written = workshop.read_json("run/adapter/adapter_config.json");
    assert_eq!((&written["task_type"], &written["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["classifier"])));
    let tensors = read_tensors(&workshop.path("run/adapter/adapter_model.safetensors")).0;
    assert_eq!(tensors["base_model.model.classifier.out_proj.weight"].shape, [1, 16]);
    assert!(tensors.contains_key("base_model.model.classifier.dense.bias"));
    assert!(tensors.contains_key("base_model.model.roberta.encoder.layer.1.attention.self.value.lora_B.weight"));
    // PEFT adds its two names for heads to what is there, whichever the model has
    let before = workshop.json(&["score", "run/adapter", "--text", "a cat"]);
    let mut theirs = written.clone();
    theirs.insert("modules_to_save".into(), json!(["classifier", "classifier", "score"]));
    workshop.write("run/adapter/adapter_config.json", Value::Object(theirs).to_string());
    assert_eq!(workshop.json(&["score", "run/adapter", "--text", "a cat"]), before);
}

#[test]
fn a_continued_run_gives_the_same_bits() {
    let workshop = workshop();
    workshop.write("run.toml", config("rte", QUANTA));
    let settings = ["train.steps=12", "train.eval_every=4"];
    workshop.train("run.toml", "whole", &settings);
    // as if it had been stopped behind its first checkpoint
    workshop.train("run.toml", "part", &[&settings[..], &["train.keep_checkpoints=9"]].concat());
    for step in [8, 12] {
        std::fs::remove_dir_all(workshop.path(&format!("part/checkpoints/step-{step}"))).expect("a checkpoint");
    }
    workshop.run(&["train", "part/config.toml", "--out", "part", "--resume"]);
    let moments = |run: &str| workshop.files(&format!("{run}/checkpoints/step-12"))["moments.safetensors"].clone();
    assert!(moments("part") == moments("whole"));
    assert!(workshop.files("part/adapter") == workshop.files("whole/adapter"));
    // the complete configuration trains the same again, its head's entry included
    workshop.train("whole/config.toml", "again", &[]);
    assert!(workshop.files("again/adapter") == workshop.files("whole/adapter"));
    assert_eq!(workshop.read("again/config.toml"), workshop.read("whole/config.toml"));
}

#[test]
fn plan_and_inspect_show_what_is_answered() {
    let workshop = workshop();
    workshop.write("run.toml", config("stsb", LORA));
    let plan = workshop.json(&["plan", "run.toml"]);
    assert_eq!((&plan["objective"], &plan["micro_batch"]["labels"]), (&json!("regress"), &json!(6)));
    // a head of one number: 16 x 16 and 1 x 16 with their biases
    assert_eq!(plan["adapters"][1]["parameters"], 16 * 16 + 16 + 16 + 1);
    assert!(workshop.run(&["plan", "run.toml"]).contains("regress: a number"));
    let sets = ["--set", "data.task=rte", "--set", "data.path=rte", "--set", "data.max_length=12"];
    let plan = workshop.run(&[&["plan", "run.toml"], &sets[..]].concat());
    assert!(plan.contains("classify: one of entailment, not_entailment"), "{plan}");
    let shown = workshop.json(&[&["inspect", "run.toml"], &sets[..]].concat());
    let sample = &shown["parts"][0]["samples"][0];
    assert!(sample["answer"] == "entailment" || sample["answer"] == "not_entailment", "{sample}");
    let texts: Vec<&str> = sample["texts"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    let marks: Vec<&str> = texts.iter().copied().filter(|text| text.ends_with("s>")).collect();
    assert_eq!(marks, ["<s>", "</s>", "</s>", "</s>"]);
    assert_eq!(shown["parts"][0]["statistics"]["truncated"], 0, "{shown}");
    let cut = workshop.json(&[&["inspect", "run.toml"], &sets[..4], &["--set", "data.max_length=8"]].concat());
    assert_eq!(cut["parts"][0]["statistics"]["truncated"], 36);
    assert!(workshop.run(&["train", "run.toml", "--dry-run"]).contains("nothing was written"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let workshop = workshop();
    let text = config("rte", LORA);
    let with = |line: &str| text.replace("dev = 36\n", &format!("dev = 36\n{line}\n"));
    workshop.refused_training(&with("objective = \"lm\""), 2, &["`lm` is for decoders", "set classify"]);
    workshop.refused_training(&with("objective = \"regress\""), 2, &["`regress` is not for task `rte`"]);
    workshop.refused_training(&with("truncation = \"left\""), 2, &["longest-first"]);
    workshop.refused_training(&with("truncation = \"refuse\"\nmax_length = 8"), 1, &["exceed max_length 8"]);
    workshop.write("plain.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    let plain = text.replace("\"rte\"\npath = \"rte\"\ndev = 36", "\"jsonl\"\npath = \"plain.jsonl\"");
    workshop.refused_training(&plain, 1, &["encoder", "choose a decoder"]);
    let measure = ["eval", "model", "--task", "rte", "--data", "rte", "--split", "dev"];
    workshop.refused(&measure, 2, &["holds no head over whole sequences"]);
}

#[test]
fn a_decoder_chooses_among_the_classes_of_a_prompt() {
    let workshop = Workshop::empty();
    workshop.add_model("llama", "model");
    let row = |i: usize| format!("{} film \t{}\n", ["good", "bad"][i % 2], 1 - i % 2);
    workshop.write("sst2.tsv", "sentence\tlabel\n".to_owned() + &(0..16).map(row).collect::<String>());
    let text = "[model]\npath = \"model\"\n[data]\ntask = \"sst2\"\npath = \"sst2.tsv\"\ndev = 4\n[[adapter]]\ntype = \"lora\"\nr = 4\n\
        sites = [\"q_proj\", \"v_proj\"]\n[train]\nlr = 1e-2\nsteps = 12\neval_every = 6\nbatch = 4\n";
    workshop.write("run.toml", text);
    let summary = workshop.train("run.toml", "run", &[]);
    assert!(number(&summary["last_loss"]) < number(&summary["first_loss"]), "{summary}");
    assert!(summary["best_metrics"]["accuracy"].is_f64(), "{summary}");
    let found = workshop.json(&["eval", "run", "--split", "train"]);
    assert_eq!(found["samples"][0]["prompt"], "good film\nQuestion: Is this sentence positive or negative?\nAnswer:");
    assert_eq!(found["samples"][0]["gold"], json!(["positive"]));
    let classify = text.replace("dev = 4", "dev = 4\nobjective = \"classify\"");
    workshop.refused_training(&classify, 2, &["`classify` is for encoders", "set choice"]);
}
