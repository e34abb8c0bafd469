//! Who must hold which shard, and what to do when somebody does not.
//!
//! Custody knows stripe ids and shard indices, never bytes. Every peer plays three parts at once:
//!
//! * The **holder** keeps the inventory of its own store and reports each shard to the shard's *primary*, the
//!   first successor of the stripe id in its view (`exchange`). It drops excess shards by the safe rule
//!   (`search`, `trim`) and pending ones when their lease ended and nobody knows of a commit (`lease`).
//! * The **primary** puts the reports together (`primary`), judges what each stripe needs (`plan`) and has
//!   missing shards regenerated, misplaced ones copied to their place, excess ones trimmed and commits
//!   spread (`repair`).
//! * The **auditor** answers questions about what it holds, audits for the primary what that has repaired,
//!   and takes over where a primary does not repair (`audit`).
//!
//! Invariants. A shard that [`Effect::Drop`] names was either confirmed elsewhere, with n distinct legal
//! holders of all indices answering, or pending past its lease with no living peer that knows of a commit and
//! no suspect one that might, or its stripe is deleted and the tombstone is held here. No primary ever needs
//! to be right: two that disagree waste work and lose nothing. No peer needs to be honest: a liar hides or
//! takes one index of a stripe, which is what parity is for, and what it claims or orders beyond that is
//! checked or put up with (`matching`, `search`, `audit`). No call costs more than a bounded slice of the
//! inventory.
//!
//! A deleted stripe leaves a *tombstone*: held, reported to the primary and handed on like a shard, by an
//! index no shard has. A primary that hears of one fetches it, for nobody's word is enough, and has it copied
//! to the n peers that should hold the stripe and to whoever says that it holds a shard of it; whoever gets
//! it drops its shards. Tombstones move with the arc, are not trimmed, and age from their receipt.
//!
//! Where shards go is the policy's business (`preference`, [`placement`](crate::placement)), and so is the
//! locator that is left with the first peers from the id of a stripe whose holders lie elsewhere.
//!
//! The driver inserts all its store holds before the first call that shows a settled ring: what is not
//! reported counts as lost after `settle`. It calls `handle_timeout` at `poll_timeout`, and empties
//! `poll_transmit` and `poll_effect` after every call.

mod audit;
mod holder;
mod key;
mod matching;
mod message;
mod peers;
mod primary;
mod sweep;
mod sync;
#[cfg(test)]
mod tests;
mod timers;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use matching::matched;
pub use message::{
    BUCKETS, Entry, Holds, Listing, MAX_ASKED, MAX_ENTRIES, Pin, Question, Report, Reported, Request,
    Response, Status, TrimOrder,
};
pub use types::{
    CustodyConfig, CustodyStats, Effect, Holding, JobId, JobOutcome, LOCATOR, RequestId, Shape, ShardRecord,
    Standing, State, StripeRecord, TOMBSTONE, Transmit,
};

use crate::placement::Roster;
use crate::{Id, Membership, Peer, Time};
use audit::Audits;
use holder::inventory::Inventory;
use holder::lease::Inquiries;
use holder::search::Searches;
use holder::trim::Trims;
use key::{ShardKey, Slot};
use peers::{Handle, Peers};
use primary::Jobs;
use primary::reports::{Reports, StripeHealth};
use sync::discover::Discovered;
use sync::outbox::Asked;
use types::{MAX_PAGE, is_shard};

/// Shards or stripes looked at in one `handle_timeout`.
const SLICE: usize = 512;
/// Everything is looked at again after this many idle exchange periods, whatever was or was not noticed.
const SWEEP_PERIODS: u32 = 10;

/// The custody state machine of one peer.
#[derive(Debug)]
pub struct Custody {
    config: CustodyConfig,
    rng: ChaCha8Rng,
    peers: Peers,
    inventory: Inventory,
    reports: Reports,
    jobs: Jobs,
    trims: Trims,
    searches: Searches,
    /// Shards the driver was asked to drop and may still find in the store.
    dropping: BTreeSet<ShardKey>,
    inquiries: Inquiries,
    discovered: Discovered,
    audits: Audits,
    /// All peers in the order of runs, where a policy asked for it since the membership changed.
    roster: Option<Roster>,
    needs_roster: bool,
    requests: BTreeMap<RequestId, (Handle, Asked)>,
    transmits: VecDeque<Transmit>,
    effects: VecDeque<Effect>,
    next_request: u64,
    instance: u64,
    sequence: u64,
    /// The moment of the last call.
    now: Time,
    settled: bool,
    /// When an unsettled ring is looked at again.
    recheck: Time,
    swept: Time,
}

