//! The holder's inventory: every shard of the local store, whom it is reported to, and its lease.

use std::collections::{BTreeMap, BTreeSet};

use crate::custody::key::{Item, ItemKey, Slot};
use crate::custody::message::Entry;
use crate::custody::peers::Handle;
use crate::custody::sweep::Sweep;
use crate::custody::timers::Timers;
use crate::custody::types::{Shape, Tenure};
use crate::{Id, Time};

/// How firmly a shard is held, its writer by handle.
pub(in crate::custody) type HeldTenure = Tenure<Time, Handle>;

/// One shard held.
#[derive(Clone, Copy, Debug)]
pub(in crate::custody) struct Held {
    pub(super) shape: Shape,
    pub(super) tenure: HeldTenure,
    /// Whom it is reported to; none until the ring was asked.
    pub(super) primary: Option<Handle>,
    /// The primary was taken from another peer's hint, once per change of the membership.
    pub(super) hinted: bool,
    /// Others may have dropped theirs in favour of it: its writer cannot take it back any more.
    pub(super) vouched: bool,
    /// The lease timer.
    pub(super) wake: Option<Time>,
}

impl Held {
    pub(in crate::custody) fn new(shape: Shape, tenure: HeldTenure, primary: Option<Handle>) -> Self {
        Self {
            shape,
            tenure,
            primary,
            hinted: false,
            vouched: false,
            wake: None,
        }
    }

    /// Whether it is reported to this peer.
    pub(in crate::custody) fn is_reported_to(&self, peer: Handle) -> bool {
        self.primary == Some(peer)
    }

    /// What a report says of it.
    pub(in crate::custody) fn entry(&self, key: ItemKey) -> Entry {
        Entry {
            stripe: key.slot.stripe,
            item: key.item,
            shape: self.shape,
            committed: self.is_committed(),
        }
    }

    /// Whether it is there to stay; tombstones are.
    pub(super) fn is_committed(&self) -> bool {
        self.tenure.is_committed()
    }
}

/// All shards held.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) shards: BTreeMap<ItemKey, Held>,
    /// Shards whose primary is not known yet.
    pub(super) fresh: BTreeSet<ItemKey>,
    pub(super) leases: Timers<ItemKey>,
    pub(super) sweep: Sweep<ItemKey>,
}

impl Inventory {
    /// The shards of one stripe.
    pub(super) fn of(&self, stripe: Id) -> impl Iterator<Item = (ItemKey, &Held)> {
        let slot = Slot::of(stripe);
        let first = ItemKey {
            slot,
            item: Item::FIRST,
        };
        let last = ItemKey {
            slot,
            item: Item::LAST,
        };
        self.shards.range(first..=last).map(|(key, held)| (*key, held))
    }

    /// Whether this shard is held and committed.
    pub(super) fn has_committed(&self, key: ItemKey) -> bool {
        self.shards.get(&key).is_some_and(Held::is_committed)
    }

    /// Whether the tombstone of the stripe is held.
    pub(super) fn is_deleted(&self, stripe: Id) -> bool {
        self.shards.contains_key(&ItemKey::new(stripe, Item::Tombstone))
    }

    /// Whether a pending shard of the stripe is held.
    pub(super) fn has_pending(&self, stripe: Id) -> bool {
        self.of(stripe).any(|(_, held)| !held.is_committed())
    }

    /// Arms the lease timer of a shard.
    pub(super) fn arm(&mut self, key: ItemKey, at: Option<Time>) {
        if let Some(held) = self.shards.get_mut(&key) {
            self.leases.rearm(key, &mut held.wake, at);
        }
    }

    /// The next shards whose primary must be (re)considered, at most `limit`.
    pub(super) fn unsettled(&mut self, limit: usize) -> Vec<ItemKey> {
        let mut keys = self.sweep.slice(&self.shards, limit);
        while keys.len() < limit
            && let Some(key) = self.fresh.pop_first()
        {
            keys.push(key);
        }
        keys
    }
}
