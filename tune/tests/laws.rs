//! The laws that every method obeys, judged from one table: method x site shape x number type.
//!
//! The table is [`ROWS`] in `support/methods.rs`: a new method is one row there, and nothing here knows a method. Sites are bare linears of small
//! shapes: square, tall, wide, and with sides that no circuit fits without padding. The laws that need a model or files are in `laws_in_a_model.rs`.

mod support;

use half::bf16;
use quanta_tune::adapter::{Adapter, Draw, Method, Pass, Site, methods};
use quanta_tune::model::Linear;
use quanta_tune::ops::{Storage, Weight};
use quanta_tune::tensor::{Matrix, Real, Stream, Workspace};
use support::methods::{ROWS, Row, Start};
use support::{assert_close, assert_same_bits, bits, differences, matrix, numbers};

/// `[d_out, d_in]` of the sites.
const SHAPES: [[usize; 2]; 6] = [[24, 24], [6, 24], [24, 6], [23, 22], [12, 17], [24, 23]];

const SEED: u64 = 3;
const TOKENS: usize = 9;

/// Calls `check` with every row and every shape that the row fits.
fn for_each(mut check: impl FnMut(&Row, [usize; 2])) {
    for row in ROWS {
        SHAPES.into_iter().filter(|&shape| fits(row, shape)).for_each(|shape| check(row, shape));
    }
}

fn fits(row: &Row, shape: [usize; 2]) -> bool {
    row.method().problems(&site(shape)).is_empty()
}

fn label(row: &Row, [d_out, d_in]: [usize; 2]) -> String {
    format!("{} on [{d_out}, {d_in}]", row.label())
}

fn site([d_out, d_in]: [usize; 2]) -> Site {
    Site::linear("model.layers.0.self_attn.q_proj", 0, d_out, d_in)
}

/// A base weight with rows of about unit norm, stored in the compute type or as bf16.
fn base<T: Real>([d_out, d_in]: [usize; 2], stored_bf16: bool) -> Weight<T> {
    let values: Vec<f64> =
        numbers::<f64>(d_out * d_in, "base").into_iter().map(|value| value / (d_in as f64).sqrt()).collect();
    let storage = match stored_bf16 {
        true => Storage::Bf16(values.into_iter().map(bf16::from_f64).collect()),
        false => Storage::Dense(values.into_iter().map(T::from_f64).collect()),
    };
    Weight::new(storage, d_out, d_in)
}

/// A linear with the methods attached, moved from their start by `size` times standard normal numbers.
fn adapted<T: Real>(methods: &[Method], shape: [usize; 2], stored_bf16: bool, size: f64) -> Linear<T> {
    let base = base(shape, stored_bf16);
    let mut linear = Linear::new(site(shape), base.clone(), None);
    for (slot, method) in methods.iter().enumerate() {
        linear.attach(method.attach(&site(shape), &base, SEED, slot).unwrap(), slot, slot);
        move_parameters(linear.attached_mut()[slot].adapter.as_mut(), size, &format!("move {slot}"));
    }
    linear.fold();
    linear
}

fn move_parameters<T: Real>(adapter: &mut dyn Adapter<T>, size: f64, name: &str) {
    let mut stream = Stream::new(SEED, "test", name);
    for value in adapter.parameters_mut().trainable_mut() {
        *value += T::from_f64(size * stream.normal());
    }
}

fn inputs<T: Real>(shape: [usize; 2], workspace: &Workspace<T>) -> Matrix<T> {
    matrix(TOKENS, shape[1], "x", workspace)
}

/// `W x + sum_i delta_i(x)`, W the working weight.
fn output<T: Real>(linear: &Linear<T>, x: &Matrix<T>, workspace: &Workspace<T>) -> Vec<T> {
    let mut y = linear.weight().forward(x, workspace);
    for attached in linear.attached() {
        attached.adapter.forward(x, &mut y, &Pass { workspace, draw: None });
    }
    y.data().to_vec()
}

