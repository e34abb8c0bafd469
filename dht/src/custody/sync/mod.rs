//! The exchange of messages: requests of all roles out, answers in, and the other way round.
//!
//! Answers are given from local state. What a role wants to ask waits in the peer's `outbox`; reports follow
//! the anti-entropy of `exchange`.

pub(super) mod discover;
pub(super) mod exchange;
pub(super) mod fingerprint;
pub(super) mod outbox;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::discover::Discovered;
use self::outbox::Asked;
use crate::custody::key::{ItemKey, Slot};
use crate::custody::peers::Handle;
use crate::custody::{
    Custody, Effect, MAX_ENTRIES, Question, Report, Request, RequestId, Response, Transmit,
};
use crate::{Flaw, Peer, RingView, Time};

/// How long a request may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Requests in flight, and what numbers them.
#[derive(Debug)]
pub(super) struct Sync {
    /// The random number of this run.
    instance: u64,
    /// The number of its last report.
    sequence: u64,
    requests: BTreeMap<RequestId, (Handle, Asked)>,
    next_request: u64,
    transmits: VecDeque<Transmit>,
    discovered: Discovered,
}

impl Sync {
    pub(super) fn new(instance: u64) -> Self {
        Self {
            instance,
            sequence: 0,
            requests: BTreeMap::new(),
            next_request: 0,
            transmits: VecDeque::new(),
            discovered: Discovered::new(),
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }
}

impl Custody {
    /// Answers another peer.
    pub fn handle_request(
        &mut self,
        now: Time,
        ring: &impl RingView,
        from: Peer,
        request: Request,
    ) -> Response {
        self.schedule.now = now;
        let peer = self.peers.intern(now, from, ring.is_alive(from));
        match request {
            Request::Report(report) => Response::Reported(self.handle_report(now, ring, peer, &report)),
            Request::Solicit => {
                self.peers.get_mut(peer).outgoing.soon(now);
                self.peers.arm(peer);
                Response::Taken
            }
            Request::Commit { stripes } => {
                for stripe in stripes {
                    if self.holder.has_pending(stripe) {
                        self.effects.push_back(Effect::Commit { stripe });
                    }
                }
                Response::Taken
            }
            Request::Trim { orders } => {
                for order in &orders {
                    self.handle_order(now, ring, peer, order);
                }
                Response::Taken
            }
            Request::Confirm { questions } => {
                let answer = |question: Question| self.vouch(now, peer, question);
                Response::Confirmed(questions.into_iter().map(answer).collect())
            }
            Request::Release { pins } => {
                for pin in pins {
                    let key = ItemKey::new(pin.stripe, pin.item);
                    self.holder.release(key, peer, pin.trim);
                }
                Response::Taken
            }
            Request::Status { stripes } => {
                Response::Statuses(stripes.into_iter().map(|stripe| self.status(stripe)).collect())
            }
            Request::Audit { stripes } => {
                for slot in stripes.into_iter().map(Slot::of) {
                    if self
                        .responsible(now, ring, slot)
                        .iter()
                        .any(|(member, _)| *member == peer)
                    {
                        self.begin_audit(now, ring, slot, None, Some(peer));
                    }
                }
                Response::Taken
            }
            Request::Held { stripes } => {
                let mut room = MAX_ENTRIES;
                let mut answer = |stripe| {
                    let mut holds = self.holds(now, stripe);
                    holds.reported.truncate(room);
                    room -= holds.reported.len();
                    holds
                };
                Response::Held(stripes.into_iter().map(&mut answer).collect())
            }
            Request::Audited { totals } => {
                for (stripe, total) in totals {
                    self.handle_audited(now, peer, Slot::of(stripe), total);
                }
                Response::Taken
            }
        }
    }

