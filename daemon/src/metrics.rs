//! What this peer counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::peer::PeerRequest;

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds `by`.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Totals since the start, one field for each metric of the contract.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) puts: Count,
    pub(crate) put_bytes: Count,
    pub(crate) gets: Count,
    pub(crate) get_bytes: Count,
    pub(crate) shards_served: Count,
    pub(crate) shards_served_bytes: Count,
    pub(crate) shards_read_here: Count,
    pub(crate) shards_read_here_bytes: Count,
    pub(crate) shards_stored: Count,
    pub(crate) shards_stored_bytes: Count,
    pub(crate) shards_repaired: Count,
    pub(crate) shards_repaired_bytes: Count,
    pub(crate) leases_renewed: Count,
    pub(crate) survey_questions: Count,
    pub(crate) survey_stripes: Count,
}

fn len(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Metrics {
    /// A file of `bytes` was stored from here.
    pub(crate) fn put_done(&self, bytes: u64) {
        self.puts.add(1);
        self.put_bytes.add(bytes);
    }

    /// A read from here begins.
    pub(crate) fn get_begun(&self) {
        self.gets.add(1);
    }

    /// Bytes of a file were handed to a client.
    pub(crate) fn get_bytes(&self, bytes: usize) {
        self.get_bytes.add(len(bytes));
    }

    /// A shard was sent to another peer.
    pub(crate) fn shard_served(&self, bytes: usize) {
        self.shards_served.add(1);
        self.shards_served_bytes.add(len(bytes));
    }

    /// A shard held here was read for a client or a repair of this peer: what it served to itself.
    pub(crate) fn shard_read_here(&self, bytes: usize) {
        self.shards_read_here.add(1);
        self.shards_read_here_bytes.add(len(bytes));
    }

    /// A shard was stored here, whoever sent it.
    pub(crate) fn shard_stored(&self, bytes: usize) {
        self.shards_stored.add(1);
        self.shards_stored_bytes.add(len(bytes));
    }

    /// Shards were regenerated or copied from here.
    pub(crate) fn repaired(&self, shards: usize, bytes: u64) {
        self.shards_repaired.add(len(shards));
        self.shards_repaired_bytes.add(bytes);
    }

    /// Another peer was asked something about its shards.
    pub(crate) fn asked(&self, request: &PeerRequest) {
        if let PeerRequest::Holdings(stripes) = request {
            self.survey_questions.add(1);
            self.survey_stripes.add(len(stripes.len()));
        } else if let PeerRequest::Renew(..) = request {
            self.leases_renewed.add(1);
        }
    }
}
