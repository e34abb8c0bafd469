//! Finding a ring and becoming a member of it; joining and merging are one operation.
//!
//! A peer without an address book is a ring of one. One with a book that has just started is no member: it
//! pings the book until a member answers, looks up the place of each own virtual node through it, and takes
//! all lists at once; only then it answers questions of state and is taken over by others. When all peers
//! restart together nobody is a member: among those that find only others joining, the one with the smallest
//! peer id founds the ring. A ring of one that meets another one joins in the same way, but stays a member of
//! its own meanwhile; a newcomer that has just adopted a network is no member before. Every member asks a
//! random entry of its book now and then for the successor of an own virtual node; members of another ring
//! that turn up so are pinged and taken onto the circle, and stabilization does the rest.
//!
//! A peer that the network does not let in is no member of anything. It goes on asking its book, and joins
//! once somebody answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::calls::Timer;
use super::lookup::Aim;
use super::message::{Event, LookupId};
use super::positions::Positions;
use super::table::MemberState;
use super::{Phase, Ring};
use crate::{Contact, Flaw, Id, Peer, Time};

/// Entries of the address book pinged at once.
const SEEK_WINDOW: usize = 64;
/// Places looked up at once.
const JOIN_WINDOW: usize = 8;
/// A join begins anew after this many lookups failed.
const JOIN_FAILURES: u32 = 4;

/// The way into a ring.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) seek: Option<Seek>,
    pub(super) join: Option<Join>,
    pub(super) positions: Option<Positions>,
    /// This peer adopted a network and has not been a member since.
    pub(super) newcomer: bool,
    /// When the search for a ring began.
    pub(super) since: Time,
    /// Since when a peer of the network does not let this one in, and none has spoken to it.
    pub(super) barred: Option<Time>,
}

impl Joining {
    pub(super) fn new(now: Time) -> Self {
        Self {
            seek: None,
            join: None,
            positions: None,
            newcomer: false,
            since: now,
            barred: None,
        }
    }
}

/// When the address book is asked, and whether it is worth writing down.
#[derive(Debug)]
pub(super) struct Book {
    /// How long a lone peer waits before the next pass through the book.
    backoff: Duration,
    /// When an entry is asked next.
    at: Time,
    /// The book changed since the driver was last notified.
    pub(super) changed: bool,
    /// When the driver was last notified of a change.
    pub(super) reported: Time,
}

impl Book {
    pub(super) fn new(backoff: Duration, now: Time) -> Self {
        Self {
            backoff,
            at: now,
            changed: false,
            reported: now,
        }
    }
}

/// A pass through the address book.
#[derive(Debug)]
pub(super) struct Seek {
    todo: VecDeque<Peer>,
    pending: BTreeSet<Peer>,
    /// Peers that answered, but are no members.
    busy: BTreeSet<Peer>,
}

/// The lists of the own virtual nodes, as far as they are there.
#[derive(Debug)]
pub(super) struct Join {
    todo: Vec<Id>,
    lookups: BTreeMap<LookupId, Id>,
    staged: BTreeMap<Peer, Contact>,
    failures: u32,
}

