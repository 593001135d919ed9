//! Tensor circuits of QuanTA: a large linear map written as a sequence of small gates.
//!
//! A vector of length `D = d_1 * d_2 * ... * d_N` is read as a row-major tensor `[d_1, ..., d_N]`. A *gate* is a small matrix on one or two of its
//! axes, all other axes being batch axes; a *circuit* applies gates one after another. The circuit is a linear map of full size `D x D` with few
//! parameters and no limit on its rank (Chen et al., "QuanTA", arXiv 2406.00132).
//!
//! ```
//! use quanta_circuit::{Plan, apply, backward, init};
//!
//! let plan = Plan::all_pairs(&[4, 3, 2])?; // three gates on 24 values
//! let gates: Vec<f64> = init::identity(&plan)?;
//! let x: Vec<f64> = (0..2 * 24).map(f64::from).collect(); // two tokens
//! let mut y = vec![0.0; 2 * 24];
//! apply(&plan, &gates, &x, 24, &mut y, 24, 1.0);
//! assert_eq!(x, y);
//!
//! // gradients of sum(y) with respect to x and every gate
//! let dy = vec![1.0; 2 * 24];
//! let (mut dx, mut dgates) = (vec![0.0; 2 * 24], vec![0.0; plan.parameters()]);
//! backward(&plan, &gates, &x, 24, &dy, 24, 1.0, Some(&mut dx), Some(&mut dgates));
//! assert_eq!(dx, dy);
//! # Ok::<(), quanta_circuit::PlanError>(())
//! ```
//!
//! # Glossary
//! | word | symbol in the paper | meaning |
//! |---|---|---|
//! | axis | `d_n` | one factor of the dimension; axes are counted from the end: -1 is the last |
//! | dims | `d_1 - ... - d_N` | the sizes of the axes |
//! | gate | `T^(alpha)` | a matrix `[out_b*out_a, in_b*in_a]` on the axes (a, b), a nearer the end |
//! | plan | | the dims and the gates' axes, without numbers ([`Plan`]) |
//! | circuit | script `T` | a plan with its gates' values |
//! | operator | script `T`, Eq. 7 | the circuit as one full matrix ([`operator`](fn@operator)) |
//! | token | `x` | one vector that the circuit is applied to |
//!
//! # Rooms
//! [`Plan`] describes (as text, einsum, picture), [`init`] fills, [`apply`] and [`backward`] compute, [`reference`](mod@reference) judges,
//! [`apply_each`] shares an input, [`apply_keeping`] and [`backward_kept`] trade memory for operations, [`apply_on`] and [`backward_on`]
//! compute in the arithmetic of a matrix [`unit`](mod@unit), [`operator`](fn@operator) and [`pull_back`] go to the full matrix and back, [`Plan::cost`]
//! counts, and [`theory`] asks what circuits can represent. No files, no models: those are other crates' work. `examples/circuit.rs` goes through most of it,
//! `docs/circuit.md`, `universality.md`, `rank.md` and `openness.md` of the repository have kernels' times and the theorems' derivations.

mod circuit;
mod cost;
mod drawing;
mod einsum;
mod exponential;
pub mod init;
mod kept;
mod kernel;
mod live;
mod operator;
mod plan;
mod real;
mod text;
pub mod theory;

pub use circuit::{CircuitSum, apply, apply_each, apply_on, backward, backward_on, instruction_set};
pub use cost::{Application, Cost};
pub use einsum::{EinsumError, gates_of_einsum, symbol};
pub use kept::{Kept, apply_keeping, backward_kept};
pub use kernel::{permuted, reference, unit};
pub use live::Trimmed;
pub use operator::{operator, pull_back};
pub use plan::{Gate, Plan, PlanError, pairs};
pub use real::Real;
pub use text::TextError;
