//! Membership and lookup: one Chord ring node per peer, for all its virtual nodes.
//!
//! **Duty.** Knows which peers live, which of them follow any point of the circle, and finds that out for
//! points far away. **Not here**: stripes, connections, retries of anything but its own questions, and keys:
//! the own contact is signed by a [`SignContact`], the driver lets in no contact of others whose signature it
//! did not verify.
//!
//! # Use
//!
//! After each command or input take everything from [`Ring::poll_transmit`] and [`Ring::poll_event`], and
//! call [`Ring::handle_timeout`] when [`Ring::poll_timeout`] has come.

#![doc = include_str!("correctness.md")]

mod calls;
mod contest;
mod fingers;
mod getters;
mod join;
mod liveness;
mod lookup;
mod message;
mod positions;
mod stabilize;
mod table;
mod tidy;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::calls::{Call, Calls, Purpose, Timer, TimerQueue};
use self::contest::Contest;
use self::fingers::Pointers;
use self::join::{Book, Joining};
use self::lookup::Queries;
use self::stabilize::Rounds;
use self::table::Table;
use self::tidy::Upkeep;
use crate::contact::{MAX_ADDRESSES, is_address};
use crate::{Contact, Flaw, Peer, SignContact, Time};

pub use self::message::{
    BookEntry, Event, Failure, Found, Liveness, LookupError, LookupId, MAX_CONTACTS, MAX_WITHOUT, Phase,
    Request, RequestId, Response, SelfChange, Transmit,
};

/// Parameters of a ring, flat, as tests and simulations change a few and take the rest from the default. `r`
/// belongs to the network, the rest to the peer.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Distinct peers in a successor list, 4 to 256. 16.
    pub r: usize,
    /// Virtual nodes this peer is to have, at most 256. Those its contact does not name yet are chosen before
    /// it joins, see [`Event::Positioned`]. 0: those of the contact.
    pub virtual_nodes: u16,
    /// Time between two rounds of stabilization at rest. 2 s.
    pub stabilize: Duration,
    /// Time between two rounds after a change. 200 ms.
    pub quick: Duration,
    /// Quick rounds in a row, at most. 10.
    pub quick_rounds: u8,
    /// Deadline of a request to a peer whose round trip is not known yet. 1 s.
    pub first_deadline: Duration,
    /// Bounds of every other deadline. 200 ms, 5 s.
    pub deadlines: (Duration, Duration),
    /// Time between a failure and the next question to that peer; failures nearer together count once. 200
    /// ms.
    pub retry: Duration,
    /// A lookup ends after this time. 10 s.
    pub lookup_timeout: Duration,
    /// Questions of one lookup, at most. 64.
    pub lookup_hops: usize,
    /// A walk ends after this time. 20 s.
    pub walk_timeout: Duration,
    /// Mean time between two questions to entries of the address book. 5 s.
    pub book_probe: Duration,
    /// Longest wait between two passes of a lone peer through its address book. 10 s.
    pub longest_backoff: Duration,
    /// How long a restarted peer that finds others joining, but no member, waits before it founds a ring of
    /// its own, unless it is the first among them by peer id. 5 s.
    pub patience: Duration,
    /// How long peers not heard stay in the address book. 30 days.
    pub book_keep: Duration,
    /// Peers known besides those on the circle, at most; those not heard of for the longest time go first.
    /// Too few, and the dead are forgotten before the last one who still names them has noticed. 4096.
    pub max_book: usize,
    /// Peers on the circle beyond successor lists, predecessors and fingers, at most. 1024.
    pub max_learned: usize,
    /// How long a departure waits for acknowledgements. 2 s.
    pub leave_timeout: Duration,
    /// A planted flaw; ignored in builds without the feature `flaws`. None.
    pub flaw: Option<Flaw>,
}

impl RingConfig {
    fn has(&self, flaw: Flaw) -> bool {
        flaw.is_planted(self.flaw)
    }
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            r: 16,
            virtual_nodes: 0,
            stabilize: Duration::from_secs(2),
            quick: Duration::from_millis(200),
            quick_rounds: 10,
            first_deadline: Duration::from_secs(1),
            deadlines: (Duration::from_millis(200), Duration::from_secs(5)),
            retry: Duration::from_millis(200),
            lookup_timeout: Duration::from_secs(10),
            lookup_hops: 64,
            walk_timeout: Duration::from_secs(20),
            book_probe: Duration::from_secs(5),
            longest_backoff: Duration::from_secs(10),
            patience: Duration::from_secs(5),
            book_keep: Duration::from_hours(30 * 24),
            max_book: 4096,
            max_learned: 1024,
            leave_timeout: Duration::from_secs(2),
            flaw: None,
        }
    }
}

