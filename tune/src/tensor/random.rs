//! Named random streams: every random number of a run comes from a stream named by (seed, purpose, name), never from the order of calls.
//!
//! A stream is ChaCha8 keyed by a hash of its three names, so that adding a site, changing the number of threads or resuming a run changes no other
//! stream. The algorithm is fixed by this file and its tests: seeds stay valid.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers.
#[derive(Clone)]
pub struct Stream {
    generator: ChaCha8Rng,
    spare: Option<f64>,
}

impl Stream {
    /// The stream for `purpose` (what the numbers are for: `init`, `order`, `dropout`) and `name` (whose they are: a site, an epoch).
    pub fn new(seed: u64, purpose: &str, name: &str) -> Self {
        let mut key = [0u8; 32];
        for (word, chunk) in key.chunks_exact_mut(8).enumerate() {
            let mut hash = Fnv::new(seed ^ (word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            hash.write(&(purpose.len() as u64).to_le_bytes());
            hash.write(purpose.as_bytes());
            hash.write(name.as_bytes());
            chunk.copy_from_slice(&hash.finish().to_le_bytes());
        }
        Self { generator: ChaCha8Rng::from_seed(key), spare: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in [0, 1), 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * self.uniform();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Uniform in `0..bound`, without bias.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number lies below zero");
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let bits = self.bits();
            if bits < limit {
                return bits % bound;
            }
        }
    }

    /// A random order of `0..n` (Fisher-Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

/// FNV-1a over bytes with a final mix: enough to tell names apart; ChaCha supplies the randomness.
struct Fnv(u64);

impl Fnv {
    fn new(seed: u64) -> Self {
        let mut hash = Self(0xCBF2_9CE4_8422_2325);
        hash.write(&seed.to_le_bytes());
        hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(mut self) -> u64 {
        self.0 = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        self.0 = (self.0 ^ (self.0 >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 ^ (self.0 >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_each_of_its_names() {
        let first = |seed, purpose, name| Stream::new(seed, purpose, name).bits();
        let base = first(1, "init", "q");
        assert_eq!(base, first(1, "init", "q"));
        assert_ne!(base, first(2, "init", "q"));
        assert_ne!(base, first(1, "order", "q"));
        assert_ne!(base, first(1, "init", "v"));
        assert_ne!(first(1, "ab", "c"), first(1, "a", "bc"));
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut stream = Stream::new(3, "test", "moments");
        let n = 200_000;
        let uniform: Vec<f64> = (0..n).map(|_| stream.uniform()).collect();
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
        // five standard errors of each mean: 5 * 0.29 / sqrt(n) and so on
        assert!((mean(&uniform) - 0.5).abs() < 0.0033 && uniform.iter().all(|&u| (0.0..1.0).contains(&u)));
        assert!(mean(&normal).abs() < 0.012 && (square(&normal) - 1.0).abs() < 0.016);
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(0, "order", "0").permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
