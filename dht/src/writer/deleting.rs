//! Holders keep tombstones instead of the shards of some stripes.
//!
//! The driver looks where shards and tombstones are. Every live holder gets the tombstones of what it holds,
//! and preferred peers those that too few have. That is repeated until of each stripe fewer than k shards may
//! lie where no tombstone is, and enough peers have its tombstone; it is given up when the write time-out
//! passes without progress. Then what is deleted stays so.
//!
//! A shard that nobody spoke of may lie with a peer that did not answer, so as many count as there are such
//! peers near the stripe. Who is gone for long does not count, for it finds the tombstones at the preferred
//! peers when it comes back, as readers do. Where no holder was there to take a tombstone, it would find
//! none: then only those who are said to be gone for good do not count, and this peer must see half of the
//! others. Nor need they be near the stripe: a part of the ring that was cut off when it was stored has it
//! among its own, wherever they are.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::SPARE;
use crate::{Flaw, Id, Peer, Time};

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(500);
/// Stripes whose tombstones are spread at the same time.
const AT_ONCE: usize = 8;

/// A stripe to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The stripe.
    pub stripe: Id,
    /// Shards needed to read it.
    pub k: u8,
    /// Shards it has.
    pub n: u8,
}

impl Target {
    /// So many peers must have its tombstone: one more than may be lost without loss of the stripe, so that
    /// the deletion outlives what the file would have; all of them where there are fewer.
    fn enough(&self, others: &impl Outlook) -> usize {
        (usize::from(self.n.saturating_sub(self.k)) + 1).min(others.alive())
    }
}

/// Where a stripe is, as far as peers answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Shards at live peers, committed or pending.
    pub held: BTreeSet<(u8, Peer)>,
    /// Shards that nobody showed and somebody has on record, with a peer that did not answer.
    pub unreachable: BTreeMap<u8, Peer>,
    /// Peers that were asked and answered.
    pub answered: BTreeSet<Peer>,
    /// Peers that were asked and did not.
    pub silent: BTreeSet<Peer>,
    /// Peers that have its tombstone.
    pub keepers: BTreeSet<Peer>,
}

/// What a deletion must know of the other peers.
pub trait Outlook {
    /// Peers that answer, this one included.
    fn alive(&self) -> usize;
    /// Whether what a peer may hold is no matter: it is said to be gone for good, or, where it will find a
    /// tombstone when it comes back, it has been away for so long that its shards are made anew elsewhere.
    fn is_excused(&self, peer: Peer, is_kept: bool) -> bool;
    /// Whether at least half of the others that are not gone for good answer.
    fn sees_half(&self) -> bool;
    /// Of the first `count` peers from a stripe that are not excused, those that do not answer. Of all peers
    /// where it is not kept.
    fn suspects(&self, stripe: Id, count: usize, is_kept: bool) -> Vec<Peer>;
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// Look where the stripes are; of [`away`](Deleting::away) ask the holders too. Ends with
    /// [`handle_look`](Deleting::handle_look).
    Look,
    /// Give a holder the tombstones of these stripes. Ends with
    /// [`handle_replicated`](Deleting::handle_replicated).
    Replicate {
        /// The holder.
        to: Peer,
        /// What it holds shards of.
        stripes: Vec<Id>,
    },
    /// Give the tombstone of a stripe to so many more of its preferred peers. Ends with
    /// [`handle_spread`](Deleting::handle_spread).
    Spread {
        /// The stripe.
        stripe: Id,
        /// How many more must have it.
        count: usize,
        /// Those that have it.
        keepers: BTreeSet<Peer>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Look,
    Looking,
    Replicating,
    Spreading,
    Resting(Time),
    Over,
}

/// What is known of one stripe.
#[derive(Debug, Default)]
struct Progress {
    seen: Seen,
    /// Shards that are gone by a tombstone.
    gone: BTreeSet<u8>,
    /// Of this round: shards whose holder did not take the tombstone.
    missed: BTreeSet<u8>,
    keepers: BTreeSet<Peer>,
}

impl Progress {
    /// Whether somebody has its tombstone: who comes back finds it. A planted flaw believes so always.
    fn is_kept(&self, is_rash: bool) -> bool {
        is_rash || !self.keepers.is_empty()
    }
}

/// A deletion of stripes, see the module head. Its fields are what it was given, what it knows by stripe, the
/// order at hand and when it gives up: one state, which only the steps below change.
#[derive(Debug)]
pub struct Deleting {
    targets: Vec<Target>,
    progress: BTreeMap<Id, Progress>,
    away: BTreeMap<Id, BTreeMap<u8, Peer>>,
    write_timeout: Duration,
    /// The fewest stripes that were left so far, and until when fewer are waited for.
    least: usize,
    until: Option<Time>,
    /// What is to be done at this stage, and how much of it is on its way.
    orders: VecDeque<Delete>,
    on_their_way: usize,
    /// Stripes that are not deleted, and shards that may lie where no tombstone is.
    undone: usize,
    left: usize,
    stage: Stage,
    /// A planted flaw: orders given count as done.
    is_hasty: bool,
    /// A planted flaw: who is gone for long is excused where no tombstone is.
    is_rash: bool,
}

impl Deleting {
    /// Deletes `targets`. `away` says what an earlier attempt knew: by stripe and index, who held a shard and
    /// did not answer.
    pub fn new(
        targets: Vec<Target>,
        away: BTreeMap<Id, BTreeMap<u8, Peer>>,
        write_timeout: Duration,
    ) -> Self {
        Self {
            targets,
            progress: BTreeMap::new(),
            away,
            write_timeout,
            least: usize::MAX,
            until: None,
            orders: VecDeque::new(),
            on_their_way: 0,
            undone: usize::MAX,
            left: 0,
            stage: Stage::Look,
            is_hasty: false,
            is_rash: false,
        }
    }

