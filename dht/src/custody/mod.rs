//! Who must hold which shard, and what to do when somebody does not.
//!
//! Custody knows stripe ids and shard indices, never bytes. Every peer plays three roles at once, which share
//! one exchange of messages:
//!
//! * The **holder** (`holder`) keeps the inventory of its own store and reports each shard to the shard's
//!   *primary*, the first successor of the stripe id in its view. It drops excess shards by the safe rule,
//!   and pending ones when their lease ended and nobody knows of a commit.
//! * The **primary** (`primary`) puts the reports together and judges what each stripe needs. It has missing
//!   shards regenerated, misplaced ones handed off, excess ones trimmed and commits spread.
//! * The **auditor** (`audit`) asks what holders have of a stripe. It does so for primaries that have
//!   repaired, and takes over where a primary does not repair.
//! * The **exchange** (`sync`) compares inventories with few bytes and carries the messages of all roles.
//!
//! # Invariants
//!
//! A shard that [`Effect::Drop`] names was confirmed elsewhere, with n distinct legal holders of all indices
//! answering; or it was pending past its lease, with no living peer that knows of a commit and no suspect one
//! that might; or its stripe is deleted and the tombstone is held here. No primary need be right: two that
//! disagree waste work and lose nothing. No peer need be honest: a liar hides or takes one index of a stripe,
//! which is what parity is for, and what it claims or orders beyond that is checked or put up with. No call
//! costs more than a bounded slice of the inventory.
//!
//! # Deletion
//!
//! A deleted stripe leaves a *tombstone*. It is held, reported to the primary and handed off like a shard,
//! under an index that no shard has. A primary that hears of one fetches it, for nobody's word is enough. It
//! has the tombstone replicated to the n peers that should hold the stripe, and to whoever says that it holds
//! a shard of it. Whoever gets the tombstone drops its shards. Tombstones move with the arc, are not trimmed,
//! and age from their receipt.
//!
//! # Placement
//!
//! Where shards go is the policy's business (`candidates`, [`placement`](crate::placement)), and so is the
//! locator that the responsible set of a stripe keeps when the holders cannot be found from its id.

mod audit;
mod candidates;
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

use std::collections::VecDeque;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use key::{Item, LOCATOR, RECORDS, TOMBSTONE};
pub use matching::Redundancy;
pub use message::{
    BUCKETS, Entry, Holds, Listing, MAX_ASKED, MAX_ENTRIES, Pin, Question, Report, Reported, Request,
    Response, Status, TrimOrder,
};
pub use types::{
    CustodyConfig, CustodyStats, Effect, Holding, JobId, JobOutcome, RequestId, Shape, ShardRecord, Standing,
    StripeRecord, Tenure, Transmit,
};

use crate::{Id, Peer, RingView, Time};
use audit::Audits;
use candidates::Rosters;
use holder::Holder;
use peers::Peers;
use primary::Primary;
use sync::Sync;
use types::MAX_PAGE;

/// Shards or stripes looked at in one `handle_timeout`.
const SLICE: usize = 512;
/// Everything is looked at again after this many idle exchange periods, whatever was or was not noticed.
const SWEEP_PERIODS: u32 = 10;
/// Time between two instructions about one stripe, to let the first be followed and reported.
const RETRY: Duration = Duration::from_secs(10);

