//! Names of stripes and shards in the order in which inventories are exchanged.

use super::message::Entry;
use crate::Id;

/// A stripe in the order of exchange: by bucket, which is the last byte of its id, then by id. Arcs of the
/// circle are contiguous in the first bytes, so the last one spreads every arc over all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) bucket: u8,
    pub(super) stripe: Id,
}

impl Slot {
    pub(super) fn of(stripe: Id) -> Self {
        let [.., bucket] = *stripe.as_bytes();
        Self { bucket, stripe }
    }
}

/// A shard in the order of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardKey {
    pub(super) slot: Slot,
    pub(super) index: u8,
}

impl ShardKey {
    pub(super) fn new(stripe: Id, index: u8) -> Self {
        Self {
            slot: Slot::of(stripe),
            index,
        }
    }
}

impl From<&Entry> for ShardKey {
    fn from(entry: &Entry) -> Self {
        Self::new(entry.stripe, entry.index)
    }
}
