//! What goes into custody and what comes out of it, but for messages.

use std::time::Duration;

use super::key::{Item, LOCATOR};
use super::message::Request;
use crate::placement::Placement;
use crate::{Flaw, Id, Peer, Time};

/// A listing ends with a whole stripe, which has at most 255 shards.
pub(super) const MAX_PAGE: usize = super::MAX_ENTRIES - 255;

/// How custody behaves, flat, as tests and simulations change a few and take the rest from the default. No
/// duration may be zero.
#[derive(Clone, Debug)]
pub struct CustodyConfig {
    /// Whether to regenerate, hand off and trim. When off, custody still exchanges inventories, spreads
    /// commits and expires leases.
    pub repair: bool,
    /// How long a holder is suspect before its shards count as missing.
    pub repair_delay: Duration,
    /// The same for a stripe of which exactly k distinct indices live, when shorter.
    pub exactly_k_delay: Duration,
    /// How long a holder that confirmed a shard will not trim it.
    pub pin: Duration,
    /// Shortest time between two reports to one primary.
    pub exchange_dirty: Duration,
    /// Time between two reports to one primary when nothing changed.
    pub exchange_idle: Duration,
    /// How long the membership must have been stable before shards are handed off, and an index that vanished
    /// from a report unheard of before it is regenerated; `repair_delay` when that is shorter.
    pub settle: Duration,
    /// Lifetime of a pending shard that is not renewed.
    pub pending_lease: Duration,
    /// Bytes read and written by repair and handoff per second; none: unlimited.
    pub repair_rate: Option<u64>,
    /// Repairs and handoffs in flight at once.
    pub parallel: usize,
    /// Size of the responsible set: how many successors of a stripe are looked at, at least n + 4.
    pub r: usize,
    /// Shards listed in one message before the last stripe is completed; at most the default.
    pub page: usize,
    /// A planted flaw; ignored in builds without the feature `flaws`. None.
    pub flaw: Option<Flaw>,
}

impl Default for CustodyConfig {
    fn default() -> Self {
        Self {
            repair: true,
            repair_delay: Duration::from_mins(15),
            exactly_k_delay: Duration::from_mins(1),
            pin: Duration::from_mins(1),
            exchange_dirty: Duration::from_millis(500),
            exchange_idle: Duration::from_secs(30),
            settle: Duration::from_secs(5),
            pending_lease: Duration::from_mins(10),
            repair_rate: None,
            parallel: 4,
            r: 16,
            page: MAX_PAGE,
            flaw: None,
        }
    }
}

impl CustodyConfig {
    pub(super) fn has(&self, flaw: Flaw) -> bool {
        flaw.is_planted(self.flaw)
    }

    pub(super) fn settle(&self) -> Duration {
        self.settle.min(self.repair_delay)
    }
}

/// What custody must know of a stripe's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Shards needed.
    pub k: u8,
    /// Shards in all, at least k.
    pub n: u8,
    /// Length of a shard in bytes.
    pub shard_len: u32,
    /// How its holders are chosen.
    pub placement: Placement,
}

impl Shape {
    /// What stands for the shape of records, which have none.
    pub const RECORDS: Self = Self {
        k: 1,
        n: 1,
        shard_len: 0,
        placement: Placement::Successors,
    };

    /// Whether 1 ≤ k ≤ n, and n fit into a run.
    pub fn is_valid(&self) -> bool {
        let fits = match self.placement {
            Placement::Successors | Placement::Random | Placement::Copysets { .. } => true,
            Placement::Buddies { group, .. } => self.n <= group,
        };
        (1..=self.n).contains(&self.k) && self.n < LOCATOR && fits
    }

    /// Whether this may be held of the stripe.
    pub(super) fn has(&self, item: Item) -> bool {
        match item {
            Item::Tombstone => true,
            Item::Locator => self.placement.needs_locators(),
            Item::Records(_) => *self == Self::RECORDS,
            Item::Shard(index) => index < self.n,
        }
    }
}

/// How firmly something is held. Drivers that count time or name peers otherwise have their own `T` and `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure<T = Time, W = Peer> {
    /// Part of an acknowledged file.
    Committed,
    /// Part of a put in progress.
    Pending {
        /// When the lease ends unless it is renewed.
        until: T,
        /// The peer that puts.
        writer: W,
    },
    /// A tombstone: the word of the stripe's owner that it is deleted, which the driver has verified.
    Deleted {
        /// How long it is kept.
        until: T,
    },
}

impl<T, W> Tenure<T, W> {
    /// The same, with time counted and the writer named otherwise.
    pub fn map<U, V>(self, time: impl FnOnce(T) -> U, peer: impl FnOnce(W) -> V) -> Tenure<U, V> {
        match self {
            Self::Committed => Tenure::Committed,
            Self::Pending { until, writer } => Tenure::Pending {
                until: time(until),
                writer: peer(writer),
            },
            Self::Deleted { until } => Tenure::Deleted { until: time(until) },
        }
    }

    /// Whether it is there to stay; tombstones are.
    pub fn is_committed(&self) -> bool {
        match self {
            Self::Committed | Self::Deleted { .. } => true,
            Self::Pending { .. } => false,
        }
    }
}

/// A durable, verified shard in the local store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The stripe.
    pub stripe: Id,
    /// What is held: a shard below n, the tombstone if deleted, or the locator.
    pub item: Item,
    /// The stripe's shape.
    pub shape: Shape,
    /// Committed, pending or deleted.
    pub tenure: Tenure,
}

/// Names a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Names a repair or handoff in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(super) u64);

