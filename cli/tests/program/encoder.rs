//! Encoders as a user meets them: scored by the outputs of their head, planned with the head that trains beside adapters, and asked for no tokens.

use serde_json::json;

use super::fixture::Workshop;

fn workshop() -> Workshop {
    let workshop = Workshop::empty();
    workshop.add_model("../encoders/roberta_3", "model");
    workshop
}

#[test]
fn score_prints_the_outputs_of_the_head() {
    let workshop = workshop();
    let scored = workshop.json(&["score", "model", "--tokens", "0,17,4,2"]);
    assert_eq!(scored["tokens"], json!([0, 17, 4, 2]));
    assert_eq!(scored.as_object().map(|map| map.len()), Some(2));
    let logits = scored["logits"].as_array().expect("a list");
    assert!(logits.len() == 3 && logits.iter().all(|z| z.as_f64().is_some_and(f64::is_finite)));
    // one token is enough, and the plain form is a line for each output
    assert_eq!(workshop.run(&["score", "model", "--tokens", "5"]).lines().count(), 3);
    workshop.refused(&["score", "model", "--tokens", "60"], 1, &["60"]);
}

#[test]
fn what_needs_tokens_is_refused() {
    let workshop = workshop();
    workshop.refused(&["generate", "model", "--prompt", "a"], 1, &["encoder", "choose a decoder"]);
    workshop.write("sums.jsonl", "{\"prompt\": \"1 + 1 =\", \"completion\": \" 2\"}\n");
    let data = "[data]\ntask = \"jsonl\"\npath = \"sums.jsonl\"\ntrain = 1\n";
    let config = format!("[model]\npath = \"model\"\n{data}[[adapter]]\ntype = \"lora\"\nr = 2\nsites = [\"query\"]\n");
    workshop.write("run.toml", config);
    workshop.refused(&["train", "run.toml", "--out", "run"], 1, &["encoder", "choose a decoder"]);
}

#[test]
fn the_plan_holds_the_head_that_trains() {
    let workshop = workshop();
    workshop.write(
        "plan.toml",
        "[model]\npath = \"model\"\n[[adapter]]\ntype = \"lora\"\nr = 2\nsites = [\"query\", \"value\"]\n",
    );
    let plan = workshop.json(&["plan", "plan.toml"]);
    // 24 x 24 and 3 x 24 with their biases, behind 2 layers x 2 sites x 2 x 2 x 24
    assert_eq!(plan["trainable_parameters"], 24 * 24 + 24 + 3 * 24 + 3 + 384);
    let sites = plan["adapters"][1]["sites"].as_array().expect("a second entry").len();
    assert_eq!((plan["adapters"].as_array().map(Vec::len), sites), (Some(2), 2));
}
