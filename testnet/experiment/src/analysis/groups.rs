//! Disjoint groups of peers: how many of each die together, and what that does to what lies inside.
//!
//! Every item (a file or a fragment) picks its group in proportion to the group's size. Given which peers are
//! dead, items are lost independently of each other; they are not once the dead are averaged over. So all
//! chances are computed as averages over the dead of each group, group after group, which is exact.

use std::convert::Infallible;

use mutualstore_erasure::Code;

use super::binomial::{binomial, hypergeometric, tail};
use crate::findings::real;

/// Larger groups are not counted subset by subset.
pub(super) const COUNTABLE: usize = 24;

/// Sizes of the groups of about `size` that `peers` fall into: the remainder is spread over the last groups,
/// one peer each, again from the last when more are left. One group of all when there are fewer than `size`.
pub fn partition(peers: usize, size: usize) -> Vec<usize> {
    let groups = (peers / size.max(1)).max(1);
    let (base, left) = (peers / groups, peers % groups);
    (0..groups)
        .map(|group| base + usize::from(group >= groups - left))
        .collect()
}

/// One way a group can fare, given the number of its dead.
#[derive(Clone, Copy, Debug)]
struct Fate {
    chance: f64,
    /// Share of the fragments in the group that are lost.
    lost: f64,
}

/// What a group of one size can suffer, by the number of its dead.
#[derive(Clone, Debug)]
struct Law(Vec<Vec<Fate>>);

impl Law {
    /// The number of dead says what share of the fragments is lost.
    fn certain(size: usize, lost: impl Fn(usize) -> f64) -> Self {
        let chance = 1.0;
        let fates = (0..=size).map(|dead| {
            vec![Fate {
                chance,
                lost: lost(dead),
            }]
        });
        Self(fates.collect())
    }

    /// Fragments on uniformly random members of the group.
    fn members(size: usize, code: Code) -> Self {
        let (shards, tolerated) = (usize::from(code.n()), usize::from(code.m()));
        Self::certain(size, |dead| tail(size, shards, dead, tolerated))
    }

    /// Fragments on a random primary and those after it in the group's circle; counted over all subsets. None
    /// when there are too many of them.
    fn runs(size: usize, code: Code) -> Option<Self> {
        if size == usize::from(code.n()) {
            let lost = |dead| f64::from(u8::from(dead > usize::from(code.m())));
            return Some(Self::certain(size, lost));
        }
        if size > COUNTABLE {
            return None;
        }
        let runs: Vec<u32> = (0..size)
            .map(|primary| {
                (0..usize::from(code.n())).fold(0, |run, step| run | 1u32 << ((primary + step) % size))
            })
            .collect();
        let mut counts = vec![vec![0usize; size + 1]; size + 1];
        for dead in 0..1u32 << size {
            let is_lost = |run: &&u32| (dead & **run).count_ones() as usize > usize::from(code.m());
            let lost = runs.iter().filter(is_lost).count();
            let row = counts.get_mut(dead.count_ones() as usize);
            if let Some(count) = row.and_then(|row| row.get_mut(lost)) {
                *count += 1;
            }
        }
        Some(Self(counts.iter().map(|row| fates(row, size)).collect()))
    }

    /// The most dead that may leave everything in the group alive.
    fn harmless(&self) -> usize {
        let unharmed = |fates: &Vec<Fate>| fates.iter().any(|fate| fate.lost <= 0.0);
        self.0.iter().rposition(unharmed).unwrap_or(0)
    }
}

/// From how many subsets lose so many of the group's runs.
fn fates(counts: &[usize], size: usize) -> Vec<Fate> {
    let all = real(counts.iter().sum::<usize>());
    let seen = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    seen.map(|(lost, count)| Fate {
        chance: real(*count) / all,
        lost: real(lost) / real(size),
    })
    .collect()
}

/// All groups, in order of the peers' numbers: their sizes, and what can happen to each.
#[derive(Clone, Debug)]
pub(super) struct Groups(Vec<(usize, Law)>);

impl Groups {
    fn new<E>(peers: usize, size: usize, law: impl Fn(usize) -> Result<Law, E>) -> Result<Self, E> {
        let mut groups: Vec<(usize, Law)> = Vec::new();
        for size in partition(peers, size) {
            let law = match groups.last() {
                Some((last, law)) if *last == size => law.clone(),
                Some(_) | None => law(size)?,
            };
            groups.push((size, law));
        }
        Ok(Self(groups))
    }

    /// Groups of `size`, fragments on random members.
    pub(super) fn of_members(peers: usize, size: usize, code: Code) -> Self {
        let Ok(groups) = Self::new::<Infallible>(peers, size, |size| Ok(Law::members(size, code)));
        groups
    }

