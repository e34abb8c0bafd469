//! Learning of peers that others name and the ring does not know.
//!
//! In a ring larger than what one peer knows, a holder whose place is elsewhere by now guesses the home of
//! its shards, and the peers that are to confirm a trim may be strangers to it. Whoever it reports to names a
//! nearer home; the holder then has its ring look around the stripe, and with a better view finds the home
//! itself.

use std::collections::BTreeMap;

use super::peers::{Handle, ME};
use super::repair::NAG;
use super::{Custody, Effect, MAX_ENTRIES};
use crate::{Flaw, Id, Time};

/// Points remembered as explored lately, at most; while there are so many, no other is.
const MAX_EXPLORED: usize = 256;

/// When each point was explored last.
pub(super) type Explored = BTreeMap<Id, Time>;

impl Custody {
    /// Has the ring look around a stripe, unless it did lately.
    pub(super) fn explore(&mut self, now: Time, stripe: Id) {
        if self.explored.len() >= MAX_EXPLORED {
            self.explored.retain(|_, at| now < *at + NAG);
        }
        let lately = self.explored.get(&stripe).is_some_and(|at| now < *at + NAG);
        if !lately && self.explored.len() < MAX_EXPLORED {
            self.explored.insert(stripe, now);
            self.effects.push_back(Effect::Explore { point: stripe });
        }
    }

    /// This peer is not the home of a stripe that these peers report to it.
    pub(super) fn mislead(&mut self, stripe: Id, holders: impl IntoIterator<Item = Handle>) {
        let told = !self.config.has(Flaw::LeaveMisled);
        for holder in holders.into_iter().filter(|holder| told && *holder != ME) {
            let misled = &mut self.peers.get_mut(holder).misled;
            if misled.len() < MAX_ENTRIES {
                misled.insert(stripe);
            }
        }
    }
}
