//! `quanta bench`: small measurements print what a program reads, and sizes that mean nothing are refused.

use serde_json::{Value, json};

use crate::fixture::{Workshop, relative, tokenizer};

/// Whether these keys hold positive numbers.
fn positive(line: &Value, keys: &[&str]) {
    for key in keys {
        assert!(line[*key].as_f64().is_some_and(|number| number > 0.0 && number.is_finite()), "{key}: {line}");
    }
}

#[test]
fn products_are_measured_both_ways_beside_the_limit() {
    let workshop = Workshop::empty();
    for dtype in ["f32", "bf16"] {
        let arguments = ["bench", "gemm", "--shape", "9x40x33", "16x8x24", "--dtype", dtype];
        let small = ["--repeats", "2", "--threads", "2"];
        let out = workshop.run(&[&arguments[..], &small, &["--json"]].concat());
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(lines.iter().map(|line| &line["shape"]).collect::<Vec<_>>(), ["9x40x33", "16x8x24"]);
        for line in &lines {
            let times = ["forward_seconds", "backward_seconds"];
            let rates = ["forward_gflops", "backward_gflops", "limit_gflops"];
            positive(line, &[times, ["threads", "rows"]].concat());
            positive(line, &rates);
            assert!(line["kernel"].is_string() && line["dtype"] == dtype, "{line}");
        }
        let table = workshop.run(&[&arguments[..], &small].concat());
        assert!(table.contains("16x8x24") && table.contains("limit"), "{table}");
    }
    for shape in ["12x12", "0x3x4", "wide"] {
        workshop.refused(&["bench", "gemm", "--shape", shape], 2, &[shape, "512x4096x4096"]);
    }
    workshop.refused(&["bench", "gemm", "--shape", "9x4000000000x4000000000"], 1, &["GiB are free"]);
    workshop.refused(&["bench", "gemm", "--repeats", "0"], 2, &["--repeats"]);
}

#[test]
fn generation_is_measured_beside_the_memory() {
    let workshop = Workshop::empty();
    let arguments = [
        "bench",
        "decode",
        "--shape",
        "tiny-288",
        "--prompt",
        "20",
        "--tokens",
        "3",
        "--repeats",
        "1",
        "--threads",
        "2",
    ];
    for (options, bytes) in [
        (["--rows", "3", "--shared", "18", "--dtype", "f32"], 4),
        (["--rows", "1", "--shared", "0", "--dtype", "bf16"], 2),
    ] {
        let line = workshop.json(&[&arguments[..], &options].concat());
        let times = ["prefill_seconds", "prompt_tokens_per_second", "token_seconds", "tokens_per_second"];
        positive(&line, &times);
        positive(&line, &["weight_gb_per_second", "memory_gb_per_second", "memory_share"]);
        // 6 layers, the final norm and a head of 32,000 rows of 288; of the embedding only rows
        let (attention, mlp, norms) = (4 * 288 * 288, 3 * 288 * 768, 2 * 288);
        assert_eq!(line["weight_bytes"], bytes * (6 * (attention + mlp + norms) + 288 + 32_000 * 288));
        assert_eq!((line["rows"].to_string(), line["prompt"].as_u64()), (options[1].to_owned(), Some(20)));
    }
    assert!(workshop.run(&arguments).contains("GB/s of weights"));
    // q and v of 6 layers
    for (options, merged) in [
        (&[][..], 12),
        (&["--set", "s=circuit"], 12),
        (&["--unmerged"], 0),
        (&["--dtype", "bf16"], 0),
        (&["--adapter", "parallel"], 0),
    ] {
        let adapter = if options.contains(&"--adapter") { &[][..] } else { &["--adapter", "quanta"] };
        let line = workshop.json(&[&arguments[..], adapter, options].concat());
        assert_eq!((&line["sites"], &line["merged_sites"]), (&json!(12), &json!(merged)), "{options:?}");
    }
    assert!(workshop.run(&[&arguments[..], &["--adapter", "lora"]].concat()).contains("12 of 12 sites merged"));
    let refused = |options: &[&str], needle: &str| {
        workshop.refused(&[&["bench", "decode"], options].concat(), 2, &[needle]);
    };
    refused(&["--shape", "large"], "smollm2-135m");
    refused(&["--rows", "0"], "--rows");
    refused(&["--adapter", "nothing"], "quanta methods");
    refused(&["--adapter", "quanta", "--set", "s=elsewhere"], "elsewhere");
    refused(&["--tokens", "1"], "--tokens");
    refused(&["--prompt", "4", "--shared", "5"], "cannot share 5");
    refused(&["--prompt", "2000", "--tokens", "49"], "2048");
}

