//! The safe rule for dropping a surplus shard, on the holder's side.
//!
//! A holder x drops (S, i) only after, within half the pin time,
//! 1. the holder y that the order says to keep answered that it holds (S, i) durable, verified and committed,
//!    is not itself dropping it, and will not begin to for the pin time, and
//! 2. one holder of each other index of S answered that it holds its shard and is not dropping it.
//!
//! Hence a trim never takes the last copy of an index. When y answered it held (S, i), was not trimming it, and
//! pinned it until after x drops: x counts half the pin time from before it asked, y the whole from the
//! answer, so message delays only widen the margin. While x waits it answers no to others, so of two that
//! trim in each other's favour both give up, and around a cycle of them nobody gets past the first that has begun.
//! A restart of y loses the pin, yet y can then drop only in favour of a third holder z that held and
//! answered yes later than y did; x and all that dropped before answer no, so the chain of favours ends at
//! a holder that still has the shard. Clocks must run at rates within a factor of two of each other.
//!
//! Nothing here survives a restart and nothing needs to: a trim forgotten is a surplus found again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Custody;
use super::fingerprint::{ShardKey, Slot};
use super::inventory::Tenure;
use super::message::TrimOrder;
use super::peers::Handle;
use crate::{Flaw, Membership, Time};

/// Trims begun at one time; orders beyond are ignored and come again.
const MAX_ACTIVE: usize = 4096;

#[derive(Debug)]
struct Trimming {
    begun: Time,
    /// Who has not confirmed what yet.
    waiting: BTreeSet<(ShardKey, Handle)>,
    witnesses: BTreeSet<Handle>,
}

/// Trims begun here, and shards pinned here in favour of others' trims.
#[derive(Debug)]
pub(super) struct Trims {
    pin: Duration,
    active: BTreeMap<ShardKey, Trimming>,
    begun: BTreeSet<(Time, ShardKey)>,
    pins: BTreeMap<ShardKey, Time>,
    pruned: Time,
}

impl Trims {
    pub(super) fn new(pin: Duration) -> Self {
        Self {
            pin,
            active: BTreeMap::new(),
            begun: BTreeSet::new(),
            pins: BTreeMap::new(),
            pruned: Time::ZERO,
        }
    }

    /// Begins to trim a committed shard held here, once all of `waiting` have confirmed. Whether it began: not
    /// when it has already, or the shard is pinned, or there are too many.
    pub(super) fn begin(&mut self, now: Time, key: ShardKey, waiting: BTreeSet<(ShardKey, Handle)>) -> bool {
        let free = !self.is_active(key) && !self.is_pinned(now, key) && self.active.len() < MAX_ACTIVE;
        if free {
            let witnesses = waiting.iter().map(|(_, peer)| *peer).collect();
            let trimming = Trimming {
                begun: now,
                waiting,
                witnesses,
            };
            self.active.insert(key, trimming);
            self.begun.insert((now, key));
        }
        free
    }

    pub(super) fn is_active(&self, key: ShardKey) -> bool {
        self.active.contains_key(&key)
    }

    fn is_pinned(&self, now: Time, key: ShardKey) -> bool {
        self.pins.get(&key).is_some_and(|until| now < *until)
    }

    /// Answers for a committed shard held here; yes pins it if asked to.
    pub(super) fn confirm(&mut self, now: Time, key: ShardKey, pin: bool) -> bool {
        let yes = !self.is_active(key);
        if yes && pin {
            self.pins.insert(key, now + self.pin);
        }
        yes
    }

    /// `peer` confirmed `key`. Returns the shards that may be dropped now.
    pub(super) fn confirmed(&mut self, now: Time, key: ShardKey, peer: Handle) -> Vec<ShardKey> {
        let mut ready = Vec::new();
        for (trimmed, trimming) in self.active.range_mut(of(key.slot)) {
            if trimming.waiting.remove(&(key, peer)) && trimming.waiting.is_empty() {
                ready.push(*trimmed);
            }
        }
        ready.retain(|trimmed| {
            let begun = self.forget(*trimmed);
            begun.is_some_and(|begun| now < begun + self.pin / 2)
        });
        ready
    }

