//! The log the store is: segments, the one that grows, and the group commit.
//!
//! Records are written in the order of their sequences and offsets under the lock, so that a kill leaves a
//! prefix; the first writer that waits syncs for all that have written, without the lock and without a timer,
//! and those who come meanwhile form the next group. Nothing is told to a caller, and nothing enters the
//! index, before its group is durable. A key is claimed by one operation from its look at the index to its
//! change there. While a sync runs, a group that has grown to a MiB is synced beside it: a device does
//! several things at once.
//!
//! After a failed sync nobody knows what reached the device: the groups in flight fail, their segments take
//! no more records and are cut back to what was durable, and the store reads them again from the device.

mod commit;
mod compact;
mod reclaim;
mod tally;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

pub(super) use self::commit::Group;
pub(super) use self::tally::Tally;

use super::disk::{Disk, DiskFile};
use super::entry::Entry;
use super::error::{AppendError, Closed};
use super::record::{HEADER_BYTES, Kind, RecordHeader};
use super::segment::{FOOTER_BASE_BYTES, FOOTER_ENTRY_BYTES, Trailer, file_name};
use super::{Key, LOCATOR, RECORDS, State, Usage};

/// Segments open for reading at a time.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);
/// Keeps a tiny capacity from making a file of every shard.
const MIN_SEGMENT: u64 = 256 << 10;
/// Bounds the footer, and the memory it takes, at about 4.5 MB.
const MAX_RECORDS: u32 = 32 << 10;
/// What the index takes on disk for a shard, in bytes (measured: 200).
const INDEX_BYTES: u64 = 200;

/// What the log knows about a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) salt: u64,
    pub(super) len: u64,
    /// Prefix known to be durable, in bytes.
    pub(super) synced: u64,
    /// Bytes on the device: the length less the holes.
    pub(super) occupied: u64,
    /// Bytes of records the index points to, or is about to.
    pub(super) live: u64,
    /// Whether it has records other than puts. Those speak about records in older segments.
    pub(super) controls: bool,
    /// Sequence of the footer.
    pub(super) footer: Option<u64>,
    /// Bytes of the footer.
    pub(super) footer_bytes: u64,
    /// Whether a read failed: what it holds is not all known, so it stays.
    pub(super) unread: bool,
    /// Dead bytes that compacting it did not give back.
    pub(super) stuck: u64,
}

impl Segment {
    pub(super) fn new(salt: u64, len: u64, occupied: u64, trailer: Option<&Trailer>) -> Self {
        let controls = trailer.is_none_or(|trailer| trailer.controls > 0);
        let footer = trailer.map(|trailer| trailer.sequence);
        let footer_bytes = trailer.map_or(0, |trailer| len.saturating_sub(trailer.footer_at));
        Self {
            salt,
            len,
            synced: len,
            occupied,
            live: 0,
            controls,
            footer,
            footer_bytes,
            unread: false,
            stuck: 0,
        }
    }
}

struct Active {
    id: u32,
    salt: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    records: u32,
}

/// What changes as records are appended and segments come and go. It stands behind one lock, for an append
/// moves most of it together.
struct Inner {
    capacity: u64,
    closed: bool,
    next_sequence: u64,
    active: Option<Active>,
    segments: BTreeMap<u32, Segment>,
    /// The group that may still be joined.
    group: Arc<Group>,
    /// Segments with records of that group, and how far these reach.
    dirty: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
    /// Bytes of the records of that group.
    group_bytes: u64,
    /// Syncs under way, by the order in which they began.
    syncing: BTreeSet<u64>,
    /// Syncs begun, ever.
    syncs_begun: u64,
    /// Syncs that failed, ever.
    failures: u64,
    /// Full segments that want their footers.
    full: BTreeSet<u32>,
    /// Segments that lived through a failed sync.
    suspects: BTreeSet<u32>,
    /// Segments with headers of dead records that may not be durable yet.
    marked: BTreeSet<u32>,
    busy: HashSet<Key>,
    committed_bytes: u64,
    pending_bytes: u64,
    shards: u64,
    /// Counted among the shards too.
    locators: u64,
    /// Counted among the shards too.
    records: u64,
    records_bytes: u64,
    tombstones: u64,
    reserved: u64,
}

