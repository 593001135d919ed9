//! Choosing rows of a data set: NumPy's legacy permutation, and the split into train, dev and test.
//!
//! It is here because the paper's numbers were measured on samples drawn with `numpy.random.RandomState(seed)`: the
//! same seed must give the same rows. It deals in positions only; what the rows are is left to the tasks, and the
//! order of training batches to the training loop, which has its own named streams.
//!
//! Generator: MT19937 (Matsumoto and Nishimura 1998), seeded as by `init_genrand`; a bounded integer is drawn by
//! masking and rejection, and the shuffle runs from the last position down to the second (Fisher-Yates).

const STATE_WORDS: usize = 624;
const MIDDLE_WORD: usize = 397;
const UPPER_BIT: u32 = 0x8000_0000;
const TWIST: u32 = 0x9908_b0df;

/// Added to the seed for a dev set that has a split of its own.
const DEV_SEED_OFFSET: u32 = 1;
/// Added to the seed for the test set.
const TEST_SEED_OFFSET: u32 = 2;

/// The 32-bit Mersenne Twister.
struct Mt19937 {
    words: [u32; STATE_WORDS],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut words = [seed; STATE_WORDS];
        for i in 1..STATE_WORDS {
            let before = words[i - 1];
            words[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, next: STATE_WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            self.refill();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for i in 0..STATE_WORDS {
            let mixed = (self.words[i] & UPPER_BIT) | (self.words[(i + 1) % STATE_WORDS] & !UPPER_BIT);
            let twist = if mixed & 1 == 1 { TWIST } else { 0 };
            self.words[i] = self.words[(i + MIDDLE_WORD) % STATE_WORDS] ^ (mixed >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// A number from 0 to `last`, both included: words are masked to the bits of `last` and drawn again while above it.
    fn up_to(&mut self, last: u32) -> u32 {
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let word = self.next_u32() & mask;
            if word <= last {
                return word;
            }
        }
    }
}

/// `numpy.random.RandomState(seed).permutation(n)`.
///
/// # Panics
/// If `n` exceeds 2^32: NumPy changes to 64-bit draws there, and a data set of this program holds its rows in memory.
pub fn permutation(seed: u32, n: usize) -> Vec<usize> {
    assert!(u32::try_from(n.saturating_sub(1)).is_ok(), "a permutation of {n} rows needs 64-bit draws");
    let mut random = Mt19937::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, random.up_to(i as u32) as usize);
    }
    order
}

/// How many rows are wanted of each part, and the seed that chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Rows to train on; `None`: all that dev leaves.
    pub train: Option<usize>,
    /// Rows to validate on.
    pub dev: usize,
    /// Rows to test on; `None`: all there are.
    pub test: Option<usize>,
    /// Seed of the permutations.
    pub seed: u32,
}

/// How many rows the files of a data set hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Rows of the train split.
    pub train: usize,
    /// Rows of the valid split, if there is one.
    pub valid: Option<usize>,
    /// Rows of the test split, if there is one.
    pub test: Option<usize>,
}

/// The rows chosen: positions in the split that each part is drawn from, in the order drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Positions in the train split.
    pub train: Vec<usize>,
    /// Positions in the valid split if there is one, else in the train split.
    pub dev: Vec<usize>,
    /// Positions in the test split; empty if there is none.
    pub test: Vec<usize>,
}

