//! Broken configurations and command lines: exit code 2 (or 1 for data and models), everything that is wrong at once, and not a file left behind.

use serde_json::json;

use super::fixture::{LORA, QUANTA, Workshop, config};

#[test]
fn all_problems_of_a_configuration_are_listed_at_once() {
    let workshop = Workshop::new();
    let text = "[model]\npth = \"model\"\ndtype = \"fp32\"\n[data]\ntask = \"json\"\nmax_lenght = 4\ndev = -1\n\
        [[adapter]]\ntype = \"qanta\"\nsites = [\"q_proj\"]\n[[adapter]]\ntype = \"lora\"\nr = 0\nalpha = \"two\"\nlayers = \"9-3\"\n\
        [train]\nlr_rate = 1e-3\nsteps = 3\nepochs = 2\nbatch = 0\nschedule = \"cosin\"\nbeta2 = 1.0\nclip = nan\n[evaluation]\n";
    let message = workshop.refused_training(
        text,
        2,
        &[
            "refused.toml: 19 problems to mend",
            "model.path: missing",
            "model.pth: unknown key, did you mean `path`?",
            "model.dtype: `fp32` is not one of `auto`, `f32`, `f64`, `bf16`, did you mean `f32`?",
            "data.task: unknown task `json`, did you mean `jsonl`?",
            "data.path: missing",
            "data.max_lenght: unknown key, did you mean `max_length`?",
            "data.dev: expected a whole number from 0",
            "adapter.0.type: `qanta` is not one of quanta, lora, dora, mora, krona, loretta-rep, loretta-adp, series, parallel, prefix, magnitude, full, loha, miss, did you mean `quanta`?",
            "adapter.1.r: must be at least 1, got 0",
            "adapter.1.alpha: expected a number",
            "adapter.1.sites: missing",
            "adapter.1.layers: `9-3` is no layer and no range such as 0-15",
            "train.lr_rate: unknown key, did you mean `lr`?",
            "train.steps: stands beside epochs",
            "train.batch: must be at least 1, got 0",
            "train.schedule: `cosin` is not one of `linear`, `cosine`, `constant`, did you mean `cosine`?",
            "train.beta2: must be below 1",
            "train.clip: NaN is not a finite number",
            "evaluation: unknown key",
        ],
    );
    assert_eq!(message.lines().count(), 20, "a line each: {message}");
    // plan and inspect read the same file
    for verb in ["plan", "inspect"] {
        workshop.refused(&[verb, "refused.toml"], 2, &["19 problems to mend", "model.path: missing"]);
    }
}

#[test]
fn syntax_errors_are_placed() {
    let workshop = Workshop::new();
    workshop.refused_training("[model]\npath = \"model\"\n[train\n", 2, &["refused.toml, line 3"]);
    workshop.refused_training("[train]\nlr = 1\nlr = 2\n", 2, &["refused.toml, line 3", "duplicate key"]);
    workshop.refused_training(&config(&[QUANTA]).replace("path = \"model\"", "path = model"), 2, &["line 2, column"]);
    workshop.write("bytes.toml", b"path = \"\xff\"\n");
    workshop.refused(&["plan", "bytes.toml"], 2, &["bytes.toml", "UTF-8"]);
    workshop.refused(&["train", "absent.toml"], 2, &["cannot read absent.toml"]);
    workshop.refused(&["plan", "model"], 2, &["cannot read model"]);
}

#[test]
fn empty_names_and_lists_are_not_taken_for_absent_ones() {
    let workshop = Workshop::new();
    let empty = |adapter: &str| config(&[adapter]);
    workshop.refused_training(&empty(&QUANTA.replace("\"quanta\"", "\"\"")), 2, &["adapter.0.type"]);
    workshop.refused_training(&empty(&QUANTA.replace("[4, 4, 4]", "[]")), 2, &["adapter.0.dims"]);
    workshop.refused_training(&empty(&QUANTA.replace("[\"q_proj\", \"v_proj\"]", "[]")), 2, &["no site is left"]);
    workshop.refused_training(&empty(&format!("{QUANTA}layers = []\n")), 2, &["no site is left"]);
    let plan = QUANTA.replace("dims = [4, 4, 4]", "plan = \"\"");
    workshop.refused_training(&empty(&plan), 2, &["adapter.0.plan"]);
    workshop.refused_training(
        &empty(QUANTA).replace("path = \"model\"", "path = \"\""),
        2,
        &["model.path: must not be empty"],
    );
    workshop.refused_training(
        "adapter = []\n[model]\npath = \"model\"\n[data]\npath = \"sums.jsonl\"\n",
        2,
        &["adapter: ", "[[adapter]]"],
    );
    let single = config(&[QUANTA]).replace("[[adapter]]", "[adapter]");
    workshop.refused_training(&single, 2, &["1 problem", "adapter: expected a list of sections"]);
    workshop.refused_training("", 2, &["model: missing", "adapter: missing"]);
    workshop.refused_training(
        "[model]\npath = \"model\"\n[[adapter]]\ntype = \"lora\"\nsites = \"all-linear\"\n",
        2,
        &["[data] is missing"],
    );
}

