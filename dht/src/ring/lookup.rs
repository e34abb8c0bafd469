//! Iterative lookups: the asker keeps the state, every question is answered from local state.
//!
//! A lookup holds the virtual nodes it has heard of and asks, one peer at a time, the owner of the nearest
//! one: the one before the target, or the one after it when the neighbourhood is as dense there as around
//! this peer and that node therefore likely the successor itself. The owner of the arc answers `Found`;
//! others name nodes nearer than their own, and what is not nearer is dropped, so answers that contradict
//! each other cannot send a lookup around in circles. A late or failed answer moves on to the next, and every
//! question names those that did not answer: whoever is asked does without them, so the one before the target
//! names who follows although nobody has repaired anything yet. The nearest one before the target is asked
//! again when all it named are silent. When nobody is left, because many died at once, a lookup for the
//! driver begins anew a little later, until its time or its questions are used up.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Purpose, Timer};
use super::message::{Event, Found, LookupError, LookupId, MAX_CONTACTS, MAX_WITHOUT, Request, Response};
use super::table::{MemberState, Table};
use super::walk::Walk;
use super::{Phase, Ring};
use crate::{Contact, Flaw, Id, Peer, Time};

/// Nodes named before and after the target by an answer, at most.
const CLOSER: (usize, usize) = (6, 2);

/// How often a lookup begins anew because an answer names a peer that counts as dead here.
const DOUBTS: u32 = 2;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The driver asked.
    Answer,
    /// The finger of this own virtual node at this distance, as a power of two.
    Finger(Id, u8),
    /// The list of this own virtual node, before this peer is a member.
    Join(Id),
    /// To see whether an entry of the address book lives in another ring.
    Merge,
}

/// A lookup in progress: what is looked for, who is known and was asked, and what it has cost. The three make
/// it large, and each step reads all of them.
#[derive(Debug)]
pub(super) struct Lookup {
    aim: Aim,
    target: Id,
    count: usize,
    deadline: Time,
    /// Virtual nodes heard of, and where their peers are.
    nodes: BTreeMap<Id, Peer>,
    contacts: BTreeMap<Peer, Contact>,
    asked: BTreeSet<Peer>,
    /// Who did not answer, or is no member.
    silent: BTreeSet<Peer>,
    /// By peer asked, how many silent peers the question to it named.
    informed: BTreeMap<Peer, usize>,
    /// Questions sent.
    questions: usize,
    /// How often it began anew after nobody was left to ask.
    rounds: u32,
    path: Vec<Peer>,
    timeouts: u32,
    /// Mean distance between virtual nodes around this peer.
    gap: u64,
}

/// Lookups and walks under way.
#[derive(Debug, Default)]
pub(super) struct Queries {
    lookups: BTreeMap<LookupId, Lookup>,
    pub(super) walks: BTreeMap<LookupId, Walk>,
    /// The number of the last one.
    last: u64,
}

impl Lookup {
    fn know(&mut self, table: &Table, nodes: Vec<(Id, Peer)>) {
        for (id, peer) in nodes {
            if let Some(contact) = table.contact(peer) {
                self.nodes.insert(id, peer);
                self.contacts.insert(peer, contact.clone());
            }
        }
    }

    fn add(&mut self, contact: Contact) {
        self.nodes.extend(contact.ids().map(|id| (id, contact.peer)));
        self.contacts.insert(contact.peer, contact);
    }

    /// The next peer to ask.
    fn next(&self) -> Option<Peer> {
        let fresh = |(id, peer): (&Id, &Peer)| (!self.asked.contains(peer)).then_some((*id, *peer));
        let (low, high) = (self.nodes.range(..self.target), self.nodes.range(self.target..));
        let before = low.rev().chain(high.rev()).find_map(fresh);
        let (low, high) = (self.nodes.range(..self.target), self.nodes.range(self.target..));
        let after = high.chain(low).find_map(fresh);
        let ((before, predecessor), (after, successor)) = (before?, after?);
        let dense = after.distance_from(&before).prefix() / 4 <= self.gap;
        Some(if dense { successor } else { predecessor })
    }

