//! Audits of stripes: the peers that may hold a stripe are asked what they hold of it.
//!
//! A primary judges by reports and believes its own repairs. Two things must not rest on that alone.
//!
//! * A repair is done only when another peer than the one that wrote has found n indices on n peers. The
//!   primary asks the next peer in the ring for an audit (`Audit`). That one asks the holders (`Held`) and
//!   reports the total (`Audited`). Until then the stripe is not safe in the primary's statistics.
//! * A primary may live and yet repair nothing: it hangs, its jobs fail, or its repairs are switched off. So
//!   whoever holds a shard as the i-th peer after the primary audits the stripe in every i-th of its rounds,
//!   and when a peer vanished. Where an index is missing it audits again after i repair delays. What no audit
//!   has seen for i × 4 repair delays it rebuilds itself, unless the primary says that it is at work. All
//!   audits of a short stripe together are few times those of the first to take over, however many hold its
//!   locator.
//!
//! A peer that the ring takes for alive and that answers no such question holds nothing as far as the audit
//! goes. An audit that lacks the answer of a peer that answers others is in doubt. Under other policies than
//! `successors` those that the policy names are asked, and those whom the primary names, for runs change and
//! holders stay; whoever holds the stripe's locator audits it. Two that repair the same stripe waste work and
//! lose nothing: the primary has the excess trimmed. Holders beyond the first r peers are not asked; handoff
//! brings their shards nearer.
//!
//! Any of those asked may lie. Each counts for one index ([`Matching`]). A primary that says that it is at
//! work is believed a few times for one loss. Who says that the stripe is deleted is asked for the tombstone,
//! and not believed again for a while if it shows none. Audits that others ask for take half of the room at
//! most.

pub(super) mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::takeover::Short;
use crate::custody::candidates::rank;
use crate::custody::key::{ItemKey, Slot};
use crate::custody::matching::{Matching, by_index};
use crate::custody::message::Holds;
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::reports::KnownStripe;
use crate::custody::sweep::Sweep;
use crate::custody::timers::Timers;
use crate::custody::types::CustodyConfig;
use crate::custody::{Custody, Item, SLICE, Shape};
use crate::{Flaw, Peer, RingView, Time};

/// How many repair delays a stripe may be short before the first other peer takes over.
const PATIENCE: u32 = 4;
/// The shortest time for a round over the inventory.
const ROUND: Duration = Duration::from_mins(1);
/// The shortest time between two slices of the inventory, each of at most [`SLICE`] shards: at most 64 audits
/// a second.
const PACE: Duration = Duration::from_secs(8);
/// The most audits under way, and the most short stripes remembered. Other stripes have their turn later.
const MAX_AUDITS: usize = 4096;
/// How long an audit may take before it is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// One audit under way.
#[derive(Debug)]
pub(super) struct Audit {
    begun: Time,
    /// The shape of a stripe that is held here; none: the audit is for another peer.
    shape: Option<Shape>,
    askers: BTreeSet<Handle>,
    waiting: BTreeSet<Handle>,
    pub(super) answered: BTreeSet<Handle>,
    /// Peers that did not answer and are asked once more.
    pub(super) again: BTreeSet<Handle>,
    /// A peer that answered lately did not answer this audit.
    doubtful: bool,
    pub(super) held: BTreeSet<(u8, Handle)>,
    /// The digest of the records that a peer has under the id.
    pub(super) records: BTreeMap<Handle, u64>,
    /// How many of those to ask were asked, if not all.
    asked: Option<usize>,
    /// The primary says that it is at work.
    pub(super) under_repair: bool,
    /// Peers that say that they hold the tombstone.
    pub(super) deleted: BTreeSet<Handle>,
}

impl Audit {
    fn take(&mut self, holds: Holds, from: Handle) {
        self.answered.insert(from);
        self.deleted
            .extend(holds.items.contains(&Item::Tombstone).then_some(from));
        let records = holds.items.iter().find_map(|item| item.records());
        self.records.extend(records.map(|digest| (from, digest)));
        let n = self.shape.map_or(u8::MAX, |shape| shape.n);
        let indices = holds
            .items
            .into_iter()
            .filter_map(Item::shard)
            .filter(|index| *index < n);
        self.held.extend(indices.map(|index| (index, from)));
    }

    pub(super) fn indices(&self) -> BTreeSet<u8> {
        self.held.iter().map(|(index, _)| *index).collect()
    }

