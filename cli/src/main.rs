//! The program `quanta`: parse, call one function of the library's `run` room, print.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage or configuration.

mod bench;
mod circuit;
mod demo;
mod download;
mod eval;
mod export;
mod generate;
mod import;
mod info;
mod init;
mod inspect;
mod interrupt;
mod load;
mod merge;
mod methods;
mod plan;
mod report;
mod score;
mod text;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quanta_tune::run::RunError;

/// Fine-tune Hugging Face models with QuanTA and the methods it is compared with.
#[derive(Parser)]
#[command(name = env!("CARGO_BIN_NAME"), version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train the adapters of a configuration
    Train(train::Arguments),
    /// Fine-tune a small model of this program's own, and see what comes of it
    Demo(demo::Arguments),
    /// A model, run or adapter measured on a task's rows
    Eval(eval::Arguments),
    /// Log-probability of every token of a text
    Score(score::Arguments),
    /// What a model writes after a prompt
    Generate(generate::Arguments),
    /// Merge an adapter into its base model
    Merge(merge::Arguments),
    /// An adapter's change of weights as a LoRA adapter that PEFT reads
    Export(export::Arguments),
    /// An adapter from a checkpoint of the paper's authors
    Import(import::Arguments),
    /// Sites, axes, gates, parameters, operations and memory of a configuration
    Plan(plan::Arguments),
    /// A starter configuration, a tokenizer from text, a model with random weights
    Init(init::Arguments),
    /// The samples of a configuration as tokens, trained ones marked
    Inspect(inspect::Arguments),
    /// One page about one or several runs: scores, curves, sample outputs
    Report(report::Arguments),
    /// The fine-tuning methods
    Methods(methods::Arguments),
    /// Machine, kernels and versions
    Info(info::Arguments),
    /// Tensor circuits: draw, translate, decompose, rank, approximate
    #[command(subcommand)]
    Circuit(circuit::Command),
    /// Measurements on random data
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    quanta_tune::run::observe_downloads(download::show);
    let result = match &arguments.command {
        Command::Train(arguments) => train::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Score(arguments) => score::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Merge(arguments) => merge::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Methods(arguments) => methods::run(arguments),
        Command::Info(arguments) => info::run(arguments),
        Command::Circuit(command) => circuit::run(command),
        Command::Bench(command) => bench::run(command),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(broken) = error.downcast_ref::<std::io::Error>()
        && broken.kind() == std::io::ErrorKind::BrokenPipe
    {
        // the reader of our output has seen enough
        return ExitCode::SUCCESS;
    }
    let code = match error.downcast_ref::<RunError>() {
        // the library's messages hold their causes: the chain would say everything twice
        Some(error) => {
            eprintln!("quanta: {error}");
            error.exit_code()
        }
        None => {
            eprintln!("quanta: {error:#}");
            1
        }
    };
    ExitCode::from(code)
}
