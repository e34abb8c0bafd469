//! Who must hold which shard, and what to do when somebody does not.
//!
//! Custody knows stripe ids and shard indices, never bytes. Every peer plays three parts at once:
//!
//! * The **holder** keeps the inventory of its own store and reports each shard to the shard's *home*, the first
//!   successor of the stripe id in its view ([`exchange`]). It drops surplus shards by the safe rule ([`trim`])
//!   and pending ones when their lease ended and nobody knows of a commit ([`lease`]).
//! * The **home** puts the reports together ([`home`]), judges what each stripe needs ([`plan`]) and has
//!   missing shards regenerated, misplaced ones copied to their place, surplus ones trimmed and commits
//!   spread ([`repair`]).
//! * The **witness** answers questions about what it holds.
//!
//! Invariants. A shard that [`Effect::Drop`] names was either confirmed elsewhere, with n distinct indices
//! answering, or pending past its lease with no living peer that knows of a commit and no suspect one that
//! might. No home ever needs to be right: two that disagree waste work and lose nothing. No call
//! costs more than a bounded slice of the inventory.
//!
//! Placement is `successors` alone. Deliberately absent so far: tombstones, locators of other policies, the
//! take-over from a home that is alive but wedged.
//!
//! The driver calls `handle_timeout` at `poll_timeout`, and empties `poll_transmit` and `poll_effect` after every
//! call.

mod exchange;
mod fingerprint;
mod home;
mod inventory;
mod lease;
mod message;
mod outbox;
mod peers;
mod plan;
mod repair;
mod sweep;
#[cfg(test)]
mod tests;
mod timers;
mod trim;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use message::{
    BUCKETS, Entry, Listing, MAX_ENTRIES, Report, Reported, Request, Response, Status, TrimOrder,
};
pub use types::{
    CustodyConfig, Effect, Health, Holding, JobId, JobOutcome, RequestId, Shape, ShardRecord, Standing,
    State, StripeRecord, Transmit,
};

use crate::{Id, Membership, Peer, Time};
use fingerprint::{ShardKey, Slot};
use home::{Claim, Class, Home};
use inventory::{Held, Inventory, Tenure};
use lease::Inquiries;
use outbox::Asked;
use peers::{Handle, ME, Peers};
use repair::Jobs;
use trim::Trims;

/// Shards or stripes looked at in one `handle_timeout`.
const SLICE: usize = 512;
/// Everything is looked at again after this many idle exchange periods, whatever was or was not noticed.
const SWEEP_PERIODS: u32 = 10;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The custody state machine of one peer.
#[derive(Debug)]
pub struct Custody {
    config: CustodyConfig,
    rng: ChaCha8Rng,
    peers: Peers,
    inventory: Inventory,
    home: Home,
    jobs: Jobs,
    trims: Trims,
    inquiries: Inquiries,
    requests: BTreeMap<RequestId, (Handle, Asked)>,
    transmits: VecDeque<Transmit>,
    effects: VecDeque<Effect>,
    next_request: u64,
    instance: u64,
    sequence: u64,
    /// The moment of the last call.
    now: Time,
    settled: bool,
    swept: Time,
}

