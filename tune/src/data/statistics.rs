//! Length statistics of encoded rows: what a run will read, what it will train on, and what was cut.
//!
//! They are here because a wrong template or limit shows in these few numbers before any time is spent training.
//! Printing the samples themselves is left to the command that inspects data.

use super::example::Encoded;
use serde::Serialize;
use std::fmt;

/// The spread of a set of counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Sum.
    pub total: u64,
    /// Smallest.
    pub min: usize,
    /// Middle value; of an even number of counts the mean of the middle two.
    pub median: f64,
    /// Mean.
    pub mean: f64,
    /// The smallest count that at least 95 of 100 do not exceed.
    pub p95: usize,
    /// Largest.
    pub max: usize,
}

impl Spread {
    /// The spread of some counts; `None` if there are none.
    pub fn of(counts: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut sorted: Vec<usize> = counts.into_iter().collect();
        sorted.sort_unstable();
        let (n, max) = (sorted.len(), *sorted.last()?);
        let total: u64 = sorted.iter().map(|count| *count as u64).sum();
        let median = (sorted[(n - 1) / 2] as f64 + sorted[n / 2] as f64) / 2.0;
        let p95 = sorted[(n * 95).div_ceil(100) - 1];
        Some(Self { total, min: sorted[0], median, mean: total as f64 / n as f64, p95, max })
    }
}

/// Statistics of a set of encoded rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// How many sequences there are.
    pub sequences: usize,
    /// Tokens of a sequence; `None` if there is no sequence.
    pub tokens: Option<Spread>,
    /// Trained tokens of a sequence; `None` if there is no sequence.
    pub trained: Option<Spread>,
    /// How many sequences were cut to fit the length limit.
    pub truncated: usize,
}

impl Statistics {
    /// Counts over the sequences.
    pub fn new(sequences: &[Encoded]) -> Self {
        Self {
            sequences: sequences.len(),
            tokens: Spread::of(sequences.iter().map(|sequence| sequence.tokens.len())),
            trained: Spread::of(sequences.iter().map(Encoded::trained_tokens)),
            truncated: sequences.iter().filter(|sequence| sequence.truncated).count(),
        }
    }
}

impl fmt::Display for Statistics {
    /// A small table: one line of counts, then a line each for all tokens and for the trained ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sequences, {} truncated", self.sequences, self.truncated)?;
        let (Some(tokens), Some(trained)) = (self.tokens, self.trained) else { return Ok(()) };
        write!(f, "\n{:8}{:>12}{:>8}{:>10}{:>10}{:>8}{:>8}", "", "total", "min", "median", "mean", "p95", "max")?;
        for (name, spread) in [("tokens", tokens), ("trained", trained)] {
            let Spread { total, min, median, mean, p95, max } = spread;
            write!(f, "\n{name:8}{total:>12}{min:>8}{median:>10.1}{mean:>10.1}{p95:>8}{max:>8}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: usize, trained: usize, truncated: bool) -> Encoded {
        Encoded::with_tail(vec![0; tokens], trained, truncated)
    }

    #[test]
    fn spreads_are_exact() {
        let spread = Spread::of(1..=100).unwrap();
        let expected = Spread { total: 5050, min: 1, median: 50.5, mean: 50.5, p95: 95, max: 100 };
        assert_eq!(spread, expected);
        let odd = Spread::of([9, 1, 2]).unwrap();
        assert_eq!((odd.median, odd.p95, odd.mean), (2.0, 9, 4.0));
        let one = Spread::of([3]).unwrap();
        assert_eq!((one.min, one.median, one.p95, one.max), (3, 3.0, 3, 3));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn tokens_trained_and_truncated_are_counted_apart() {
        let statistics = Statistics::new(&[sequence(10, 2, false), sequence(20, 4, true)]);
        assert_eq!((statistics.sequences, statistics.truncated), (2, 1));
        assert_eq!(statistics.tokens.unwrap().total, 30);
        assert_eq!(statistics.trained.unwrap().total, 6);
        let printed = statistics.to_string();
        assert_eq!(printed.lines().count(), 4);
        assert!(printed.lines().all(|line| line.len() <= 64), "{printed}");
    }

    #[test]
    fn no_sequences_are_counted_as_none() {
        let statistics = Statistics::new(&[]);
        assert_eq!(statistics.to_string(), "0 sequences, 0 truncated");
        assert_eq!(serde_json::to_value(&statistics).unwrap()["tokens"], serde_json::Value::Null);
    }
}
