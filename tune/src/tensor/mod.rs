//! Storage of the numbers a step computes with: matrices, the workspace they are drawn from, strided products, named random streams.
//!
//! Lowest room of the crate that holds data. It knows no layer, no file and no model; precision is the type parameter, never a global setting.

mod arena;
mod gemm;
mod matrix;
mod random;
pub(crate) mod vector;
mod workspace;

pub use gemm::{MatMut, MatRef, matmul, product_kernel};
pub use matrix::Matrix;
pub use quanta_circuit::Real;
pub use random::Stream;
pub use workspace::{Buffer, Workspace};
