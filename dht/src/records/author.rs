//! The number under which a device writes, and what it has written under it.
//!
//! A number is drawn at random per installation and per restore. Who clones a disk clones the number too, and
//! then two devices write under it. Holders tell, and whoever is told first draws another one. So a device
//! has to know its own records: the driver makes what [`Author::next`] gives durable before it sends it.
//!
//! **One record at a time.** Of one number the highest sequence counts, so a record that reached a single
//! holder could displace, once sets are merged, what a clone wrote under the same number and a majority
//! acknowledged. Therefore no record follows one that is not acknowledged: it is sent again, after a restart
//! too. Then, while any two majorities have a holder in common:
//!
//! - One sequence of a number is acknowledged once: of two devices that write it, one meets the other's.
//! - Who sends sequence *n + 1* had *n* acknowledged, or is a clone of who had. So it says all that the
//!   acknowledged *n* said, and nothing is lost where it is displaced.
//!
//! Where a partition lasts until both sides count the other as gone, two majorities have no holder in common.
//! Then a device may find, when the sides meet, that a record of its number displaced its own. So it may
//! where three devices go on from one disk, for holders keep two records of one number and sequence. It
//! learns that when it reads or writes next, draws another number and says all again.

use std::collections::VecDeque;

use super::{Publish, Stamp};
use crate::Flaw;

/// Own records that a late answer may be about.
const REMEMBERED: usize = 16;

/// See the module head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    writer: u64,
    sequence: u64,
    /// The latest records, the last one at the end.
    own: VecDeque<Stamp>,
    /// Whether the last record is acknowledged.
    acknowledged: bool,
}

impl Author {
    /// One that has written nothing under this number.
    pub fn new(writer: u64) -> Self {
        Self {
            writer,
            sequence: 0,
            own: VecDeque::new(),
            acknowledged: true,
        }
    }

    /// One whose last record this was.
    pub fn after(last: Stamp, acknowledged: bool) -> Self {
        Self {
            writer: last.writer,
            sequence: last.sequence,
            own: VecDeque::from([last]),
            acknowledged,
        }
    }

    /// The number.
    pub fn writer(&self) -> u64 {
        self.writer
    }

    /// The sequence of the next record.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.saturating_add(1)
    }

    /// The record that has to be sent again before there is another one.
    pub fn pending(&self, flaw: Option<Flaw>) -> Option<Stamp> {
        let waits = !self.acknowledged && !Flaw::OvertakeOwn.is_planted(flaw);
        self.own.back().copied().filter(|_| waits)
    }

    /// The stamp of the next record, whose hash this is. It counts as written from here on. None may be
    /// [pending](Self::pending).
    pub fn next(&mut self, hash: [u8; 32]) -> Stamp {
        self.sequence = self.next_sequence();
        let stamp = Stamp {
            writer: self.writer,
            sequence: self.sequence,
            hash,
        };
        if self.own.len() >= REMEMBERED {
            self.own.pop_front();
        }
        self.own.push_back(stamp);
        self.acknowledged = false;
        stamp
    }

    /// A majority has this record.
    pub fn acknowledge(&mut self, stamp: Stamp) {
        self.acknowledged |= self.own.back() == Some(&stamp);
    }

    /// What a holder's answer means: one that has what this author wrote since has what it was sent.
    pub fn judge(&self, answer: Publish) -> Publish {
        match answer {
            Publish::Doubled(stamps) if stamps.iter().all(|stamp| self.own.contains(stamp)) => {
                Publish::Stored
            }
            Publish::Doubled(_) | Publish::Stored | Publish::Ended | Publish::Silent => answer,
        }
    }

    /// Whether another device uses the number, as far as what lies with holders tells.
    pub fn is_doubled(&self, held: impl Iterator<Item = Stamp>) -> bool {
        let last = self.own.back().map_or(0, |last| last.sequence);
        held.filter(|stamp| stamp.writer == self.writer && stamp.sequence >= last)
            .any(|stamp| !self.own.contains(&stamp))
    }

    /// Another device uses the number: from here on this one writes under `writer`.
    pub fn renumber(&mut self, writer: u64, flaw: Option<Flaw>) {
        if !Flaw::KeepNumber.is_planted(flaw) {
            *self = Self::new(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_records_are_no_doubles() {
        let mut author = Author::new(7);
        let first = author.next([1; 32]);
        assert_eq!(author.pending(None), Some(first));
        author.acknowledge(first);
        assert_eq!(author.pending(None), None);
        let second = author.next([2; 32]);
        author.acknowledge(first);
        assert_eq!(author.pending(None), Some(second));
        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!(author.judge(Publish::Doubled(vec![second])), Publish::Stored);
        let clone = Author::after(first, true).next([3; 32]);
        assert_eq!(clone.sequence, 2);
        assert!(!author.is_doubled([first, second].into_iter()));
        assert!(author.is_doubled([clone].into_iter()));
        let doubled = Publish::Doubled(vec![second, clone]);
        assert_eq!(author.judge(doubled.clone()), doubled);
        author.renumber(8, None);
        assert_eq!(author.next([4; 32]).sequence, 1);
        assert_eq!(author.writer(), 8);
    }
}
