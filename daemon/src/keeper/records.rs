//! Signed records kept here, under their hashes in the store, and what they are of which key.
//!
//! A record that comes is verified, made durable, and only then counts. What it replaces goes after that,
//! with others, since each removal costs a flush: a crash in between leaves both, and the next start takes
//! the higher one. Of records the store promises what it does of shards.
//!
//! The store keeps room for records that shards never take, so that a full disk can be emptied by what they
//! say. So all of them together are bounded by it, and those of keys that one peer was the first to bring by
//! an eighth.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mutualstore_dht::records::{Publish, RecordSet, Taken};
use mutualstore_dht::{Id, Peer};
use mutualstore_store::{GetError, Key, RECORDS, State as StoreState, Store};
use mutualstore_tree::record::{Kind, Record, record_id};

use super::{KeepError, ShardKeeper};
use crate::clock::unix_ms;
use crate::peer::Membership;
use crate::wire::peer::NO_TOKEN;
use crate::wire::record::{Given, MAX_GIVEN, stamp_of};

/// Records that were replaced go so long after the first of them, or when there are so many.
const TOGETHER: (Duration, usize) = (Duration::from_secs(1), 64);
/// Keys that one peer may bring first have this part of the room.
const SHARE: u64 = 8;

/// What is kept of one key.
#[derive(Debug, Default)]
struct Kept {
    set: RecordSet,
    /// The hash of the end mark.
    end: Option<[u8; 32]>,
    /// Bytes of each record that is kept, by its hash.
    sizes: BTreeMap<[u8; 32], u64>,
    /// Who brought the first record; none: it was here at the start.
    brought: Option<Peer>,
}

/// Signed records of all keys.
pub(crate) struct RecordKeeper {
    keeper: Arc<ShardKeeper>,
    member: Arc<Membership>,
    keys: Mutex<BTreeMap<Id, Kept>>,
    /// Hashes of records that were replaced and are still in the store.
    replaced: Mutex<Vec<[u8; 32]>>,
}

fn place(hash: [u8; 32]) -> Key {
    Key {
        stripe: hash,
        index: RECORDS,
    }
}

impl Kept {
    /// Takes a record in. What it answers, and the hashes of what is not kept after this.
    fn offer(&mut self, record: &Record) -> (Publish, Vec<[u8; 32]>) {
        self.sizes.insert(record.hash, record.bytes.len() as u64);
        let (answer, out) = match record.kind {
            Kind::End => {
                self.set.end();
                let kept = *self.end.get_or_insert(record.hash);
                let out = (kept != record.hash).then_some(record.hash);
                (Publish::Stored, out.into_iter().collect())
            }
            Kind::Head => {
                let (taken, answer) = self.set.offer(stamp_of(record), None);
                let out = match taken {
                    Taken::New(out) => out.into_iter().map(|stamp| stamp.hash).collect(),
                    Taken::Known => Vec::new(),
                    Taken::Older | Taken::Ended | Taken::Full => vec![record.hash],
                };
                (answer, out)
            }
        };
        for hash in &out {
            self.sizes.remove(hash);
        }
        (answer, out)
    }

    fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// Whether a record would be kept, and is not yet.
    fn wants(&self, record: &Record) -> bool {
        match record.kind {
            Kind::End => self.end.is_none(),
            Kind::Head => matches!(self.set.clone().take(stamp_of(record)), Taken::New(_)),
        }
    }
}

