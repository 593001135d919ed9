//! Universality: matrices of every kind become circuits, within the error that rounding allows.
//!
//! The claim is the specification's: relative Frobenius error at most `1e-12 * 2^M`, real gates for a positive determinant, complex ones for a
//! negative one, exact low ranks, at most `4^M` gates. `QUANTA_UNIVERSALITY_CASES` sets the number of random matrices for each size (2 by default,
//! 100 for the full check, which wants a release build).

use quanta_circuit::theory::universality::{Decomposition, Field, RAISED, UniversalityError, decompose};

struct Numbers(u64);

impl Numbers {
    /// Roughly normal: a sum of uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Vec<f64> {
        (0..rows * cols).map(|_| self.normal()).collect()
    }
}

fn product(a: &[f64], b: &[f64], inner: usize) -> Vec<f64> {
    let (rows, cols) = (a.len() / inner, b.len() / inner);
    let entry = |i: usize| (0..inner).map(|k| a[i / cols * inner + k] * b[k * cols + i % cols]).sum();
    (0..rows * cols).map(entry).collect()
}

fn diagonal(values: &[f64]) -> Vec<f64> {
    let d = values.len();
    (0..d * d).map(|i| if i / d == i % d { values[i / d] } else { 0.0 }).collect()
}

/// The axes that a size is tried on: bits, large axes, mixed axes.
fn shapes(m: usize) -> Vec<Vec<usize>> {
    let third = m / 3;
    let mut shapes = vec![vec![2; m], vec![1 << third, 1 << (m - 2 * third), 1 << third]];
    if m > 3 {
        shapes.push([vec![4], vec![2; m - 3], vec![2]].concat());
    }
    shapes
}

#[track_caller]
fn assert_decomposes(values: &[f64], dims: &[usize]) -> Decomposition {
    let m = values.len().ilog2() / 2;
    let circuit = decompose(values, dims, Field::RealOrComplex).unwrap();
    let error = circuit.relative_error(values);
    assert!(error <= 1e-12 * f64::from(1 << m), "{dims:?}: relative error {error:e}");
    let gates = circuit.plan.gates().len();
    assert!(gates <= 1 << (2 * m), "{dims:?}: {gates} gates");
    circuit
}

/// Number of random matrices of each size, and the logarithm of the largest size.
fn extent() -> (usize, usize) {
    let cases = std::env::var("QUANTA_UNIVERSALITY_CASES").map_or(2, |cases| cases.parse().unwrap());
    (cases, if cases > 2 { 8 } else { 5 })
}

#[test]
fn random_matrices_of_both_determinant_signs() {
    let (cases, largest) = extent();
    let mut numbers = Numbers(7);
    for m in 3..=largest {
        for case in 0..cases {
            for dims in shapes(m) {
                let d = 1 << m;
                let mut values = numbers.matrix(d, d);
                let first = assert_decomposes(&values, &dims);
                // Exchanging two rows changes the sign of the determinant: exactly one of the two circuits is complex.
                let (head, tail) = values.split_at_mut(d);
                head.swap_with_slice(&mut tail[..d]);
                let second = assert_decomposes(&values, &dims);
                assert_ne!(first.imaginary.is_some(), second.imaginary.is_some());
                let negative = if first.imaginary.is_some() { values.split_at_mut(d) } else { continue };
                negative.0.swap_with_slice(&mut negative.1[..d]);
                assert_eq!(decompose(&values, &dims, Field::Real), Err(UniversalityError::NegativeDeterminant));
            }
            if case == 0 {
                let gates = assert_decomposes(&numbers.matrix(1 << m, 1 << m), &vec![2; m]).plan.gates().len();
                println!("2^{m}: {gates} gates on bits, {:.3} * 4^{m}", gates as f64 / f64::from(1 << (2 * m)));
            }
        }
    }
}