    /// Plants a flaw.
    pub fn plant(&mut self, flaw: Option<Flaw>) {
        self.is_hasty = Flaw::DeleteEarly.is_planted(flaw);
        self.is_rash = Flaw::DeleteUnkept.is_planted(flaw);
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Time, others: &impl Outlook) -> Option<Delete> {
        loop {
            if self.is_hasty && self.on_their_way > 0 && self.orders.is_empty() {
                (self.stage, self.undone) = (Stage::Over, 0);
            }
            if self.stage == Stage::Spreading && self.on_their_way >= AT_ONCE {
                return None;
            }
            if let Some(order) = self.orders.pop_front() {
                self.on_their_way += 1;
                return Some(order);
            }
            match self.stage {
                Stage::Resting(until) if now >= until => self.stage = Stage::Look,
                Stage::Look => {
                    self.stage = Stage::Looking;
                    return Some(Delete::Look);
                }
                Stage::Replicating if self.on_their_way == 0 => {
                    for progress in self.progress.values_mut() {
                        // Two peers may hold the same one.
                        let missed = std::mem::take(&mut progress.missed);
                        progress.gone.retain(|index| !missed.contains(index));
                    }
                    self.note_away(others);
                    self.spread(others);
                    self.stage = Stage::Spreading;
                }
                Stage::Spreading if self.on_their_way == 0 => self.judge(now, others),
                Stage::Looking | Stage::Replicating | Stage::Spreading | Stage::Resting(_) | Stage::Over => {
                    return None;
                }
            }
        }
    }

