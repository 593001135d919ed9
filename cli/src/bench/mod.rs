//! `quanta bench`: measurements on random data.

mod circuit;
mod decode;
mod gemm;
mod train;

use anyhow::Result;
use clap::ValueEnum;
use quanta_tune::run::RunError;

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Command {
    /// A circuit beside the frozen linear it adapts, and beside the einsum order with permutes
    Circuit(circuit::Arguments),
    /// Generation on random weights, beside the machine's memory
    Decode(decode::Arguments),
    /// The frozen product, both ways, beside the machine's arithmetic limit
    Gemm(gemm::Arguments),
    /// Training steps on random weights, with the lengths of real prompts
    Train(train::Arguments),
}

/// Who measured, in the JSON of every benchmark.
const ENGINE: &str = concat!("quanta ", env!("CARGO_PKG_VERSION"));

/// How weights are held.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Held {
    F32,
    Bf16,
}

impl Held {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Refuses rounded rows where the weights are held in f32.
    fn check_rounded(self, rounded: bool) -> Result<()> {
        if rounded && self != Self::Bf16 {
            let message = "--rounded is for weights held as bf16: add --dtype bf16";
            return Err(RunError::Usage(message.to_owned()).into());
        }
        Ok(())
    }
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Circuit(arguments) => circuit::run(arguments),
        Command::Decode(arguments) => decode::run(arguments),
        Command::Gemm(arguments) => gemm::run(arguments),
        Command::Train(arguments) => train::run(arguments),
    }
}
