//! A walk through the library: `cargo run --release --example circuit`.
//!
//! Builds a circuit, applies it, differentiates it, fits it to data by plain gradient descent, asks for its rank, decomposes a matrix into gates and approximates
//! another one. Every step prints what it found.

use quanta_circuit::theory::universality::{Field, decompose};
use quanta_circuit::theory::{Effort, approximate, rank};
use quanta_circuit::{Plan, apply, backward, init, operator};

/// Uniform numbers in [0, 1) from a linear congruential generator.
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A plan is axes and gates; its text form is what configs hold.
    let plan: Plan = "4-3-2".parse()?;
    println!("{plan:#}\n{}\n{}", plan.drawing(), plan.einsum_apply());
    println!("{} parameters instead of {}\n", plan.parameters(), plan.in_len() * plan.out_len());

    // A teacher circuit makes data: 64 tokens of 24 values.
    let mut random = uniform(1);
    let teacher: Vec<f64> = init::uniform(&plan, &mut random);
    let d = plan.in_len();
    let x: Vec<f64> = (0..64 * d).map(|_| random() - 0.5).collect();
    let mut wanted = vec![0.0; x.len()];
    apply(&plan, &teacher, &x, d, &mut wanted, d, 1.0);

    // A student learns it: the gradient of half the squared error is y - wanted.
    let mut student: Vec<f64> = teacher.iter().map(|value| value + 0.2 * (random() - 0.5)).collect();
    for step in 0..=400 {
        let mut error = wanted.iter().map(|value| -value).collect::<Vec<f64>>();
        apply(&plan, &student, &x, d, &mut error, d, 1.0);
        let mut gradient = vec![0.0; student.len()];
        backward(&plan, &student, &x, d, &error, d, 1.0, None, Some(&mut gradient));
        if step % 100 == 0 {
            let loss = error.iter().map(|e| e * e).sum::<f64>() / wanted.iter().map(|w| w * w).sum::<f64>();
            println!("step {step:>3}: relative squared error {loss:.2e}");
        }
        student.iter_mut().zip(&gradient).for_each(|(value, gradient)| *value -= 0.02 * gradient);
    }

    // Theorem 6.2: the rank of the operator from the ranks of the gates.
    let report = rank::report(&plan, &student)?;
    println!("\nrank {} of {d}, bounds {:?}", report.operator.rank, report.bounds);

    // Theorem 6.1: any matrix of positive determinant is a circuit of real gates.
    let matrix: Vec<f64> = (0..64).map(|i| f64::from(i / 8 == i % 8) + 0.3 * (random() - 0.5)).collect();
    let circuit = decompose(&matrix, &[2, 2, 2], Field::RealOrComplex)?;
    println!("an 8 x 8 matrix is {} gates, error {:.1e}", circuit.plan.gates().len(), circuit.relative_error(&matrix));

    // The nearest circuit of a fixed plan, found by alternating least squares.
    let target: Vec<f64> = operator(&plan, &teacher).iter().map(|value| value + 0.02 * (random() - 0.5)).collect();
    let found = approximate(&plan, &target, &student, Effort::default())?;
    println!(
        "a noisy circuit is approximated to {:.2} % in {} passes",
        100.0 * found.relative_error,
        found.errors.len() - 1
    );
    Ok(())
}
