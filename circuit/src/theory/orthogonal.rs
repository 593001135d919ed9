//! Two factorisations of rotations: the cosine-sine decomposition and the splitting of a multiplexer.
//!
//! They are the two halves of the recursive (Shannon) form of a circuit, here for real orthogonal matrices, where the published forms are for unitary
//! ones. What the factors become as gates is left to `elementary` and `universality`. Every routine is backward stable: each factor is orthogonal to
//! rounding whatever the clusters among the angles.
//!
//! Symbols: `R(t) = [cos t, -sin t; sin t, cos t]`, `J = R(90 degrees)`, `h` half the size of the matrix.

use faer::{Mat, MatRef, Side};

/// A linear algebra routine did not converge: the input has non-finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotConverged;

/// `U = diag(L0, L1) [C, -S; S, C] diag(R0, R1)` with `C = cos(angles)`, `S = sin(angles)`; all four blocks have determinant one if `U` has.
pub(crate) struct CosineSine {
    pub left: [Mat<f64>; 2],
    pub angles: Vec<f64>,
    pub right: [Mat<f64>; 2],
}

/// `A = V D W`, `B = V D^t W`, `D = diag(R(angles))`; `V` has determinant one, and `W` has if `A` has.
pub(crate) struct Demultiplexed {
    pub left: Mat<f64>,
    pub angles: Vec<f64>,
    pub right: Mat<f64>,
}

fn norm(column: impl Iterator<Item = f64>) -> f64 {
    column.map(|value| value * value).sum::<f64>().sqrt()
}

fn negate_column(matrix: &mut Mat<f64>, column: usize) {
    for i in 0..matrix.nrows() {
        matrix[(i, column)] = -matrix[(i, column)];
    }
}

fn negate_row(matrix: &mut Mat<f64>, row: usize) {
    for j in 0..matrix.ncols() {
        matrix[(row, j)] = -matrix[(row, j)];
    }
}

/// The cosine-sine decomposition of an orthogonal matrix of even size.
///
/// The singular value decomposition of the upper left block gives `L0`, `C`, `R0` of `U00 = L0 C R0`. Where a cosine is near one it says nothing
/// about the small sine, and singular vectors of such a cluster are arbitrary; there the roles are exchanged: the singular value decomposition of the
/// lower block, inside the complement of the columns with large sines, settles the vectors, and the upper block's columns (norm at least 0.7) follow
/// by a QR factorisation. At last `R1 = -S L0^t U01 + C L1^t U11`, which follows from the block equations and `C^2 + S^2 = 1`.
pub(crate) fn cosine_sine(u: MatRef<'_, f64>) -> Result<CosineSine, NotConverged> {
    let h = u.nrows() / 2;
    let [u00, u01] = [u.submatrix(0, 0, h, h), u.submatrix(0, h, h, h)];
    let [u10, u11] = [u.submatrix(h, 0, h, h), u.submatrix(h, h, h, h)];
    let svd = u00.svd().map_err(|_| NotConverged)?;
    let (mut l0, mut v) = (svd.U().to_owned(), svd.V().to_owned());
    // Cosines descend, so columns 0..small have small sines.
    let small = (0..h).filter(|&j| svd.S().column_vector()[j] > std::f64::consts::FRAC_1_SQRT_2).count();
    let large = h - small;
    let lower = u10 * &v;
    // An orthonormal basis: first the directions of the large sines, then their complement.
    let (mut basis, mut signs) = (Mat::identity(h, h), vec![1.0; large]);
    if large > 0 {
        let qr = lower.subcols(small, large).qr();
        basis = qr.compute_Q();
        signs = (0..large).map(|j| qr.R()[(j, j)].signum()).collect();
    }
    let complement = basis.subcols(large, small);
    let mut l1 = Mat::zeros(h, h);
    if small > 0 {
        let inner = (complement.transpose() * lower.subcols(0, small)).svd().map_err(|_| NotConverged)?;
        let rotated = v.subcols(0, small) * inner.V();
        let new_l1 = complement * inner.U();
        // U00 V = L0 C with columns of norm 0.7 and more, orthogonal to rounding, and spanned by the old columns of L0.
        let coordinates = l0.subcols(0, small).transpose() * (u00 * &rotated);
        let qr = coordinates.qr();
        let mut turn = qr.compute_Q();
        for j in 0..small {
            if qr.R()[(j, j)] < 0.0 {
                negate_column(&mut turn, j);
            }
        }
        let new_l0 = l0.subcols(0, small) * &turn;
        for j in 0..small {
            for i in 0..h {
                v[(i, j)] = rotated[(i, j)];
                l1[(i, j)] = new_l1[(i, j)];
                l0[(i, j)] = new_l0[(i, j)];
            }
        }
    }
    for j in 0..large {
        for i in 0..h {
            l1[(i, small + j)] = basis[(i, j)] * signs[j];
        }
    }
    let (upper, lower) = (u00 * &v, u10 * &v);
    let angle = |j: usize| {
        let (cosine, sine) = ((0..h).map(|i| upper[(i, j)]), (0..h).map(|i| lower[(i, j)]));
        norm(sine).atan2(norm(cosine))
    };
    let angles: Vec<f64> = (0..h).map(angle).collect();
    let (from_upper, from_lower) = (l0.transpose() * u01, l1.transpose() * u11);
    let r1 = Mat::from_fn(h, h, |i, j| angles[i].cos() * from_lower[(i, j)] - angles[i].sin() * from_upper[(i, j)]);
    let mut factors = CosineSine { left: [l0, l1], angles, right: [v.transpose().to_owned(), r1] };
    orient(&mut factors);
    Ok(factors)
}