/// Tolerance of identities that hold exactly in real numbers: SPEC's 1e-5 in f32; 1e-12 in f64. A bf16 weight that takes a fold is rounded by 2^-9 of
/// itself on either side, 24 terms at random.
fn rounding<T: Real>(bf16_fold: bool) -> f64 {
    match (bf16_fold, T::NAME) {
        (true, _) => 2.0 * 24f64.sqrt() / 512.0,
        (false, "f64") => 1e-12,
        (false, _) => 1e-5,
    }
}

#[test]
fn every_method_has_a_row() {
    // what unfreezes is judged in full.rs: it has no adapter
    for method in methods().iter().filter(|method| !method.unfreezes) {
        assert!(ROWS.iter().any(|row| row.name == method.name), "add a row for {}", method.name);
    }
    for row in ROWS {
        let fitting = SHAPES.iter().filter(|&&shape| fits(row, shape)).count();
        assert!(fitting >= 5 && fits(row, [24, 24]), "{} is judged on {fitting} shapes only", row.label());
    }
}

#[test]
fn the_start_is_the_base_layer() {
    fn check<T: Real>(row: &Row, shape: [usize; 2], stored_bf16: bool) {
        let workspace = Workspace::<T>::new(1).unwrap();
        let x = inputs(shape, &workspace);
        let label = format!("{} {} bf16 {stored_bf16}", label(row, shape), T::NAME);
        let expected = output(&Linear::new(site(shape), base(shape, stored_bf16), None), &x, &workspace);
        let got = output(&adapted(&[row.method()], shape, stored_bf16, 0.0), &x, &workspace);
        match row.start {
            Start::Exact => assert_same_bits(&label, &got, &expected),
            Start::Rounded => assert_close(&label, &got, &expected, rounding::<T>(stored_bf16)),
        }
    }
    for_each(|row, shape| {
        for stored_bf16 in [false, true] {
            check::<f32>(row, shape, stored_bf16);
            check::<f64>(row, shape, stored_bf16);
        }
    });
}

#[test]
fn forward_equals_merged() {
    fn check<T: Real>(row: &Row, shape: [usize; 2]) {
        let workspace = Workspace::<T>::new(1).unwrap();
        let x = inputs(shape, &workspace);
        let linear = adapted::<T>(&[row.method()], shape, false, 0.3);
        let base = base::<T>(shape, false);
        let merged = base.plus(&linear.attached()[0].adapter.update()).forward(&x, &workspace);
        let label = format!("{} {}", label(row, shape), T::NAME);
        let got = output(&linear, &x, &workspace);
        assert_close(&label, &got, merged.data(), rounding::<T>(false));
        // the parameters were moved, so an update that is forgotten on both sides shows
        let unchanged = base.forward(&x, &workspace);
        assert!(bits(&got) != bits(unchanged.data()), "{label}: nothing happens");
    }
    for_each(|row, shape| {
        check::<f32>(row, shape);
        check::<f64>(row, shape);
    });
}

/// `sum(dy * y)` of an adapter alone, or its gradients.
struct Slope {
    adapter: Box<dyn Adapter<f64>>,
    dy: Vec<f64>,
    shape: [usize; 2],
    draw: Option<Draw>,
    workspace: Workspace<f64>,
}

impl Slope {
    fn new(row: &Row, shape: [usize; 2], draw: Option<Draw>) -> Self {
        let mut adapter = row.method().attach(&site(shape), &base(shape, false), SEED, 0).unwrap();
        move_parameters(adapter.as_mut(), 0.3, "move");
        Self { adapter, dy: numbers(TOKENS * shape[0], "dy"), shape, draw, workspace: Workspace::new(1).unwrap() }
    }

    fn value(&self, x: &[f64]) -> f64 {
        let mut input = self.workspace.matrix(TOKENS, self.shape[1]);
        input.copy_from(x);
        let mut y = self.workspace.zeros(TOKENS, self.shape[0]);
        self.adapter.forward(&input, &mut y, &Pass { workspace: &self.workspace, draw: self.draw });
        y.data().iter().zip(&self.dy).map(|(a, b)| a * b).sum()
    }