    /// Whether a trim waits for `peer` to confirm `key`.
    pub(super) fn waits(&self, key: ShardKey, peer: Handle) -> bool {
        let mut active = self.active.range(of(key.slot));
        active.any(|(_, trimming)| trimming.waiting.contains(&(key, peer)))
    }

    /// `peer` did not confirm `key`: whatever needed that is off.
    pub(super) fn denied(&mut self, key: ShardKey, peer: Handle) {
        let waiting = self.active.range(of(key.slot));
        let off: Vec<ShardKey> = waiting
            .filter(|(_, trimming)| trimming.waiting.contains(&(key, peer)))
            .map(|(trimmed, _)| *trimmed)
            .collect();
        for trimmed in off {
            self.forget(trimmed);
        }
    }

    /// Gives up the trims that count on somebody who is not there any more.
    pub(super) fn retain(&mut self, is_alive: impl Fn(Handle) -> bool) {
        let gone = |trimming: &Trimming| !trimming.witnesses.iter().all(|peer| is_alive(*peer));
        let off = self.active.iter().filter(|(_, trimming)| gone(trimming));
        let off: Vec<ShardKey> = off.map(|(key, _)| *key).collect();
        for key in off {
            self.forget(key);
        }
    }

    /// Gives up a trim. Returns when it began.
    pub(super) fn forget(&mut self, key: ShardKey) -> Option<Time> {
        let begun = self.active.remove(&key)?.begun;
        self.begun.remove(&(begun, key));
        Some(begun)
    }

    /// Gives up trims that took too long, and forgets pins that ended.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        while let Some((begun, key)) = self.begun.first().copied()
            && now >= begun + self.pin / 2
        {
            self.forget(key);
        }
        if now >= self.pruned + self.pin {
            self.pruned = now;
            self.pins.retain(|_, until| now < *until);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.begun.first().map(|(begun, _)| *begun + self.pin / 2)
    }
}

fn of(slot: Slot) -> std::ops::RangeInclusive<ShardKey> {
    ShardKey { slot, index: 0 }..=ShardKey { slot, index: u8::MAX }
}

impl Custody {
    /// An order to drop a surplus shard came: the question goes to whoever must confirm.
    pub(super) fn begin_trim(&mut self, now: Time, ring: &impl Membership, order: &TrimOrder) {
        let key = ShardKey::new(order.stripe, order.index);
        let Some(held) = self
            .inventory
            .shards
            .get(&key)
            .filter(|held| held.tenure == Tenure::Committed)
        else {
            return;
        };
        if self.config.has(Flaw::TrimWithoutConfirmation) {
            self.drop_shard(now, key, false);
            return;
        }
        let named: BTreeSet<u8> = order.others.iter().map(|(index, _)| *index).collect();
        let whole = (0..held.shape.n).all(|index| index == order.index || named.contains(&index));
        if !whole || order.keep == ring.me() {
            return;
        }
        let mut waiting = BTreeSet::new();
        let witnesses = order.others.iter().filter(|(index, _)| *index != order.index);
        for (index, peer) in witnesses.chain([&(order.index, order.keep)]) {
            let shard = ShardKey::new(order.stripe, *index);
            if *peer != ring.me() {
                waiting.insert((shard, self.peers.intern(now, *peer, ring.is_alive(*peer))));
            } else if !self.confirm(now, shard, false) {
                return;
            }
        }
        if !waiting.iter().all(|(_, peer)| self.peers.is_alive(*peer)) {
            self.explore(now, order.stripe);
        } else if self.trims.begin(now, key, waiting.clone()) {
            for (shard, peer) in waiting {
                self.peers.get_mut(peer).outbox.confirm(shard, shard == key);
                self.peers.arm(peer);
            }
        }
    }

