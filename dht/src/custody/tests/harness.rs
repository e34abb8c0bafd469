//! A network of custody machines in memory: virtual time, seeded delay and loss, disks that are sets of
//! shards, and rings that are views of one truth, which every peer learns after a delay of its own; or else
//! real rings, on the ring's own network in memory, in step with this one.

mod questions;
mod records;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::view::{View, successors};
use crate::custody::*;
use crate::placement::{Placement, Roster, replacements};
use crate::records::RecordSet;
use crate::ring::Event as RingEvent;
use crate::testing;
use crate::{Id, Peer, PeerState, RingView, Time};

/// A file system's worth of shards: what survives a kill.
pub(crate) type Disk = BTreeMap<(Id, Item), (Shape, Tenure)>;

pub(crate) struct CustodyNode {
    pub(crate) custody: Option<Custody>,
    pub(crate) disk: Disk,
    /// Records, which survive a kill too.
    sets: BTreeMap<Id, RecordSet>,
    pub(crate) state: PeerState,
    /// Whom this node thinks alive.
    view: BTreeSet<Peer>,
    /// A view that does not follow the truth.
    pub(crate) deluded: bool,
    /// Its jobs fail.
    pub(crate) wedged: bool,
    incarnation: u64,
}

enum Event {
    Request(Peer, Peer, u64, RequestId, Request),
    Response(Peer, u64, RequestId, Response),
    Failure(Peer, u64, RequestId),
    Work(Peer, u64, Effect),
    Notice(Peer, Peer),
}

#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) requests: u64,
    pub(crate) regenerated: u64,
    pub(crate) copied: u64,
    pub(crate) located: u64,
    pub(crate) dropped: u64,
    pub(crate) jobs: u64,
    /// Sets of records that were put together.
    pub(crate) merged: u64,
    /// Jobs the disks could not do.
    pub(crate) failed_jobs: u64,
}

/// Custodians, their stores, the messages between them and what is to go wrong: the whole of a simulated
/// network, which only tests look into.
pub(crate) struct CustodyNet {
    pub(crate) now: Time,
    pub(crate) config: CustodyConfig,
    pub(crate) nodes: BTreeMap<Peer, CustodyNode>,
    pub(crate) counters: Counters,
    /// Requests and responses lost, in 1/256.
    pub(crate) loss: u8,
    /// How long a job takes.
    pub(crate) job_time: Duration,
    /// How long a change of the ring takes to reach a peer, at most.
    pub(crate) notice: Duration,
    /// Rebuilt shards do not match their hashes.
    pub(crate) inconsistent: bool,
    /// Results of audits are lost.
    pub(crate) audits_lost: bool,
    /// Hash of everything that happened.
    pub(crate) trace: u64,
    rings: Option<testing::RingNet>,
    rng: ChaCha8Rng,
    ids: BTreeMap<Id, Peer>,
    queue: BTreeMap<(Time, u64), Event>,
    next_event: u64,
}

pub(crate) fn peer(number: u8) -> Peer {
    Peer::new([number; 32])
}

pub(crate) fn stripe(number: u64) -> Id {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    Id::new(bytes)
}

pub(crate) const RS: Shape = Shape {
    k: 4,
    n: 6,
    shard_len: 1 << 20,
    placement: Placement::Successors,
};

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const VIRTUAL_NODES: u16 = 6;

/// Repair after 5 s, like a testnet.
pub(crate) fn quick() -> CustodyConfig {
    CustodyConfig {
        repair_delay: secs(5),
        ..CustodyConfig::default()
    }
}

impl CustodyNet {
    pub(crate) fn new(peers: u8, config: CustodyConfig, seed: u64) -> Self {
        let mut net = Self {
            now: Time::from_micros(1_000_000),
            config,
            nodes: BTreeMap::new(),
            counters: Counters::default(),
            loss: 0,
            job_time: Duration::from_millis(20),
            notice: Duration::from_millis(300),
            inconsistent: false,
            audits_lost: false,
            trace: 0,
            rings: None,
            rng: ChaCha8Rng::seed_from_u64(seed),
            ids: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_event: 0,
        };
        for number in 0..peers {
            net.join(peer(number));
        }
        net
    }