    /// `(dx, parameter gradient)`; without `wanted` no `dx` is asked for.
    fn gradients(&self, x: &[f64], wanted: bool) -> (Vec<f64>, Vec<f64>) {
        let (workspace, [d_out, d_in]) = (&self.workspace, self.shape);
        let pass = Pass { workspace, draw: self.draw };
        let (mut input, mut dy) = (workspace.matrix(TOKENS, d_in), workspace.matrix(TOKENS, d_out));
        input.copy_from(x);
        dy.copy_from(&self.dy);
        let mut y = workspace.zeros(TOKENS, d_out);
        let saved = self.adapter.forward(&input, &mut y, &pass);
        let mut dx = workspace.zeros(TOKENS, d_in);
        let mut gradient = vec![0.0; self.adapter.parameters().trainable().len()];
        self.adapter.backward(&input, &dy, saved, wanted.then_some(&mut dx), &mut gradient, &pass);
        (dx.data().to_vec(), gradient)
    }
}

const DRAW: Draw = Draw { seed: 8, step: 4, micro_batch: 1 };

#[test]
fn gradients_are_central_differences() {
    for_each(|row, shape| {
        for draw in [None, Some(DRAW)] {
            let label = format!("{} training {}", label(row, shape), draw.is_some());
            let mut slope = Slope::new(row, shape, draw);
            let x = numbers::<f64>(TOKENS * shape[1], "x");
            let (dx, gradient) = slope.gradients(&x, true);
            let all: Vec<usize> = (0..x.len()).collect();
            assert_close(&format!("{label}: dx"), &dx, &differences(&x, &all, |x| slope.value(x)), 1e-9);
            let start = slope.adapter.parameters().trainable().to_vec();
            let all: Vec<usize> = (0..start.len()).collect();
            let expected = differences(&start, &all, |values| {
                slope.adapter.parameters_mut().trainable_mut().copy_from_slice(values);
                slope.value(&x)
            });
            assert_close(&format!("{label}: parameters"), &gradient, &expected, 1e-9);
        }
    });
}

#[test]
fn dropout_draws_a_new_mask_for_every_step_and_none_when_evaluating() {
    for_each(|row, shape| {
        let value = |draw| Slope::new(row, shape, draw).value(&numbers::<f64>(TOKENS * shape[1], "x"));
        let names = [DRAW, Draw { seed: 9, ..DRAW }, Draw { step: 5, ..DRAW }, Draw { micro_batch: 0, ..DRAW }];
        let values = names.map(|draw| value(Some(draw)));
        let drops = row.settings.contains("dropout");
        assert_eq!(value(Some(DRAW)).to_bits(), values[0].to_bits(), "{}", label(row, shape));
        for other in values[1..].iter().chain(&[value(None)]) {
            assert_eq!(drops, *other != values[0], "{}: {values:?}", label(row, shape));
        }
    });
}

#[test]
fn backward_without_dx_gives_the_same_parameter_gradient() {
    for_each(|row, shape| {
        let slope = Slope::new(row, shape, Some(DRAW));
        let x = numbers::<f64>(TOKENS * shape[1], "x");
        let (with, without) = (slope.gradients(&x, true), slope.gradients(&x, false));
        assert_same_bits(&label(row, shape), &without.1, &with.1);
        assert!(without.0.iter().all(|&v| v == 0.0) && with.0.iter().any(|&v| v != 0.0));
    });
}

#[test]
fn backward_adds_to_what_is_there() {
    for_each(|row, shape| {
        let slope = Slope::new(row, shape, Some(DRAW));
        let x = numbers::<f64>(TOKENS * shape[1], "x");
        let (dx, gradient) = slope.gradients(&x, true);
        let (workspace, [d_out, d_in]) = (&slope.workspace, shape);
        let pass = Pass { workspace, draw: Some(DRAW) };
        let (input, mut dy) = (inputs(shape, workspace), workspace.matrix(TOKENS, d_out));
        dy.copy_from(&slope.dy);
        let mut y = workspace.zeros(TOKENS, d_out);
        let saved = slope.adapter.forward(&input, &mut y, &pass);
        let mut twice = workspace.matrix(TOKENS, d_in);
        twice.copy_from(&dx);
        let mut sum = gradient.clone();
        slope.adapter.backward(&input, &dy, saved, Some(&mut twice), &mut sum, &pass);
        let double = |values: &[f64]| values.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
        assert_close(&format!("{}: dx", label(row, shape)), twice.data(), &double(&dx), 1e-12);
        assert_close(&format!("{}: parameters", label(row, shape)), &sum, &double(&gradient), 1e-12);
    });
}

