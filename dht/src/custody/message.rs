//! What custody says to custody on another peer.
//!
//! Every request is idempotent: it may be lost, repeated or come late. Answers are given from local state.

use super::Shape;
use super::key::Item;
use crate::{Id, Peer};

/// A message carries at most this many listed shards, stripes, orders or questions.
pub const MAX_ENTRIES: usize = 4096;
/// Stripes that one peer asks another about at once in [`Request::Held`]: the answer names up to 256 indices
/// of each.
pub const MAX_ASKED: usize = MAX_ENTRIES / 4;
/// Stripes fall into this many buckets by the last byte of their id.
pub const BUCKETS: usize = 256;

/// A question or an instruction of one peer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Holder to primary: what the sender holds of the receiver's stripes. Answered by
    /// [`Response::Reported`].
    Report(Report),
    /// Primary to holder: report to me soon. Answered by [`Response::Taken`].
    Solicit,
    /// Primary to holder: these stripes are committed. Answered by [`Response::Taken`], before it is durable.
    Commit {
        /// At most [`MAX_ENTRIES`].
        stripes: Vec<Id>,
    },
    /// Primary to holder: these shards look in excess; drop those that are. Answered by [`Response::Taken`].
    Trim {
        /// At most [`MAX_ENTRIES`] divided by n.
        orders: Vec<TrimOrder>,
    },
    /// Holder to holder: do you hold these, committed, and are not dropping them? Answered by
    /// [`Response::Confirmed`].
    Confirm {
        /// At most [`MAX_ENTRIES`].
        questions: Vec<Question>,
    },
    /// Holder to anyone: what do you know of these stripes? Answered by [`Response::Statuses`].
    Status {
        /// At most [`MAX_ENTRIES`].
        stripes: Vec<Id>,
    },
    /// Primary to another peer: audit these stripes, which I have repaired. Answered by [`Response::Taken`];
    /// what is found follows as [`Request::Audited`].
    Audit {
        /// At most [`MAX_ENTRIES`].
        stripes: Vec<Id>,
    },
    /// To a holder: what do you hold of these stripes, committed, and are not dropping? Answered by
    /// [`Response::Held`].
    Held {
        /// At most [`MAX_ASKED`].
        stripes: Vec<Id>,
    },
    /// Holder to holder: these trims are done, so what was pinned for them is free. Answered by
    /// [`Response::Taken`].
    Release {
        /// At most [`MAX_ENTRIES`].
        pins: Vec<Pin>,
    },
    /// To the primary: so many distinct indices on as many peers answered. Answered by [`Response::Taken`].
    Audited {
        /// At most [`MAX_ENTRIES`].
        totals: Vec<(Id, u8)>,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Report`].
    Reported(Reported),
    /// The request was understood; what comes of it shows in later reports.
    Taken,
    /// To [`Request::Confirm`]: one answer per question, in order.
    Confirmed(Vec<bool>),
    /// To [`Request::Status`]: one answer per stripe asked for, in order.
    Statuses(Vec<Status>),
    /// To [`Request::Held`]: one answer per stripe asked for, in order.
    Held(Vec<Holds>),
}

/// What a peer holds of a stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// What it holds, ascending.
    pub items: Vec<Item>,
    /// Whether it is the primary of the stripe and at work on it: it is about to repair, and its repairs
    /// succeed, or the stripe cannot be repaired.
    pub under_repair: bool,
    /// Live holders that reported shards to it, if it is the primary of a stripe whose holders cannot be
    /// found from its id. All answers of one response name at most [`MAX_ENTRIES`].
    pub reported: Vec<Peer>,
}

/// The fingerprint of what a holder holds of one primary's stripes, with the content of some buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Random number of the sender's run.
    pub instance: u64,
    /// Rises with each report of the run; an overtaken report is not applied.
    pub sequence: u64,
    /// Sum of the fingerprints of all shards the sender reports to the receiver, listed or not.
    pub total: u64,
    /// Replaces what the receiver knew of the sender in these ranges; at most [`MAX_ENTRIES`] entries in all.
    pub listings: Vec<Listing>,
}

/// Everything the sender reports to the receiver in one bucket, between two stripe ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The last byte of the stripe ids.
    pub bucket: u8,
    /// First id of the range.
    pub from: Id,
    /// Last id of the range.
    pub to: Id,
    /// Ascending by stripe and index, distinct.
    pub entries: Vec<Entry>,
}

impl Listing {
    /// Whether the entries are in order, in range and in the bucket. A listing from the network that fails
    /// this is refused.
    pub fn is_valid(&self) -> bool {
        self.entries
            .is_sorted_by(|a, b| (a.stripe, a.item) < (b.stripe, b.item))
            && self.entries.iter().all(|entry| {
                entry.stripe.as_bytes().last() == Some(&self.bucket)
                    && self.from <= entry.stripe
                    && entry.stripe <= self.to
                    && entry.shape.is_valid()
                    && entry.shape.has(entry.item)
            })
    }
}

/// One shard in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stripe.
    pub stripe: Id,
    /// What is held.
    pub item: Item,
    /// The stripe's shape.
    pub shape: Shape,
    /// Whether it is committed; otherwise pending.
    pub committed: bool,
}

/// What the primary answers to a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// None: the primary's record of the sender has the fingerprint reported. Otherwise the record's
    /// fingerprint of each non-empty bucket, ascending, at most [`BUCKETS`].
    pub differs: Option<Vec<(u8, u64)>>,
    /// Listed stripes whose primary is another peer in the receiver's view, and who. At most [`MAX_ENTRIES`].
    pub elsewhere: Vec<(Id, Peer)>,
}

/// An instruction to drop one shard if the safe rule allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimOrder {
    /// The stripe.
    pub stripe: Id,
    /// The receiver's excess shard, or locator.
    pub item: Item,
    /// The peer that keeps the same.
    pub keep: Peer,
    /// One holder for each other index of the stripe.
    pub others: Vec<(u8, Peer)>,
}

/// Whether the receiver holds a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The stripe.
    pub stripe: Id,
    /// The shard.
    pub item: Item,
    /// The asker's trim that counts on it: a receiver that answers yes must not trim the shard for the pin
    /// time, or until it is [released](Request::Release). Not 0. None: nothing is pinned.
    pub trim: Option<u64>,
}

/// A shard that the receiver pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The stripe.
    pub stripe: Id,
    /// The shard.
    pub item: Item,
    /// The sender's trim that it was pinned for.
    pub trim: u64,
}

/// What a peer knows of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds nothing of the stripe.
    None,
    /// It holds a pending shard and knows of no commit.
    Pending,
    /// It holds a committed shard, or as the primary knows of a holder of one.
    Committed,
}
