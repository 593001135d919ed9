//! Named tensors on disk: safetensors and pickled files and Hugging Face folders, read by memory mapping, and safetensors written whole or not at all.
//!
//! The room exists so that every other one sees weights as `name -> type, shape, values` and never a file format. Files come from strangers: whatever
//! their bytes say, the answer is a tensor or a [`WeightsError`], never a panic, and memory grows with the file's real size only.
//!
//! Left to others: what the tensors mean (model families), which adapters they belong to (checkpoints), and arithmetic.
//!
//! The way in: [`TensorFiles::open_folder`], [`check_inventory`], [`TensorFiles::read`]. The way out: [`TensorWriter`] for tensors, [`write_file`] for
//! small files, [`Staging`] for whole folders.

mod atomic;
mod bf16;
mod check;
mod contents;
mod dtype;
mod error;
mod folder;
mod header;
mod index;
mod mmap;
mod npy;
mod pickle;
mod view;
mod write;

pub use atomic::{AtomicFile, Staging, remove_leftovers, write_file};
pub use bf16::Bf16Values;
pub use check::{InventoryProblems, ShapeMismatch, check_inventory};
pub use dtype::{Dtype, round_to_bf16};
pub use error::WeightsError;
pub use folder::{TensorFile, TensorFiles, TensorInfo};
pub use index::IndexProblem;
pub use npy::{NpyMatrix, read_npy};
pub use pickle::PickleProblem;
pub use write::{TensorSpec, TensorWriter, default_metadata};
