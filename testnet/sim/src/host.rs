//! One host: what it has on disk, and its process if it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use mutualstore_dht::custody::{self, Custody, TOMBSTONE};
use mutualstore_dht::engine::Output;
use mutualstore_dht::placement::Roster;
use mutualstore_dht::records::RecordSet;
use mutualstore_dht::ring::{self, BookEntry, Event as RingEvent, Ring};
use mutualstore_dht::{Contact, Engine, Id, Peer, RingView, Time};

use super::disk::{Disk, Stored, is_shard};
use super::liar::Lies;
use super::message::{Body, Message};
use super::world::{Event, Who};

/// What a host has on disk, and its process if it runs. Its many fields stand for what a real peer has in its
/// machine, its disk and its connections.
pub(crate) struct Host {
    pub(crate) peer: Peer,
    pub(crate) virtual_nodes: u16,
    pub(crate) engine: Option<Engine<Option<Custody>>>,
    pub(crate) disk: Disk,
    /// What its locators say: who holds which shard.
    pub(super) locators: BTreeMap<Id, Vec<(u8, Who)>>,
    /// The records on its disk.
    pub(super) sets: BTreeMap<Id, RecordSet>,
    /// Shards it takes, at most.
    pub(crate) capacity: usize,
    pub(super) contact: Contact,
    pub(super) book: Vec<BookEntry>,
    pub(super) book_at: u64,
    pub(super) joins: Vec<Who>,
    pub(crate) life: u32,
    pub(super) born: u64,
    pub(super) wake: u64,
    /// When it walks around the ring next; none where nobody must know all.
    pub(super) walk: Option<u64>,
    /// Whom custody knew at its last two looks, where that decides.
    pub(super) rosters: [Roster; 2],
    /// Difference of its wall clock to the truth in this life.
    pub(super) clock: i64,
    /// Messages that wait because the process is stopped.
    pub(super) frozen: Option<Vec<Message>>,
    /// What it was about to do then.
    pub(super) stalled: Vec<Event>,
    /// Nothing answers, not even its port.
    pub(super) dark: bool,
    /// Requests of custody without an answer yet, and whom they were sent to.
    pub(super) calls: BTreeMap<custody::RequestId, Peer>,
    /// Who said hello to this life, in which life of its own.
    pub(super) greeted: BTreeMap<Who, u32>,
    pub(super) revision: u64,
    /// Its repairs and copies fail.
    pub(crate) wedged: bool,
    /// What it lies about and to whom, if it does.
    pub(super) lies: Option<Lies>,
    /// Gone for good.
    pub(crate) retired: bool,
    /// Requests of ring and custody it sent.
    pub(crate) sent: u64,
}

impl Host {
    pub(crate) fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// The ring of its process, if that runs.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        Some(&self.engine.as_ref()?.ring)
    }

    /// The custody of its process, if that runs and has one.
    pub(crate) fn custody(&self) -> Option<&Custody> {
        self.engine.as_ref()?.custody.as_ref()
    }

    pub(crate) fn is_liar(&self) -> bool {
        self.lies.is_some()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_up() && self.frozen.is_none()
    }

    /// Whether it is running and not about to leave.
    pub(super) fn stays(&self) -> bool {
        let phase = self.ring().map(Ring::phase);
        self.is_running() && !matches!(phase, Some(ring::Phase::Leaving | ring::Phase::Left))
    }

    pub(crate) fn is_joined(&self) -> bool {
        let phase = self.ring().map(Ring::phase);
        self.is_running() && phase == Some(ring::Phase::Joined)
    }

    /// Whether it takes no more shards; tombstones and locators take no room.
    pub(crate) fn is_full(&self) -> bool {
        let shards = || self.disk.keys().filter(|(_, index)| is_shard(*index)).count();
        self.disk.len() >= self.capacity && shards() >= self.capacity
    }

    /// What is on its disk of a stripe, its locator and its tombstone included.
    pub(super) fn records(&self, stripe: Id) -> impl Iterator<Item = (u8, &Stored)> {
        let records = self.disk.range((stripe, 0)..=(stripe, u8::MAX));
        records.map(|((_, index), stored)| (*index, stored))
    }

    /// The shards of a stripe on its disk.
    pub(super) fn shards(&self, stripe: Id) -> impl Iterator<Item = (u8, &Stored)> {
        self.records(stripe).filter(|(index, _)| is_shard(*index))
    }

    /// Whether a tombstone of the stripe is on its disk.
    pub(crate) fn is_deleted(&self, stripe: Id) -> bool {
        self.disk.contains_key(&(stripe, TOMBSTONE))
    }

    pub(super) fn local(&self, now: u64) -> Time {
        Time::from_micros(now.saturating_sub(self.born))
    }

    /// The moment of this life that is `at` for everybody.
    pub(crate) fn moment(&self, at: u64) -> Time {
        self.local(at)
    }
}

