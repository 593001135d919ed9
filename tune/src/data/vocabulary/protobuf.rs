//! The wire format of protocol buffers, as far as reading a SentencePiece model takes it.
//!
//! A message is a list of fields, each a number, a kind and a value. Fields that the reader does not ask for are skipped. Source: "Encoding" in the
//! documentation of protocol buffers. What the fields mean is left to `sentencepiece`.

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    /// Kind 0: an integer, truth value or enumeration.
    Integer(u64),
    /// Kind 1: eight bytes.
    Eight,
    /// Kind 5: four bytes.
    Four([u8; 4]),
    /// Kind 2: text, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message in order: number and value; after an error, nothing.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of a message of these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn next_field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.integer()?;
        let value = match key & 7 {
            0 => Field::Integer(self.integer()?),
            1 => {
                self.take(8)?;
                Field::Eight
            }
            2 => {
                let length = usize::try_from(self.integer()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        // no field has the number zero
        Some((key >> 3, value)).filter(|(number, _)| *number > 0)
    }

    /// Seven bits a byte, the lowest first.
    fn integer(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_none() {
            self.bytes = &[];
        }
        Some(field.ok_or_else(|| "is no SentencePiece model, or is cut off: fetch it again".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field_is_read_and_damage_ends_the_reading() {
        let bytes = b"\x08\xac\x02\x12\x03abc\x1d\0\0\x80\x3f\x21\0\0\0\0\0\0\0\0";
        let fields: Vec<_> = Fields::new(bytes).map(Result::unwrap).collect();
        let expected = [
            (1, Field::Integer(300)),
            (2, Field::Bytes(b"abc")),
            (3, Field::Four(1f32.to_le_bytes())),
            (4, Field::Eight),
        ];
        assert_eq!(fields, expected);
        for bytes in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x12\x05ab",
            b"\x0b",
            b"\x00\x01",
            &[0xff; 12],
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert!(Fields::new(bytes).last().unwrap().is_err(), "{bytes:?}");
        }
    }
}
