//! The shard store: keeps the shards this peer was given, under (stripe id, index), in append-only segments.
//!
//! Invariants:
//! - What an operation acknowledged is on the device. Nothing else is ever served or listed.
//! - Served bytes are the bytes that were put: every read checks its record's CRC-32. Whether they are the
//!   right shard of the stripe is for the caller to verify.
//! - Of a stripe whose tombstone is held no shard is served, listed or taken, whatever ends the process when.
//! - The capacity bounds what puts take, overhead included; reads, commits and deletes go on when it is
//!   reached, and on a full file system too, thanks to a reserve.
//! - The index is a cache of the segments: after an unclean stop, and whenever it looks wrong, it is rebuilt.
//!
//! All operations block and may be called by many threads at once, by the rules of the [`log`].
//!
//! In `dir`: `segments/` ([`segment`], [`record`]: the formats), `index/` ([`index`], [`entry`]), `lock`,
//! `reserve`, `format` (one line that names the version of all this).
//!
//! Whole pages of a removed shard come back at once as holes, the rest by [`compact`].
//!
//! Deliberately absent: a clock (leases are compared with the time the caller names), background threads
//! (whoever owns the store calls [`Store::compact`] now and then), and a cache of shards (the page cache does
//! that).

mod compact;
mod disk;
mod entry;
mod error;
mod index;
mod locate;
mod log;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use self::disk::{Disk, OsDisk};
use self::entry::{Entry, Mark};
use self::index::Index;
use self::log::{Draft, Log, Placed};
use self::record::{HEADER_BYTES, Kind, RecordHeader};
use self::segment::Scanner;

pub use self::compact::Compacted;
pub use self::error::{CloseError, GetError, OpenError, PutError, UpdateError};
pub use self::locate::{Located, locate};
pub use self::recovery::OpenReport;
pub use self::types::{
    Key, LOCATOR, Meta, PutOutcome, RECORDS, State, StoreConfig, Stored, TOMBSTONE, Usage,
};

/// Keys changed by one record.
const BATCH_KEYS: usize = 1024;

/// A shard store, open in one directory. Dropping it without [`Store::close`] is safe and costs the next
/// start a scan. Its methods are one for each operation on shards, with what maintenance and figures need.
pub struct Store {
    log: Log,
    index: Index,
    /// Whether an entry could not be written: the index must not be believed at the next start.
    stale: AtomicBool,
    /// Forgotten, and nobody was told.
    lost: Mutex<Vec<Key>>,
    /// Holds the lock on the directory.
    _lock: File,
}

/// What becomes of an entry: `None` leaves it.
type Change = Option<Option<Entry>>;

