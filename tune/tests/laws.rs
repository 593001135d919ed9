//! The laws that every method obeys, judged from one table: method x site shape x number type.
//!
//! The table is [`ROWS`] in `support/methods.rs`: a new method is one row there, and nothing here knows a method. Sites are bare linears of small
//! shapes: square, tall, wide, and with sides that no circuit fits without padding. The laws that need a model or files are in `laws_in_a_model.rs`.

mod support;

use half::bf16;
use quanta_tune::adapter::{Adapter, Draw, Gradients, Method, Pass, Place, Site, Target, methods};
use quanta_tune::model::{InputGradient, Linear};
use quanta_tune::ops::{Storage, Weight};
use quanta_tune::tensor::{Matrix, Real, Stream, Workspace};
use support::diagonal::Diagonal;
use support::methods::{ROWS, Row, Start};
use support::{assert_close, assert_same_bits, bits, differences, matrix, numbers};

/// `[d_out, d_in]` of the sites.
const SHAPES: [[usize; 2]; 6] = [[24, 24], [6, 24], [24, 6], [23, 22], [12, 17], [24, 23]];

const SEED: u64 = 3;
const TOKENS: usize = 9;

/// Calls `check` with every row and every site that the row fits: of every shape, and before and behind the residual stream where that makes a difference.
fn for_each(mut check: impl FnMut(&Row, &Site)) {
    for row in ROWS {
        for shape in SHAPES {
            let sites = [site(shape), Site::linear("model.layers.0.self_attn.o_proj", 0, shape[0], shape[1])];
            let places = sites.each_ref().map(|site| place(row, site));
            let count = if places[0] == places[1] { 1 } else { 2 };
            sites[..count].iter().filter(|site| fits(row, site)).for_each(|site| check(row, site));
        }
    }
}

fn fits(row: &Row, site: &Site) -> bool {
    row.method().problems(site).is_empty()
}

fn place(row: &Row, site: &Site) -> Option<Place> {
    let base = base::<f32>(site, false);
    fits(row, site).then(|| row.method().attach(site, &base, SEED, 0).unwrap().place())
}

fn label(row: &Row, site: &Site) -> String {
    format!("{} on {} [{}, {}]", row.label(), site.module(), site.d_out, site.d_in)
}

fn site([d_out, d_in]: [usize; 2]) -> Site {
    Site::linear("model.layers.0.self_attn.q_proj", 0, d_out, d_in)
}

/// A base weight with rows of about unit norm, stored in the compute type or as bf16.
fn base<T: Real>(site: &Site, stored_bf16: bool) -> Weight<T> {
    let values: Vec<f64> = numbers::<f64>(site.d_out * site.d_in, "base")
        .into_iter()
        .map(|value| value / (site.d_in as f64).sqrt())
        .collect();
    let storage = match stored_bf16 {
        true => Storage::Bf16(values.into_iter().map(bf16::from_f64).collect()),
        false => Storage::Dense(values.into_iter().map(T::from_f64).collect()),
    };
    Weight::new(storage, site.d_out, site.d_in)
}

/// A linear with a bias and the methods attached, moved from their start by `size` times standard normal numbers.
fn adapted<T: Real>(methods: &[Method], site: &Site, stored_bf16: bool, size: f64) -> Linear<T> {
    let base = base(site, stored_bf16);
    let mut linear = bare(site, stored_bf16);
    for (slot, method) in methods.iter().enumerate() {
        linear.attach(method.attach(site, &base, SEED, slot).unwrap(), slot, slot);
        move_parameters(linear.attached_mut()[slot].adapter.as_mut(), size, &format!("move {slot}"));
    }
    linear.fold();
    linear.prepare();
    linear
}

fn bare<T: Real>(site: &Site, stored_bf16: bool) -> Linear<T> {
    Linear::new(site.clone(), base(site, stored_bf16), Some(numbers(site.d_out, "bias")))
}

fn move_parameters<T: Real>(adapter: &mut dyn Adapter<T>, size: f64, name: &str) {
    let mut stream = Stream::new(SEED, "test", name);
    for value in adapter.parameters_mut().trainable_mut() {
        *value += T::from_f64(size * stream.normal());
    }
}

fn inputs<T: Real>(site: &Site, workspace: &Workspace<T>) -> Matrix<T> {
    matrix(TOKENS, site.d_in, "x", workspace)
}

