//! Set fingerprints that are updated in constant time: sums of a hash of each member (Bellare & Micciancio
//! 1997). They guard against accidents; a holder that lies about itself hurts only itself.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::custody::key::ItemKey;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    sum: u64,
    count: u32,
}

/// The fingerprint of a set of (stripe, index, committed), of records with their digest, in total and per
/// bucket.
#[derive(Clone, Debug, Default)]
pub(in crate::custody) struct Fingerprints {
    total: u64,
    buckets: BTreeMap<u8, Bucket>,
}

impl Fingerprints {
    pub(in crate::custody) fn add(&mut self, key: ItemKey, committed: bool) {
        let hash = hash(key, committed);
        self.total = self.total.wrapping_add(hash);
        let bucket = self.buckets.entry(key.slot.bucket).or_default();
        bucket.sum = bucket.sum.wrapping_add(hash);
        bucket.count += 1;
    }

    /// Takes out what was added.
    pub(in crate::custody) fn remove(&mut self, key: ItemKey, committed: bool) {
        let hash = hash(key, committed);
        self.total = self.total.wrapping_sub(hash);
        if let Some(bucket) = self.buckets.get_mut(&key.slot.bucket) {
            bucket.sum = bucket.sum.wrapping_sub(hash);
            bucket.count -= 1;
            if bucket.count == 0 {
                self.buckets.remove(&key.slot.bucket);
            }
        }
    }

    pub(in crate::custody) fn total(&self) -> u64 {
        self.total
    }

    pub(in crate::custody) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Non-empty buckets, ascending.
    pub(in crate::custody) fn sums(&self) -> Vec<(u8, u64)> {
        self.buckets
            .iter()
            .map(|(bucket, content)| (*bucket, content.sum))
            .collect()
    }

    /// Buckets in which this set and the other one differ.
    pub(super) fn differing(&self, other: &[(u8, u64)]) -> BTreeSet<u8> {
        let other: BTreeMap<u8, u64> = other.iter().copied().collect();
        let mine = |bucket: &u8| self.buckets.get(bucket).map(|content| content.sum);
        self.buckets
            .keys()
            .chain(other.keys())
            .filter(|bucket| mine(bucket) != other.get(*bucket).copied())
            .copied()
            .collect()
    }
}

fn hash(key: ItemKey, committed: bool) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"mutualstore/custody/1");
    hash.update(key.slot.stripe.as_bytes());
    hash.update([key.item.into(), u8::from(committed)]);
    if let Some(digest) = key.item.records() {
        hash.update(digest.to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest
        .first_chunk()
        .map_or(0, |first: &[u8; 8]| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;

    fn key(first: u8, last: u8, index: u8) -> ItemKey {
        let mut bytes = [first; 32];
        bytes[31] = last;
        ItemKey::new(Id::new(bytes), index.into())
    }

    #[test]
    fn removal_in_any_order_undoes_addition() {
        let mut set = Fingerprints::default();
        set.add(key(1, 2, 3), true);
        let one = set.total();
        set.add(key(9, 2, 0), false);
        set.add(key(9, 7, 0), true);
        assert_ne!(set.total(), one);
        set.remove(key(9, 7, 0), true);
        set.remove(key(9, 2, 0), false);
        assert_eq!((set.total(), set.sums().len()), (one, 1));
        set.remove(key(1, 2, 3), true);
        assert!(set.is_empty());
    }

    #[test]
    fn differing_buckets_show_from_both_sides() {
        let mut a = Fingerprints::default();
        let mut b = Fingerprints::default();
        a.add(key(1, 1, 0), true);
        b.add(key(1, 1, 0), false);
        a.add(key(1, 2, 0), true);
        b.add(key(1, 3, 0), true);
        a.add(key(1, 4, 0), true);
        b.add(key(1, 4, 0), true);
        assert_eq!(a.differing(&b.sums()), BTreeSet::from([1, 2, 3]));
        assert_eq!(b.differing(&a.sums()), BTreeSet::from([1, 2, 3]));
    }
}
