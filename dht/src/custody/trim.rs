//! The safe rule for dropping a surplus shard, on the holder's side.
//!
//! A holder x drops (S, i) only after, within half the pin time,
//! 1. the holder y that the order says to keep answered that it holds (S, i) durable, verified and committed,
//!    is not itself dropping it, and will not begin to for the pin time, and
//! 2. one holder of each other index of S answered the same of its shard.
//!
//! Hence a trim never takes the last copy of an index. When y answered it held (S, i), was not trimming it, and
//! pinned it until after x drops: x counts half the pin time from before it asked, y the whole from the
//! answer, so message delays only widen the margin. While x waits it answers no to others, so of two that
//! trim in each other's favour both give up, and around a cycle of them nobody gets past the first that has begun.
//! A restart of y loses the pin, yet y can then drop only in favour of a third holder z that held and
//! answered yes later than y did; x and all that dropped before answer no, so the chain of favours ends at
//! a holder that still has the shard. Clocks must run at rates within a factor of two of each other.
//!
//! Nothing here survives a restart and nothing needs to: a trim forgotten is a surplus found again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fingerprint::{ShardKey, Slot};
use super::peers::Handle;
use crate::Time;

/// Trims begun at one time; orders beyond are ignored and come again.
const MAX_ACTIVE: usize = 4096;

#[derive(Debug)]
struct Trimming {
    begun: Time,
    waiting: BTreeSet<(ShardKey, Handle)>,
}

/// Trims begun here, and shards pinned here in favour of others' trims.
#[derive(Debug)]
pub(super) struct Trims {
    pin: Duration,
    active: BTreeMap<ShardKey, Trimming>,
    begun: BTreeSet<(Time, ShardKey)>,
    pins: BTreeMap<ShardKey, Time>,
    pruned: Time,
}

impl Trims {
    pub(super) fn new(pin: Duration) -> Self {
        Self {
            pin,
            active: BTreeMap::new(),
            begun: BTreeSet::new(),
            pins: BTreeMap::new(),
            pruned: Time::ZERO,
        }
    }

    /// Begins to trim a committed shard held here, once all of `waiting` have confirmed. Whether it began: not
    /// when it has already, or the shard is pinned, or there are too many.
    pub(super) fn begin(&mut self, now: Time, key: ShardKey, waiting: BTreeSet<(ShardKey, Handle)>) -> bool {
        let free = !self.is_active(key) && !self.is_pinned(now, key) && self.active.len() < MAX_ACTIVE;
        if free {
            self.active.insert(key, Trimming { begun: now, waiting });
            self.begun.insert((now, key));
        }
        free
    }

    pub(super) fn is_active(&self, key: ShardKey) -> bool {
        self.active.contains_key(&key)
    }

    fn is_pinned(&self, now: Time, key: ShardKey) -> bool {
        self.pins.get(&key).is_some_and(|until| now < *until)
    }

    /// Answers for a committed shard held here: yes pins it.
    pub(super) fn confirm(&mut self, now: Time, key: ShardKey) -> bool {
        let yes = !self.is_active(key);
        if yes {
            self.pins.insert(key, now + self.pin);
        }
        yes
    }

    /// `peer` confirmed `key`. Returns the shards that may be dropped now.
    pub(super) fn confirmed(&mut self, now: Time, key: ShardKey, peer: Handle) -> Vec<ShardKey> {
        let mut ready = Vec::new();
        for (trimmed, trimming) in self.active.range_mut(of(key.slot)) {
            if trimming.waiting.remove(&(key, peer)) && trimming.waiting.is_empty() {
                ready.push(*trimmed);
            }
        }
        ready.retain(|trimmed| {
            let begun = self.forget(*trimmed);
            begun.is_some_and(|begun| now < begun + self.pin / 2)
        });
        ready
    }

    /// `peer` did not confirm `key`: whatever needed that is off.
    pub(super) fn denied(&mut self, key: ShardKey, peer: Handle) {
        let waiting = self.active.range(of(key.slot));
        let off: Vec<ShardKey> = waiting
            .filter(|(_, trimming)| trimming.waiting.contains(&(key, peer)))
            .map(|(trimmed, _)| *trimmed)
            .collect();
        for trimmed in off {
            self.forget(trimmed);
        }
    }

    /// Gives up a trim. Returns when it began.
    pub(super) fn forget(&mut self, key: ShardKey) -> Option<Time> {
        let begun = self.active.remove(&key)?.begun;
        self.begun.remove(&(begun, key));
        Some(begun)
    }

    /// Gives up trims that took too long, and forgets pins that ended.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        while let Some((begun, key)) = self.begun.first().copied()
            && now >= begun + self.pin / 2
        {
            self.forget(key);
        }
        if now >= self.pruned + self.pin {
            self.pruned = now;
            self.pins.retain(|_, until| now < *until);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.begun.first().map(|(begun, _)| *begun + self.pin / 2)
    }
}

fn of(slot: Slot) -> std::ops::RangeInclusive<ShardKey> {
    ShardKey { slot, index: 0 }..=ShardKey { slot, index: u8::MAX }
}
