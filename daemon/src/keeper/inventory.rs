//! What custody is told of the store: shards that came, shards that went, and what one believes and the other
//! does not have.

use std::time::Duration;

use mutualstore_dht::custody::{Holding, Item, Shape, Tenure};
use mutualstore_dht::{Id, Peer, Time};
use mutualstore_erasure::VerifiedShard;
use mutualstore_store::{Key, Meta, State as StoreState};

use super::{ShardKeeper, key, shape_of};
use crate::clock::unix_ms;
use crate::peer::core::State;

impl ShardKeeper {
    /// Tells custody of a shard or tombstone that was stored; nothing if it has been removed since. Custody
    /// learns what the store holds at that moment, whatever other changes of the same shard are about to be
    /// told: the last one told is true.
    pub(super) fn report(&self, key: Key, shape: Shape) {
        self.core.with(|state, now| {
            if let Some(meta) = self.store.meta(key) {
                self.insert(state, now, key, &meta, shape);
            }
        });
    }

    /// Tells custody of shards that were removed; those that the store holds again it goes on believing in.
    pub(super) fn report_removed(&self, keys: impl IntoIterator<Item = Key>) {
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return;
        }
        self.core.with(|state, now| {
            for key in keys {
                let stripe = Id::new(key.stripe);
                if self.has_not(key) {
                    state.engine.custody.removed(now, stripe, key.index.into());
                } else {
                    state.engine.custody.spared(stripe, key.index.into());
                }
            }
        });
    }

    /// Tells custody of the records under all ids, once, at start.
    pub(super) fn announce_records(&self, digests: &[(Id, u64)]) {
        self.core.with(|state, now| {
            for (id, digest) in digests {
                let holding = Holding {
                    stripe: *id,
                    item: Item::of_records(*digest),
                    shape: Shape::RECORDS,
                    tenure: Tenure::Committed,
                };
                state.engine.custody.insert(now, holding);
            }
        });
    }

    /// Tells custody that the records under an id have changed: their digest now; none: there are none.
    pub(super) fn report_records(&self, id: Id, digest: Option<u64>) {
        self.core
            .with(|state, now| state.engine.custody.records_changed(now, id, digest));
    }

    /// Whether the store does not hold a shard; an index that cannot be read says nothing.
    fn has_not(&self, key: Key) -> bool {
        let held = self.store.holds(key);
        held.inspect_err(|error| tracing::error!(%error, "index"))
            .is_ok_and(|held| !held)
    }

    /// Has custody forget what it believes to be held and the store does not have, among the next `limit`
    /// behind `after` in custody's order. Returns the last one looked at.
    pub(crate) fn reconcile(&self, after: Option<(Id, Item)>, limit: usize) -> Option<(Id, Item)> {
        let believed = self
            .core
            .read(|state| state.engine.custody.held_after(after, limit));
        // Records lie under their own hashes: custody hears of them by their digest alone.
        let parts = believed.iter().filter(|(_, item)| item.records().is_none());
        let keys = parts.map(|(stripe, item)| key(*stripe, (*item).into()));
        let gone: Vec<Key> = keys.filter(|key| self.has_not(*key)).collect();
        for key in &gone {
            tracing::info!(
                "{}:{} is not held any more, although it was believed to be",
                Id::new(key.stripe),
                key.index
            );
        }
        self.report_removed(gone);
        believed.last().copied()
    }

    /// Tells custody of a shard that was found, if it has never heard of it.
    pub(crate) fn acknowledge(&self, shard: &VerifiedShard) {
        let stripe = Id::new(*shard.stripe().as_bytes());
        if !self
            .core
            .read(|state| state.engine.custody.believes(stripe, Item::Shard(shard.index())))
        {
            self.report(key(stripe, shard.index()), shape_of(shard.header()));
        }
    }

    fn insert(&self, state: &mut State, now: Time, key: Key, meta: &Meta, shape: Shape) {
        let tenure = match meta.state {
            StoreState::Committed => Tenure::Committed,
            StoreState::Pending {
                until_unix_ms,
                writer,
            } => Tenure::Pending {
                until: now + Duration::from_millis(until_unix_ms.saturating_sub(unix_ms())),
                writer: Peer::new(writer),
            },
            StoreState::Deleted { since_unix_ms } => {
                let age = Duration::from_millis(unix_ms().saturating_sub(since_unix_ms));
                Tenure::Deleted {
                    until: now + self.retention.saturating_sub(age),
                }
            }
        };
        let holding = Holding {
            stripe: Id::new(key.stripe),
            item: key.index.into(),
            shape,
            tenure,
        };
        state.engine.custody.insert(now, holding);
    }
}
