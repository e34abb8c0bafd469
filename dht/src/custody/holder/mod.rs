//! The holder: keeps the inventory in step with the local store, and each shard in what is reported to its
//! primary.

pub(super) mod inventory;
pub(super) mod lease;
pub(super) mod search;
pub(super) mod trim;

use std::ops::Bound;

use crate::custody::holder::inventory::{Held, Tenure};
use crate::custody::key::ShardKey;
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::reports::Claim;
use crate::custody::{Custody, Effect, Holding, State, TOMBSTONE};
use crate::{Flaw, Id, Time};

impl Custody {
    /// The local store holds a shard, durable and verified. Again for a held one: a later lease end, or
    /// committed; a committed one never becomes pending. An index that the stripe does not have is ignored. A
    /// tombstone beats shards, whichever came first: those are to be dropped.
    pub fn insert(&mut self, now: Time, holding: Holding) {
        self.now = now;
        let key = ShardKey::new(holding.stripe, holding.index);
        let (tenure, fits) = match holding.state {
            State::Committed => (Tenure::Committed, holding.index != TOMBSTONE),
            State::Pending { until, writer } => {
                let writer = self.peers.intern(now, writer, false);
                (Tenure::Pending { until, writer }, holding.index != TOMBSTONE)
            }
            State::Deleted { until } => (Tenure::Deleted { until }, holding.index == TOMBSTONE),
        };
        if !holding.shape.is_valid() || !holding.shape.has(holding.index) || !fits {
            return;
        }
        self.needs_roster |= holding.shape.placement.needs_roster();
        if self.inventory.shards.contains_key(&key) {
            self.set_tenure(now, key, tenure);
            return;
        }
        let held = Held {
            shape: holding.shape,
            tenure,
            primary: None,
            hinted: false,
            vouched: false,
            wake: None,
        };
        self.inventory.shards.insert(key, held);
        self.inventory.fresh.insert(key);
        self.arm_lease(key);
        if self.inventory.is_deleted(holding.stripe) {
            let shards = self.keys_of(holding.stripe).into_iter();
            for key in shards.filter(|key| key.index != TOMBSTONE) {
                self.drop_shard(now, key, false);
            }
        }
    }

    /// The local store committed all its shards of a stripe.
    pub fn committed(&mut self, now: Time, stripe: Id) {
        self.now = now;
        for key in self.keys_of(stripe) {
            self.set_tenure(now, key, Tenure::Committed);
        }
        self.inquiries.remove(&stripe);
    }

    /// The writer renewed the lease of the pending shards of a stripe.
    pub fn renew(&mut self, now: Time, stripe: Id, until: Time) {
        self.now = now;
        for key in self.keys_of(stripe) {
            let tenure = self.inventory.shards.get(&key).map(|held| held.tenure);
            if let Some(Tenure::Pending { writer, .. }) = tenure {
                self.set_tenure(now, key, Tenure::Pending { until, writer });
            }
        }
    }

    /// The local store lost or removed a shard.
    pub fn removed(&mut self, now: Time, stripe: Id, index: u8) {
        self.now = now;
        let key = ShardKey::new(stripe, index);
        self.dropping.remove(&key);
        self.erase(now, key);
    }

    /// The local store holds a shard that was to be dropped, still or again.
    pub fn spared(&mut self, stripe: Id, index: u8) {
        self.dropping.remove(&ShardKey::new(stripe, index));
    }

    /// Whoever stored a shard wants it back, which the driver may do now: until [`Self::removed`] or
    /// [`Self::spared`] it is confirmed to nobody. Not allowed for what others may rely on: a committed shard
    /// that was confirmed before.
    pub fn begin_discard(&mut self, stripe: Id, index: u8) -> bool {
        let key = ShardKey::new(stripe, index);
        let held = self.inventory.shards.get(&key);
        let promised = held.is_some_and(|held| held.is_committed() && held.vouched);
        if !promised {
            self.dropping.insert(key);
        }
        !promised
    }

    /// All that is held counts as confirmed to others.
    pub fn vouch_for_all(&mut self) {
        for held in self.inventory.shards.values_mut() {
            held.vouched = true;
        }
    }

