//! Dropout with named random streams: `y = x m / (1 - p)`, the mask m drawn from a stream, so that backward and recomputation draw the same mask again
//! and nothing is stored.

use crate::tensor::{Matrix, Real, Stream, Workspace};

/// `x` with each element zeroed with probability `p` and the others scaled by `1 / (1 - p)`.
pub fn forward<T: Real>(x: &Matrix<T>, p: f64, stream: Stream, workspace: &Workspace<T>) -> Matrix<T> {
    let mut out = workspace.matrix(x.rows(), x.cols());
    out.copy_from(x.data());
    mask(&mut out, p, stream);
    out
}

/// Multiplies `values` by the mask of `stream`: with the stream that forward used, turns a gradient of the output into one of the input.
pub fn mask<T: Real>(values: &mut Matrix<T>, p: f64, mut stream: Stream) {
    let keep = T::from_f64(1.0 / (1.0 - p));
    // two masks of 32 bits from one draw of 64
    let threshold = (p * 4_294_967_296.0) as u64;
    for pair in values.data_mut().chunks_mut(2) {
        let bits = stream.bits();
        for (value, bits) in pair.iter_mut().zip([bits & 0xFFFF_FFFF, bits >> 32]) {
            *value *= if bits < threshold { T::ZERO } else { keep };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, dot, numbers};

    #[test]
    fn the_mask_is_the_gradient_and_keeps_the_mean() {
        let workspace = Workspace::new(1).unwrap();
        let stream = || Stream::new(5, "dropout", "site");
        let matrix = |rows, values: &[f64]| {
            let mut m = workspace.matrix(rows, values.len() / rows);
            m.copy_from(values);
            m
        };
        let (x, dy) = (numbers(24, "x"), numbers(24, "dy"));
        let mut dx = matrix(4, &dy);
        mask(&mut dx, 0.25, stream());
        check("dropout dx", &x, dx.data(), |x| dot(forward(&matrix(4, x), 0.25, stream(), &workspace).data(), &dy));
        let ones = forward(&matrix(100, &vec![1.0; 100_000]), 0.25, stream(), &workspace);
        let zeros = ones.data().iter().filter(|&&v| v == 0.0).count();
        // five standard deviations of a binomial count: 5 * sqrt(100000 * 0.25 * 0.75)
        assert!(zeros.abs_diff(25_000) < 690 && ones.data().iter().all(|&v| v == 0.0 || v == 1.0 / 0.75));
    }
}