    /// The nearest before the target that answered named only peers nearer that are silent: it is asked
    /// again, to do without those. Going back to others would find nobody who knows more.
    fn insist(&self) -> Option<Peer> {
        let (low, high) = (self.nodes.range(..self.target), self.nodes.range(self.target..));
        let mut before = low.rev().chain(high.rev()).map(|(_, peer)| *peer);
        let nearest = before.find(|peer| !self.silent.contains(peer))?;
        let informed = self.informed.get(&nearest)?;
        (self.path.contains(&nearest) && *informed < self.silent.len()).then_some(nearest)
    }

    /// Takes over the contacts that lie nearer to the target, on either side, than `from` does.
    fn approach(&mut self, from: Peer, contacts: Vec<Contact>) {
        let Some(own) = self.contacts.get(&from).map(|own| reach(own, self.target)) else {
            return;
        };
        for contact in contacts {
            let (before, after) = reach(&contact, self.target);
            if !self.contacts.contains_key(&contact.peer) && (before < own.0 || after < own.1) {
                self.add(contact);
            }
        }
    }

    fn hops(&self) -> u32 {
        u32::try_from(self.path.len()).unwrap_or(u32::MAX)
    }
}

/// Distances of a contact's nearest virtual nodes before and at or after the target.
fn reach(contact: &Contact, target: Id) -> (Id, Id) {
    let farthest = Id::new([u8::MAX; 32]);
    contact.ids().fold((farthest, farthest), |(before, after), id| {
        let ahead = id.distance_from(&target);
        // A node at the target itself lies after it, not before.
        let behind = if id == target {
            farthest
        } else {
            target.distance_from(&id)
        };
        (before.min(behind), after.min(ahead))
    })
}

impl Ring {
    /// Looks for the first `count` distinct peers at or after `target`; [`Event::LookupDone`] reports the
    /// outcome. `count` is bounded by the length of successor lists.
    pub fn lookup(&mut self, now: Time, target: Id, count: usize) -> LookupId {
        let id = self.next_lookup_id();
        if !self.member && self.phase != Phase::Leaving {
            let outcome = Err(LookupError::NotJoined);
            self.events.push_back(Event::LookupDone { id, outcome });
            return id;
        }
        let count = count.clamp(1, self.config.r);
        if let Some(peers) = self.owned(now, target, count, &[]) {
            let contacts = peers.iter().filter_map(|peer| self.table.contact(*peer));
            let outcome = Ok(Found {
                contacts: contacts.cloned().collect(),
                path: Vec::new(),
                hops: 0,
                timeouts: 0,
            });
            self.events.push_back(Event::LookupDone { id, outcome });
        } else {
            let nodes = self.nearest(target, &[]);
            self.begin_lookup(now, id, (Aim::Answer, target, count), nodes, Vec::new());
        }
        id
    }

    pub(super) fn next_lookup_id(&mut self) -> LookupId {
        self.queries.last += 1;
        LookupId(self.queries.last)
    }

    /// Starts a lookup that knows only these virtual nodes of peers known here, and those of `start`.
    pub(super) fn begin_lookup(
        &mut self,
        now: Time,
        id: LookupId,
        (aim, target, count): (Aim, Id, usize),
        nodes: Vec<(Id, Peer)>,
        start: Vec<Contact>,
    ) {
        let mut lookup = Lookup {
            aim,
            target,
            count,
            deadline: now + self.config.lookup_timeout,
            nodes: BTreeMap::new(),
            contacts: BTreeMap::new(),
            asked: BTreeSet::from([self.table.me().peer]),
            silent: BTreeSet::new(),
            informed: BTreeMap::new(),
            questions: 0,
            rounds: 0,
            path: Vec::new(),
            timeouts: 0,
            gap: if self.table.members() == 0 {
                0
            } else {
                self.table.mean_gap(self.config.r)
            },
        };
        lookup.know(&self.table, nodes);
        for contact in start {
            lookup.add(contact);
        }
        self.timers.set(lookup.deadline, Timer::Lookup(id));
        self.queries.lookups.insert(id, lookup);
        self.step(now, id);
    }

