//! The one way to local shards. Keeps the store and custody's inventory in step: custody hears of a shard
//! after it is durable, and of its end after the store dropped it.
//!
//! * [`inbound`]: what other peers ask of it; [`lease`]: pending shards; [`usage`]: how full it is, as the
//!   ring is told; [`inventory`]: what custody is told.
//!
//! The store blocks (it waits for the disk), so each call runs on a bounded pool of blocking threads.

mod inbound;
mod inventory;
mod lease;
pub(crate) mod records;
pub(crate) mod usage;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use mutualstore_dht::custody::{LOCATOR, Shape, TOMBSTONE};
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::{Header, Shard, StripeId, VerifiedShard};
use mutualstore_store::{
    Compacted, GetError, Key, Meta, PutError, RECORDS, State as StoreState, Store, Stored, UpdateError, Usage,
};
use tokio::sync::Semaphore;

use crate::clock::unix_ms;
use crate::format::locator::Locator;
use crate::format::placement::Placement;
use crate::format::tombstone::Tombstone;
use crate::metrics::{Count, Metrics};
use crate::peer::core::Core;
use crate::wire::peer::Token;

/// Store calls that may wait for the disk at the same time; more queue up.
const PARALLEL: usize = 32;

/// Custody and store mean the same by it.
const _: () = assert!(TOMBSTONE == mutualstore_store::TOMBSTONE && LOCATOR == mutualstore_store::LOCATOR);

/// The local shards. It has a method for each request that a peer may make of them, and one for each that
/// custody, scrub and compaction make.
pub(crate) struct ShardKeeper {
    store: Arc<Store>,
    core: Arc<Core>,
    metrics: Arc<Metrics>,
    /// Whether this peer hands everything over.
    leaving: AtomicBool,
    gate: Semaphore,
    /// How long a tombstone is kept after it came here.
    retention: Duration,
    /// Shards read and verified.
    pub(crate) checked: Count,
    /// Of these, those that did not verify.
    pub(crate) bad: Count,
    /// Changes of the store that its disk failed.
    pub(crate) write_failures: Count,
    /// Bytes of records that compaction wrote again.
    pub(crate) compaction_copied: Count,
    /// Bytes that compaction gave back.
    pub(crate) compaction_gained: Count,
}

/// Why a shard could not be kept. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The shard does not match its header.
    #[error("the shard does not match its header")]
    Invalid,
    /// No space is left.
    #[error("no space")]
    Full,
    /// The stripe was deleted by its owner.
    #[error("the stripe is deleted")]
    Deleted,
    /// Another put holds the shard, unfinished: the first token stays.
    #[error("another put holds this shard")]
    Taken,
    /// The disk failed.
    #[error("disk: {0}")]
    Disk(String),
}

/// What a look for a local shard found.
#[derive(Debug)]
pub(crate) enum Local {
    /// A verified shard.
    Found(Box<VerifiedShard>),
    /// The stripe was deleted by its owner.
    Deleted(Box<Tombstone>),
    /// None of the stripe.
    None,
    /// It did not verify and was dropped.
    Corrupt(u8),
    /// The disk failed.
    Failed(String),
}

/// How a shard is to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    /// For good.
    Committed,
    /// Until the lease runs out, unless committed before.
    Pending {
        /// From now.
        lease: Duration,
        /// Who puts it.
        writer: Peer,
    },
}

impl Keep {
    /// Milliseconds of the lease; 0: committed.
    pub(crate) fn lease_ms(self) -> u64 {
        match self {
            Self::Committed => 0,
            Self::Pending { lease, .. } => {
                u64::try_from(lease.max(Duration::from_millis(1)).as_millis()).unwrap_or(u64::MAX)
            }
        }
    }

    /// From now on.
    fn state(self) -> StoreState {
        match self {
            Self::Committed => StoreState::Committed,
            Self::Pending { lease, writer } => StoreState::Pending {
                until_unix_ms: unix_ms().saturating_add(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
                writer: *writer.as_bytes(),
            },
        }
    }
}

fn key(stripe: Id, index: u8) -> Key {
    Key {
        stripe: *stripe.as_bytes(),
        index,
    }
}

impl From<PutError> for KeepError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoSpace { .. } => Self::Full,
            PutError::Deleted => Self::Deleted,
            PutError::Taken => Self::Taken,
            PutError::Io(_) | PutError::Sync(_) | PutError::Index(_) | PutError::Closed => {
                Self::Disk(error.to_string())
            }
        }
    }
}

impl From<UpdateError> for KeepError {
    fn from(error: UpdateError) -> Self {
        if let UpdateError::NoSpace = error {
            Self::Full
        } else {
            Self::Disk(error.to_string())
        }
    }
}

