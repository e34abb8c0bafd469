//! A network in memory for tests: virtual time, seeded delays, kills, restarts, partitions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::ring::{
    BookEntry, Event, Failure, Found, LookupError, LookupId, Phase, Request, RequestId, Response, Ring,
    RingConfig,
};
use crate::{Contact, Id, Member, Peer, PeerState, RingView, Signature, Time};

/// The peer with this number.
pub(crate) fn peer(number: usize) -> Peer {
    Peer::new(Sha256::digest(number.to_be_bytes()).into())
}

/// A ring in which all but these are alive.
pub(crate) struct Dead(pub(crate) Vec<Peer>);

impl RingView for Dead {
    fn me(&self) -> Peer {
        peer(0)
    }

    fn successors(&self, _: Id, _: usize) -> Vec<Member> {
        Vec::new()
    }

    fn is_alive(&self, peer: Peer) -> bool {
        !self.0.contains(&peer)
    }

    fn moves(&self) -> u64 {
        0
    }

    fn is_settled(&self) -> bool {
        true
    }
}

/// A contact of the peer with this number and so many virtual nodes.
pub(crate) fn contact(number: usize, version: u64, virtual_nodes: u16) -> Contact {
    Contact {
        peer: peer(number),
        version,
        virtual_nodes: (0..virtual_nodes).collect(),
        addresses: [format!("/memory/{number}")].into(),
        capacity: u64::from(virtual_nodes) << 30,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    }
}

struct RingNode {
    contact: Contact,
    ring: Option<Ring>,
    book: Vec<BookEntry>,
    /// How often it was started: messages to an earlier life are lost.
    life: u32,
    wake: Option<Time>,
    /// The network drops its messages without a word.
    frozen: bool,
    island: u8,
}

#[derive(Debug)]
enum Delivery {
    Request(RequestId, Request),
    Response(RequestId, Response),
    Failure(RequestId, Failure),
    Disconnect,
}

struct Message {
    from: Peer,
    from_life: u32,
    to: Peer,
    to_life: u32,
    delivery: Delivery,
}

/// Rings, the messages between them and what is cut off: the whole of a simulated network, which only tests
/// look into.
pub(crate) struct RingNet {
    pub(crate) now: Time,
    pub(crate) config: RingConfig,
    /// Messages lost per thousand.
    pub(crate) loss: u64,
    /// Every message takes at least so long, and up to 5 ms more.
    pub(crate) delay: Duration,
    pub(crate) events: VecDeque<(Peer, Event)>,
    /// Requests delivered so far.
    pub(crate) requests: u64,
    seed: u64,
    rng: ChaCha8Rng,
    nodes: BTreeMap<Peer, RingNode>,
    wakes: BTreeSet<(Time, Peer)>,
    queue: BTreeMap<(Time, u64), Message>,
    sequence: u64,
    trace: Sha256,
}

