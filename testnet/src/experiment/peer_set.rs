//! Sets of peers as bits: who holds a stripe, who was killed.

use std::fmt;

/// A set of peers by number, from 0 to [`PeerSet::CAPACITY`] - 1.
///
/// Whoever takes numbers from outside checks them first: larger ones are no members of any set.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSet([u64; 4]);

impl PeerSet {
    /// Peers that a set can tell apart.
    pub const CAPACITY: usize = 256;

    /// Adds a peer; false when its number is too large for a set.
    pub fn insert(&mut self, peer: usize) -> bool {
        let Some(word) = self.0.get_mut(peer / 64) else {
            return false;
        };
        *word |= 1 << (peer % 64);
        true
    }

    /// Whether the peer is a member.
    pub fn contains(&self, peer: usize) -> bool {
        self.0
            .get(peer / 64)
            .is_some_and(|word| word >> (peer % 64) & 1 == 1)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|word| usize::try_from(word.count_ones()).unwrap_or(0))
            .sum()
    }

    /// Whether nobody is a member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Members of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// Members of either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// Whether every member is one of `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.and(other) == *self
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        (0..).zip(self.0).flat_map(|(at, mut word): (usize, u64)| {
            std::iter::from_fn(move || {
                let bit = usize::try_from(word.trailing_zeros()).unwrap_or(64);
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }

    fn zip(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = self.0;
        for (word, other) in words.iter_mut().zip(other.0) {
            *word = of(*word, other);
        }
        Self(words)
    }
}

impl FromIterator<usize> for PeerSet {
    fn from_iter<I: IntoIterator<Item = usize>>(peers: I) -> Self {
        let mut set = Self::default();
        for peer in peers {
            set.insert(peer);
        }
        set
    }
}

impl fmt::Debug for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_reach_over_words() {
        let peers = [0, 5, 63, 64, 127, 200, 255];
        let set: PeerSet = peers.into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), peers);
        assert_eq!(set.len(), 7);
        assert!(set.contains(200) && !set.contains(199) && !set.contains(456));
        let other: PeerSet = [63, 64, 65].into_iter().collect();
        assert_eq!(set.and(&other), [63, 64].into_iter().collect());
        assert_eq!(set.or(&other).len(), 8);
        assert!(set.and(&other).is_subset(&other) && !other.is_subset(&set));
        assert!(PeerSet::default().is_empty() && !set.is_empty());
    }

    #[test]
    fn a_number_too_large_is_refused() {
        let mut set = PeerSet::default();
        assert!(set.insert(255) && !set.insert(256));
        assert_eq!(set.len(), 1);
    }
}