/// What the site gives for `x`.
fn output<T: Real>(linear: &Linear<T>, x: &Matrix<T>, draw: Option<Draw>, workspace: &Workspace<T>) -> Vec<T> {
    linear.forward(x, &Pass { workspace, draw }).0.data().to_vec()
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
    // what unfreezes is judged in full.rs, what attention is given in prefix.rs: they have no adapter at a linear
    for method in methods().iter().filter(|method| method.target == Target::Linears) {
        assert!(ROWS.iter().any(|row| row.name == method.name), "add a row for {}", method.name);
    }
    for row in ROWS {
        let fitting = SHAPES.iter().filter(|&&shape| fits(row, &site(shape))).count();
        assert!(fitting >= 4 && fits(row, &site([24, 24])), "{} is judged on {fitting} shapes only", row.label());
    }
}

#[test]
fn the_start_is_the_base_layer() {
    fn check<T: Real>(row: &Row, site: &Site, stored_bf16: bool) {
        let workspace = Workspace::<T>::new(1).unwrap();
        let x = inputs(site, &workspace);
        let label = format!("{} {} bf16 {stored_bf16}", label(row, site), T::NAME);
        let expected = output(&bare(site, stored_bf16), &x, None, &workspace);
        let got = output(&adapted(&[row.method()], site, stored_bf16, 0.0), &x, None, &workspace);
        match row.start {
            Start::Exact => assert_same_bits(&label, &got, &expected),
            Start::Rounded => assert_close(&label, &got, &expected, rounding::<T>(stored_bf16)),
            Start::Bf16 => assert_close(&label, &got, &expected, rounding::<T>(true)),
            Start::Elsewhere => assert!(bits(&got) != bits(&expected), "{label}: the start is the base after all"),
        }
    }
    for_each(|row, site| {
        for stored_bf16 in [false, true] {
            check::<f32>(row, site, stored_bf16);
            check::<f64>(row, site, stored_bf16);
        }
    });
}

#[test]
fn forward_equals_merged_or_the_method_says_that_it_cannot_be_merged() {
    fn check<T: Real>(row: &Row, site: &Site) {
        let workspace = Workspace::<T>::new(1).unwrap();
        let x = inputs(site, &workspace);
        let linear = adapted::<T>(&[row.method()], site, false, 0.3);
        let base = base::<T>(site, false);
        let label = format!("{} {}", label(row, site), T::NAME);
        let got = output(&linear, &x, None, &workspace);
        // the parameters were moved, so an update that is forgotten on both sides shows
        let unchanged = output(&bare(site, false), &x, None, &workspace);
        assert!(bits(&got) != bits(&unchanged), "{label}: nothing happens");
        let merged = linear.merged(base.to_f64());
        assert_eq!(merged.is_some(), row.method().mergeable(), "{label}: mergeable");
        let Some(merged) = merged else {
            let mut linear = linear;
            assert!(!linear.merge() && linear.attached().len() == 1, "{label}: what is no matrix stays beside");
            return assert_same_bits(&label, &output(&linear, &x, None, &workspace), &got);
        };
        let merged = Weight::new(Storage::Dense(merged.into_iter().map(T::from_f64).collect()), site.d_out, site.d_in);
        let merged = Linear::new(site.clone(), merged, Some(numbers(site.d_out, "bias")));
        let tolerance = rounding::<T>(row.start == Start::Bf16);
        assert_close(&label, &got, &output(&merged, &x, None, &workspace), tolerance);
        // in memory the sum starts from the working copy, rounded or not, so it is what forward computes
        let mut linear = linear;
        assert!(linear.merge() && linear.attached().is_empty(), "{label}: merged in memory");
        assert_close(&label, &got, &output(&linear, &x, None, &workspace), rounding::<T>(false));
    }
    for_each(|row, site| {
        check::<f32>(row, site);
        check::<f64>(row, site);
    });
}

/// `sum(dy * y)` of a site, or its gradients.
struct Slope {
    linear: Linear<f64>,
    dy: Vec<f64>,
    draw: Option<Draw>,
    workspace: Workspace<f64>,
}

impl Slope {
    fn new(methods: &[Method], site: &Site, draw: Option<Draw>) -> Self {
        let linear = adapted(methods, site, false, 0.3);
        Self { linear, dy: numbers(TOKENS * site.d_out, "dy"), draw, workspace: Workspace::new(1).unwrap() }
    }

    fn input(&self, x: &[f64]) -> Matrix<f64> {
        let mut input = self.workspace.matrix(TOKENS, x.len() / TOKENS);
        input.copy_from(x);
        input
    }

    fn value(&self, x: &[f64]) -> f64 {
        let y = output(&self.linear, &self.input(x), self.draw, &self.workspace);
        y.iter().zip(&self.dy).map(|(a, b)| a * b).sum()
    }

