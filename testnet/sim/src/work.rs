//! How many requests and how much work on shards a run took.

use std::ops::{AddAssign, Sub};

use mutualstore_dht::ring;
use serde::Serialize;

use super::message::Body;

/// What was asked and done in all hosts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Whether somebody is there.
    pub pings: u64,
    /// What follows a host.
    pub neighbours: u64,
    /// Steps of lookups.
    pub lookups: u64,
    /// Hosts that said that they leave.
    pub departures: u64,
    /// Requests of custody.
    pub custody: u64,
    /// Shards rebuilt from others.
    pub regenerated: u64,
    /// Shards and tombstones copied.
    pub copied: u64,
    /// Excess shards dropped.
    pub dropped: u64,
    /// Locators written by primaries.
    pub located: u64,
}

impl Work {
    /// Counts a message that arrived, if it is a request.
    pub(super) fn count(&mut self, body: &Body) {
        let kind = match body {
            Body::RingRequest(_, ring::Request::Ping { .. }) => &mut self.pings,
            Body::RingRequest(_, ring::Request::Neighbours { .. }) => &mut self.neighbours,
            Body::RingRequest(_, ring::Request::Next { .. }) => &mut self.lookups,
            Body::RingRequest(_, ring::Request::Leave { .. }) => &mut self.departures,
            Body::CustodyRequest(..) => &mut self.custody,
            Body::RingResponse(..)
            | Body::RingFailure(_)
            | Body::CustodyResponse(..)
            | Body::CustodyFailure(_)
            | Body::Hello { .. }
            | Body::Disconnect
            | Body::Writer(_) => return,
        };
        *kind += 1;
    }

    /// Shards and locators that were made, moved or dropped.
    pub(super) fn moved(&self) -> u64 {
        self.regenerated + self.copied + self.dropped + self.located
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            pings: with(self.pings, other.pings),
            neighbours: with(self.neighbours, other.neighbours),
            lookups: with(self.lookups, other.lookups),
            departures: with(self.departures, other.departures),
            custody: with(self.custody, other.custody),
            regenerated: with(self.regenerated, other.regenerated),
            copied: with(self.copied, other.copied),
            dropped: with(self.dropped, other.dropped),
            located: with(self.located, other.located),
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Self) {
        *self = self.zip(more, |one, other| one + other);
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        self.zip(before, |after, before| after - before)
    }
}
