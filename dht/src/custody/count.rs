//! Counts of stripes: their first peers are asked what they hold.
//!
//! A home judges by reports, and believes its own repairs. Two things must not rest on that alone.
//!
//! * A repair is done only when another peer than the one that wrote has counted n indices on n peers: the
//!   home asks the next one in the ring (`Count`), which asks the holders (`Held`) and says what it found
//!   (`Counted`). Until then the stripe is not safe in the home's health.
//! * A home may live and yet repair nothing: it hangs, its jobs fail, or it was told not to. So whoever holds
//!   a shard as the i-th peer after the home counts the stripe in every i-th of its rounds, and when a peer
//!   vanished. Where an index is missing it counts again after i repair delays, and what no count has seen
//!   for i × 4 repair delays it rebuilds itself, unless the home says that it is at work: all counts of a
//!   short stripe together are few times those of the first to take over, however many hold its locator.
//!
//! A peer that the ring counts as alive and that answers no such question any more counts as holding nothing;
//! a count that lacks another's answer says nothing. Under other policies than `successors` those that the
//! policy names are asked, and those whom the home names, for runs change and holders stay; whoever holds the
//! stripe's locator counts. Two that repair the same stripe waste work and lose nothing: what is double a
//! home has trimmed. A stripe's far holders, beyond the first r peers, are not asked; hand-in brings them
//! nearer.
//!
//! Any of those asked may lie. Each counts for one index ([`Matching`]). A home that says that it is at work
//! is believed a few times for one loss. Who says that the stripe is deleted is asked for the tombstone, and
//! not believed again for a while if it shows none. Counts that others want take half of the room at most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fingerprint::{ShardKey, Slot};
use super::matching::{Matching, by_index};
use super::message::Holds;
use super::peers::{Handle, ME};
use super::plan::Members;
use super::repair::NAG;
use super::sweep::Sweep;
use super::takeover::Short;
use super::timers::Timers;
use super::types::{CustodyConfig, is_shard};
use super::{Custody, LOCATOR, SLICE, Shape, TOMBSTONE};
use crate::{Flaw, Membership, Peer, Time};

/// A stripe may be short for so many repair delays before the first other peer takes over.
const PATIENCE: u32 = 4;
/// A round takes no less.
const ROUND: Duration = Duration::from_mins(1);
/// Time between two slices of the inventory, each of at most [`SLICE`] shards: 64 are counted a second.
const PACE: Duration = Duration::from_secs(8);
/// Counts under way and short stripes remembered, at most; others have their turn later.
pub(super) const MAX_COUNTS: usize = 4096;
/// A count that has not ended by then is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// One count under way.
#[derive(Debug)]
pub(super) struct Count {
    begun: Time,
    /// Of a stripe that is held here; otherwise another peer wants the count.
    shape: Option<Shape>,
    askers: BTreeSet<Handle>,
    waiting: BTreeSet<Handle>,
    pub(super) answered: BTreeSet<Handle>,
    /// Asked again.
    pub(super) again: BTreeSet<Handle>,
    /// Somebody who answers others did not.
    pub(super) doubtful: bool,
    pub(super) held: BTreeSet<(u8, Handle)>,
    /// Of the first r peers, those after so many were not asked yet.
    asked: Option<usize>,
    /// The home says that it is at work.
    pub(super) minded: bool,
    /// Who says that it holds the tombstone.
    pub(super) deleted: BTreeSet<Handle>,
}

impl Count {
    fn take(&mut self, holds: Holds, from: Handle) {
        self.answered.insert(from);
        self.deleted
            .extend(holds.indices.contains(&TOMBSTONE).then_some(from));
        let n = self.shape.map_or(LOCATOR, |shape| shape.n);
        let indices = holds.indices.into_iter().filter(|index| *index < n);
        self.held.extend(indices.map(|index| (index, from)));
    }

    pub(super) fn indices(&self) -> BTreeSet<u8> {
        self.held.iter().map(|(index, _)| *index).collect()
    }

