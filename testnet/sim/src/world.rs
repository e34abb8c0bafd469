//! Hosts, messages in flight and the clock; drives ring and custody of each host as the daemon's driver does.

mod arrivals;

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use mutualstore_dht::custody::{self, Custody, CustodyConfig};
use mutualstore_dht::ring::{self, Ring, RingConfig, SelfChange};
use mutualstore_dht::{Engine, Flaw, Id, Peer, PeerState, Time};
use rand_chacha::ChaCha8Rng;
use slab::Slab;

use super::check::{Checks, Violation};
use super::disk::{Tenure, Truth};
use super::host::Host;
use super::lab::{Weigh, Weighed};
use super::link::{Links, Network};
use super::local::Unrest;
use super::memory::Memory;
use super::message::{Body, Message, PeerHasher};
use super::records::Records;
use super::work::Work;
use super::writer::Writers;
use super::{below, generator, mix, sample};

/// Number of a host.
pub(crate) type Who = u32;

/// More events than this at one moment are a loop.
const STANDSTILL: u64 = 2_000_000;
/// As in the daemon: between two calls to silent join addresses, doubled up to the maximum.
pub(super) const DIAL: (u64, u64) = (250_000, 10_000_000);

/// Between two walks around the ring by hosts that must know all others.
pub(super) const WALK: u64 = 30_000_000;

/// What all hosts have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) ring: RingConfig,
    pub(crate) custody: Option<CustodyConfig>,
    pub(crate) network: Network,
    /// Whether whoever was connected to a killed process notices at once.
    pub(crate) disconnects: bool,
    /// Whether newcomers choose their virtual nodes.
    pub(crate) choose: bool,
    /// Whether hosts see to it that they know all others, for policies that need it.
    pub(crate) roster: bool,
    /// What contacts carry, for those who count bytes.
    pub(crate) addresses: Arc<[String]>,
    /// How many bytes a message of the ring is on the wire, if anybody counts.
    pub(crate) weigh: Option<Weigh>,
    pub(crate) seed: u64,
    /// The flaw planted in every host.
    pub(crate) flaw: Option<Flaw>,
}

/// How a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process: its connections break, its port refuses.
    Process,
    /// The machine: nothing answers any more.
    Machine,
}

#[derive(Debug)]
pub(crate) enum Event {
    Arrive(Box<Message>),
    Wake(Who),
    CallEnds(Who, u32, custody::RequestId),
    Dial(Who, u32, Who, u64),
    Work(Who, u32, Box<custody::Effect>),
    Lie(Who, u32),
    Writer(u64),
    Record(u64),
    Step(usize),
}

impl Event {
    /// Whom it happens to.
    pub(super) fn hosts(&self) -> [Option<Who>; 2] {
        match self {
            Self::Arrive(message) => [Some(message.from), Some(message.to)],
            Self::Wake(who) | Self::CallEnds(who, ..) | Self::Work(who, ..) | Self::Lie(who, _) => {
                [Some(*who), None]
            }
            Self::Dial(who, _, other, _) => [Some(*who), Some(*other)],
            Self::Writer(_) | Self::Record(_) | Self::Step(_) => [None, None],
        }
    }