    /// Asks the next peer, or ends the lookup when there is none.
    fn step(&mut self, now: Time, id: LookupId) {
        let Some(lookup) = self.queries.lookups.get_mut(&id) else {
            return;
        };
        let (hops, timeouts) = (lookup.hops(), lookup.timeouts);
        if lookup.questions >= self.config.lookup_hops {
            self.end_lookup(now, id, Err(LookupError::TimedOut { hops, timeouts }));
            return;
        }
        let next = lookup.insist().or_else(|| lookup.next());
        let next = next.and_then(|peer| lookup.contacts.get(&peer)).cloned();
        let Some(to) = next else {
            if lookup.aim == Aim::Answer {
                let wait = self.config.retry * (1 << lookup.rounds.min(8));
                self.timers.set(now + wait, Timer::Again(id));
            } else {
                self.end_lookup(now, id, Err(LookupError::Exhausted { hops, timeouts }));
            }
            return;
        };
        lookup.asked.insert(to.peer);
        lookup.informed.insert(to.peer, lookup.silent.len());
        lookup.questions += 1;
        let request = Request::Next {
            target: lookup.target,
            count: u16::try_from(lookup.count).unwrap_or(u16::MAX),
            without: lookup.silent.iter().copied().take(MAX_WITHOUT).collect(),
        };
        let deadline = self.deadline(to.peer);
        self.send(now, (to, request, Purpose::Lookup(id)), deadline);
    }

    /// Nobody was left to ask a while ago: begin anew with what is known now.
    pub(super) fn on_lookup_again(&mut self, now: Time, id: LookupId) {
        let me = self.table.me().peer;
        let Some((target, count)) = self
            .queries
            .lookups
            .get(&id)
            .map(|lookup| (lookup.target, lookup.count))
        else {
            return;
        };
        if let Some(peers) = self.owned(now, target, count, &[]) {
            let contacts = peers.iter().filter_map(|peer| self.table.contact(*peer));
            let contacts = contacts.cloned().collect();
            self.end_lookup(now, id, Ok(contacts));
            return;
        }
        let nodes = self.nearest(target, &[]);
        if let Some(lookup) = self.queries.lookups.get_mut(&id) {
            lookup.rounds += 1;
            lookup.asked = BTreeSet::from([me]);
            lookup.silent.clear();
            lookup.informed.clear();
            lookup.nodes.clear();
            lookup.contacts.clear();
            lookup.know(&self.table, nodes);
        }
        self.step(now, id);
    }

    /// A peer asked by a lookup answered.
    pub(super) fn on_lookup_response(&mut self, now: Time, id: LookupId, from: Peer, response: Response) {
        let Some(lookup) = self.queries.lookups.get_mut(&id) else {
            return;
        };
        match response {
            Response::Found(contacts) => {
                lookup.path.push(from);
                self.found(now, id, from, contacts);
            }
            Response::Closer(contacts) => {
                lookup.path.push(from);
                let mut contacts: Vec<Contact> = contacts.into_iter().take(MAX_CONTACTS).collect();
                let urgent = lookup.aim == Aim::Answer;
                self.doubt(now, &contacts, urgent);
                contacts.retain(|contact| !is_dead(&self.table, contact));
                if let Some(lookup) = self.queries.lookups.get_mut(&id) {
                    lookup.approach(from, contacts);
                }
                self.met(now, id, from);
                self.step(now, id);
            }
            Response::Busy => {
                lookup.silent.insert(from);
                self.handle_disconnect(now, from);
                self.step(now, id);
            }
            Response::Pong { .. } | Response::Same | Response::Contacts(_) | Response::Ack => {
                self.step(now, id);
            }
        }
    }

    pub(super) fn on_lookup_failure(&mut self, now: Time, id: LookupId, peer: Peer) {
        if let Some(lookup) = self.queries.lookups.get_mut(&id) {
            lookup.timeouts += 1;
            lookup.silent.insert(peer);
            self.step(now, id);
        }
    }

    pub(super) fn on_lookup_deadline(&mut self, now: Time, id: LookupId) {
        if let Some(lookup) = self.queries.lookups.get(&id) {
            let (hops, timeouts) = (lookup.hops(), lookup.timeouts);
            self.end_lookup(now, id, Err(LookupError::TimedOut { hops, timeouts }));
        }
    }

