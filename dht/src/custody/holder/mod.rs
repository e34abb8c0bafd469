//! The holder: it keeps the inventory in step with the local store, and reports each shard to the shard's
//! primary.
//!
//! It drops pending shards whose lease ended (`lease`), and excess ones by the safe rule (`search`, `trim`).

mod inventory;
mod lease;
mod records;
mod search;
mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use self::inventory::Inventory;
pub(super) use self::inventory::{Held, HeldTenure};
use self::lease::Inquiries;
use self::records::Changes;
pub(super) use self::records::QUIET;
use self::search::Searches;
use self::trim::Trims;
use super::key::ItemKey;
use super::peers::{Handle, ME};
use super::{Custody, Effect, Holding, Item, Reported, SLICE, Shape, Tenure};
use crate::{Flaw, Id, RingView, Time};

/// What this peer holds, and what it is about to drop.
#[derive(Debug)]
pub(super) struct Holder {
    inventory: Inventory,
    trims: Trims,
    searches: Searches,
    /// Shards the driver was asked to drop and may still find in the store.
    dropping: BTreeSet<ItemKey>,
    inquiries: Inquiries,
    changes: Changes,
}

impl Holder {
    pub(super) fn new(pin: Duration, instance: u64) -> Self {
        Self {
            inventory: Inventory::default(),
            trims: Trims::new(pin, instance),
            searches: Searches::default(),
            dropping: BTreeSet::new(),
            inquiries: Inquiries::new(),
            changes: Changes::default(),
        }
    }

    pub(super) fn shards(&self) -> &BTreeMap<ItemKey, Held> {
        &self.inventory.shards
    }

    /// Whether the tombstone of the stripe is held.
    pub(super) fn is_deleted(&self, stripe: Id) -> bool {
        self.inventory.is_deleted(stripe)
    }

    /// Whether a pending shard of the stripe is held.
    pub(super) fn has_pending(&self, stripe: Id) -> bool {
        self.inventory.has_pending(stripe)
    }

    /// The shape of a stripe of which anything is held.
    pub(super) fn shape_of(&self, stripe: Id) -> Option<Shape> {
        self.inventory.of(stripe).next().map(|(_, held)| held.shape)
    }

    /// The shape of a stripe that is not deleted and of which a committed shard, or the locator, is held.
    pub(super) fn shape_of_committed(&self, stripe: Id) -> Option<Shape> {
        let mut shards = self.inventory.of(stripe);
        let is_part = |item| matches!(item, Item::Shard(_) | Item::Locator);
        let shard = shards.find(|(key, held)| is_part(key.item) && held.is_committed());
        let shape = shard.map(|(_, held)| held.shape);
        shape.filter(|_| !self.is_deleted(stripe))
    }

    /// The trim of `peer` for which a shard was pinned is done.
    pub(super) fn release(&mut self, key: ItemKey, peer: Handle, trim: u64) {
        self.trims.release(key, peer, trim);
    }

    /// Whether a trim waits for `peer` to confirm `key`.
    pub(super) fn waits(&self, key: ItemKey, peer: Handle) -> bool {
        self.trims.waits(key, peer)
    }

    /// Trims rest on who is a legal holder, stays and precedes: all of that may have changed.
    pub(super) fn membership_changed(&mut self) {
        self.trims.give_up();
    }

    /// The primary of every shard is looked at again.
    pub(super) fn start_sweep(&mut self) {
        self.inventory.sweep.start();
    }

    /// Whether shards wait for their primary to be found for the first time.
    pub(super) fn has_fresh(&self) -> bool {
        !self.inventory.fresh.is_empty()
    }

    /// Whether shards wait for their primary to be looked at.
    pub(super) fn is_busy(&self) -> bool {
        self.inventory.sweep.is_running() || self.has_fresh()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let timers = [
            self.inventory.leases.next(),
            self.trims.poll_timeout(),
            self.searches.poll_timeout(),
            self.changes.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
    }
}

impl Custody {
    /// The local store holds an item, durable and verified.
    ///
    /// For an item held already it may extend the lease or commit it; a committed one never becomes pending.
    /// A shard that the stripe does not have is ignored. A tombstone beats shards, whichever came first:
    /// those are to be dropped.
    pub fn insert(&mut self, now: Time, holding: Holding) {
        self.schedule.now = now;
        let key = ItemKey::new(holding.stripe, holding.item);
        let deleted = matches!(holding.tenure, Tenure::Deleted { .. });
        let fits = deleted == (holding.item == Item::Tombstone);
        let tenure = holding
            .tenure
            .map(|until| until, |writer| self.peers.intern(now, writer, false));
        if !holding.shape.is_valid() || !holding.shape.has(holding.item) || !fits {
            return;
        }
        self.rosters.need(holding.shape.placement.needs_roster());
        if self.holder.inventory.shards.contains_key(&key) {
            self.set_tenure(now, key, tenure);
            return;
        }
        let held = Held::new(holding.shape, tenure, None);
        self.holder.inventory.shards.insert(key, held);
        self.holder.inventory.fresh.insert(key);
        self.arm_lease(key);
        if self.holder.inventory.is_deleted(holding.stripe) {
            let shards = self.keys_of(holding.stripe).into_iter();
            for key in shards.filter(|key| key.item != Item::Tombstone) {
                self.drop_shard(now, key, false);
            }
        }
    }