    /// Indices and as many peers.
    pub(super) fn keepers(&self, config: &CustodyConfig) -> BTreeMap<u8, Handle> {
        if config.has(Flaw::CountTwice) {
            return self.held.iter().copied().collect();
        }
        let n = self.held.last().map_or(0, |(index, _)| index.saturating_add(1));
        Matching::of(&by_index(n, &self.held.iter().copied(), |peer| peer)).pairs()
    }
}

/// Counts under way, and what they found short.
#[derive(Debug)]
pub(super) struct Counts {
    open: BTreeMap<Slot, Count>,
    begun: BTreeSet<(Time, Slot)>,
    pub(super) short: BTreeMap<Slot, Short>,
    wakes: Timers<Slot>,
    /// The walk over the inventory, how often it began, when last, and when it goes on.
    sweep: Sweep<ShardKey>,
    rounds: u32,
    round: Time,
    next: Time,
    /// All that is held is counted in this round.
    whole: bool,
    /// All that is held is to be counted from then on.
    vanished: Option<Time>,
    /// When a repair of this peer as home succeeded last.
    pub(super) repaired: Option<Time>,
    pub(super) taken_over_total: u64,
}

impl Counts {
    pub(super) fn new(now: Time) -> Self {
        Self {
            open: BTreeMap::new(),
            begun: BTreeSet::new(),
            short: BTreeMap::new(),
            wakes: Timers::default(),
            sweep: Sweep::default(),
            rounds: 0,
            round: now,
            next: now,
            whole: false,
            vanished: None,
            repaired: None,
            taken_over_total: 0,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let given_up = self.begun.first().map(|(begun, _)| *begun + LIMIT);
        [Some(self.next), self.vanished, self.wakes.next(), given_up]
            .into_iter()
            .flatten()
            .min()
    }

    /// What was short before does not count: this peer was out of its wits.
    pub(super) fn stalled(&mut self) {
        for (slot, Short { mut wake, .. }) in std::mem::take(&mut self.short) {
            self.wakes.rearm(slot, &mut wake, None);
        }
        self.open.clear();
        self.begun.clear();
    }

    pub(super) fn wake(&mut self, slot: Slot, at: Option<Time>) {
        if let Some(short) = self.short.get_mut(&slot) {
            self.wakes.rearm(slot, &mut short.wake, at);
        }
    }

    pub(super) fn is_whole(&mut self, slot: Slot) {
        self.wake(slot, None);
        self.short.remove(&slot);
    }

    /// A stripe taken over cannot be repaired: it is not tried again before this peer has restarted.
    pub(super) fn give_up(&mut self, slot: Slot) {
        self.wake(slot, None);
    }
}

impl Custody {
    /// A peer left the view: where its shards are not repaired soon, that is to be noticed.
    pub(super) fn recount(&mut self, now: Time) {
        let at = now + self.patience();
        self.counts.vanished.get_or_insert(at);
    }

    pub(super) fn patience(&self) -> Duration {
        self.config.repair_delay * PATIENCE
    }

    /// What is held here of a stripe, there to stay.
    pub(super) fn holds(&mut self, now: Time, stripe: crate::Id) -> Holds {
        let keys = self.keys_of(stripe).into_iter();
        let indices = keys.filter(|key| self.confirm(now, *key, None));
        let indices = indices.map(|key| key.index).collect();
        let homed = self.home.stripes.get(&Slot::of(stripe));
        let due = homed.is_some_and(|homed| homed.running || homed.queued.is_some());
        let hopeless = homed.is_some_and(|homed| homed.inconsistent);
        let lately = |at: Time| now < at + self.patience();
        let known = homed.filter(|homed| homed.tracked.is_some() && homed.shape.placement.needs_locators());
        let shards = known.into_iter().flat_map(|homed| &homed.claims);
        let shards = shards.filter(|claim| is_shard(claim.index) && self.peers.is_live(claim.peer));
        let others: BTreeSet<Handle> = shards
            .map(|claim| claim.peer)
            .filter(|peer| *peer != ME)
            .collect();
        Holds {
            indices,
            minded: hopeless || due && self.counts.repaired.is_some_and(lately),
            told: others.into_iter().map(|peer| self.peers.get(peer).peer).collect(),
        }
    }