impl ShardKeeper {
    /// Wraps the opened store; tombstones are kept for `retention` after they came.
    pub(crate) fn new(store: Store, retention: Duration, core: Arc<Core>, metrics: Arc<Metrics>) -> Self {
        Self {
            store: Arc::new(store),
            core,
            metrics,
            leaving: AtomicBool::new(false),
            gate: Semaphore::new(PARALLEL),
            retention,
            checked: Count::default(),
            bad: Count::default(),
            write_failures: Count::default(),
            compaction_copied: Count::default(),
            compaction_gained: Count::default(),
        }
    }

    /// Runs `work` where it may wait for the disk.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> R + Send + 'static,
    ) -> Option<R> {
        let _turn = self.gate.acquire().await.ok()?;
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store)).await.ok()
    }

    /// Has `work` change the store, and tells custody of what turned out to be lost on the way.
    async fn change<R: Send + 'static, E: Into<KeepError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<R, E> + Send + 'static,
    ) -> Result<R, KeepError> {
        let done = self.blocking(move |store| (work(store), store.take_lost())).await;
        let (result, lost) = done.ok_or_else(|| KeepError::Disk("stopping".into()))?;
        self.report_removed(lost);
        let result = result.map_err(Into::into);
        if let Err(KeepError::Disk(_)) = result {
            self.write_failures.add(1);
        }
        result
    }

    /// Compacts one segment, if that is worth it.
    pub(crate) async fn compact(&self) -> Result<Option<Compacted>, UpdateError> {
        let done = self.blocking(Store::compact).await;
        let done = done.unwrap_or(Err(UpdateError::Closed))?;
        if let Some(Compacted { copied, gained }) = done {
            self.compaction_copied.add(copied);
            self.compaction_gained.add(gained);
        }
        Ok(done)
    }

    /// Bytes and shards in use.
    pub(crate) fn usage(&self) -> Usage {
        self.store.used()
    }

    /// Bytes that signed records may take.
    pub(crate) fn signed_bytes(&self) -> u64 {
        self.store.signed_bytes()
    }

    /// How often the store was flushed to the disk.
    pub(crate) fn syncs(&self) -> u64 {
        self.store.syncs()
    }

    /// Flushes and writes the marker of a clean stop.
    pub(crate) async fn close(&self) {
        if let Some(Err(error)) = self.blocking(Store::close).await {
            tracing::warn!(%error, "the store did not close cleanly; the next start rescans it");
        }
    }

    /// The first `limit` shards and tombstones behind `after`, with their lengths in bytes; none where the
    /// index fails.
    pub(crate) async fn keys_after(&self, after: Option<Key>, limit: usize) -> Vec<(Key, u32)> {
        let page = self.blocking(move |store| store.keys_after(after, limit)).await;
        match page {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                tracing::error!(%error, "index");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Tells custody of everything held, once, at start.
    pub(crate) async fn announce_all(&self) -> std::io::Result<()> {
        let held = self.blocking(|store| {
            let mut held = Vec::new();
            store.for_each(|key, _| held.push(key))?;
            let shaped = |key: Key| Some((key, shape_held(store, key)?));
            Ok::<_, std::io::Error>(held.into_iter().filter_map(shaped).collect::<Vec<_>>())
        });
        for (key, shape) in held.await.unwrap_or_else(|| Ok(Vec::new()))? {
            self.report(key, shape);
        }
        // Whom it promised what in an earlier life this peer does not know.
        self.core.with(|state, _| state.engine.custody.vouch_for_all());
        Ok(())
    }

    /// Verifies a shard that came from elsewhere and keeps it durably.
    pub(crate) async fn keep_foreign(&self, shard: Shard, keep: Keep, token: Token) -> Result<(), KeepError> {
        let verified = self.blocking(move |_| shard.verify()).await;
        match verified {
            Some(Ok(shard)) => self.keep(shard, keep, token).await,
            Some(Err(_)) | None => Err(KeepError::Invalid),
        }
    }

    /// Keeps a shard; durable when this returns.
    pub(crate) async fn keep(&self, shard: VerifiedShard, keep: Keep, token: Token) -> Result<(), KeepError> {
        let shape = shape_of(shard.header());
        let key = Key {
            stripe: *shard.stripe().as_bytes(),
            index: shard.index(),
        };
        let state = keep.state();
        let stored =
            self.change(move |store| store.put(key, state, token, &shard.header().encode(), shard.payload()));
        stored.await?;
        self.report(key, shape);
        Ok(())
    }

    /// Keeps a locator in place of an older one; durable when this returns.
    pub(crate) async fn keep_locator(
        &self,
        locator: Locator,
        keep: Keep,
        token: Token,
    ) -> Result<(), KeepError> {
        let key = key(locator.stripe(), LOCATOR);
        let (shape, state) = (shape_of(locator.header()), keep.state());
        let stored = self.change(move |store| {
            let payload = locator.payload();
            let other = |stored: Stored| stored.payload != payload;
            // Between the two the stripe has one locator less, which its primary makes good.
            if matches!(state, StoreState::Committed) && store.get(key).ok().flatten().is_some_and(other) {
                store.remove(&[key])?;
            }
            let put = store.put(key, state, token, &locator.header().encode(), &payload);
            put.map_err(KeepError::from)
        });
        stored.await?;
        self.report(key, shape);
        Ok(())
    }

    /// The locator of a stripe, if it is held; one that is damaged is dropped and comes again from the
    /// stripe's primary.
    pub(crate) async fn locator(&self, stripe: Id) -> Option<Locator> {
        self.store.meta(key(stripe, LOCATOR))?;
        let read = self.blocking(move |store| match store.get(key(stripe, LOCATOR)) {
            Ok(stored) => Some(locator_of(&stored?, stripe)),
            Err(GetError::Corrupt) => Some(None),
            // What the disk does not give now it may give later.
            Err(GetError::Io(error)) => {
                tracing::error!(%stripe, %error, "could not read a locator");
                None
            }
        });
        let locator = read.await??;
        if locator.is_none() {
            self.bad.add(1);
            tracing::warn!("CORRUPTED_BLOCK {stripe}:{LOCATOR}");
            self.drop_damaged(stripe, LOCATOR, false).await;
        }
        locator
    }

    /// Whether the locator of a stripe is held.
    pub(crate) fn is_located(&self, stripe: Id) -> bool {
        self.store.meta(key(stripe, LOCATOR)).is_some()
    }

    /// Keeps a tombstone and drops the stripe's shards; durable when this returns.
    pub(crate) async fn keep_tombstone(&self, tombstone: Tombstone) -> Result<(), KeepError> {
        let (stripe, shape) = (tombstone.stripe(), shape_of(tombstone.header()));
        let deleted = self.change(move |store| {
            let (header, signature) = (tombstone.header().encode(), tombstone.signature());
            store.put_tombstone(*stripe.as_bytes(), &header, signature, unix_ms())
        });
        let removed = deleted.await?;
        self.report(key(stripe, TOMBSTONE), shape);
        self.report_removed(removed.into_iter().map(|index| key(stripe, index)));
        Ok(())
    }

    /// The tombstone of a stripe, if it is held; one that is damaged is dropped and comes again from others.
    pub(crate) async fn tombstone(&self, stripe: Id) -> Option<Tombstone> {
        self.store.meta(key(stripe, TOMBSTONE))?;
        let read = self.blocking(move |store| {
            let stored = match store.get(key(stripe, TOMBSTONE)) {
                Ok(stored) => stored?,
                Err(GetError::Corrupt) => return Some(None),
                // What the disk does not give now it may give later.
                Err(GetError::Io(error)) => {
                    tracing::error!(%stripe, %error, "could not read a tombstone");
                    return None;
                }
            };
            Some(tombstone_of(&stored, stripe))
        });
        let tombstone = read.await??;
        if tombstone.is_none() {
            self.bad.add(1);
            tracing::warn!("CORRUPTED_BLOCK {stripe}:{TOMBSTONE}");
            self.drop_damaged(stripe, TOMBSTONE, false).await;
        }
        tombstone
    }

    /// The header of a stripe of which something is held.
    pub(crate) async fn header(&self, stripe: Id) -> Option<Header> {
        let (index, _) = self.held(stripe).first().copied()?;
        let read = self.blocking(move |store| Header::decode(&store.header(key(stripe, index)).ok()??).ok());
        let header = read.await??;
        (header.id().as_bytes() == stripe.as_bytes()).then_some(header)
    }

    /// Whether the tombstone of a stripe is held.
    pub(crate) fn is_deleted(&self, stripe: Id) -> bool {
        self.store.meta(key(stripe, TOMBSTONE)).is_some()
    }

    /// Indices of `stripe` held here, that of the locator among them, with what the store knows of each.
    pub(crate) fn held(&self, stripe: Id) -> Vec<(u8, Meta)> {
        self.store.indices(stripe.as_bytes())
    }

    /// Finds a shard of `stripe`: `want` if held, else (unless `exact`) any other. A shard that does not
    /// verify is dropped and counts as lost from then on.
    pub(crate) async fn find(&self, stripe: Id, want: u8, exact: bool) -> Local {
        if let Some(tombstone) = self.tombstone(stripe).await {
            return Local::Deleted(Box::new(tombstone));
        }
        let mut held = self.held(stripe);
        // Nobody asks for a record as a shard in earnest, and as one it would look damaged.
        held.retain(|(index, _)| *index < RECORDS);
        let found = held
            .iter()
            .find(|(index, _)| *index == want)
            .or(if exact { None } else { held.first() });
        let Some((index, _)) = found.copied() else {
            return Local::None;
        };
        let read = self.blocking(move |store| {
            let stored = store.get(key(stripe, index))?;
            Ok::<_, GetError>(stored.map(|stored| verified(&stored, stripe, index).map(Box::new)))
        });
        self.checked.add(1);
        match read.await {
            Some(Ok(Some(Some(shard)))) => Local::Found(shard),
            Some(Ok(None)) | None => Local::None,
            Some(Ok(Some(None)) | Err(GetError::Corrupt)) => {
                self.bad.add(1);
                tracing::warn!("CORRUPTED_BLOCK {stripe}:{index}");
                self.drop_damaged(stripe, index, false).await;
                Local::Corrupt(index)
            }
            Some(Err(error @ GetError::Io(_))) => Local::Failed(error.to_string()),
        }
    }

    /// Drops shards durably and tells custody.
    pub(crate) async fn drop_shards(&self, shards: Vec<(Id, u8)>) {
        let keys: Vec<Key> = shards
            .iter()
            .map(|(stripe, index)| key(*stripe, *index))
            .collect();
        let removed = {
            let keys = keys.clone();
            self.change(move |store| store.remove(&keys)).await
        };
        self.report_dropped(keys, removed).await;
    }

    /// Drops a shard or tombstone that was seen damaged, unless a sound one has come in its place, and tells
    /// custody. One that cannot be read goes only if that says `unreadable`.
    pub(super) async fn drop_damaged(&self, stripe: Id, index: u8, unreadable: bool) {
        let key = key(stripe, index);
        let sound = move |stored: &Stored| match index {
            TOMBSTONE => tombstone_of(stored, stripe).is_some(),
            LOCATOR => locator_of(stored, stripe).is_some(),
            _ => verified(stored, stripe, index).is_some(),
        };
        let removed = self.change(move |store| store.remove_damaged(key, sound, unreadable));
        let removed = removed.await;
        self.report_dropped(vec![key], removed).await;
    }

    /// Custody forgot `keys`, or is to: tells it what became of them.
    async fn report_dropped(&self, keys: Vec<Key>, removed: Result<u64, KeepError>) {
        if let Err(error) = removed {
            tracing::warn!(%error, "could not drop shards; they stay until the next try");
        }
        for key in &keys {
            let key = *key;
            let left = self.blocking(move |store| shape_held(store, key));
            if let Some(shape) = left.await.flatten() {
                self.report(key, shape);
            }
        }
        self.report_removed(keys);
    }
}

/// The shape of what is held under a key.
fn shape_held(store: &Store, key: Key) -> Option<Shape> {
    let header = store.header(key).ok().flatten()?;
    Some(shape_of(&Header::decode(&header).ok()?))
}

/// A stored shard, if it is what its stripe says.
fn verified(stored: &Stored, stripe: Id, index: u8) -> Option<VerifiedShard> {
    let header = Header::decode(&stored.header).ok()?;
    let shard = Shard {
        header,
        index,
        payload: stored.payload.clone(),
    };
    shard.verify_for(&StripeId::from(*stripe.as_bytes())).ok()
}

/// A stored tombstone, if its owner signed it.
fn tombstone_of(stored: &Stored, stripe: Id) -> Option<Tombstone> {
    let header = Header::decode(&stored.header).ok()?;
    let tombstone = Tombstone::verify(header, &stored.payload)?;
    Some(tombstone).filter(|tombstone| tombstone.stripe() == stripe)
}

/// A stored locator, if it is one of its stripe.
fn locator_of(stored: &Stored, stripe: Id) -> Option<Locator> {
    let locator = Locator::parse(Header::decode(&stored.header).ok()?, &stored.payload)?;
    Some(locator).filter(|locator| locator.stripe() == stripe)
}

/// What custody needs to know of a stripe.
pub(crate) fn shape_of(header: &Header) -> Shape {
    let code = header.code();
    Shape {
        k: code.k(),
        n: code.n(),
        shard_len: u32::try_from(header.shard_len()).unwrap_or(u32::MAX),
        placement: Placement::of(header).rule(Id::new(*header.id().as_bytes()), code),
    }
}

/// Bytes of a shard as it travels.
pub(crate) fn header_bytes(shard: &VerifiedShard) -> Bytes {
    shard.header().encode()
}

#[cfg(test)]
mod tests;