impl RingNet {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            config: RingConfig::default(),
            loss: 0,
            delay: Duration::ZERO,
            events: VecDeque::new(),
            requests: 0,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            wakes: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            trace: Sha256::new(),
        }
    }

    pub(crate) fn random(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// Starts a new peer with an empty address book.
    pub(crate) fn add(&mut self, number: usize, virtual_nodes: u16) -> Peer {
        let contact = contact(number, 1_000_000 + self.now.as_micros(), virtual_nodes);
        let peer = contact.peer;
        let node = RingNode {
            contact,
            ring: None,
            book: Vec::new(),
            life: 0,
            wake: None,
            frozen: false,
            island: 0,
        };
        self.nodes.insert(peer, node);
        self.start(peer);
        peer
    }

    /// Starts a killed peer with the address book it had.
    pub(crate) fn start(&mut self, peer: Peer) {
        let seed = self.seed ^ self.rng.next_u64();
        let (now, config) = (self.now, self.config.clone());
        let node = self.nodes.get_mut(&peer).unwrap();
        node.life += 1;
        node.frozen = false;
        node.contact.version = node.contact.version.max(1_000_000 + now.as_micros());
        node.ring = Some(Ring::new(
            config,
            node.contact.clone(),
            node.book.clone(),
            seed,
            now,
        ));
        self.settle(peer);
    }

    /// Kills a peer and starts it with other virtual nodes.
    pub(crate) fn restart_with(&mut self, peer: Peer, virtual_nodes: Vec<u16>) {
        self.kill(peer);
        self.nodes.get_mut(&peer).unwrap().contact.virtual_nodes = virtual_nodes.into();
        self.start(peer);
    }

    /// The transport of `peer` connected to that of `via`: both sides prove themselves.
    pub(crate) fn introduce(&mut self, peer: Peer, via: Peer) {
        for (here, there) in [(peer, via), (via, peer)] {
            let contact = self.ring(there).me().clone();
            let now = self.now;
            if let Some(ring) = &mut self.nodes.get_mut(&here).unwrap().ring {
                ring.introduce(now, contact);
            }
            self.settle(here);
        }
    }

    /// SIGKILL: connections break, nothing listens any more.
    pub(crate) fn kill(&mut self, peer: Peer) {
        let now = self.now;
        let node = self.nodes.get_mut(&peer).unwrap();
        let ring = node.ring.take().unwrap();
        node.book = ring.book(now);
        node.contact = ring.me().clone();
        for other in self.alive() {
            self.post(peer, other, Delivery::Disconnect);
        }
    }

    /// The machine of `peer` stops without a word: nothing answers, not even its network.
    pub(crate) fn freeze(&mut self, peer: Peer) {
        let now = self.now;
        let node = self.nodes.get_mut(&peer).unwrap();
        let ring = node.ring.take().unwrap();
        node.book = ring.book(now);
        node.frozen = true;
    }

    /// Peers on different islands do not hear each other.
    pub(crate) fn set_island(&mut self, peer: Peer, island: u8) {
        self.nodes.get_mut(&peer).unwrap().island = island;
    }

    pub(crate) fn alive(&self) -> Vec<Peer> {
        let alive = self.nodes.iter().filter(|(_, node)| node.ring.is_some());
        alive.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn ring(&self, peer: Peer) -> &Ring {
        self.nodes[&peer].ring.as_ref().unwrap()
    }

    /// Has a ring do something.
    pub(crate) fn with<T>(&mut self, peer: Peer, act: impl FnOnce(&mut Ring, Time) -> T) -> T {
        let now = self.now;
        let result = act(self.nodes.get_mut(&peer).unwrap().ring.as_mut().unwrap(), now);
        self.settle(peer);
        result
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done` holds, looked at every 100 ms; says after what time, or `None` after `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while self.now.since(start) <= limit {
            if done(self) {
                return Some(self.now.since(start));
            }
            self.run(Duration::from_millis(100));
        }
        None
    }

    /// Runs until the lookup ended.
    pub(crate) fn outcome(&mut self, wanted: LookupId, at: Peer) -> Result<Found, LookupError> {
        for _ in 0..1_000 {
            while let Some((peer, event)) = self.events.pop_front() {
                if let Event::LookupDone { id, outcome } = event
                    && (id, peer) == (wanted, at)
                {
                    return outcome;
                }
            }
            self.run(Duration::from_millis(20));
        }
        panic!("lookup {wanted:?} never ended");
    }

    /// Runs until the walk ended: who answered, who did not.
    pub(crate) fn walk(&mut self, at: Peer) -> (Vec<Contact>, Vec<Peer>) {
        let wanted = self.with(at, Ring::walk);
        for _ in 0..3_000 {
            while let Some((peer, event)) = self.events.pop_front() {
                if let Event::WalkDone { id, answered, silent } = event
                    && (id, peer) == (wanted, at)
                {
                    return (answered, silent);
                }
            }
            self.run(Duration::from_millis(20));
        }
        panic!("walk {wanted:?} never ended");
    }

    /// A digest of everything delivered so far.
    pub(crate) fn trace(&self) -> Id {
        Id::new(self.trace.clone().finalize().into())
    }

    /// All virtual nodes of the living on this island, as they should be.
    pub(crate) fn circle(&self, island: u8) -> BTreeMap<Id, Peer> {
        let living = self.nodes.values().filter(|node| node.island == island);
        let rings = living.filter_map(|node| node.ring.as_ref());
        rings
            .flat_map(|ring| ring.me().ids().map(|id| (id, ring.me().peer)))
            .collect()
    }

    /// One living peer of each group that knows nobody living outside.
    pub(crate) fn groups(&self) -> Vec<Peer> {
        let living = self.alive();
        let mut group: BTreeMap<Peer, Peer> = living.iter().map(|peer| (*peer, *peer)).collect();
        for peer in &living {
            for (known, _) in self.ring(*peer).peers() {
                if let (Some(mine), Some(theirs)) =
                    (group.get(peer).copied(), group.get(&known.peer).copied())
                {
                    group
                        .values_mut()
                        .filter(|of| **of == theirs)
                        .for_each(|of| *of = mine);
                }
            }
        }
        group.into_values().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether every virtual node of the living has the list it should have, and every contact in it is the
    /// latest; otherwise what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        for island in 0..=u8::from(self.nodes.values().any(|node| node.island == 1)) {
            self.check_island(island)?;
        }
        Ok(())
    }

    fn check_island(&self, island: u8) -> Result<(), String> {
        let circle = self.circle(island);
        let peers: BTreeSet<Peer> = circle.values().copied().collect();
        for peer in &peers {
            let ring = self.ring(*peer);
            let phase = if peers.len() == 1 {
                Phase::Alone
            } else {
                Phase::Joined
            };
            if ring.phase() != phase {
                return Err(format!("{peer:?} is {}", ring.phase()));
            }
            for id in ring.me().ids() {
                let expected: Vec<Peer> = successors(&circle, id.successor())
                    .into_iter()
                    .filter(|other| other != peer)
                    .take(self.config.r)
                    .collect();
                let list: Vec<&Contact> = ring.successor_list(id).collect();
                let found: Vec<Peer> = list.iter().map(|contact| contact.peer).collect();
                if found != expected {
                    return Err(format!("{peer:?} at {id:?} lists {found:?}, not {expected:?}"));
                }
                for contact in list {
                    if contact != self.ring(contact.peer).me() {
                        return Err(format!("{peer:?} has an old contact of {:?}", contact.peer));
                    }
                }
            }
        }
        Ok(())
    }

    fn post(&mut self, from: Peer, to: Peer, delivery: Delivery) {
        let delay = self.delay + Duration::from_micros(500 + self.random(4_500));
        if self.random(1_000) < self.loss {
            return;
        }
        self.sequence += 1;
        let life = |peer: &Peer| self.nodes.get(peer).map_or(0, |node| node.life);
        let message = Message {
            from,
            from_life: life(&from),
            to,
            to_life: life(&to),
            delivery,
        };
        self.queue.insert((self.now + delay, self.sequence), message);
    }

    /// Takes out what a ring wants, and sets its next wake-up.
    fn settle(&mut self, peer: Peer) {
        let node = self.nodes.get_mut(&peer).unwrap();
        let Some(ring) = &mut node.ring else {
            return;
        };
        let transmits: Vec<_> = std::iter::from_fn(|| ring.poll_transmit()).collect();
        while let Some(event) = ring.poll_event() {
            self.events.push_back((peer, event));
        }
        let wake = ring.poll_timeout();
        if let Some(old) = std::mem::replace(&mut node.wake, wake) {
            self.wakes.remove(&(old, peer));
        }
        self.wakes.extend(wake.map(|wake| (wake, peer)));
        for transmit in transmits {
            assert!(transmit.to.is_valid() && transmit.to.peer != peer);
            self.post(
                peer,
                transmit.to.peer,
                Delivery::Request(transmit.id, transmit.request),
            );
        }
    }

    /// Does the next thing due before `end`.
    fn step(&mut self, end: Time) -> bool {
        let message = self.queue.first_key_value().map(|((at, _), _)| *at);
        let wake = self.wakes.first().copied();
        match (message, wake) {
            (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => {
                self.now = at;
                let (_, message) = self.queue.pop_first().unwrap();
                self.deliver(message);
                true
            }
            (_, Some((at, peer))) if at <= end => {
                self.now = at.max(self.now);
                self.wakes.remove(&(at, peer));
                let now = self.now;
                let node = self.nodes.get_mut(&peer).unwrap();
                node.wake = None;
                if let Some(ring) = &mut node.ring {
                    ring.handle_timeout(now);
                    self.settle(peer);
                }
                true
            }
            _ => false,
        }
    }

    fn deliver(&mut self, message: Message) {
        let Message { from, to, .. } = message;
        self.trace.update(format!(
            "{} {from} {to} {:?}",
            self.now.as_micros(),
            message.delivery
        ));
        let (Some(source), Some(target)) = (self.nodes.get(&from), self.nodes.get(&to)) else {
            return;
        };
        let parted = source.island != target.island || target.frozen;
        let known = source.life == message.from_life && target.life == message.to_life;
        match message.delivery {
            Delivery::Request(..) if parted => {}
            Delivery::Request(id, _) if target.ring.is_none() => {
                self.post(to, from, Delivery::Failure(id, Failure::Unreachable));
            }
            Delivery::Request(id, request) => {
                self.requests += 1;
                let response = self.with(to, |ring, now| ring.handle_request(now, from, request));
                self.post(to, from, Delivery::Response(id, response));
            }
            _ if target.ring.is_none() || !known || parted => {}
            Delivery::Response(id, response) => {
                self.with(to, |ring, now| ring.handle_response(now, id, response));
            }
            Delivery::Failure(id, failure) => {
                self.with(to, |ring, now| ring.handle_failure(now, id, failure));
            }
            Delivery::Disconnect => {
                self.with(to, |ring, now| ring.handle_disconnect(now, from));
            }
        }
    }
}

/// The distinct peers at or after `target` on this circle.
pub(crate) fn successors(circle: &BTreeMap<Id, Peer>, target: Id) -> Vec<Peer> {
    let mut seen = BTreeSet::new();
    let nodes = circle.range(target..).chain(circle.range(..target));
    nodes
        .map(|(_, peer)| *peer)
        .filter(|peer| seen.insert(*peer))
        .collect()
}
