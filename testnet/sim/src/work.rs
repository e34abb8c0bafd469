//! How many requests and how much work on shards a run took.

use std::ops::AddAssign;

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
    /// Sets of records put together.
    pub merged: u64,
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
            | Body::Writer(_)
            | Body::Records(_) => return,
        };
        *kind += 1;
    }

    /// Shards and locators that were made, moved or dropped.
    pub(super) fn moved(&self) -> u64 {
        self.regenerated + self.copied + self.dropped + self.located + self.merged
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Self) {
        self.pings += more.pings;
        self.neighbours += more.neighbours;
        self.lookups += more.lookups;
        self.departures += more.departures;
        self.custody += more.custody;
        self.regenerated += more.regenerated;
        self.copied += more.copied;
        self.dropped += more.dropped;
        self.located += more.located;
        self.merged += more.merged;
    }
}
