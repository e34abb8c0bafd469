//! How many messages and how much work on shards runs took, to compare two builds by.

use std::ops::AddAssign;

use serde::Serialize;

use super::world::Counters;

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
    pub(super) fn of(counters: &Counters) -> Self {
        let [pings, neighbours, lookups, departures, custody] = counters.requests;
        Self {
            pings,
            neighbours,
            lookups,
            departures,
            custody,
            regenerated: counters.regenerated,
            copied: counters.copied,
            dropped: counters.dropped,
            located: counters.located,
        }
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
    }
}
