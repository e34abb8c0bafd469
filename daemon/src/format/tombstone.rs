//! Tombstones: what is left of a deleted stripe, and the proof that its owner wanted it deleted.
//!
//! A tombstone is the stripe's header with the owner's ed25519 signature of "mutualstore/delete/1" ‖ stripe
//! id. The header hashes to the stripe's id and names the owner's key, so a tombstone proves itself to
//! whoever holds a shard, and passes from peer to peer as shards do. It tells nobody whose the file was:
//! every file has an owner key of its own.

use mutualstore_dht::Id;
use mutualstore_erasure::Header;

use crate::format::crypt::{SIGNATURE, is_deletion};

/// A tombstone whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    header: Header,
    signature: [u8; SIGNATURE],
}

impl Tombstone {
    /// The tombstone of the stripe with this header, if its owner signed it.
    pub fn verify(header: Header, signature: &[u8]) -> Option<Self> {
        let owned = is_deletion(header.owner(), header.id().as_bytes(), signature);
        let signature = signature.try_into().ok().filter(|_| owned)?;
        Some(Self { header, signature })
    }

    /// The stripe it deletes.
    pub fn stripe(&self) -> Id {
        Id::new(*self.header.id().as_bytes())
    }

    /// The stripe's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The owner's signature.
    pub fn signature(&self) -> &[u8; SIGNATURE] {
        &self.signature
    }
}
