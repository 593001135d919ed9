//! `quanta info`: the machine as this program sees it, and the kernels it therefore chooses.
//!
//! Results are the same bits only for one choice of kernels, so this is what to look at when two machines disagree, and what belongs into a bug report.

use std::thread;

use super::RunError;
use super::config::FORMAT;
use super::memory;
use crate::tensor::{Bf16Products, product_kernel};

/// What `quanta info` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoReport {
    /// The program's version.
    pub version: &'static str,
    /// Version of the run folders it writes.
    pub run_format: usize,
    /// Whether it was compiled for speed.
    pub optimised: bool,
    /// Operating system, such as `linux`.
    pub system: &'static str,
    /// Processor family, such as `x86_64`.
    pub architecture: &'static str,
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// Threads that a run uses unless told otherwise.
    pub threads: usize,
    /// Bytes of memory, where the system tells.
    pub memory_bytes: Option<u64>,
    /// Bytes that processes can still take, where the system tells.
    pub available_bytes: Option<u64>,
    /// Instruction sets of the processor that matter here.
    pub instruction_sets: Vec<&'static str>,
    /// The kernels that circuits run on.
    pub circuit_kernel: &'static str,
    /// The kernels that matrix products run on.
    pub product_kernel: &'static str,
    /// The kernels that products with bf16 weights run on.
    pub bf16_product_kernel: &'static str,
    /// Why those are not the matrix unit, AMX.
    pub amx_unused: Option<&'static str>,
}

/// Looks at the machine. What it does not tell is left out.
///
/// # Errors
/// [`RunError::Usage`] when a variable that chooses kernels has a value that it may not have.
pub fn info() -> Result<InfoReport, RunError> {
    let (bf16_products, amx_unused) = Bf16Products::of_process().map_err(RunError::Usage)?;
    Ok(InfoReport {
        version: env!("CARGO_PKG_VERSION"),
        run_format: FORMAT,
        optimised: !cfg!(debug_assertions),
        system: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        processor: processor(),
        // the number of rayon's threads, for `threads = 0`
        threads: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory::of_system("MemTotal:"),
        available_bytes: memory::available_bytes(),
        instruction_sets: instruction_sets(),
        circuit_kernel: quanta_circuit::instruction_set::<f32>(),
        product_kernel: product_kernel(),
        bf16_product_kernel: bf16_products.kernel(usize::MAX),
        amx_unused,
    })
}

/// The processor's name as Linux has it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => { [$(($name, is_x86_feature_detected!($name))),*] };
    }
    let sets = detected!("avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16" "avx512fp16");
    sets.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
    }
    let sets = detected!("neon" "fp16" "bf16" "dotprod" "i8mm" "sve" "sve2");
    sets.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_are_among_what_the_processor_can() {
        let info = info().unwrap();
        let has = |name| info.instruction_sets.contains(&name);
        match info.circuit_kernel {
            "avx512" => assert!(has("avx512f") && info.product_kernel == "avx512f"),
            "avx2" => assert!(has("avx2") && has("fma") && !has("avx512f") && info.product_kernel == "fma"),
            name => assert_eq!(name, "portable"),
        }
        assert!(info.threads >= 1 && !info.version.is_empty());
        if cfg!(target_os = "linux") {
            assert!(info.memory_bytes.unwrap() >= info.available_bytes.unwrap());
        }
    }
}