    fn parameters(&self) -> Vec<f64> {
        self.linear.attached().iter().flat_map(|a| a.adapter.parameters().trainable().to_vec()).collect()
    }

    /// Replaces all trainable parameters; what follows from them, the row lengths, stays: it is a constant of backward.
    fn set(&mut self, mut values: &[f64]) {
        for attached in self.linear.attached_mut() {
            let own = attached.adapter.parameters_mut().trainable_mut();
            own.copy_from_slice(&values[..own.len()]);
            values = &values[own.len()..];
        }
    }

    fn gradients(&self) -> Gradients<f64> {
        let lengths = self.linear.attached().iter().map(|a| a.adapter.parameters().trainable().len());
        Gradients::zeros(&lengths.collect::<Vec<_>>())
    }

    /// Adds to the gradients of the parameters, and puts the input's where it is wanted.
    fn run(&self, x: &[f64], dx: InputGradient<'_, f64>, gradients: &mut Gradients<f64>) {
        let pass = Pass { workspace: &self.workspace, draw: self.draw };
        let (input, mut dy) = (self.input(x), self.workspace.matrix(TOKENS, self.dy.len() / TOKENS));
        dy.copy_from(&self.dy);
        let (_, saved) = self.linear.forward(&input, &pass);
        self.linear.backward(Some(&input), &dy, saved, dx, gradients, &pass);
    }

    /// `(dx, parameter gradient)`; without `wanted` no `dx` is asked for.
    fn both(&self, x: &[f64], wanted: bool) -> (Vec<f64>, Vec<f64>) {
        let (mut dx, mut gradients) = (self.workspace.zeros(TOKENS, x.len() / TOKENS), self.gradients());
        self.run(x, if wanted { InputGradient::Write(&mut dx) } else { InputGradient::None }, &mut gradients);
        (dx.data().to_vec(), flat(&gradients))
    }

    /// Compares all gradients with central differences.
    fn judge(&mut self, label: &str) {
        let x = numbers::<f64>(TOKENS * self.linear.site().d_in, "x");
        let (dx, gradient) = self.both(&x, true);
        let all: Vec<usize> = (0..x.len()).collect();
        assert_close(&format!("{label}: dx"), &dx, &differences(&x, &all, |x| self.value(x)), 1e-9);
        let start = self.parameters();
        let all: Vec<usize> = (0..start.len()).collect();
        let expected = differences(&start, &all, |values| {
            self.set(values);
            self.value(&x)
        });
        assert_close(&format!("{label}: parameters"), &gradient, &expected, 1e-9);
    }
}

fn flat(gradients: &Gradients<f64>) -> Vec<f64> {
    (0..gradients.slots()).flat_map(|slot| gradients.slot(slot).to_vec()).collect()
}

const DRAW: Draw = Draw { seed: 8, step: 4, micro_batch: 1 };

#[test]
fn gradients_are_central_differences() {
    for_each(|row, site| {
        for draw in [None, Some(DRAW)] {
            let label = format!("{} training {}", label(row, site), draw.is_some());
            Slope::new(&[row.method()], site, draw).judge(&label);
        }
    });
}

#[test]
fn gradients_of_stacks_are_central_differences() {
    // each row with the next three that can share a site with it: every place meets every other
    let site = Site::linear("model.layers.0.self_attn.o_proj", 0, 24, 24);
    let mut rows: Vec<&Row> = ROWS.iter().collect();
    rows.dedup_by_key(|row| row.name);
    let methods: Vec<Method> = rows.iter().map(|row| row.method()).collect();
    for (index, first) in methods.iter().enumerate() {
        let stack: Vec<Method> = [index + 1, index + 3]
            .map(|next| methods[next % methods.len()].clone())
            .into_iter()
            .filter(|next| !(first.has_magnitude() && next.has_magnitude()))
            .chain([first.clone()])
            .collect();
        let magnitudes = stack.iter().filter(|method| method.has_magnitude()).count();
        let stack = if magnitudes > 1 { stack[1..].to_vec() } else { stack };
        let label = stack.iter().map(Method::name).collect::<Vec<_>>().join(" and ");
        Slope::new(&stack, &site, Some(DRAW)).judge(&label);
    }
}

