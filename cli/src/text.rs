//! How numbers and tables are written for people.

use std::io::{self, Write};

pub use quanta_tune::analysis::grouped;

/// Bytes in the largest unit that leaves a number above one.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Operations in the largest unit that leaves a number above one.
pub fn flops(flops: u64) -> String {
    let units = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"];
    let mut value = flops as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A labelled line: `label` in a column of its own.
pub fn line(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{label:<12}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([10, 2048, 3 << 30].map(bytes), ["10 B", "2.0 KiB", "3.0 GiB"]);
        assert_eq!(flops(3_670_016), "3.7 MFLOP");
    }
}
