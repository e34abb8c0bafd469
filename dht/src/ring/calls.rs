//! Requests in flight, and what is due when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::message::{LookupId, Request, RequestId, Transmit};
use crate::{Contact, Id, Peer, Time};

/// Why a request was sent; decides what its answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see whether the peer lives and is a member.
    Ping,
    /// To stabilize these own virtual nodes.
    Neighbours(Vec<Id>),
    /// A step of a lookup.
    Lookup(LookupId),
    /// A step of a walk: what follows these virtual nodes of the peer.
    Walk(LookupId, Vec<Id>),
    /// To see what lies around candidates for own virtual nodes.
    Positions,
    /// To announce that this peer leaves.
    Leave,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) peer: Peer,
    pub(super) purpose: Purpose,
    pub(super) sent: Time,
    deadline: Time,
}

/// Late requests remembered, at most.
const MAX_LATE: usize = 128;

/// Requests in flight, and those the driver has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Calls {
    last: u64,
    open: BTreeMap<RequestId, Call>,
    /// The last requests that timed out, to whom and when they were sent. Their answers mean nothing any more
    /// but that the peer lives, and how slow it is.
    late: VecDeque<(RequestId, Peer, Time)>,
    queue: VecDeque<Transmit>,
}

impl Calls {
    /// Queues a request; its deadline goes into `timers`.
    pub(super) fn send(
        &mut self,
        now: Time,
        timers: &mut TimerQueue,
        (to, request, purpose): (Contact, Request, Purpose),
        deadline: Duration,
    ) -> RequestId {
        self.last += 1;
        let id = RequestId(self.last);
        let call = Call {
            peer: to.peer,
            purpose,
            sent: now,
            deadline: now + deadline,
        };
        timers.set(call.deadline, Timer::Request(id));
        self.open.insert(id, call);
        self.queue.push_back(Transmit {
            id,
            to,
            request,
            deadline,
        });
        id
    }

    /// Ends a request. `None` if it has ended already.
    pub(super) fn end(&mut self, timers: &mut TimerQueue, id: RequestId) -> Option<Call> {
        let call = self.open.remove(&id)?;
        timers.clear(call.deadline, Timer::Request(id));
        Some(call)
    }

    /// Remembers a request that timed out.
    pub(super) fn expire(&mut self, id: RequestId, call: &Call) {
        if self.late.len() == MAX_LATE {
            self.late.pop_front();
        }
        self.late.push_back((id, call.peer, call.sent));
    }

    /// Whom a request that timed out was sent to, and when. Answers once.
    pub(super) fn late(&mut self, id: RequestId) -> Option<(Peer, Time)> {
        let at = self.late.iter().position(|(late, ..)| *late == id)?;
        self.late.remove(at).map(|(_, peer, sent)| (peer, sent))
    }

    pub(super) fn next(&mut self) -> Option<Transmit> {
        self.queue.pop_front()
    }

    /// Whether a question to stabilize is in flight to `peer`.
    pub(super) fn is_stabilizing(&self, peer: Peer) -> bool {
        self.open.values().any(|call| {
            call.peer == peer && matches!(&call.purpose, Purpose::Neighbours(of) if !of.is_empty())
        })
    }

    pub(super) fn count(&self, purpose: &Purpose) -> usize {
        self.open.values().filter(|call| call.purpose == *purpose).count()
    }
}

/// What a moment may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A round of stabilization is due.
    Round,
    /// An entry of the address book is to be asked.
    Book,
    /// A peer that failed is to be pinged again.
    Ping(Peer),
    /// A request goes without an answer.
    Request(RequestId),
    /// A lookup or walk ends at the latest.
    Lookup(LookupId),
    /// A lookup that had nobody left to ask begins anew.
    Again(LookupId),
    /// The departure ends at the latest.
    Leave,
}

/// Moments waited for, in their order.
#[derive(Debug, Default)]
pub(super) struct TimerQueue(BTreeSet<(Time, Timer)>);

impl TimerQueue {
    pub(super) fn set(&mut self, at: Time, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn clear(&mut self, at: Time, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub(super) fn due(&mut self, now: Time) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
