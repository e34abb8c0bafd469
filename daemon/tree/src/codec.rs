//! Bytes from strangers, read front to back without trust in any length they name.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("it ends too early")]
    Truncated,
    /// Something follows the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A newer version wrote them.
    #[error("format {0} is not known to this version")]
    Version(u8),
    /// A field has a value that it cannot have.
    #[error("the {0} is not possible")]
    Field(&'static str),
}

/// What is left to read. Integers are big-endian.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*array)
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes behind a length of two bytes, at most `limit`.
    pub fn short(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(Malformed::Field(what));
        }
        self.take(length)
    }

    /// Text behind a length of two bytes, at most `limit` bytes.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, Malformed> {
        str::from_utf8(self.short(what, limit)?).map_err(|_| Malformed::Field(what))
    }

    /// Whether all was read.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing(self.0.len()))
        }
    }
}

/// Writes bytes behind a length of two bytes. Callers have bounded what they write far below 64 KiB.
pub(crate) fn put_short(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

/// What stands at the end of an entry or a head, by tag. Unknown tags are kept when it is written again.
pub type Fields = BTreeMap<u16, Bytes>;

/// Writes fields: tag u16, length u32 and value each.
pub fn put_fields(out: &mut BytesMut, fields: &Fields) {
    for (tag, value) in fields {
        out.put_u16(*tag);
        out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        out.put_slice(value);
    }
}

/// All that is left, as fields with ascending tags.
pub fn fields(mut reader: Reader<'_>) -> Result<Fields, Malformed> {
    let mut fields = Fields::new();
    while !reader.0.is_empty() {
        let tag = reader.u16()?;
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let value = Bytes::copy_from_slice(reader.take(length)?);
        if fields.last_key_value().is_some_and(|(last, _)| *last >= tag) {
            return Err(Malformed::Field("order of fields"));
        }
        fields.insert(tag, value);
    }
    Ok(fields)
}

/// Writes pairs of writer and sequence behind a count.
pub(crate) fn put_sequences(out: &mut BytesMut, sequences: &[(u64, u64)]) {
    out.put_u16(u16::try_from(sequences.len()).unwrap_or(u16::MAX));
    for (writer, sequence) in sequences {
        out.put_u64(*writer);
        out.put_u64(*sequence);
    }
}

/// See [`put_sequences`].
pub(crate) fn sequences(reader: &mut Reader<'_>) -> Result<Vec<(u64, u64)>, Malformed> {
    let count = usize::from(reader.u16()?);
    let mut pairs = Reader(reader.take(count * 16)?);
    (0..count).map(|_| Ok((pairs.u64()?, pairs.u64()?))).collect()
}
