//! Whether the machine has the memory a run will take, asked before anything large is read.

use super::RunError;
use crate::model::Cost;

/// Bytes that processes can still take, as Linux estimates them; none elsewhere.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Refuses a computation on matrices that would not fit.
pub fn check_bytes(needed: u64) -> Result<(), RunError> {
    match available_bytes() {
        Some(available) if needed > available => Err(RunError::TooLarge { needed, available }),
        _ => Ok(()),
    }
}

/// Refuses a generation that would not fit.
pub fn check_generation(needed: u64) -> Result<(), RunError> {
    match available_bytes() {
        Some(available) if needed > available => Err(RunError::GenerateMemory { needed, available }),
        _ => Ok(()),
    }
}

/// Refuses a run that would not fit.
pub fn check(cost: &Cost) -> Result<(), RunError> {
    let needed = cost.peak_bytes();
    match available_bytes() {
        Some(available) if needed > available => {
            Err(RunError::Memory { needed, available, largest: cost.largest_part() })
        }
        _ => Ok(()),
    }
}