impl Inner {
    fn occupied(&self) -> u64 {
        self.segments.values().map(|segment| segment.occupied).sum()
    }

    /// What puts may still take: the capacity less all there is, less the footer the active segment will get,
    /// less twice the reserve (once for its file, once for the records that delete and commit), less what
    /// signed records may still take.
    fn free(&self) -> u64 {
        let footer = self.active.as_ref().map_or(0, |active| {
            FOOTER_BASE_BYTES + u64::from(active.records) * FOOTER_ENTRY_BYTES
        });
        let taken = self.occupied()
            + footer
            + (self.shards + self.tombstones) * INDEX_BYTES
            + 2 * reserve_bytes(self.capacity)
            + signed_bytes(self.capacity).saturating_sub(self.records_bytes);
        self.capacity.saturating_sub(taken)
    }
}

fn reserve_bytes(capacity: u64) -> u64 {
    (capacity / 512).clamp(128 << 10, 1 << 20)
}

/// What is kept free of shards for signed records.
fn signed_bytes(capacity: u64) -> u64 {
    (capacity / 64).clamp(128 << 10, 1 << 30)
}

/// A record to be.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) token: [u8; 16],
    pub(super) header: &'a [u8],
    pub(super) payload: &'a [u8],
    /// Whether it replaces one that goes: then the capacity does not count.
    pub(super) moved: bool,
}

/// A record of a segment that is written again, and its body.
pub(super) type Relic = (RecordHeader, Vec<u8>);

impl<'a> Draft<'a> {
    /// A batch of `kind` over the keys that `body` lists.
    pub(super) fn batch(kind: Kind, state: State, body: &'a [u8]) -> Self {
        let key = Key {
            stripe: [0; 32],
            index: 0,
        };
        Self {
            kind,
            key,
            state,
            token: [0; 16],
            header: &[],
            payload: body,
            moved: false,
        }
    }

    /// Whether it goes through on a full disk.
    fn urgent(&self) -> bool {
        match self.kind {
            Kind::Put => matches!(self.state, State::Deleted { .. }) || self.key.index == RECORDS,
            Kind::Renew => false,
            Kind::Drop | Kind::Commit | Kind::Restate | Kind::Footer | Kind::Dead => true,
        }
    }
}

/// A record written, durable only when its group is.
pub(super) struct Placed {
    pub(super) segment: u32,
    pub(super) offset: u64,
    pub(super) header: RecordHeader,
    pub(super) group: Arc<Group>,
}

/// The right to change keys, given back when dropped.
pub(super) struct Claim<'a> {
    log: &'a Log,
    keys: &'a [Key],
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut inner = self.log.lock();
        for key in self.keys {
            inner.busy.remove(key);
        }
        self.log.wake.notify_all();
    }
}

/// Where the log begins after a start.
pub(super) struct Start {
    pub(super) tally: Tally,
    pub(super) next_sequence: u64,
    pub(super) capacity: u64,
    pub(super) max_segment: u64,
}

/// The segments of a store: appends, reads, seals and moves of records, as all of them share the tally.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    reserve: PathBuf,
    max_segment: u64,
    inner: Mutex<Inner>,
    /// Remembered whenever a group has an outcome or a claim ends.
    wake: Condvar,
    files: Mutex<LruCache<u32, Arc<dyn DiskFile>>>,
    syncs: AtomicU64,
}