impl Ring {
    pub(super) fn set_phase(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.events.push_back(Event::PhaseChanged(phase));
        }
    }

    pub(super) fn set_book_timer(&mut self, at: Time) {
        self.timers.clear(self.book.at, Timer::Book);
        self.book.at = at;
        self.timers.set(at, Timer::Book);
    }

    /// Time to ask the address book.
    pub(super) fn on_book(&mut self, now: Time) {
        if self.is_over() {
            return;
        }
        let wait = self.config.book_probe;
        let next = now + wait / 2 + self.jitter(wait);
        self.set_book_timer(next);
        if self.joining.join.is_some() || self.joining.seek.is_some() {
            return;
        }
        if self.member && self.table.members() > 0 {
            self.probe_book(now);
        } else {
            self.begin_seek(now);
        }
    }

    /// The last other member is gone.
    pub(super) fn on_lone(&mut self, now: Time) {
        if self.member && !self.is_over() {
            if self.joining.join.is_none() {
                self.set_phase(Phase::Alone);
            }
            self.book.backoff = self.config.retry;
            let soon = now + self.config.retry + self.jitter(self.config.retry);
            self.set_book_timer(soon);
        }
    }

    fn begin_seek(&mut self, now: Time) {
        let mut book: Vec<Peer> = self.table.entries().map(|(peer, _)| peer).collect();
        self.shuffle(&mut book);
        self.joining.seek = Some(Seek {
            todo: book.into(),
            pending: BTreeSet::new(),
            busy: BTreeSet::new(),
        });
        self.pump_seek(now);
    }

    /// A contact turned up while this peer looks for a ring: ask it now.
    pub(super) fn seek_also(&mut self, now: Time, peer: Peer) {
        if let Some(seek) = &mut self.joining.seek {
            if !seek.pending.contains(&peer) {
                seek.todo.push_front(peer);
            }
        } else {
            self.joining.seek = Some(Seek {
                todo: VecDeque::from([peer]),
                pending: BTreeSet::new(),
                busy: BTreeSet::new(),
            });
        }
        self.pump_seek(now);
    }

    fn pump_seek(&mut self, now: Time) {
        while let Some(seek) = &mut self.joining.seek
            && seek.pending.len() < SEEK_WINDOW
            && let Some(peer) = seek.todo.pop_front()
        {
            seek.pending.insert(peer);
            self.ping(now, peer);
        }
        let done = |seek: &Seek| seek.pending.is_empty() && seek.todo.is_empty();
        if self.joining.seek.as_ref().is_some_and(done)
            && let Some(seek) = self.joining.seek.take()
        {
            self.end_seek(now, &seek.busy);
        }
    }

    /// An entry answered, as a member or not, or failed to.
    pub(super) fn seek_result(&mut self, now: Time, peer: Peer, member: Option<bool>) {
        if let Some(seek) = &mut self.joining.seek
            && seek.pending.remove(&peer)
        {
            if member == Some(false) {
                seek.busy.insert(peer);
            }
            self.pump_seek(now);
        }
    }

    /// Every entry of the book was asked.
    fn end_seek(&mut self, now: Time, busy: &BTreeSet<Peer>) {
        if self.joining.join.is_some() || self.is_over() || self.table.members() > 0 {
            return;
        }
        if self.joining.barred.is_some() {
            self.book.backoff = (self.book.backoff * 2).min(self.config.longest_backoff);
            let next = now + self.book.backoff / 2 + self.jitter(self.book.backoff / 2);
            self.set_book_timer(next);
            return;
        }
        let patient = now.since(self.joining.since) < self.config.patience;
        let first = busy.first().is_none_or(|first| self.table.me().peer < *first);
        let waits = patient && (self.joining.newcomer || self.joining.positions.is_some());
        self.member |= !waits && (first || !patient);
        if self.member {
            self.joining.newcomer = false;
            self.settle_positions();
        }
        if self.member && (busy.is_empty() || !patient) {
            self.set_phase(Phase::Alone);
        }
        let wait = if busy.is_empty() {
            self.book.backoff = (self.book.backoff * 2).min(self.config.longest_backoff);
            self.book.backoff
        } else {
            self.config.retry
        };
        let next = now + wait / 2 + self.jitter(wait / 2);
        self.set_book_timer(next);
    }

    /// Somebody who knows the network does not let this peer in. Unless others do, it is no ring of one: what
    /// it would store is not where others look, and whom they let in instead may have its name.
    pub(super) fn bar(&mut self, now: Time) {
        if self.table.members() > 0 || self.is_over() {
            return;
        }
        self.joining.barred.get_or_insert(now);
        self.member = false;
        self.set_phase(Phase::Joining);
    }

    /// `via` is a member: look up the places of all own virtual nodes.
    pub(super) fn start_join(&mut self, now: Time, via: Peer) {
        if self.joining.join.is_some() || self.is_over() {
            return;
        }
        let Some(contact) = self.table.contact(via).cloned() else {
            return;
        };
        self.joining.seek = None;
        self.member |= self.config.has(Flaw::MemberTooEarly);
        if self.ask_positions(now, &contact) {
            return;
        }
        if self.phase != Phase::Joining {
            self.joining.since = now;
            self.set_phase(Phase::Joining);
        }
        let mut todo = self.table.own().to_vec();
        self.shuffle(&mut todo);
        self.joining.join = Some(Join {
            todo,
            lookups: BTreeMap::new(),
            staged: BTreeMap::from([(via, contact)]),
            failures: 0,
        });
        self.pump_join(now, 1);
    }

    fn pump_join(&mut self, now: Time, window: usize) {
        let id = self.next_lookup_id();
        let Some(join) = &mut self.joining.join else {
            return;
        };
        if join.lookups.len() >= window {
            return;
        }
        let Some(own) = join.todo.pop() else {
            if join.lookups.is_empty() {
                self.finish_join(now);
            }
            return;
        };
        join.lookups.insert(id, own);
        let start: Vec<Contact> = join.staged.values().cloned().collect();
        let what = (Aim::Join(own), own.successor(), self.config.r);
        self.begin_lookup(now, id, what, Vec::new(), start);
        self.pump_join(now, window);
    }

    /// A place was found, or not.
    pub(super) fn on_join_lookup(&mut self, now: Time, id: LookupId, own: Id, found: Option<Vec<Contact>>) {
        let small = self.config.r;
        let Some(join) = &mut self.joining.join else {
            return;
        };
        if join.lookups.remove(&id).is_none() {
            return;
        }
        if let Some(mut contacts) = found {
            if self.config.has(Flaw::JoinWithPart) {
                contacts.truncate(1);
            }
            // The list and whoever gave it; fewer than r peers are the whole ring.
            let whole = contacts.len() < small;
            join.staged
                .extend(contacts.into_iter().map(|contact| (contact.peer, contact)));
            if whole {
                join.todo.clear();
                for id in std::mem::take(&mut join.lookups).into_keys() {
                    self.cancel_lookup(id);
                }
            }
        } else {
            join.failures += 1;
            join.todo.push(own);
            if join.failures >= JOIN_FAILURES {
                self.abandon_join(now);
                return;
            }
        }
        self.pump_join(now, JOIN_WINDOW);
    }

    fn abandon_join(&mut self, now: Time) {
        let Some(join) = self.joining.join.take() else {
            return;
        };
        for id in join.lookups.into_keys() {
            self.cancel_lookup(id);
        }
        if self.member {
            let lone = self.table.members() == 0;
            self.set_phase(if lone { Phase::Alone } else { Phase::Joined });
        }
        let soon = now + self.config.retry + self.jitter(self.config.retry);
        self.set_book_timer(soon);
    }

    /// All lists are there: take them at once and become a member.
    fn finish_join(&mut self, now: Time) {
        let Some(join) = self.joining.join.take() else {
            return;
        };
        self.member = true;
        self.joining.newcomer = false;
        for contact in join.staged.into_values() {
            let peer = contact.peer;
            self.note(now, contact);
            let Some(entry) = self.table.get(peer) else {
                continue;
            };
            if let MemberState::Dead(_) = entry.standing {
                self.ping(now, peer);
            } else {
                self.enter(now, peer);
            }
        }
        self.book.backoff = self.config.retry;
        if self.table.members() == 0 {
            self.on_lone(now);
            return;
        }
        self.set_phase(Phase::Joined);
        let next = now + self.jitter(self.config.book_probe);
        self.set_book_timer(next);
        self.set_round(now);
    }

    /// Asks a random entry of the address book, living or dead, for the place of an own virtual node.
    fn probe_book(&mut self, now: Time) {
        if self.config.has(Flaw::NoMerge) {
            return;
        }
        let (living, others): (Vec<_>, Vec<_>) = self
            .table
            .entries()
            .map(|(peer, entry)| (entry.standing.is_member(), peer))
            .partition(|(member, _)| *member);
        // Another ring is more likely met through those that are not in this one.
        let pool = if others.is_empty() || self.random(4) == 0 {
            living
        } else {
            others
        };
        let own = self.random(self.table.own().len());
        let entry = pool.get(self.random(pool.len())).copied();
        let contact = entry.and_then(|(_, peer)| self.table.contact(peer)).cloned();
        if let (Some(contact), Some(own)) = (contact, self.table.own().get(own).copied()) {
            let id = self.next_lookup_id();
            let what = (Aim::Merge, own.successor(), self.config.r);
            self.begin_lookup(now, id, what, Vec::new(), vec![contact]);
        }
    }

    /// Members of this or another ring turned up.
    pub(super) fn on_merge_lookup(&mut self, now: Time, contacts: Vec<Contact>) {
        let mut strangers = false;
        for contact in contacts {
            let peer = contact.peer;
            self.note(now, contact);
            let Some(entry) = self.table.get(peer) else {
                continue;
            };
            match entry.standing {
                MemberState::Alive | MemberState::Suspect | MemberState::Candidate => continue,
                MemberState::Known => self.propose(now, peer),
                MemberState::Dead(_) => self.doubt_death(now, peer),
            }
            strangers = true;
        }
        if strangers {
            let wait = self.config.book_probe.min(Duration::from_millis(500));
            let soon = now + wait / 2 + self.jitter(wait);
            self.set_book_timer(soon);
        }
    }
}
