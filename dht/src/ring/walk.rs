//! Walks: asking every member, clockwise neighbour by neighbour, until nobody new turns up.
//!
//! Each member is asked what follows its own virtual nodes. The owner of the next virtual node after each one
//! is in the answer, so the walk goes all around the circle. Only who answers this walk as a member counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Ring;
use super::calls::{Purpose, Timer};
use super::message::{Event, Failure, LookupId, Request, Response};
use crate::{Contact, Id, Peer, Time};

/// Questions in flight at once.
const WINDOW: usize = 32;
/// Virtual nodes asked about in one question: bounds the answer.
const CHUNK: usize = 16;

/// A walk in progress.
#[derive(Debug)]
pub(super) struct Walk {
    deadline: Time,
    /// Everybody heard of, with its contact; whether it answered as a member.
    heard_of: BTreeMap<Peer, (Contact, bool)>,
    /// Questions not asked yet: to whom, about which of its virtual nodes.
    todo: VecDeque<(Peer, Vec<Id>)>,
    /// Peers that were late once and asked again.
    late: BTreeSet<Peer>,
    in_flight: usize,
}

impl Walk {
    /// Takes a contact into the walk if it is new.
    fn add(&mut self, contact: Contact) {
        if self.heard_of.contains_key(&contact.peer) {
            return;
        }
        let ids: Vec<Id> = contact.ids().collect();
        let questions = ids.chunks(CHUNK).map(|chunk| (contact.peer, chunk.to_vec()));
        self.todo.extend(questions);
        self.heard_of.insert(contact.peer, (contact, false));
    }
}

impl Ring {
    /// Asks every member reachable clockwise; [`Event::WalkDone`] names who answered.
    pub fn walk(&mut self, now: Time) -> LookupId {
        let id = self.next_lookup_id();
        let me = self.table.me();
        let mut walk = Walk {
            deadline: now + self.config.walk_timeout,
            heard_of: BTreeMap::from([(me.peer, (me.clone(), true))]),
            todo: VecDeque::new(),
            late: BTreeSet::new(),
            in_flight: 0,
        };
        for contact in self.alive() {
            walk.add(contact.clone());
        }
        self.timers.set(walk.deadline, Timer::Lookup(id));
        self.queries.walks.insert(id, walk);
        self.pump_walk(now, id);
        id
    }

    fn pump_walk(&mut self, now: Time, id: LookupId) {
        while let Some(walk) = self.queries.walks.get_mut(&id)
            && walk.in_flight < WINDOW
            && let Some((peer, of)) = walk.todo.pop_front()
            && let Some((to, _)) = walk.heard_of.get(&peer)
        {
            walk.in_flight += 1;
            let to = to.clone();
            let request = Request::Neighbours {
                contact: self.table.me().clone(),
                member: self.member,
                of: of.clone(),
                digest: 0,
            };
            let deadline = self.deadline(peer);
            self.send(now, (to, request, Purpose::Walk(id, of)), deadline);
        }
        if self
            .queries
            .walks
            .get(&id)
            .is_some_and(|walk| walk.in_flight == 0)
        {
            self.end_walk(id);
        }
    }

    /// A member answered, or a peer that is none.
    pub(super) fn on_walk_response(&mut self, now: Time, id: LookupId, from: Peer, response: Response) {
        let Some(walk) = self.queries.walks.get_mut(&id) else {
            return;
        };
        walk.in_flight -= 1;
        let contacts = match response {
            Response::Contacts(contacts) => Some(contacts),
            Response::Same => Some(Vec::new()),
            Response::Busy
            | Response::Pong { .. }
            | Response::Found(_)
            | Response::Closer(_)
            | Response::Ack => None,
        };
        if let Some(contacts) = contacts {
            if let Some((_, answered)) = walk.heard_of.get_mut(&from) {
                *answered = true;
            }
            for contact in contacts {
                walk.add(contact);
            }
        } else {
            walk.todo.retain(|(peer, _)| *peer != from);
        }
        self.pump_walk(now, id);
    }

    /// A late answer may have been lost: the question is asked once more.
    pub(super) fn on_walk_failure(&mut self, now: Time, id: LookupId, of: (Peer, &[Id]), failure: Failure) {
        if let Some(walk) = self.queries.walks.get_mut(&id) {
            walk.in_flight -= 1;
            let (peer, ids) = of;
            if failure == Failure::TimedOut && walk.late.insert(peer) {
                walk.todo.push_back((peer, ids.to_vec()));
            } else {
                walk.todo.retain(|(other, _)| *other != peer);
            }
            self.pump_walk(now, id);
        }
    }

    pub(super) fn end_walk(&mut self, id: LookupId) {
        let Some(walk) = self.queries.walks.remove(&id) else {
            return;
        };
        self.timers.clear(walk.deadline, Timer::Lookup(id));
        let mut answered = Vec::new();
        let mut silent = Vec::new();
        for (peer, (contact, member)) in walk.heard_of {
            if member {
                answered.push((contact.ids().min(), contact));
            } else {
                silent.push(peer);
            }
        }
        answered.sort_by_key(|(first, _)| *first);
        self.events.push_back(Event::WalkDone {
            id,
            answered: answered.into_iter().map(|(_, contact)| contact).collect(),
            silent,
        });
    }
}
