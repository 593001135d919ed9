//! A read-only memory mapping of a whole file: the only `unsafe` of this room.
//!
//! Weights are mapped, not read, so that opening a 13 GB folder costs nothing and only the tensors asked for are paged in. What the bytes mean is left to
//! `header`.
//!
//! A run whose weights stay in their file (`bf16`) needs the file as long as it lives. Replacing or deleting the file is harmless, because the mapped one
//! lives on without its name; that is how this program, `huggingface_hub` and the usual package tools write. Writing into it changes the weights under the
//! run, and shortening it ends the process with a bus error when a lost page is touched.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use half::bf16;
use memmap2::Mmap;

use super::error::WeightsError;

/// The bytes of one file. An empty file cannot be mapped and is `None`. Clones share the mapping.
#[derive(Clone, Debug)]
pub(super) struct Mapping(Option<Arc<Mmap>>);

impl Mapping {
    /// Maps a regular file (or what a symbolic link to one points to).
    ///
    /// Errors: [`WeightsError::NotAFile`] for folders, pipes and devices; [`WeightsError::Io`].
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        // The kind is asked first: opening a pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(WeightsError::io("open", path))?;
        if !kind.is_file() {
            return Err(WeightsError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(WeightsError::io("open", path))?;
        let bytes = file.metadata().map_err(WeightsError::io("open", path))?.len();
        if bytes == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the mapping is read-only and handed out as plain bytes, for which every bit pattern is valid. Its contents stay as they are as long as
        // nobody shortens or rewrites the file in place. This program never does: all its writing goes through a temporary sibling and a rename (`atomic`),
        // which leaves a mapped file's pages alone. Against another program that does so there is no defence but a copy of the whole file; the header is
        // copied out before it is checked, so that its checks hold for what is used later.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::io("map", path))?;
        Ok(Self(Some(Arc::new(map))))
    }

    /// The bf16 numbers that a range of the bytes stands for; none where it begins at an odd address, ends inside a number, or where the machine's byte
    /// order is not the files'.
    ///
    /// # Panics
    /// When the range leaves the file.
    pub(super) fn bf16(&self, range: Range<usize>) -> Option<&[bf16]> {
        // SAFETY: a bf16 is two bytes, of which every pattern is valid; `align_to` looks after alignment and length.
        let (before, values, after) = unsafe { self[range].align_to::<bf16>() };
        (cfg!(target_endian = "little") && before.is_empty() && after.is_empty()).then_some(values)
    }

    /// Tells the system that a range has been read and copied, so that its pages need not count as this process's any longer. They come back by
    /// themselves if they are touched again.
    pub(super) fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = self.0.as_deref().filter(|map| !range.is_empty() && range.end <= map.len()) {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is of a file and never written to, so that a page that is dropped comes back from the file with the same contents.
            let advised = unsafe { map.unchecked_advise_range(DontNeed, range.start, range.len()) };
            // it is advice: where it is refused, the pages stay until the system needs them
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |map| map)
    }
}