    /// The host and the life of it that it belongs to: only that process can do it.
    fn process(&self) -> Option<(Who, u32)> {
        match self {
            Self::CallEnds(who, life, _)
            | Self::Dial(who, life, ..)
            | Self::Work(who, life, _)
            | Self::Lie(who, life) => Some((*who, *life)),
            Self::Arrive(_) | Self::Wake(_) | Self::Writer(_) | Self::Record(_) | Self::Step(_) => None,
        }
    }
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events: u64,
    pub(crate) work: Work,
    /// The stripe that was repaired, copied, trimmed or located last.
    pub(crate) moved: Option<mutualstore_dht::Id>,
    /// Messages of rings sent, and their bytes if they were weighed.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// See the module head. It is large because each event may touch hosts, links, clients and checks alike; the
/// methods of each stand in a module of their own.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) setup: Setup,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: Links,
    pub(crate) truth: Truth,
    pub(crate) writers: Writers,
    pub(crate) records: Records,
    pub(crate) checks: Checks,
    pub(crate) counters: Counters,
    pub(crate) rng: ChaCha8Rng,
    /// Answers to lookups asked for, by host.
    pub(crate) lookups: VecDeque<(Who, ring::LookupId, Result<ring::Found, ring::LookupError>)>,
    pub(super) unrest: Unrest,
    /// Faults have stopped; steps that come late do not happen.
    pub(crate) peace: bool,
    /// Steps of the scenario that are due.
    pub(crate) steps: VecDeque<usize>,
    pub(super) numbers: HashMap<Peer, Who, BuildHasherDefault<PeerHasher>>,
    /// Times, sequence numbers and places of what is to come.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Slab<Event>,
    sequence: u64,
    /// Events since time went on.
    still: u64,
    trace: u64,
    /// When somebody wants to read the last events.
    pub(super) memory: Option<Memory>,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            now: 1_000_000,
            hosts: Vec::new(),
            links: Links::new(setup.network.clone(), setup.seed),
            truth: Truth::default(),
            writers: Writers::default(),
            records: Records::default(),
            checks: Checks::new(setup.ring.r),
            counters: Counters::default(),
            rng: generator(setup.seed, 1),
            lookups: VecDeque::new(),
            unrest: Unrest::default(),
            peace: false,
            steps: VecDeque::new(),
            numbers: HashMap::default(),
            queue: BinaryHeap::new(),
            events: Slab::new(),
            sequence: 0,
            still: 0,
            trace: mix(setup.seed),
            memory: None,
            setup,
        }
    }

    pub(crate) fn host(&self, who: Who) -> Option<&Host> {
        self.hosts.get(who as usize)
    }

    pub(crate) fn host_mut(&mut self, who: Who) -> Option<&mut Host> {
        self.hosts.get_mut(who as usize)
    }

    /// A host whose process runs and is not stopped.
    pub(crate) fn running(&self, who: Who) -> Option<&Host> {
        self.host(who).filter(|host| host.is_running())
    }

    /// The ring of a host whose process runs.
    pub(crate) fn ring(&self, who: Who) -> Option<&Ring> {
        self.host(who)?.ring()
    }

    /// The custody of a host whose process runs.
    pub(crate) fn custody(&self, who: Who) -> Option<&Custody> {
        self.host(who)?.custody()
    }

    /// Whether a host has this shard on disk, committed.
    pub(crate) fn is_committed(&self, key: (Id, u8), who: Who) -> bool {
        let stored = self.host(who).and_then(|host| host.disk.get(&key));
        stored.is_some_and(|stored| stored.tenure == Tenure::Committed)
    }

    pub(crate) fn who(&self, peer: Peer) -> Option<Who> {
        self.numbers.get(&peer).copied()
    }

    pub(crate) fn peer(&self, who: Who) -> Option<Peer> {
        self.host(who).map(|host| host.peer)
    }

    /// Numbers of the hosts for which `wanted` holds.
    pub(crate) fn those(&self, wanted: impl Fn(&Host) -> bool) -> Vec<Who> {
        let all = (0..).zip(&self.hosts);
        all.filter(|(_, host)| wanted(host)).map(|(who, _)| who).collect()
    }

    /// A digest of everything that happened so far.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn note(&mut self, what: u64) {
        self.trace = mix(self.trace ^ what);
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        let place = self.events.insert(event);
        self.queue.push(Reverse((at.max(self.now), self.sequence, place)));
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now + micros(delay), event);
    }
}

/// Messages between hosts.
impl World {
    pub(crate) fn send(&mut self, from: Who, to: Who, to_life: Option<u32>, body: Body) {
        let from_life = self.host(from).map_or(0, |host| host.life);
        if let Body::RingRequest(_, request) = &body {
            self.weigh(Weighed::Request(request));
        } else if let Body::RingResponse(_, response) = &body {
            self.weigh(Weighed::Response(response));
        }
        let message = Message {
            from,
            from_life,
            to,
            to_life,
            body,
        };
        let [first, second] = self.links.arrivals(&mut self.rng, from, to);
        if let Some(delay) = second {
            self.after(delay, Event::Arrive(Box::new(message.clone())));
        }
        if let Some(delay) = first {
            self.after(delay, Event::Arrive(Box::new(message)));
        }
    }

    fn weigh(&mut self, message: Weighed<'_>) {
        self.counters.messages += 1;
        self.counters.bytes += self.setup.weigh.map_or(0, |weigh| weigh(message) as u64);
    }

    /// Runs until nothing is due before `end` or a check failed.
    pub(crate) fn run(&mut self, end: u64) {
        while self.checks.violation.is_none() && self.steps.is_empty() && self.step(end) {}
        if self.checks.violation.is_none() && self.steps.is_empty() {
            self.now = self.now.max(end);
        }
    }

    fn step(&mut self, end: u64) -> bool {
        let Some(next) = self.queue.peek_mut().filter(|next| next.0.0 <= end) else {
            return false;
        };
        let Reverse((at, _, place)) = PeekMut::pop(next);
        let event = self.events.remove(place);
        self.still = if at > self.now { 0 } else { self.still + 1 };
        self.now = at;
        self.counters.events += 1;
        if self.still > STANDSTILL {
            self.violate(Violation::liveness(
                "time goes on",
                format!("{STANDSTILL} events at one moment, now {event:?}"),
            ));
        }
        if let Some(memory) = &mut self.memory {
            memory.event(at, &event);
        }
        if let Some((who, life)) = event.process()
            && !self.lives(who, life)
        {
            self.stall(who, life, event);
            return true;
        }
        match event {
            Event::Arrive(message) => self.arrive(*message),
            Event::Wake(who) => self.wake(who),
            Event::CallEnds(who, _, id) => self.call_fails(who, id),
            Event::Dial(who, life, via, wait) => self.dial(who, life, via, wait),
            Event::Work(who, _, effect) => self.perform(who, *effect),
            Event::Lie(who, _) => self.spread_lies(who),
            Event::Writer(client) => self.advance(client),
            Event::Record(operation) => self.advance_operation(operation),
            Event::Step(_) if self.peace => {}
            Event::Step(step) => self.steps.push_back(step),
        }
        true
    }

