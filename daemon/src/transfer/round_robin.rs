//! Which holder of copies is asked first: weighted round robin, in proportion to the disk each gives.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mutualstore_dht::{Contact, Peer};

/// When so many questions are counted, all counts are halved: who comes later is not asked for everything
/// until it has caught up.
const COUNTED: u32 = 256;

/// How often this peer asked whom first, lately. Bounded: a count that is halved to nothing is dropped.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin(Mutex<BTreeMap<Peer, u32>>);

impl RoundRobin {
    /// Of these holders the place of the one asked least for its weight, which counts as asked; of equals one
    /// by lot, since other readers do not know whom this one asked.
    pub(crate) fn next(&self, holders: &[Contact]) -> usize {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = rand::random_range(0..holders.len().max(1));
        let (before, from) = holders.split_at(first.min(holders.len()));
        let places = (first..).zip(from).chain((0..).zip(before));
        let times = |contact: &Contact| u128::from(asked.get(&contact.peer).copied().unwrap_or(0)) + 1;
        let share = |a: &Contact, b: &Contact| {
            (times(a) * u128::from(b.capacity)).cmp(&(times(b) * u128::from(a.capacity)))
        };
        let Some((place, chosen)) = places.min_by(|(_, a), (_, b)| share(a, b)) else {
            return 0;
        };
        *asked.entry(chosen.peer).or_default() += 1;
        if asked.values().sum::<u32>() >= COUNTED {
            asked.values_mut().for_each(|times| *times /= 2);
            asked.retain(|_, times| *times > 0);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_dht::{PeerState, Signature};

    fn contact(number: u8, capacity: u64) -> Contact {
        Contact {
            peer: Peer::new([number; 32]),
            version: 1,
            virtual_nodes: vec![0].into(),
            addresses: [].into(),
            capacity,
            used: 0,
            state: PeerState::Accepting,
            zone: "".into(),
            signature: Signature::default(),
        }
    }

    fn asked(robin: &RoundRobin, holders: &[Contact], times: usize) -> Vec<usize> {
        let mut counts = vec![0; holders.len()];
        for _ in 0..times {
            counts[robin.next(holders)] += 1;
        }
        counts
    }

    #[test]
    fn equals_are_asked_equally_often_and_others_by_capacity() {
        let equal: Vec<Contact> = (1..=3).map(|number| contact(number, 100)).collect();
        let counts = asked(&RoundRobin::default(), &equal, 3000);
        assert!(
            counts.iter().all(|count| (990..=1010).contains(count)),
            "{counts:?}"
        );
        let weighted = [contact(1, 100), contact(2, 300)];
        let counts = asked(&RoundRobin::default(), &weighted, 4000);
        assert!((970..=1030).contains(&counts[0]), "{counts:?}");
        assert_eq!(RoundRobin::default().next(&[]), 0);
    }

    #[test]
    fn a_newcomer_is_not_asked_for_everything() {
        let robin = RoundRobin::default();
        let old: Vec<Contact> = (1..=3).map(|number| contact(number, 100)).collect();
        asked(&robin, &old, 100_000);
        let all: Vec<Contact> = (1..=4).map(|number| contact(number, 100)).collect();
        let counts = asked(&robin, &all, 1000);
        assert!(counts[3] < 250 + 100, "{counts:?}");
    }

    #[test]
    fn readers_that_ask_once_ask_different_holders() {
        let holders: Vec<Contact> = (1..=3).map(|number| contact(number, 100)).collect();
        let firsts: std::collections::BTreeSet<usize> =
            (0..200).map(|_| RoundRobin::default().next(&holders)).collect();
        assert_eq!(firsts.len(), 3);
    }
}
