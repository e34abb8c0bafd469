//! Keeping the table within its bounds, at a cost per round that does not grow with the table.
//!
//! Each round looks at a few entries, one after the other around the table; what has to look at all of them
//! waits until a share of them has come anew.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Ring;
use super::message::Event;
use super::table::{KnownPeer, MemberState};
use crate::{Peer, Time};

/// A peer on the circle is pinged when it did not announce its contact for this many rounds of stabilization:
/// one that is heard all the time, but never says what has changed, would be known by its old contact for
/// ever.
const STALE_ROUNDS: u32 = 15;
/// Entries looked at per round.
const PER_ROUND: usize = 16;
/// One in so many must be in excess before the excess goes.
const SLACK: usize = 16;

/// How far the upkeep of the table has come.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The entry looked at last.
    last: Option<Peer>,
    /// Peers left on the circle when some were last taken off it because they were too many.
    evicted: usize,
}

impl Ring {
    /// Says what has to be written down, and keeps the number of peers known within its bounds.
    pub(super) fn tidy(&mut self, now: Time) {
        self.look_at_some(now);
        let learned = self.config.max_learned;
        self.upkeep.evicted = self.upkeep.evicted.min(self.table.members());
        if self.table.members() > learned.max(self.upkeep.evicted + learned / SLACK) {
            self.evict(now);
            self.upkeep.evicted = self.table.members();
        }
        if self.off_circle() > self.config.max_book {
            self.forget_oldest(now);
        }
        let hour = Duration::from_hours(1);
        if (self.book.changed && now.since(self.book.reported) >= self.config.stabilize)
            || now.since(self.book.reported) >= hour
        {
            self.book.changed = false;
            self.book.reported = now;
            self.events.push_back(Event::BookChanged);
        }
    }

    /// Of the next entries, pings the one on the circle whose own word is the oldest, and forgets those off
    /// the circle that were not heard for the time the address book keeps them.
    fn look_at_some(&mut self, now: Time) {
        let last = self.upkeep.last.unwrap_or(self.table.me().peer);
        let next: Vec<Peer> = self.table.after(last).take(PER_ROUND).collect();
        self.upkeep.last = next.last().copied();
        let window = self.config.stabilize * STALE_ROUNDS;
        let entries = next
            .iter()
            .filter_map(|peer| Some((*peer, self.table.get(*peer)?)));
        let stale = entries.clone().filter(|(_, entry)| {
            self.member && entry.standing == MemberState::Alive && !entry.announced_within(now, window)
        });
        let stalest = stale.min_by_key(|(_, entry)| entry.announced.max(entry.pinged));
        let stalest = stalest.map(|(peer, _)| peer);
        let old = entries.filter(|(_, entry)| is_off(entry) && entry.age(now) > self.config.book_keep);
        let old: Vec<Peer> = old.map(|(peer, _)| peer).collect();
        for peer in old {
            self.table.forget(peer);
            self.book.changed = true;
        }
        if let Some(peer) = stalest {
            self.ping(now, peer);
        }
    }

    /// Takes the peers silent the longest off the circle, but for those in successor lists, before own
    /// virtual nodes or used as fingers. They are not dead: there is no event.
    fn evict(&mut self, now: Time) {
        let me = self.table.me().peer;
        let lists = self.table.union(self.table.own(), me, self.config.r);
        let mut kept: BTreeSet<Peer> = lists.into_iter().map(|contact| contact.peer).collect();
        kept.extend(self.table.predecessors());
        kept.extend(self.pointers.fingers.values());
        let mut learned: Vec<_> = self
            .table
            .entries()
            .filter(|(peer, entry)| entry.standing.is_member() && !kept.contains(peer))
            .map(|(peer, entry)| (entry.age(now), peer))
            .collect();
        learned.sort_unstable();
        for (_, peer) in learned.into_iter().skip(self.config.max_learned) {
            self.table.exit(peer, MemberState::Known);
        }
    }

    /// Peers known that are not on the circle.
    fn off_circle(&self) -> usize {
        self.table.known() - self.table.members()
    }

    /// Forgets peers off the circle, those not heard for the longest time first, until there is room again.
    fn forget_oldest(&mut self, now: Time) {
        let mut off: Vec<_> = self
            .table
            .entries()
            .filter(|(_, entry)| is_off(entry))
            .map(|(peer, entry)| (entry.age(now), peer))
            .collect();
        off.sort_unstable();
        let room = self.config.max_book - self.config.max_book / SLACK;
        let excess = self.off_circle().saturating_sub(room);
        for (_, peer) in off.into_iter().rev().take(excess) {
            self.table.forget(peer);
            self.book.changed = true;
        }
    }
}

/// Whether the peer is neither on the circle nor about to be.
fn is_off(entry: &KnownPeer) -> bool {
    match entry.standing {
        MemberState::Known | MemberState::Dead(_) => true,
        MemberState::Candidate | MemberState::Alive | MemberState::Suspect => false,
    }
}