    /// The indices found and the peer that counts for each.
    pub(super) fn keepers(&self, config: &CustodyConfig) -> BTreeMap<u8, Handle> {
        if config.has(Flaw::CountTwice) {
            return self.held.iter().copied().collect();
        }
        let n = self.held.last().map_or(0, |(index, _)| index.saturating_add(1));
        Matching::of(&by_index(n, &self.held.iter().copied(), |peer| peer)).pairs()
    }
}

/// Audits under way, and what they found short.
#[derive(Debug)]
pub(super) struct Audits {
    open: BTreeMap<Slot, Audit>,
    begun: BTreeSet<(Time, Slot)>,
    short: BTreeMap<Slot, Short>,
    wakes: Timers<Slot>,
    /// The walk over the inventory, how many rounds began, when the last one did, and when the walk goes on.
    sweep: Sweep<ItemKey>,
    rounds: u32,
    round: Time,
    next: Time,
    /// This round audits all that is held, whatever this peer's rank.
    whole: bool,
    /// When a round over all that is held begins, because a peer vanished.
    vanished: Option<Time>,
    taken_over_total: u64,
}

impl Audits {
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
            taken_over_total: 0,
        }
    }

    pub(super) fn taken_over_total(&self) -> u64 {
        self.taken_over_total
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let given_up = self.begun.first().map(|(begun, _)| *begun + LIMIT);
        [Some(self.next), self.vanished, self.wakes.next(), given_up]
            .into_iter()
            .flatten()
            .min()
    }

    /// The event loop stalled: what was found short before may have been whole meanwhile.
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

    fn is_whole(&mut self, slot: Slot) {
        self.wake(slot, None);
        self.short.remove(&slot);
    }

    /// A stripe taken over turned out inconsistent: it is not tried again before this peer restarts.
    pub(super) fn give_up(&mut self, slot: Slot) {
        self.wake(slot, None);
    }
}

impl Custody {
    /// A peer left the view. If its shards are not repaired in time, an audit of all that is held notices.
    pub(super) fn audit_soon(&mut self, now: Time) {
        let at = now + self.patience();
        self.audits.vanished.get_or_insert(at);
    }

    pub(super) fn patience(&self) -> Duration {
        self.config.repair_delay * PATIENCE
    }

    /// What is held here of a stripe to stay, and what its primary adds.
    pub(super) fn holds(&mut self, now: Time, stripe: crate::Id) -> Holds {
        let keys = self.keys_of(stripe).into_iter();
        let items = keys.filter(|key| self.confirm(now, *key, None));
        let items = items.map(|key| key.item).collect();
        let slot = Slot::of(stripe);
        let known = self.primary.known(slot);
        let known = known.filter(|known| known.is_tracked() && known.shape().placement.needs_locators());
        let holders = known.into_iter().flat_map(KnownStripe::shard_holders);
        let others: BTreeSet<Handle> = holders
            .filter(|peer| *peer != ME && self.peers.is_live(*peer))
            .collect();
        Holds {
            items,
            under_repair: self.is_under_repair(now, slot),
            reported: others.into_iter().map(|peer| self.peers.get(peer).peer).collect(),
        }
    }

    /// Begins the audits that are due.
    pub(super) fn handle_audits(&mut self, now: Time, ring: &impl RingView) {
        while let Some((begun, slot)) = self.audits.begun.first().copied()
            && begun + LIMIT <= now
        {
            self.audits.begun.remove(&(begun, slot));
            self.audits.open.remove(&slot);
        }
        while let Some(slot) = self.audits.wakes.pop_due(now) {
            if let Some(short) = self.audits.short.get_mut(&slot) {
                short.wake = None;
            }
            // Should this audit be given up, or not begin, another one follows.
            self.audits.wake(slot, Some(now + LIMIT * 2));
            self.audit_held(now, ring, slot);
        }
        if self.audits.vanished.is_some_and(|at| at <= now) {
            self.audits.vanished = None;
            self.audits.whole = true;
            self.audits.sweep = Sweep::default();
            self.audits.next = now;
        }
        if self.audits.next <= now {
            self.walk(now, ring);
        }
    }