/// The custody state machine of one peer. All of its parts look at the same stripes, so it is one type; the
/// methods of each role stand in that role's module.
///
/// The methods come in families.
///
/// * **Commands** say what happened at this peer: [`insert`](Self::insert), [`committed`](Self::committed),
///   [`renew`](Self::renew), [`removed`](Self::removed), [`spared`](Self::spared),
///   [`begin_discard`](Self::begin_discard), [`vouch_for_all`](Self::vouch_for_all) for the local store;
///   [`membership_changed`](Self::membership_changed), [`forget`](Self::forget) and
///   [`check_now`](Self::check_now) for the network.
/// * **Inputs**, `handle_*`, bring what others say and what time does:
///   [`handle_request`](Self::handle_request), [`handle_response`](Self::handle_response),
///   [`handle_failure`](Self::handle_failure), [`handle_job`](Self::handle_job),
///   [`handle_timeout`](Self::handle_timeout), [`handle_stall`](Self::handle_stall).
/// * **Outputs**, `poll_*`, say what is to be done: [`poll_transmit`](Self::poll_transmit),
///   [`poll_effect`](Self::poll_effect), [`poll_timeout`](Self::poll_timeout).
/// * **Getters** change nothing: [`stats`](Self::stats), [`stripe`](Self::stripe), [`lost`](Self::lost),
///   [`primary_of`](Self::primary_of), [`believes`](Self::believes), [`held_after`](Self::held_after),
///   [`widest`](Self::widest), [`is_forgotten`](Self::is_forgotten), [`needs_roster`](Self::needs_roster).
///   [`may_hold`](Self::may_hold) is one too, but for what it remembers to answer sooner.
///
/// The driver inserts all that its store holds before the first call that shows a settled ring: what is not
/// reported counts as lost after `settle`. After every command and input it empties `poll_transmit`, then
/// `poll_effect`, then asks `poll_timeout` when to call `handle_timeout`.
///
/// A peer that is alone holds one of two copies. It is the primary, and finds nobody to repair to:
///
/// ```
/// use mutualstore_dht::custody::{Custody, CustodyConfig, Holding, Item, Shape, Tenure};
/// use mutualstore_dht::placement::Placement;
/// use mutualstore_dht::{Id, Member, Peer, PeerState, RingView, Time};
/// use std::time::Duration;
///
/// struct Alone(Peer);
/// impl RingView for Alone {
///     fn me(&self) -> Peer { self.0 }
///     fn successors(&self, _: Id, _: usize) -> Vec<Member> {
///         vec![Member { peer: self.0, state: PeerState::Accepting }]
///     }
///     fn is_alive(&self, peer: Peer) -> bool { peer == self.0 }
///     fn moves(&self) -> u64 { 0 }
///     fn is_settled(&self) -> bool { true }
/// }
///
/// let ring = Alone(Peer::new([7; 32]));
/// let mut custody = Custody::new(CustodyConfig::default(), ring.0, 1, Time::ZERO);
/// let shape = Shape { k: 1, n: 2, shard_len: 5, placement: Placement::Successors };
/// let stripe = Id::new([1; 32]);
/// let (item, tenure) = (Item::Shard(0), Tenure::Committed);
/// custody.insert(Time::ZERO, Holding { stripe, item, shape, tenure });
///
/// let end = Time::ZERO + Duration::from_secs(60);
/// while let Some(due) = custody.poll_timeout().filter(|due| *due <= end) {
///     custody.handle_timeout(due, &ring);
/// }
/// assert_eq!(custody.poll_effect(), None);
/// let stats = custody.stats();
/// assert_eq!((stats.endangered, stats.parked), (1, 1));
/// ```
#[derive(Debug)]
pub struct Custody {
    config: CustodyConfig,
    rng: ChaCha8Rng,
    schedule: Schedule,
    peers: Peers,
    rosters: Rosters,
    holder: Holder,
    primary: Primary,
    audits: Audits,
    sync: Sync,
    effects: VecDeque<Effect>,
}

/// The time, and when everything is looked at again.
#[derive(Debug)]
struct Schedule {
    /// The moment of the last call.
    now: Time,
    /// The ring has been settled. A ring that is not settled any more does not put custody to rest.
    settled: bool,
    /// When an unsettled ring is looked at again.
    recheck: Time,
    /// When everything was last looked at.
    swept: Time,
}

/// Commands for the network; those for the local store stand with the holder.
impl Custody {
    /// Custody of an empty store. Next the driver inserts what the store holds.
    pub fn new(mut config: CustodyConfig, me: Peer, seed: u64, now: Time) -> Self {
        config.page = config.page.clamp(1, MAX_PAGE);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let instance = rng.next_u64();
        Self {
            rng,
            schedule: Schedule {
                now,
                settled: false,
                recheck: now,
                swept: now,
            },
            peers: Peers::new(me, config.repair_delay, now),
            rosters: Rosters::default(),
            holder: Holder::new(config.pin, instance),
            primary: Primary::default(),
            audits: Audits::new(now),
            sync: Sync::new(instance),
            effects: VecDeque::new(),
            config,
        }
    }