/// A request to deliver. The driver owes exactly one `handle_response` or `handle_failure` for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To be named in the outcome.
    pub id: RequestId,
    /// The receiver.
    pub to: Peer,
    /// The request.
    pub request: Request,
    /// How long to wait for the answer.
    pub deadline: Duration,
}

/// Work for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Fetch any k of the sources, rebuild the target indices and put each, committed, to its peer. Ends with
    /// `handle_job`.
    Regenerate {
        /// To be named in the outcome.
        job: JobId,
        /// The stripe.
        stripe: Id,
        /// Its shape.
        shape: Shape,
        /// Indices and who says that it holds them, at least k distinct ones. Each peer is named once first,
        /// this one before all, then the nearest; what follows repeats peers and indices, for where some do
        /// not have what they say.
        sources: Vec<(u8, Peer)>,
        /// Indices to rebuild and where to put them; this peer possible.
        targets: Vec<(u8, Peer)>,
    },
    /// Fetch one shard, or the tombstone, and put it, committed, to another peer; one of them may be this
    /// peer. Ends with `handle_job`.
    Copy {
        /// To be named in the outcome.
        job: JobId,
        /// The stripe.
        stripe: Id,
        /// The shard or tombstone.
        item: Item,
        /// The peer that holds it.
        from: Peer,
        /// The peer that is to hold it.
        to: Peer,
    },
    /// Write the stripe's locator, committed and in place of an older one, at other peers or here. Ends with
    /// `handle_job`.
    Locate {
        /// To be named in the outcome.
        job: JobId,
        /// The stripe.
        stripe: Id,
        /// The live shards and their holders.
        holders: Vec<(u8, Peer)>,
        /// The peers that get the locator.
        to: Vec<Peer>,
    },
    /// Remove a shard from the local store, then call `removed`; if that fails, `insert` it after that again.
    /// Custody has forgotten the shard already, and confirms it to nobody before `removed`.
    Drop {
        /// The stripe.
        stripe: Id,
        /// What to remove.
        item: Item,
        /// Whether it is a pending shard whose lease ended: then a commit that was made durable meanwhile
        /// keeps it, and it is to be inserted again.
        expired: bool,
    },
    /// Read the records under an id from these peers, put them together, and give each of the others what it
    /// lacks. Ends with `handle_job`.
    Merge {
        /// To be named in the outcome.
        job: JobId,
        /// The id.
        id: Id,
        /// Who says that it has some; this peer possible.
        from: Vec<Peer>,
        /// Who is to have them all; this peer possible.
        to: Vec<Peer>,
    },
    /// Ask these peers whether they have at least the records under an id that this one has. If all do, and
    /// nothing was taken in meanwhile, remove them here and call `records_changed`.
    Yield {
        /// The id.
        id: Id,
        /// All of them are nearer to the id.
        to: Vec<Peer>,
    },
    /// Have the ring look up who follows this point: others name peers there that the ring does not know.
    /// What is found shows in the ring's view.
    Discover {
        /// A stripe id.
        point: Id,
    },
    /// Commit all local shards of a stripe durably, then call `committed`. Asked again later if that does
    /// not happen.
    Commit {
        /// The stripe.
        stripe: Id,
    },
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOutcome {
    /// What is durable at its target.
    pub stored: Vec<(Item, Peer)>,
    /// What could not be fetched or stored, and from or at whom.
    pub failed: Vec<(Item, Peer)>,
    /// A rebuilt shard did not match its hash: the stripe is not repaired again.
    pub inconsistent: bool,
    /// Bytes fetched and sent.
    pub bytes: u64,
}

/// The stripes this peer is the primary of, and its repairs: what `status` and metrics show, one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CustodyStats {
    /// Stripes with all n indices on distinct live peers ([`Redundancy`](super::Redundancy)), unaudited ones
    /// not included.
    pub safe: usize,
    /// Stripes with more than k indices on distinct live peers, and fewer than n.
    pub degraded: usize,
    /// Stripes that this peer has repaired and nobody else has audited since.
    pub unaudited: usize,
    /// Stripes with no more than k indices on distinct live peers.
    pub endangered: usize,
    /// Stripes with fewer than k live indices: lost for now.
    pub lost: usize,
    /// Stripes of puts in progress.
    pub pending: usize,
    /// Stripes this peer became the primary of lately, below n as far as it has heard.
    pub unsure: usize,
    /// Stripes whose rebuilt shards do not match their hashes; included above too.
    pub inconsistent: usize,
    /// Repairs and handoffs that wait for their turn.
    pub repairs_waiting: usize,
    /// Repairs and handoffs in flight.
    pub repairs_running: usize,
    /// Stripes with missing indices and no peer to take them.
    pub parked: usize,
    /// Shards regenerated since start.
    pub regenerated_total: u64,
    /// Bytes moved by repair and handoff since start.
    pub bytes_total: u64,
    /// Repairs begun since start in place of a primary that did not.
    pub taken_over_total: u64,
}

/// The standing of a holder in its primary's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the ring, and its last report matched.
    Live,
    /// Unreachable, or back without a matching report.
    Suspect,
    /// Suspect for `repair_delay`.
    Gone,
}

/// One shard of a [`StripeRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRecord {
    /// Which of the n shards.
    pub index: u8,
    /// The peer that says it holds it.
    pub peer: Peer,
    /// Whether it said committed.
    pub committed: bool,
    /// The standing of that peer.
    pub standing: Standing,
}

/// What holders reported to this peer of a stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeRecord {
    /// The stripe's shape.
    pub shape: Shape,
    /// Whether this peer was the primary of the stripe when it last looked.
    pub primary: bool,
    /// By index.
    pub shards: Vec<ShardRecord>,
}
