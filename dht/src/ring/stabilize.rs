//! Keeping successor lists right: `stabilize` and `rectify` of Zave 2017, one question for both.
//!
//! Each round asks the first successor of every own virtual node, one message per peer, what follows those
//! nodes in its view. What lies behind the head is taken over as it is (the head vouches for it); what would
//! become a new head must first answer itself; what the head does not list is pinged, not dropped. Being
//! asked is the notification: the asker lives and is a member. A peer whose surroundings changed has its
//! predecessors ask soon, so news runs backwards around the circle as fast as messages do.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Purpose, Timer};
use super::message::{MAX_CONTACTS, Request, Response};
use super::table::MemberState;
use super::{Phase, Ring};
use crate::{Contact, Flaw, Id, Peer, Time};

/// Unlisted peers pinged per answer, at most.
const MAX_DOUBTS: usize = 8;
/// A neighbour is pinged when it was silent for this many rounds.
const SILENT_ROUNDS: u32 = 3;

/// When rounds come: quick ones after changes, a bounded number in a row, slow ones otherwise.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// When the next round is due.
    next: Time,
    /// Quick rounds still wanted.
    wanted: u8,
    /// Quick rounds since the last slow one.
    spent: u8,
    /// The surroundings changed since the predecessors were last notified.
    changed: bool,
}

impl Ring {
    /// The circle changed: quick rounds, and word to the predecessors.
    pub(super) fn nudge(&mut self, now: Time) {
        self.rounds.changed = true;
        self.hurry(now);
    }

    /// Quick rounds.
    pub(super) fn hurry(&mut self, now: Time) {
        self.rounds.wanted = 2;
        let soon = now + self.config.quick / 4 + self.jitter(self.config.quick / 2);
        if self.rounds.spent < self.config.quick_rounds && soon < self.rounds.next {
            self.set_round(soon);
        }
    }

    pub(super) fn set_round(&mut self, at: Time) {
        self.timers.clear(self.rounds.next, Timer::Round);
        self.rounds.next = at;
        self.timers.set(at, Timer::Round);
    }

    pub(super) fn on_round(&mut self, now: Time) {
        self.publish_used(now);
        let quick = self.rounds.wanted > 0 && self.rounds.spent < self.config.quick_rounds;
        if self.member {
            let heads = self.heads();
            self.ping_the_silent(now, heads.keys());
            self.ask_heads(now, heads);
            self.notify_predecessors(now);
            if !quick {
                self.refresh_fingers(now);
            }
        }
        self.tidy(now);
        let rounds = &mut self.rounds;
        let wait = if quick {
            rounds.wanted -= 1;
            rounds.spent += 1;
            self.config.quick
        } else {
            rounds.wanted = 0;
            rounds.spent = 0;
            self.config.stabilize
        };
        let wait = wait * 9 / 10 + self.jitter(wait / 5);
        self.set_round(now + wait);
    }

    /// The first successor peer of each own virtual node, suspects passed over.
    fn heads(&self) -> BTreeMap<Peer, Vec<Id>> {
        let mut heads: BTreeMap<Peer, Vec<Id>> = BTreeMap::new();
        for id in self.table.own() {
            if let Some(head) = self.table.head(*id) {
                heads.entry(head).or_default().push(*id);
            }
        }
        heads
    }

    fn ask_heads(&mut self, now: Time, heads: BTreeMap<Peer, Vec<Id>>) {
        for (head, of) in heads {
            if !self.calls.is_stabilizing(head) {
                let digest = self.table.digest(&of, self.table.me().peer, self.config.r);
                self.ask_neighbours(now, head, of, digest);
            }
        }
    }

    fn ask_neighbours(&mut self, now: Time, peer: Peer, of: Vec<Id>, digest: u64) {
        let deadline = self.deadline(peer);
        let Some(to) = self.table.contact(peer).cloned() else {
            return;
        };
        let request = Request::Neighbours {
            contact: self.table.me().clone(),
            member: self.member,
            of: of.clone(),
            digest,
        };
        self.send(now, (to, request, Purpose::Neighbours(of)), deadline);
    }

    fn notify_predecessors(&mut self, now: Time) {
        if std::mem::take(&mut self.rounds.changed) {
            for peer in self.table.predecessors() {
                self.ask_neighbours(now, peer, Vec::new(), 0);
            }
        }
    }