#[test]
fn the_parameter_count_is_the_formula() {
    for_each(|row, shape| {
        let (method, site) = (row.method(), site(shape));
        let adapter = method.attach::<f32>(&site, &base(shape, false), SEED, 0).unwrap();
        let parameters = adapter.parameters();
        let listed = parameters.tensors().iter().filter(|tensor| tensor.trainable).map(|tensor| tensor.elements());
        let formula = (row.parameters)(site.d_in, site.d_out);
        let counts = [method.parameters(&site), parameters.trainable().len(), listed.sum()];
        assert_eq!(counts, [formula; 3], "{}", label(row, shape));
    });
}

#[test]
fn the_same_names_give_the_same_start_and_other_names_another() {
    for_each(|row, shape| {
        let start = |seed, name: &str, entry| {
            let site = Site { name: name.into(), ..site(shape) };
            let adapter = row.method().attach::<f64>(&site, &base(shape, false), seed, entry).unwrap();
            [bits(adapter.parameters().trainable()), bits(adapter.parameters().frozen())]
        };
        let (here, above) = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj");
        let first = start(1, here, 0);
        assert_eq!(first, start(1, here, 0), "{}", label(row, shape));
        for other in [start(2, here, 0), start(1, above, 0), start(1, here, 1)] {
            assert_eq!(row.drawn, other != first, "{}", label(row, shape));
        }
    });
}

/// Entries of one method on one site, with the same parameters: only the mask can tell them apart.
#[test]
fn every_site_and_entry_draws_a_mask_of_its_own() {
    let shape = [23, 22];
    let workspace = Workspace::<f64>::new(1).unwrap();
    let x = inputs(shape, &workspace);
    for row in ROWS {
        let parameters = Slope::new(row, shape, None).adapter.parameters().trainable().to_vec();
        let output = |name: &str, entry| {
            let site = Site { name: name.into(), ..site(shape) };
            let mut adapter = row.method().attach::<f64>(&site, &base(shape, false), SEED, entry).unwrap();
            adapter.parameters_mut().trainable_mut().copy_from_slice(&parameters);
            let mut y = workspace.zeros(TOKENS, shape[0]);
            let mut without = workspace.zeros(TOKENS, shape[0]);
            adapter.forward(&x, &mut y, &Pass { workspace: &workspace, draw: Some(DRAW) });
            adapter.forward(&x, &mut without, &Pass { workspace: &workspace, draw: None });
            y.data().iter().zip(without.data()).map(|(a, b)| a - b).collect::<Vec<_>>()
        };
        // what dropout changes, which S has no part in
        let first = output("a", 0);
        assert_eq!(row.settings.contains("dropout"), first.iter().any(|&v| v != 0.0), "{}", label(row, shape));
        for other in [output("b", 0), output("a", 1)] {
            let difference = first.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert_eq!(row.settings.contains("dropout"), difference > 1e-3, "{}: {difference}", label(row, shape));
        }
    }
}

#[test]
fn two_methods_on_one_site_add_their_updates() {
    let workspace = Workspace::<f64>::new(1).unwrap();
    for first in ROWS {
        for second in ROWS {
            let shape = [23, 22];
            let linear = adapted::<f64>(&[first.method(), second.method()], shape, false, 0.3);
            let [a, b] = linear.attached() else { panic!("two adapters") };
            let sum: Vec<f64> = a.adapter.update().iter().zip(b.adapter.update()).map(|(a, b)| a + b).collect();
            let x = inputs(shape, &workspace);
            let expected = base::<f64>(shape, false).plus(&sum).forward(&x, &workspace);
            let label = format!("{} and {}", label(first, shape), label(second, shape));
            assert_close(&label, &output(&linear, &x, &workspace), expected.data(), 1e-12);
        }
    }
}
