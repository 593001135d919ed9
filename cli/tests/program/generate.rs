//! `quanta generate`: greedy and sampled text of models, runs and adapters, files of prompts, and what is refused.

use serde_json::Value;

use super::fixture::{LORA, QUANTA, Workshop, config};
fn text(value: &Value) -> &str {
    value["text"].as_str().unwrap_or_else(|| panic!("{value} has a text"))
}

fn tokens(value: &Value, key: &str) -> Vec<u64> {
    let list = value[key].as_array().unwrap_or_else(|| panic!("{value} has {key}"));
    list.iter().map(|token| token.as_u64().expect("a token")).collect()
}

#[test]
fn a_prompt_is_continued_and_each_token_is_the_most_probable() {
    let workshop = Workshop::new();
    let arguments = ["generate", "model", "--prompt", "1+2=", "--max-new-tokens", "12", "--dtype", "f64"];
    let answer = workshop.json(&arguments);
    assert_eq!((&answer["prompt"], tokens(&answer, "prompt_tokens").len()), (&Value::from("1+2="), 5));
    let new = tokens(&answer, "tokens");
    assert!(new.len() == 12 && answer["finish"] == "length" || answer["finish"] == "eos", "{answer}");
    assert_eq!(workshop.run(&arguments), format!("{}\n", text(&answer)));
    assert_eq!(workshop.json(&[&arguments[..], &["--threads", "1"]].concat()), answer);
    assert_eq!(workshop.json(&[&arguments[..], &["--seed", "9"]].concat()), answer, "nothing is drawn");

    // another program part is the judge: replacing the last token by any other lowers its log-probability
    let whole = [tokens(&answer, "prompt_tokens"), new].concat();
    let last_score = |last: u64| {
        let ids: Vec<String> = whole[..whole.len() - 1].iter().chain([&last]).map(u64::to_string).collect();
        *workshop.score("model", &ids.join(","), &["--dtype", "f64"]).last().expect("a score")
    };
    let best = last_score(whole[whole.len() - 1]);
    assert!((0..160).step_by(9).all(|other| last_score(other) <= best));
}

#[test]
fn a_seed_names_a_sample() {
    let workshop = Workshop::new();
    let run = |more: &[&str]| {
        let arguments = [&["generate", "model", "--prompt", "a", "--max-new-tokens", "30"], more];
        tokens(&workshop.json(&arguments.concat()), "tokens")
    };
    let hot = |more: &[&str]| run(&[&["--temperature", "1.5"], more].concat());
    let first = hot(&["--seed", "1"]);
    assert_eq!(first, hot(&["--seed", "1", "--threads", "1"]));
    assert_ne!(first, hot(&["--seed", "2"]));
    assert_ne!(first, hot(&["--seed", "1", "--top-k", "3"]));
    assert_eq!(hot(&["--top-k", "1"]), run(&["--temperature", "0"]), "the only token left is the most probable one");
    assert_eq!(hot(&["--top-p", "1e-9"]), run(&["--temperature", "0"]));
}

#[test]
fn a_file_of_prompts_is_answered_line_by_line() {
    let workshop = Workshop::new();
    let prompts =
        ["1+2=", "A longer line that others begin with, too: 1", "A longer line that others begin with, too: 2", ""];
    workshop.write("prompts.txt", prompts.join("\n") + "\n");
    let settings = ["--max-new-tokens", "80", "--temperature", "1.2", "--dtype", "f64"];
    let arguments = [&["generate", "model", "--prompts-file", "prompts.txt"][..], &settings].concat();
    let json = workshop.run(&[&arguments[..], &["--json"]].concat());
    let answers: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(answers.iter().map(|answer| answer["prompt"].as_str().expect("a text")).collect::<Vec<_>>(), prompts);
    // the first has the streams of a single prompt
    assert_eq!(workshop.json(&[&["generate", "model", "--prompt", prompts[0]][..], &settings].concat()), answers[0]);
    let plain = workshop.run(&arguments);
    assert_eq!(plain.lines().count(), prompts.len());
    for (line, answer) in plain.lines().zip(&answers) {
        assert_eq!(line.replace("\\n", "\n").replace("\\\\", "\\"), text(answer));
    }

    let stopped = workshop.run(&[&arguments[..], &["--json", "--stop-at-newline"]].concat());
    let mut stops = 0;
    for (line, whole) in stopped.lines().zip(&answers) {
        let answer: Value = serde_json::from_str(line).expect("an object");
        assert_eq!(Some(text(&answer)), text(whole).split('\n').next());
        // 98 is the fixture's newline
        let new = tokens(whole, "tokens");
        let newline = new.iter().position(|&token| token == 98);
        assert_eq!(tokens(&answer, "tokens"), new[..newline.map_or(new.len(), |at| at + 1)]);
        assert_eq!(answer["finish"] == "stop", newline.is_some());
        stops += usize::from(newline.is_some());
    }
    assert!(stops > 0, "no text had a newline");
}