/// One peer's part of the ring; see the module head. The parts of the protocol keep their state in a field
/// each, and their methods in a module each: they all read and change the same table of peers, so they are
/// one type.
///
/// A peer that knows nobody is a ring of one:
///
/// ```
/// use mutualstore_dht::ring::{Event, Phase, Ring, RingConfig};
/// use mutualstore_dht::{Contact, Id, Peer, PeerState, Signature, Time};
///
/// let peer = Peer::new([7; 32]);
/// let contact = Contact {
///     peer,
///     version: 1,
///     virtual_nodes: vec![0, 1].into(),
///     addresses: [].into(),
///     capacity: 1 << 30,
///     used: 0,
///     state: PeerState::Accepting,
///     zone: "".into(),
///     signature: Signature::default(),
/// };
/// let now = Time::ZERO;
/// let mut ring = Ring::new(RingConfig::default(), contact, Vec::new(), 1, now);
/// assert_eq!(ring.phase(), Phase::Alone);
///
/// // Whatever point is looked up, this peer follows it, and nobody need be asked.
/// let lookup = ring.lookup(now, Id::new([0x80; 32]), 3);
/// assert!(ring.poll_transmit().is_none());
/// let found = std::iter::from_fn(|| ring.poll_event()).find_map(|event| match event {
///     Event::LookupDone { id, outcome } if id == lookup => outcome.ok(),
///     _ => None,
/// });
/// assert_eq!(found.unwrap().contacts[0].peer, peer);
/// ```
#[derive(Debug)]
pub struct Ring {
    config: RingConfig,
    table: Table,
    phase: Phase,
    /// Whether it answers questions of state and may be taken over by others.
    member: bool,
    rng: ChaCha8Rng,
    calls: Calls,
    timers: TimerQueue,
    events: VecDeque<Event>,
    rounds: Rounds,
    upkeep: Upkeep,
    joining: Joining,
    book: Book,
    queries: Queries,
    pointers: Pointers,
    /// Bytes in use as last reported by the daemon; the contact says what was published.
    used: u64,
    contest: Contest,
}

/// Commands of the driver.
impl Ring {
    /// A peer that has just started. With an empty `book` it is a ring of one; otherwise it looks for the
    /// ring it was in. `seed` decides all its chances.
    pub fn new(config: RingConfig, me: Contact, book: Vec<BookEntry>, seed: u64, now: Time) -> Self {
        let used = me.used;
        let mut table = Table::new(me, config.flaw);
        for entry in book {
            table.note(entry.contact, now, entry.age);
        }
        let lone = table.known() == 0;
        let mut ring = Self {
            joining: Joining::new(now),
            book: Book::new(config.retry, now),
            config,
            table,
            phase: if lone { Phase::Alone } else { Phase::Joining },
            member: lone,
            rng: ChaCha8Rng::seed_from_u64(seed),
            calls: Calls::default(),
            timers: TimerQueue::default(),
            events: VecDeque::new(),
            rounds: Rounds::default(),
            upkeep: Upkeep::default(),
            queries: Queries::default(),
            pointers: Pointers::default(),
            used,
            contest: Contest::default(),
        };
        let kept = ring.table.me().virtual_nodes.clone();
        ring.want_positions(&kept);
        if lone {
            ring.settle_positions();
        }
        ring.set_book_timer(now);
        let first_round = now + ring.jitter(ring.config.stabilize);
        ring.set_round(first_round);
        ring
    }

    /// From now on `signer` signs this peer's own contact, at once and after every change.
    #[must_use]
    pub fn signed_by(mut self, signer: Arc<dyn SignContact>) -> Self {
        self.table.sign_with(signer);
        self
    }

    /// Hearsay, as from an invitation: the contact goes into the address book and is asked.
    pub fn add_contact(&mut self, now: Time, contact: Contact) {
        let peer = contact.peer;
        self.note(now, contact);
        self.ask_newcomer(now, peer);
    }

    /// The peer proved itself to the transport just now. It is asked whether it is a member.
    pub fn introduce(&mut self, now: Time, contact: Contact) {
        let peer = contact.peer;
        self.on_announcement(now, contact);
        self.ask_newcomer(now, peer);
    }

    /// The peer asked something else than the ring: it lives, and is asked whether it is a member if it is
    /// not on the circle.
    pub fn hear(&mut self, now: Time, peer: Peer) {
        if !self.is_over() {
            self.spoke(now, peer);
        }
    }