    /// The ring's view changed, or may have.
    pub fn membership_changed(&mut self, now: Time, ring: &impl RingView) {
        self.schedule.now = now;
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
            self.rosters.membership_changed();
            self.holder.membership_changed();
            for peer in self.peers.all() {
                self.peers.arm(peer);
            }
            self.sweep(now);
        }
    }

    /// Looks at every stripe now, asks every peer for a report, forgives failures.
    pub fn check_now(&mut self, now: Time, ring: &impl RingView) {
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
    pub fn forget(&mut self, now: Time, ring: &impl RingView, peer: Peer) -> bool {
        self.membership_changed(now, ring);
        let met = self.peers.find(peer);
        let handle = met.or_else(|| self.peers.note_unmet(now, peer, ring.is_alive(peer)));
        let forgotten = handle.is_some_and(|handle| self.peers.forget(now, handle));
        if forgotten {
            self.primary.start_sweep();
        }
        forgotten
    }

    fn sweep(&mut self, now: Time) {
        self.schedule.swept = now;
        self.holder.start_sweep();
        self.primary.start_sweep();
    }

    fn sweep_due(&self) -> Time {
        self.schedule.swept + self.config.exchange_idle * SWEEP_PERIODS
    }

    fn jitter(&mut self) -> f64 {
        0.9 + 0.2 * f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }
}

/// Inputs of the clock; those of the network stand with the exchange, jobs with the primary.
impl Custody {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, ring: &impl RingView) {
        self.schedule.now = now;
        let joined = ring.is_settled() && !self.schedule.settled;
        self.schedule.settled |= joined;
        if !self.schedule.settled {
            self.schedule.recheck = now + self.config.exchange_dirty;
            return;
        }
        if joined || now >= self.sweep_due() {
            self.membership_changed(now, ring);
            self.sweep(now);
        }
        self.handle_holder_timeout(now, ring);
        self.handle_primary_timeout(now, ring);
        self.handle_audits(now, ring);
        // A report amid the first look at the inventory would withdraw what was not looked at yet.
        if !self.holder.has_fresh() {
            while let Some(peer) = self.peers.pop_due(now) {
                self.attend(now, peer);
            }
        }
    }

    /// The clock jumped or the event loop stalled: the others may have been there all the time.
    pub fn handle_stall(&mut self, now: Time) {
        self.schedule.now = now;
        self.peers.stalled(now);
        self.audits.stalled();
        self.sweep(now);
    }
}

/// What is to be done.
impl Custody {
    /// The next request to deliver.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.sync.poll_transmit()
    }

    /// The next piece of work for the driver.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `handle_timeout` wants to be called; a time in the past: at once.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.schedule.settled {
            return Some(self.schedule.recheck);
        }
        let busy = self.holder.is_busy() || self.primary.is_busy();
        let timers = [
            busy.then_some(self.schedule.now),
            Some(self.sweep_due()),
            self.holder.poll_timeout(),
            self.primary.poll_timeout(self.config.parallel),
            self.audits.poll_timeout(),
            self.peers.next_due(),
        ];
        timers.into_iter().flatten().min()
    }
}

/// Getters; those of inventories and stripes stand with the holder and the primary.
impl Custody {
    /// The primary of a stripe in the ring's view: its first successor, this peer possible.
    pub fn primary_of(&self, ring: &impl RingView, stripe: Id) -> Option<Peer> {
        ring.successors(stripe, 1).first().map(|member| member.peer)
    }

    /// Whether somebody said that a peer, which is missed, will not be back.
    pub fn is_forgotten(&self, peer: Peer) -> bool {
        let handle = self.peers.find(peer);
        handle.is_some_and(|handle| self.peers.get(handle).is_forgotten())
    }

    /// How long a peer is away before its shards are made anew elsewhere.
    pub fn repair_delay(&self) -> Duration {
        self.config.repair_delay
    }

    /// The stripes this peer is the primary of, and its repairs.
    pub fn stats(&self) -> CustodyStats {
        CustodyStats {
            taken_over_total: self.audits.taken_over_total(),
            ..self.primary.stats()
        }
    }
}