    /// Groups as large as the code has shards, fragments on runs of members; `Err` with the size that is too
    /// large.
    pub(super) fn of_runs(peers: usize, code: Code) -> Result<Self, usize> {
        Self::new(peers, usize::from(code.n()), |size| {
            Law::runs(size, code).ok_or(size)
        })
    }

    pub(super) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(size, _)| *size)
    }

    /// The group of a peer: its first member and its size.
    pub(super) fn of(&self, peer: usize) -> (usize, usize) {
        let mut first = 0;
        for size in self.sizes() {
            if peer < first + size {
                return (first, size);
            }
            first += size;
        }
        (0, first)
    }

    /// The most dead, over all groups, that may leave everything alive.
    pub(super) fn harmless(&self) -> usize {
        self.0.iter().map(|(_, law)| law.harmless()).sum()
    }

    /// Chance that none of `items` is lost when `killed` peers die; `survives` makes the chance that an item
    /// is kept out of the share of fragments lost in its group.
    ///
    /// Table after i groups: chance that j items that all lie in them are kept, given that d of their peers
    /// are dead. The next group takes d' of the dead (hypergeometric) and a of the items (binomial). Time:
    /// groups × killed × size × items².
    pub(super) fn none_lost(&self, items: usize, killed: usize, survives: impl Fn(f64) -> f64) -> f64 {
        let all: usize = self.sizes().sum();
        // Of no groups: no dead, and no items to lose.
        let mut kept = vec![vec![0.0; items + 1]; killed + 1];
        if let Some(none) = kept.first_mut().and_then(|row| row.first_mut()) {
            *none = 1.0;
        }
        let mut peers = 0;
        for (size, law) in &self.0 {
            let alone = law.kept(items, killed, &survives);
            peers += size;
            let share = real(*size) / real(peers);
            // Of the last group only the last cell is wanted.
            let from = |whole| if peers == all { whole } else { 0 };
            let split = |item| (0..=item).map(|inside| binomial(item, inside, share)).collect();
            let splits: Vec<Vec<f64>> = (from(items)..=items).map(split).collect();
            let row = |dead| {
                let drawn = |inside| hypergeometric(peers, *size, dead, inside);
                let cell = |split: &Vec<f64>| merge(&kept, &alone, split, dead, drawn);
                splits.iter().map(cell).collect()
            };
            kept = (from(killed)..=killed).map(row).collect();
        }
        let chance = kept.last().and_then(|row| row.last()).copied();
        chance.unwrap_or(1.0).clamp(0.0, 1.0)
    }
}

impl Law {
    /// By dead and by items: chance that all items in the group are kept.
    fn kept(&self, items: usize, killed: usize, survives: &impl Fn(f64) -> f64) -> Vec<Vec<f64>> {
        let row = |fates: &Vec<Fate>| {
            let mut row = vec![0.0; items + 1];
            for fate in fates {
                let one = survives(fate.lost);
                let mut all = fate.chance;
                for cell in &mut row {
                    *cell += all;
                    all *= one;
                }
            }
            row
        };
        self.0.iter().take(killed + 1).map(row).collect()
    }
}

/// Sums over the dead and the items that fall into the newest group.
fn merge(
    before: &[Vec<f64>],
    alone: &[Vec<f64>],
    split: &[f64],
    dead: usize,
    dead_inside: impl Fn(usize) -> f64,
) -> f64 {
    let mut sum = 0.0;
    for (inside, alone) in alone.iter().enumerate().take(dead + 1) {
        let chance = dead_inside(inside);
        let Some(before) = before.get(dead - inside).filter(|_| chance > 0.0) else {
            continue;
        };
        let items = split.len();
        let outside = before.iter().take(items).rev();
        let all = split.iter().zip(alone).zip(outside);
        let kept: f64 = all.map(|((split, alone), before)| split * alone * before).sum();
        sum += chance * kept;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainder_of_peers_goes_to_the_last_groups() {
        assert_eq!(partition(12, 3), [3; 4]);
        assert_eq!(partition(13, 3), [3, 3, 3, 4]);
        assert_eq!(partition(14, 3), [3, 3, 4, 4]);
        assert_eq!(partition(11, 4), [5, 6]);
        assert_eq!(partition(11, 6), [11]);
        assert_eq!(partition(4, 6), [4]);
    }

    #[test]
    fn peer_of_any_index_finds_its_group() {
        let groups = Groups::of_runs(14, Code::Copies(3)).unwrap();
        let found: Vec<_> = [0, 2, 3, 6, 9, 10, 13].map(|peer| groups.of(peer)).into();
        assert_eq!(found, [(0, 3), (0, 3), (3, 3), (6, 4), (6, 4), (10, 4), (10, 4)]);
    }

    #[test]
    fn groups_too_large_to_count_are_said_so() {
        let code = "rs:16+4".parse().unwrap();
        assert_eq!(Groups::of_runs(36, code).unwrap_err(), 36);
        assert!(Groups::of_runs(40, code).is_ok());
    }
}
