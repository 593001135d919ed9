//! Storage of the numbers a step computes with: matrices, the workspace they are drawn from, strided products, products in bf16
//! arithmetic, named random streams.
//!
//! Lowest room of the crate that holds data. It knows no layer, no file and no model; precision is the type parameter, never a global setting.

mod arena;
mod awake;
#[cfg(target_arch = "x86_64")]
mod block;
mod few_rows;
mod gemm;
mod matrix;
mod operands;
#[cfg(target_arch = "x86_64")]
mod pack;
mod panels;
mod products;
mod random;
mod rounded;
mod small;
mod tiles;
pub(crate) mod vector;
mod workspace;

pub(crate) use few_rows::{FEW_ROWS, Rows, few_rows_here, few_rows_product};
pub use gemm::{MatMut, MatRef, matmul, matmul_here, product_kernel};
pub use matrix::Matrix;
pub(crate) use panels::{Product, panel_products, products_of_rounded};
pub use products::{BF16_PRODUCTS, Bf16Products, Rounder};
pub use quanta_circuit::Real;
pub use random::Stream;
pub(crate) use rounded::RoundedRows;
pub(crate) use small::small_product;
pub(crate) use tiles::{Frozen, bf16_products};
pub use workspace::{Buffer, Workspace};
