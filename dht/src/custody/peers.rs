//! What custody keeps per peer: whether it is there, and what is being exchanged with it.
//!
//! # Suspicion
//!
//! A peer that leaves the ring's view is suspect from then on, and gone after `repair_delay`. When a quarter
//! of the known peers vanished within `repair_delay`, the likelier cause is a fault of this peer or of a
//! switch: the suspicion of those peers starts anew with each further one that vanishes. The suspicion of
//! others does not, so a flapping peer cannot put off the repair of a dead one for ever. A stall of this peer
//! starts all suspicions anew.
//!
//! A peer that comes back is live once a report of it has matched the record kept of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::sync::exchange::{Incoming, Outgoing};
use super::sync::outbox::Outbox;
use super::timers::Timers;
use super::types::Standing;
use crate::{Id, Member, Peer, PeerState, RingView, Time};

/// The most peers of the ring that are compared to notice changes.
const VIEW: usize = 4096;

/// The most peers that are remembered because others named them, before they are met.
const MAX_UNMET: usize = 1024;

/// A peer that is said to be gone may count as alive here for so long.
const UNNOTICED: Duration = Duration::from_mins(1);

/// A peer, in four bytes. Handles are never given back: a peer met once is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(u32);

impl Handle {
    /// No other is greater.
    pub(super) const MAX: Self = Self(u32::MAX);
}

/// This peer.
pub(super) const ME: Handle = Handle(0);

/// What is kept of one peer. All roles share it, so that a peer is attended to once for all of them.
#[derive(Debug)]
pub(super) struct PeerRecord {
    pub(super) peer: Peer,
    /// The state that the ring reported last.
    pub(super) state: PeerState,
    alive: bool,
    /// The last report since the peer came (back) matched.
    synced: bool,
    /// When it left the view last.
    vanished: Time,
    /// When the present suspicion began.
    since: Time,
    /// When somebody said that it will not be back.
    forgotten: Option<Time>,
    /// Not a target before this: it failed to take a shard.
    pub(super) refused_until: Time,
    /// Its tombstones are disregarded in audits before this: it claimed one and did not show it.
    pub(super) unproven_until: Time,
    /// When it last answered anything. A peer that did lately holds what it held, though a question was lost.
    pub(super) answered: Option<Time>,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    pub(super) outbox: Outbox,
    /// Stripes it reports here whose primary is another peer; the answer to its next report redirects it.
    pub(super) redirected: BTreeSet<Id>,
    due: Option<Time>,
}

impl PeerRecord {
    pub(super) fn is_forgotten(&self) -> bool {
        let in_time = |at| self.vanished <= at + UNNOTICED;
        !self.alive && self.forgotten.is_some_and(in_time)
    }
}

/// All peers ever met, by handle: what the roles ask of a peer, and what each event makes of it.
#[derive(Debug)]
pub(super) struct Peers {
    handles: BTreeMap<Peer, Handle>,
    records: Vec<PeerRecord>,
    agenda: Timers<Handle>,
    view: Vec<Member>,
    /// How many of them were named by others before they were met.
    unmet: usize,
    moves: u64,
    changed: Time,
    /// No suspicion is older than this.
    floor: Time,
    /// When so many peers last vanished together that it was not believed.
    doubted: Time,
    repair_delay: Duration,
}

/// What [`Peers::observe`] saw.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) changed: bool,
    /// Peers that came, or came back.
    pub(super) arrived: Vec<Handle>,
    /// Some peer is not there any more.
    pub(super) vanished: bool,
}

impl Peers {
    pub(super) fn new(me: Peer, repair_delay: Duration, now: Time) -> Self {
        let mut peers = Self {
            handles: BTreeMap::new(),
            records: Vec::new(),
            agenda: Timers::default(),
            view: Vec::new(),
            unmet: 0,
            moves: 0,
            changed: now,
            floor: now,
            doubted: now,
            repair_delay,
        };
        peers.intern(now, me, true);
        peers
    }

