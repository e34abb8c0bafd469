//! Decoded blocks, bounded in bytes: manifests and the neighbourhood of range reads. Holds ciphertext, for
//! seconds: a file deleted elsewhere must not live on here, and a peer at rest gives the memory back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use mutualstore_dht::Id;
use tokio::sync::Notify;

use crate::transfer::Transfers;

/// The ciphertext of a block, as consecutive chunks.
pub(crate) type Block = Vec<Bytes>;

/// Blocks older than this are fetched again.
const FRESH: Duration = Duration::from_secs(5);

/// Least recently used blocks leave when the limit is reached.
pub(crate) struct BlockCache {
    inner: Mutex<Inner>,
    limit: usize,
    filled: Notify,
}

struct Inner {
    blocks: LruCache<Id, (Block, Instant)>,
    bytes: usize,
}

fn size(block: &Block) -> usize {
    block.iter().map(Bytes::len).sum()
}

impl BlockCache {
    /// A cache of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                blocks: LruCache::unbounded(),
                bytes: 0,
            }),
            limit,
            filled: Notify::new(),
        }
    }

    /// The block of `stripe`, if it is held.
    pub(crate) fn get(&self, stripe: Id) -> Option<Block> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (block, since) = inner.blocks.get(&stripe)?;
        (since.elapsed() < FRESH).then(|| block.clone())
    }

    /// Forgets a block.
    pub(crate) fn remove(&self, stripe: Id) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((old, _)) = inner.blocks.pop(&stripe) {
            inner.bytes -= size(&old);
        }
    }

    /// Keeps `block`, unless it alone is over a quarter of the limit.
    pub(crate) fn insert(&self, stripe: Id, block: &Block) {
        let bytes = size(block);
        if bytes > self.limit / 4 {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((old, _)) = inner.blocks.put(stripe, (block.clone(), Instant::now())) {
            inner.bytes -= size(&old);
        }
        inner.bytes += bytes;
        self.filled.notify_one();
        while inner.bytes > self.limit
            && let Some((_, (old, _))) = inner.blocks.pop_lru()
        {
            inner.bytes -= size(&old);
        }
    }
}

impl BlockCache {
    /// Forgets what is too old to be given out. Answers whether anything is left.
    fn expire(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |(_, (_, since)): &(&Id, &(Block, Instant))| now.saturating_duration_since(*since) >= FRESH;
        let expired: Vec<Id> = inner
            .blocks
            .iter()
            .filter(old)
            .map(|(stripe, _)| *stripe)
            .collect();
        for stripe in expired {
            if let Some((block, _)) = inner.blocks.pop(&stripe) {
                inner.bytes -= size(&block);
            }
        }
        !inner.blocks.is_empty()
    }
}

/// Forgets old blocks for as long as the peer runs.
pub(crate) async fn keep(transfers: Arc<Transfers>) {
    loop {
        transfers.reads.cache.filled.notified().await;
        loop {
            tokio::time::sleep(FRESH).await;
            if !transfers.reads.cache.expire(Instant::now()) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_that_is_too_old_is_forgotten() {
        let cache = BlockCache::new(400);
        cache.insert(Id::new([1; 32]), &vec![Bytes::from(vec![0; 100])]);
        assert!(cache.expire(Instant::now()));
        assert!(!cache.expire(Instant::now() + FRESH));
        assert_eq!(cache.inner.lock().unwrap().bytes, 0);
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let cache = BlockCache::new(400);
        let block = vec![Bytes::from(vec![0; 100])];
        for n in 0..4 {
            cache.insert(Id::new([n; 32]), &block);
        }
        assert!(cache.get(Id::new([0; 32])).is_some());
        cache.insert(Id::new([4; 32]), &block);
        assert!(cache.get(Id::new([0; 32])).is_some());
        assert!(cache.get(Id::new([1; 32])).is_none());
        cache.remove(Id::new([4; 32]));
        assert!(cache.get(Id::new([4; 32])).is_none());
        cache.insert(Id::new([5; 32]), &vec![Bytes::from(vec![0; 101])]);
        assert!(
            cache.get(Id::new([5; 32])).is_none(),
            "too large to be worth the room"
        );
    }
}
