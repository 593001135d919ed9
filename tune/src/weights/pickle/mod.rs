//! The tensors of a `pytorch_model.bin`: where each lies in the file, found without running anything.
//!
//! `torch.save` writes a zip archive of stored entries: `<prefix>/data.pkl`, a pickle of a dict from names to tensors, and `<prefix>/data/<key>`, the bytes
//! of one storage each. A pickle is a program for a small stack machine that may call any function; here it is parsed and never executed. `machine` knows
//! the operations, and `names` the names, that a dict of tensors needs; every other is refused by name. `archive` reads the zip directory, `storage` turns what the
//! pickle claims of tensors into checked places. A tensor may be any view of its storage (transposed, or sharing it with another tensor); the file
//! stays mapped, and only a view that is not contiguous is gathered when it is read.
//!
//! Source: the formats themselves: APPNOTE.TXT of PKWARE (sections 4.3 to 4.5), Python's `pickletools` (protocol 2). Left to others: mapping files and
//! joining shards (`folder`), values (`dtype`).

mod archive;
mod machine;
mod names;
mod storage;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::WeightsError;
use super::view::View;
use archive::Archive;

/// What is wrong with a file of pickled weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleProblem {
    /// The format that PyTorch wrote before version 1.6.
    #[error(
        "it is in PyTorch's format from before version 1.6; load and save it with a newer PyTorch: torch.save(torch.load(path, weights_only=True), path)"
    )]
    Legacy,
    /// Not a zip archive, or only the beginning of one.
    #[error("it is no zip archive as torch.save writes one, or is cut off: fetch it again")]
    NotAnArchive,
    /// The archive's directory is untrue of the file.
    #[error("its zip directory is damaged ({what}): fetch it again")]
    Directory {
        /// What is wrong there.
        what: &'static str,
    },
    /// An entry that is not stored as it is.
    #[error("entry {entry:?} is {how}; torch.save stores entries as they are: save the file again with torch.save")]
    NotStored {
        /// The entry.
        entry: String,
        /// Compressed or encrypted.
        how: &'static str,
    },
    /// Two entries of one name, or that share bytes.
    #[error("its entries {first:?} and {second:?} have one name or share bytes: fetch it again")]
    Entries {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// No pickle in the archive, or several.
    #[error("it holds {count} entries named data.pkl instead of one: it was not written by torch.save")]
    Pickles {
        /// How many.
        count: usize,
    },
    /// Not written on a little-endian machine.
    #[error("its numbers are in {order:?} byte order and only \"little\" is read: save it again on another machine")]
    ByteOrder {
        /// The entry `byteorder`.
        order: String,
    },
    /// A pickle beyond any real one.
    #[error("its pickle has {bytes} bytes and at most {limit} are read: spread the tensors over more files")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A name that a dict of tensors does not need.
    #[error(
        "its pickle asks for `{name}`, which a dict of tensors does not need; a pickle is parsed here, never executed: save the model's state_dict alone, or as safetensors"
    )]
    Global {
        /// Module and name.
        name: String,
    },
    /// An operation that torch.save does not write for a dict of tensors.
    #[error(
        "its pickle uses the operation {opcode} at byte {at}, which torch.save does not write for a dict of tensors: save the model's state_dict with torch.save, or as safetensors"
    )]
    Opcode {
        /// Its name, or its number.
        opcode: String,
        /// Where in the pickle.
        at: usize,
    },
    /// The pickle ends early, or an operation lacks its operands or has others than expected.
    #[error("its pickle is malformed at byte {at} ({what}): fetch it again")]
    Malformed {
        /// Where in the pickle.
        at: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// The pickle is no dict from names to tensors.
    #[error("its pickle holds {what} instead of a dict from names to tensors: save the model's state_dict")]
    NotTensors {
        /// What it holds.
        what: String,
    },
    /// One name stands for two tensors.
    #[error("it names tensor `{tensor}` twice: write the file again")]
    Twice {
        /// The name.
        tensor: String,
    },
    /// A storage without its entry in the archive.
    #[error("the bytes of storage {key:?} are not in it: fetch it again")]
    NoStorage {
        /// The storage's key.
        key: String,
    },
    /// A storage whose entry has another size.
    #[error("storage {key:?} is said to hold {numbers} numbers of type {dtype} but has {bytes} bytes: fetch it again")]
    StorageSize {
        /// The storage's key.
        key: String,
        /// Numbers claimed.
        numbers: u64,
        /// Their type.
        dtype: String,
        /// Bytes in the archive.
        bytes: usize,
    },
    /// A tensor that is not inside its storage, or larger than it.
    #[error(
        "tensor `{tensor}` of shape {shape:?} does not lie in its storage of {numbers} numbers: write the file again"
    )]
    OutsideStorage {
        /// The tensor.
        tensor: String,
        /// Its shape, cut after some axes.
        shape: Vec<usize>,
        /// Numbers in the storage.
        numbers: usize,
    },
}

/// Whether a file of this name is read as pickled tensors; others are safetensors.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|end| ["bin", "pt", "pth"].iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// Finds the tensors of a whole file, in the order in which its dict lists them.
///
/// On success every tensor's range lies in `bytes`, and so does every element that its strides lead to. Memory: a small multiple of the zip directory
/// and the pickle, whatever they say.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(String, View)>, WeightsError> {
    parse_bytes(bytes).map_err(|problem| WeightsError::Pickle { path: path.to_owned(), problem })
}

fn parse_bytes(bytes: &[u8]) -> Result<Vec<(String, View)>, PickleProblem> {
    let archive = Archive::open(bytes)?;
    let pickle = archive.pickle()?;
    // A copy: the checks must hold for the very text that was checked, even if another program rewrites the mapped file meanwhile.
    let program = bytes[pickle].to_vec();
    let claims = machine::run(&program)?;
    storage::locate(&archive, claims)
}