#[test]
fn runs_and_adapters_speak_as_their_merged_models() {
    let workshop = Workshop::new();
    workshop.write("train.toml", config(&[QUANTA, LORA]));
    workshop.train("train.toml", "run", &[]);
    workshop.json(&["merge", "run", "--out", "merged"]);
    let say = |folder: &str, more: &[&str]| {
        let arguments = ["generate", folder, "--prompt", "3+4=", "--max-new-tokens", "8", "--stop-at-newline"];
        workshop.json(&[&arguments, more].concat())
    };
    let run = say("run", &[]);
    assert_ne!(say("model", &[]), run, "training moved the model");
    assert_eq!(say("run/adapter", &[]), run);
    assert_eq!(say("merged", &[]), run);
    let moved = workshop.path("moved");
    std::fs::rename(workshop.path("model"), &moved).expect("a new place");
    assert_eq!(say("run/adapter", &["--base", "moved"]), run);
}

#[test]
fn settings_that_mean_nothing_are_bad_usage() {
    let workshop = Workshop::new();
    workshop.write("empty.txt", "");
    let refuse = |more: &[&str], needle: &str| {
        workshop.refused(&[&["generate", "model", "--prompt", "a"], more].concat(), 2, &[needle]);
    };
    refuse(&["--temperature", "-0.5"], "temperature -0.5");
    refuse(&["--temperature", "nan"], "temperature NaN");
    refuse(&["--temperature", "warm"], "warm");
    refuse(&["--top-p", "0"], "top-p 0 ");
    refuse(&["--top-p", "1.5"], "top-p 1.5");
    refuse(&["--top-p", "-1"], "top-p -1");
    refuse(&["--top-k", "0"], "top-k must be at least 1");
    refuse(&["--max-new-tokens", "0"], "max-new-tokens must be at least 1");
    refuse(&["--prompts-file", "empty.txt"], "--prompt");
    workshop.refused(&["generate", "model"], 2, &["--prompt"]);
    workshop.refused(&["generate", "model", "--prompts-file", "empty.txt"], 2, &["no prompt"]);
}

#[test]
fn prompts_that_the_model_cannot_continue_are_errors() {
    let workshop = Workshop::new();
    let long = "1+".repeat(64);
    workshop.refused(&["generate", "model", "--prompt", &long], 1, &["prompt 1 has 129 tokens", "128"]);
    workshop.refused(&["generate", "model", "--prompts-file", "none.txt"], 1, &["none.txt"]);
    workshop.refused(&["generate", "nowhere", "--prompt", "a"], 1, &["nowhere"]);

    // without a begin token there is nothing to start from
    let mut tokenizer: Value = serde_json::from_str(&workshop.read("model/tokenizer.json")).expect("JSON");
    tokenizer["post_processor"] = Value::Null;
    workshop.write("model/tokenizer.json", tokenizer.to_string());
    workshop.refused(&["generate", "model", "--prompt", ""], 2, &["prompt 1 is empty"]);

    // a token that the model has no embedding for
    tokenizer["model"]["vocab"]["~"] = Value::from(4000);
    workshop.write("model/tokenizer.json", tokenizer.to_string());
    workshop.refused(&["generate", "model", "--prompt", "a~"], 1, &["prompt 1 holds token 4000", "160"]);
}