    fn ask_newcomer(&mut self, now: Time, peer: Peer) {
        if self.is_over() || self.table.is_member(peer) {
            return;
        }
        if self.member && self.table.members() > 0 {
            self.verify(now, peer);
        } else if self.joining.join.is_none() {
            self.seek_also(now, peer);
        }
    }

    /// This peer changed. Everybody hears of it within some rounds; `used` alone may wait.
    pub fn update_self(&mut self, now: Time, change: SelfChange) {
        self.used = change.used.unwrap_or(self.used);
        let old = self.table.me();
        let mut me = old.clone();
        me.state = change.state.unwrap_or(me.state);
        me.capacity = change.capacity.unwrap_or(me.capacity);
        me.addresses = change.addresses.map_or(me.addresses, publishable);
        if me == *old {
            return;
        }
        me.rise();
        me.used = self.used;
        self.events.push_back(Event::PeerChanged(me.peer));
        self.table.set_me(me);
        self.nudge(now);
    }

    /// Publishes the bytes in use when they moved by 1 % of the capacity, at most once a round.
    fn publish_used(&mut self, now: Time) {
        let me = self.table.me();
        if self.used.abs_diff(me.used) > me.capacity / 100 {
            let mut me = me.clone();
            me.rise();
            me.used = self.used;
            self.table.set_me(me);
            self.hurry(now);
        }
    }

    /// The address book is asked now instead of when its time comes: this peer may have been out of reach,
    /// and others may have been silent for no other reason.
    pub fn ask_book(&mut self, now: Time) {
        if !self.is_over() {
            self.set_book_timer(now);
        }
    }

    /// Somebody holds this as this peer's contact, signed by it: in an earlier life, before its clock went
    /// back, or by another live daemon with the same key. Both would outdo each other for ever, so this is
    /// done ever more seldom. One of the same version that says something else is outdone too.
    fn outdo(&mut self, now: Time, held: &Contact) {
        let me = self.table.me();
        let outdone = held.version > me.version || held.version == me.version && held != me;
        if outdone && held.peer == me.peer && self.contest.may_rise(now) {
            let mut me = me.clone();
            me.rise_above(held.version);
            self.table.set_me(me);
        }
    }

    /// Announces to everybody on the circle that this peer leaves for good; [`Event::Left`] follows when they
    /// know, or when the time for it is over.
    pub fn leave(&mut self, now: Time) {
        if self.is_over() {
            return;
        }
        self.set_phase(Phase::Leaving);
        self.member = false;
        self.joining.seek = None;
        self.joining.join = None;
        let contacts: Vec<Contact> = self.alive().cloned().collect();
        for to in contacts {
            let request = Request::Leave {
                contact: self.table.me().clone(),
            };
            let deadline = self.deadline(to.peer);
            self.send(now, (to, request, Purpose::Leave), deadline);
        }
        self.timers.set(now + self.config.leave_timeout, Timer::Leave);
        self.check_left(false);
    }

    fn check_left(&mut self, late: bool) {
        if self.phase == Phase::Leaving && (late || self.calls.count(&Purpose::Leave) == 0) {
            self.set_phase(Phase::Left);
            self.events.push_back(Event::Left);
        }
    }
}

/// Of these addresses those that others take: no text that is none, none twice, not too many.
#[expect(clippy::needless_pass_by_value, reason = "for `map_or`")]
fn publishable(addresses: Arc<[String]>) -> Arc<[String]> {
    let mut list: Vec<String> = Vec::new();
    for address in addresses.iter().filter(|text| is_address(text)) {
        if list.len() < MAX_ADDRESSES && !list.contains(address) {
            list.push(address.clone());
        }
    }
    list.into()
}

/// Inputs from the transport and the clock.
impl Ring {
    /// Answers a question of `from`, which the transport has proved to be the asker.
    pub fn handle_request(&mut self, now: Time, from: Peer, request: Request) -> Response {
        match request {
            Request::Ping { held } => {
                if let Some(held) = held {
                    self.outdo(now, &held);
                }
                self.spoke(now, from);
                Response::Pong {
                    contact: self.table.me().clone(),
                    member: self.member,
                }
            }
            Request::Neighbours {
                contact,
                member,
                of,
                digest,
            } if contact.peer == from => self.on_neighbours(now, &contact, member, (&of, digest)),
            Request::Next {
                target,
                count,
                without,
            } => {
                self.spoke(now, from);
                self.on_next(now, from, (target, usize::from(count)), without)
            }
            Request::Leave { contact } if contact.peer == from => {
                self.note(now, contact);
                self.declare_dead(now, from);
                self.events.push_back(Event::Departed(from));
                Response::Ack
            }
            // Nobody speaks for somebody else.
            Request::Neighbours { .. } | Request::Leave { .. } => Response::Busy,
        }
    }

