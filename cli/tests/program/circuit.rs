//! `quanta circuit` and `quanta bench circuit`: plans, matrices in files, and what they print.

use super::fixture::{Stored, Workshop, tensor_file};

/// A float64 `.npy` file, as NumPy writes it.
fn npy(rows: usize, values: &[f64]) -> Vec<u8> {
    let shape = format!("({rows}, {})", values.len() / rows);
    let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat((64 - (11 + header.len()) % 64) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A well-conditioned 8 x 8 matrix with positive determinant: its rows lean on the diagonal.
fn matrix() -> Vec<f64> {
    (0..64).map(|i| if i / 8 == i % 8 { 4.0 } else { f64::from(i * 37 % 11) / 11.0 - 0.5 }).collect()
}

/// The same with two rows exchanged: negative determinant.
fn mirrored() -> Vec<f64> {
    let mut values = matrix();
    let (first, second) = values.split_at_mut(8);
    first.swap_with_slice(&mut second[..8]);
    values
}

#[test]
fn show_counts_and_draws() {
    let workshop = Workshop::empty();
    let plan = workshop.json(&[
        "circuit",
        "show",
        "16-8-8-8",
        "--in-features",
        "8192",
        "--out-features",
        "1024",
        "--svg",
        "a.svg",
    ]);
    // 6 gates: 64^2 x 2 + 128^2 ... as in the paper's table; an eighth of the last gate's rows is alive
    assert_eq!((plan["parameters"].as_u64(), plan["live_parameters"].as_u64()), (Some(61_440), Some(61_440 - 14_336)));
    assert!(workshop.read("a.svg").starts_with("<svg"));
    let trimmed =
        workshop.json(&["circuit", "show", "16-8-8-8", "--in-features", "8192", "--out-features", "1024", "--trim"]);
    assert_eq!(trimmed["parameters"].as_u64(), Some(61_440 - 14_336));
    assert!(workshop.run(&["circuit", "show", "4-3-2: (-1,-2) (-3)"]).contains("4-3-2: (-1,-2) (-3)"));
    workshop.refused(&["circuit", "show", "4-3-2: (-1,-5)"], 2, &["-5"]);
    workshop.refused(&["circuit", "show", "4-x"], 2, &["at character 3"]);
    workshop.refused(&["circuit", "show", "4-3", "--out-features", "0"], 2, &["at least one"]);
}

#[test]
fn einsum_translates_both_ways() {
    let workshop = Workshop::empty();
    let there = workshop.json(&["circuit", "einsum", "4-3-2"]);
    assert_eq!(
        (there["apply"].as_str(), there["operator"].as_str()),
        (Some("...abc,efbc,diaf,ghde->...ghi"), Some("efbc,diaf,ghde->ghiabc"))
    );
    for expression in ["...abc,efbc,diaf,ghde->...ghi", "efbc,diaf,ghde->ghiabc"] {
        assert_eq!(workshop.json(&["circuit", "einsum", expression, "--dims", "4-3-2"])["plan"], "4-3-2");
    }
    workshop.refused(&["circuit", "einsum", "...abc,efbc->...aef"], 2, &["--dims"]);
    workshop.refused(&["circuit", "einsum", "...abc,zzzz->...abc", "--dims", "4-3-2"], 2, &[]);
}

#[test]
fn decompose_writes_gates_that_rank_reads() {
    let workshop = Workshop::empty();
    workshop.write("a.npy", npy(8, &matrix()));
    workshop.write("b.npy", npy(8, &mirrored()));
    let found =
        workshop.json(&["circuit", "decompose", "a.npy", "--dims", "2-2-2", "--real", "--out", "gates.safetensors"]);
    assert!(
        found["relative_error"].as_f64().is_some_and(|error| error < 8e-12) && found["complex"] == false,
        "{found}"
    );
    let rank = workshop.json(&["circuit", "rank", "gates.safetensors"]);
    assert_eq!((rank["rank"].as_u64(), rank["upper"].as_u64()), (Some(8), Some(8)));
    let complex = workshop.json(&["circuit", "decompose", "b.npy", "--dims", "4-2"]);
    // two axes: one gate is the whole matrix, of any determinant
    assert_eq!((complex["gates"].as_u64(), complex["complex"].as_bool()), (Some(1), Some(false)));
    let complex = workshop.json(&["circuit", "decompose", "b.npy", "--dims", "2-2-2"]);
    assert!(
        complex["relative_error"].as_f64().is_some_and(|error| error < 8e-12) && complex["complex"] == true,
        "{complex}"
    );
    workshop.refused(&["circuit", "decompose", "b.npy", "--dims", "2-2-2", "--real"], 1, &["determinant", "complex"]);
    workshop.refused(&["circuit", "decompose", "a.npy", "--dims", "4-4"], 1, &["16 x 16"]);
    workshop.refused(&["circuit", "decompose", "missing.npy", "--dims", "2-2-2"], 1, &["missing.npy"]);
    workshop.write("c.npy", &npy(8, &matrix())[..200]);
    workshop.refused(&["circuit", "decompose", "c.npy", "--dims", "2-2-2"], 1, &["c.npy", "bytes"]);
    workshop.refused(&["circuit", "rank", "gates.safetensors", "--plan", "4-2"], 2, &["gate.0"]);
}

#[test]
fn approximate_lowers_the_error_and_names_the_tensor() {
    let workshop = Workshop::empty();
    let floats = |values: &[f64]| values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect::<Vec<u8>>();
    let stored = |shape: &[usize]| Stored { dtype: "F32".into(), shape: shape.to_vec(), bytes: floats(&matrix()) };
    let tensors = [("a".to_owned(), stored(&[8, 8])), ("b".to_owned(), stored(&[64]))].into_iter().collect();
    workshop.write("two.safetensors", tensor_file(&tensors));
    let found = workshop.json(&[
        "circuit",
        "approximate",
        "two.safetensors",
        "--tensor",
        "a",
        "--plan",
        "2-2-2",
        "--out",
        "g.safetensors",
    ]);
    let errors: Vec<f64> =
        found["errors"].as_array().expect("a list").iter().filter_map(|error| error.as_f64()).collect();
    assert!(errors.windows(2).all(|pair| pair[1] <= pair[0]) && errors.last() < errors.first(), "{errors:?}");
    assert_eq!(workshop.json(&["circuit", "rank", "g.safetensors"])["plan"], "2-2-2");
    workshop.refused(&["circuit", "approximate", "two.safetensors", "--plan", "2-2-2"], 2, &["--tensor", "a, b"]);
    workshop.refused(
        &["circuit", "approximate", "two.safetensors", "--tensor", "b", "--plan", "2-2-2"],
        2,
        &["two axes"],
    );
    workshop.refused(&["circuit", "approximate", "two.safetensors", "--tensor", "a", "--plan", "4-4"], 2, &["8 x 8"]);
}

#[test]
fn the_benchmark_prints_what_a_program_reads() {
    let line = Workshop::empty().json(&[
        "bench",
        "circuit",
        "--dims",
        "4-3-2",
        "--out-features",
        "20",
        "--tokens",
        "7",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]);
    // three gates of seven tokens; how many numbers a register holds is the machine's
    assert!(line["kept_bytes"].as_u64().is_some_and(|bytes| bytes >= 7 * 2 * 24 * 4), "{line}");
    // where the processor has pairs of bf16
    assert!(line["rounded_forward_backward_seconds"].as_f64().is_none_or(|seconds| seconds > 0.0), "{line}");
    assert!(line.get("rounded_forward_backward_seconds").is_some(), "{line}");
    for key in ["frozen", "circuit", "kept", "einsum"]
        .iter()
        .flat_map(|side| [format!("{side}_forward_seconds"), format!("{side}_forward_backward_seconds")])
    {
        assert!(line[&key].as_f64().is_some_and(|seconds| seconds > 0.0), "{key}: {line}");
    }
    assert_eq!(
        (line["in_features"].as_u64(), line["out_features"].as_u64(), line["tokens"].as_u64()),
        (Some(24), Some(20), Some(7))
    );
}
