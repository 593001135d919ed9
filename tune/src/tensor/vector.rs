//! Loops over rows, compiled several times: for AVX-512, for AVX2 and for whatever the target always has, chosen when they are called.
//!
//! [`widest!`] makes such a function out of plain Rust, which the compiler turns into vectors of each width. Products and sums are never contracted, and sums
//! run in sixteen lanes whatever the machine, so that every version gives the same bits.

use super::Real;

/// Lanes of a sum.
const LANES: usize = 16;

/// Defines functions, over `T: Real` or without a type parameter, in one version for each instruction set.
macro_rules! widest {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident$(<$t:ident: Real>)?($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $vis fn $name$(<$t: $crate::tensor::Real>)?($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$t: $crate::tensor::Real>)?($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512$(<$t: $crate::tensor::Real>)?($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2$(<$t: $crate::tensor::Real>)?($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::tensor::vector::width() {
                    // SAFETY: `width` found the features that the version is compiled for
                    512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above
                    256 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    )*};
}

pub(crate) use widest;

/// Bits of the widest vectors that [`widest!`] has a version for on this machine.
#[cfg(target_arch = "x86_64")]
pub(crate) fn width() -> usize {
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match wide {
        true => 512,
        false if is_x86_feature_detected!("avx2") => 256,
        false => 128,
    }
}

/// `sum_i term(i)` for i below `len`, in lanes.
#[inline(always)]
pub(crate) fn sum<T: Real>(len: usize, term: impl Fn(usize) -> T) -> T {
    reduce(len, T::ZERO, |sum, i| sum + term(i), |a, b| a + b)
}

/// Folds `step` over the indices below `len` in lanes that each begin with `start`, then joins the lanes.
#[inline(always)]
pub(crate) fn reduce<T: Real>(len: usize, start: T, step: impl Fn(T, usize) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let whole = len - len % LANES;
    for block in (0..whole).step_by(LANES) {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = step(*value, block + lane);
        }
    }
    for (lane, value) in lanes.iter_mut().enumerate().take(len - whole) {
        *value = step(*value, whole + lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

widest! {
    /// Sum of products.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
        assert_eq!(a.len(), b.len(), "as many numbers on both sides");
        sum(a.len(), |i| a[i] * b[i])
    }

    /// The largest number; negative infinity of none.
    pub fn largest<T: Real>(row: &[T]) -> T {
        reduce(row.len(), T::NEG_INFINITY, |max, i| if row[i] > max { row[i] } else { max }, |a, b| if b > a { b } else { a })
    }

    /// Turns each x of a row into `exp(x - shift)` and returns the sum.
    pub fn exponentials<T: Real>(row: &mut [T], shift: T) -> T {
        for x in row.iter_mut() {
            *x = (*x - shift).exp();
        }
        let row = &*row;
        sum(row.len(), |i| row[i])
    }

    /// `sum exp(x - shift)`.
    pub fn sum_exponentials<T: Real>(row: &[T], shift: T) -> T {
        sum(row.len(), |i| (row[i] - shift).exp())
    }

    /// Multiplies a row by a number.
    pub fn scale<T: Real>(row: &mut [T], factor: T) {
        row.iter_mut().for_each(|x| *x *= factor);
    }

    /// `to += from`, element by element.
    pub fn add<T: Real>(to: &mut [T], from: &[T]) {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
    }
}

/// `log sum exp(x)` of a row.
pub fn log_sum_exp<T: Real>(row: &[T]) -> T {
    let max = largest(row);
    max + sum_exponentials(row, max).ln()
}

/// Replaces a row by its softmax and returns `log sum exp`.
pub fn softmax<T: Real>(row: &mut [T]) -> T {
    let max = largest(row);
    let sum = exponentials(row, max);
    scale(row, T::ONE / sum);
    max + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Stream;

    fn numbers(len: usize) -> Vec<f64> {
        let mut stream = Stream::new(5, "test", "vector");
        (0..len).map(|_| 3.0 * stream.normal()).collect()
    }

    #[test]
    fn rows_of_every_length_are_summed() {
        for len in [0, 1, 15, 16, 17, 100] {
            let (a, b) = (numbers(len), numbers(len).into_iter().rev().collect::<Vec<_>>());
            let expected: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &b) - expected).abs() < 1e-12, "{len}");
            assert_eq!(largest(&a), a.iter().copied().fold(f64::NEG_INFINITY, f64::max), "{len}");
        }
    }

    #[test]
    fn softmax_is_the_definition_in_both_types() {
        for len in [1, 7, 16, 50] {
            let row = numbers(len);
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            let (mut wide, mut narrow) = (row.clone(), row.iter().map(|&x| x as f32).collect::<Vec<_>>());
            assert!((softmax(&mut wide) - sum.ln()).abs() < 1e-13);
            assert!((f64::from(softmax(&mut narrow)) - sum.ln()).abs() < 1e-6);
            for ((x, wide), narrow) in row.iter().zip(wide).zip(narrow) {
                assert!((wide - x.exp() / sum).abs() < 1e-15 && (f64::from(narrow) - x.exp() / sum).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_one() {
        let mut row = vec![1.0f32, f32::NAN, 2.0];
        assert!(softmax(&mut row).is_nan());
        assert!(softmax(&mut [f32::INFINITY, 0.0]).is_nan());
    }
}