    /// Peers 0.. of the ring's network, each on a ring of its own that joined through the first.
    pub(crate) fn on_rings(peers: usize, config: CustodyConfig, seed: u64) -> Self {
        let mut net = Self::new(0, config, seed);
        let mut rings = testing::RingNet::new(seed);
        let peers: Vec<Peer> = (0..peers)
            .map(|number| rings.add(number, VIRTUAL_NODES))
            .collect();
        for peer in &peers[1..] {
            rings.introduce(*peer, peers[0]);
        }
        net.rings = Some(rings);
        for peer in peers {
            net.join(peer);
        }
        net
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now + after, self.next_event), event);
    }

    fn up_to(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(1) + self.up_to(Duration::from_millis(20))
    }

    fn lost(&mut self) -> bool {
        self.rng.next_u32() % 256 < u32::from(self.loss)
    }

    /// A new peer, up and empty.
    pub(crate) fn join(&mut self, peer: Peer) {
        for index in 0..VIRTUAL_NODES {
            self.ids.insert(peer.virtual_node(index), peer);
        }
        self.nodes.insert(
            peer,
            CustodyNode {
                custody: None,
                disk: Disk::new(),
                sets: BTreeMap::new(),
                state: PeerState::Accepting,
                view: BTreeSet::new(),
                deluded: false,
                wedged: false,
                incarnation: 0,
            },
        );
        self.start(peer);
    }

    pub(crate) fn is_up(&self, peer: Peer) -> bool {
        self.nodes[&peer].custody.is_some()
    }

    pub(crate) fn up(&self) -> Vec<Peer> {
        let up = self.nodes.iter().filter(|(_, node)| node.custody.is_some());
        up.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn start(&mut self, peer: Peer) {
        assert!(!self.is_up(peer));
        if let Some(rings) = &mut self.rings
            && !rings.alive().contains(&peer)
        {
            rings.start(peer);
        }
        let seed = u64::from(self.rng.next_u32());
        let mut custody = Custody::new(self.config.clone(), peer, seed, self.now);
        let up = self.up();
        let node = self.nodes.get_mut(&peer).unwrap();
        for ((stripe, item), (shape, tenure)) in &node.disk {
            let (stripe, item, shape, tenure) = (*stripe, *item, *shape, *tenure);
            custody.insert(
                self.now,
                Holding {
                    stripe,
                    item,
                    shape,
                    tenure,
                },
            );
        }
        for (id, set) in &node.sets {
            let item = Item::of_records(set.digest());
            custody.insert(self.now, committed(*id, item, Shape::RECORDS));
        }
        node.custody = Some(custody);
        node.view = up.into_iter().collect();
        node.view.insert(peer);
        self.notify_all(peer);
        self.with(peer, |custody, now, ring| custody.membership_changed(now, ring));
    }

    pub(crate) fn kill(&mut self, peer: Peer) {
        let node = self.nodes.get_mut(&peer).unwrap();
        node.custody = None;
        node.incarnation += 1;
        if let Some(rings) = &mut self.rings {
            rings.kill(peer);
        }
        self.notify_all(peer);
    }

    /// Everybody learns what is true of a peer by then.
    fn notify_all(&mut self, about: Peer) {
        for other in self.up() {
            if other != about {
                let after = self.notice;
                let after = self.up_to(after);
                self.schedule(after, Event::Notice(other, about));
            }
        }
    }

    pub(crate) fn set_state(&mut self, peer: Peer, state: PeerState) {
        self.nodes.get_mut(&peer).unwrap().state = state;
        for other in self.up() {
            self.with(other, |custody, now, ring| custody.membership_changed(now, ring));
        }
    }

    /// Makes `peer` believe for good that only `view` is alive.
    pub(crate) fn delude(&mut self, peer: Peer, view: impl IntoIterator<Item = Peer>) {
        let node = self.nodes.get_mut(&peer).unwrap();
        node.deluded = true;
        node.view = view.into_iter().collect();
        self.with(peer, |custody, now, ring| custody.membership_changed(now, ring));
    }

    /// Back to the truth.
    pub(crate) fn enlighten(&mut self, peer: Peer) {
        let up = self.up();
        let node = self.nodes.get_mut(&peer).unwrap();
        node.deluded = false;
        node.view = up.into_iter().collect();
        self.with(peer, |custody, now, ring| custody.membership_changed(now, ring));
    }

    /// Runs `f` on a node and collects what it has to say.
    pub(crate) fn with<T>(&mut self, peer: Peer, f: impl FnOnce(&mut Custody, Time, &View<'_>) -> T) -> T {
        let states: BTreeMap<Peer, PeerState> = self
            .nodes
            .iter()
            .map(|(peer, node)| (*peer, node.state))
            .collect();
        let node = self.nodes.get_mut(&peer).unwrap();
        let incarnation = node.incarnation;
        let custody = node.custody.as_mut().unwrap();
        let view = match &self.rings {
            Some(rings) => View::Ring(rings.ring(peer)),
            None => View::Oracle {
                me: peer,
                ids: &self.ids,
                living: &node.view,
                states: &states,
            },
        };
        let out = f(custody, self.now, &view);
        let transmits: Vec<Transmit> = std::iter::from_fn(|| custody.poll_transmit()).collect();
        let effects: Vec<Effect> = std::iter::from_fn(|| custody.poll_effect()).collect();
        for transmit in transmits {
            self.counters.requests += 1;
            let (id, deadline) = (transmit.id, transmit.deadline);
            let count = matches!(transmit.request, Request::Audited { .. });
            if self.lost() || self.audits_lost && count {
                self.schedule(deadline, Event::Failure(peer, incarnation, id));
            } else {
                let delay = self.delay();
                let event = Event::Request(peer, transmit.to, incarnation, id, transmit.request);
                self.schedule(delay, event);
            }
        }
        for effect in effects {
            let after = match effect {
                Effect::Regenerate { .. } | Effect::Copy { .. } | Effect::Locate { .. } => {
                    self.counters.jobs += 1;
                    self.job_time
                }
                Effect::Merge { .. } | Effect::Yield { .. } => self.job_time,
                Effect::Drop { .. } | Effect::Commit { .. } | Effect::Discover { .. } => Duration::ZERO,
            };
            self.schedule(after, Event::Work(peer, incarnation, effect));
        }
        out
    }

    fn is_incarnation(&self, peer: Peer, incarnation: u64) -> bool {
        let node = &self.nodes[&peer];
        node.custody.is_some() && node.incarnation == incarnation
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what ^ self.now.as_micros())
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(29);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request(from, to, incarnation, id, request) => {
                if !self.is_up(to) {
                    let delay = self.delay();
                    return self.schedule(delay, Event::Failure(from, incarnation, id));
                }
                self.note(1 + u64::from(to.as_bytes()[0]));
                let response = self.with(to, |custody, now, ring| {
                    custody.handle_request(now, ring, from, request)
                });
                if self.lost() {
                    self.schedule(secs(5), Event::Failure(from, incarnation, id));
                } else {
                    let delay = self.delay();
                    self.schedule(delay, Event::Response(from, incarnation, id, response));
                }
            }
            Event::Response(to, incarnation, id, response) => {
                if self.is_incarnation(to, incarnation) {
                    self.with(to, |custody, now, ring| {
                        custody.handle_response(now, ring, id, response);
                    });
                }
            }
            Event::Failure(to, incarnation, id) => {
                if self.is_incarnation(to, incarnation) {
                    self.with(to, |custody, now, ring| custody.handle_failure(now, ring, id));
                }
            }
            Event::Work(peer, incarnation, effect) => {
                if self.is_incarnation(peer, incarnation) {
                    self.work(peer, effect);
                }
            }
            Event::Notice(to, about) => {
                let up = self.is_up(about);
                let node = self.nodes.get_mut(&to).unwrap();
                if node.custody.is_none() || node.deluded {
                    return;
                }
                if up {
                    node.view.insert(about);
                } else {
                    node.view.remove(&about);
                }
                self.with(to, |custody, now, ring| custody.membership_changed(now, ring));
            }
        }
    }

    /// Whether a node that is up holds the shard.
    pub(crate) fn holds(&self, peer: Peer, stripe: Id, item: Item) -> bool {
        self.is_up(peer) && self.nodes[&peer].disk.contains_key(&(stripe, item))
    }

    /// Puts a shard on a disk and tells its node. Whether the node was there and took it.
    pub(crate) fn store(&mut self, to: Peer, holding: Holding) -> bool {
        let node = self.nodes.get_mut(&to).unwrap();
        let key = (holding.stripe, holding.item);
        let held = node.disk.contains_key(&key);
        if node.custody.is_none() || node.state != PeerState::Accepting && !held {
            return false;
        }
        node.disk.insert(key, (holding.shape, holding.tenure));
        self.with(to, |custody, now, _| custody.insert(now, holding));
        true
    }

    fn finish(&mut self, peer: Peer, job: JobId, outcome: JobOutcome) {
        self.note(1000 + outcome.stored.len() as u64);
        self.counters.failed_jobs += u64::from(!outcome.failed.is_empty());
        self.with(peer, |custody, now, ring| {
            custody.handle_job(now, ring, job, outcome);
        });
    }

    /// Lets virtual time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.rings.is_some() && self.now < end {
            let step = end.since(self.now).min(Duration::from_millis(10));
            self.run_rings(step);
            self.run_custody(step);
        }
        self.run_custody(end.since(self.now));
    }

    fn run_rings(&mut self, span: Duration) {
        let Some(rings) = &mut self.rings else {
            return;
        };
        rings.run(span);
        for (peer, event) in std::mem::take(&mut rings.events) {
            let changed = match event {
                RingEvent::Departed(departed) => {
                    if self.is_up(peer) {
                        self.with(peer, |custody, now, ring| custody.forget(now, ring, departed));
                    }
                    false
                }
                RingEvent::PhaseChanged(_)
                | RingEvent::PeerUp(_)
                | RingEvent::PeerDown(_)
                | RingEvent::PeerChanged(_) => true,
                RingEvent::LookupDone { .. }
                | RingEvent::WalkDone { .. }
                | RingEvent::BookChanged
                | RingEvent::Positioned(_)
                | RingEvent::Left => false,
            };
            if changed && self.is_up(peer) {
                self.with(peer, |custody, now, ring| custody.membership_changed(now, ring));
            }
        }
    }

    fn run_custody(&mut self, span: Duration) {
        let end = self.now + span;
        let mut calls = 0;
        loop {
            let due = |(peer, node): (&Peer, &CustodyNode)| {
                let custody = node.custody.as_ref()?;
                Some((custody.poll_timeout()?, *peer))
            };
            let timer = self.nodes.iter().filter_map(due).min();
            let event = self.queue.first_key_value().map(|(key, _)| *key);
            let at = [timer.map(|(at, _)| at), event.map(|(at, _)| at)];
            let Some(at) = at.into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            calls = if at <= self.now { calls + 1 } else { 0 };
            assert!(calls < 100_000, "time stands still");
            self.now = self.now.max(at);
            if event.is_some_and(|(due, _)| due <= self.now) {
                let (_, event) = self.queue.pop_first().unwrap();
                self.handle(event);
            } else if let Some((_, peer)) = timer {
                self.with(peer, |custody, now, ring| custody.handle_timeout(now, ring));
            }
        }
        self.now = end;
    }

    /// Lets time pass until `done` holds, at most `limit`.
    #[track_caller]
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.since(start) < limit, "not within {limit:?}");
            self.run(Duration::from_millis(250));
        }
        self.now.since(start)
    }
}

pub(crate) fn committed(stripe: Id, item: Item, shape: Shape) -> Holding {
    Holding {
        stripe,
        item,
        shape,
        tenure: Tenure::Committed,
    }
}
