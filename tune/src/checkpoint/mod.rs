//! What a run leaves on disk: adapter folders in PEFT's layout, checkpoints, merged model folders, and reading them back.
//!
//! The formats live here; when they are written is the run's business. Every file is complete or absent.

mod adapter_folder;
mod change;
mod merge;
mod peft_config;
mod training;

pub use adapter_folder::{AdapterFolder, save_adapters, write_adapter};
pub use change::Change;
pub use merge::merge_into;
pub use peft_config::AdapterConfig;
pub use training::{Checkpoint, Moments, list_checkpoints, prune_checkpoints, save_checkpoint};

use std::path::PathBuf;

use thiserror::Error;

use crate::config::ConfigError;
use crate::weights::WeightsError;

/// Why an adapter folder cannot be read, or a folder not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// `adapter_config.json` cannot be read or asks for something this program does not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor file is broken, does not hold what it should, or cannot be written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Several things are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<CheckpointError>),
    /// An adapter that is no matrix cannot become part of a weight.
    #[error(
        "an adapter of type `{method}` is no change of weights: it cannot be merged or exported, use it beside the model"
    )]
    NotMergeable {
        /// The method.
        method: &'static str,
    },
    /// There is no adapter in the folder.
    #[error("{} holds no adapter: there is no adapter_config.json in it", path.display())]
    NoAdapter {
        /// The folder.
        path: PathBuf,
    },
    /// Values to start from belong to other methods.
    #[error("the values to start from are of {theirs}, and {ours} is to be trained: choose another adapter")]
    OtherMethods {
        /// Methods of the folder.
        theirs: String,
        /// Methods wanted.
        ours: String,
    },
    /// A file besides the tensors cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl CheckpointError {
    /// All of them as one; none when there is none.
    fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::Several(errors)) } else { errors.pop() }
    }
}