impl Custody {
    /// Custody of an empty store. Next the driver inserts what the store holds.
    pub fn new(mut config: CustodyConfig, me: Peer, seed: u64, now: Time) -> Self {
        config.page = config.page.clamp(1, MAX_PAGE);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let instance = rng.next_u64();
        Self {
            instance,
            rng,
            peers: Peers::new(me, config.repair_delay, now),
            inventory: Inventory::default(),
            reports: Reports::default(),
            jobs: Jobs::default(),
            trims: Trims::new(config.pin, instance),
            searches: Searches::default(),
            dropping: BTreeSet::new(),
            inquiries: Inquiries::new(),
            discovered: Discovered::new(),
            audits: Audits::new(now),
            roster: None,
            needs_roster: false,
            requests: BTreeMap::new(),
            transmits: VecDeque::new(),
            effects: VecDeque::new(),
            next_request: 0,
            sequence: 0,
            now,
            settled: false,
            recheck: now,
            swept: now,
            config,
        }
    }

    fn jitter(&mut self) -> f64 {
        0.9 + 0.2 * f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }

    /// The primary of a stripe in the ring's view: its first successor, this peer possible.
    pub fn primary_of(&self, ring: &impl Membership, stripe: Id) -> Option<Peer> {
        ring.successors(stripe, 1).first().map(|member| member.peer)
    }