/// All peers a ring counts among the living.
pub(super) fn everybody(ring: &Ring) -> Roster {
    Roster::new(RingView::successors(ring, Id::default(), usize::MAX))
}

/// A request of custody, and how long it waits for an answer.
type Call = (custody::RequestId, Duration);

/// What the machines of a host want done.
#[derive(Default)]
pub(super) struct Wants {
    pub(super) messages: Vec<(Peer, Body, Option<Call>)>,
    pub(super) effects: Vec<custody::Effect>,
    pub(super) lookups: Vec<(ring::LookupId, Result<ring::Found, ring::LookupError>)>,
    /// A wake-up earlier than the one that is set.
    pub(super) wake: Option<u64>,
    pub(super) view_changed: bool,
    /// Peers it no longer counts among the living.
    pub(super) declared_dead: Vec<Peer>,
    pub(super) left: bool,
}

impl Host {
    /// Takes it out; nothing when the process does not run.
    pub(super) fn wants(&mut self, now: u64) -> Option<Wants> {
        let time = self.local(now);
        let engine = self.engine.as_mut()?;
        let mut wants = Wants::default();
        while let Some(output) = engine.poll(time) {
            match output {
                Output::Ring(transmit) => {
                    let body = Body::RingRequest(transmit.id, transmit.request);
                    wants.messages.push((transmit.to.peer, body, None));
                }
                Output::Custody(transmit) => {
                    self.calls.insert(transmit.id, transmit.to);
                    let call = Some((transmit.id, transmit.deadline));
                    let body = Body::CustodyRequest(transmit.id, transmit.request);
                    wants.messages.push((transmit.to, body, call));
                }
                Output::Effect(effect) => wants.effects.push(effect),
                Output::Event(RingEvent::PeerDown(peer)) => wants.declared_dead.push(peer),
                Output::ViewChanged => {
                    wants.view_changed = true;
                    if self.walk.is_some() {
                        let [last, before] = &mut self.rosters;
                        std::mem::swap(last, before);
                        *last = everybody(&engine.ring);
                    }
                }
                Output::Event(RingEvent::LookupDone { id, outcome }) => wants.lookups.push((id, outcome)),
                Output::Event(RingEvent::Left) => wants.left = true,
                Output::Event(
                    RingEvent::PhaseChanged(_)
                    | RingEvent::PeerUp(_)
                    | RingEvent::PeerChanged(_)
                    | RingEvent::Departed(_)
                    | RingEvent::Positioned(_)
                    | RingEvent::WalkDone { .. }
                    | RingEvent::BookChanged,
                ) => {}
            }
        }
        if engine.custody.as_ref().is_some_and(Custody::needs_roster) {
            self.walk.get_or_insert(now);
        }
        self.sent += wants.messages.len() as u64;
        let revision = engine.ring.revision();
        wants.view_changed |= revision != self.revision;
        self.revision = revision;
        let due = engine.poll_timeout();
        let due = due.map(|due| self.born.saturating_add(due.as_micros()).max(now));
        let due = [due, self.walk].into_iter().flatten().min();
        wants.wake = due.filter(|due| *due < self.wake);
        self.wake = wants.wake.unwrap_or(self.wake);
        Some(wants)
    }
}
