//! Which shard lies where: a map on disk that a rescan of the segments rebuilds at any time.
//!
//! Its files are believed only after a clean stop, told by a mark that is the same here and in the last
//! segment's footer: the [`tree`](super::tree) alone promises too little.
//!
//! Entry: sequence u64, segment u32, offset u32 in units of 64 bytes, header length u32, payload length u32,
//! token [16]; a pending one goes on with end of the lease u64 and writer [32], a tombstone with the time it
//! came u64. All big-endian.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::disk::Disk;
use super::record::{ALIGN, Fields, RecordHeader, record_bytes};
use super::tree::Tree;
use super::{Key, Meta, State};

/// Keys handed out at a time by a walk.
const PAGE_KEYS: usize = 256;

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

/// The index. Every write is visible to every read that begins after it returned.
pub(super) struct Index(Box<dyn Tree>);

impl Index {
    /// An empty index in place of whatever lies in `dir`.
    pub(super) fn create(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        disk.remove_tree(dir)?;
        disk.tree(dir).map(Self)
    }

    /// The index in `dir`, if it carries the mark of a clean stop after the footer `sequence` and `check`
    /// accepts all its entries.
    pub(super) fn open_marked(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        mut check: impl FnMut(&Key, &Entry) -> bool,
    ) -> Option<Self> {
        let attempt = catch_unwind(AssertUnwindSafe(|| -> io::Result<Option<Self>> {
            let index = Self(disk.tree(dir)?);
            let Some(mark) = index.0.mark()?.filter(|mark| mark.sequence == sequence) else {
                return Ok(None);
            };
            let (mut shards, mut sound) = (0, true);
            index.walk(|key, entry| {
                shards += 1;
                sound &= check(&key, &entry);
            })?;
            Ok((sound && shards == mark.shards).then_some(index))
        }));
        attempt.ok()?.ok()?
    }

    /// Durably notes that nothing will change until `mark` stands in the last footer too.
    pub(super) fn set_mark(&self, mark: Mark) -> io::Result<()> {
        self.0.set_mark(mark)
    }

    pub(super) fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        self.0.get(key)
    }

    pub(super) fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        self.0.insert(key, entry)
    }

    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        self.0.remove(key)
    }

    /// All shards of a stripe, by index, and its tombstone at the end.
    pub(super) fn stripe(&self, stripe: &[u8; 32]) -> io::Result<Vec<(Key, Entry)>> {
        let at = |index| Key {
            stripe: *stripe,
            index,
        };
        // The end is given, for without it each question about one stripe would read a page of others.
        let range = (Bound::Included(at(0)), Bound::Included(at(u8::MAX)));
        self.0.page(range, usize::MAX)
    }

    /// The first `limit` entries behind a key.
    pub(super) fn after(&self, key: Option<Key>, limit: usize) -> io::Result<Vec<(Key, Entry)>> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.page((from, Bound::Unbounded), limit)
    }

    /// All entries in the order of their keys, without holding a lock while `visit` runs.
    pub(super) fn walk(&self, mut visit: impl FnMut(Key, Entry)) -> io::Result<()> {
        let mut page = self.after(None, PAGE_KEYS)?;
        while let Some(&(last, _)) = page.last() {
            page.drain(..).for_each(|(key, entry)| visit(key, entry));
            page = self.after(Some(last), PAGE_KEYS)?;
        }
        Ok(())
    }
}