    /// The handle of `peer`, which is `alive` in the ring's view if it was not met before.
    pub(super) fn intern(&mut self, now: Time, peer: Peer, alive: bool) -> Handle {
        if let Some(handle) = self.handles.get(&peer) {
            return *handle;
        }
        let handle = Handle(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
        self.handles.insert(peer, handle);
        self.records.push(PeerRecord {
            peer,
            state: PeerState::Accepting,
            alive,
            synced: true,
            vanished: now,
            since: now,
            forgotten: None,
            refused_until: Time::ZERO,
            unproven_until: Time::ZERO,
            answered: None,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            outbox: Outbox::default(),
            redirected: BTreeSet::new(),
            due: None,
        });
        handle
    }

    /// The handle of a peer that was not met but heard of; none when there are too many.
    pub(super) fn note_unmet(&mut self, now: Time, peer: Peer, alive: bool) -> Option<Handle> {
        if self.unmet >= MAX_UNMET {
            return None;
        }
        self.unmet += 1;
        let handle = self.intern(now, peer, alive);
        let record = self.get_mut(handle);
        // It vanished before this peer heard of it.
        (record.vanished, record.since) = (Time::ZERO, Time::ZERO);
        Some(handle)
    }

    pub(super) fn find(&self, peer: Peer) -> Option<Handle> {
        self.handles.get(&peer).copied()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "only intern makes handles, records are never removed"
    )]
    pub(super) fn get(&self, handle: Handle) -> &PeerRecord {
        &self.records[handle.0 as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "only intern makes handles, records are never removed"
    )]
    pub(super) fn get_mut(&mut self, handle: Handle) -> &mut PeerRecord {
        &mut self.records[handle.0 as usize]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Handle> + use<> {
        (0..u32::try_from(self.records.len()).unwrap_or(u32::MAX)).map(Handle)
    }

    /// The living, as the ring said last, this peer included.
    pub(super) fn view(&self) -> &[Member] {
        &self.view
    }

    /// When the membership changed last.
    pub(super) fn changed(&self) -> Time {
        self.changed
    }

    /// Takes over the ring's view.
    pub(super) fn observe(&mut self, now: Time, ring: &impl RingView) -> Observed {
        let view = ring.successors(Id::default(), VIEW);
        let mut observed = Observed::default();
        for member in &view {
            let handle = self.find(member.peer).unwrap_or_else(|| {
                let handle = self.intern(now, member.peer, true);
                observed.arrived.push(handle);
                handle
            });
            self.get_mut(handle).state = member.state;
        }
        for (index, record) in self.records.iter_mut().enumerate().skip(1) {
            let alive = ring.is_alive(record.peer);
            if alive == record.alive {
                continue;
            }
            observed.changed = true;
            record.alive = alive;
            record.since = now;
            record.forgotten = record.forgotten.filter(|_| !alive);
            if alive {
                observed
                    .arrived
                    .push(Handle(u32::try_from(index).unwrap_or(u32::MAX)));
            } else {
                observed.vanished = true;
                record.vanished = now;
                record.synced = false;
                record.outgoing.abandon();
                record.outbox.abandon();
            }
        }
        if observed.vanished {
            self.doubt_mass_vanishing(now);
        }
        let moves = ring.moves();
        if view != self.view || moves != self.moves {
            self.view = view;
            self.moves = moves;
            observed.changed = true;
        }
        if observed.changed {
            self.changed = now;
        }
        observed
    }

    fn doubt_mass_vanishing(&mut self, now: Time) {
        let delay = self.repair_delay;
        let others = || self.records.iter().skip(1);
        let alive = others().filter(|record| record.alive).count();
        let suspect = others()
            .filter(|record| !record.alive && now.since(record.since) < delay)
            .count();
        let fresh = |record: &PeerRecord| !record.alive && now.since(record.vanished) < delay;
        if 4 * others().filter(|record| fresh(record)).count() >= alive + suspect {
            self.doubted = now;
            for record in self.records.iter_mut().skip(1).filter(|record| fresh(record)) {
                record.since = now;
            }
        }
    }

    /// The event loop stalled: all suspicions start anew.
    pub(super) fn stalled(&mut self, now: Time) {
        self.floor = now;
    }

    /// From when on a stripe tracked since `tracked` may be judged to have holders that never reported. They
    /// may be among those that vanished together since, which defers this once.
    pub(super) fn tracked_since(&self, tracked: Time) -> Time {
        let tracked = tracked.max(self.floor);
        if self.doubted.since(tracked) < self.repair_delay {
            tracked.max(self.doubted)
        } else {
            tracked
        }
    }

    pub(super) fn is_alive(&self, handle: Handle) -> bool {
        handle == ME || self.get(handle).alive
    }

    pub(super) fn is_live(&self, handle: Handle) -> bool {
        let record = self.get(handle);
        handle == ME || record.alive && record.synced
    }

    /// When a peer that is not live is missed for so long that its shards count as lost, if that is after
    /// `delay`.
    pub(super) fn gone_at(&self, handle: Handle, delay: Duration) -> Time {
        let record = self.get(handle);
        if record.is_forgotten() {
            return Time::ZERO;
        }
        record.since.max(self.floor) + delay
    }

    pub(super) fn is_gone(&self, now: Time, handle: Handle) -> bool {
        !self.is_live(handle) && self.gone_at(handle, self.repair_delay) <= now
    }

    /// A peer that is not alive, or will be found not to be within a minute, is not waited for. Returns
    /// whether it is gone.
    pub(super) fn forget(&mut self, now: Time, handle: Handle) -> bool {
        let record = self.get_mut(handle);
        record.forgotten = Some(now);
        record.is_forgotten()
    }

    pub(super) fn standing(&self, now: Time, handle: Handle) -> Standing {
        if self.is_live(handle) {
            Standing::Live
        } else if self.is_gone(now, handle) {
            Standing::Gone
        } else {
            Standing::Suspect
        }
    }

    /// Whether an unreachable peer may know what nobody reachable does: some peer is suspect, or this peer
    /// has not been up long enough to know whom to suspect.
    pub(super) fn any_suspect(&self, now: Time) -> bool {
        now.since(self.floor) < self.repair_delay || self.misses_any(now)
    }

    /// Whether some peer is suspect.
    fn misses_any(&self, now: Time) -> bool {
        self.records.iter().skip(1).any(|record| {
            let since = record.since.max(self.floor);
            !record.alive && !record.is_forgotten() && now.since(since) < self.repair_delay
        })
    }

    /// How many other peers this one has met alive since it started.
    pub(super) fn met(&self) -> usize {
        // A peer that vanished has not matched a report since.
        let met = |record: &&PeerRecord| record.alive || !record.synced;
        self.records.iter().skip(1).filter(met).count()
    }

    /// Since when the event loop has not stalled, from `at` on.
    pub(super) fn awake_since(&self, at: Time) -> Time {
        at.max(self.floor)
    }

    /// Whether peers are missed, and all of them said to be gone for good.
    pub(super) fn misses_only_forgotten(&self, now: Time) -> bool {
        self.records.iter().any(PeerRecord::is_forgotten) && !self.misses_any(now)
    }

    /// A report of the peer matched. Whether that makes its shards count again.
    pub(super) fn synced(&mut self, handle: Handle) -> bool {
        !std::mem::replace(&mut self.get_mut(handle).synced, true)
    }

    /// Sets when the peer must be attended to next.
    pub(super) fn arm(&mut self, handle: Handle) {
        let Some(record) = self.records.get_mut(handle.0 as usize) else {
            return;
        };
        let at = [record.outgoing.due(), record.outbox.due()]
            .into_iter()
            .flatten()
            .min();
        let at = at.filter(|_| record.alive && handle != ME);
        self.agenda.rearm(handle, &mut record.due, at);
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.agenda.next()
    }

    pub(super) fn pop_due(&mut self, now: Time) -> Option<Handle> {
        let handle = self.agenda.pop_due(now)?;
        self.get_mut(handle).due = None;
        Some(handle)
    }
}
