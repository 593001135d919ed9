//! What a run leaves on disk: adapter folders in PEFT's layout, checkpoints, merged model folders, and reading them back.
//!
//! The formats live here; when they are written is the run's business. Every file is complete or absent.

mod adapter_folder;
mod authors;
mod change;
mod merge;
mod peft_config;
mod training;

pub use adapter_folder::{AdapterFolder, Misfit, save_adapters, write_adapter};
pub use authors::{AuthorsCheckpoint, Comparison};
pub use change::Change;
pub use merge::merge_into;
pub use peft_config::AdapterConfig;
pub use training::{Checkpoint, Moments, list_checkpoints, prune_checkpoints, save_checkpoint};

use std::path::PathBuf;

use thiserror::Error;

use crate::adapter::AuthorsProblem;
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
    /// A file to import that holds no gates of the authors' program.
    #[error("{} holds no QuanTA gates as the authors' program names them (`....quanta_weights.-1 -2`): choose their pytorch_model.bin", path.display())]
    NoGates {
        /// The file or folder.
        path: PathBuf,
    },
    /// Gates of the authors' program that make no circuit.
    #[error("the gates in {} make no circuit of all pairs of axes:{}", path.display(), each(.problems))]
    Gates {
        /// The file or folder.
        path: PathBuf,
        /// Every site where they do not.
        problems: Vec<AuthorsProblem>,
    },
    /// A checkpoint of the authors' program that was saved while T was part of the weights.
    #[error(
        "{}: `{flag}` says that T was merged into the weight when this was saved, as their evaluation does: load it in their program, call model.train(), and save it again",
        path.display()
    )]
    Merged {
        /// The file or folder.
        path: PathBuf,
        /// The first flag that says so.
        flag: String,
    },
    /// A checkpoint of the whole model whose other weights are not the base model's.
    #[error(
        "{} was trained on another base model than {}: `{tensor}` {difference}; give the model it was trained on with --base",
        files.0.display(), files.1.display()
    )]
    OtherBase {
        /// The file or folder, and the base model given; in a box, because every error is as large as the largest.
        files: Box<(PathBuf, PathBuf)>,
        /// The tensor that differs most.
        tensor: String,
        /// How.
        difference: String,
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

fn each(problems: &[AuthorsProblem]) -> String {
    const LISTED: usize = 20;
    let mut text: String = problems.iter().take(LISTED).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > LISTED {
        text.push_str(&format!("\n  and {} more", problems.len() - LISTED));
    }
    text
}