    /// Pings neighbours not heard for a while.
    fn ping_the_silent<'a>(&mut self, now: Time, heads: impl Iterator<Item = &'a Peer>) {
        let mut silent: BTreeSet<Peer> = self.table.predecessors();
        silent.extend(heads);
        let window = self.config.stabilize * SILENT_ROUNDS;
        silent.retain(|peer| {
            self.table
                .get(*peer)
                .is_some_and(|entry| !entry.heard_within(now, window))
        });
        for peer in silent {
            self.ping(now, peer);
        }
    }

    /// Answers [`Request::Neighbours`] from `contact`, which speaks for itself.
    pub(super) fn on_neighbours(
        &mut self,
        now: Time,
        contact: &Contact,
        member: bool,
        (of, digest): (&[Id], u64),
    ) -> Response {
        let from = contact.peer;
        self.on_announcement(now, contact.clone());
        if member && !self.config.has(Flaw::NoRectify) {
            self.admit(now, from);
        }
        if !self.member {
            return Response::Busy;
        }
        if let Some(held) = self.table.contact(from).filter(|held| *held != contact) {
            // Its clock went back: it will outdo this version and be believed again.
            return Response::Contacts(vec![held.clone()]);
        }
        if of.is_empty() {
            if member {
                self.hurry(now);
            }
            return Response::Same;
        }
        if member {
            self.follow(now, of);
        }
        if self.table.digest(of, from, self.config.r) == digest {
            return Response::Same;
        }
        let union = self.table.union(of, from, self.config.r).into_iter();
        Response::Contacts(union.take(MAX_CONTACTS).cloned().collect())
    }

    /// `head` answered what follows the own virtual nodes `of`.
    pub(super) fn on_contacts(&mut self, now: Time, head: Peer, of: &[Id], contacts: Vec<Contact>) {
        if !self.member || of.is_empty() {
            for contact in contacts {
                self.note(now, contact);
            }
            return;
        }
        let mut listed: BTreeSet<Peer> = contacts.iter().map(|contact| contact.peer).collect();
        if listed.insert(head) {
            // It is somewhere else now than its contact here says.
            self.ping(now, head);
        }
        for contact in contacts {
            self.hear_of(now, contact);
        }
        for peer in self.unlisted(now, of, &listed) {
            if self.config.has(Flaw::OriginalOrder) {
                self.declare_dead(now, peer);
                continue;
            }
            if let Some(entry) = self.table.get_mut(peer) {
                entry.unlisted = true;
            }
            self.ping(now, peer);
        }
    }

    /// Takes over a contact that a live member vouches for, unless it died here or would become a head.
    pub(super) fn hear_of(&mut self, now: Time, contact: Contact) {
        let peer = contact.peer;
        let news = self
            .table
            .get(peer)
            .is_none_or(|entry| contact.version > entry.contact.version);
        self.note(now, contact);
        let Some(entry) = self.table.get(peer) else {
            return;
        };
        match entry.standing {
            MemberState::Alive | MemberState::Suspect | MemberState::Candidate => {}
            MemberState::Dead(_) if self.config.has(Flaw::HearsayRevives) => self.enter(now, peer),
            MemberState::Dead(_) if news => self.verify(now, peer),
            MemberState::Dead(_) => self.doubt_death(now, peer),
            MemberState::Known
                if self.table.would_be_head(&entry.contact) && !self.config.has(Flaw::AdoptUnverified) =>
            {
                self.propose(now, peer);
            }
            MemberState::Known => self.enter(now, peer),
        }
    }

    /// Peers here within the arcs an answer covers that the answer does not list and that did not say
    /// themselves just now where they are.
    fn unlisted(&self, now: Time, of: &[Id], listed: &BTreeSet<Peer>) -> BTreeSet<Peer> {
        let me = self.table.me().peer;
        let mut doubtful = BTreeSet::new();
        // Those listed that are not on the circle here are not met on the way; behind the list nobody is in
        // doubt.
        let absent = listed.iter().filter(|peer| !self.table.is_member(**peer)).count();
        for id in of {
            let mut confirmed = absent;
            for peer in self.table.list(*id, me, usize::MAX) {
                if listed.contains(&peer) {
                    confirmed += 1;
                    if confirmed >= self.config.r {
                        break;
                    }
                } else {
                    doubtful.insert(peer);
                }
            }
        }
        doubtful.retain(|peer| {
            self.table
                .get(*peer)
                .is_some_and(|entry| !entry.announced_within(now, self.config.stabilize / 2))
        });
        doubtful.into_iter().take(MAX_DOUBTS).collect()
    }

    /// Whether nobody is likely to lie between the virtual node `before` and the own one: the peer there was
    /// the last to ask what follows, and that lately. In a ring small enough to be known as a whole it need
    /// not have.
    pub(super) fn is_predecessor(&self, now: Time, (before, peer): (Id, Peer), own: Id) -> bool {
        let window = self.config.stabilize * (SILENT_ROUNDS + 1);
        let asked = self.pointers.predecessors.get(&own);
        self.table.members() < self.config.r
            || peer == self.table.me().peer
            || asked.is_some_and(|(last, at)| *last == before && now.since(*at) <= window)
    }

    /// A member has asked what follows these virtual nodes of its own: this peer does, in its view.
    fn follow(&mut self, now: Time, of: &[Id]) {
        for id in of {
            let own = self.table.own();
            let after = own.partition_point(|own| own <= id);
            if let Some(own) = own.get(after).or(own.first()) {
                self.pointers.predecessors.insert(*own, (*id, now));
            }
        }
    }

    /// Whether the ring asks and answers questions of membership at all.
    pub(super) fn is_over(&self) -> bool {
        match self.phase {
            Phase::Leaving | Phase::Left => true,
            Phase::Alone | Phase::Joining | Phase::Joined => false,
        }
    }
}
