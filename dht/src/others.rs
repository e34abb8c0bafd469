//! How the other peers are, as a user or a client's operation sees them: there, away for a while, or gone.

use std::time::Duration;

use crate::custody::{Custody, Standing};
use crate::ring::{Liveness, Ring};
use crate::writer::Outlook;
use crate::{Contact, Id, Peer, Time};

/// Who is there is met within this after a start.
const MET_WITHIN: Duration = Duration::from_mins(1);

/// The other peers as ring and custody of this one see them now.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    ring: &'a Ring,
    custody: &'a Custody,
    now: Time,
}

impl<'a> Others<'a> {
    /// What both machines of one peer say.
    pub fn new(ring: &'a Ring, custody: &'a Custody, now: Time) -> Self {
        Self { ring, custody, now }
    }

    /// All others ever known: suspect until their shards are made anew elsewhere, then gone.
    pub fn standings(self) -> impl Iterator<Item = (&'a Contact, Standing)> {
        let delay = self.custody.repair_delay();
        let others = self.ring.peers();
        others.map(move |(contact, liveness)| (contact, self.standing(contact.peer, liveness, delay)))
    }

    fn standing(self, peer: Peer, liveness: Liveness, repair_delay: Duration) -> Standing {
        match liveness {
            Liveness::Alive => Standing::Live,
            Liveness::Unmet { since } | Liveness::Dead { since } if self.now.since(since) >= repair_delay => {
                Standing::Gone
            }
            Liveness::Suspect | Liveness::Unmet { .. } | Liveness::Dead { .. } => {
                if self.custody.is_forgotten(peer) {
                    Standing::Gone
                } else {
                    Standing::Suspect
                }
            }
        }
    }

    /// Live and suspect peers, this one included: what a code is chosen for. Those in the address book only
    /// count until they would have been met.
    pub fn counted(&self) -> usize {
        let delay = self.custody.repair_delay();
        let counts = |peer, liveness| {
            let delay = match liveness {
                Liveness::Unmet { .. } => delay.min(MET_WITHIN),
                Liveness::Alive | Liveness::Suspect | Liveness::Dead { .. } => delay,
            };
            self.standing(peer, liveness, delay) != Standing::Gone
        };
        let others = self.ring.peers();
        1 + others
            .filter(|(contact, liveness)| counts(contact.peer, *liveness))
            .count()
    }

    /// Whether peers are away that may come back.
    pub fn may_return(&self) -> bool {
        self.counted() > Outlook::alive(self)
    }

    /// Whether a peer has been away for so long that its shards are made anew elsewhere. One that was not met
    /// since this peer started counts as silent from the start on.
    fn is_gone(&self, peer: Peer) -> bool {
        let delay = self.custody.repair_delay();
        match self.ring.liveness(peer) {
            Some(liveness) => self.standing(peer, liveness, delay) == Standing::Gone,
            None => !self.ring.is_alive(peer),
        }
    }

    /// Where a stripe would be looked for if everybody were there: those of the first `count` peers from it
    /// that do not answer.
    pub fn absent_successors(&self, stripe: Id, count: usize) -> Vec<Peer> {
        self.silent_among(stripe, count, |_| true)
    }

    /// Of the first `count` peers from a stripe that count, those that do not answer.
    fn silent_among(&self, stripe: Id, count: usize, counts: impl Fn(Peer) -> bool) -> Vec<Peer> {
        let place = |contact: &Contact| contact.ids().map(|id| id.distance_from(&stripe)).min();
        let others = self.ring.peers().filter_map(|(contact, liveness)| {
            Some((place(contact)?, contact.peer, liveness != Liveness::Alive))
        });
        let mut all: Vec<(Id, Peer, bool)> = others.collect();
        all.extend(place(self.ring.me()).map(|at| (at, self.ring.me().peer, false)));
        all.sort_unstable();
        let near = all
            .into_iter()
            .filter(|(_, peer, absent)| !absent || counts(*peer));
        let silent = near.take(count).filter(|(_, _, absent)| *absent);
        silent.map(|(_, peer, _)| peer).collect()
    }
}

impl Outlook for Others<'_> {
    fn alive(&self) -> usize {
        1 + self.ring.alive().count()
    }

    fn is_excused(&self, peer: Peer, is_kept: bool) -> bool {
        self.custody.is_forgotten(peer) || is_kept && self.is_gone(peer)
    }

    fn sees_half(&self) -> bool {
        let others = self.ring.peers();
        let counted = others.filter(|(contact, _)| !self.custody.is_forgotten(contact.peer));
        let alive: Vec<bool> = counted.map(|(_, liveness)| liveness == Liveness::Alive).collect();
        2 * alive.iter().filter(|alive| **alive).count() >= alive.len()
    }

    fn suspects(&self, stripe: Id, count: usize, is_kept: bool) -> Vec<Peer> {
        let count = if is_kept { count } else { usize::MAX };
        self.silent_among(stripe, count, |peer| !self.is_excused(peer, is_kept))
    }
}