#[test]
fn structured_matrices() {
    let mut numbers = Numbers(11);
    for m in 3..=extent().1 {
        let d = 1usize << m;
        let unit = diagonal(&vec![1.0; d]);
        let spread: Vec<f64> = (0..d).map(|i| 10f64.powf(-12.0 * i as f64 / d as f64)).collect();
        let signs: Vec<f64> = (0..d).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        let shift: Vec<f64> = (0..d * d).map(|i| f64::from(u8::from((i / d + 1) % d == i % d))).collect();
        let hadamard: Vec<f64> =
            (0..d * d).map(|i| if ((i / d) & (i % d)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }).collect();
        // A product of plane rotations: orthogonal with many equal cosines.
        let (sin, cos) = 0.3f64.sin_cos();
        let turn: Vec<f64> = (0..d * d)
            .map(|i| match (i / d, i % d) {
                (row, col) if row == col => cos,
                (row, col) if row ^ 1 == col => {
                    if row < col {
                        -sin
                    } else {
                        sin
                    }
                }
                _ => 0.0,
            })
            .collect();
        let turned = product(&product(&hadamard, &turn, d), &hadamard, d);
        for dims in shapes(m) {
            for values in [&unit, &diagonal(&spread), &diagonal(&signs), &shift, &hadamard, &turn, &turned] {
                assert_decomposes(values, &dims);
            }
            let negated: Vec<f64> = unit.iter().map(|value| -value).collect();
            assert!(assert_decomposes(&negated, &dims).imaginary.is_none());
        }
        assert!(
            assert_decomposes(&numbers.matrix(d, d), &[d / 2, 1, 2]).plan.gates().len() == 1,
            "two axes are one gate"
        );
    }
}

#[test]
fn every_rank_is_exact_or_reported() {
    let mut numbers = Numbers(13);
    for dims in [vec![2, 2, 2], vec![2, 4, 2], vec![2, 2, 2, 2], vec![4, 2, 4]] {
        let d: usize = dims.iter().product();
        let mut sizes = dims.clone();
        sizes.sort_unstable();
        let largest_gate = sizes[sizes.len() - 1] * sizes[sizes.len() - 2];
        for rank in 0..=d {
            let (left, right) = (numbers.matrix(d, rank.max(1)), numbers.matrix(rank.max(1), d));
            let values = if rank == 0 { vec![0.0; d * d] } else { product(&left, &right, rank) };
            let circuit = decompose(&values, &dims, Field::RealOrComplex).unwrap();
            let error = circuit.relative_error(&values);
            assert!(error <= 1e-12 * d as f64, "{dims:?} rank {rank}: relative error {error:e}");
            // Theorem 6.2: a circuit with a singular gate has rank at most d (1 - 1/K).
            let has_circuit = rank <= d - d / largest_gate || rank == d;
            assert_eq!(circuit.raised, if has_circuit { 0 } else { d - rank }, "{dims:?} rank {rank}");
            if rank < d {
                assert!(circuit.imaginary.is_none(), "a singular matrix needs no complex gate");
            }
            if rank == 0 {
                assert_eq!((circuit.plan.gates().len(), error), (1, 0.0));
            }
        }
    }
    assert_eq!(RAISED, 1e-15);
}

#[test]
fn unusable_input_is_refused() {
    let refuse = |values: &[f64], dims: &[usize]| decompose(values, dims, Field::Real).unwrap_err();
    assert_eq!(refuse(&[0.0; 144], &[2, 3, 2]), UniversalityError::NotPowerOfTwo { axis: -2, size: 3 });
    assert_eq!(refuse(&[0.0; 63], &[2, 2, 2]), UniversalityError::Shape { side: 8, got: 63 });
    assert_eq!(refuse(&[f64::NAN; 64], &[2, 2, 2]), UniversalityError::NotFinite);
    assert!(matches!(refuse(&[1.0], &[]), UniversalityError::Plan(_)));
}

/// The largest size of the specification; takes minutes: `cargo test --release --test universality -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn side_1024_in_minutes() {
    let mut numbers = Numbers(17);
    let (d, tokens) = (1024, 16);
    let values = numbers.matrix(d, d);
    for dims in [vec![8, 16, 8], vec![4; 5], vec![2; 10]] {
        let start = std::time::Instant::now();
        let circuit = decompose(&values, &dims, Field::RealOrComplex).unwrap();
        println!("{dims:?}: {} gates in {:.0} s", circuit.plan.gates().len(), start.elapsed().as_secs_f64());
        // Random vectors see the Frobenius norm of the error; the full operator would take longer than the decomposition.
        let x = numbers.matrix(tokens, d);
        let transposed: Vec<f64> = (0..d * d).map(|i| values[i % d * d + i / d]).collect();
        let expected = product(&x, &transposed, d);
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (real, imaginary) = circuit.applied(&x);
        let difference: Vec<f64> = real.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let error = norm(&difference).hypot(imaginary.map_or(0.0, |values| norm(&values))) / norm(&expected);
        assert!(error <= 1e-12 * d as f64, "{dims:?}: relative error {error:e}");
        assert!(circuit.plan.gates().len() <= d * d);
    }
}
