//! Every kernel of this machine against the plain reference: random plans, shapes, padding and truncation, thread counts.

use proptest::prelude::*;

use super::unit::{self, Unit};
use super::unit_kernels::gradients_on;
use super::vector::plain_pairs::PLAIN_PAIRS;
use super::{Kernels, keeping, reference, tiled, vector};
use crate::{CircuitSum, Plan, Real};

/// Numbers in [-1, 1) from a linear congruential generator: reproducible and the same on every machine.
pub(crate) fn numbers<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(3_037_000_493);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f64((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Any plan with up to `axes` axes: one or two axes a gate, sizes changing anywhere.
pub(crate) fn plans(axes: usize) -> impl Strategy<Value = Plan> {
    let largest = if axes > 4 { 2usize } else { 5 };
    (1..=axes).prop_flat_map(move |axes| {
        let gate = (1..=axes as isize, 1..=axes as isize, 1..=largest, 1..=largest, 0..3);
        let gates = proptest::collection::vec(gate, 0..7);
        (proptest::collection::vec(1..=largest, axes), gates).prop_map(|(dims, gates)| {
            let gates: Vec<_> = gates
                .into_iter()
                .map(|(a, b, size_a, size_b, keep)| match (a == b, keep) {
                    (true, 0) => (vec![-a], Some(vec![size_a])),
                    (true, _) => (vec![-a], None),
                    (false, 0) => (vec![-a, -b], Some(vec![size_a, size_b])),
                    (false, _) => (vec![-a, -b], None),
                })
                .collect();
            Plan::new(&dims, &gates).expect("the strategy makes valid plans only")
        })
    })
}

struct Case<T> {
    gates: Vec<T>,
    x: Vec<T>,
    dy: Vec<T>,
    d_in: usize,
    d_out: usize,
}

fn case<T: Real>(plan: &Plan, tokens: usize, d_in: usize, d_out: usize) -> Case<T> {
    let gates = numbers(plan.parameters(), 1);
    Case { gates, x: numbers(tokens * d_in, 2), dy: numbers(tokens * d_out, 3), d_in, d_out }
}

/// Output, input gradient and gate gradients, each added to something that is already there.
type Results<T> = [Vec<T>; 3];

fn start<T: Real>(case: &Case<T>) -> Results<T> {
    [numbers(case.dy.len(), 4), numbers(case.x.len(), 5), numbers(case.gates.len(), 6)]
}

fn judged<T: Real>(plan: &Plan, case: &Case<T>) -> Results<T> {
    let Case { gates, x, dy, d_in, d_out } = case;
    let [mut y, mut dx, mut dgates] = start(case);
    let scale = T::from_f64(-1.5);
    reference::apply(plan, gates, x, *d_in, &mut y, *d_out, scale);
    reference::backward(plan, gates, x, *d_in, dy, *d_out, scale, Some(&mut dx), Some(&mut dgates));
    [y, dx, dgates]
}

fn computed<T: Real>(kernels: &Kernels<T>, plan: &Plan, case: &Case<T>) -> Results<T> {
    let Case { gates, x, dy, d_in, d_out } = case;
    let [mut y, mut dx, mut dgates] = start(case);
    let scale = T::from_f64(-1.5);
    tiled::apply_each(
        kernels,
        x,
        *d_in,
        &mut [CircuitSum { plan, terms: &[(gates, scale)], y: &mut y, d_out: *d_out }],
    );
    tiled::backward(kernels, plan, gates, x, *d_in, dy, *d_out, scale, Some(&mut dx), Some(&mut dgates), None);
    [y, dx, dgates]
}

/// [`computed`] with the tensors between the gates kept from forward to backward.
fn kept<T: Real>(kernels: &Kernels<T>, plan: &Plan, case: &Case<T>) -> Results<T> {
    let &Case { ref gates, ref x, ref dy, d_in, d_out } = case;
    let [mut y, mut dx, mut dgates] = start(case);
    let scale = T::from_f64(-1.5);
    let mut kept = Vec::new();
    keeping::apply(kernels, plan, gates, x, d_in, &mut y, d_out, scale, &mut kept);
    let (to_x, to_gates) = (Some(&mut dx[..]), Some(&mut dgates[..]));
    tiled::backward(kernels, plan, gates, x, d_in, dy, d_out, scale, to_x, to_gates, Some(&kept));
    [y, dx, dgates]
}

/// Rounding of sums of products: every gate adds its columns, the gate gradient adds tokens and all other axes; `8 eps sqrt(terms)` of the bound. And every
/// gate's products are off by `parts` of their size.
fn tolerance<T: Real>(plan: &Plan, tokens: usize, parts: f64) -> f64 {
    let longest = plan.stages().iter().map(|dims| dims.iter().product::<usize>()).max().unwrap_or(1);
    (parts + 8.0 * T::EPSILON.to_f64() * ((longest * tokens.max(1)) as f64).sqrt()) * (plan.gates().len() as f64 + 1.0)
}

/// The same case with every number replaced by its magnitude: its results bound the sums that rounding errors come from.
fn magnitudes<T: Real>(plan: &Plan, case: &Case<T>) -> Results<T> {
    let abs = |values: &[T]| values.iter().map(|value| value.abs()).collect::<Vec<T>>();
    let Case { gates, x, dy, d_in, d_out } = case;
    let (gates, x, dy) = (abs(gates), abs(x), abs(dy));
    let [mut y, mut dx, mut dgates] = start(case).map(|values| abs(&values));
    let scale = T::from_f64(1.5);
    reference::apply(plan, &gates, &x, *d_in, &mut y, *d_out, scale);
    reference::backward(plan, &gates, &x, *d_in, &dy, *d_out, scale, Some(&mut dx), Some(&mut dgates));
    [y, dx, dgates]
}

fn compare<T: Real>(all: &[&Kernels<T>], parts: f64, plan: &Plan, tokens: usize, d_in: usize, d_out: usize) {
    compare_case(all, parts, plan, tokens, &case(plan, tokens, d_in, d_out));
}

fn compare_case<T: Real>(all: &[&Kernels<T>], parts: f64, plan: &Plan, tokens: usize, case: &Case<T>) {
    let (expected, bounds) = (judged(plan, case), magnitudes(plan, case));
    let &Case { d_in, d_out, .. } = case;
    for kernels in all {
        let results = computed(kernels, plan, case);
        assert_eq!(results, kept(kernels, plan, case), "{} {} {plan}, {tokens} tokens", kernels.name, T::NAME);
        for (i, name) in ["y", "dx", "dgates"].iter().enumerate() {
            for (at, ((got, expected), bound)) in results[i].iter().zip(&expected[i]).zip(&bounds[i]).enumerate() {
                let error = (got.to_f64() - expected.to_f64()).abs();
                let allowed = tolerance::<T>(plan, tokens, parts) * bound.to_f64();
                let context = (kernels.name, T::NAME, plan, tokens, d_in, d_out);
                assert!(error <= allowed, "{name}[{at}]: {got} instead of {expected} {context:?}");
            }
        }
    }
}

/// The kernels on a matrix unit that this machine can run.
fn on_units() -> Vec<&'static Kernels<f32>> {
    let amx = unit::usable().ok().map(|()| gradients_on(Unit::Amx));
    amx.into_iter().chain([gradients_on(Unit::Portable)]).collect()
}

/// The kernels of pairs that this machine can run, the one of its instructions first.
fn pairs() -> Vec<&'static Kernels<f32>> {
    let vectors = unit::has_pairs().then(|| gradients_on(Unit::Pairs));
    vectors.into_iter().chain([&PLAIN_PAIRS]).collect()
}

