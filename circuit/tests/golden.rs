//! Golden files: the values and gradients of the authors' layer, computed in f64 by another program.
//!
//! Reads every file of `quanta_layer/` in the directory that the variable `QUANTA_GOLDEN` names, else of `testdata/golden` at the workspace root; nothing
//! here knows the files by name. Each one checks both kernels in both number types.

use std::path::PathBuf;

use quanta_circuit::{Plan, Real, apply, backward, operator, reference};
use safetensors::SafeTensors;

fn directory() -> PathBuf {
    let root = std::env::var_os("QUANTA_GOLDEN");
    let root = root.map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden").into(), PathBuf::from);
    root.join("quanta_layer")
}

fn tensor<T: Real>(file: &SafeTensors<'_>, name: &str) -> Vec<T> {
    let data = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = data.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
    values.map(T::from_f64).collect()
}

#[track_caller]
fn assert_close<T: Real>(name: &str, got: &[T], expected: &[T], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.to_f64().abs()));
    let errors = got.iter().zip(expected).map(|(got, expected)| (got.to_f64() - expected.to_f64()).abs());
    let (worst, error) = errors.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(error <= tolerance * scale, "{name}: relative error {:e} at index {worst}", error / scale);
}

/// `y += x W^t` for a row-major weight `[d_out, d_in]`.
fn linear<T: Real>(x: &[T], weight: &[T], d_in: usize, y: &mut [T], d_out: usize) {
    for (x, y) in x.chunks_exact(d_in).zip(y.chunks_exact_mut(d_out)) {
        for (y, row) in y.iter_mut().zip(weight.chunks_exact(d_in)) {
            *y += row.iter().zip(x).map(|(&w, &x)| w * x).sum();
        }
    }
}

type Apply<T> = fn(&Plan, &[T], &[T], usize, &mut [T], usize, T);
type Backward<T> = fn(&Plan, &[T], &[T], usize, &[T], usize, T, Option<&mut [T]>, Option<&mut [T]>);

fn check<T: Real>(context: &str, file: &SafeTensors<'_>, plan: &Plan, sizes: [usize; 2], tolerance: f64) {
    let [d_in, d_out] = sizes;
    let (x, dy, weight) = (tensor::<T>(file, "x"), tensor::<T>(file, "dy"), tensor::<T>(file, "base_weight"));
    let joined = |prefix: &str| -> Vec<T> {
        (0..plan.gates().len()).flat_map(|i| tensor::<T>(file, &format!("{prefix}.{i}"))).collect()
    };
    let (gates, frozen) = (joined("gate"), joined("frozen_gate"));
    let kernels: [(&str, Apply<T>, Backward<T>); 2] =
        [("tiled", apply, backward), ("reference", reference::apply, reference::backward)];
    for (kernel, apply, backward) in kernels {
        let context = format!("{context} {kernel} {}", T::NAME);
        let bias = file.tensor("bias").map_or(vec![T::ZERO; d_out], |_| tensor(file, "bias"));
        let mut y = bias.repeat(x.len() / d_in);
        linear(&x, &weight, d_in, &mut y, d_out);
        apply(plan, &gates, &x, d_in, &mut y, d_out, T::ONE);
        apply(plan, &frozen, &x, d_in, &mut y, d_out, -T::ONE);
        assert_close(&format!("{context} y"), &y, &tensor(file, "y"), tolerance);

        let transposed: Vec<T> = (0..d_in * d_out).map(|i| weight[i % d_out * d_in + i / d_out]).collect();
        let (mut dx, mut dgates) = (vec![T::ZERO; x.len()], vec![T::ZERO; gates.len()]);
        linear(&dy, &transposed, d_out, &mut dx, d_in);
        backward(plan, &gates, &x, d_in, &dy, d_out, T::ONE, Some(&mut dx), Some(&mut dgates));
        backward(plan, &frozen, &x, d_in, &dy, d_out, -T::ONE, Some(&mut dx), None);
        assert_close(&format!("{context} dx"), &dx, &tensor(file, "dx"), tolerance);
        for (i, gate) in plan.gates().iter().enumerate() {
            let expected = tensor(file, &format!("dgate.{i}"));
            assert_close(&format!("{context} dgate.{i}"), &dgates[gate.range()], &expected, tolerance);
        }
    }
    assert_close(&format!("{context} operator"), &operator(plan, &gates), &tensor(file, "operator_T"), tolerance);
}

#[test]
fn every_golden_file_is_reproduced() {
    let directory = directory();
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files = 0;
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let dims: Vec<usize> = metadata["dims"].split('-').map(|size| size.parse().unwrap()).collect();
        let axes: Vec<Vec<isize>> = serde_json::from_str(&metadata["gate_axes"]).unwrap();
        let plan = Plan::free(&dims, &axes).unwrap();
        let context = path.file_name().unwrap().to_string_lossy();
        assert_eq!(Plan::all_pairs(&dims).unwrap(), plan, "{context}: the files hold all-pairs plans");
        assert_eq!(plan.einsum_apply(), metadata["einsum_apply"], "{context}");
        assert_eq!(plan.einsum_operator(), metadata["einsum_operator"], "{context}");
        for (i, gate) in plan.gates().iter().enumerate() {
            assert_eq!(file.tensor(&format!("gate.{i}")).unwrap().shape(), gate.shape(), "{context} gate {i}");
        }
        let sizes = ["in_features", "out_features"].map(|key| metadata[key].parse().unwrap());
        check::<f64>(&context, &file, &plan, sizes, 1e-11);
        check::<f32>(&context, &file, &plan, sizes, 1e-5);
    }
    assert!(files > 0, "no golden file in {}", directory.display());
}
