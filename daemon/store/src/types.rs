//! What the store is asked about and what it answers.

use bytes::Bytes;

/// Bytes of a key: stripe id, then index.
pub(super) const KEY_BYTES: usize = 33;
/// Index under which the tombstone of a deleted stripe is kept; no shard has it.
pub const TOMBSTONE: u8 = u8::MAX;
/// The index of records that are kept like shards, and counted apart from them: who holds the shards of a
/// stripe.
pub const LOCATOR: u8 = TOMBSTONE - 1;
/// The index of values that change, each under its own hash: no shard has it. They go through on a full disk.
pub const RECORDS: u8 = LOCATOR - 1;

/// Names a shard: the stripe and the shard's place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Stripe id.
    pub stripe: [u8; 32],
    /// Shard index.
    pub index: u8,
}

impl Key {
    /// Stripe id, then index.
    pub fn to_bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [self.index; KEY_BYTES];
        if let Some((stripe, _)) = bytes.split_first_chunk_mut() {
            *stripe = self.stripe;
        }
        bytes
    }

    /// See [`Key::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&stripe, &[index]) = bytes.split_first_chunk()? else {
            return None;
        };
        Some(Self { stripe, index })
    }
}

/// Whether a shard belongs to an acknowledged write, as it stands on disk. What custody makes of it with the
/// settings of today is its `Tenure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Committed,
    /// Its write is unfinished.
    Pending {
        /// End of the lease, Unix milliseconds.
        until_unix_ms: u64,
        /// Public key of the peer that writes.
        writer: [u8; 32],
    },
    /// It is no shard, but the tombstone of its stripe.
    Deleted {
        /// When it came here, Unix milliseconds.
        since_unix_ms: u64,
    },
}

/// What is known of a shard without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Committed or pending.
    pub state: State,
    /// Token of the last put.
    pub token: [u8; 16],
    /// Header and payload, in bytes.
    pub len: u32,
}

/// A shard as it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its state, token and length.
    pub meta: Meta,
    /// The stripe's header.
    pub header: Bytes,
    /// The shard itself.
    pub payload: Bytes,
}

/// What a put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The shard was written.
    Stored,
    /// It was held already; a pending one now has the state and the token of this put.
    AlreadyHeld,
}

/// What the store takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Records of committed shards, stripe headers and the store's overhead included.
    pub committed_bytes: u64,
    /// The same for pending shards.
    pub pending_bytes: u64,
    /// All else in the segments: records of deletions, footers, what deleted shards left in partly used
    /// pages.
    pub dead_bytes: u64,
    /// Shards held, committed or pending.
    pub shards: u64,
    /// Locators held; their bytes count among those of shards.
    pub locators: u64,
    /// Signed records held; their bytes count among those of shards.
    pub records: u64,
    /// These bytes.
    pub records_bytes: u64,
    /// Deleted stripes whose tombstones are held.
    pub tombstones: u64,
    /// The bound on everything.
    pub capacity: u64,
    /// What puts may still take.
    pub free: u64,
}

impl Usage {
    /// Bytes of all shards held.
    pub fn used(&self) -> u64 {
        self.committed_bytes + self.pending_bytes
    }
}

/// How a store is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bound on the bytes taken on disk. Below some 16 MiB the fixed costs (index, reserve) leave little.
    pub capacity: u64,
    /// Length at which a segment ends, in bytes; a thirty-second of the capacity if that is less.
    pub max_segment: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            capacity: 10 << 30,
            max_segment: 256 << 20,
        }
    }
}