fn every_kernel(plan: &Plan, tokens: usize, d_in: usize, d_out: usize) {
    compare::<f64>(vector::all_f64(), 0.0, plan, tokens, d_in, d_out);
    compare::<f32>(vector::all_f32(), 0.0, plan, tokens, d_in, d_out);
    // either factor is off by 2^-17 at most, and the product of two rests, 2^-16, is left out
    compare::<f32>(&on_units(), 0.5f64.powi(15), plan, tokens, d_in, d_out);
    // either factor is off by 2^-9 at most, and what comes out of one gate meets the next
    compare::<f32>(&pairs(), 1.05 * 0.5f64.powi(8), plan, tokens, d_in, d_out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_equals_the_reference(plan in plans(4), tokens in 0..80usize, pad_in in -9..5isize, pad_out in -9..5isize) {
        let d_in = plan.in_len().saturating_add_signed(pad_in).max(1);
        let d_out = plan.out_len().saturating_add_signed(pad_out).max(1);
        every_kernel(&plan, tokens, d_in, d_out);
    }

    #[test]
    fn many_axes_equal_the_reference(plan in plans(9), tokens in 1..5usize, keep_in in 1..100usize, keep_out in 1..100usize) {
        let (d_in, d_out) = ((plan.in_len() * keep_in).div_ceil(100), (plan.out_len() * keep_out).div_ceil(100));
        every_kernel(&plan, tokens, d_in, d_out);
    }
}

#[test]
fn all_pairs_of_wide_axes_equal_the_reference() {
    // Wide enough for every block height, one to three registers of columns and more than one tile.
    for (dims, tokens) in [(vec![9, 8, 2], 114), (vec![7, 5, 3], 33), (vec![3, 17, 2], 17), (vec![3, 2, 3, 2], 1)] {
        let plan = Plan::all_pairs(&dims).unwrap();
        let len = plan.in_len();
        for (d_in, d_out) in [(len, len), (len / 2 + 1, len / 3), (len + 7, len + 3)] {
            every_kernel(&plan, tokens, d_in, d_out);
        }
    }
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let plan = Plan::all_pairs(&[5, 4, 6]).unwrap();
    for kernels in [vector::best_f32()].into_iter().chain(on_units()).chain(pairs()) {
        for tokens in [1, 70, 1100] {
            let case = case::<f32>(&plan, tokens, 120, 120);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| computed(kernels, &plan, &case))
            };
            let one = run(1);
            for threads in [2, 4, 7] {
                assert_eq!(one, run(threads), "{}, {tokens} tokens, {threads} threads", kernels.name);
            }
            assert_eq!(one, kept(kernels, &plan, &case), "{}, {tokens} tokens, kept", kernels.name);
        }
    }
}