    /// The local store committed all its shards of a stripe.
    pub fn committed(&mut self, now: Time, stripe: Id) {
        self.schedule.now = now;
        for key in self.keys_of(stripe) {
            self.set_tenure(now, key, Tenure::Committed);
        }
        self.holder.inquiries.remove(&stripe);
    }

    /// The writer renewed the lease of the pending shards of a stripe.
    pub fn renew(&mut self, now: Time, stripe: Id, until: Time) {
        self.schedule.now = now;
        for key in self.keys_of(stripe) {
            let tenure = self.holder.inventory.shards.get(&key).map(|held| held.tenure);
            if let Some(Tenure::Pending { writer, .. }) = tenure {
                self.set_tenure(now, key, Tenure::Pending { until, writer });
            }
        }
    }

    /// The local store lost or removed a shard.
    pub fn removed(&mut self, now: Time, stripe: Id, item: Item) {
        self.schedule.now = now;
        let key = ItemKey::new(stripe, item);
        self.holder.dropping.remove(&key);
        self.erase(now, key);
    }

    /// The local store still holds, or holds again, an item that was to be dropped.
    pub fn spared(&mut self, stripe: Id, item: Item) {
        self.holder.dropping.remove(&ItemKey::new(stripe, item));
    }

    /// The writer of a shard takes it back. Returns whether the driver may discard it: not if it is committed
    /// and was confirmed to others, who may have dropped theirs. Until [`Self::removed`] or [`Self::spared`]
    /// it is confirmed to nobody.
    pub fn begin_discard(&mut self, stripe: Id, item: Item) -> bool {
        let key = ItemKey::new(stripe, item);
        let held = self.holder.inventory.shards.get(&key);
        let promised = held.is_some_and(|held| held.is_committed() && held.vouched);
        if !promised {
            self.holder.dropping.insert(key);
        }
        !promised
    }

    /// From here on nothing held can be taken back by its writer, as if all of it had been confirmed to
    /// others.
    pub fn vouch_for_all(&mut self) {
        for held in self.holder.inventory.shards.values_mut() {
            held.vouched = true;
        }
    }

    /// The next shards and tombstones that are believed to be held, at most `limit`, behind `after` in an
    /// order of its own.
    pub fn held_after(&self, after: Option<(Id, Item)>, limit: usize) -> Vec<(Id, Item)> {
        let after = after.map_or(Bound::Unbounded, |(stripe, item)| {
            Bound::Excluded(ItemKey::new(stripe, item))
        });
        let held = self
            .holder
            .inventory
            .shards
            .range((after, Bound::Unbounded))
            .take(limit);
        held.map(|(key, _)| (key.slot.stripe, key.item)).collect()
    }

    /// Whether a shard or tombstone is believed to be held.
    pub fn believes(&self, stripe: Id, item: Item) -> bool {
        self.holder
            .inventory
            .shards
            .contains_key(&ItemKey::new(stripe, item))
    }

    fn erase(&mut self, now: Time, key: ItemKey) {
        self.retract(now, key);
        self.holder.inventory.arm(key, None);
        self.holder.inventory.shards.remove(&key);
        self.holder.inventory.fresh.remove(&key);
        self.holder.trims.forget(key);
        self.holder.searches.forget(key);
    }

    /// Forgets an item and has it removed. `expired` when its lease ended, as opposed to one in excess.
    fn drop_shard(&mut self, now: Time, key: ItemKey, expired: bool) {
        self.erase(now, key);
        self.holder.dropping.insert(key);
        self.effects.push_back(Effect::Drop {
            stripe: key.slot.stripe,
            item: key.item,
            expired,
        });
    }

    pub(super) fn keys_of(&self, stripe: Id) -> Vec<ItemKey> {
        self.holder.inventory.of(stripe).map(|(key, _)| key).collect()
    }

