//! Questions and instructions that wait for a peer, sent in batches, one message in flight at a time.

use std::collections::BTreeSet;

use super::fingerprint::ShardKey;
use super::message::{MAX_ENTRIES, Request, TrimOrder};
use crate::{Id, Time};

/// Trim orders in one message: each names up to 255 other holders.
const MAX_ORDERS: usize = MAX_ENTRIES / 16;

/// What waits for one peer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    solicit: bool,
    commits: BTreeSet<Id>,
    trims: Vec<TrimOrder>,
    confirms: BTreeSet<ShardKey>,
    statuses: BTreeSet<Id>,
    in_flight: bool,
    not_before: Time,
}

/// What a request in flight was about.
#[derive(Debug)]
pub(super) enum Asked {
    Report,
    Solicit,
    Commit,
    Trim,
    Confirm(Vec<ShardKey>),
    Status(Vec<Id>),
}

impl Outbox {
    pub(super) fn solicit(&mut self, at: Time) {
        self.solicit = true;
        self.not_before = at;
    }

    /// The peer reported by itself.
    pub(super) fn reported(&mut self) {
        self.solicit = false;
    }

    pub(super) fn commit(&mut self, stripe: Id) {
        self.commits.insert(stripe);
    }

    pub(super) fn trim(&mut self, order: TrimOrder) {
        self.trims.push(order);
    }

    pub(super) fn confirm(&mut self, key: ShardKey) {
        self.confirms.insert(key);
    }

    pub(super) fn status(&mut self, stripe: Id) {
        self.statuses.insert(stripe);
    }

    /// The peer is unreachable. Whoever waits for its answers has a deadline of its own.
    pub(super) fn abandon(&mut self) {
        let in_flight = self.in_flight;
        *self = Self {
            in_flight,
            ..Self::default()
        };
    }

    pub(super) fn due(&self) -> Option<Time> {
        let waiting = self.solicit
            || !self.commits.is_empty()
            || !self.trims.is_empty()
            || !self.confirms.is_empty()
            || !self.statuses.is_empty();
        (waiting && !self.in_flight).then_some(self.not_before)
    }

    /// The next message, answers that others wait for first.
    pub(super) fn next(&mut self) -> Option<(Request, Asked)> {
        let message = if !self.confirms.is_empty() {
            let keys = take(&mut self.confirms, MAX_ENTRIES);
            let shards = keys.iter().map(|key| (key.slot.stripe, key.index)).collect();
            (Request::Confirm { shards }, Asked::Confirm(keys))
        } else if !self.statuses.is_empty() {
            let stripes = take(&mut self.statuses, MAX_ENTRIES);
            (
                Request::Status {
                    stripes: stripes.clone(),
                },
                Asked::Status(stripes),
            )
        } else if !self.commits.is_empty() {
            let stripes = take(&mut self.commits, MAX_ENTRIES);
            (Request::Commit { stripes }, Asked::Commit)
        } else if !self.trims.is_empty() {
            let rest = self.trims.split_off(self.trims.len().min(MAX_ORDERS));
            let orders = std::mem::replace(&mut self.trims, rest);
            (Request::Trim { orders }, Asked::Trim)
        } else if self.solicit {
            self.solicit = false;
            (Request::Solicit, Asked::Solicit)
        } else {
            return None;
        };
        self.in_flight = true;
        Some(message)
    }

    pub(super) fn answered(&mut self) {
        self.in_flight = false;
    }

    /// The message in flight failed; nothing more before `at`.
    pub(super) fn failed(&mut self, at: Time) {
        self.in_flight = false;
        self.not_before = at;
    }
}

fn take<T: Ord>(set: &mut BTreeSet<T>, limit: usize) -> Vec<T> {
    std::iter::from_fn(|| set.pop_first()).take(limit).collect()
}
