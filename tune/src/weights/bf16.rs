//! bf16 numbers as a model holds them: of their own, or in place in the file that they were saved to.
//!
//! Most folders hold their matrices as bf16 in row-major order, which is how they are used. Such a matrix needs no copy: its pages are those of the file,
//! come in when it is first used, and may go again when the system needs the memory. `mmap` says what becomes of a file that is changed meanwhile.

use std::fmt;
use std::ops::{Deref, Range};

use half::bf16;

use super::mmap::Mapping;

/// bf16 numbers to read; as a slice they are the same wherever they lie.
#[derive(Clone)]
pub struct Bf16Values(Held);

#[derive(Clone)]
enum Held {
    Own(Vec<bf16>),
    /// Bytes of a file that stand for bf16 numbers as they are.
    File(Mapping, Range<usize>),
}

impl Bf16Values {
    /// The numbers at `bytes` of a mapped file, little-endian; none where they cannot be used where they lie: at an odd address, or on a machine with the
    /// other byte order.
    ///
    /// # Panics
    /// When `bytes` leaves the file.
    pub(super) fn in_file(file: &Mapping, bytes: Range<usize>) -> Option<Self> {
        file.bf16(bytes.clone())?;
        Some(Self(Held::File(file.clone(), bytes)))
    }

    /// Whether they lie in a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Held::File(..))
    }
}

impl Drop for Bf16Values {
    /// Where a weight was replaced by one of the model's own, its pages of the file are not needed any longer.
    fn drop(&mut self) {
        if let Held::File(file, bytes) = &self.0 {
            file.release(bytes);
        }
    }
}

impl From<Vec<bf16>> for Bf16Values {
    fn from(values: Vec<bf16>) -> Self {
        Self(Held::Own(values))
    }
}

impl FromIterator<bf16> for Bf16Values {
    fn from_iter<I: IntoIterator<Item = bf16>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl Deref for Bf16Values {
    type Target = [bf16];

    fn deref(&self) -> &[bf16] {
        match &self.0 {
            Held::Own(values) => values,
            Held::File(file, bytes) => file.bf16(bytes.clone()).expect("bytes that were looked at when this was made"),
        }
    }
}

impl fmt::Debug for Bf16Values {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_mapped() { "in a file" } else { "in memory" };
        write!(formatter, "{} bf16 numbers {place}", self.len())
    }
}
