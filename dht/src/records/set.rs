//! The records under one id, by what tells them apart.
//!
//! A set is a join semilattice: of one writer the higher sequence counts, and of two different records with
//! one number and sequence, which only a cloned device writes, both count, and of more the two with the
//! lowest hashes. So holders that merge in any order, twice or late agree in the end, and none goes down.
//!
//! An end mark is above everything: who has it takes no record any more, and what each such peer still keeps
//! makes no difference to anybody.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{MAX_WRITERS, Publish};
use crate::Flaw;

/// What tells one record from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The number that the writer drew.
    pub writer: u64,
    /// Rises with each record of the writer.
    pub sequence: u64,
    /// SHA-256 of the record.
    pub hash: [u8; 32],
}

/// What a set makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the set now, in place of these.
    New(Vec<Stamp>),
    /// It was in the set.
    Known,
    /// The set has a higher one of this writer, or two others with its sequence and lower hashes.
    Older,
    /// The key ended.
    Ended,
    /// The set has records of [`MAX_WRITERS`] others.
    Full,
}

/// The records of one writer: one, or the two of a number that two devices use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Latest {
    sequence: u64,
    lowest: [u8; 32],
    second: Option<[u8; 32]>,
}

impl Latest {
    fn hashes(&self) -> impl Iterator<Item = [u8; 32]> {
        std::iter::once(self.lowest).chain(self.second)
    }

    fn has(&self, stamp: &Stamp) -> bool {
        self.sequence == stamp.sequence && self.hashes().any(|hash| hash == stamp.hash)
    }

    /// Whether the record would be kept.
    fn yields_to(&self, stamp: &Stamp) -> bool {
        match stamp.sequence.cmp(&self.sequence) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => !self.has(stamp) && self.second.is_none_or(|second| stamp.hash < second),
        }
    }

    fn stamps(&self, writer: u64) -> impl Iterator<Item = Stamp> {
        let sequence = self.sequence;
        self.hashes().map(move |hash| Stamp {
            writer,
            sequence,
            hash,
        })
    }
}

/// The records under one id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordSet {
    writers: BTreeMap<u64, Latest>,
    ended: bool,
}

impl RecordSet {
    /// Takes a record in, if it is to be kept.
    pub fn take(&mut self, stamp: Stamp) -> Taken {
        if self.ended {
            return Taken::Ended;
        }
        let alone = Latest {
            sequence: stamp.sequence,
            lowest: stamp.hash,
            second: None,
        };
        let Some(latest) = self.writers.get_mut(&stamp.writer) else {
            if self.writers.len() >= MAX_WRITERS {
                return Taken::Full;
            }
            self.writers.insert(stamp.writer, alone);
            return Taken::New(Vec::new());
        };
        if latest.has(&stamp) {
            return Taken::Known;
        }
        if !latest.yields_to(&stamp) {
            return Taken::Older;
        }
        let before = *latest;
        *latest = if stamp.sequence > before.sequence {
            alone
        } else {
            let lowest = before.lowest.min(stamp.hash);
            Latest {
                lowest,
                second: Some(before.lowest.max(stamp.hash)),
                ..before
            }
        };
        let after = *latest;
        Taken::New(
            before
                .stamps(stamp.writer)
                .filter(|old| !after.has(old))
                .collect(),
        )
    }

    /// Takes a record in as a holder does, which answers this to the device that sent it.
    pub fn offer(&mut self, stamp: Stamp, flaw: Option<Flaw>) -> (Taken, Publish) {
        if Flaw::LowerReplaces.is_planted(flaw) {
            self.writers.remove(&stamp.writer);
        }
        let equal = self
            .writers
            .get(&stamp.writer)
            .is_some_and(|latest| latest.sequence == stamp.sequence);
        if equal && Flaw::KeepOneOfTwo.is_planted(flaw) {
            self.writers.remove(&stamp.writer);
        }
        let mut others: Vec<Stamp> = self
            .of(stamp.writer)
            .filter(|other| other.sequence >= stamp.sequence && *other != stamp)
            .collect();
        if Flaw::IgnoreDoubles.is_planted(flaw) {
            others.clear();
        }
        let taken = self.take(stamp);
        let answer = match taken {
            Taken::Ended => Publish::Ended,
            Taken::Full => Publish::Silent,
            Taken::New(_) | Taken::Known | Taken::Older if others.is_empty() => Publish::Stored,
            Taken::New(_) | Taken::Known | Taken::Older => Publish::Doubled(others),
        };
        (taken, answer)
    }