/// Makes all four blocks rotations, if an even number of them reflects.
///
/// Negating column j of a left block negates a row of `[c, -s; s, c]`, negating row j of a right block a column; two such changes give a rotation
/// again: `t + 180 degrees` for two left or two right blocks, `-t` for `L0, R0` or `L1, R1` up to 180 degrees.
fn orient(factors: &mut CosineSine) {
    let reflects = |block: &Mat<f64>| block.determinant() < 0.0;
    let flip: Vec<bool> = factors.left.iter().chain(&factors.right).map(reflects).collect();
    if flip.iter().filter(|&&flip| flip).count() % 2 == 1 {
        return;
    }
    let (sin, cos) = factors.angles[0].sin_cos();
    let mut core = [[cos, -sin], [sin, cos]];
    for side in 0..2 {
        if flip[side] {
            negate_column(&mut factors.left[side], 0);
            core[side] = core[side].map(|value| -value);
        }
        if flip[2 + side] {
            negate_row(&mut factors.right[side], 0);
            core.iter_mut().for_each(|row| row[side] = -row[side]);
        }
    }
    factors.angles[0] = core[1][0].atan2(core[0][0]);
}

/// Splits the multiplexer `diag(A, B)` of two rotations of even size.
///
/// `A B^t = V D^2 V^t` is the real canonical form of a rotation; then `W = D^t V^t A`.
pub(crate) fn demultiplex(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Result<Demultiplexed, NotConverged> {
    let (mut left, mut angles) = canonical(a * b.transpose())?;
    if left.determinant() < 0.0 {
        // Exchanging the two vectors of a plane reverses its angle and the orientation.
        for i in 0..left.nrows() {
            let first = left[(i, 0)];
            left[(i, 0)] = left[(i, 1)];
            left[(i, 1)] = first;
        }
        angles[0] = -angles[0];
    }
    angles.iter_mut().for_each(|angle| *angle /= 2.0);
    let mut right = left.transpose() * a;
    for (plane, angle) in angles.iter().enumerate() {
        let (sin, cos) = angle.sin_cos();
        for j in 0..right.ncols() {
            let (x, y) = (right[(2 * plane, j)], right[(2 * plane + 1, j)]);
            right[(2 * plane, j)] = cos * x + sin * y;
            right[(2 * plane + 1, j)] = cos * y - sin * x;
        }
    }
    Ok(Demultiplexed { left, angles, right })
}

/// `Q = V diag(R(angles)) V^t` for a rotation of even size.
///
/// The space is split by the cosines (eigenvalues of the symmetric part) at the widest gap among the middle ones into two invariant subspaces: on the
/// first no angle is near 180 degrees, on the second none of `-Q` is. There the Cayley transform `(1 - Q)(1 + Q)^-1` is a well-conditioned skew
/// matrix with the same planes, and skew matrices have a stable canonical form. (Eigenvectors of the symmetric part alone would mix planes of nearly
/// equal cosines.)
fn canonical(q: Mat<f64>) -> Result<(Mat<f64>, Vec<f64>), NotConverged> {
    let n = q.nrows();
    let symmetric = Mat::from_fn(n, n, |i, j| 0.5 * (q[(i, j)] + q[(j, i)]));
    let eigen = symmetric.self_adjoint_eigen(Side::Lower).map_err(|_| NotConverged)?;
    let cosine = |i: usize| eigen.S().column_vector()[i];
    // Candidates: below the first cosine, above the last, and between two; the cut must lie within [-0.5, 0.5].
    let gap = |k: usize| {
        let low = if k == 0 { -0.6 } else { cosine(k - 1).max(-0.6) };
        let high = if k == n { 0.6 } else { cosine(k).min(0.6) };
        high - low
    };
    let cut = (0..=n).max_by(|&a, &b| gap(a).total_cmp(&gap(b))).unwrap_or(0);
    let (mut basis, mut angles) = (Mat::zeros(n, n), Vec::with_capacity(n / 2));
    for (from, to, sign) in [(0, cut, -1.0), (cut, n, 1.0)] {
        if from == to {
            continue;
        }
        let space = eigen.U().subcols(from, to - from);
        let inside = space.transpose() * &q * space;
        let size = to - from;
        let entry = |i: usize, j: usize, factor: f64| f64::from(u8::from(i == j)) + factor * sign * inside[(i, j)];
        let (minus, plus) =
            (Mat::from_fn(size, size, |i, j| entry(i, j, -1.0)), Mat::from_fn(size, size, |i, j| entry(i, j, 1.0)));
        // The two factors commute, so the quotient may be taken on either side.
        let cayley = faer::linalg::solvers::Solve::solve(&plus.partial_piv_lu(), &minus);
        let (planes, values) =
            skew_canonical(Mat::from_fn(size, size, |i, j| 0.5 * (cayley[(i, j)] - cayley[(j, i)])))?;
        let turned = space * &planes;
        for j in 0..size {
            for i in 0..n {
                basis[(i, from + j)] = turned[(i, j)];
            }
        }
        // The Cayley transform of R(t) is -tan(t/2) J.
        let offset = if sign < 0.0 { std::f64::consts::PI } else { 0.0 };
        angles.extend(values.iter().map(|value| offset - 2.0 * value.atan()));
    }
    Ok((basis, angles))
}

/// `S = V diag(value J) V^t` for a skew matrix of even size: Householder reflections make it tridiagonal, and a skew tridiagonal matrix is a
/// bidiagonal one between its even and its odd coordinates, whose singular vectors give the planes.
fn skew_canonical(mut s: Mat<f64>) -> Result<(Mat<f64>, Vec<f64>), NotConverged> {
    let n = s.nrows();
    let mut basis = Mat::<f64>::identity(n, n);
    for k in 0..n.saturating_sub(2) {
        let length = norm((k + 1..n).map(|i| s[(i, k)]));
        if length == 0.0 {
            continue;
        }
        let mut v: Vec<f64> = (0..n).map(|i| if i > k { s[(i, k)] } else { 0.0 }).collect();
        v[k + 1] += length.copysign(v[k + 1]);
        let factor = 2.0 / v.iter().map(|x| x * x).sum::<f64>();
        let mut w = vec![0.0; n];
        let mut p = vec![0.0; n];
        for j in k + 1..n {
            for i in 0..n {
                w[i] += factor * s[(i, j)] * v[j];
                p[i] += factor * basis[(i, j)] * v[j];
            }
        }
        // H S H = S + v w^t - w v^t because v^t S v = 0; basis H = basis - p v^t.
        for j in 0..n {
            for i in 0..n {
                s[(i, j)] += v[i] * w[j] - w[i] * v[j];
            }
        }
        for j in k + 1..n {
            for i in 0..n {
                basis[(i, j)] -= p[i] * v[j];
            }
        }
    }
    let half = n / 2;
    let between = Mat::from_fn(half, half, |i, j| if j == i || j + 1 == i { s[(2 * i, 2 * j + 1)] } else { 0.0 });
    let svd = between.svd().map_err(|_| NotConverged)?;
    let mut planes = Mat::zeros(n, n);
    for plane in 0..half {
        for k in 0..half {
            for i in 0..n {
                planes[(i, 2 * plane)] += basis[(i, 2 * k + 1)] * svd.V()[(k, plane)];
                planes[(i, 2 * plane + 1)] += basis[(i, 2 * k)] * svd.U()[(k, plane)];
            }
        }
    }
    Ok((planes, (0..half).map(|i| svd.S().column_vector()[i]).collect()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernel::tests::numbers;
    use crate::theory::matrix;

    /// A rotation of size `n`: the Q factor of a random matrix, its determinant made one.
    pub(crate) fn rotation(n: usize, seed: u64) -> Mat<f64> {
        let mut q = matrix(&numbers::<f64>(n * n, seed), n, n).qr().compute_Q();
        if q.determinant() < 0.0 {
            negate_column(&mut q, 0);
        }
        q
    }

    fn distance(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> f64 {
        (a - b).norm_max()
    }

    fn block_diagonal(blocks: [MatRef<'_, f64>; 2]) -> Mat<f64> {
        let h = blocks[0].nrows();
        Mat::from_fn(2 * h, 2 * h, |i, j| if i / h == j / h { blocks[i / h][(i % h, j % h)] } else { 0.0 })
    }

    /// Rotations with every kind of cluster: random, identity, half turn, near identity, signed permutations, equal angles.
    fn cases(n: usize) -> Vec<Mat<f64>> {
        let random = rotation(n, 3);
        let identity = Mat::<f64>::identity(n, n);
        let planes = |angle: &dyn Fn(usize) -> f64| {
            let (mut turned, q) = (random.clone(), &random);
            for plane in 0..n / 2 {
                let (sin, cos) = angle(plane).sin_cos();
                for i in 0..n {
                    let (x, y) = (q[(i, 2 * plane)], q[(i, 2 * plane + 1)]);
                    turned[(i, 2 * plane)] = cos * x + sin * y;
                    turned[(i, 2 * plane + 1)] = cos * y - sin * x;
                }
            }
            turned * q.transpose()
        };
        let half_turn = Mat::from_fn(n, n, |i, j| if i == j { -1.0 } else { 0.0 });
        let cycle = Mat::from_fn(n, n, |i, j| if (i + 1) % n == j { if i == 0 { -1.0 } else { 1.0 } } else { 0.0 });
        let signs = Mat::from_fn(n, n, |i, j| {
            if i != j {
                0.0
            } else if i < 2 {
                -1.0
            } else {
                1.0
            }
        });
        let near = planes(&|plane| 10f64.powi(-(plane as i32) - 6));
        let near_half = planes(&|plane| std::f64::consts::PI - 10f64.powi(-(plane as i32) - 6));
        let equal = planes(&|_| 1.234);
        vec![random.clone(), identity, half_turn, cycle, signs, near, near_half, equal]
    }

    #[test]
    fn cosine_sine_factors_multiply_back() {
        for n in [2, 4, 8, 32] {
            for (case, u) in cases(n).iter().enumerate() {
                let factors = cosine_sine(u.as_ref()).unwrap();
                let h = n / 2;
                let core = Mat::from_fn(n, n, |i, j| match (i / h, j / h) {
                    _ if i % h != j % h => 0.0,
                    (0, 1) => -factors.angles[i % h].sin(),
                    (1, 0) => factors.angles[i % h].sin(),
                    _ => factors.angles[i % h].cos(),
                });
                let [l0, l1] = &factors.left;
                let [r0, r1] = &factors.right;
                let product =
                    block_diagonal([l0.as_ref(), l1.as_ref()]) * core * block_diagonal([r0.as_ref(), r1.as_ref()]);
                assert!(distance(product.as_ref(), u.as_ref()) < 1e-14 * n as f64, "case {case} size {n}");
                for block in [l0, l1, r0, r1] {
                    assert!((block.determinant() - 1.0).abs() < 1e-12, "case {case} size {n}");
                    let gram = block * block.transpose();
                    assert!(
                        distance(gram.as_ref(), Mat::identity(h, h).as_ref()) < 1e-14 * n as f64,
                        "case {case} size {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn multiplexers_split_into_rotations() {
        for n in [2, 4, 8, 32] {
            for (case, a) in cases(n).iter().enumerate() {
                for b in [Mat::identity(n, n), rotation(n, 9)] {
                    let split = demultiplex(a.as_ref(), b.as_ref()).unwrap();
                    for (sign, expected) in [(1.0, a), (-1.0, &b)] {
                        let turns = Mat::from_fn(n, n, |i, j| {
                            let (sin, cos) = (sign * split.angles[i / 2]).sin_cos();
                            match (i / 2 == j / 2, i % 2, j % 2) {
                                (false, ..) => 0.0,
                                (_, 0, 1) => -sin,
                                (_, 1, 0) => sin,
                                _ => cos,
                            }
                        });
                        let product = &split.left * turns * &split.right;
                        assert!(
                            distance(product.as_ref(), expected.as_ref()) < 1e-13 * n as f64,
                            "case {case} size {n}"
                        );
                    }
                    assert!(
                        (split.left.determinant() - 1.0).abs() < 1e-12
                            && (split.right.determinant() - 1.0).abs() < 1e-12
                    );
                }
            }
        }
    }
}