    /// What a stopped process was about to do, it does when it goes on. False: the process has ended.
    pub(crate) fn stall(&mut self, who: Who, life: u32, event: Event) -> bool {
        let stopped = self
            .host_mut(who)
            .filter(|host| host.is_up() && host.life == life);
        stopped.map(|host| host.stalled.push(event)).is_some()
    }

    /// All partitions end.
    pub(crate) fn heal(&mut self) {
        self.links.heal();
        self.unrest.last = self.now;
        self.unrest.healed = self.now;
    }

    /// Whether the host is in this life of it, and its process not stopped.
    pub(crate) fn lives(&self, who: Who, life: u32) -> bool {
        self.running(who).is_some_and(|host| host.life == life)
    }
}

/// The driver of one host.
impl World {
    /// Gives the ring of a running host an input.
    pub(crate) fn act<R>(&mut self, who: Who, input: impl FnOnce(&mut Ring, Time) -> R) -> Option<R> {
        self.drive(who, |engine, now| input(&mut engine.ring, now))
    }

    /// Gives the custody of a running host an input.
    pub(crate) fn keep<R>(
        &mut self,
        who: Who,
        input: impl FnOnce(&mut Custody, Time, &Ring) -> R,
    ) -> Option<R> {
        self.drive(who, |Engine { ring, custody, .. }, now| {
            Some(input(custody.as_mut()?, now, ring))
        })?
    }

    /// Gives both machines of a running host an input.
    pub(super) fn drive<R>(
        &mut self,
        who: Who,
        input: impl FnOnce(&mut Engine<Option<Custody>>, Time) -> R,
    ) -> Option<R> {
        let now = self.now;
        let host = self.hosts.get_mut(who as usize)?;
        let time = host.local(now);
        let result = input(host.engine.as_mut()?, time);
        self.settle(who);
        Some(result)
    }

    fn wake(&mut self, who: Who) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(who as usize) else {
            return;
        };
        if host.wake > now || host.frozen.is_some() {
            return;
        }
        let late = Duration::from_micros(now - host.wake);
        host.wake = u64::MAX;
        let time = host.local(now);
        let Some(engine) = &mut host.engine else { return };
        engine.handle_timeout(time, late);
        if host.walk.is_some_and(|due| due <= now) {
            host.walk = Some(now + WALK);
            if engine.ring.is_member() {
                engine.ring.walk(time);
            }
        }
        self.settle(who);
    }

    /// Takes out what the machines of a host want and hands it on.
    pub(super) fn settle(&mut self, who: Who) {
        let now = self.now;
        let Some(wants) = self.hosts.get_mut(who as usize).and_then(|host| host.wants(now)) else {
            return;
        };
        let life = self.host(who).map_or(0, |host| host.life);
        for (id, outcome) in wants.lookups {
            self.lookups.push_back((who, id, outcome));
            self.writer_found(who, id);
        }
        if let Some(wake) = wants.wake {
            self.schedule(wake, Event::Wake(who));
        }
        for (to, body, call) in wants.messages {
            if let Some((id, deadline)) = call {
                self.after(deadline, Event::CallEnds(who, life, id));
            }
            if let Some(to) = self.numbers.get(&to).copied() {
                self.send(who, to, None, body);
            }
        }
        for effect in wants.effects {
            self.begin(who, life, effect);
        }
        if wants.view_changed {
            self.view_changed(who);
        }
        for peer in wants.declared_dead {
            self.check_declared_dead(who, peer);
        }
        if wants.left {
            self.crash(who, Crash::Process);
        }
    }
}

/// Choices by lot.
impl World {
    pub(crate) fn random_hosts(&mut self, count: usize, wanted: impl Fn(&Host) -> bool) -> Vec<Who> {
        let pool = self.those(wanted);
        sample(&mut self.rng, &pool, count)
    }

    pub(crate) fn random(&mut self, bound: usize) -> usize {
        below(&mut self.rng, bound)
    }

    /// Tells a ring how full its host is.
    pub(crate) fn publish(&mut self, who: Who) {
        let Some(host) = self.host(who) else { return };
        let full = host.is_full();
        let Some(ring) = host.ring() else { return };
        let state = match (ring.me().state, full) {
            (PeerState::Draining, _) => PeerState::Draining,
            (PeerState::Accepting | PeerState::Full, true) => PeerState::Full,
            (PeerState::Accepting | PeerState::Full, false) => PeerState::Accepting,
        };
        if ring.me().state != state {
            let change = SelfChange {
                state: Some(state),
                ..SelfChange::default()
            };
            self.act(who, |ring, now| ring.update_self(now, change));
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