#[test]
fn dropout_draws_a_new_mask_for_every_step_and_none_when_evaluating() {
    for_each(|row, site| {
        let x = numbers::<f64>(TOKENS * site.d_in, "x");
        let value = |draw| Slope::new(&[row.method()], site, draw).value(&x);
        let names = [DRAW, Draw { seed: 9, ..DRAW }, Draw { step: 5, ..DRAW }, Draw { micro_batch: 0, ..DRAW }];
        let values = names.map(|draw| value(Some(draw)));
        let drops = row.settings.contains("dropout");
        assert_eq!(value(Some(DRAW)).to_bits(), values[0].to_bits(), "{}", label(row, site));
        for other in values[1..].iter().chain(&[value(None)]) {
            assert_eq!(drops, *other != values[0], "{}: {values:?}", label(row, site));
        }
    });
}

#[test]
fn backward_without_dx_gives_the_same_parameter_gradient() {
    for_each(|row, site| {
        let slope = Slope::new(&[row.method()], site, Some(DRAW));
        let x = numbers::<f64>(TOKENS * site.d_in, "x");
        let (with, without) = (slope.both(&x, true), slope.both(&x, false));
        assert_same_bits(&label(row, site), &without.1, &with.1);
        assert!(without.0.iter().all(|&v| v == 0.0) && with.0.iter().any(|&v| v != 0.0));
    });
}

#[test]
fn backward_adds_to_what_is_there() {
    for_each(|row, site| {
        let slope = Slope::new(&[row.method()], site, Some(DRAW));
        let x = numbers::<f64>(TOKENS * site.d_in, "x");
        let (mut twice, mut gradients) = (slope.workspace.matrix(TOKENS, site.d_in), slope.gradients());
        slope.run(&x, InputGradient::Write(&mut twice), &mut gradients);
        let (dx, once) = (twice.data().to_vec(), flat(&gradients));
        slope.run(&x, InputGradient::Add(&mut twice), &mut gradients);
        let double = |values: &[f64]| values.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
        assert_close(&format!("{}: dx", label(row, site)), twice.data(), &double(&dx), 1e-12);
        assert_close(&format!("{}: parameters", label(row, site)), &flat(&gradients), &double(&once), 1e-12);
    });
}

#[test]
fn the_parameter_count_is_the_formula() {
    for_each(|row, site| {
        let method = row.method();
        let adapter = method.attach::<f32>(site, &base(site, false), SEED, 0).unwrap();
        let parameters = adapter.parameters();
        let listed = parameters.tensors().iter().filter(|tensor| tensor.trainable).map(|tensor| tensor.elements());
        // at a site that writes the residual stream, what reads one side reads the other
        let (d_in, d_out) =
            if adapter.place() == Place::Output { (site.d_out, site.d_in) } else { (site.d_in, site.d_out) };
        let formula = (row.parameters)(d_in, d_out);
        let counts = [method.parameters(site), parameters.trainable().len(), listed.sum()];
        assert_eq!(counts, [formula; 3], "{}", label(row, site));
    });
}

#[test]
fn the_same_names_give_the_same_start_and_other_names_another() {
    for_each(|row, site| {
        let start = |seed, name: &str, entry| {
            let site = Site { name: name.into(), ..site.clone() };
            let adapter = row.method().attach::<f64>(&site, &base(&site, false), seed, entry).unwrap();
            [bits(adapter.parameters().trainable()), bits(adapter.parameters().frozen())]
        };
        let (here, above) = match site.writes_residual() {
            true => ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"),
            false => ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"),
        };
        let first = start(1, here, 0);
        assert_eq!(first, start(1, here, 0), "{}", label(row, site));
        for other in [start(2, here, 0), start(1, above, 0), start(1, here, 1)] {
            assert_eq!(row.drawn, other != first, "{}", label(row, site));
        }
    });
}

/// Entries of one method on one site, with the same parameters: only the mask can tell them apart.
#[test]
fn every_site_and_entry_draws_a_mask_of_its_own() {
    let workspace = Workspace::<f64>::new(1).unwrap();
    for row in ROWS {
        let shape = site([24, 24]);
        let x = inputs(&shape, &workspace);
        let parameters = Slope::new(&[row.method()], &shape, None).parameters();
        // what dropout changes
        let output = |name: &str, entry| {
            let site = Site { name: name.into(), ..shape.clone() };
            let mut linear = bare::<f64>(&site, false);
            let mut adapter = row.method().attach::<f64>(&site, &base(&site, false), SEED, entry).unwrap();
            adapter.parameters_mut().trainable_mut().copy_from_slice(&parameters);
            linear.attach(adapter, 0, entry);
            linear.fold();
            linear.prepare();
            let [with, without] = [Some(DRAW), None].map(|draw| output(&linear, &x, draw, &workspace));
            with.iter().zip(&without).map(|(a, b)| a - b).collect::<Vec<_>>()
        };
        let first = output("a.self_attn.q_proj", 0);
        let label = label(row, &shape);
        assert_eq!(row.settings.contains("dropout"), first.iter().any(|&v| v != 0.0), "{label}");
        for other in [output("b.self_attn.q_proj", 0), output("a.self_attn.q_proj", 1)] {
            let difference = first.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert_eq!(row.settings.contains("dropout"), difference > 1e-3, "{label}: {difference}");
        }
    }
}