    /// Audits the next slice of the stripes held here, as far as it is their turn.
    fn walk(&mut self, now: Time, ring: &impl RingView) {
        if !self.audits.sweep.is_running() {
            self.audits.sweep.start();
            self.audits.rounds = self.audits.rounds.wrapping_add(1);
            self.audits.round = now;
        }
        let keys = self.audits.sweep.slice(self.holder.shards(), SLICE);
        let round = self.patience().max(ROUND);
        self.audits.next = if self.audits.sweep.is_running() {
            let slices = self.holder.shards().len() / SLICE + 1;
            now + (round / u32::try_from(slices).unwrap_or(u32::MAX)).max(PACE)
        } else {
            (self.audits.round + round.mul_f64(self.jitter())).max(now + PACE)
        };
        let whole = self.audits.whole;
        self.audits.whole &= self.audits.sweep.is_running();
        let mut slots: BTreeSet<Slot> = keys.into_iter().map(|key| key.slot).collect();
        if !self.config.repair {
            slots.clear();
        }
        for slot in slots {
            let responsible = self.responsible(now, ring, slot);
            let turn = self.audits.rounds.wrapping_add(u32::from(slot.bucket));
            let is_due = |rank: u32| rank > 0 && (whole || turn % rank == 0);
            let keys = self.keys_of(slot.stripe);
            let records = keys.iter().any(|key| key.item.records().is_some());
            // Who holds records audits them wherever it stands: nobody nearer need know of them.
            let beyond = records.then_some(self.config.r);
            let beyond = beyond.and_then(|last| u32::try_from(last).ok());
            let own = rank(&responsible);
            if self.audits.short.contains_key(&slot) {
                continue;
            }
            if records && own.or(beyond).is_some_and(is_due) {
                self.begin_audit(now, ring, slot, None, None);
            }
            if own.is_some_and(is_due) {
                self.audit_held(now, ring, slot);
            }
        }
    }

    /// Audits a stripe of which a committed shard, or its locator, is held here; forgets it if there is none.
    fn audit_held(&mut self, now: Time, ring: &impl RingView, slot: Slot) {
        match self.holder.shape_of_committed(slot.stripe) {
            Some(shape) => self.begin_audit(now, ring, slot, Some(shape), None),
            None => self.audits.is_whole(slot),
        }
    }

    /// Begins an audit. Of a stripe held here (`shape`) the first n candidates are asked, and the others only
    /// if those do not suffice. For another peer (`asker`) all are.
    pub(super) fn begin_audit(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        shape: Option<Shape>,
        asker: Option<Handle>,
    ) {
        if let Some(audit) = self.audits.open.get_mut(&slot) {
            audit.askers.extend(asker);
            audit.shape = audit.shape.or(shape);
            return;
        }
        let room = if asker.is_some() {
            MAX_AUDITS / 2
        } else {
            MAX_AUDITS
        };
        if self.audits.open.len() >= room {
            return;
        }
        // Where the id does not tell the holders, the primary and this peer are asked besides those that the
        // policy names.
        let first =
            shape.map(|shape| usize::from(shape.n) + if shape.placement.needs_locators() { 2 } else { 0 });
        let audit = Audit {
            begun: now,
            shape,
            askers: asker.into_iter().collect(),
            waiting: BTreeSet::new(),
            answered: BTreeSet::new(),
            again: BTreeSet::new(),
            doubtful: false,
            held: BTreeSet::new(),
            records: BTreeMap::new(),
            asked: first,
            under_repair: false,
            deleted: BTreeSet::new(),
        };
        self.audits.begun.insert((now, slot));
        self.audits.open.insert(slot, audit);
        let peers = self.asked(now, ring, slot).into_iter();
        self.ask(now, ring, slot, peers.take(first.unwrap_or(usize::MAX)));
        self.conclude_audit(now, ring, slot);
    }

    /// The peers to ask about a stripe, in this order: the responsible set; or where its id does not tell who
    /// holds it, the primary, this peer, and those that the policy names.
    fn asked(&mut self, now: Time, ring: &impl RingView, slot: Slot) -> Vec<Handle> {
        let known = self.primary.known(slot);
        let shape = self
            .holder
            .shape_of(slot.stripe)
            .or(known.map(KnownStripe::shape));
        let responsible = if shape == Some(Shape::RECORDS) {
            self.responsible_for_records(now, ring, slot)
        } else {
            self.responsible(now, ring, slot)
        };
        let scattered = shape.filter(|shape| shape.placement.needs_locators());
        let Some(shape) = scattered else {
            return responsible.into_iter().map(|(peer, _)| peer).collect();
        };
        let mut peers: Vec<Handle> = responsible.into_iter().take(1).map(|(peer, _)| peer).collect();
        let policy_peers = self.policy_peers(now, ring, slot, shape, &[]).into_iter();
        for peer in std::iter::once(ME).chain(policy_peers.map(|(peer, _)| peer)) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers
    }