    fn arm_lease(&mut self, key: ItemKey) {
        let at = match self.holder.inventory.shards.get(&key).map(|held| held.tenure) {
            Some(Tenure::Pending { until, .. } | Tenure::Deleted { until }) => Some(until),
            Some(Tenure::Committed) | None => None,
        };
        self.holder.inventory.arm(key, at);
    }

    fn set_tenure(&mut self, now: Time, key: ItemKey, tenure: HeldTenure) {
        let Some(held) = self.holder.inventory.shards.get_mut(&key) else {
            return;
        };
        if held.is_committed() {
            return;
        }
        held.tenure = tenure;
        self.arm_lease(key);
        if tenure == Tenure::Committed {
            let primary = self
                .holder
                .inventory
                .shards
                .get(&key)
                .and_then(|held| held.primary);
            if let Some(primary) = primary.filter(|primary| *primary != ME) {
                let outgoing = &mut self.peers.get_mut(primary).outgoing;
                outgoing.remove(now, key, false, &self.config);
            }
            self.announce(now, key);
        }
    }

    /// Takes a shard into what is reported to its primary.
    fn announce(&mut self, now: Time, key: ItemKey) {
        let Some(held) = self.holder.inventory.shards.get(&key) else {
            return;
        };
        let committed = held.is_committed();
        match held.primary {
            Some(ME) => {
                let shape = held.shape;
                self.report_own(now, key, shape, committed);
            }
            Some(primary) => {
                let outgoing = &mut self.peers.get_mut(primary).outgoing;
                outgoing.add(now, key, committed, &self.config);
                self.peers.arm(primary);
            }
            None => {}
        }
    }

    /// Takes a shard out of what is reported to its primary.
    fn retract(&mut self, now: Time, key: ItemKey) {
        let Some(held) = self.holder.inventory.shards.get(&key) else {
            return;
        };
        match held.primary {
            Some(ME) => {
                self.withdraw_own(now, key);
            }
            Some(primary) => {
                let outgoing = &mut self.peers.get_mut(primary).outgoing;
                outgoing.remove(now, key, held.is_committed(), &self.config);
                self.peers.arm(primary);
            }
            None => {}
        }
    }

    fn set_primary(&mut self, now: Time, key: ItemKey, primary: Option<Handle>, hinted: bool) {
        let Some(held) = self.holder.inventory.shards.get_mut(&key) else {
            return;
        };
        held.hinted = hinted;
        let stays =
            key.item == Item::Tombstone && held.primary.is_some() && self.config.has(Flaw::TombstoneStays);
        if held.primary == primary || stays {
            return;
        }
        self.retract(now, key);
        if let Some(held) = self.holder.inventory.shards.get_mut(&key) {
            held.primary = primary;
        }
        self.announce(now, key);
    }

    /// A primary answered a report.
    pub(super) fn handle_reported(
        &mut self,
        now: Time,
        ring: &impl RingView,
        primary: Handle,
        reported: &Reported,
    ) {
        let jitter = self.jitter();
        let outgoing = &mut self.peers.get_mut(primary).outgoing;
        match &reported.differs {
            None => outgoing.agreed(now, &self.config, jitter),
            Some(theirs) => outgoing.differs(now, theirs, &self.config),
        }
        for (stripe, peer) in &reported.elsewhere {
            if !ring.is_alive(*peer) && *peer != ring.me() {
                self.discover(now, *stripe);
                continue;
            }
            let hint = self.peers.intern(now, *peer, true);
            for key in self.keys_of(*stripe) {
                let held = self.holder.inventory.shards.get(&key);
                // A second hint would be a contradiction: this peer's own view has to settle it.
                if held.is_some_and(|held| held.primary == Some(primary) && !held.hinted) {
                    self.set_primary(now, key, Some(hint), true);
                }
            }
        }
    }

    /// Finds the primaries of shards, and ends trims, searches and leases that are due.
    pub(super) fn handle_holder_timeout(&mut self, now: Time, ring: &impl RingView) {
        self.handle_changes(now);
        for key in self.holder.inventory.unsettled(SLICE) {
            let primary = self.primary_of(ring, key.slot.stripe);
            let primary = primary.map(|primary| self.peers.intern(now, primary, true));
            self.set_primary(now, key, primary, false);
        }
        self.holder.trims.handle_timeout(now);
        self.handle_searches(now, ring);
        while let Some(key) = self.holder.inventory.leases.pop_due(now) {
            self.handle_lease(now, ring, key);
        }
    }

    /// The most shards that a stripe has of which one is held here; 0 if there is none.
    pub fn widest(&self) -> u8 {
        let shards = self.holder.inventory.shards.iter();
        let shards = shards.filter(|(key, held)| key.item.is_shard() && held.is_committed());
        shards.map(|(_, held)| held.shape.n).max().unwrap_or(0)
    }
}