    /// A request was answered. Unknown ids are ignored.
    pub fn handle_response(&mut self, now: Time, ring: &impl RingView, id: RequestId, response: Response) {
        self.schedule.now = now;
        let Some((peer, asked)) = self.sync.requests.remove(&id) else {
            return;
        };
        self.peers.get_mut(peer).answered = Some(now);
        match (asked, response) {
            (Asked::Report, Response::Reported(reported)) => self.handle_reported(now, ring, peer, &reported),
            (
                Asked::Solicit | Asked::Commit | Asked::Trim | Asked::Release | Asked::Audit | Asked::Audited,
                Response::Taken,
            ) => {
                self.peers.get_mut(peer).outbox.answered();
            }
            (Asked::Confirm(keys), Response::Confirmed(answers)) if keys.len() == answers.len() => {
                self.peers.get_mut(peer).outbox.answered();
                for ((key, _), yes) in keys.into_iter().zip(answers) {
                    self.handle_confirmed(now, peer, key, yes);
                }
            }
            (Asked::Status(stripes), Response::Statuses(answers)) if stripes.len() == answers.len() => {
                self.peers.get_mut(peer).outbox.answered();
                for (stripe, status) in stripes.into_iter().zip(answers) {
                    self.handle_status(now, peer, stripe, Some(status));
                }
            }
            (Asked::Held(stripes), Response::Held(answers)) if stripes.len() == answers.len() => {
                self.peers.get_mut(peer).outbox.answered();
                for (stripe, holds) in stripes.into_iter().zip(answers) {
                    self.handle_search_answer(now, ring, peer, Slot::of(stripe), Some(&holds));
                    self.handle_holds(now, ring, peer, Slot::of(stripe), Some(holds));
                }
            }
            (asked, _) => self.unanswered(now, ring, peer, asked),
        }
        self.peers.arm(peer);
    }

    /// A request was not answered in time, or could not be delivered. Unknown ids are ignored.
    pub fn handle_failure(&mut self, now: Time, ring: &impl RingView, id: RequestId) {
        self.schedule.now = now;
        if let Some((peer, asked)) = self.sync.requests.remove(&id) {
            self.unanswered(now, ring, peer, asked);
            self.peers.arm(peer);
        }
    }

    fn unanswered(&mut self, now: Time, ring: &impl RingView, peer: Handle, asked: Asked) {
        let retry = now + self.config.exchange_dirty * 2;
        let record = self.peers.get_mut(peer);
        match asked {
            Asked::Report if self.config.has(Flaw::ReportOnce) => {}
            Asked::Report => record.outgoing.failed(now, &self.config),
            Asked::Solicit => {
                record.outbox.failed(retry);
                record.outbox.solicit(retry);
            }
            // The primary finds what is still to be done again, and a pin ends by itself.
            Asked::Commit | Asked::Trim | Asked::Release | Asked::Audit | Asked::Audited => {
                record.outbox.failed(retry);
            }
            Asked::Confirm(keys) => {
                record.outbox.failed(retry);
                // The question is repeated while a trim waits for its answer, which is not for long.
                for (key, trim) in keys.into_iter().filter(|(key, _)| self.holder.waits(*key, peer)) {
                    record.outbox.confirm(key, trim);
                }
            }
            Asked::Status(stripes) => {
                record.outbox.failed(retry);
                for stripe in stripes {
                    self.handle_status(now, peer, stripe, None);
                }
            }
            Asked::Held(stripes) => {
                record.outbox.failed(retry);
                for stripe in stripes {
                    self.handle_search_answer(now, ring, peer, Slot::of(stripe), None);
                    self.handle_holds(now, ring, peer, Slot::of(stripe), None);
                }
            }
        }
    }

    /// Sends what waits for a peer.
    pub(super) fn attend(&mut self, now: Time, peer: Handle) {
        let record = self.peers.get_mut(peer);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let mut messages = Vec::new();
        if due(record.outgoing.due()) {
            let page = self.config.page;
            let (total, listings) = record.outgoing.report(peer, self.holder.shards(), page);
            self.sync.sequence += 1;
            let report = Report {
                instance: self.sync.instance,
                sequence: self.sync.sequence,
                total,
                listings,
            };
            messages.push((Request::Report(report), Asked::Report));
        }
        if due(record.outbox.due()) {
            messages.extend(record.outbox.next());
        }
        let to = record.peer;
        self.peers.arm(peer);
        for (request, asked) in messages {
            let id = RequestId(self.sync.next_request);
            self.sync.next_request += 1;
            self.sync.requests.insert(id, (peer, asked));
            self.sync.transmits.push_back(Transmit {
                id,
                to,
                request,
                deadline: DEADLINE,
            });
        }
    }
}