    pub(super) fn cancel_lookup(&mut self, id: LookupId) {
        if let Some(lookup) = self.queries.lookups.remove(&id) {
            self.timers.clear(lookup.deadline, Timer::Lookup(id));
        }
    }

    /// A peer answered as a member: it belongs to the learned contacts, once a ping has shown where it is.
    /// A join keeps the circle as it is until all lists are there.
    fn met(&mut self, now: Time, id: LookupId, from: Peer) {
        let Some(lookup) = self.queries.lookups.get(&id) else {
            return;
        };
        let contact = lookup.contacts.get(&from).cloned();
        match (lookup.aim, contact) {
            (Aim::Join(_), _) | (_, None) => {}
            (Aim::Answer | Aim::Finger(..) | Aim::Merge, Some(contact)) => {
                self.note(now, contact);
                self.spoke(now, from);
            }
        }
    }

    fn found(&mut self, now: Time, id: LookupId, from: Peer, contacts: Vec<Contact>) {
        self.met(now, id, from);
        let Some(lookup) = self.queries.lookups.get(&id) else {
            return;
        };
        let me = self.table.me().peer;
        let mut contacts: Vec<_> = contacts
            .into_iter()
            .take(MAX_CONTACTS)
            .filter(|contact| contact.peer != me)
            .collect();
        let responder = lookup.contacts.get(&from).cloned();
        match lookup.aim {
            Aim::Answer | Aim::Finger(..) => {
                if lookup.aim == Aim::Answer && lookup.rounds < DOUBTS && self.doubt(now, &contacts, true) {
                    self.timers.set(now + self.config.retry, Timer::Again(id));
                    return;
                }
                contacts.retain(|contact| !is_dead(&self.table, contact));
                for contact in &contacts {
                    self.hear_of(now, contact.clone());
                }
                if contacts.is_empty() {
                    self.step(now, id);
                    return;
                }
            }
            Aim::Join(_) | Aim::Merge => contacts.extend(responder),
        }
        self.end_lookup(now, id, Ok(contacts));
    }

    /// A live member names peers that count as dead here: one of the two is wrong, so they are pinged.
    /// Whether there are such.
    fn doubt(&mut self, now: Time, contacts: &[Contact], urgent: bool) -> bool {
        if self.config.has(Flaw::TrustDeaths) {
            return false;
        }
        let dead = contacts.iter().filter(|contact| is_dead(&self.table, contact));
        let dead: Vec<Peer> = dead.map(|contact| contact.peer).collect();
        for peer in &dead {
            // A lookup that somebody waits for has no time for the next ping that is due anyway.
            if urgent {
                self.verify_again(now, *peer, self.config.retry);
            } else {
                self.verify(now, *peer);
            }
        }
        !dead.is_empty()
    }

    /// Ends a lookup; what it found goes where it was wanted.
    fn end_lookup(&mut self, now: Time, id: LookupId, outcome: Result<Vec<Contact>, LookupError>) {
        let Some(lookup) = self.queries.lookups.remove(&id) else {
            return;
        };
        self.timers.clear(lookup.deadline, Timer::Lookup(id));
        match (lookup.aim, outcome) {
            (Aim::Answer, outcome) => {
                let outcome = outcome.map(|contacts| Found {
                    contacts: self.arrange(&lookup, contacts),
                    hops: lookup.hops(),
                    timeouts: lookup.timeouts,
                    path: lookup.path,
                });
                self.events.push_back(Event::LookupDone { id, outcome });
            }
            (Aim::Finger(own, exponent), Ok(contacts)) => self.set_finger((own, exponent), &contacts),
            (Aim::Join(own), outcome) => self.on_join_lookup(now, id, own, outcome.ok()),
            (Aim::Merge, Ok(contacts)) => self.on_merge_lookup(now, contacts),
            (Aim::Finger(..) | Aim::Merge, Err(_)) => {}
        }
    }