#[test]
fn adapters_that_do_not_fit_the_model_are_all_named() {
    let workshop = Workshop::new();
    let entries = [
        "type = \"quanta\"\ndims = [16, 8, 8, 4]\nsites = [\"q_proj\"]\n",
        "type = \"lora\"\nr = 65\nsites = [\"v_proj\"]\n",
        "type = \"lora\"\nsites = [\"q_prj\", \"lm_head\"]\n",
        "type = \"lora\"\nsites = \"all-linear\"\nlayers = \"0-2\"\n",
        "type = \"lora\"\nsites = '(q_proj'\n",
        "type = \"lora\"\nsites = 'query.*'\n",
    ];
    let needles = [
        "refused.toml: 7 problems to mend",
        "adapter.0: the circuit 16-8-8-4 takes 4096 numbers to 4096, which does not fit model.layers.0.self_attn.q_proj [64, 64]",
        "choose axes whose product is 64 (and 1 more sites)",
        "adapter.1: r = 65 is more than the smaller side of model.layers.0.self_attn.v_proj [64, 64]: choose r up to 64",
        "adapter.2: no site is called `q_prj`, did you mean `q_proj`?",
        "adapter.2: no site is called `lm_head`",
        "adapter.3: layer 2 does not exist: the model has layers 0 to 1",
        "adapter.4: `(q_proj` is not a regular expression",
        "adapter.5: the pattern `query.*` matches none of the model's sites as a whole, such as `model.layers.0.self_attn.q_proj`",
    ];
    workshop.refused_training(&config(&entries), 2, &needles);
    workshop.refused(&["plan", "refused.toml"], 2, &needles);
}

#[test]
fn gates_and_axes_that_make_no_circuit_are_refused() {
    let workshop = Workshop::new();
    let plan = |plan: &str| config(&[&QUANTA.replace("dims = [4, 4, 4]", &format!("plan = \"{plan}\""))]);
    for broken in [
        "4-4-4: (-1,-4)",
        "4-4-4: (-1,-1)",
        "4-4-4: (0,-1)",
        "4-4-4: ()",
        "4-4-4:",
        "4-4-4: (-1,-2) ->",
        "pairs",
        "4--4",
        "(-1,-2)",
    ] {
        workshop.refused_training(&plan(broken), 2, &["1 problem to mend", "adapter.0.plan: "]);
    }
    workshop.refused_training(
        &config(&[&format!("{QUANTA}plan = \"4-4-4\"\n")]),
        2,
        &["adapter.0.plan: stands beside dims"],
    );
    let dims = |dims: &str| config(&[&QUANTA.replace("[4, 4, 4]", dims)]);
    for broken in ["[0, 4, 4]", "[4294967295, 4294967295, 4294967295]", "[4, 4.0, 4]", "[-4, 4]", "4", "[64]"] {
        workshop.refused_training(&dims(broken), 2, &["adapter.0"]);
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[LORA]));
    let refused = |set: &str, needle: &str| workshop.refused(&["plan", "train.toml", "--set", set], 2, &[needle]);
    refused("train.lr", "write key=value");
    refused("train.lr=fast", "train.lr: expected a number, found the text \"fast\"");
    refused("adapter.5.r=1", "`adapter` has 1 entries");
    refused("adapter.r=1", "write a position");
    refused("adapter=[]", "[[adapter]]");
    refused("train.stepz=1", "train.stepz: unknown key, did you mean `steps`?");
    refused("format=2", "format: 2 is newer than 1");
    let message = workshop.refused(
        &["plan", "train.toml", "--set", "train.lr=-1", "--set", "train.batch=[]"],
        2,
        &["2 problems"],
    );
    assert!(
        message.contains("train.lr: must be at least 0, got -1") && message.contains("train.batch: expected"),
        "{message}"
    );
}