impl Chosen {
    /// Chooses the rows.
    ///
    /// Without a valid split, train and dev together are the first `train + dev` rows of the train split's
    /// permutation, and dev is the tail of them: where rows are short, dev is filled first. With a valid split, dev is
    /// the head of its permutation with seed + 1. Test is the head of the test split's permutation with seed + 2.
    /// Seeds wrap at 2^32. Fewer rows than wanted are no error: the lengths say what was had.
    pub fn new(available: Available, counts: Counts) -> Self {
        let head = |offset: u32, n: usize, wanted: usize| {
            let mut order = permutation(counts.seed.wrapping_add(offset), n);
            order.truncate(wanted);
            order
        };
        let from_train = if available.valid.is_some() { 0 } else { counts.dev };
        let wanted = counts.train.map_or(usize::MAX, |train| train.saturating_add(from_train));
        let mut train = head(0, available.train, wanted);
        let tail = train.split_off(train.len().saturating_sub(from_train));
        let dev = available.valid.map_or(tail, |n| head(DEV_SEED_OFFSET, n, counts.dev));
        let test = available.test.map_or(Vec::new(), |n| head(TEST_SEED_OFFSET, n, counts.test.unwrap_or(usize::MAX)));
        Self { train, dev, test }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every entry in its place: h = h * 1099511628211 + entry modulo 2^64, as computed once over NumPy's arrays.
    fn fingerprint(order: &[usize]) -> u64 {
        order.iter().fold(0, |hash: u64, entry| hash.wrapping_mul(1_099_511_628_211).wrapping_add(*entry as u64))
    }

    #[test]
    fn permutations_equal_numpy() {
        assert_eq!(permutation(42, 10), [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]);
        let drop = permutation(2_718_281, 77_400);
        assert_eq!(drop[..8], [29854, 4934, 637, 10563, 60297, 54404, 74969, 30937]);
        for (seed, n, hash) in [
            (0, 7, 18_364_343_987_754_974_001),
            (u32::MAX, 5, 9_841_540_707_041_342_552),
            (271_828, 65_537, 6_277_072_515_085_410_492),
            (5, 65_536, 13_131_023_926_899_094_712),
            (314_159, 1_000_003, 13_288_426_352_061_548_891_u64),
        ] {
            assert_eq!(fingerprint(&permutation(seed, n)), hash, "seed {seed}, {n} rows");
        }
        assert_eq!(permutation(0, 0), [0; 0]);
        assert_eq!(permutation(0, 1), [0]);
    }

    #[test]
    fn dev_is_the_tail_and_is_filled_first() {
        let counts = |train, dev| Counts { train, dev, test: None, seed: 42 };
        let available = Available { train: 10, valid: None, test: None };
        let chosen = Chosen::new(available, counts(Some(4), 3));
        assert_eq!((chosen.train, chosen.dev), (vec![8, 1, 5, 0], vec![7, 2, 9]));
        let short = Chosen::new(available, counts(Some(20), 8));
        assert_eq!((short.train, short.dev), (vec![8, 1], vec![5, 0, 7, 2, 9, 4, 3, 6]));
        let shorter = Chosen::new(available, counts(Some(20), 30));
        assert_eq!((shorter.train.len(), shorter.dev.len()), (0, 10));
        let all = Chosen::new(available, counts(None, 2));
        assert_eq!((all.train.len(), all.dev), (8, vec![3, 6]));
        assert_eq!(Chosen::new(available, counts(Some(usize::MAX), usize::MAX)).dev.len(), 10);
    }

    #[test]
    fn valid_and_test_splits_have_their_own_seeds() {
        let counts = Counts { train: Some(3), dev: 2, test: Some(4), seed: 40 };
        let chosen = Chosen::new(Available { train: 10, valid: Some(10), test: Some(10) }, counts);
        assert_eq!(chosen.train, permutation(40, 10)[..3]);
        assert_eq!(chosen.dev, permutation(41, 10)[..2]);
        assert_eq!(chosen.test, [8, 1, 5, 0]);
        let none = Chosen::new(Available { train: 10, valid: None, test: None }, counts);
        assert!(none.test.is_empty());
        let last = Counts { seed: u32::MAX, ..counts };
        assert_eq!(Chosen::new(Available { train: 1, valid: None, test: Some(9) }, last).test, permutation(1, 9)[..4]);
    }

    proptest! {
        #[test]
        fn every_permutation_holds_every_row_once(seed: u32, n in 0usize..500) {
            let mut order = permutation(seed, n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn train_and_dev_never_share_a_row(
            seed: u32, n in 0usize..60, train in prop::option::of(0usize..80), dev in 0usize..80,
        ) {
            let chosen =
                Chosen::new(Available { train: n, valid: None, test: None }, Counts { train, dev, test: None, seed });
            prop_assert_eq!(chosen.dev.len(), dev.min(n));
            prop_assert!(chosen.train.iter().all(|row| !chosen.dev.contains(row)));
        }
    }
}
