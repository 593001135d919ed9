//! A read-only memory mapping of a whole file: the only `unsafe` of this room.
//!
//! Weights are mapped, not read, so that opening a 13 GB folder costs nothing and only the tensors asked for are paged in. What the bytes mean is left to
//! `header`.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::error::WeightsError;

/// The bytes of one file. An empty file cannot be mapped and is `None`.
#[derive(Debug)]
pub(super) struct Mapping(Option<Mmap>);

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
        Ok(Self(Some(map)))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