#[test]
fn command_lines_that_mean_nothing_are_refused() {
    let workshop = Workshop::new();
    let refused = |arguments: &[&str], needle: &str| workshop.refused(arguments, 2, &[needle]);
    refused(&[], "Usage");
    refused(&["trian", "x.toml"], "train");
    refused(&["score", "model"], "--text");
    refused(&["score", "model", "--text", "a", "--tokens", "1,2"], "cannot be used with");
    refused(&["score", "model", "--tokens", "1,x"], "invalid value 'x'");
    refused(&["score", "model", "--tokens", "-1,2"], "-1");
    refused(&["score", "model", "--tokens", "5"], "at least two tokens");
    refused(&["score", "model", "--text", ""], "at least two tokens");
    refused(&["merge", "model"], "--out");
    refused(&["merge", "model", "--out", "x"], "model is a model without an adapter");
    refused(&["merge", "model", "--out", "x", "--dtype", "int8"], "int8");
}

#[test]
fn what_the_model_cannot_take_is_not_scored() {
    let workshop = Workshop::new();
    let refused = |arguments: &[&str], needle: &str| workshop.refused(&[&["score"], arguments].concat(), 1, &[needle]);
    refused(&["model", "--tokens", "1,160"], "token 160 is beyond the model's 160 embeddings");
    refused(&["model", "--tokens", "4294967295,1"], "beyond the model's 160");
    refused(&["model", "--text", &"a".repeat(128)], "129 tokens are more than the 128 this model was made for");
    refused(&["model", "--file", "absent.txt"], "absent.txt");
    refused(&["absent", "--text", "ab"], "absent");
    refused(&["sums.jsonl", "--text", "ab"], "sums.jsonl");
    std::fs::create_dir(workshop.path("empty")).expect("a folder");
    refused(&["empty", "--text", "ab"], "empty is neither a run folder (config.toml), nor an adapter folder");
    workshop.write("latin.txt", b"caf\xe9");
    refused(&["model", "--file", "latin.txt"], "latin.txt");
    // tokens need no tokenizer
    std::fs::remove_file(workshop.path("model/tokenizer.json")).expect("a tokenizer");
    refused(&["model", "--text", "ab"], "no tokenizer in model: there is no tokenizer.json");
    assert_eq!(workshop.score("model", "1,159", &[]).len(), 1);
}

#[test]
fn a_running_text_has_no_candidates_to_choose_among() {
    let workshop = Workshop::new();
    workshop.write("text.txt", "2+3=5 ".repeat(40));
    let data = "path = \"text.txt\"\ntask = \"text\"\nobjective = \"choice\"\nmax_length = 16";
    let text = config(&[LORA]).replace("path = \"sums.jsonl\"\ndev = 4", data);
    workshop.refused_training(&text, 1, &["needs candidates in every row", "objective = \"lm\""]);
}

// only Linux is asked how much memory is free
#[cfg(target_os = "linux")]
#[test]
fn a_run_that_does_not_fit_the_memory_is_refused_before_weights_are_read() {
    let workshop = Workshop::new();
    // about 3 * 10^13 parameters: more than any machine holds, and no weight file is there to be missed
    let mut model = workshop.read_json("model/config.json");
    for (key, value) in
        [("hidden_size", 65536), ("intermediate_size", 65536), ("num_hidden_layers", 1000), ("head_dim", 16384)]
    {
        model.insert(key.into(), json!(value));
    }
    workshop.write("model/config.json", serde_json::Value::Object(model).to_string());
    std::fs::remove_file(workshop.path("model/model.safetensors")).expect("weights");
    let text = config(&[&QUANTA.replace("[4, 4, 4]", "[64, 32, 32]")]);
    workshop.refused_training(&text, 1, &["this run needs about", "GiB are free", "train.batch"]);
    let plan = workshop.json(&["plan", "refused.toml"]);
    assert!(plan["memory_bytes"]["weights"].as_u64() > Some(1 << 45), "{plan}");
}