    /// The next shards and tombstones that are believed to be held, at most `limit`, behind `after` in an
    /// order of its own.
    pub fn held_after(&self, after: Option<(Id, u8)>, limit: usize) -> Vec<(Id, u8)> {
        let after = after.map_or(Bound::Unbounded, |(stripe, index)| {
            Bound::Excluded(ShardKey::new(stripe, index))
        });
        let held = self.inventory.shards.range((after, Bound::Unbounded)).take(limit);
        held.map(|(key, _)| (key.slot.stripe, key.index)).collect()
    }

    /// Whether a shard or tombstone is believed to be held.
    pub fn believes(&self, stripe: Id, index: u8) -> bool {
        self.inventory.shards.contains_key(&ShardKey::new(stripe, index))
    }

    fn erase(&mut self, now: Time, key: ShardKey) {
        self.retract(now, key);
        self.inventory.arm(key, None);
        self.inventory.shards.remove(&key);
        self.inventory.fresh.remove(&key);
        self.trims.forget(key);
        self.searches.forget(key);
    }

    /// Forgets a shard and has it removed; `expired` when its lease ended, as opposed to a excess one.
    pub(in crate::custody) fn drop_shard(&mut self, now: Time, key: ShardKey, expired: bool) {
        self.erase(now, key);
        self.dropping.insert(key);
        self.effects.push_back(Effect::Drop {
            stripe: key.slot.stripe,
            index: key.index,
            expired,
        });
    }

    pub(in crate::custody) fn keys_of(&self, stripe: Id) -> Vec<ShardKey> {
        self.inventory.of(stripe).map(|(key, _)| key).collect()
    }

    fn arm_lease(&mut self, key: ShardKey) {
        let at = match self.inventory.shards.get(&key).map(|held| held.tenure) {
            Some(Tenure::Pending { until, .. } | Tenure::Deleted { until }) => Some(until),
            Some(Tenure::Committed) | None => None,
        };
        self.inventory.arm(key, at);
    }

    fn set_tenure(&mut self, now: Time, key: ShardKey, tenure: Tenure) {
        let Some(held) = self.inventory.shards.get_mut(&key) else {
            return;
        };
        if held.is_committed() {
            return;
        }
        held.tenure = tenure;
        self.arm_lease(key);
        if tenure == Tenure::Committed {
            let primary = self.inventory.shards.get(&key).and_then(|held| held.primary);
            if let Some(primary) = primary.filter(|primary| *primary != ME) {
                let outgoing = &mut self.peers.get_mut(primary).outgoing;
                outgoing.remove(now, key, false, &self.config);
            }
            self.announce(now, key);
        }
    }

    /// Takes a shard into what is reported to its primary.
    fn announce(&mut self, now: Time, key: ShardKey) {
        let Some(held) = self.inventory.shards.get(&key) else {
            return;
        };
        let committed = held.is_committed();
        match held.primary {
            Some(ME) => {
                let claim = Claim {
                    peer: ME,
                    index: key.index,
                    committed,
                };
                let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
                let retry_at = now + self.config.settle();
                self.reports.claim(key, held.shape, claim, record, retry_at);
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
    fn retract(&mut self, now: Time, key: ShardKey) {
        let Some(held) = self.inventory.shards.get(&key) else {
            return;
        };
        match held.primary {
            Some(ME) => {
                let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
                self.reports.withdraw(now, key, ME, record);
            }
            Some(primary) => {
                let outgoing = &mut self.peers.get_mut(primary).outgoing;
                outgoing.remove(now, key, held.is_committed(), &self.config);
                self.peers.arm(primary);
            }
            None => {}
        }
    }

    pub(in crate::custody) fn set_primary(
        &mut self,
        now: Time,
        key: ShardKey,
        primary: Option<Handle>,
        hinted: bool,
    ) {
        let Some(held) = self.inventory.shards.get_mut(&key) else {
            return;
        };
        held.hinted = hinted;
        let stays = key.index == TOMBSTONE && held.primary.is_some() && self.config.has(Flaw::TombstoneStays);
        if held.primary == primary || stays {
            return;
        }
        self.retract(now, key);
        if let Some(held) = self.inventory.shards.get_mut(&key) {
            held.primary = primary;
        }
        self.announce(now, key);
    }
}