impl RecordKeeper {
    /// None of the records yet.
    pub(crate) fn new(keeper: Arc<ShardKeeper>, member: Arc<Membership>) -> Self {
        Self {
            keeper,
            member,
            keys: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// Reads all records in the store and tells custody of them, once, at start. What others replaced and a
    /// crash left goes.
    pub(crate) async fn announce_all(&self) -> std::io::Result<()> {
        let network = self.network();
        let read = self.keeper.blocking(move |store| read_all(store, &network)).await;
        let Read { keys, stale } = read.unwrap_or_else(|| Ok(Read::default()))?;
        let digests = keys.iter().map(|(id, kept)| (*id, kept.set.digest()));
        let digests: Vec<(Id, u64)> = digests.collect();
        *self.lock() = keys;
        self.drop_records(stale).await;
        self.keeper.announce_records(&digests);
        Ok(())
    }

    /// Whether a record that the store lists can be read; one that cannot is dropped, and comes again from
    /// other holders.
    pub(crate) async fn is_sound(&self, hash: [u8; 32]) -> bool {
        let network = self.network();
        let read = self.keeper.blocking(move |store| {
            let stored = store.get(place(hash));
            match stored {
                // Dropped meanwhile, or what the disk does not give now it may give later.
                Ok(None) | Err(GetError::Io(_)) => true,
                Ok(Some(stored)) => Record::parse(&stored.payload, &network).is_ok(),
                Err(GetError::Corrupt) => false,
            }
        });
        let sound = read.await.unwrap_or(true);
        if !sound {
            self.keeper.bad.add(1);
            tracing::warn!("CORRUPTED_BLOCK {}:{RECORDS}", Id::new(hash));
            self.forget(hash).await;
        }
        sound
    }

    /// A record is damaged: what is kept of its key is read anew.
    async fn forget(&self, hash: [u8; 32]) {
        self.drop_records(vec![hash]).await;
        if let Err(error) = self.announce_all().await {
            tracing::error!(%error, "index");
        }
    }

    /// The network that records are signed for, which a joiner learns as it joins.
    fn network(&self) -> [u8; 32] {
        self.member.network().id
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Kept>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of which something is kept.
    pub(crate) fn ids(&self) -> Vec<Id> {
        self.lock().keys().copied().collect()
    }

    /// What is kept of a key.
    pub(crate) fn set(&self, id: Id) -> RecordSet {
        let keys = self.lock();
        keys.get(&id).map(|kept| kept.set.clone()).unwrap_or_default()
    }

    /// Takes in a record that came from another peer, not verified yet; durable when this returns.
    pub(crate) async fn take(self: &Arc<Self>, from: Peer, bytes: Bytes) -> Publish {
        match Record::parse(&bytes, &self.network()) {
            Ok(record) => self.take_verified(from, record).await,
            Err(error) => {
                tracing::debug!(%from, %error, "refused a record");
                Publish::Silent
            }
        }
    }

    /// Takes in a verified record; durable when this returns.
    pub(crate) async fn take_verified(self: &Arc<Self>, from: Peer, record: Record) -> Publish {
        let id = Id::new(record_id(&record.key));
        let size = record.bytes.len() as u64;
        {
            let mut keys = self.lock();
            let known = keys.contains_key(&id);
            if !self.has_room(&keys, from, known, size) {
                return Publish::Silent;
            }
            if let Some(kept) = keys.get_mut(&id).filter(|kept| !kept.wants(&record)) {
                return kept.offer(&record).0;
            }
        }
        let (key, payload) = (place(record.hash), record.bytes.clone());
        let stored = self
            .keeper
            .change(move |store| store.put(key, StoreState::Committed, NO_TOKEN, &[], &payload));
        if let Err(error) = stored.await {
            tracing::warn!(%error, "could not keep a record");
            return Publish::Silent;
        }
        let (answer, out, digest) = {
            let mut keys = self.lock();
            let kept = keys.entry(id).or_insert_with(|| Kept {
                brought: Some(from),
                ..Kept::default()
            });
            let (answer, out) = kept.offer(&record);
            (answer, out, kept.set.digest())
        };
        self.drop_later(out);
        self.keeper.report_records(id, Some(digest));
        answer
    }

    /// Whether there is room for a record of a key.
    fn has_room(&self, keys: &BTreeMap<Id, Kept>, from: Peer, known: bool, size: u64) -> bool {
        let room = self.keeper.signed_bytes();
        let all: u64 = keys.values().map(Kept::bytes).sum();
        let theirs = keys.values().filter(|kept| kept.brought == Some(from));
        let theirs: u64 = theirs.map(Kept::bytes).sum();
        all + size <= room && (known || theirs + size <= room / SHARE)
    }

    /// What is kept of a key, and as many of the records that `have` lacks as one answer takes.
    pub(crate) async fn give(&self, id: Id, have: RecordSet) -> Given {
        let (set, end) = {
            let keys = self.lock();
            let kept = keys.get(&id);
            let set = kept.map(|kept| kept.set.clone()).unwrap_or_default();
            (set, kept.and_then(|kept| kept.end))
        };
        let newer = set.newer_than(&have).into_iter().map(|stamp| stamp.hash);
        let end = end.filter(|_| !have.is_ended());
        let hashes: Vec<[u8; 32]> = end.into_iter().chain(newer).take(MAX_GIVEN).collect();
        let read = self.keeper.blocking(move |store| {
            let read = hashes.into_iter().filter_map(|hash| store.get(place(hash)).ok()?);
            read.map(|stored| stored.payload).collect()
        });
        Given {
            records: read.await.unwrap_or_default(),
            set,
            clock_ms: unix_ms(),
        }
    }

    /// Drops the records of a key, unless some came since they were `mine`.
    pub(crate) async fn give_way(&self, id: Id, mine: &RecordSet) {
        let gone = {
            let mut keys = self.lock();
            match keys.get(&id) {
                Some(kept) if kept.set == *mine => keys.remove(&id),
                Some(_) | None => None,
            }
        };
        if let Some(kept) = gone {
            let hashes = kept.set.stamps().map(|stamp| stamp.hash).chain(kept.end);
            self.drop_records(hashes.collect()).await;
            self.keeper.report_records(id, None);
        }
    }

    /// Drops records that were replaced, a moment later and with others.
    fn drop_later(self: &Arc<Self>, hashes: Vec<[u8; 32]>) {
        if hashes.is_empty() {
            return;
        }
        let (first, enough) = {
            let mut replaced = self.replaced();
            let first = replaced.is_empty();
            replaced.extend(hashes);
            (first, replaced.len() >= TOGETHER.1)
        };
        if first || enough {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                if !enough {
                    tokio::time::sleep(TOGETHER.0).await;
                }
                let replaced = std::mem::take(&mut *this.replaced());
                this.drop_records(replaced).await;
            });
        }
    }

    fn replaced(&self) -> MutexGuard<'_, Vec<[u8; 32]>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drop_records(&self, hashes: Vec<[u8; 32]>) {
        if hashes.is_empty() {
            return;
        }
        let keys: Vec<Key> = hashes.into_iter().map(place).collect();
        let removed: Result<u64, KeepError> = self.keeper.change(move |store| store.remove(&keys)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "records that others replaced take space until the next start");
        }
    }
}

/// What the store has.
#[derive(Default)]
struct Read {
    keys: BTreeMap<Id, Kept>,
    /// Hashes of records that are not kept.
    stale: Vec<[u8; 32]>,
}

fn read_all(store: &Store, network: &[u8; 32]) -> std::io::Result<Read> {
    let mut hashes = Vec::new();
    store.for_each(|key, _| hashes.extend((key.index == RECORDS).then_some(key.stripe)))?;
    let mut read = Read::default();
    for hash in hashes {
        let stored = store.get(place(hash)).ok().flatten();
        let record = stored.and_then(|stored| Record::parse(&stored.payload, network).ok());
        let Some(record) = record else {
            tracing::warn!("CORRUPTED_BLOCK {}:{RECORDS}", Id::new(hash));
            read.stale.push(hash);
            continue;
        };
        let kept = read.keys.entry(Id::new(record_id(&record.key))).or_default();
        read.stale.extend(kept.offer(&record).1);
    }
    Ok(read)
}
