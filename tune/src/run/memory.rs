//! Whether the machine has the memory a run will take, asked before anything large is read.

use super::RunError;
use crate::model::Cost;

/// Bytes that processes can still take, as Linux estimates them; none elsewhere.
pub fn available_bytes() -> Option<u64> {
    of_system("MemAvailable:")
}

/// One of the sizes in Linux's account of its memory, in bytes; none elsewhere.
pub fn of_system(label: &str) -> Option<u64> {
    kibibytes("/proc/meminfo", label)
}

/// Most bytes that this process had in memory at one time, as Linux counts them; none elsewhere.
pub fn peak_resident_bytes() -> Option<u64> {
    of_process("VmHWM:")
}

/// Bytes that this process has in memory now, as Linux counts them; none elsewhere.
pub fn resident_bytes() -> Option<u64> {
    of_process("VmRSS:")
}

fn of_process(label: &str) -> Option<u64> {
    kibibytes("/proc/self/status", label)
}

/// A line of one of Linux's accounts, in bytes.
fn kibibytes(account: &str, label: &str) -> Option<u64> {
    let text = std::fs::read_to_string(account).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
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
    // what the process has already is no longer available
    let needed = cost.peak_bytes() - cost.program_bytes;
    match available_bytes() {
        Some(available) if needed > available => {
            Err(RunError::Memory { needed, available, largest: cost.largest_part() })
        }
        _ => Ok(()),
    }
}
