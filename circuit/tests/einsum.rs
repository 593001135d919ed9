//! The einsum strings mean what the kernels compute.
//!
//! The expressions are evaluated here by their definition, a sum over all values of all symbols, from the text alone, and compared with the kernels
//! and the full operator on random plans.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quanta_circuit::{Plan, apply, operator, reference};

/// Evaluates `a,b,...->c` with row-major operands: the sum over every assignment of every symbol. A repeated output symbol means its diagonal.
fn evaluate(expression: &str, operands: &[(&[f64], Vec<usize>)]) -> Vec<f64> {
    let (inputs, output) = expression.split_once("->").unwrap();
    let inputs: Vec<Vec<char>> = inputs.split(',').map(|symbols| symbols.chars().collect()).collect();
    let mut sizes = BTreeMap::new();
    for (symbols, (_, shape)) in inputs.iter().zip(operands) {
        assert_eq!(symbols.len(), shape.len(), "{expression}");
        for (&symbol, &size) in symbols.iter().zip(shape) {
            assert_eq!(*sizes.entry(symbol).or_insert(size), size, "{expression}: sizes of {symbol}");
        }
    }
    let output: Vec<char> = output.chars().collect();
    let mut result = vec![0.0; output.iter().map(|symbol| sizes[symbol]).product()];
    for mut assignment in 0..sizes.values().product::<usize>() {
        let mut values = BTreeMap::new();
        for (&symbol, &size) in &sizes {
            values.insert(symbol, assignment % size);
            assignment /= size;
        }
        let place = |symbols: &[char]| symbols.iter().fold(0, |place, symbol| place * sizes[symbol] + values[symbol]);
        let product: f64 = inputs.iter().zip(operands).map(|(symbols, (data, _))| data[place(symbols)]).product();
        result[place(&output)] += product;
    }
    result
}

/// Small plans whose expressions have at most twelve symbols of size one to three.
fn plans() -> impl Strategy<Value = Plan> {
    let gate = (1..=3isize, 1..=3isize, 1..=3usize, 1..=3usize);
    (proptest::collection::vec(1..=3usize, 3), proptest::collection::vec(gate, 0..4)).prop_map(|(dims, gates)| {
        let gate = |(a, b, size_a, size_b): (isize, isize, usize, usize)| {
            if a == b { (vec![-a], Some(vec![size_a])) } else { (vec![-a, -b], Some(vec![size_a, size_b])) }
        };
        Plan::new(&dims, &gates.into_iter().map(gate).collect::<Vec<_>>()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expressions_compute_what_the_kernels_compute(plan in plans()) {
        let number = |i: usize| ((i * 37 + 11) % 29) as f64 / 14.5 - 1.0;
        let gates: Vec<f64> = (0..plan.parameters()).map(number).collect();
        let x: Vec<f64> = (0..plan.in_len()).map(|i| number(i + 3)).collect();
        let mut operands = vec![(&x[..], plan.in_dims().to_vec())];
        operands.extend(plan.gates().iter().map(|gate| (&gates[gate.range()], gate.shape())));
        // One token, so that the batch axes of `...` are empty.
        let expected = evaluate(&plan.einsum_apply().replace("...", ""), &operands);
        let (mut tiled, mut plain) = (vec![0.0; plan.out_len()], vec![0.0; plan.out_len()]);
        apply(&plan, &gates, &x, plan.in_len(), &mut tiled, plan.out_len(), 1.0);
        reference::apply(&plan, &gates, &x, plan.in_len(), &mut plain, plan.out_len(), 1.0);
        for ((tiled, plain), expected) in tiled.iter().zip(&plain).zip(&expected) {
            prop_assert!((tiled - expected).abs() < 1e-12 && (plain - expected).abs() < 1e-12, "{}", plan);
        }
        // An axis that no gate touches has no operand to take its size from; every other operator expression evaluates.
        let all_touched = (1..=3).all(|axis| plan.gates().iter().any(|gate| gate.axes().contains(&-axis)));
        if all_touched {
            let matrix = evaluate(&plan.einsum_operator(), &operands[1..]);
            for (got, expected) in operator(&plan, &gates).iter().zip(&matrix) {
                prop_assert!((got - expected).abs() < 1e-12, "{}", plan);
            }
        }
    }
}
