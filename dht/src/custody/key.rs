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

/// What may be held of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// One of its n shards, by index.
    Shard(u8),
    /// No part of a stripe: the records under this id, with this digest. As bytes, so that an item takes
    /// nine: peers hold millions.
    Records([u8; 8]),
    /// Who holds which of its shards, where that cannot be found from its id.
    Locator,
    /// Its owner's word that it is deleted.
    Tombstone,
}

/// The byte that stands for a tombstone on disk and on the wire. No shard has this index.
pub const TOMBSTONE: u8 = u8::MAX;

/// The byte that stands for a locator on disk and on the wire. No shard has this index: n is less.
pub const LOCATOR: u8 = TOMBSTONE - 1;

/// The byte that stands for records on disk and on the wire. No shard has this index.
pub const RECORDS: u8 = LOCATOR - 1;

impl Item {
    /// No other comes before it.
    pub(super) const FIRST: Self = Self::Shard(0);
    /// No other comes after it.
    pub(super) const LAST: Self = Self::Tombstone;

    /// The index of a shard; none for what is no shard.
    pub fn shard(self) -> Option<u8> {
        match self {
            Self::Shard(index) => Some(index),
            Self::Records(_) | Self::Locator | Self::Tombstone => None,
        }
    }

    /// Records with this digest.
    pub fn of_records(digest: u64) -> Self {
        Self::Records(digest.to_be_bytes())
    }

    /// The digest of records; none for what is part of a stripe.
    pub fn records(self) -> Option<u64> {
        match self {
            Self::Records(digest) => Some(u64::from_be_bytes(digest)),
            Self::Shard(_) | Self::Locator | Self::Tombstone => None,
        }
    }

    /// Whether it is a shard.
    pub fn is_shard(self) -> bool {
        self.shard().is_some()
    }
}

/// Parts of stripes.
impl From<u8> for Item {
    fn from(byte: u8) -> Self {
        match byte {
            TOMBSTONE => Self::Tombstone,
            LOCATOR => Self::Locator,
            index => Self::Shard(index),
        }
    }
}

impl From<Item> for u8 {
    fn from(item: Item) -> Self {
        match item {
            Item::Shard(index) => index,
            Item::Records(_) => RECORDS,
            Item::Locator => LOCATOR,
            Item::Tombstone => TOMBSTONE,
        }
    }
}

/// Something held, in the order of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemKey {
    pub(super) slot: Slot,
    pub(super) item: Item,
}

impl ItemKey {
    pub(super) fn new(stripe: Id, item: Item) -> Self {
        Self {
            slot: Slot::of(stripe),
            item,
        }
    }
}

impl From<&Entry> for ItemKey {
    fn from(entry: &Entry) -> Self {
        Self::new(entry.stripe, entry.item)
    }
}