/// Gates of more than one block of 32 either way, and of less; panels of 16 and of 32 tokens, and more than one step of them.
#[test]
fn wide_gates_on_a_unit_equal_the_reference() {
    let tall = Plan::new(&[5, 9, 8], &[(vec![-1, -2], Some(vec![4, 6])), (vec![-1, -2], Some(vec![10, 7]))]).unwrap();
    for (plan, tokens) in
        [(Plan::all_pairs(&[16, 9]).unwrap(), 150), (Plan::all_pairs(&[9, 8, 8]).unwrap(), 40), (tall, 77)]
    {
        let (d_in, d_out) = (plan.in_len(), plan.out_len());
        compare::<f32>(&on_units(), 0.5f64.powi(15), &plan, tokens, d_in, d_out);
        let kernels = on_units();
        let case = case(&plan, tokens, d_in, d_out);
        let (expected, got) = (judged(&plan, &case), computed(kernels[kernels.len() - 1], &plan, &case));
        for (name, (expected, got)) in ["y", "dx", "dgates"].iter().zip(expected.iter().zip(&got)) {
            let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let apart =
                squares(&mut got.iter().zip(expected).map(|(a, b)| a - b)) / squares(&mut expected.iter().copied());
            assert!(apart.sqrt() < f64::from(0.5f32.powi(16)), "{plan}: {name} differs by {:.1e}", apart.sqrt());
        }
    }
}

/// Where nothing has to be rounded, pairs differ from f32 by the rounding of sums alone.
#[test]
fn pairs_of_short_numbers_equal_the_reference() {
    let short = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xfffc_0000));
    let odd = Plan::new(&[7, 5, 3], &[(vec![-1, -3], Some(vec![5, 4]))]).unwrap();
    let wide = Plan::new(&[9, 8, 8], &[(vec![-2, -3], None)]).unwrap();
    let last = Plan::new(&[3, 75], &[(vec![-1], None)]).unwrap();
    for (plan, tokens) in [(&odd, 1), (&odd, 20), (&odd, 150), (&wide, 33), (&wide, 300), (&last, 17), (&last, 100)] {
        let mut case = case::<f32>(plan, tokens, plan.in_len(), plan.out_len());
        [&mut case.gates, &mut case.x, &mut case.dy].into_iter().for_each(short);
        compare_case(&pairs(), 0.0, plan, tokens, &case);
    }
}

#[test]
fn pairs_are_for_gradients_alone() {
    let plan = Plan::all_pairs(&[9, 8]).unwrap();
    if !unit::has_pairs() {
        return;
    }
    let (kernels, case) = (gradients_on(Unit::Pairs), case::<f32>(&plan, 50, 72, 72));
    let (on, [mut y, mut dx, mut dgates]) = (Some(Unit::Pairs), start(&case));
    crate::apply_on(on, &plan, &case.gates, &case.x, 72, &mut y, 72, -1.5);
    let (to_x, to_gates) = (Some(&mut dx[..]), Some(&mut dgates[..]));
    crate::backward_on(on, &plan, &case.gates, &case.x, 72, &case.dy, 72, -1.5, to_x, to_gates);
    let ([applied, ..], [_, rounded_x, rounded_gates]) =
        (computed(vector::best_f32(), &plan, &case), computed(kernels, &plan, &case));
    assert_eq!([y, dx, dgates], [applied, rounded_x, rounded_gates]);
}