#[test]
fn training_is_measured_with_and_without_each_saving() {
    let workshop = Workshop::empty();
    let measure = |options: &[&str]| {
        let small = [
            "bench",
            "train",
            "--shape",
            "tiny-288",
            "--batch",
            "2",
            "--mean-length",
            "70",
            "--steps",
            "2",
            "--warmup",
            "0",
        ];
        let line = workshop.json(&[&small[..], options].concat());
        positive(
            &line,
            &["median_step_seconds", "tokens_per_second", "samples_per_second", "micro_batch_tokens", "gflops"],
        );
        positive(&line["flops_per_token"], &["forward", "backward", "head", "total"]);
        line
    };
    let losses = |line: &Value| -> Vec<f64> {
        line["losses"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
    };
    let flops = |line: &Value| line["flops_per_token"]["total"].as_f64().expect("a number");
    let plain = measure(&[]);
    for options in [&["--labels", "all"][..], &["--padded"], &["--set", "s=circuit"]] {
        let line = measure(options);
        assert!(flops(&line) > flops(&plain), "{options:?}: {line}");
        // the same losses, to rounding in f32: about 10, sums of some hundred terms
        assert!(relative(&losses(&line), &losses(&plain)) < 1e-4, "{options:?}: {line} and {plain}");
    }
    let shared = measure(&["--choices", "3"]);
    let separate = measure(&["--choices", "3", "--separate"]);
    assert!(relative(&losses(&separate), &losses(&shared)) < 1e-4, "{separate} and {shared}");
    assert!(separate["micro_batch_tokens"].as_f64() > shared["micro_batch_tokens"].as_f64());
    let bare = measure(&["--adapter", "none"]);
    assert!(flops(&bare) < flops(&plain), "{bare} and {plain}");
    for (options, needle) in [
        (&["--choices", "1"][..], "--choices"),
        (&["--separate"], "--choices"),
        (&["--choices", "3", "--padded"], "--padded"),
        (&["--set", "s=elsewhere"], "elsewhere"),
        (&["--set", "s"], "key=value"),
        (&["--adapter", "nothing"], "quanta methods"),
    ] {
        workshop.refused(&[&["bench", "train", "--shape", "tiny-288"], options].concat(), 2, &[needle]);
    }
}

#[test]
fn real_questions_are_the_same_with_and_without_their_prompt() {
    let workshop = Workshop::empty();
    workshop.write("tokenizer/tokenizer.json", tokenizer().to_string());
    workshop.write("tokenizer/tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    let row = |i: usize| {
        let question = format!("Is {} more than {}?", "9".repeat(1 + i % 5), i);
        let options = ["true/false", "one/two/three", "a/b/c/d/e"][i % 3];
        let answer = options.split('/').nth(i % 2).expect("an option");
        json!({ "instruction": format!("{question}\n\nAnswer format: {options}"), "input": "", "output": "", "answer": answer })
    };
    workshop.write("rows.json", Value::from((0..7).map(row).collect::<Vec<_>>()).to_string());
    let plain = ["bench", "train", "--shape", "tiny-288", "--batch", "2", "--accumulate", "2", "--steps", "2"];
    let on = ["--data", "rows.json", "--task", "commonsense", "--tokenizer", "tokenizer", "--warmup", "0"];
    let measure = |options: &[&str]| workshop.json(&[&plain[..], &on, options].concat());
    let (shared, separate) = (measure(&[]), measure(&["--separate"]));
    for line in [&shared, &separate] {
        positive(line, &["loss", "gradient_norm", "tokens_per_example", "seconds_per_example", "gflops"]);
    }
    let number = |line: &Value, key: &str| line[key].as_f64().expect("a number");
    let list = |line: &Value, key: &str| -> Vec<f64> {
        line[key].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
    };
    for key in ["losses", "gradient_norms"] {
        assert_eq!(list(&shared, key).len(), 2);
        assert!(relative(&list(&separate, key), &list(&shared, key)) < 1e-4, "{key}: {separate} and {shared}");
    }
    for key in ["loss", "gradient_norm"] {
        assert!(relative(&[number(&separate, key)], &[number(&shared, key)]) < 1e-4, "{key}");
    }
    // the prompts are longer than the answers, and have two to five of these
    assert!(number(&separate, "tokens_per_example") > 1.5 * number(&shared, "tokens_per_example"), "{separate}");
    let text = workshop.run(&[&plain[..], &on].concat());
    assert!(text.contains(" s an example, loss "), "{text}");
    for (options, code, needle) in [
        (&["--data", "rows.json"][..], 2, "--task"),
        (&["--task", "commonsense"], 2, "--data"),
        (&[&on[..], &["--choices", "3"]].concat(), 2, "--choices"),
        (&[&on[..], &["--padded"]].concat(), 2, "--padded"),
        (&["--data", "rows.json", "--task", "commonsens", "--tokenizer", "tokenizer"], 2, "commonsense"),
        (&["--data", "rows.json", "--task", "commonsense", "--tokenizer", "elsewhere"], 1, "elsewhere"),
        (&["--data", "text.txt", "--task", "text", "--tokenizer", "tokenizer"], 2, "candidates"),
    ] {
        workshop.write("text.txt", "some words");
        workshop.refused(&[&["bench", "train", "--shape", "tiny-288"], options].concat(), code, &[needle]);
    }
}