#[test]
fn two_methods_on_one_site_add_their_updates() {
    let workspace = Workspace::<f64>::new(1).unwrap();
    let site = site([24, 24]);
    for first in ROWS {
        for second in ROWS {
            let methods = [first.method(), second.method()];
            let linear = adapted::<f64>(&methods, &site, false, 0.3);
            let [a, b] = linear.attached() else { panic!("two adapters") };
            let (Some(a_update), Some(b_update)) = (a.adapter.update(), b.adapter.update()) else { continue };
            if methods.iter().any(Method::has_magnitude) {
                continue;
            }
            let sum: Vec<f64> = a_update.iter().zip(b_update).map(|(a, b)| a + b).collect();
            let x = inputs(&site, &workspace);
            let weight = base::<f64>(&site, false).plus(&sum);
            let expected = Linear::new(site.clone(), weight, Some(numbers(site.d_out, "bias")));
            let expected = output(&expected, &x, None, &workspace);
            let label = format!("{} and {}", label(first, &site), label(second, &site));
            let coarse = [first, second].iter().any(|row| row.start == Start::Bf16);
            let tolerance = if coarse { rounding::<f64>(true) } else { 1e-12 };
            assert_close(&label, &output(&linear, &x, None, &workspace), &expected, tolerance);
        }
    }
}

/// DoRA is a low-rank update and a magnitude, whichever of the two forms names it, and a circuit takes the magnitude as well.
#[test]
fn a_magnitude_scales_the_rows_of_the_adapted_weight() {
    let workspace = Workspace::<f64>::new(1).unwrap();
    let site = site([24, 24]);
    let magnitudes: Vec<&Row> = ROWS.iter().filter(|row| row.method().has_magnitude()).collect();
    for row in ROWS.iter().filter(|row| row.method().mergeable() && !row.method().has_magnitude()) {
        let magnitude = magnitudes.last().expect("a method that is a magnitude").method();
        let linear = adapted::<f64>(&[row.method(), magnitude], &site, false, 0.3);
        let [delta, scale] = linear.attached() else { panic!("two adapters") };
        let weight = base::<f64>(&site, false).plus(&delta.adapter.update().unwrap()).to_f64();
        let m = scale.adapter.parameters().trainable();
        let x = inputs(&site, &workspace);
        let bias: Vec<f64> = numbers(site.d_out, "bias");
        let mut expected = Vec::new();
        for token in 0..TOKENS {
            for (i, row) in weight.chunks(site.d_in).enumerate() {
                let length = row.iter().map(|w| w * w).sum::<f64>().sqrt();
                let product: f64 = row.iter().zip(x.row(token)).map(|(w, x)| w * x).sum();
                expected.push(m[i] / length * product + bias[i]);
            }
        }
        let tolerance = if row.start == Start::Bf16 { rounding::<f64>(true) } else { 1e-12 };
        assert_close(&label(row, &site), &output(&linear, &x, None, &workspace), &expected, tolerance);
    }
}

#[test]
fn a_method_defined_here_obeys_the_laws_alone_and_under_others() {
    let site = site([24, 24]);
    let others: Vec<Method> = ROWS.iter().map(Row::method).collect();
    for methods in [&others[..0], &others[..1], &others[others.len() - 1..]] {
        let mut slope = Slope::new(methods, &site, None);
        let diagonal = Diagonal::new(numbers(24, "diagonal"));
        slope.linear.attach(Box::new(diagonal), methods.len(), methods.len());
        slope.linear.prepare();
        let x = inputs(&site, &slope.workspace);
        let got = output(&slope.linear, &x, None, &slope.workspace);
        let merged = slope.linear.merged(base::<f64>(&site, false).to_f64()).unwrap();
        let merged = Linear::new(site.clone(), Weight::new(Storage::Dense(merged), 24, 24), Some(numbers(24, "bias")));
        assert_close("diagonal", &got, &output(&merged, &x, None, &slope.workspace), 1e-12);
        slope.judge("diagonal");
    }
}