    /// Goes on counting.
    pub(super) fn handle_counts(&mut self, now: Time, ring: &impl Membership) {
        while let Some((begun, slot)) = self.counts.begun.first().copied()
            && begun + LIMIT <= now
        {
            self.counts.begun.remove(&(begun, slot));
            self.counts.open.remove(&slot);
        }
        while let Some(slot) = self.counts.wakes.pop_due(now) {
            if let Some(short) = self.counts.short.get_mut(&slot) {
                short.wake = None;
            }
            // Should the count be given up, or not begin, there is another one.
            self.counts.wake(slot, Some(now + LIMIT * 2));
            self.count_held(now, ring, slot);
        }
        if self.counts.vanished.is_some_and(|at| at <= now) {
            self.counts.vanished = None;
            self.counts.whole = true;
            self.counts.sweep = Sweep::default();
            self.counts.next = now;
        }
        if self.counts.next <= now {
            self.walk(now, ring);
        }
    }

    /// Counts the next slice of the stripes held here, as far as it is their turn.
    fn walk(&mut self, now: Time, ring: &impl Membership) {
        if !self.counts.sweep.is_running() {
            self.counts.sweep.start();
            self.counts.rounds = self.counts.rounds.wrapping_add(1);
            self.counts.round = now;
        }
        let keys = self.counts.sweep.slice(&self.inventory.shards, SLICE);
        let round = self.patience().max(ROUND);
        self.counts.next = if self.counts.sweep.is_running() {
            let slices = self.inventory.shards.len() / SLICE + 1;
            now + (round / u32::try_from(slices).unwrap_or(u32::MAX)).max(PACE)
        } else {
            (self.counts.round + round.mul_f64(self.jitter())).max(now + PACE)
        };
        let whole = self.counts.whole;
        self.counts.whole &= self.counts.sweep.is_running();
        let mut slots: BTreeSet<Slot> = keys.into_iter().map(|key| key.slot).collect();
        if !self.config.repair {
            slots.clear();
        }
        for slot in slots {
            let members = self.members(now, ring, slot);
            let turn = self.counts.rounds.wrapping_add(u32::from(slot.bucket));
            let due = rank(&members).is_some_and(|rank| rank > 0 && (whole || turn % rank == 0));
            if due && !self.counts.short.contains_key(&slot) {
                self.count_held(now, ring, slot);
            }
        }
    }

    /// Counts a stripe of which a committed shard, or its locator, is held here; forgets it if there is none.
    fn count_held(&mut self, now: Time, ring: &impl Membership, slot: Slot) {
        let shape = {
            let mut shards = self.inventory.of(slot.stripe);
            let shard = shards.find(|(key, held)| key.index != TOMBSTONE && held.is_committed());
            shard.map(|(_, held)| held.shape)
        };
        match shape.filter(|_| !self.inventory.is_deleted(slot.stripe)) {
            Some(shape) => self.begin_count(now, ring, slot, Some(shape), None),
            None => self.counts.is_whole(slot),
        }
    }

    /// Asks the first peers of a stripe what they hold of it: n of them if it is held here, and all for
    /// somebody else.
    pub(super) fn begin_count(
        &mut self,
        now: Time,
        ring: &impl Membership,
        slot: Slot,
        shape: Option<Shape>,
        asker: Option<Handle>,
    ) {
        if let Some(count) = self.counts.open.get_mut(&slot) {
            count.askers.extend(asker);
            count.shape = count.shape.or(shape);
            return;
        }
        let room = if asker.is_some() {
            MAX_COUNTS / 2
        } else {
            MAX_COUNTS
        };
        if self.counts.open.len() >= room {
            return;
        }
        // Where others than the named are asked, these are the home and this peer itself.
        let first =
            shape.map(|shape| usize::from(shape.n) + if shape.placement.needs_locators() { 2 } else { 0 });
        let count = Count {
            begun: now,
            shape,
            askers: asker.into_iter().collect(),
            waiting: BTreeSet::new(),
            answered: BTreeSet::new(),
            again: BTreeSet::new(),
            doubtful: false,
            held: BTreeSet::new(),
            asked: first,
            minded: false,
            deleted: BTreeSet::new(),
        };
        self.counts.begun.insert((now, slot));
        self.counts.open.insert(slot, count);
        let peers = self.asked(now, ring, slot).into_iter();
        self.ask(now, ring, slot, peers.take(first.unwrap_or(usize::MAX)));
        self.conclude_count(now, ring, slot);
    }

