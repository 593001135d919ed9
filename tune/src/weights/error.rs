//! What can go wrong with files of tensors, as one enum whose fields a program can read.
//!
//! It is one type for the whole room because a caller that loads or saves a model meets all of it at once. It leaves to the callers which config key or
//! command named the path. Every message is whole: causes from other crates are part of it, and not repeated through `Error::source`.

use std::io;
use std::path::PathBuf;
use std::str::Utf8Error;

use super::check::InventoryProblems;
use super::dtype::Dtype;
use super::index::{self, IndexProblem};
use super::pickle::PickleProblem;

/// An error of reading or writing tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("could not {action} {}: {cause}{}", path.display(), advice(cause))]
    Io {
        /// What was tried, as a verb: `open`, `write`, ...
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// An `.npy` file is damaged or holds no matrix of floating-point numbers.
    #[error("{} cannot be used: {reason}", path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A path that must name a regular file names something else.
    #[error("{} is not a regular file; give the path of a file of tensors", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A model folder without weights that can be read.
    #[error(
        "{} holds none of model.safetensors, pytorch_model.bin and their indices (.index.json); give a Hugging Face model folder",
        folder.display()
    )]
    NoModel {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of pickled weights is damaged, hostile, or holds something else.
    #[error("{} cannot be read: {problem}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: PickleProblem,
    },
    /// Fewer than the eight bytes that say how long the header is.
    #[error("{} has {bytes} bytes, too few for a safetensors file; it is empty or cut off: fetch it again", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The header is said to reach beyond the end of the file, or beyond what the format allows.
    #[error(
        "{} claims a header of {claimed} bytes where at most {possible} are possible; it is cut off or no safetensors file: fetch it again",
        path.display()
    )]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The length in its first eight bytes.
        claimed: u64,
        /// The smaller of the bytes that follow and the format's limit.
        possible: u64,
    },
    /// The header is not text.
    #[error("the header of {} is not UTF-8: {cause}; fetch the file again", path.display())]
    HeaderText {
        /// The file.
        path: PathBuf,
        /// Where the text ends.
        cause: Utf8Error,
    },
    /// The header is text but not the JSON object the format asks for.
    #[error("the header of {} is malformed: {cause}; fetch the file again", path.display())]
    HeaderJson {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        cause: serde_json::Error,
    },
    /// One name stands for two tensors.
    #[error("{} names tensor `{tensor}` twice; fetch or write the file again", path.display())]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// A tensor's data would lie outside the file.
    #[error(
        "{} claims bytes {begin} to {end} for tensor `{tensor}` but holds {available} bytes of data; it is cut off: fetch it again",
        path.display()
    )]
    OutsideFile {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// First byte claimed, counted from the end of the header.
        begin: u64,
        /// One past the last byte claimed.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// A tensor's shape and type do not give the number of bytes it occupies.
    #[error(
        "{} gives tensor `{tensor}` of type {dtype} and shape {shape:?} {bytes} bytes, which do not fit; fetch the file again",
        path.display()
    )]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type as the file writes it.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The bytes it claims.
        bytes: u64,
    },
    /// The tensors overlap or leave holes: the format's own checks failed.
    #[error("{} lays out its tensors wrongly: {cause}; fetch the file again", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Which check failed.
        cause: safetensors::SafeTensorError,
    },
    /// Bytes after the last tensor.
    #[error("{} holds {available} bytes of data but its header accounts for {used}; fetch the file again", path.display())]
    Unaccounted {
        /// The file.
        path: PathBuf,
        /// Bytes the tensors occupy.
        used: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// An element type that weights are not computed from.
    #[error(
        "tensor `{tensor}` in {} has type {dtype}; types read are F64, F32, F16 and BF16: convert the file to one of them",
        path.display()
    )]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type as the file writes it.
        dtype: String,
    },
    /// A name that is no storage type.
    #[error("unknown dtype `{name}`; use one of f64, f32, f16, bf16")]
    UnknownDtype {
        /// The name as given.
        name: String,
    },
    /// Bytes that are no whole number of elements.
    #[error("{bytes} bytes are no whole number of {dtype} elements of {} bytes", dtype.bytes())]
    RaggedBytes {
        /// The element type.
        dtype: Dtype,
        /// The number of bytes.
        bytes: usize,
    },
    /// An index (`model.safetensors.index.json`) is not the JSON the format asks for.
    #[error("the index {} is malformed: {cause}; fetch it again", path.display())]
    IndexJson {
        /// The index file.
        path: PathBuf,
        /// The parser's words.
        cause: serde_json::Error,
    },
    /// The index and the shards disagree.
    #[error("the index {} and its shards disagree; fetch the missing files again:{}", path.display(), index::listing(problems))]
    Index {
        /// The index file.
        path: PathBuf,
        /// Every disagreement found.
        problems: Vec<IndexProblem>,
    },
    /// A tensor that no file holds.
    #[error("no tensor `{tensor}` in {}", path.display())]
    UnknownTensor {
        /// The folder or file.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// The tensors are not those of the model or adapter: see [`super::check_inventory`].
    #[error("the tensors in {} are not those its config asks for; config and weights must belong together:{problems}", path.display())]
    Inventory {
        /// The folder or file.
        path: PathBuf,
        /// Everything missing, surplus or of the wrong shape.
        problems: Box<InventoryProblems>,
    },
    /// A tensor to be written whose name or size the format cannot hold.
    #[error("tensor `{tensor}` of shape {shape:?} cannot be written to {}: its name is reserved or its size overflows", path.display())]
    Unwritable {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// More names than a header may hold.
    #[error("the header of {} would have {bytes} bytes, more than the format's {limit}; spread the tensors over more files", path.display())]
    HeaderTooLarge {
        /// The file being written.
        path: PathBuf,
        /// The header's length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A tensor was fed more or fewer bytes than its shape and type say.
    #[error("tensor `{tensor}` in {} takes {expected} bytes but was fed {got}; feed as many values as its shape says", path.display())]
    FedSize {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes its shape and type ask for.
        expected: u64,
        /// Bytes fed.
        got: u64,
    },
    /// A folder or file stands where a new folder should go.
    #[error("{} exists and is not an empty folder; choose another path or remove it", path.display())]
    DestinationExists {
        /// The path.
        path: PathBuf,
    },
    /// A destination such as `/` or `..`, beside which nothing can be prepared.
    #[error("{} names no file or folder that could be written; give a path that ends in a name", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
}

impl WeightsError {
    /// Wraps the system's answer with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { action, path, cause }
    }
}

/// What the user can change, for the failures that have one usual cause.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space or choose another disk",
        io::ErrorKind::PermissionDenied => "; change its permissions or choose another path",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a path on a writable disk",
        io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}