/// Plans of different shapes over one input, sums of one to three terms, a plan without gates; against one application after the other.
#[test]
fn sums_of_circuits_share_their_input() {
    let plans = [
        Plan::all_pairs(&[5, 4, 3]).unwrap(),
        Plan::new(&[8, 9], &[(vec![-1], Some(vec![5])), (vec![-1, -2], None)]).unwrap(),
        Plan::new(&[6, 9], &[]).unwrap(),
    ];
    let d_in = 57;
    for kernels in vector::all_f32().iter().copied().chain(on_units()) {
        for tokens in [0, 1, 31, 150] {
            let x = numbers::<f32>(tokens * d_in, 2);
            let each: Vec<(&Plan, usize, usize)> =
                vec![(&plans[0], 60, 2), (&plans[1], 33, 1), (&plans[2], 50, 3), (&plans[0], 40, 1)];
            let gates: Vec<Vec<f32>> = (0..7).map(|seed| numbers(2000, seed)).collect();
            let mut next = 0;
            let terms: Vec<Vec<(&[f32], f32)>> = each
                .iter()
                .map(|&(plan, _, count)| {
                    let here = next..next + count;
                    next += count;
                    here.map(|i| (&gates[i][..plan.parameters()], [1.0, -0.5, 2.0][i % 3])).collect()
                })
                .collect();
            let start = |d_out: usize| numbers::<f32>(tokens * d_out, 4);
            let mut together: Vec<Vec<f32>> = each.iter().map(|&(_, d_out, _)| start(d_out)).collect();
            let outputs = together.iter_mut().zip(&each).zip(&terms);
            let mut sums: Vec<_> =
                outputs.map(|((y, &(plan, d_out, _)), terms)| CircuitSum { plan, terms, y, d_out }).collect();
            tiled::apply_each(kernels, &x, d_in, &mut sums);
            drop(sums);
            for ((got, &(plan, d_out, _)), terms) in together.iter().zip(&each).zip(&terms) {
                let mut expected = start(d_out);
                for term in terms {
                    let terms = std::slice::from_ref(term);
                    tiled::apply_each(kernels, &x, d_in, &mut [CircuitSum { plan, terms, y: &mut expected, d_out }]);
                }
                for (got, expected) in got.iter().zip(&expected) {
                    assert!(
                        (got - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                        "{}: {got} {expected}",
                        kernels.name
                    );
                }
            }
        }
    }
}

#[test]
fn equal_circuits_cancel_exactly() {
    let plan = Plan::all_pairs(&[9, 8]).unwrap();
    let (gates, x) = (numbers::<f32>(plan.parameters(), 1), numbers::<f32>(50 * 72, 2));
    for unit in [None, Some(Unit::Portable)] {
        let mut y = numbers::<f32>(50 * 72, 3);
        let terms: [(&[f32], f32); 2] = [(&gates, 1.0), (&gates, -1.0)];
        crate::apply_each(unit, &x, 72, &mut [CircuitSum { plan: &plan, terms: &terms, y: &mut y, d_out: 72 }]);
        assert_eq!(y, numbers::<f32>(50 * 72, 3));
    }
}

#[test]
fn a_token_does_not_depend_on_its_place_in_a_tile() {
    let plan = Plan::all_pairs(&[3, 4, 5]).unwrap();
    let case = case::<f32>(&plan, 75, 60, 57);
    for kernels in [vector::best_f32()].into_iter().chain(on_units()).chain(pairs()) {
        let [y, ..] = computed(kernels, &plan, &case);
        for token in [0, 15, 16, 31, 32, 63, 74] {
            let mut alone = numbers::<f32>(75 * 57, 4)[token * 57..(token + 1) * 57].to_vec();
            let x = &case.x[token * 60..(token + 1) * 60];
            let sum = CircuitSum { plan: &plan, terms: &[(&case.gates, -1.5)], y: &mut alone, d_out: 57 };
            tiled::apply_each(kernels, x, 60, &mut [sum]);
            assert_eq!(alone, y[token * 57..(token + 1) * 57], "{}, token {token}", kernels.name);
        }
    }
}

#[test]
fn backward_is_the_adjoint_of_apply() {
    let plan = Plan::all_pairs_between(&[6, 4, 5], &[3, 4, 7]).unwrap();
    let case = case::<f64>(&plan, 37, 120, 84);
    let (mut y, mut dx) = (vec![0.0; case.dy.len()], vec![0.0; case.x.len()]);
    crate::apply(&plan, &case.gates, &case.x, 120, &mut y, 84, 0.7);
    crate::backward(&plan, &case.gates, &case.x, 120, &case.dy, 84, 0.7, Some(&mut dx), None);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (forward, adjoint) = (dot(&y, &case.dy), dot(&case.x, &dx));
    assert!((forward - adjoint).abs() <= 1e-12 * dot(&y, &y).sqrt() * dot(&case.dy, &case.dy).sqrt());
    // Euler: T is homogeneous of degree one in every gate, so <gate, dgate> is the same number for each of them.
    let mut dgates = vec![0.0; plan.parameters()];
    crate::backward(&plan, &case.gates, &case.x, 120, &case.dy, 84, 0.7, None, Some(&mut dgates));
    for gate in plan.gates() {
        let inner = dot(&case.gates[gate.range()], &dgates[gate.range()]);
        assert!((inner - forward).abs() <= 1e-12 * dot(&y, &y).sqrt() * dot(&case.dy, &case.dy).sqrt());
    }
}

#[test]
fn fast_gradients_equal_central_differences() {
    let plan =
        Plan::new(&[4, 3, 2], &[(vec![-1, -3], Some(vec![3, 4])), (vec![-2], None), (vec![-1, -2], None)]).unwrap();
    let case = case::<f64>(&plan, 5, 20, 30);
    let (mut dx, mut dgates) = (vec![0.0; case.x.len()], vec![0.0; case.gates.len()]);
    crate::backward(&plan, &case.gates, &case.x, 20, &case.dy, 30, 1.0, Some(&mut dx), Some(&mut dgates));
    let loss = |gates: &[f64], x: &[f64]| {
        let mut y = vec![0.0; case.dy.len()];
        crate::apply(&plan, gates, x, 20, &mut y, 30, 1.0);
        y.iter().zip(&case.dy).map(|(y, dy)| y * dy).sum::<f64>()
    };
    // The loss is linear in every single value, so a large step has no truncation error.
    let shifted = |values: &[f64], i: usize, step: f64| {
        let mut values = values.to_vec();
        values[i] += step;
        values
    };
    for i in 0..case.gates.len() {
        let [up, down] = [0.5, -0.5].map(|step| loss(&shifted(&case.gates, i, step), &case.x));
        assert!((up - down - dgates[i]).abs() < 1e-11, "gate value {i}");
    }
    for i in 0..case.x.len() {
        let [up, down] = [0.5, -0.5].map(|step| loss(&case.gates, &shifted(&case.x, i, step)));
        assert!((up - down - dx[i]).abs() < 1e-11, "input {i}");
    }
}

#[test]
fn what_was_kept_may_be_used_again_for_another_circuit() {
    let (small, large) = (Plan::all_pairs(&[3, 2, 2]).unwrap(), Plan::all_pairs(&[4, 3, 5]).unwrap());
    let mut kept = crate::Kept::new();
    for (plan, tokens) in [(&large, 70), (&large, 70), (&large, 3), (&small, 200), (&large, 90), (&small, 0)] {
        let (len, case) = (plan.in_len(), case::<f32>(plan, tokens, plan.in_len(), plan.out_len()));
        let [mut y, mut dx, mut dgates] = start(&case);
        crate::apply_keeping(plan, &case.gates, &case.x, len, &mut y, len, -1.5, &mut kept);
        let (to_x, to_gates) = (Some(&mut dx[..]), Some(&mut dgates[..]));
        crate::backward_kept(plan, &case.gates, &case.x, len, &case.dy, len, -1.5, to_x, to_gates, &kept);
        assert_eq!([y, dx, dgates], computed(vector::best_f32(), plan, &case));
    }
}

#[test]
#[should_panic(expected = "nothing was kept by `apply_keeping` with this plan")]
fn what_was_kept_of_other_tokens_is_refused() {
    let plan = Plan::all_pairs(&[3, 2]).unwrap();
    let (case, mut kept) = (case::<f32>(&plan, 2, 6, 6), crate::Kept::new());
    crate::apply_keeping(&plan, &case.gates, &case.x[6..], 6, &mut [0.0; 6], 6, 1.0, &mut kept);
    crate::backward_kept(&plan, &case.gates, &case.x, 6, &case.dy, 6, 1.0, None, None, &kept);
}

#[test]
#[should_panic(expected = "the plan needs 49 gate values")]
fn wrong_lengths_are_refused() {
    let plan = Plan::free(&[7, 2], &[vec![-2]]).unwrap();
    crate::apply(&plan, &[0.0f32; 48], &[0.0; 14], 14, &mut [0.0; 14], 14, 1.0);
}
