//! `quanta circuit`: the mathematics of tensor circuits from the shell.

mod matrix;
mod show;

use anyhow::Result;

/// What can be asked of a circuit.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Draw a plan; count its parameters and operations
    Show(show::ShowArguments),
    /// The einsum expressions of a plan, or the plan of an expression
    Einsum(show::EinsumArguments),
    /// Write a matrix as a circuit of gates (Theorem 6.1 and its limits)
    Decompose(matrix::DecomposeArguments),
    /// Ranks of gates and operator, and the bounds of Theorem 6.2
    Rank(matrix::RankArguments),
    /// The circuit of a plan nearest to a matrix
    Approximate(matrix::ApproximateArguments),
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Show(arguments) => show::show(arguments),
        Command::Einsum(arguments) => show::einsum(arguments),
        Command::Decompose(arguments) => matrix::decompose(arguments),
        Command::Rank(arguments) => matrix::rank(arguments),
        Command::Approximate(arguments) => matrix::approximate(arguments),
    }
}
