//! Requests and responses, both ways.

pub(super) mod discover;
pub(super) mod exchange;
pub(super) mod fingerprint;
pub(super) mod outbox;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::custody::key::{ShardKey, Slot};
use crate::custody::peers::Handle;
use crate::custody::sync::outbox::Asked;
use crate::custody::{
    Custody, Effect, MAX_ENTRIES, Question, Report, Reported, Request, RequestId, Response, Transmit,
};
use crate::{Flaw, Id, Membership, Peer, Time};

/// How long a request may take.
pub(in crate::custody) const DEADLINE: Duration = Duration::from_secs(5);

impl Custody {
    /// Answers another peer.
    pub fn handle_request(
        &mut self,
        now: Time,
        ring: &impl Membership,
        from: Peer,
        request: Request,
    ) -> Response {
        self.now = now;
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
                    if self.inventory.has_pending(stripe) {
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
                    let key = ShardKey::new(pin.stripe, pin.index);
                    self.trims.release(key, peer, pin.trim);
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

    /// Answers for a shard held here. Of what was confirmed nobody takes back the copy.
    fn vouch(&mut self, now: Time, peer: Handle, question: Question) -> bool {
        let key = ShardKey::new(question.stripe, question.index);
        let yes = self.confirm(now, key, question.trim.map(|trim| (peer, trim)));
        if let Some(held) = self.inventory.shards.get_mut(&key).filter(|_| yes) {
            held.vouched = true;
        }
        yes
    }

    pub(in crate::custody) fn handle_report(
        &mut self,
        now: Time,
        ring: &impl Membership,
        holder: Handle,
        report: &Report,
    ) -> Reported {
        let retry_at = now + self.config.settle();
        let record = self.peers.get_mut(holder);
        record.outbox.reported();
        let mut elsewhere = Vec::new();
        if record.incoming.admit(report.instance, report.sequence) {
            for listing in &report.listings {
                let fingerprints = &mut record.incoming.fingerprints;
                self.reports.replace(now, holder, listing, fingerprints, retry_at);
            }
            if ring.is_settled() {
                let listed = report.listings.iter().flat_map(|listing| &listing.entries);
                let listed = listed.map(|entry| entry.stripe);
                let stripes: BTreeSet<Id> = listed.chain(std::mem::take(&mut record.redirected)).collect();
                let primary = |stripe| ring.successors(stripe, 1).first().map(|member| member.peer);
                elsewhere = stripes
                    .into_iter()
                    .filter_map(|stripe| Some((stripe, primary(stripe)?)))
                    .filter(|(_, primary)| *primary != ring.me())
                    .take(MAX_ENTRIES)
                    .collect();
            }
        }
        let fingerprints = &record.incoming.fingerprints;
        let same = fingerprints.total() == report.total;
        let differs = (!same).then(|| fingerprints.sums());
        if same && self.peers.synced(holder) {
            self.reports.sweep.start();
        }
        Reported { differs, elsewhere }
    }

    /// A request was answered. Unknown ids are ignored.
    pub fn handle_response(&mut self, now: Time, ring: &impl Membership, id: RequestId, response: Response) {
        self.now = now;
        let Some((peer, asked)) = self.requests.remove(&id) else {
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
    pub fn handle_failure(&mut self, now: Time, ring: &impl Membership, id: RequestId) {
        self.now = now;
        if let Some((peer, asked)) = self.requests.remove(&id) {
            self.unanswered(now, ring, peer, asked);
            self.peers.arm(peer);
        }
    }

    fn unanswered(&mut self, now: Time, ring: &impl Membership, peer: Handle, asked: Asked) {
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
                // Asked again for as long as a trim waits, which is not for long.
                for (key, trim) in keys.into_iter().filter(|(key, _)| self.trims.waits(*key, peer)) {
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

    pub(in crate::custody) fn handle_reported(
        &mut self,
        now: Time,
        ring: &impl Membership,
        primary: Handle,
        reported: &Reported,
    ) {
        let jitter = self.jitter();
        let outgoing = &mut self.peers.get_mut(primary).outgoing;
        match &reported.differs {
            None => outgoing.agreed(now, &self.config, jitter),
            Some(theirs) => outgoing.differs(now, theirs, &self.config),
        }
        for (stripe, peer) in &reported.elsewhere {
            if !ring.is_alive(*peer) && *peer != ring.me() {
                self.discover(now, *stripe);
                continue;
            }
            let hint = self.peers.intern(now, *peer, true);
            for key in self.keys_of(*stripe) {
                let held = self.inventory.shards.get(&key);
                // A second hint would be a contradiction: this peer's own view has to settle it.
                if held.is_some_and(|held| held.primary == Some(primary) && !held.hinted) {
                    self.set_primary(now, key, Some(hint), true);
                }
            }
        }
    }

    /// Sends what waits for a peer.
    pub(in crate::custody) fn attend(&mut self, now: Time, peer: Handle) {
        let record = self.peers.get_mut(peer);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let mut messages = Vec::new();
        if due(record.outgoing.due()) {
            let page = self.config.page;
            let (total, listings) = record.outgoing.report(peer, &self.inventory.shards, page);
            self.sequence += 1;
            let report = Report {
                instance: self.instance,
                sequence: self.sequence,
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
            let id = RequestId(self.next_request);
            self.next_request += 1;
            self.requests.insert(id, (peer, asked));
            self.transmits.push_back(Transmit {
                id,
                to,
                request,
                deadline: DEADLINE,
            });
        }
    }
}