    /// Who is asked what it holds of a stripe, in this order: where its id does not tell who holds it, the
    /// home first, and this peer.
    fn asked(&mut self, now: Time, ring: &impl Membership, slot: Slot) -> Vec<Handle> {
        let held = self.inventory.of(slot.stripe).next();
        let told = self.home.stripes.get(&slot);
        let shape = held.map(|(_, held)| held.shape).or(told.map(|homed| homed.shape));
        let members = self.members(now, ring, slot);
        let scattered = shape.filter(|shape| shape.placement.needs_locators());
        let Some(shape) = scattered else {
            return members.into_iter().map(|(peer, _)| peer).collect();
        };
        let mut peers: Vec<Handle> = members.into_iter().take(1).map(|(peer, _)| peer).collect();
        let named = self.named(now, ring, slot, shape, &[]).into_iter();
        for peer in std::iter::once(ME).chain(named.map(|(peer, _)| peer)) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers
    }

    fn ask(&mut self, now: Time, ring: &impl Membership, slot: Slot, peers: impl Iterator<Item = Handle>) {
        for peer in peers {
            let own = (peer == ME).then(|| self.holds(now, slot.stripe));
            let Some(count) = self.counts.open.get_mut(&slot) else {
                return;
            };
            if let Some(mut own) = own {
                let told = std::mem::take(&mut own.told);
                count.take(own, ME);
                self.ask_told(now, ring, slot, &told);
            } else if !count.answered.contains(&peer) && count.waiting.insert(peer) {
                self.peers.get_mut(peer).outbox.held(slot.stripe);
                self.peers.arm(peer);
            }
        }
    }

    /// Asks those whom the home of a stripe names as holders.
    fn ask_told(&mut self, now: Time, ring: &impl Membership, slot: Slot, told: &[Peer]) {
        for name in told.iter().filter(|peer| **peer != ring.me()) {
            let known = self.known(now, ring, *name);
            let Some(count) = self.counts.open.get_mut(&slot) else {
                return;
            };
            let Some(peer) = known.filter(|peer| self.peers.is_alive(*peer)) else {
                // A stranger to this peer, and it may be anywhere, or dead and its home does not know yet.
                self.needs_roster = true;
                count.doubtful = true;
                continue;
            };
            if !count.answered.contains(&peer) && count.waiting.insert(peer) {
                self.peers.get_mut(peer).outbox.held(slot.stripe);
                self.peers.arm(peer);
            }
        }
    }

    /// A peer said what it holds, or did not answer.
    pub(super) fn handle_holds(
        &mut self,
        now: Time,
        ring: &impl Membership,
        from: Handle,
        slot: Slot,
        holds: Option<Holds>,
    ) {
        let home = self.members(now, ring, slot).first().map(|(home, _)| *home);
        let lately = |at: Time| now < at + self.patience();
        let answers = self.peers.get(from).answered.is_some_and(lately);
        let Some(count) = self.counts.open.get_mut(&slot) else {
            return;
        };
        if !count.waiting.contains(&from) {
            return;
        }
        let mut told = Vec::new();
        if let Some(mut holds) = holds {
            if now < self.peers.get(from).unproven_until {
                holds.indices.retain(|index| *index != TOMBSTONE);
            }
            if home == Some(from) {
                count.minded |= holds.minded;
                told = std::mem::take(&mut holds.told);
            }
            count.take(holds, from);
        } else if count.again.insert(from) && self.peers.is_alive(from) {
            self.peers.get_mut(from).outbox.held(slot.stripe);
            return;
        } else {
            count.doubtful |= answers;
        }
        count.waiting.remove(&from);
        self.ask_told(now, ring, slot, &told);
        self.conclude_count(now, ring, slot);
    }