    /// The first distinct peers of the answer and this one, in the order of the circle.
    fn arrange(&self, lookup: &Lookup, mut contacts: Vec<Contact>) -> Vec<Contact> {
        if self.member {
            contacts.push(self.table.me().clone());
        }
        let position = |contact: &Contact| {
            // Where the table has the same virtual nodes, it has their identifiers too.
            let known = self.table.contact(contact.peer);
            let known = known.filter(|known| known.virtual_nodes == contact.virtual_nodes);
            reach(known.unwrap_or(contact), lookup.target).1
        };
        let mut positioned: Vec<_> = contacts
            .into_iter()
            .map(|contact| (position(&contact), contact))
            .collect();
        positioned.sort_by_key(|(distance, contact)| (*distance, contact.peer));
        positioned.dedup_by_key(|(_, contact)| contact.peer);
        let contacts = positioned.into_iter().map(|(_, contact)| contact);
        contacts.take(lookup.count).collect()
    }

    /// Answers [`Request::Next`].
    pub(super) fn on_next(
        &mut self,
        now: Time,
        from: Peer,
        (target, count): (Id, usize),
        mut without: Vec<Peer>,
    ) -> Response {
        if !self.member {
            return Response::Busy;
        }
        without.truncate(MAX_WITHOUT);
        for peer in &without {
            self.handle_disconnect(now, *peer);
        }
        // The asker may have been here before and be joining again.
        without.push(from);
        let count = count.clamp(1, self.config.r);
        if let Some(mut peers) = self.owned(now, target, count, &without) {
            let me = self.table.me().peer;
            let before = self.table.counter_clockwise(target).next();
            if let Some((_, before)) = before
                .filter(|(_, peer)| *peer != from && peers.first() == Some(&me) && peers.len() < MAX_CONTACTS)
            {
                // A newcomer that joins here notifies it.
                if !peers.contains(&before) {
                    peers.push(before);
                }
            }
            let contacts = peers.iter().filter_map(|peer| self.table.contact(*peer));
            return Response::Found(contacts.cloned().collect());
        }
        let nearest = self.nearest(target, &without).into_iter();
        let peers: BTreeSet<Peer> = nearest.map(|(_, peer)| peer).collect();
        let contacts = peers.iter().filter_map(|peer| self.table.contact(*peer));
        Response::Closer(contacts.cloned().collect())
    }

    /// The first `count` distinct peers at or after the target, if this peer owns its arc: the target lies
    /// between an own virtual node and its successor, those in `without` not regarded, or between a
    /// predecessor known well and an own virtual node. Those in `without` are named all the same, in their
    /// places: one answer that was late does not take a peer out of what is found. The asker, who may have
    /// been here before and be joining again, comes last in `without` and is not named.
    fn owned(&self, now: Time, target: Id, count: usize, without: &[Peer]) -> Option<Vec<Peer>> {
        let me = self.table.me().peer;
        let asker = without.last().copied();
        let present = |(_, peer): &(Id, Peer)| *peer == me || !without.contains(peer);
        let (_, before) = self.table.counter_clockwise(target).find(present)?;
        if before != me {
            // What lies behind a predecessor that is silent is not known here.
            let before = self.table.counter_clockwise(target).next()?;
            let (own, after) = self.table.clockwise(target).next()?;
            if after != me || without.contains(&before.1) || !self.is_predecessor(now, before, own) {
                return None;
            }
        }
        let peers = self.table.distinct(target).map(|(_, peer)| peer);
        Some(peers.filter(|peer| Some(*peer) != asker).take(count).collect())
    }

    /// The live peers nearest to the target, some before and fewer after it, each with its nearest virtual
    /// node there; nobody in `without`.
    pub(super) fn nearest(&self, target: Id, without: &[Peer]) -> Vec<(Id, Peer)> {
        self.table.nearest(target, CLOSER, without)
    }
}

/// Whether this contact belongs to a dead peer, in this version or a later one.
fn is_dead(table: &Table, contact: &Contact) -> bool {
    table.get(contact.peer).is_some_and(|entry| match entry.standing {
        MemberState::Dead(_) => contact.version <= entry.contact.version,
        MemberState::Known | MemberState::Candidate | MemberState::Alive | MemberState::Suspect => false,
    })
}