    /// When to poll although nothing came.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Resting(until) => Some(until),
            Stage::Look | Stage::Looking | Stage::Replicating | Stage::Spreading | Stage::Over => None,
        }
    }

    /// Where the stripes are, in the order of the targets.
    pub fn handle_look(&mut self, seen: Vec<Seen>) {
        if self.stage != Stage::Looking {
            return;
        }
        let mut holders: BTreeMap<Peer, Vec<Id>> = BTreeMap::new();
        for (target, seen) in self.targets.iter().zip(seen) {
            let at: BTreeSet<Peer> = seen.held.iter().map(|(_, peer)| *peer).collect();
            for peer in at {
                holders.entry(peer).or_default().push(target.stripe);
            }
            let progress = self.progress.entry(target.stripe).or_default();
            progress.keepers.clone_from(&seen.keepers);
            progress.seen = seen;
        }
        let orders = holders.into_iter();
        self.orders = orders
            .map(|(to, stripes)| Delete::Replicate { to, stripes })
            .collect();
        self.stage = Stage::Replicating;
    }

    /// Of the stripes that `from` was given tombstones of, those whose tombstone it has.
    pub fn handle_replicated(&mut self, from: Peer, stripes: &[Id], taken: &BTreeSet<Id>) {
        self.on_their_way = self.on_their_way.saturating_sub(1);
        for stripe in stripes {
            let Some(progress) = self.progress.get_mut(stripe) else {
                continue;
            };
            let held = progress.seen.held.iter().filter(|(_, peer)| *peer == from);
            let indices = held.map(|(index, _)| *index);
            if taken.contains(stripe) {
                progress.gone.extend(indices);
                progress.keepers.insert(from);
            } else {
                progress.missed.extend(indices);
            }
        }
    }

    /// Who has the tombstone of a stripe now.
    pub fn handle_spread(&mut self, stripe: Id, taken: impl IntoIterator<Item = Peer>) {
        self.on_their_way = self.on_their_way.saturating_sub(1);
        if let Some(progress) = self.progress.get_mut(&stripe) {
            progress.keepers.extend(taken);
        }
    }

    /// Takes over who holds a shard and does not answer, and forgets who did or is gone for long.
    fn note_away(&mut self, others: &impl Outlook) {
        for (stripe, progress) in &self.progress {
            let away = self.away.entry(*stripe).or_default();
            away.retain(|_, peer| !progress.seen.answered.contains(peer));
            away.extend(&progress.seen.unreachable);
            let is_kept = progress.is_kept(self.is_rash);
            away.retain(|_, peer| !others.is_excused(*peer, is_kept));
        }
    }

    /// Has preferred peers of stripes take tombstones that too few have.
    fn spread(&mut self, others: &impl Outlook) {
        for target in &self.targets {
            let keepers = self
                .progress
                .get(&target.stripe)
                .map(|progress| &progress.keepers);
            let Some(keepers) = keepers.filter(|keepers| !keepers.is_empty()) else {
                continue;
            };
            let count = target.enough(others).saturating_sub(keepers.len());
            if count > 0 {
                self.orders.push_back(Delete::Spread {
                    stripe: target.stripe,
                    count,
                    keepers: keepers.clone(),
                });
            }
        }
    }

    fn judge(&mut self, now: Time, others: &impl Outlook) {
        let sees_half = others.sees_half();
        (self.undone, self.left) = (0, 0);
        for target in &self.targets {
            let Some(progress) = self.progress.get(&target.stripe) else {
                self.undone += 1;
                continue;
            };
            let unaware = self.unaware(*target, progress, others);
            let lasts = match progress.keepers.len() {
                0 => sees_half,
                keepers => keepers >= target.enough(others),
            };
            self.undone += usize::from(unaware >= usize::from(target.k) || !lasts);
            self.left += unaware;
        }
        if self.undone < self.least {
            self.least = self.undone;
            self.until = Some(now + self.write_timeout);
        }
        let is_late = self.until.is_some_and(|until| now >= until);
        self.stage = if self.undone == 0 || is_late {
            Stage::Over
        } else {
            Stage::Resting(now + AGAIN)
        };
    }

    /// Shards of a stripe that may lie where no tombstone is: those known to, also by who is under a
    /// tombstone now, and as many that nobody spoke of as there are peers near it that did not answer.
    fn unaware(&self, target: Target, progress: &Progress, others: &impl Outlook) -> usize {
        let Progress { seen, gone, .. } = progress;
        let away = self.away.get(&target.stripe);
        let (mut known, mut missing, mut counted) = (0, 0, BTreeSet::new());
        for index in (0..target.n).filter(|index| !gone.contains(index)) {
            if seen.held.iter().any(|(held, _)| *held == index) {
                known += 1;
            } else if let Some(peer) = away.and_then(|away| away.get(&index)) {
                known += 1;
                counted.insert(*peer);
            } else {
                missing += 1;
            }
        }
        if missing == 0 {
            return known;
        }
        let mut silent = seen.silent.clone();
        silent.extend(others.suspects(
            target.stripe,
            usize::from(target.n) + SPARE,
            progress.is_kept(self.is_rash),
        ));
        known + silent.difference(&counted).count().min(missing)
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Shards that are left at peers that did not answer, fewer than k of each stripe, or of how many stripes
    /// there may be more: of all, before it is over.
    pub fn outcome(&self) -> Result<usize, usize> {
        match self.undone {
            0 if self.is_over() => Ok(self.left),
            0 => Err(self.targets.len()),
            undone => Err(undone.min(self.targets.len())),
        }
    }

    /// By stripe and index, who holds a shard and did not answer: for the next attempt, as nobody may have it
    /// on record by then.
    pub fn away(&self) -> &BTreeMap<Id, BTreeMap<u8, Peer>> {
        &self.away
    }
}
