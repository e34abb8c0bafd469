//! Which shard lies where: a sled tree that a rescan of the segments rebuilds at any time.
//!
//! sled holds nothing else and is named nowhere else. Its files are believed only after a clean stop, told by a mark
//! that is the same here and in the last segment's footer: its `flush` alone does not survive a loss of power, and it
//! may panic on a damaged file.
//!
//! Entry: sequence u64, segment u32, offset u32 in units of 64 bytes, header length u32, payload length u32, token
//! [16]; a pending one goes on with end of the lease u64 and writer [32], a tombstone with the time it came u64. All
//! big-endian.

use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::{ALIGN, Fields, RecordHeader, record_bytes};
use super::{Key, Meta, State};

/// Bounds sled's page cache, in bytes; its default is 1 GiB.
const CACHE_BYTES: u64 = 8 << 20;
/// Keys handed out at a time by a walk.
const PAGE_KEYS: usize = 256;
/// How long to wait for an index that this process has just let go.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const MARK: &[u8] = b"mark";

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

    fn encode(&self) -> Vec<u8> {
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

    fn decode(bytes: &[u8]) -> io::Result<Self> {
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
pub(super) struct Index {
    dir: PathBuf,
    db: sled::Db,
    shards: sled::Tree,
    marks: sled::Tree,
}

impl Index {
    /// An empty index in place of whatever lies in `dir`.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Self::open_any(dir)
    }

    /// The index in `dir`, if it carries the mark of a clean stop after the footer `sequence` and `check` accepts all
    /// its entries.
    pub(super) fn open_marked(
        dir: &Path,
        sequence: u64,
        mut check: impl FnMut(&Key, &Entry) -> bool,
    ) -> Option<Self> {
        if !dir.exists() {
            return None;
        }
        let attempt = catch_unwind(AssertUnwindSafe(|| -> io::Result<Option<Self>> {
            let index = Self::open_any(dir)?;
            let Some(mark) = index.mark()?.filter(|mark| mark.sequence == sequence) else {
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

    fn open_any(dir: &Path) -> io::Result<Self> {
        await_release(&dir.join("db"));
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let (shards, marks) = (db.open_tree("shards")?, db.open_tree("marks")?);
        Ok(Self {
            dir: dir.to_owned(),
            db,
            shards,
            marks,
        })
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        Ok(self.marks.get(MARK)?.and_then(|bytes| {
            let mut fields = Fields(&bytes);
            Some(Mark {
                sequence: fields.u64()?,
                shards: fields.u64()?,
            })
        }))
    }

    /// Durably notes that nothing will change until `mark` stands in the last footer too.
    pub(super) fn set_mark(&self, mark: Mark) -> io::Result<()> {
        let bytes = [mark.sequence.to_be_bytes(), mark.shards.to_be_bytes()].concat();
        self.marks.insert(MARK, bytes)?;
        self.db.flush()?;
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_file() {
                File::open(path)?.sync_all()?;
            }
        }
        File::open(&self.dir)?.sync_all()
    }

    pub(super) fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        self.shards
            .get(key.to_bytes())?
            .map(|bytes| Entry::decode(&bytes))
            .transpose()
    }

    pub(super) fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        self.shards.insert(key.to_bytes(), entry.encode())?;
        Ok(())
    }

    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        self.shards.remove(key.to_bytes())?;
        Ok(())
    }

    /// All shards of a stripe, by index.
    pub(super) fn stripe(&self, stripe: &[u8; 32]) -> io::Result<Vec<(Key, Entry)>> {
        self.shards.scan_prefix(stripe).map(parse).collect()
    }

    /// All entries in the order of their keys, without holding a lock while `visit` runs.
    pub(super) fn walk(&self, mut visit: impl FnMut(Key, Entry)) -> io::Result<()> {
        let mut page = self.page(None)?;
        while let Some(&(last, _)) = page.last() {
            page.drain(..).for_each(|(key, entry)| visit(key, entry));
            page = self.page(Some(last))?;
        }
        Ok(())
    }

    fn page(&self, after: Option<Key>) -> io::Result<Vec<(Key, Entry)>> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_bytes()));
        self.shards
            .range((start, Bound::Unbounded))
            .take(PAGE_KEYS)
            .map(parse)
            .collect()
    }
}

/// sled's threads may hold its lock a little longer than the `Db` lived, and its `open` does not wait. Nobody else can
/// hold it: the store's own lock is taken.
fn await_release(db: &Path) {
    let Ok(file) = File::open(db) else { return };
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn parse(item: sled::Result<(sled::IVec, sled::IVec)>) -> io::Result<(Key, Entry)> {
    let (key, entry) = item?;
    let key = Key::from_bytes(&key).ok_or(io::ErrorKind::InvalidData)?;
    Ok((key, Entry::decode(&entry)?))
}