    /// An answer came. One that is late only shows that the peer lives and how slow it is; one of a kind that
    /// does not fit changes nothing.
    pub fn handle_response(&mut self, now: Time, id: RequestId, response: Response) {
        let Some(Call {
            peer, purpose, sent, ..
        }) = self.calls.end(&mut self.timers, id)
        else {
            if let Some((peer, sent)) = self.calls.late(id) {
                self.answered(now, peer, sent);
                self.spoke(now, peer);
            }
            return;
        };
        self.answered(now, peer, sent);
        match (purpose, response) {
            (Purpose::Ping, Response::Pong { contact, member }) if contact.peer == peer => {
                self.on_pong(now, peer, sent, (contact, member));
            }
            (Purpose::Ping, _) => self.failed(now, peer, Failure::Refused, true),
            (Purpose::Neighbours(of), Response::Contacts(contacts)) => {
                self.on_contacts(now, peer, &of, contacts);
            }
            (Purpose::Neighbours(_), Response::Busy) if self.config.has(Flaw::BusyIsDead) => {
                self.declare_dead(now, peer);
            }
            // It has started anew: what is no member is no head.
            (Purpose::Neighbours(_), Response::Busy) => self.handle_disconnect(now, peer),
            (Purpose::Neighbours(_), _) => {}
            (Purpose::Lookup(lookup), response) => self.on_lookup_response(now, lookup, peer, response),
            (Purpose::Walk(walk, _), response) => self.on_walk_response(now, walk, peer, response),
            (Purpose::Positions, Response::Contacts(contacts)) => {
                self.on_positions(now, peer, Some(contacts));
            }
            (Purpose::Positions, _) => self.on_positions(now, peer, None),
            (Purpose::Leave, _) => self.check_left(false),
        }
    }

    /// A request will have no answer.
    pub fn handle_failure(&mut self, now: Time, id: RequestId, failure: Failure) {
        if let Some(call) = self.calls.end(&mut self.timers, id) {
            if failure == Failure::TimedOut {
                self.calls.expire(id, &call);
            }
            self.on_failure(now, &call, failure);
        }
    }

    fn on_failure(&mut self, now: Time, call: &Call, failure: Failure) {
        self.failed(now, call.peer, failure, call.purpose == Purpose::Ping);
        match &call.purpose {
            Purpose::Ping | Purpose::Neighbours(_) => {}
            Purpose::Lookup(lookup) => self.on_lookup_failure(now, *lookup, call.peer),
            Purpose::Walk(walk, of) => self.on_walk_failure(now, *walk, (call.peer, of), failure),
            Purpose::Positions => self.on_positions(now, call.peer, None),
            Purpose::Leave => self.check_left(false),
        }
    }

    /// An address given to join leads to a peer that does not let this one into the network both belong to.
    pub fn handle_barred(&mut self, now: Time) {
        self.bar(now);
    }

    /// The transport lost its connection to `peer` unexpectedly, or it left another question than the ring's
    /// without an answer.
    pub fn handle_disconnect(&mut self, now: Time, peer: Peer) {
        if self.table.is_member(peer) {
            self.ping(now, peer);
        }
    }

    /// Time has come to what [`Ring::poll_timeout`] said.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Round => self.on_round(now),
                Timer::Book => self.on_book(now),
                Timer::Ping(peer) => self.on_ping_due(now, peer),
                Timer::Request(id) => self.handle_failure(now, id, Failure::TimedOut),
                Timer::Lookup(id) => {
                    self.on_lookup_deadline(now, id);
                    self.end_walk(id);
                }
                Timer::Again(id) => self.on_lookup_again(now, id),
                Timer::Leave => self.check_left(true),
            }
        }
    }
}

/// Randomness and sending.
impl Ring {
    fn send(&mut self, now: Time, what: (Contact, Request, Purpose), deadline: Duration) {
        self.calls.send(now, &mut self.timers, what, deadline);
    }

    /// A random duration below `bound`.
    fn jitter(&mut self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.next_u64() % micros.max(1))
    }

    /// A random number below `bound`; 0 when there is none.
    fn random(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.rng.next_u64() % bound).unwrap_or(0)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.random(last + 1);
            items.swap(last, other);
        }
    }
}
