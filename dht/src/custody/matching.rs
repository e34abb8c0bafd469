//! One peer counts for one index of a stripe.
//!
//! Two shards on one peer die together, and a peer that lies can say that it holds all of them. So indices
//! are matched with distinct peers (a maximum bipartite matching by augmenting paths, Kuhn 1955): the stripe
//! is whole where all n are, and whoever lies hides one index at most.

use std::collections::{BTreeMap, BTreeSet};

/// Indices and who keeps each, all distinct.
#[derive(Debug)]
pub(super) struct Matching<P>(BTreeMap<P, u8>);

impl<P> Default for Matching<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P: Copy + Ord> Matching<P> {
    /// The matching of these holders, as large as can be: indices in this order, of each its holders, best
    /// first.
    pub(super) fn of(holders: &[(u8, Vec<P>)]) -> Self {
        let mut matching = Self::default();
        matching.extend(holders);
        matching
    }

    /// Matches more, with these holders of all indices. What has a keeper goes on to have one, and who keeps
    /// one goes on to do so.
    pub(super) fn extend(&mut self, holders: &[(u8, Vec<P>)]) {
        for (index, _) in holders {
            if self.keeper(*index).is_none() {
                self.augment(*index, holders, &mut BTreeSet::new());
            }
        }
    }

    fn augment(&mut self, index: u8, holders: &[(u8, Vec<P>)], seen: &mut BTreeSet<P>) -> bool {
        let of_index = holders.iter().find(|(other, _)| *other == index);
        let peers = of_index.map(|(_, peers)| peers.as_slice()).unwrap_or_default();
        if let Some(free) = peers.iter().find(|peer| !self.0.contains_key(peer)) {
            self.0.insert(*free, index);
            return true;
        }
        for peer in peers {
            if seen.insert(*peer)
                && let Some(other) = self.0.get(peer).copied()
                && self.augment(other, holders, seen)
            {
                self.0.insert(*peer, index);
                return true;
            }
        }
        false
    }

    /// Indices that have a keeper.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Who keeps an index.
    pub(super) fn keeper(&self, index: u8) -> Option<P> {
        let mut pairs = self.0.iter();
        pairs.find(|(_, kept)| **kept == index).map(|(peer, _)| *peer)
    }

    /// Whether the peer keeps one.
    pub(super) fn keeps(&self, peer: &P) -> bool {
        self.0.contains_key(peer)
    }

    /// Index and keeper, by index.
    pub(super) fn pairs(&self) -> BTreeMap<u8, P> {
        self.0.iter().map(|(peer, index)| (*index, *peer)).collect()
    }
}

/// How well the shards of a stripe lie: the one rule for its health, here and where holders are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// All n indices on as many peers.
    Whole,
    /// Fewer than n on as many peers, and more than k.
    Degraded,
    /// No more than k on as many peers: one failure more may lose the stripe.
    Endangered,
    /// Fewer than k distinct indices: lost for now.
    Lost,
}

impl Redundancy {
    /// Of a stripe of which these indices lie with these peers.
    pub fn of<P: Copy + Ord>(held: &BTreeSet<(u8, P)>, k: u8, n: u8) -> Self {
        let indices: BTreeSet<u8> = held.iter().map(|(index, _)| *index).collect();
        let matching = Matching::of(&by_index(n, &held.iter().copied(), |peer| peer));
        Self::judge(indices.len(), matching.len(), k, n)
    }

    /// Of a stripe with so many distinct indices, and so many of them on as many peers.
    pub(super) fn judge(distinct: usize, matched: usize, k: u8, n: u8) -> Self {
        let (k, n) = (usize::from(k), usize::from(n));
        if distinct < k {
            Self::Lost
        } else if matched >= n {
            Self::Whole
        } else if matched <= k {
            Self::Endangered
        } else {
            Self::Degraded
        }
    }
}

/// The holders of each of n indices, best first.
pub(super) fn by_index<P: Copy, K: Ord>(
    n: u8,
    held: &(impl Iterator<Item = (u8, P)> + Clone),
    rank: impl Fn(P) -> K,
) -> Vec<(u8, Vec<P>)> {
    let of = |index| {
        let holders = held.clone().filter(move |(other, _)| *other == index);
        let mut holders: Vec<P> = holders.map(|(_, peer)| peer).collect();
        holders.sort_by_key(|peer| rank(*peer));
        (index, holders)
    };
    (0..n).map(of).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn peer_that_claims_all_indices_keeps_one() {
        let held = [(0, 9), (1, 9), (2, 9), (3, 9), (0, 1), (2, 3)];
        let matching = Matching::of(&by_index(4, &held.into_iter(), |peer| peer != 9));
        assert_eq!(matching.len(), 3);
        let pairs = matching.pairs();
        assert_eq!(
            (pairs.get(&0), pairs.get(&1), pairs.get(&2)),
            (Some(&1), Some(&9), Some(&3))
        );
        assert!(matching.keeper(3).is_none() && matching.keeps(&9));
    }

    #[test]
    fn matching_of_crowded_holders_is_smaller_than_both_sides() {
        // Three indices and three holders, but two of them have nothing but index 0.
        let held = BTreeSet::from([(0, 'a'), (1, 'a'), (2, 'a'), (0, 'b'), (0, 'c')]);
        let matching = Matching::of(&by_index(3, &held.iter().copied(), |peer| peer));
        assert_eq!(matching.len(), 2);
        assert_eq!(Redundancy::of(&held, 1, 3), Redundancy::Degraded);
        assert_eq!(Redundancy::of(&held, 2, 3), Redundancy::Endangered);
    }

    #[test]
    fn redundancy_of_k_2_n_3_counts_indices_on_distinct_peers() {
        let of = |held: &[(u8, char)]| Redundancy::of(&held.iter().copied().collect(), 2, 3);
        assert_eq!(of(&[(0, 'a'), (1, 'b'), (2, 'c')]), Redundancy::Whole);
        assert_eq!(of(&[(0, 'a'), (1, 'b'), (2, 'b')]), Redundancy::Endangered);
        assert_eq!(of(&[(0, 'a'), (1, 'a')]), Redundancy::Endangered);
        assert_eq!(of(&[(0, 'a'), (0, 'b')]), Redundancy::Lost);
        assert_eq!(of(&[]), Redundancy::Lost);
    }

    #[test]
    fn matching_extended_keeps_its_keepers() {
        let first = [(0, vec![1]), (1, vec![])];
        let mut matching = Matching::of(&first);
        matching.extend(&[(0, vec![1, 2]), (1, vec![1])]);
        assert_eq!(matching.pairs(), BTreeMap::from([(0, 2), (1, 1)]));
    }

    /// The size of the largest matching by trying all.
    fn largest(holders: &[(u8, Vec<u8>)], taken: &BTreeSet<u8>) -> usize {
        let Some(((_, peers), rest)) = holders.split_first() else {
            return 0;
        };
        let mut best = largest(rest, taken);
        for peer in peers.iter().filter(|peer| !taken.contains(peer)) {
            let mut taken = taken.clone();
            taken.insert(*peer);
            best = best.max(1 + largest(rest, &taken));
        }
        best
    }

    proptest! {
        #[test]
        fn matching_of_any_holders_is_maximum(held in prop::collection::vec((0..5u8, 0..6u8), 0..14)) {
            let holders = by_index(5, &held.iter().copied(), |peer| peer);
            let matching = Matching::of(&holders);
            prop_assert_eq!(matching.len(), largest(&holders, &BTreeSet::new()));
            for (index, peer) in matching.pairs() {
                prop_assert!(held.contains(&(index, peer)));
            }
        }
    }
}