    /// The key ended: nothing is taken in any more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the key ended.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty() && !self.ended
    }

    /// How many writers it has.
    pub fn writers(&self) -> usize {
        self.writers.len()
    }

    /// All records, by writer.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.writers
            .iter()
            .flat_map(|(writer, latest)| latest.stamps(*writer))
    }

    /// The latest records of one writer.
    pub fn of(&self, writer: u64) -> impl Iterator<Item = Stamp> {
        let latest = self.writers.get(&writer).into_iter();
        latest.flat_map(move |latest| latest.stamps(writer))
    }

    /// The records that a set lacks which has `theirs`.
    pub fn newer_than(&self, theirs: &Self) -> Vec<Stamp> {
        let lacks = |stamp: &Stamp| {
            let latest = theirs.writers.get(&stamp.writer);
            latest.is_none_or(|latest| latest.yields_to(stamp))
        };
        self.stamps().filter(lacks).collect()
    }

    /// Whether it has all that `other` has, or higher ones in its place.
    pub fn covers(&self, other: &Self) -> bool {
        self.ended || !other.ended && other.newer_than(self).is_empty()
    }

    /// Changes whenever the set does: the sum of a hash of each record, or of the end mark alone.
    pub fn digest(&self) -> u64 {
        if self.ended {
            return u64::MAX;
        }
        let sum = self.stamps().map(|stamp| {
            let hash = Sha256::new()
                .chain_update(stamp.writer.to_be_bytes())
                .chain_update(stamp.sequence.to_be_bytes())
                .chain_update(stamp.hash);
            let hash: [u8; 32] = hash.finalize().into();
            hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
        });
        sum.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(writer: u64, sequence: u64, hash: u8) -> Stamp {
        Stamp {
            writer,
            sequence,
            hash: [hash; 32],
        }
    }

    fn set(stamps: &[Stamp]) -> RecordSet {
        let mut set = RecordSet::default();
        for stamp in stamps {
            set.take(*stamp);
        }
        set
    }

    #[test]
    fn two_records_of_one_number_both_stay_and_of_three_the_lowest() {
        let mut records = set(&[stamp(1, 5, 7)]);
        assert_eq!(records.take(stamp(1, 5, 3)), Taken::New(vec![]));
        assert_eq!(records.take(stamp(1, 5, 9)), Taken::Older);
        assert_eq!(records.take(stamp(1, 5, 1)), Taken::New(vec![stamp(1, 5, 7)]));
        assert_eq!(
            records.of(1).collect::<Vec<_>>(),
            [stamp(1, 5, 1), stamp(1, 5, 3)]
        );
        assert_eq!(records.take(stamp(1, 4, 0)), Taken::Older);
        assert_eq!(
            records.take(stamp(1, 6, 8)),
            Taken::New(vec![stamp(1, 5, 1), stamp(1, 5, 3)])
        );
        assert_eq!(records.take(stamp(1, 6, 8)), Taken::Known);
    }

    #[test]
    fn ended_set_takes_nothing_and_covers_all() {
        let mut records = set(&[stamp(1, 5, 7)]);
        let other = set(&[stamp(2, 5, 7)]);
        assert!(!records.covers(&other));
        records.end();
        assert_eq!(records.take(stamp(2, 1, 1)), Taken::Ended);
        assert!(records.covers(&other) && !other.covers(&records));
        let mut empty = RecordSet::default();
        assert!(empty.is_empty());
        empty.end();
        assert_eq!(empty.digest(), records.digest());
    }

    #[test]
    fn set_has_so_many_writers_at_most() {
        let mut records = RecordSet::default();
        for writer in 0..MAX_WRITERS as u64 {
            assert_eq!(records.take(stamp(writer, 1, 1)), Taken::New(vec![]));
        }
        assert_eq!(records.take(stamp(1000, 1, 1)), Taken::Full);
        assert!(matches!(records.take(stamp(3, 2, 1)), Taken::New(_)));
    }

    fn stamps() -> impl Strategy<Value = Vec<Stamp>> {
        let one = (0..4u64, 0..4u64, 0..5u8);
        prop::collection::vec(
            one.prop_map(|(writer, sequence, hash)| stamp(writer, sequence, hash)),
            0..20,
        )
    }

    fn merged(a: &RecordSet, b: &RecordSet) -> RecordSet {
        let mut both = a.clone();
        for stamp in b.stamps() {
            both.take(stamp);
        }
        both
    }

    proptest! {
        #[test]
        fn sets_merge_to_the_same_in_any_order(a in stamps(), b in stamps(), c in stamps()) {
            let (a, b, c) = (set(&a), set(&b), set(&c));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert!(merged(&a, &b).covers(&a) && merged(&a, &b).covers(&b));
        }

        /// What one set is told to lack is just what makes it cover the other.
        #[test]
        fn what_is_newer_is_all_that_lacks(a in stamps(), b in stamps()) {
            let (a, b) = (set(&a), set(&b));
            let newer = a.newer_than(&b);
            prop_assert_eq!(newer.is_empty(), merged(&b, &a) == b);
            prop_assert_eq!(newer.is_empty(), b.covers(&a));
            let mut filled = b.clone();
            for stamp in newer {
                filled.take(stamp);
            }
            prop_assert_eq!(&filled, &merged(&a, &b));
            prop_assert!(filled.covers(&a));
        }

        #[test]
        fn different_sets_have_different_digests(a in stamps(), b in stamps()) {
            let (a, b) = (set(&a), set(&b));
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }
    }
}