impl Custody {
    /// Custody of an empty store. The driver inserts what the store holds.
    pub fn new(config: CustodyConfig, me: Peer, seed: u64, now: Time) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            instance: rng.next_u64(),
            rng,
            peers: Peers::new(me, config.repair_delay, now),
            inventory: Inventory::default(),
            home: Home::default(),
            jobs: Jobs::default(),
            trims: Trims::new(config.pin),
            inquiries: Inquiries::new(),
            requests: BTreeMap::new(),
            transmits: VecDeque::new(),
            effects: VecDeque::new(),
            next_request: 0,
            sequence: 0,
            now,
            settled: false,
            swept: now,
            config,
        }
    }

    fn jitter(&mut self) -> f64 {
        0.9 + 0.2 * f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }

    /// The local store holds a shard, durable and verified. Again for a held one: a later lease end, or
    /// committed; a committed one never becomes pending. An index that is not below n is ignored.
    pub fn insert(&mut self, now: Time, holding: Holding) {
        self.now = now;
        let key = ShardKey::new(holding.stripe, holding.index);
        if !holding.shape.is_valid() || holding.index >= holding.shape.n {
            return;
        }
        let tenure = match holding.state {
            State::Committed => Tenure::Committed,
            State::Pending { until, writer } => Tenure::Pending {
                until,
                writer: self.peers.intern(now, writer, false),
            },
        };
        if self.inventory.shards.contains_key(&key) {
            self.set_tenure(now, key, tenure);
            return;
        }
        let held = Held {
            shape: holding.shape,
            tenure,
            home: None,
            hinted: false,
            wake: None,
        };
        self.inventory.shards.insert(key, held);
        self.inventory.fresh.insert(key);
        self.arm_lease(key);
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
        self.retract(now, key);
        self.inventory.arm(key, None);
        self.inventory.shards.remove(&key);
        self.inventory.fresh.remove(&key);
        self.trims.forget(key);
    }

    fn drop_shard(&mut self, now: Time, key: ShardKey) {
        self.removed(now, key.slot.stripe, key.index);
        self.effects.push_back(Effect::Drop {
            stripe: key.slot.stripe,
            index: key.index,
        });
    }

    fn keys_of(&self, stripe: Id) -> Vec<ShardKey> {
        self.inventory.of(stripe).map(|(key, _)| key).collect()
    }

    fn arm_lease(&mut self, key: ShardKey) {
        let at = match self.inventory.shards.get(&key).map(|held| held.tenure) {
            Some(Tenure::Pending { until, .. }) => Some(until),
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
            let home = self.inventory.shards.get(&key).and_then(|held| held.home);
            if let Some(home) = home.filter(|home| *home != ME) {
                let outgoing = &mut self.peers.get_mut(home).outgoing;
                outgoing.remove(now, key, false, &self.config);
            }
            self.announce(now, key);
        }
    }

    /// Takes a shard into what is reported to its home.
    fn announce(&mut self, now: Time, key: ShardKey) {
        let Some(held) = self.inventory.shards.get(&key) else {
            return;
        };
        let committed = held.is_committed();
        match held.home {
            Some(ME) => {
                let claim = Claim {
                    peer: ME,
                    index: key.index,
                    committed,
                };
                let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
                let nag = now + self.config.settle();
                self.home.claim(key, held.shape, claim, record, nag);
            }
            Some(home) => {
                let outgoing = &mut self.peers.get_mut(home).outgoing;
                outgoing.add(now, key, committed, &self.config);
                self.peers.arm(home);
            }
            None => {}
        }
    }

    /// Takes a shard out of what is reported to its home.
    fn retract(&mut self, now: Time, key: ShardKey) {
        let Some(held) = self.inventory.shards.get(&key) else {
            return;
        };
        match held.home {
            Some(ME) => {
                let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
                self.home.withdraw(now, key, ME, record);
            }
            Some(home) => {
                let outgoing = &mut self.peers.get_mut(home).outgoing;
                outgoing.remove(now, key, held.is_committed(), &self.config);
                self.peers.arm(home);
            }
            None => {}
        }
    }

    fn set_home(&mut self, now: Time, key: ShardKey, home: Option<Handle>, hinted: bool) {
        let Some(held) = self.inventory.shards.get_mut(&key) else {
            return;
        };
        held.hinted = hinted;
        if held.home == home {
            return;
        }
        self.retract(now, key);
        if let Some(held) = self.inventory.shards.get_mut(&key) {
            held.home = home;
        }
        self.announce(now, key);
    }

    /// The home of a stripe in the ring's view: its first successor, this peer possible.
    pub fn home_of(&self, ring: &impl Membership, stripe: Id) -> Option<Peer> {
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
        if observed.changed {
            for peer in self.peers.all() {
                self.peers.arm(peer);
            }
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Time) {
        self.swept = now;
        self.inventory.sweep.start();
        self.home.sweep.start();
    }

    /// The clock jumped or the event loop stalled: the others may have been there all the time.
    pub fn handle_stall(&mut self, now: Time) {
        self.now = now;
        self.peers.stalled(now);
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

    /// Answers another peer.
    pub fn handle_request(
        &mut self,
        now: Time,
        ring: &impl Membership,
        from: Peer,
        request: Request,
    ) -> Response {
        self.now = now;
        let peer = self.peers.intern(now, from, ring.is_alive(from));
        match request {
            Request::Report(report) => Response::Reported(self.handle_report(now, ring, peer, &report)),
            Request::Solicit => {
                self.peers.get_mut(peer).outgoing.soon(now);
                self.peers.arm(peer);
                Response::Taken
            }
            Request::Commit { stripes } => {
                for stripe in stripes {
                    if self.inventory.has_pending(stripe) {
                        self.effects.push_back(Effect::Commit { stripe });
                    }
                }
                Response::Taken
            }
            Request::Trim { orders } => {
                for order in &orders {
                    self.begin_trim(now, ring, order);
                }
                Response::Taken
            }
            Request::Confirm { shards } => {
                let keys = shards
                    .into_iter()
                    .map(|(stripe, index)| ShardKey::new(stripe, index));
                Response::Confirmed(keys.map(|key| self.confirm(now, key)).collect())
            }
            Request::Status { stripes } => {
                Response::Statuses(stripes.into_iter().map(|stripe| self.status(stripe)).collect())
            }
        }
    }

    fn confirm(&mut self, now: Time, key: ShardKey) -> bool {
        self.inventory.has_committed(key) && self.trims.confirm(now, key)
    }

    fn handle_report(
        &mut self,
        now: Time,
        ring: &impl Membership,
        holder: Handle,
        report: &Report,
    ) -> Reported {
        let nag = now + self.config.settle();
        let record = self.peers.get_mut(holder);
        record.outbox.reported();
        let mut elsewhere = Vec::new();
        if record.incoming.admit(report.instance, report.sequence) {
            for listing in &report.listings {
                let fingerprints = &mut record.incoming.fingerprints;
                self.home.replace(now, holder, listing, fingerprints, nag);
            }
            if ring.is_settled() {
                let listed = report.listings.iter().flat_map(|listing| &listing.entries);
                let homes = listed.filter_map(|entry| Some((entry.stripe, ring.successors(entry.stripe, 1))));
                elsewhere = homes
                    .filter_map(|(stripe, first)| Some((stripe, first.first()?.peer)))
                    .filter(|(_, home)| *home != ring.me())
                    .collect();
            }
        }
        let fingerprints = &record.incoming.fingerprints;
        let same = fingerprints.total() == report.total;
        let differs = (!same).then(|| fingerprints.sums());
        if same && self.peers.synced(holder) {
            self.home.sweep.start();
        }
        Reported { differs, elsewhere }
    }

    /// An order to drop a surplus shard came: the question goes to whoever must confirm.
    fn begin_trim(&mut self, now: Time, ring: &impl Membership, order: &TrimOrder) {
        let key = ShardKey::new(order.stripe, order.index);
        let Some(held) = self.inventory.shards.get(&key).filter(|held| held.is_committed()) else {
            return;
        };
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
            } else if !self.confirm(now, shard) {
                return;
            }
        }
        if waiting.iter().all(|(_, peer)| self.peers.is_alive(*peer))
            && self.trims.begin(now, key, waiting.clone())
        {
            for (shard, peer) in waiting {
                self.peers.get_mut(peer).outbox.confirm(shard);
                self.peers.arm(peer);
            }
        }
    }

    /// A request was answered. Unknown ids are ignored.
    pub fn handle_response(&mut self, now: Time, ring: &impl Membership, id: RequestId, response: Response) {
        self.now = now;
        let Some((peer, asked)) = self.requests.remove(&id) else {
            return;
        };
        match (asked, response) {
            (Asked::Report, Response::Reported(reported)) => self.handle_reported(now, ring, peer, &reported),
            (Asked::Solicit | Asked::Commit | Asked::Trim, Response::Taken) => {
                self.peers.get_mut(peer).outbox.answered();
            }
            (Asked::Confirm(keys), Response::Confirmed(answers)) if keys.len() == answers.len() => {
                self.peers.get_mut(peer).outbox.answered();
                for (key, yes) in keys.into_iter().zip(answers) {
                    self.handle_confirmed(now, peer, key, yes);
                }
            }
            (Asked::Status(stripes), Response::Statuses(answers)) if stripes.len() == answers.len() => {
                self.peers.get_mut(peer).outbox.answered();
                for (stripe, status) in stripes.into_iter().zip(answers) {
                    self.handle_status(now, peer, stripe, Some(status));
                }
            }
            (asked, _) => self.unanswered(now, peer, asked),
        }
        self.peers.arm(peer);
    }

    /// A request was not answered in time, or could not be delivered. Unknown ids are ignored.
    pub fn handle_failure(&mut self, now: Time, _ring: &impl Membership, id: RequestId) {
        self.now = now;
        if let Some((peer, asked)) = self.requests.remove(&id) {
            self.unanswered(now, peer, asked);
            self.peers.arm(peer);
        }
    }

    fn unanswered(&mut self, now: Time, peer: Handle, asked: Asked) {
        let retry = now + self.config.exchange_dirty * 2;
        let record = self.peers.get_mut(peer);
        match asked {
            Asked::Report => record.outgoing.failed(now, &self.config),
            Asked::Solicit => {
                record.outbox.failed(retry);
                record.outbox.solicit(retry);
            }
            // The home finds what is still to be done again.
            Asked::Commit | Asked::Trim => record.outbox.failed(retry),
            Asked::Confirm(keys) => {
                record.outbox.failed(retry);
                for key in keys {
                    self.trims.denied(key, peer);
                }
            }
            Asked::Status(stripes) => {
                record.outbox.failed(retry);
                for stripe in stripes {
                    self.handle_status(now, peer, stripe, None);
                }
            }
        }
    }

    fn handle_reported(&mut self, now: Time, ring: &impl Membership, home: Handle, reported: &Reported) {
        let jitter = self.jitter();
        let outgoing = &mut self.peers.get_mut(home).outgoing;
        match &reported.differs {
            None => outgoing.agreed(now, &self.config, jitter),
            Some(theirs) => outgoing.differs(now, theirs, &self.config),
        }
        for (stripe, peer) in &reported.elsewhere {
            if !ring.is_alive(*peer) && *peer != ring.me() {
                continue;
            }
            let hint = self.peers.intern(now, *peer, true);
            for key in self.keys_of(*stripe) {
                let held = self.inventory.shards.get(&key);
                // A second hint would be a contradiction: this peer's own view has to settle it.
                if held.is_some_and(|held| held.home == Some(home) && !held.hinted) {
                    self.set_home(now, key, Some(hint), true);
                }
            }
        }
    }

    fn handle_confirmed(&mut self, now: Time, peer: Handle, key: ShardKey, yes: bool) {
        if !yes {
            self.trims.denied(key, peer);
            return;
        }
        for surplus in self.trims.confirmed(now, key, peer) {
            if self.inventory.has_committed(surplus) {
                self.drop_shard(now, surplus);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, ring: &impl Membership) {
        self.now = now;
        let joined = ring.is_settled() && !std::mem::replace(&mut self.settled, ring.is_settled());
        if !self.settled {
            return;
        }
        if joined || now >= self.sweep_due() {
            self.membership_changed(now, ring);
            self.sweep(now);
        }
        for key in self.inventory.unsettled(SLICE) {
            let home = self.home_of(ring, key.slot.stripe);
            let home = home.map(|home| self.peers.intern(now, home, true));
            self.set_home(now, key, home, false);
        }
        self.trims.handle_timeout(now);
        while let Some(key) = self.inventory.leases.pop_due(now) {
            self.handle_lease(now, ring, key);
        }
        for slot in self.home.unjudged(now, SLICE) {
            self.judge(now, ring, slot);
        }
        self.launch(now, ring);
        while let Some(peer) = self.peers.pop_due(now) {
            self.attend(now, peer);
        }
    }

    fn sweep_due(&self) -> Time {
        self.swept + self.config.exchange_idle * SWEEP_PERIODS
    }

    /// Sends what waits for a peer.
    fn attend(&mut self, now: Time, peer: Handle) {
        let record = self.peers.get_mut(peer);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let mut messages = Vec::new();
        if due(record.outgoing.due()) {
            let page = self.config.page;
            let (total, listings) = record.outgoing.report(peer, &self.inventory.shards, page);
            self.sequence += 1;
            let report = Report {
                instance: self.instance,
                sequence: self.sequence,
                total,
                listings,
            };
            messages.push((Request::Report(report), Asked::Report));
        }
        if due(record.outbox.due()) {
            messages.extend(record.outbox.next());
        }
        let to = record.peer;
        self.peers.arm(peer);
        for (request, asked) in messages {
            let id = RequestId(self.next_request);
            self.next_request += 1;
            self.requests.insert(id, (peer, asked));
            self.transmits.push_back(Transmit {
                id,
                to,
                request,
                deadline: DEADLINE,
            });
        }
    }

    /// When `handle_timeout` wants to be called; a time in the past: at once.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.settled {
            return Some(self.now + self.config.exchange_dirty);
        }
        let busy = self.inventory.sweep.is_running()
            || self.home.sweep.is_running()
            || !self.inventory.fresh.is_empty()
            || !self.home.dirty.is_empty();
        let timers = [
            busy.then_some(self.now),
            Some(self.sweep_due()),
            self.inventory.leases.next(),
            self.home.wakes.next(),
            self.jobs.poll_timeout(self.config.parallel),
            self.trims.poll_timeout(),
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

    /// The stripes this peer is home of, and its repairs.
    pub fn health(&self) -> Health {
        Health {
            safe: self.home.count(Class::Safe),
            degraded: self.home.count(Class::Degraded),
            endangered: self.home.count(Class::Endangered),
            lost: self.home.count(Class::Lost),
            pending: self.home.count(Class::Pending),
            unsure: self.home.count(Class::Unsure),
            inconsistent: self.home.inconsistent(),
            repairs_waiting: self.jobs.waiting(),
            repairs_running: self.jobs.running(),
            parked: self.home.parked(),
            regenerated_total: self.jobs.regenerated_total,
            bytes_total: self.jobs.bytes_total,
        }
    }

    /// What this peer has been told of a stripe; none if nothing.
    pub fn stripe(&self, stripe: Id) -> Option<StripeRecord> {
        let homed = self.home.stripes.get(&Slot::of(stripe))?;
        let mut shards: Vec<ShardRecord> = homed
            .claims
            .iter()
            .map(|claim| ShardRecord {
                index: claim.index,
                peer: self.peers.get(claim.peer).peer,
                committed: claim.committed,
                standing: self.peers.standing(self.now, claim.peer),
            })
            .collect();
        shards.sort_by_key(|shard| (shard.index, shard.peer));
        Some(StripeRecord {
            shape: homed.shape,
            home: homed.tracked.is_some(),
            shards,
        })
    }
}