    /// The ring's view changed, or may have.
    pub fn membership_changed(&mut self, now: Time, ring: &impl Membership) {
        self.now = now;
        let observed = self.peers.observe(now, ring);
        for peer in &observed.arrived {
            let record = self.peers.get_mut(*peer);
            record.outbox.solicit(now + self.config.exchange_dirty * 2);
            record.outgoing.soon(now + self.config.exchange_dirty);
        }
        if observed.vanished {
            self.audit_soon(now);
        }
        if observed.changed {
            self.roster = None;
            // Who is legal, stays and precedes may not be so any more.
            self.trims.give_up();
            for peer in self.peers.all() {
                self.peers.arm(peer);
            }
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Time) {
        self.swept = now;
        self.inventory.sweep.start();
        self.reports.sweep.start();
    }

    /// The clock jumped or the event loop stalled: the others may have been there all the time.
    pub fn handle_stall(&mut self, now: Time) {
        self.now = now;
        self.peers.stalled(now);
        self.audits.stalled();
        self.sweep(now);
    }

    /// Looks at every stripe now, asks every peer for a report, forgives failures.
    pub fn check_now(&mut self, now: Time, ring: &impl Membership) {
        self.membership_changed(now, ring);
        self.forgive();
        for peer in self.peers.all() {
            let record = self.peers.get_mut(peer);
            record.outbox.solicit(now);
            record.outgoing.soon(now);
            self.peers.arm(peer);
        }
        self.sweep(now);
    }

    /// Somebody says that a peer will not be back: its shards count as lost as soon as the ring knows that it
    /// does not answer. Whether that is so by now. One that was not met since the start is missed too: what
    /// it holds nobody has spoken of.
    pub fn forget(&mut self, now: Time, ring: &impl Membership, peer: Peer) -> bool {
        self.membership_changed(now, ring);
        let met = self.peers.find(peer);
        let handle = met.or_else(|| self.peers.note_unmet(now, peer, ring.is_alive(peer)));
        let forgotten = handle.is_some_and(|handle| self.peers.forget(now, handle));
        if forgotten {
            self.reports.sweep.start();
        }
        forgotten
    }

    /// Whether somebody said that a peer, which is missed, will not be back.
    pub fn is_forgotten(&self, peer: Peer) -> bool {
        let handle = self.peers.find(peer);
        handle.is_some_and(|handle| self.peers.get(handle).is_forgotten())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, ring: &impl Membership) {
        self.now = now;
        let joined = ring.is_settled() && !std::mem::replace(&mut self.settled, ring.is_settled());
        if !self.settled {
            self.recheck = now + self.config.exchange_dirty;
            return;
        }
        if joined || now >= self.sweep_due() {
            self.membership_changed(now, ring);
            self.sweep(now);
        }
        for key in self.inventory.unsettled(SLICE) {
            let primary = self.primary_of(ring, key.slot.stripe);
            let primary = primary.map(|primary| self.peers.intern(now, primary, true));
            self.set_primary(now, key, primary, false);
        }
        self.trims.handle_timeout(now);
        self.handle_searches(now, ring);
        while let Some(key) = self.inventory.leases.pop_due(now) {
            self.handle_lease(now, ring, key);
        }
        for slot in self.reports.unjudged(now, SLICE) {
            self.judge(now, ring, slot);
        }
        self.launch(now, ring);
        self.handle_audits(now, ring);
        // A report amid the first look at the inventory would withdraw what was not looked at yet.
        if self.inventory.fresh.is_empty() {
            while let Some(peer) = self.peers.pop_due(now) {
                self.attend(now, peer);
            }
        }
    }

    fn sweep_due(&self) -> Time {
        self.swept + self.config.exchange_idle * SWEEP_PERIODS
    }

    /// When `handle_timeout` wants to be called; a time in the past: at once.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.settled {
            return Some(self.recheck);
        }
        let busy = self.inventory.sweep.is_running()
            || self.reports.sweep.is_running()
            || !self.inventory.fresh.is_empty()
            || !self.reports.dirty.is_empty();
        let timers = [
            busy.then_some(self.now),
            Some(self.sweep_due()),
            self.inventory.leases.next(),
            self.reports.wakes.next(),
            self.jobs.poll_timeout(self.config.parallel),
            self.trims.poll_timeout(),
            self.searches.poll_timeout(),
            self.audits.poll_timeout(),
            self.peers.next_due(),
        ];
        timers.into_iter().flatten().min()
    }

    /// The next request to deliver.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next piece of work for the driver.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The most shards that a stripe has of which one is held here; 0 if there is none.
    pub fn widest(&self) -> u8 {
        let shards = self.inventory.shards.iter();
        let shards = shards.filter(|(key, held)| is_shard(key.index) && held.is_committed());
        shards.map(|(_, held)| held.shape.n).max().unwrap_or(0)
    }

    /// The stripes this peer is the primary of, and its repairs.
    pub fn stats(&self) -> CustodyStats {
        CustodyStats {
            safe: self.reports.count(StripeHealth::Safe),
            degraded: self.reports.count(StripeHealth::Degraded),
            unaudited: self.reports.count(StripeHealth::Unaudited),
            endangered: self.reports.count(StripeHealth::Endangered),
            lost: self.reports.count(StripeHealth::Lost),
            pending: self.reports.count(StripeHealth::Pending),
            unsure: self.reports.count(StripeHealth::Unsure),
            inconsistent: self.reports.inconsistent(),
            repairs_waiting: self.jobs.waiting(),
            repairs_running: self.jobs.running(),
            parked: self.reports.parked(),
            regenerated_total: self.jobs.regenerated_total,
            bytes_total: self.jobs.bytes_total,
            taken_over_total: self.audits.taken_over_total,
        }
    }

    /// The stripes this peer is the primary of with fewer than k shards, as far as holders reported.
    pub fn lost(&self) -> impl Iterator<Item = (Id, Shape)> {
        let stripes = self.reports.stripes.iter();
        let lost = stripes.filter(|(_, known)| known.health == StripeHealth::Lost);
        lost.map(|(slot, known)| (slot.stripe, known.shape))
    }

    /// What holders reported to this peer of a stripe; none if nothing.
    pub fn stripe(&self, stripe: Id) -> Option<StripeRecord> {
        let known = self.reports.stripes.get(&Slot::of(stripe))?;
        let mut shards: Vec<ShardRecord> = known
            .claims
            .iter()
            .filter(|claim| is_shard(claim.index))
            .map(|claim| ShardRecord {
                index: claim.index,
                peer: self.peers.get(claim.peer).peer,
                committed: claim.committed,
                standing: self.peers.standing(self.now, claim.peer),
            })
            .collect();
        shards.sort_by_key(|shard| (shard.index, shard.peer));
        Some(StripeRecord {
            shape: known.shape,
            primary: known.tracked.is_some(),
            shards,
        })
    }
}
