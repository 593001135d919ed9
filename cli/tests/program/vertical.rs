//! The whole path: train, score, merge; the run folder; the same bits for the same seed; a base that nothing touches.

use serde_json::Value;

use super::fixture::{LORA, QUANTA, Workshop, config, is_doubled, read_tensors, relative};

/// Some text that is none of the training data, as token ids of the fixture's tokenizer.
const PROBE: &str = "1,22,14,23,32,20,24,2,50,60,70,80,90,5";

/// A workshop with `train.toml` holding these adapters.
fn workshop(adapters: &[&str]) -> Workshop {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(adapters));
    workshop
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

fn metrics(workshop: &Workshop, run: &str) -> Vec<Value> {
    let text = workshop.read(&format!("{run}/metrics.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Trains, scores and merges; the run and its merged model agree and differ from the base, whose files stay as they are.
fn path_through(adapters: &[&str], folder: &[&str]) {
    let workshop = workshop(adapters);
    let before = workshop.files("model");
    let summary = workshop.train("train.toml", "run", &[]);
    assert_eq!((&summary["steps"], &summary["out"]), (&Value::from(12), &Value::from("run")));
    assert!(number(&summary["best_eval_loss"]) < number(&summary["start_eval_loss"]), "{summary}");
    assert!(number(&summary["last_loss"]) < number(&summary["first_loss"]), "{summary}");
    let mut expected: Vec<String> = folder.iter().map(|name| format!("adapter/{name}")).collect();
    let checkpoint = "checkpoints/step-12";
    expected.extend(folder.iter().map(|name| format!("{checkpoint}/adapter/{name}")));
    expected.extend(["moments.safetensors", "state.json"].map(|name| format!("{checkpoint}/{name}")));
    expected.extend(["config.toml", "metrics.jsonl"].map(String::from));
    assert_eq!(workshop.run_names("run"), expected);
    assert_eq!(workshop.names("run").len(), expected.len() + 1, "and one event file");

    let report = workshop.json(&["merge", "run", "--out", "merged"]);
    let [difference, effect, tolerance] = ["difference", "effect", "tolerance"].map(|key| number(&report[key]));
    assert!(difference < 1e-4 && difference <= tolerance && effect > 100.0 * difference, "{report}");
    assert_eq!((&report["sites"], &report["dtype"]), (&Value::from(4), &Value::from("f32")));
    let base = workshop.score("model", PROBE, &[]);
    let run = workshop.score("run", PROBE, &[]);
    assert!(relative(&run, &base) > 1e-2, "training moved the model");
    assert_eq!(workshop.score("run/adapter", PROBE, &[]), run, "an adapter folder names its base");
    let merged = workshop.score("merged", PROBE, &[]);
    assert!(relative(&merged, &run) < 1e-4, "merged {merged:?}\nadapted {run:?}");

    let merged = workshop.files("merged");
    assert_eq!(
        merged.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>(),
        "a merged folder is a model folder"
    );
    let changed: Vec<&String> = merged.keys().filter(|name| merged[*name] != before[*name]).collect();
    assert_eq!(changed, ["model.safetensors"]);
    let (base, merged) =
        ["model", "merged"].map(|name| read_tensors(&workshop.path(name).join("model.safetensors"))).into();
    let moved: Vec<&String> = base.0.keys().filter(|name| base.0[*name] != merged.0[*name]).collect();
    assert_eq!(base.0.len(), merged.0.len());
    let sites =
        [0, 1].map(|layer| ["q_proj", "v_proj"].map(|site| format!("model.layers.{layer}.self_attn.{site}.weight")));
    assert_eq!(moved, sites.iter().flatten().collect::<Vec<_>>(), "all other tensors are the base's, bit for bit");
    assert_eq!(merged.1["format"], "pt");
    assert!(workshop.files("model") == before, "the base is untouched");
}

#[test]
fn quanta_trains_scores_and_merges() {
    path_through(&[QUANTA], &["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn lora_trains_scores_and_merges() {
    path_through(&[LORA], &["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn two_methods_on_the_same_sites_train_score_and_merge() {
    let files = ["0", "1"]
        .map(|entry| ["adapter_config.json", "adapter_model.safetensors"].map(|file| format!("{entry}/{file}")));
    let files: Vec<&str> = files.iter().flatten().map(String::as_str).collect();
    path_through(&[QUANTA, LORA], &files);
}

#[test]
fn metrics_are_one_object_a_line_with_the_documented_keys() {
    let workshop = workshop(&[QUANTA]);
    workshop.train("train.toml", "run", &["train.warmup_steps=3"]);
    let keys = |line: &Value| line.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let lines = metrics(&workshop, "run");
    let (evaluations, steps): (Vec<Value>, Vec<Value>) =
        lines.into_iter().partition(|line| line.get("eval_loss").is_some());
    for (index, line) in steps.iter().enumerate() {
        assert_eq!(keys(line), ["grad_norm", "loss", "lr", "step", "tokens", "tokens_per_second"]);
        assert_eq!(line["step"], index + 1);
        assert!(
            ["grad_norm", "loss", "tokens", "tokens_per_second"].iter().all(|key| number(&line[*key]) > 0.0),
            "{line}"
        );
        // three steps of warm-up from zero, then down to zero over the other nine
        let lr = if index < 3 { index as f64 / 3.0 } else { (12 - index) as f64 / 9.0 };
        assert!((number(&line["lr"]) - 1e-2 * lr).abs() < 1e-12, "{line}");
    }
    assert_eq!(steps.len(), 12);
    assert!(
        steps.is_sorted_by(|a, b| number(&a["tokens"]) < number(&b["tokens"])),
        "tokens are counted from the start"
    );
    assert!(evaluations.iter().all(|line| keys(line) == ["best", "eval_loss", "step"]));
    assert_eq!(evaluations.iter().map(|line| number(&line["step"])).collect::<Vec<_>>(), [0.0, 4.0, 8.0, 12.0]);
    assert_eq!(evaluations[0]["best"], false, "the untrained start is nothing to keep");
}

#[test]
fn the_same_seed_gives_the_same_bits_for_any_threads_and_from_the_resolved_configuration() {
    let dropping = format!("{QUANTA}dropout = 0.1\n");
    let workshop = workshop(&[&dropping, LORA]);
    workshop.train("train.toml", "run", &["train.threads=1"]);
    let adapter = workshop.files("run/adapter");
    assert!(adapter.keys().any(|name| name.ends_with("safetensors")));
    let without_speed = |run: &str| {
        let mut lines = metrics(&workshop, run);
        lines.iter_mut().filter_map(Value::as_object_mut).for_each(|line| drop(line.remove("tokens_per_second")));
        lines
    };
    for threads in [2, 4] {
        let run = format!("threads{threads}");
        workshop.train("train.toml", &run, &[&format!("train.threads={threads}")]);
        assert!(workshop.files(&format!("{run}/adapter")) == adapter, "{threads} threads give the same adapter");
        assert_eq!(without_speed(&run), without_speed("run"), "{threads} threads give the same losses");
    }
    workshop.train("run/config.toml", "again", &[]);
    assert!(workshop.files("again/adapter") == adapter, "the resolved configuration is the configuration");
    assert_eq!(workshop.read("again/config.toml"), workshop.read("run/config.toml"));
    workshop.train("run/config.toml", "recomputed", &["train.recompute=true"]);
    assert!(workshop.files("recomputed/adapter") == adapter, "recomputation changes memory, not numbers");
    workshop.train("run/config.toml", "other", &["train.seed=8"]);
    assert!(workshop.files("other/adapter") != adapter, "another seed is another run");
}

#[test]
fn the_adapter_kept_is_the_best_by_validation_and_its_loss_is_that_of_the_scores() {
    let workshop = workshop(&[QUANTA]);
    // what is trained is never right in validation: once the two have in common is learnt, every step makes the validation loss worse
    let rows = |answer: &str| {
        (0..8).map(|i| format!("{{\"prompt\": \"k{i}:\", \"completion\": \"{answer}\"}}\n")).collect::<String>()
    };
    workshop.write("contrary/train.jsonl", rows("a"));
    workshop.write("contrary/valid.jsonl", rows("b"));
    let settings = [
        "data.path=contrary",
        "data.append_eos=false",
        "train.schedule=constant",
        "train.steps=6",
        "train.eval_every=2",
    ];
    let summary = workshop.train("train.toml", "run", &settings);
    let evaluations: Vec<Value> =
        metrics(&workshop, "run").into_iter().filter(|line| line.get("eval_loss").is_some()).collect();
    let losses: Vec<f64> = evaluations.iter().map(|line| number(&line["eval_loss"])).collect();
    assert!(losses[1..].is_sorted() && losses[3] > 1.01 * losses[1], "{losses:?}");
    assert_eq!(evaluations.iter().map(|line| line["best"] == true).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!((&summary["best_step"], &summary["saved_step"]), (&Value::from(2), &Value::from(2)));

    // the logged losses once more, from the scores of the encoded samples
    let set: Vec<&str> = settings.iter().flat_map(|set| ["--set", *set]).collect();
    let inspected = workshop.json(&[&["inspect", "train.toml", "--samples", "100"], &set[..]].concat());
    let dev =
        inspected["parts"].as_array().expect("parts").iter().find(|part| part["name"] == "dev").expect("a dev part");
    let mean = |folder: &str| {
        let (mut sum, mut count) = (0.0, 0);
        for sample in dev["samples"].as_array().expect("samples") {
            let tokens: Vec<String> =
                sample["tokens"].as_array().expect("tokens").iter().map(Value::to_string).collect();
            let trained_from = number(&sample["trained_from"]) as usize;
            // scores begin with the second token
            let trained = &workshop.score(folder, &tokens.join(","), &[])[trained_from - 1..];
            (sum, count) = (sum - trained.iter().sum::<f64>(), count + trained.len());
        }
        assert_eq!(count, 4, "one character in each of the four samples");
        sum / f64::from(count as u32)
    };
    assert!((mean("model") / losses[0] - 1.0).abs() < 1e-4);
    assert!((mean("run") / losses[1] - 1.0).abs() < 1e-4);
}

#[test]
fn sharded_bf16_weights_train_and_merge_into_the_same_shards() {
    let workshop = workshop(&["type = \"quanta\"\ndims = [7, 4, 2]\nsites = [\"q_proj\", \"v_proj\", \"o_proj\"]\n"]);
    workshop.add_model("llama_bf16_sharded", "sharded");
    let before = workshop.files("sharded");
    workshop.train("train.toml", "run", &["model.path=sharded"]);
    let report = workshop.json(&["merge", "run", "--out", "merged"]);
    assert_eq!(report["dtype"], "bf16");
    assert!(number(&report["difference"]) <= number(&report["tolerance"]), "{report}");
    assert!(number(&report["effect"]) > 5.0 * number(&report["difference"]), "{report}");
    assert_eq!(workshop.names("merged"), workshop.names("sharded"));
    let [merged, base] =
        ["merged", "sharded"].map(|name| workshop.read_json(&format!("{name}/model.safetensors.index.json")));
    assert_eq!(merged["weight_map"], base["weight_map"]);
    assert_eq!(merged["metadata"]["total_size"], base["metadata"]["total_size"]);
    for shard in workshop.names("merged").iter().filter(|name| name.ends_with(".safetensors")) {
        let (tensors, metadata) = read_tensors(&workshop.path("merged").join(shard));
        assert!(tensors.values().all(|tensor| tensor.dtype == "BF16"), "{shard}");
        assert_eq!(metadata["format"], "pt");
    }
    assert_eq!(workshop.read("merged/config.json"), workshop.read("sharded/config.json"));
    let run = workshop.score("run", PROBE, &[]);
    assert!(relative(&workshop.score("merged", PROBE, &[]), &run) < 2e-2, "bf16 has eight bits");
    assert!(workshop.files("sharded") == before, "the base is untouched");

    // in f32 the merged weights are exact enough to be the adapted model
    let report = workshop.json(&["merge", "run", "--out", "merged32", "--dtype", "f32"]);
    assert!(number(&report["difference"]) < 1e-4, "{report}");
    assert!(relative(&workshop.score("merged32", PROBE, &[]), &run) < 1e-4);
}

#[test]
fn merging_changes_the_type_when_asked() {
    let workshop = workshop(&[LORA]);
    workshop.train("train.toml", "run", &[]);
    let report = workshop.json(&["merge", "run", "--out", "merged", "--dtype", "bf16"]);
    assert_eq!(report["dtype"], "bf16");
    let (tensors, _) = read_tensors(&workshop.path("merged/model.safetensors"));
    assert!(tensors.values().all(|tensor| tensor.dtype == "BF16"));
    let mut expected = workshop.read_json("model/config.json");
    expected.insert("dtype".into(), "bfloat16".into());
    assert_eq!(workshop.read_json("merged/config.json"), expected);
    assert!(relative(&workshop.score("merged", PROBE, &[]), &workshop.score("run", PROBE, &[])) < 2e-2);
    let text = workshop.run(&["merge", "run/adapter", "--out", "f16", "--dtype", "f16", "--base", "merged"]);
    assert!(text.contains("merged 4 sites into f16 (f16)"), "{text}");
}

#[test]
fn a_run_in_f64_keeps_its_precision() {
    let workshop = workshop(&[QUANTA]);
    workshop.train("train.toml", "run", &["model.dtype=f64"]);
    let (tensors, _) = read_tensors(&workshop.path("run/adapter/adapter_model.safetensors"));
    assert!(tensors.values().all(|tensor| tensor.dtype == "F64"));
    let run = workshop.score("run", PROBE, &["--dtype", "f64"]);
    assert!(relative(&workshop.score("run", PROBE, &[]), &run) < 1e-4);
    workshop.train("train.toml", "run32", &[]);
    assert!(relative(&workshop.score("run32", PROBE, &[]), &run) < 1e-2, "the same run but for rounding");
}

#[test]
fn an_existing_output_is_refused_and_an_empty_folder_is_taken() {
    let workshop = workshop(&[QUANTA]);
    workshop.write("full/note.txt", "keep me");
    workshop.refused(&["train", "train.toml", "--out", "full"], 1, &["full exists and is not an empty folder"]);
    std::fs::create_dir(workshop.path("empty")).expect("a folder");
    workshop.train("train.toml", "empty", &[]);
    workshop.refused(&["train", "train.toml", "--out", "empty"], 1, &["empty exists"]);
    workshop.refused(&["merge", "empty", "--out", "full"], 1, &["full exists"]);
    workshop.refused(&["merge", "empty", "--out", "model"], 1, &["model exists"]);
}

#[test]
fn a_run_that_diverges_stops_and_says_where() {
    let workshop = workshop(&[QUANTA]);
    // far more steps than are ever taken: nothing may be reserved for them
    let settings =
        ["--set", "train.lr=1e30", "--set", "train.steps=4000000000", "--set", "data.dev=0", "--set", "train.clip=0"];
    let output = workshop.start(&[&["train", "train.toml", "--out", "run"], &settings[..]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(output.stdout.is_empty() && !message.contains("panicked") && !message.lines().any(is_doubled), "{message}");
    assert!(
        message.contains("step 2") && message.contains("not finite") && message.contains("lower the learning rate"),
        "{message}"
    );
    assert!(message.contains("nothing had been saved yet"), "{message}");
    assert_eq!(workshop.run_names("run"), ["config.toml", "metrics.jsonl"]);
    assert_eq!(metrics(&workshop, "run").len(), 1, "the step before is logged, the failed one is not");
}
