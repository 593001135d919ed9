//! The exponential function in f32 without branches, so that a loop over it becomes vectors.

/// Beyond these bounds the result is zero or infinite.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;
/// ln 2 in two parts; products of the first with small integers are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Added, it rounds to an integer that stands in the lowest bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// Coefficients of `(exp(r) - 1 - r) / r^2` by powers of r, highest first: for `|r| <= ln 2 / 2` what is left out is below 2^-27.
const SERIES: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

/// `exp(x)`, off by at most two units in the last place; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > HIGHEST { HIGHEST } else { x };
    let x = if x < LOWEST { LOWEST } else { x };
    // x = n ln 2 + r
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut p = SERIES[0];
    for &coefficient in &SERIES[1..] {
        p = p * r + coefficient;
    }
    let p = p * (r * r) + r + 1.0;
    // 2^n in two halves, so that the largest and the subnormal results come out
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn two_units_in_the_last_place_everywhere() {
        let mut x = -87.0f32;
        while x < 88.5 {
            let exact = f64::from(x).exp();
            let unit = f64::from(f32::EPSILON) * 2f64.powi(exact.log2().floor() as i32);
            assert!((f64::from(exp(x)) - exact).abs() <= 2.0 * unit, "exp({x}) = {} is not {exact}", exp(x));
            x += 0.000_73 * (1.0 + x.abs() / 8.0);
        }
    }

    #[test]
    fn edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!([exp(f32::INFINITY), exp(89.0), exp(1e30)], [f32::INFINITY; 3]);
        assert_eq!([exp(f32::NEG_INFINITY), exp(-104.0), exp(-1e30)], [0.0; 3]);
        assert!(exp(f32::NAN).is_nan());
        // subnormal results: off by less than two of the smallest steps
        for x in [-88.0f32, -95.5, -103.0] {
            assert!((f64::from(exp(x)) - f64::from(x).exp()).abs() <= 2.0 * f64::from(f32::from_bits(1)), "exp({x})");
        }
    }
}
