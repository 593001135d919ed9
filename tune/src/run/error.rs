//! The errors of the commands, and which exit code each deserves.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::analysis::AnalysisError;
use crate::checkpoint::{CheckpointError, Misfit};
use crate::config::ConfigError;
use crate::data::chat::ChatError;
use crate::data::dataset::DatasetError;
use crate::data::encode::RowError;
use crate::data::task::TaskError;
use crate::data::tokenizer::TokenizerError;
use crate::eval::GenerateError;
use crate::hub::HubError;
use crate::model::{AttachError, LoadError};
use crate::train::NotFinite;
use crate::weights::WeightsError;

/// Why a command failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The user's configuration cannot be used.
    #[error(transparent)]
    Config(ConfigError),
    /// The configuration's adapters do not fit the model.
    #[error("{origin}: {} to mend\n{}", count(.errors.len()), lines(.errors))]
    Attach {
        /// The configuration or adapter folder.
        origin: String,
        /// Everything that does not fit.
        errors: Vec<AttachError>,
    },
    /// An adapter folder's sites and tensors do not fit the model.
    #[error("{origin}: {} to mend\n{}\n{tensors}", count(.errors.len()), lines(.errors))]
    Adapter {
        /// The folder.
        origin: String,
        /// Sites that do not fit.
        errors: Vec<AttachError>,
        /// Tensors that do not fit.
        tensors: Box<CheckpointError>,
    },
    /// A combination of arguments that means nothing.
    #[error("{0}")]
    Usage(String),
    /// An encoder is asked for tokens.
    #[error("this model is an encoder whose head looks at whole sequences: it cannot {action}; choose a decoder")]
    Encoder {
        /// What it is asked to do.
        action: &'static str,
    },
    /// The model folder cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Nothing can be generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The tokenizer cannot be loaded or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The data cannot be read or encoded.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// The model has no chat template that can be used.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The task cannot be found or read.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A token id that the model has no embedding for.
    #[error(
        "token {token} is beyond the model's {vocab_size} embeddings: these tokens, or the tokenizer, belong to another model"
    )]
    Vocabulary {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// More tokens than the model's positions were trained for.
    #[error("{tokens} tokens are more than the {max_length} this model was made for: pass a shorter text")]
    TooLong {
        /// Tokens given.
        tokens: usize,
        /// Longest sequence.
        max_length: usize,
    },
    /// An adapter folder cannot be read, or a folder cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The folder is neither a run, nor an adapter, nor a model.
    #[error("{} is neither a run folder (config.toml), nor an adapter folder (adapter_config.json), nor a model folder (config.json)", path.display())]
    UnknownFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The run has kept no adapter yet.
    #[error("the run in {} has kept no adapter yet: it came neither to a validation nor to its end; quanta train {} --out {} --resume continues it", path.display(), path.join("config.toml").display(), path.display())]
    UnfinishedRun {
        /// The run's folder.
        path: PathBuf,
    },
    /// The adapter's base model cannot be found.
    #[error("the base model of {} cannot be found{}: say where it is with --base, as a folder or as hub:org/name", adapter.display(), named(.base))]
    NoBase {
        /// The adapter's folder.
        adapter: PathBuf,
        /// What its configuration says.
        base: Option<String>,
    },
    /// The machine has too little memory.
    #[error(
        "this run needs about {:.1} GiB, most of it for {largest}, and {:.1} GiB are free: lower train.batch, train.batch_tokens or data.max_length, set train.recompute = true or model.dtype = \"bf16\", or choose smaller adapters",
        gib(*.needed), gib(*.available)
    )]
    Memory {
        /// Estimated bytes.
        needed: u64,
        /// Bytes free.
        available: u64,
        /// What takes most of it.
        largest: &'static str,
    },
    /// The machine has too little memory to continue the prompts.
    #[error(
        "generating needs about {:.1} GiB for the weights, keys and values, and {:.1} GiB are free: generate fewer tokens, from shorter prompts, or load the weights as bf16",
        gib(*.needed), gib(*.available)
    )]
    GenerateMemory {
        /// Estimated bytes.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// A matrix, product or circuit beyond the machine's memory.
    #[error("this takes about {:.1} GiB and {:.1} GiB are free: choose something smaller", gib(*.needed), gib(*.available))]
    TooLarge {
        /// Estimated bytes.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// The numbers ran away; nothing was saved of the failed step.
    #[error("{source}; {}", saved_words(.saved))]
    Diverged {
        /// Where.
        source: NotFinite,
        /// Step and folder of what was saved last.
        saved: Option<(usize, PathBuf)>,
    },
    /// A model computes no numbers.
    #[error(
        "the model gives token {position} no finite probability: its weights, or the adapter's, hold infinite values or NaN"
    )]
    ScoreNotFinite {
        /// Position of the first such token.
        position: usize,
    },
    /// The merged model does not compute what the adapted one does.
    #[error(
        "merged and adapted logits differ by {difference:.1e} of their largest, more than {tolerance:.1e}: nothing was written"
    )]
    MergeDiffers {
        /// Relative difference.
        difference: f64,
        /// What rounding explains.
        tolerance: f64,
    },
    /// A file besides models and adapters cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The objective needs candidates that rows do not have.
    #[error(
        "{origin}: data.objective = \"choice\" needs candidates in every row, and this data has rows without: set objective = \"lm\""
    )]
    NoCandidates {
        /// The configuration.
        origin: String,
    },
    /// A prompt cannot be encoded.
    #[error("a prompt cannot be used: {0}")]
    Prompt(RowError),
    /// The folder belongs to another configuration.
    #[error(
        "{} holds a run of another configuration, which has `{theirs}` where this one has `{ours}`: continue it with its own config.toml, or choose another folder",
        path.display()
    )]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// A line of its configuration.
        theirs: String,
        /// The line of the configuration given.
        ours: String,
    },
    /// The folder to continue in is no run.
    #[error("{} is not a run folder: there is no config.toml in it; choose a run, or a new folder", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint's state cannot be read.
    #[error("{}: state.json cannot be read: {reason}", path.display())]
    State {
        /// The checkpoint.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A run cannot be shown.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// A theorem stands in the way, or values are not finite.
    #[error("{0}")]
    Theory(String),
    /// The threads cannot be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

impl RunError {
    /// 2 for bad usage or configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Attach { .. } | Self::Usage(_) | Self::Task(TaskError::Unknown { .. }) => 2,
            Self::Hub(HubError::Name { .. } | HubError::Setting { .. }) => 2,
            Self::Generate(error) if error.is_usage() => 2,
            _ => 1,
        }
    }

    /// Everything about an adapter folder that does not fit the model.
    pub(super) fn misfit(folder: &Path, Misfit { sites: errors, tensors }: Misfit) -> Self {
        let origin = folder.display().to_string();
        match tensors {
            None => Self::Attach { origin, errors },
            Some(tensors) if errors.is_empty() => Self::Checkpoint(*tensors),
            Some(tensors) => Self::Adapter { origin, errors, tensors },
        }
    }

    /// An error of a file, for `map_err`.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

fn lines(errors: &[AttachError]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

fn named(base: &Option<String>) -> String {
    base.as_ref().map(|base| format!(" at {base}")).unwrap_or_default()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

fn saved_words(saved: &Option<(usize, PathBuf)>) -> String {
    match saved {
        Some((step, folder)) => format!("the state of step {step} is in {}", folder.display()),
        None => "nothing had been saved yet".to_owned(),
    }
}
