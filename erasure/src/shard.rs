//! Shards before and after verification.
//!
//! [`Shard`] is what the network or a disk gave; [`VerifiedShard`] is one that belongs to its stripe. Only
//! verified shards are decoded, stored or served, which the types see to: there is no other way to a
//! [`VerifiedShard`] than [`Shard::verify`] and the functions of this crate that compute shards.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{HASH_LEN, Header, StripeId};

/// A shard as it came from somewhere: untrusted, but its header is well formed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Header of the stripe it claims to belong to.
    pub header: Header,
    /// Its index in the stripe, from 0: data shards first.
    pub index: u8,
    /// Its bytes.
    pub payload: Bytes,
}

/// Why a shard was refused. It was dropped; what is wrong with it says nothing of the stripe's other shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShardError {
    /// The stripe has no shard with this index.
    #[error("stripe {stripe} has {n} shards, none with index {index}")]
    NoSuchIndex {
        /// The stripe.
        stripe: StripeId,
        /// Index claimed.
        index: u8,
        /// Shards of the stripe.
        n: u8,
    },
    /// The payload is not as long as the stripe's shards are.
    #[error("shard {stripe}:{index} has {found} bytes where {expected} belong")]
    Length {
        /// The stripe.
        stripe: StripeId,
        /// Index of the shard.
        index: u8,
        /// Bytes at hand.
        found: usize,
        /// Bytes of every shard of the stripe.
        expected: usize,
    },
    /// The payload does not match the hash in the header.
    #[error("shard {stripe}:{index} is corrupt")]
    Corrupt {
        /// The stripe.
        stripe: StripeId,
        /// Index of the shard.
        index: u8,
    },
    /// A shard of another stripe than the one asked for.
    #[error("a shard of stripe {found} came in place of one of {expected}")]
    OtherStripe {
        /// Stripe asked for.
        expected: StripeId,
        /// Stripe of the shard.
        found: StripeId,
    },
}

impl Shard {
    /// Checks index, length and hash against the header.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use mutualstore_erasure::{Code, Policy, Shard, ShardError, encode};
    ///
    /// let block = Bytes::from_static(b"block");
    /// let shards = encode(Code::Copies(2), Policy::Successors, [0; 32], [0; 32], block)?;
    /// let mut foreign = Shard::from(shards[1].clone());
    /// assert_eq!(foreign.clone().verify()?, shards[1]);
    ///
    /// foreign.payload = Bytes::from_static(b"clock");
    /// assert!(matches!(foreign.verify(), Err(ShardError::Corrupt { index: 1, .. })));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(self) -> Result<VerifiedShard, ShardError> {
        let Self {
            header,
            index,
            payload,
        } = self;
        let stripe = header.id();
        let Some(hash) = header.hash(index) else {
            return Err(ShardError::NoSuchIndex {
                stripe,
                index,
                n: header.code().n(),
            });
        };
        let (found, expected) = (payload.len(), header.shard_len());
        if found != expected {
            return Err(ShardError::Length {
                stripe,
                index,
                found,
                expected,
            });
        }
        if sha256(&payload) != *hash {
            return Err(ShardError::Corrupt { stripe, index });
        }
        Ok(VerifiedShard {
            header,
            index,
            payload,
        })
    }

    /// [`Shard::verify`], and that it belongs to the stripe asked for.
    pub fn verify_for(self, expected: &StripeId) -> Result<VerifiedShard, ShardError> {
        let found = self.header.id();
        if found != *expected {
            return Err(ShardError::OtherStripe {
                expected: *expected,
                found,
            });
        }
        self.verify()
    }
}

/// A shard that matches its header. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedShard {
    header: Header,
    index: u8,
    payload: Bytes,
}

impl VerifiedShard {
    /// For payloads whose hash is known to be the one the header has for this index.
    pub(crate) const fn trusted(header: Header, index: u8, payload: Bytes) -> Self {
        Self {
            header,
            index,
            payload,
        }
    }

    /// Header of the stripe.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Index in the stripe, from 0: data shards first.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// The bytes, [`Header::shard_len`] of them.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Identifier of the stripe.
    pub fn stripe(&self) -> StripeId {
        self.header.id()
    }

    /// Header, index and payload.
    pub fn into_parts(self) -> (Header, u8, Bytes) {
        (self.header, self.index, self.payload)
    }
}

impl From<VerifiedShard> for Shard {
    fn from(
        VerifiedShard {
            header,
            index,
            payload,
        }: VerifiedShard,
    ) -> Self {
        Self {
            header,
            index,
            payload,
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; HASH_LEN] {
    Sha256::digest(bytes).into()
}