impl Log {
    /// A log over the segments in `dir`; the first record goes to a new one.
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, reserve: PathBuf, start: Start) -> Self {
        let inner = Inner {
            capacity: start.capacity,
            closed: false,
            next_sequence: start.next_sequence,
            active: None,
            segments: start.tally.segments,
            group: Arc::default(),
            dirty: BTreeMap::new(),
            group_bytes: 0,
            syncing: BTreeSet::new(),
            syncs_begun: 0,
            failures: 0,
            full: BTreeSet::new(),
            suspects: BTreeSet::new(),
            marked: BTreeSet::new(),
            busy: HashSet::new(),
            committed_bytes: start.tally.committed_bytes,
            pending_bytes: start.tally.pending_bytes,
            shards: start.tally.shards,
            locators: start.tally.locators,
            records: start.tally.records,
            records_bytes: start.tally.records_bytes,
            tombstones: start.tally.tombstones,
            reserved: 0,
        };
        let log = Self {
            disk,
            dir: dir.to_owned(),
            reserve,
            max_segment: start.max_segment,
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            files: Mutex::new(LruCache::new(OPEN_FILES)),
            syncs: AtomicU64::new(0),
        };
        log.refill_reserve();
        log
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No operation panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other operation holds any of `keys` (each named once).
    pub(super) fn claim<'a>(&'a self, keys: &'a [Key]) -> Result<Claim<'a>, Closed> {
        let mut inner = self.lock();
        while !inner.closed && keys.iter().any(|key| inner.busy.contains(key)) {
            inner = self.wait(inner);
        }
        if inner.closed {
            return Err(Closed);
        }
        inner.busy.extend(keys);
        Ok(Claim { log: self, keys })
    }

    /// Writes a record behind all others.
    pub(super) fn append(&self, draft: &Draft<'_>) -> Result<Placed, AppendError> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(draft.header);
        hasher.update(draft.payload);
        let too_long = |_| AppendError::Io(io::ErrorKind::InvalidInput.into());
        let mut header = RecordHeader {
            kind: draft.kind,
            sequence: 0,
            key: draft.key,
            state: draft.state,
            token: draft.token,
            header_len: u32::try_from(draft.header.len()).map_err(too_long)?,
            payload_len: u32::try_from(draft.payload.len()).map_err(too_long)?,
            body_crc: hasher.finalize(),
        };
        let mut inner = self.lock();
        let free = inner.free();
        if !draft.urgent() && !draft.moved && free < header.record_bytes() + FOOTER_ENTRY_BYTES + INDEX_BYTES
        {
            return Err(AppendError::NoSpace { free });
        }
        header.sequence = inner.next_sequence;
        let mut written = self.write(&mut inner, draft, &header);
        if draft.urgent() && !draft.moved && written.as_ref().is_err_and(is_full) && inner.reserved > 0 {
            inner.reserved = 0;
            written = self
                .disk
                .remove(&self.reserve)
                .and_then(|()| self.write(&mut inner, draft, &header));
        }
        let (segment, offset) = written.map_err(|error| {
            if is_full(&error) {
                AppendError::NoSpace { free: 0 }
            } else {
                AppendError::Io(error)
            }
        })?;
        inner.next_sequence += 1;
        Ok(Placed {
            segment,
            offset,
            header,
            group: Arc::clone(&inner.group),
        })
    }

    fn write(&self, inner: &mut Inner, draft: &Draft<'_>, header: &RecordHeader) -> io::Result<(u32, u64)> {
        let mut active = self.take_active(inner)?;
        let (id, offset, bytes) = (active.id, active.len, header.record_bytes());
        let pad = [0; 64];
        let pad_len = usize::try_from(bytes - HEADER_BYTES as u64 - header.body_bytes()).unwrap_or(0);
        let parts = [
            &header.encode(active.salt),
            draft.header,
            draft.payload,
            pad.get(..pad_len).unwrap_or(&pad),
        ];
        if let Err(error) = active.file.write_at(&parts, offset) {
            // Should what was written of it stay, the next record covers it or a scan skips it.
            if active.file.truncate(offset).is_ok() {
                inner.active = Some(active);
            } else {
                inner.full.insert(id);
            }
            return Err(error);
        }
        active.len += bytes;
        active.records += 1;
        if let Some(segment) = inner.segments.get_mut(&id) {
            segment.len = active.len;
            segment.occupied += bytes;
            if header.kind == Kind::Put {
                segment.live += bytes;
            } else {
                segment.controls = true;
            }
        }
        inner.dirty.insert(id, (Arc::clone(&active.file), active.len));
        inner.group_bytes += bytes;
        inner.active = Some(active);
        Ok((id, offset))
    }

    /// The active segment, a new one if there is none with room.
    fn take_active(&self, inner: &mut Inner) -> io::Result<Active> {
        if let Some(active) = inner.active.take() {
            let max_segment = self.max_segment.min((inner.capacity / 32).max(MIN_SEGMENT));
            if active.len < max_segment && active.records < MAX_RECORDS {
                return Ok(active);
            }
            inner.full.insert(active.id);
        }
        let id = inner.segments.last_key_value().map_or(1, |(&id, _)| id + 1);
        let salt = rand::random();
        let path = self.dir.join(file_name(id, salt));
        let file = self.disk.create(&path)?;
        self.disk.sync_dir(&self.dir)?;
        inner.segments.insert(
            id,
            Segment {
                controls: false,
                ..Segment::new(salt, 0, 0, None)
            },
        );
        Ok(Active {
            id,
            salt,
            file,
            len: 0,
            records: 0,
        })
    }

    /// Notes in the sums that a shard's entry changed. A record that is no longer pointed to is dead.
    pub(super) fn account(&self, key: &Key, before: Option<&Entry>, after: Option<&Entry>) {
        let mut inner = self.lock();
        let apart = match key.index {
            LOCATOR => Some(&mut inner.locators),
            RECORDS => Some(&mut inner.records),
            _ => None,
        };
        if let Some(count) = apart {
            *count += u64::from(after.is_some());
            *count -= u64::from(before.is_some());
        }
        if key.index == RECORDS {
            inner.records_bytes += after.map_or(0, Entry::record_bytes);
            inner.records_bytes -= before.map_or(0, Entry::record_bytes);
        }
        if let Some(before) = before {
            let bytes = before.record_bytes();
            match before.state {
                State::Committed => inner.committed_bytes -= bytes,
                State::Pending { .. } => inner.pending_bytes -= bytes,
                State::Deleted { .. } => inner.tombstones -= 1,
            }
            inner.shards -= u64::from(before.is_shard());
            if after.is_none_or(|after| after.sequence != before.sequence) {
                release(&mut inner, before.segment, bytes);
            }
        }
        if let Some(after) = after {
            match after.state {
                State::Committed => inner.committed_bytes += after.record_bytes(),
                State::Pending { .. } => inner.pending_bytes += after.record_bytes(),
                State::Deleted { .. } => inner.tombstones += 1,
            }
            inner.shards += u64::from(after.is_shard());
        }
    }

    /// A put that no index entry will point to.
    pub(super) fn abandon(&self, placed: &Placed) {
        release(&mut self.lock(), placed.segment, placed.header.record_bytes());
    }

    /// A segment open for reading; `NotFound` if it is gone.
    pub(super) fn file(&self, id: u32) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.path(id)?)?;
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(id, Arc::clone(&file));
        Ok(file)
    }

    fn path(&self, id: u32) -> io::Result<PathBuf> {
        let salt = self.lock().segments.get(&id).ok_or(io::ErrorKind::NotFound)?.salt;
        Ok(self.dir.join(file_name(id, salt)))
    }

    /// A segment read from the device itself, with its salt and length.
    pub(super) fn uncached(&self, id: u32) -> io::Result<(Arc<dyn DiskFile>, u64, u64)> {
        let file = self.disk.open_uncached(&self.path(id)?)?;
        let segment = *self.lock().segments.get(&id).ok_or(io::ErrorKind::NotFound)?;
        Ok((file, segment.salt, segment.len))
    }

    /// The salt of a segment.
    pub(super) fn salt(&self, id: u32) -> Option<u64> {
        self.lock().segments.get(&id).map(|segment| segment.salt)
    }

    pub(super) fn take_suspects(&self) -> BTreeSet<u32> {
        std::mem::take(&mut self.lock().suspects)
    }

    pub(super) fn usage(&self) -> Usage {
        let inner = self.lock();
        let live: u64 = inner.segments.values().map(|segment| segment.live).sum();
        Usage {
            committed_bytes: inner.committed_bytes,
            pending_bytes: inner.pending_bytes,
            dead_bytes: inner.occupied().saturating_sub(live),
            shards: inner.shards - inner.locators - inner.records,
            locators: inner.locators,
            records: inner.records,
            records_bytes: inner.records_bytes,
            tombstones: inner.tombstones,
            capacity: inner.capacity,
            free: inner.free(),
        }
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        self.lock().capacity = capacity;
    }

    pub(super) fn signed_bytes(&self) -> u64 {
        signed_bytes(self.lock().capacity)
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn release(inner: &mut Inner, segment: u32, bytes: u64) {
    if let Some(segment) = inner.segments.get_mut(&segment) {
        segment.live = segment.live.saturating_sub(bytes);
    }
}