    /// Ends a count that waits for nobody: a short one only after all of the first r peers were asked.
    fn conclude_count(&mut self, now: Time, ring: &impl Membership, slot: Slot) {
        let Some(count) = self.counts.open.get_mut(&slot) else {
            return;
        };
        if !count.waiting.is_empty() {
            return;
        }
        let n = count.shape.map_or(0, |shape| usize::from(shape.n));
        let enough = !count.deleted.is_empty() || count.keepers(&self.config).len() >= n;
        if let Some(asked) = count.asked.take().filter(|_| !enough) {
            let peers = self.asked(now, ring, slot);
            self.ask(now, ring, slot, peers.into_iter().skip(asked));
            return self.conclude_count(now, ring, slot);
        }
        let Some(count) = self.counts.open.remove(&slot) else {
            return;
        };
        self.counts.begun.remove(&(count.begun, slot));
        let total = u8::try_from(count.keepers(&self.config).len()).unwrap_or(u8::MAX);
        for asker in &count.askers {
            self.peers.get_mut(*asker).outbox.counted(slot.stripe, total);
            self.peers.arm(*asker);
        }
        if let Some(shape) = count.shape {
            self.weigh(now, ring, slot, shape, &count);
        }
    }

    /// The home of a stripe it has repaired wants it counted: by the next peers in turn, until one counts
    /// all.
    pub(super) fn want_count(&mut self, now: Time, slot: Slot, members: &Members) -> Option<Time> {
        let others: Vec<Handle> = members
            .iter()
            .map(|(peer, _)| *peer)
            .filter(|peer| *peer != ME && self.peers.is_alive(*peer))
            .collect();
        let homed = self.home.stripes.get_mut(&slot)?;
        let uncounted = homed.uncounted.as_mut()?;
        if uncounted.due <= now {
            let turn = uncounted.asked.checked_rem(others.len()).unwrap_or(0);
            uncounted.counter = others.get(turn).copied();
            uncounted.asked += 1;
            uncounted.due = now + NAG;
            if let Some(counter) = uncounted.counter {
                self.peers.get_mut(counter).outbox.count(slot.stripe);
                self.peers.arm(counter);
            }
        }
        Some(uncounted.due)
    }

    /// Somebody has counted a stripe. What is counted short is reported again soon, and counted again.
    pub(super) fn handle_counted(&mut self, now: Time, from: Handle, slot: Slot, total: u8) {
        let Some(homed) = self.home.stripes.get_mut(&slot) else {
            return;
        };
        let Some(uncounted) = homed
            .uncounted
            .as_mut()
            .filter(|asked| asked.counter == Some(from))
        else {
            return;
        };
        if total >= homed.shape.n {
            homed.uncounted = None;
        } else {
            let turns = u32::try_from(uncounted.asked).unwrap_or(u32::MAX);
            let wait = self.config.exchange_dirty.saturating_mul(turns).min(ROUND);
            uncounted.due = now + wait;
            let holders: Vec<Handle> = homed.claims.iter().map(|claim| claim.peer).collect();
            for holder in holders.into_iter().filter(|holder| *holder != ME) {
                self.peers.get_mut(holder).outbox.solicit(now);
                self.peers.arm(holder);
            }
        }
        self.home.dirty.insert(slot);
    }
}

/// How many peers of a stripe come before this one.
pub(super) fn rank(members: &Members) -> Option<u32> {
    let rank = members.iter().position(|(peer, _)| *peer == ME);
    rank.and_then(|rank| u32::try_from(rank).ok())
}