    fn ask(&mut self, now: Time, ring: &impl RingView, slot: Slot, peers: impl Iterator<Item = Handle>) {
        for peer in peers {
            let own = (peer == ME).then(|| self.holds(now, slot.stripe));
            let Some(audit) = self.audits.open.get_mut(&slot) else {
                return;
            };
            if let Some(mut own) = own {
                let reported = std::mem::take(&mut own.reported);
                audit.take(own, ME);
                self.ask_reported(now, ring, slot, &reported);
            } else if !audit.answered.contains(&peer) && audit.waiting.insert(peer) {
                self.peers.get_mut(peer).outbox.held(slot.stripe);
                self.peers.arm(peer);
            }
        }
    }

    /// Asks those whom the primary of a stripe names as holders.
    fn ask_reported(&mut self, now: Time, ring: &impl RingView, slot: Slot, reported: &[Peer]) {
        for name in reported.iter().filter(|peer| **peer != ring.me()) {
            let alive = self.intern_alive(now, ring, *name);
            let Some(audit) = self.audits.open.get_mut(&slot) else {
                return;
            };
            let Some(peer) = alive.filter(|peer| self.peers.is_alive(*peer)) else {
                // A stranger may be anywhere, or dead and its primary does not know yet.
                self.rosters.need(true);
                audit.doubtful = true;
                continue;
            };
            if !audit.answered.contains(&peer) && audit.waiting.insert(peer) {
                self.peers.get_mut(peer).outbox.held(slot.stripe);
                self.peers.arm(peer);
            }
        }
    }

    /// A peer said what it holds, or did not answer.
    pub(super) fn handle_holds(
        &mut self,
        now: Time,
        ring: &impl RingView,
        from: Handle,
        slot: Slot,
        holds: Option<Holds>,
    ) {
        let primary = self
            .responsible(now, ring, slot)
            .first()
            .map(|(primary, _)| *primary);
        let lately = |at: Time| now < at + self.patience();
        let answers = self.peers.get(from).answered.is_some_and(lately);
        let Some(audit) = self.audits.open.get_mut(&slot) else {
            return;
        };
        if !audit.waiting.contains(&from) {
            return;
        }
        let mut reported = Vec::new();
        if let Some(mut holds) = holds {
            if now < self.peers.get(from).unproven_until {
                holds.items.retain(|item| *item != Item::Tombstone);
            }
            if primary == Some(from) {
                audit.under_repair |= holds.under_repair;
                reported = std::mem::take(&mut holds.reported);
            }
            audit.take(holds, from);
        } else if audit.again.insert(from) && self.peers.is_alive(from) {
            self.peers.get_mut(from).outbox.held(slot.stripe);
            return;
        } else {
            audit.doubtful |= answers;
        }
        audit.waiting.remove(&from);
        self.ask_reported(now, ring, slot, &reported);
        self.conclude_audit(now, ring, slot);
    }

    /// Ends an audit that waits for nobody. One that found too few first asks those that were not asked yet.
    fn conclude_audit(&mut self, now: Time, ring: &impl RingView, slot: Slot) {
        let Some(audit) = self.audits.open.get_mut(&slot) else {
            return;
        };
        if !audit.waiting.is_empty() {
            return;
        }
        let n = audit.shape.map_or(0, |shape| usize::from(shape.n));
        let enough = !audit.deleted.is_empty() || audit.keepers(&self.config).len() >= n;
        if let Some(asked) = audit.asked.take().filter(|_| !enough) {
            let peers = self.asked(now, ring, slot);
            self.ask(now, ring, slot, peers.into_iter().skip(asked));
            return self.conclude_audit(now, ring, slot);
        }
        let Some(audit) = self.audits.open.remove(&slot) else {
            return;
        };
        self.audits.begun.remove(&(audit.begun, slot));
        if audit.shape.is_none() {
            self.weigh_records(now, ring, slot, &audit.records);
        }
        let total = u8::try_from(audit.keepers(&self.config).len()).unwrap_or(u8::MAX);
        for asker in &audit.askers {
            self.peers.get_mut(*asker).outbox.audited(slot.stripe, total);
            self.peers.arm(*asker);
        }
        if let Some(shape) = audit.shape {
            self.weigh(now, ring, slot, shape, &audit);
        }
    }
}