impl Store {
    /// Opens the store in `dir`, creating what is missing.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(&(Arc::new(OsDisk) as Arc<dyn Disk>), dir, config)
    }

    fn open_on(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        config: StoreConfig,
    ) -> Result<(Self, OpenReport), OpenError> {
        let lock = recovery::lock(dir)?;
        recovery::check_format(dir)?;
        let (log, index, report) = recovery::recover(disk, dir, config)?;
        let store = Self {
            log,
            index,
            stale: AtomicBool::new(false),
            lost: Mutex::default(),
            _lock: lock,
        };
        store.finish_deletions();
        Ok((store, report))
    }

    /// Removes what a crash left between a tombstone and the end of its stripe's shards.
    fn finish_deletions(&self) {
        if self.used().tombstones == 0 {
            return;
        }
        let mut left = Vec::new();
        let mut shards: Vec<Key> = Vec::new();
        // A tombstone comes after the shards of its stripe, if any.
        let walked = self.for_each(|key, meta| {
            shards.retain(|shard| shard.stripe == key.stripe);
            match meta.state {
                State::Deleted { .. } => left.append(&mut shards),
                State::Committed | State::Pending { .. } => shards.push(key),
            }
        });
        if let Err(error) = walked {
            tracing::error!(%error, "index");
        } else if let Err(error) = self.remove(&left) {
            tracing::warn!(%error, "shards of deleted stripes stay until the next start");
        }
    }

    /// Keeps the tombstone of a stripe and removes its shards; durable on return. Goes through on a full disk
    /// as long as the reserve lasts. `since_unix_ms` is now; an earlier one that is held already stays.
    /// Returns the shards removed. Whether the signature is the owner's is for the caller to verify.
    pub fn put_tombstone(
        &self,
        stripe: [u8; 32],
        header: &[u8],
        signature: &[u8],
        since_unix_ms: u64,
    ) -> Result<Vec<u8>, PutError> {
        let key = Key {
            stripe,
            index: TOMBSTONE,
        };
        self.put(key, State::Deleted { since_unix_ms }, [0; 16], header, signature)?;
        let held = self.index.stripe(&stripe).map_err(PutError::Index)?;
        let shards = held.into_iter().map(|(key, _)| key);
        let shards: Vec<Key> = shards.filter(|key| key.index != TOMBSTONE).collect();
        if let Err(error) = self.remove(&shards) {
            // They are neither served nor listed, and go at the next start.
            tracing::warn!(%error, "shards of a deleted stripe take space until the next start");
        }
        Ok(shards.into_iter().map(|key| key.index).collect())
    }

    /// Whether the tombstone of a stripe is held.
    fn is_deleted(&self, stripe: [u8; 32]) -> io::Result<bool> {
        let index = TOMBSTONE;
        Ok(self.index.get(&Key { stripe, index })?.is_some())
    }

    /// Stores a shard; durable on return. Of a shard already held only the state changes: pending becomes
    /// what `state` says (the later lease wins), committed stays. The first token stays whatever comes: a
    /// pending shard is refused under another one, or whoever stored it again could discard it; committed by
    /// whom it may, its writer goes on knowing it.
    pub fn put(
        &self,
        key: Key,
        state: State,
        token: [u8; 16],
        header: &[u8],
        payload: &[u8],
    ) -> Result<PutOutcome, PutError> {
        let draft = Draft {
            kind: Kind::Put,
            key,
            state,
            token,
            header,
            payload,
            moved: false,
        };
        let outcome = self.put_claimed(&draft);
        if let Err(PutError::Sync(_)) = outcome {
            self.reverify();
        }
        outcome
    }

    fn put_claimed(&self, draft: &Draft<'_>) -> Result<PutOutcome, PutError> {
        let keys = [draft.key];
        let claim = self.log.claim(&keys)?;
        let shard = draft.key.index != TOMBSTONE;
        if shard && self.is_deleted(draft.key.stripe).map_err(PutError::Index)? {
            return Err(PutError::Deleted);
        }
        let outcome = self.put_record(draft)?;
        // A tombstone that came meanwhile may have missed the shard; a later one finds it.
        if shard && self.is_deleted(draft.key.stripe).map_err(PutError::Index)? {
            drop(claim);
            self.remove(&keys).map_err(|_| PutError::Deleted)?;
            return Err(PutError::Deleted);
        }
        Ok(outcome)
    }

    /// By the holder of the key's claim.
    fn put_record(&self, draft: &Draft<'_>) -> Result<PutOutcome, PutError> {
        let held = self.index.get(&draft.key).map_err(PutError::Index)?;
        let sound = |held: &&Entry| matches!(self.read(&draft.key, held), Ok(Some(_)));
        match held.as_ref().filter(sound) {
            // Not held, or damaged.
            None => {
                let placed = self.log.append(draft)?;
                self.log
                    .settle(&placed.group)
                    .map_err(|error| self.abandon(&placed, error))?;
                let entry = Entry::new(placed.segment, placed.offset, &placed.header);
                self.replace(&draft.key, held.as_ref(), Some(&entry))
                    .map_err(PutError::Index)?;
                Ok(PutOutcome::Stored)
            }
            Some(held) => {
                if let State::Pending {
                    until_unix_ms: held_until,
                    ..
                } = held.state
                {
                    let pending = matches!(draft.state, State::Pending { .. });
                    if pending && draft.token != held.token {
                        return Err(PutError::Taken);
                    }
                    let state = match draft.state {
                        State::Pending {
                            until_unix_ms,
                            writer,
                        } => State::Pending {
                            until_unix_ms: until_unix_ms.max(held_until),
                            writer,
                        },
                        State::Committed | State::Deleted { .. } => draft.state,
                    };
                    let restate = Draft {
                        kind: Kind::Restate,
                        state,
                        token: held.token,
                        header: &[],
                        payload: &[],
                        ..*draft
                    };
                    let placed = self.log.append(&restate)?;
                    self.log.settle(&placed.group).map_err(PutError::Sync)?;
                    let entry = Entry {
                        state,
                        ..held.clone()
                    };
                    self.replace(&draft.key, Some(held), Some(&entry))
                        .map_err(PutError::Index)?;
                }
                Ok(PutOutcome::AlreadyHeld)
            }
        }
    }

    fn abandon(&self, placed: &Placed, error: Arc<io::Error>) -> PutError {
        self.log.abandon(placed);
        PutError::Sync(error)
    }

    /// Changes an entry after the record that says so is durable, by the holder of the key's claim.
    fn replace(&self, key: &Key, before: Option<&Entry>, after: Option<&Entry>) -> io::Result<()> {
        let changed = match after {
            Some(entry) => self.index.insert(key, entry),
            None => self.index.remove(key),
        };
        if changed.is_err() {
            self.stale.store(true, Ordering::Release);
        }
        changed?;
        self.log.account(key, before, after);
        Ok(())
    }

    /// Reads a shard; `None` if it is not held.
    pub fn get(&self, key: Key) -> Result<Option<Stored>, GetError> {
        let mut entry = self.index.get(&key)?;
        if key.index != TOMBSTONE && self.is_deleted(key.stripe)? {
            return Ok(None);
        }
        while let Some(held) = entry {
            let read = self.read(&key, &held);
            if let Ok(Some(stored)) = read {
                return Ok(Some(stored));
            }
            // It may have been removed while it was read; then that counts.
            entry = self.index.get(&key)?;
            if entry
                .as_ref()
                .is_some_and(|entry| entry.sequence == held.sequence)
            {
                return Err(read.err().map_or(GetError::Corrupt, GetError::Io));
            }
        }
        Ok(None)
    }

    /// The shard at an entry's place; `None` if another record or a damaged one is there.
    fn read(&self, key: &Key, entry: &Entry) -> io::Result<Option<Stored>> {
        let Some(salt) = self.log.salt(entry.segment) else {
            return Ok(None);
        };
        let file = self.log.file(entry.segment)?;
        let meta = entry.meta();
        let body_bytes = usize::try_from(meta.len).map_err(io::Error::other)?;
        let mut record = vec![0; HEADER_BYTES + body_bytes];
        let read = file.read_at(&mut record, entry.offset)?;
        let record = Bytes::from(record);
        let Some(header) = RecordHeader::decode(&record, salt).filter(|_| read == record.len()) else {
            return Ok(None);
        };
        let mut payload = record.slice(HEADER_BYTES..);
        let sound = header.key == *key
            && header.sequence == entry.sequence
            && header.body_bytes() == payload.len() as u64
            && header.body_crc == crc32fast::hash(&payload);
        if !sound {
            return Ok(None);
        }
        let header = payload.split_to(usize::try_from(header.header_len).map_err(io::Error::other)?);
        Ok(Some(Stored {
            meta,
            header,
            payload,
        }))
    }

    /// The stripe header of a shard, without its payload and unchecked but for its length; `None` if it is
    /// not held.
    pub fn header(&self, key: Key) -> io::Result<Option<Bytes>> {
        let Some(entry) = self.index.get(&key)? else {
            return Ok(None);
        };
        let file = self.log.file(entry.segment)?;
        let mut header = vec![0; usize::try_from(entry.header_len).map_err(io::Error::other)?];
        let read = file.read_at(&mut header, entry.offset + HEADER_BYTES as u64)?;
        Ok((read == header.len()).then(|| header.into()))
    }

    /// Whether a shard or tombstone is held.
    pub fn holds(&self, key: Key) -> io::Result<bool> {
        Ok(self.index.get(&key)?.is_some())
    }

    /// State, token and length of a shard; `None` if it is not held, or if the index fails.
    pub fn meta(&self, key: Key) -> Option<Meta> {
        let entry = self
            .index
            .get(&key)
            .inspect_err(|error| tracing::error!(%error, "index"));
        Some(entry.ok()??.meta())
    }

    /// The shards held of a stripe, by index; none if it is deleted or the index fails.
    pub fn indices(&self, stripe: &[u8; 32]) -> Vec<(u8, Meta)> {
        let entries = self
            .index
            .stripe(stripe)
            .inspect_err(|error| tracing::error!(%error, "index"));
        let mut entries = entries.unwrap_or_default();
        if entries.last().is_some_and(|(key, _)| key.index == TOMBSTONE) {
            entries.clear();
        }
        let shards = entries.into_iter();
        shards.map(|(key, entry)| (key.index, entry.meta())).collect()
    }

    /// Commits pending shards, durably. Returns how many of the keys (each counted once) are now held
    /// committed.
    pub fn commit(&self, keys: &[Key]) -> Result<usize, UpdateError> {
        self.update(keys, Kind::Commit, State::Committed, |entry| match entry.state {
            State::Committed | State::Deleted { .. } => None,
            State::Pending { .. } => Some(Some(Entry {
                state: State::Committed,
                ..entry.clone()
            })),
        })?;
        let committed = |key: &Key| self.meta(*key).is_some_and(|meta| meta.state == State::Committed);
        Ok(distinct(keys).iter().filter(|key| committed(key)).count())
    }

    /// Extends the leases of pending shards, durably; none gets shorter. Other keys are skipped.
    pub fn renew(&self, keys: &[Key], until_unix_ms: u64) -> Result<(), UpdateError> {
        let until = State::Pending {
            until_unix_ms,
            writer: [0; 32],
        };
        self.update(keys, Kind::Renew, until, |entry| match entry.state {
            State::Pending {
                until_unix_ms: held,
                writer,
            } if held < until_unix_ms => Some(Some(Entry {
                state: State::Pending {
                    until_unix_ms,
                    writer,
                },
                ..entry.clone()
            })),
            State::Committed | State::Pending { .. } | State::Deleted { .. } => None,
        })?;
        Ok(())
    }

    /// Removes shards, durably, and gives their space back. Returns the bytes of their records.
    pub fn remove(&self, keys: &[Key]) -> Result<u64, UpdateError> {
        self.remove_if(keys, |_| true)
    }

    /// Removes a shard if it is damaged now: one that came in its place since somebody saw the damage stays.
    /// `sound` judges what was read; `unreadable` is what counts where the disk gives nothing.
    pub fn remove_damaged(
        &self,
        key: Key,
        sound: impl Fn(&Stored) -> bool,
        unreadable: bool,
    ) -> Result<u64, UpdateError> {
        self.remove_if(&[key], |entry| match self.read(&key, entry) {
            Ok(stored) => !stored.is_some_and(|stored| sound(&stored)),
            Err(_) => unreadable,
        })
    }

    /// Shards that turned out to be lost in failed flushes since this was asked last.
    pub fn take_lost(&self) -> Vec<Key> {
        std::mem::take(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes those of the shards that were last put with `token`.
    pub fn discard(&self, keys: &[Key], token: [u8; 16]) -> Result<u64, UpdateError> {
        self.remove_if(keys, |entry| entry.token == token)
    }

    /// Removes those of the shards that are pending under a lease that has ended by `now_unix_ms`.
    pub fn expire(&self, keys: &[Key], now_unix_ms: u64) -> Result<u64, UpdateError> {
        self.remove_if(keys, |entry| match entry.state {
            State::Pending { until_unix_ms, .. } => until_unix_ms <= now_unix_ms,
            State::Committed | State::Deleted { .. } => false,
        })
    }

    fn remove_if(&self, keys: &[Key], condition: impl Fn(&Entry) -> bool) -> Result<u64, UpdateError> {
        let removed = self.update(keys, Kind::Drop, State::Committed, |entry| {
            condition(entry).then_some(None)
        })?;
        self.log.retire(&removed);
        self.log.drop_dead();
        self.log.refill_reserve();
        Ok(removed.iter().map(Entry::record_bytes).sum())
    }

    /// Changes entries, one durable record for a batch; returns what the changed ones were.
    fn update(
        &self,
        keys: &[Key],
        kind: Kind,
        state: State,
        change: impl Fn(&Entry) -> Change,
    ) -> Result<Vec<Entry>, UpdateError> {
        let mut changed = Vec::new();
        for keys in distinct(keys).chunks(BATCH_KEYS) {
            let outcome = self.update_claimed(keys, kind, state, &change, &mut changed);
            if let Err(UpdateError::Sync(_)) = outcome {
                self.reverify();
            }
            outcome?;
        }
        Ok(changed)
    }

    fn update_claimed(
        &self,
        keys: &[Key],
        kind: Kind,
        state: State,
        change: &impl Fn(&Entry) -> Change,
        changed: &mut Vec<Entry>,
    ) -> Result<(), UpdateError> {
        let _claim = self.log.claim(keys)?;
        let mut due = Vec::new();
        for key in keys {
            let Some(held) = self.index.get(key).map_err(UpdateError::Index)? else {
                continue;
            };
            if let Some(after) = change(&held) {
                due.push((*key, held, after));
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let body: Vec<u8> = due.iter().flat_map(|(key, ..)| key.to_bytes()).collect();
        let placed = self.log.append(&Draft::batch(kind, state, &body))?;
        self.log.settle(&placed.group).map_err(UpdateError::Sync)?;
        for (key, held, after) in due {
            self.replace(&key, Some(&held), after.as_ref())
                .map_err(UpdateError::Index)?;
            changed.push(held);
        }
        Ok(())
    }

    /// Calls `visit` for every shard and every tombstone held, in the order of the keys. What comes or goes
    /// meanwhile may be missed.
    pub fn for_each(&self, mut visit: impl FnMut(Key, Meta)) -> io::Result<()> {
        self.index.walk(|key, entry| visit(key, entry.meta()))
    }

    /// The first `limit` shards and tombstones behind `after`, with their lengths.
    pub fn keys_after(&self, after: Option<Key>, limit: usize) -> io::Result<Vec<(Key, u32)>> {
        let entries = self.index.after(after, limit)?.into_iter();
        Ok(entries.map(|(key, entry)| (key, entry.meta().len)).collect())
    }

    /// Bytes that are kept free of shards for [`RECORDS`]: 1/64 of the capacity, 128 KiB to 1 GiB.
    pub fn signed_bytes(&self) -> u64 {
        self.log.signed_bytes()
    }

    /// What the store takes.
    pub fn used(&self) -> Usage {
        self.log.usage()
    }

    /// Changes the bound. Below what is held already, it only stops puts.
    pub fn set_capacity(&self, bytes: u64) {
        self.log.set_capacity(bytes);
    }

    /// How often a segment was flushed, since the store was opened.
    pub fn syncs(&self) -> u64 {
        self.log.syncs()
    }

    /// Ends the store so that the next start need not scan; waits for the operations under way. Reads go on,
    /// all else is refused.
    pub fn close(&self) -> Result<(), CloseError> {
        let (footer, shards) = self.log.close();
        let sequence = footer.ok_or(CloseError::Footer)?;
        if self.stale.load(Ordering::Acquire) {
            return Err(CloseError::Index(io::ErrorKind::InvalidData.into()));
        }
        self.index
            .set_mark(Mark { sequence, shards })
            .map_err(CloseError::Index)
    }

    /// Reads segments that lived through a failed flush from the device, and forgets what is not there.
    fn reverify(&self) {
        for id in self.log.take_suspects() {
            match self.reverify_segment(id) {
                Ok(bad) => self.log.seal(id, &bad),
                Err(error) => {
                    tracing::error!(segment = id, %error, "segment not verified after a failed flush");
                }
            }
        }
    }

    /// The offsets of records that are damaged on the device.
    fn reverify_segment(&self, id: u32) -> io::Result<BTreeSet<u64>> {
        let (file, salt, len) = self.log.uncached(id)?;
        let mut bad = BTreeSet::new();
        for (offset, header) in Scanner::new(file.as_ref(), salt, len) {
            if header.kind == Kind::Dead {
                continue;
            }
            if segment::read_body(file.as_ref(), offset, &header).is_ok_and(|body| body.is_some()) {
                continue;
            }
            bad.insert(offset);
            let keys = [header.key];
            let Ok(_claim) = self.log.claim(&keys) else {
                continue;
            };
            let held = self.index.get(&header.key)?;
            if let Some(held) = held.filter(|held| held.sequence == header.sequence) {
                tracing::error!(segment = id, offset, "shard lost in a failed flush");
                self.replace(&header.key, Some(&held), None)?;
                let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
                lost.push(header.key);
            }
        }
        Ok(bad)
    }
}

/// `keys` in order, each once.
fn distinct(keys: &[Key]) -> Vec<Key> {
    keys.iter()
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
