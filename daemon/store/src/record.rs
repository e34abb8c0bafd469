//! What a segment is made of: records behind fixed 128-byte headers, each aligned to 64 bytes.
//!
//! | offset | size | field (integers big-endian) |
//! |---|---|---|
//! | 0 | 4 | magic `MSR1` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind |
//! | 6 | 1 | state: 0 committed, 1 pending, 2 tombstone |
//! | 7 | 1 | shard index; 253 for a signed record, 254 for a locator, 255 for a tombstone |
//! | 8 | 8 | salt of the segment |
//! | 16 | 8 | sequence |
//! | 24 | 32 | stripe id |
//! | 56 | 4 | length of the shard's header |
//! | 60 | 4 | length of the payload |
//! | 64 | 8 | end of the lease, or when the tombstone came, Unix milliseconds (0 if committed) |
//! | 72 | 32 | writer's public key (0 unless pending) |
//! | 104 | 16 | put token |
//! | 120 | 4 | CRC-32 (IEEE) of header ‖ payload |
//! | 124 | 4 | CRC-32 of the 124 bytes before |
//!
//! The body (the stripe's header, then the payload, which is the owner's signature in a tombstone; for the
//! other kinds a list of keys or of headers) follows, then zeros up to the alignment. Of a removed shard the
//! header says so, over what it said before. A body is a stranger's bytes and may imitate a record; the salt,
//! random for each segment and never shown to anybody, keeps a scan after damage from believing one.

use super::types::{KEY_BYTES, Key, State};

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 128;
/// Every record begins at a multiple of this.
pub(super) const ALIGN: u64 = 64;

const MAGIC: [u8; 4] = *b"MSR1";
const VERSION: u8 = 1;

/// What a record does to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A shard, or a tombstone.
    Put,
    /// This peer no longer holds the shards of the keys in the body.
    Drop,
    /// The pending shards of the keys in the body are committed.
    Commit,
    /// The leases of the keys in the body run until the time in the header.
    Renew,
    /// The shard of the key in the header is held under the state and the token in the header.
    Restate,
    /// The last record of a closed segment: the headers of all others.
    Footer,
    /// A put whose shard was removed: written over its header once a drop is durable, so that damage to the
    /// drop brings nothing back.
    Dead,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Drop => 2,
            Self::Commit => 3,
            Self::Renew => 4,
            Self::Restate => 5,
            Self::Footer => 6,
            Self::Dead => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Put,
            2 => Self::Drop,
            3 => Self::Commit,
            4 => Self::Renew,
            5 => Self::Restate,
            6 => Self::Footer,
            7 => Self::Dead,
            _ => return None,
        })
    }
}

/// A record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) token: [u8; 16],
    /// Bytes of the shard's header.
    pub(super) header_len: u32,
    /// Bytes of the payload.
    pub(super) payload_len: u32,
    pub(super) body_crc: u32,
}

impl RecordHeader {
    pub(super) fn encode(&self, salt: u64) -> Vec<u8> {
        let (state, until, writer) = match self.state {
            State::Committed => (0, 0, [0; 32]),
            State::Pending {
                until_unix_ms,
                writer,
            } => (1, until_unix_ms, writer),
            State::Deleted { since_unix_ms } => (2, since_unix_ms, [0; 32]),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC);
        out.extend([VERSION, self.kind.code(), state, self.key.index]);
        out.extend(salt.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.key.stripe);
        out.extend(self.header_len.to_be_bytes());
        out.extend(self.payload_len.to_be_bytes());
        out.extend(until.to_be_bytes());
        out.extend(writer);
        out.extend(self.token);
        out.extend(self.body_crc.to_be_bytes());
        out.extend(crc32fast::hash(&out).to_be_bytes());
        out
    }

    /// The header at the beginning of `bytes`, if there is an undamaged one under `salt`.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let mut fields = Fields(bytes);
        if fields.take()? != MAGIC {
            return None;
        }
        let [version, kind, state, index] = fields.take()?;
        if version != VERSION || fields.u64()? != salt {
            return None;
        }
        let sequence = fields.u64()?;
        let key = Key {
            stripe: fields.take()?,
            index,
        };
        let (header_len, payload_len) = (fields.u32()?, fields.u32()?);
        let (until_unix_ms, writer) = (fields.u64()?, fields.take()?);
        let token = fields.take()?;
        let body_crc = fields.u32()?;
        let state = match state {
            0 => State::Committed,
            1 => State::Pending {
                until_unix_ms,
                writer,
            },
            2 => State::Deleted {
                since_unix_ms: until_unix_ms,
            },
            _ => return None,
        };
        let crc = crc32fast::hash(bytes.get(..HEADER_BYTES - 4)?);
        let header = Self {
            kind: Kind::from_code(kind)?,
            sequence,
            key,
            state,
            token,
            header_len,
            payload_len,
            body_crc,
        };
        (fields.u32()? == crc).then_some(header)
    }

    /// Bytes of the body.
    pub(super) fn body_bytes(&self) -> u64 {
        u64::from(self.header_len) + u64::from(self.payload_len)
    }

    /// Bytes the whole record takes in its segment.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.body_bytes())
    }
}

/// Bytes a record with a body of `body` bytes takes in its segment.
pub(super) fn record_bytes(body: u64) -> u64 {
    (HEADER_BYTES as u64 + body).next_multiple_of(ALIGN)
}

/// The keys in the body of a batch.
pub(super) fn decode_keys(body: &[u8]) -> impl Iterator<Item = Key> {
    body.chunks_exact(KEY_BYTES).filter_map(Key::from_bytes)
}

/// Fixed fields read one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}
