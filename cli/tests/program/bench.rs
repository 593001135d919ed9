//! `quanta bench`: small measurements print what a program reads, and sizes that mean nothing are refused.

use serde_json::Value;

use crate::fixture::Workshop;

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
