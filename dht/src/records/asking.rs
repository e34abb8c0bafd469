//! The first peers from an id are asked until they answer or the ring counts them as dead.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{Peer, RingView, Time};

/// Between two questions to a peer that did not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// Peers that are being asked.
#[derive(Debug)]
pub(super) struct Asking {
    /// Who is to be asked when; who is being asked has no time.
    asked: BTreeMap<Peer, Option<Time>>,
    /// The next peers from the id, in place of those that die.
    spare: VecDeque<Peer>,
}

impl Asking {
    /// Asks the first `count` of these.
    pub(super) fn new(now: Time, near: &[Peer], count: usize) -> Self {
        let mut near = near.iter().copied();
        Self {
            asked: near.by_ref().take(count).map(|peer| (peer, Some(now))).collect(),
            spare: near.collect(),
        }
    }

    /// The next peer to ask.
    pub(super) fn poll(&mut self, now: Time) -> Option<Peer> {
        let due = |at: &Option<Time>| at.is_some_and(|at| at <= now);
        let (peer, at) = self.asked.iter_mut().find(|(_, at)| due(at))?;
        *at = None;
        Some(*peer)
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.asked.values().flatten().min().copied()
    }

    /// A peer answered. Whether it was being asked.
    pub(super) fn answered(&mut self, from: Peer) -> bool {
        let waits = self.asked.get(&from).is_some_and(Option::is_none);
        waits && self.asked.remove(&from).is_some()
    }

    /// A peer that was being asked did not answer: it is asked again while it lives, or else the next one is.
    pub(super) fn was_silent(&mut self, now: Time, ring: &impl RingView, from: Peer) {
        if !self.answered(from) {
            return;
        }
        if ring.is_alive(from) {
            self.asked.insert(from, Some(now + AGAIN));
        } else if let Some(next) = self.spare.pop_front() {
            self.asked.insert(next, Some(now));
        }
    }

    /// Who has not answered yet.
    pub(super) fn silent(&self) -> impl Iterator<Item = Peer> {
        self.asked.keys().copied()
    }

    pub(super) fn is_over(&self) -> bool {
        self.asked.is_empty()
    }

    /// Nobody is asked any more.
    pub(super) fn end(&mut self) {
        self.asked.clear();
    }
}