    pub(super) fn confirm(&mut self, now: Time, key: ShardKey, pin: bool) -> bool {
        if self.config.has(Flaw::ConfirmWithoutPin) {
            return self.inventory.has_committed(key);
        }
        self.inventory.has_committed(key)
            && !self.dropping.contains(&key)
            && self.trims.confirm(now, key, pin)
    }

    pub(super) fn handle_confirmed(&mut self, now: Time, peer: Handle, key: ShardKey, yes: bool) {
        if !yes {
            self.trims.denied(key, peer);
            return;
        }
        for surplus in self.trims.confirmed(now, key, peer) {
            if self.inventory.has_committed(surplus) {
                self.drop_shard(now, surplus, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custody::peers::ME;
    use crate::custody::tests::harness::{secs, stripe};

    const PIN: Duration = Duration::from_mins(1);

    fn key(index: u8) -> ShardKey {
        ShardKey::new(stripe(1), index)
    }

    /// Somebody asked to keep index 0, who has to confirm it.
    fn asked() -> BTreeSet<(ShardKey, Handle)> {
        BTreeSet::from([(key(0), ME)])
    }

    #[test]
    fn two_that_trim_in_each_others_favour_both_give_up() {
        let (mut x, mut y) = (Trims::new(PIN), Trims::new(PIN));
        assert!(x.begin(Time::ZERO, key(0), asked()) && y.begin(Time::ZERO, key(0), asked()));
        assert!(!y.confirm(Time::ZERO, key(0), true) && !x.confirm(Time::ZERO, key(0), true));
        x.denied(key(0), ME);
        assert!(x.confirmed(Time::ZERO, key(0), ME).is_empty());
    }

    #[test]
    fn who_confirmed_does_not_begin_before_the_pin_ends() {
        let mut y = Trims::new(PIN);
        assert!(y.confirm(Time::ZERO, key(0), true));
        assert!(!y.begin(Time::ZERO + secs(59), key(0), asked()));
        assert!(y.begin(Time::ZERO + secs(60), key(0), asked()));
    }

    #[test]
    fn a_question_without_a_pin_leaves_the_shard_free() {
        let mut y = Trims::new(PIN);
        assert!(y.confirm(Time::ZERO, key(0), false));
        assert!(y.begin(Time::ZERO, key(0), asked()));
    }

    #[test]
    fn every_witness_is_needed_and_half_the_pin_is_the_limit() {
        let begin = |waiting| {
            let mut trims = Trims::new(PIN);
            assert!(trims.begin(Time::ZERO, key(0), waiting));
            trims
        };
        let both = BTreeSet::from([(key(0), ME), (key(1), ME)]);
        let mut trims = begin(both);
        assert!(trims.confirmed(Time::ZERO, key(0), ME).is_empty());
        assert_eq!(trims.confirmed(Time::ZERO, key(1), ME), [key(0)]);
        assert!(!trims.is_active(key(0)));
        assert_eq!(
            begin(asked()).confirmed(Time::ZERO + secs(29), key(0), ME),
            [key(0)]
        );
        assert!(
            begin(asked())
                .confirmed(Time::ZERO + secs(30), key(0), ME)
                .is_empty()
        );
    }

    #[test]
    fn a_trim_ends_by_itself_and_with_its_witness() {
        let mut trims = Trims::new(PIN);
        assert!(trims.begin(Time::ZERO, key(0), asked()));
        assert_eq!(trims.poll_timeout(), Some(Time::ZERO + secs(30)));
        trims.handle_timeout(Time::ZERO + secs(30));
        assert!(!trims.is_active(key(0)));
        assert!(trims.begin(Time::ZERO, key(0), asked()));
        trims.retain(|_| true);
        assert!(trims.is_active(key(0)));
        trims.retain(|peer| peer != ME);
        assert!(!trims.is_active(key(0)) && trims.poll_timeout().is_none());
    }
}
