//! Questions and instructions that wait for a peer, sent in batches, one message in flight at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::custody::key::ItemKey;
use crate::custody::message::{MAX_ASKED, MAX_ENTRIES, Pin, Question, Request, TrimOrder};
use crate::{Id, Time};

/// Trim orders in one message: each names up to 255 other holders.
const MAX_ORDERS: usize = MAX_ENTRIES / 16;

/// What waits for one peer.
#[derive(Debug, Default)]
pub(in crate::custody) struct Outbox {
    /// When to ask for a report.
    solicit: Option<Time>,
    commits: BTreeSet<Id>,
    trims: Vec<TrimOrder>,
    /// With the trim to pin the shard for.
    confirms: BTreeMap<ItemKey, Option<u64>>,
    releases: Vec<Pin>,
    statuses: BTreeSet<Id>,
    audits: BTreeSet<Id>,
    helds: BTreeSet<Id>,
    totals: BTreeMap<Id, u8>,
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
    Confirm(Vec<(ItemKey, Option<u64>)>),
    Release,
    Status(Vec<Id>),
    Audit,
    Held(Vec<Id>),
    Audited,
}

impl Outbox {
    pub(in crate::custody) fn solicit(&mut self, at: Time) {
        self.solicit = Some(at);
    }

    /// The peer reported by itself.
    pub(in crate::custody) fn reported(&mut self) {
        self.solicit = None;
    }

    pub(in crate::custody) fn commit(&mut self, stripe: Id) {
        self.commits.insert(stripe);
    }

    pub(in crate::custody) fn trim(&mut self, order: TrimOrder) {
        self.trims.push(order);
    }

    pub(in crate::custody) fn confirm(&mut self, key: ItemKey, trim: Option<u64>) {
        let latest = self.confirms.entry(key).or_default();
        *latest = trim.max(*latest);
    }

    pub(in crate::custody) fn release(&mut self, pin: Pin) {
        self.releases.push(pin);
    }

    pub(in crate::custody) fn status(&mut self, stripe: Id) {
        self.statuses.insert(stripe);
    }

    pub(in crate::custody) fn audit(&mut self, stripe: Id) {
        self.audits.insert(stripe);
    }

    pub(in crate::custody) fn held(&mut self, stripe: Id) {
        self.helds.insert(stripe);
    }

    pub(in crate::custody) fn audited(&mut self, stripe: Id, total: u8) {
        self.totals.insert(stripe, total);
    }

    /// The peer is unreachable. Whoever waits for its answers has a deadline of its own.
    pub(in crate::custody) fn abandon(&mut self) {
        let in_flight = self.in_flight;
        *self = Self {
            in_flight,
            ..Self::default()
        };
    }

    pub(in crate::custody) fn due(&self) -> Option<Time> {
        let waiting = !self.commits.is_empty()
            || !self.trims.is_empty()
            || !self.confirms.is_empty()
            || !self.releases.is_empty()
            || !self.statuses.is_empty()
            || !self.audits.is_empty()
            || !self.helds.is_empty()
            || !self.totals.is_empty();
        let at = if waiting {
            Some(self.not_before)
        } else {
            self.solicit.map(|at| at.max(self.not_before))
        };
        at.filter(|_| !self.in_flight)
    }

    /// The next message, answers that others wait for first.
    pub(super) fn next(&mut self) -> Option<(Request, Asked)> {
        let message = if !self.confirms.is_empty() {
            let asked = std::iter::from_fn(|| self.confirms.pop_first());
            let asked: Vec<(ItemKey, Option<u64>)> = asked.take(MAX_ENTRIES).collect();
            let question = |(key, trim): &(ItemKey, Option<u64>)| Question {
                stripe: key.slot.stripe,
                item: key.item,
                trim: *trim,
            };
            let questions = asked.iter().map(question).collect();
            (Request::Confirm { questions }, Asked::Confirm(asked))
        } else if !self.statuses.is_empty() {
            let stripes = take(&mut self.statuses, MAX_ENTRIES);
            (
                Request::Status {
                    stripes: stripes.clone(),
                },
                Asked::Status(stripes),
            )
        } else if !self.helds.is_empty() {
            let stripes = take(&mut self.helds, MAX_ASKED);
            (
                Request::Held {
                    stripes: stripes.clone(),
                },
                Asked::Held(stripes),
            )
        } else if !self.commits.is_empty() {
            let stripes = take(&mut self.commits, MAX_ENTRIES);
            (Request::Commit { stripes }, Asked::Commit)
        } else if !self.trims.is_empty() {
            let rest = self.trims.split_off(self.trims.len().min(MAX_ORDERS));
            let orders = std::mem::replace(&mut self.trims, rest);
            (Request::Trim { orders }, Asked::Trim)
        } else if !self.releases.is_empty() {
            let rest = self.releases.split_off(self.releases.len().min(MAX_ENTRIES));
            let pins = std::mem::replace(&mut self.releases, rest);
            (Request::Release { pins }, Asked::Release)
        } else if !self.totals.is_empty() {
            let totals = std::iter::from_fn(|| self.totals.pop_first());
            let totals = totals.take(MAX_ENTRIES).collect();
            (Request::Audited { totals }, Asked::Audited)
        } else if !self.audits.is_empty() {
            let stripes = take(&mut self.audits, MAX_ENTRIES);
            (Request::Audit { stripes }, Asked::Audit)
        } else if self.solicit.is_some() {
            self.solicit = None;
            (Request::Solicit, Asked::Solicit)
        } else {
            return None;
        };
        self.in_flight = true;
        Some(message)
    }

    pub(in crate::custody) fn answered(&mut self) {
        self.in_flight = false;
    }

    /// The message in flight failed; nothing more before `at`.
    pub(in crate::custody) fn failed(&mut self, at: Time) {
        self.in_flight = false;
        self.not_before = at;
    }
}

fn take(set: &mut BTreeSet<Id>, limit: usize) -> Vec<Id> {
    std::iter::from_fn(|| set.pop_first()).take(limit).collect()
}
