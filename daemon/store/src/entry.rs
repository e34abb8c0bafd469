//! Where a shard lies, as the index keeps it.
//!
//! An entry: sequence u64, segment u32, offset u32 in units of 64 bytes, header length u32, payload length
//! u32, token [16]; a pending one goes on with end of the lease u64 and writer [32], a tombstone with the
//! time it came u64. All big-endian.

use std::io;

use super::record::{ALIGN, Fields, RecordHeader, record_bytes};
use super::{Meta, State};

/// Where a shard lies, and under what state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) segment: u32,
    /// Of the record, in bytes; a multiple of 64.
    pub(super) offset: u64,
    pub(super) header_len: u32,
    pub(super) payload_len: u32,
    pub(super) state: State,
    pub(super) token: [u8; 16],
}

impl Entry {
    pub(super) fn new(segment: u32, offset: u64, header: &RecordHeader) -> Self {
        Self {
            sequence: header.sequence,
            segment,
            offset,
            header_len: header.header_len,
            payload_len: header.payload_len,
            state: header.state,
            token: header.token,
        }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            state: self.state,
            token: self.token,
            len: self.header_len.saturating_add(self.payload_len),
        }
    }

    /// Whether it is a shard; a tombstone is none.
    pub(super) fn is_shard(&self) -> bool {
        !matches!(self.state, State::Deleted { .. })
    }

    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(u64::from(self.header_len) + u64::from(self.payload_len))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.segment.to_be_bytes());
        // A segment ends soon after 256 MiB; 64 × 2^32 bytes are out of its reach.
        out.extend(
            u32::try_from(self.offset / ALIGN)
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        out.extend(self.header_len.to_be_bytes());
        out.extend(self.payload_len.to_be_bytes());
        out.extend(self.token);
        match self.state {
            State::Committed => {}
            State::Pending {
                until_unix_ms,
                writer,
            } => {
                out.extend(until_unix_ms.to_be_bytes());
                out.extend(writer);
            }
            State::Deleted { since_unix_ms } => out.extend(since_unix_ms.to_be_bytes()),
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(bytes);
        let entry = (|| {
            Some(Self {
                sequence: fields.u64()?,
                segment: fields.u32()?,
                offset: u64::from(fields.u32()?) * ALIGN,
                header_len: fields.u32()?,
                payload_len: fields.u32()?,
                token: fields.take()?,
                state: match fields.0.len() {
                    0 => State::Committed,
                    8 => State::Deleted {
                        since_unix_ms: fields.u64()?,
                    },
                    _ => State::Pending {
                        until_unix_ms: fields.u64()?,
                        writer: fields.take()?,
                    },
                },
            })
        })();
        entry
            .filter(|_| fields.0.is_empty())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// What the index must agree with the segments on to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of the last segment's footer; 0 without segments.
    pub(super) sequence: u64,
    /// Entries, tombstones included.
    pub(super) shards: u64,
}
