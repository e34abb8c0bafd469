//! The canonical description of a stripe, and the identifier that is its hash.
//!
//! Version 1, in this order, integers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind, 0 = immutable; all others are reserved |
//! | 3 | code number, k, m, as [`Code::to_wire`] |
//! | 1 | placement policy, as [`Policy::to_wire`] |
//! | 32 | anchor, 0 = the stripe id |
//! | 4 | block length in bytes, 1 to k MiB |
//! | 32 | owner key |
//! | n × 32 | SHA-256 of each shard, by index |
//!
//! `StripeId = SHA-256("mutualstore/stripe/1" ‖ header)`. Data shard i is bytes [iL, (i+1)L) of the block,
//! L = ceil(block length / k), padded with zeros; parity shards have length L too.
//!
//! Invariant: one header has one encoding; any other bytes are refused, trailing ones included.
//!
//! Deliberately absent: whether the owner key is a point on its curve, and whether the hashes are those of
//! one code word (only rebuilding tells).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::code::MAX_SHARDS;
use crate::policy::{GroupError, Policy, PolicyError};
use crate::{Code, CodeError, HASH_LEN};

/// Longest shard payload in bytes.
pub const MAX_SHARD_LEN: usize = 1024 * 1024;

/// Longest encoded header in bytes, for limits before allocation.
pub const MAX_HEADER_LEN: usize = FIXED_LEN + MAX_SHARDS as usize * HASH_LEN;

/// Bytes before the hashes.
const FIXED_LEN: usize = 6 + HASH_LEN + 4 + HASH_LEN;

const VERSION: u8 = 1;
const IMMUTABLE: u8 = 0;
const ID_DOMAIN: &[u8] = b"mutualstore/stripe/1";

/// The identifier of a stripe: SHA-256 of its header under a domain of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StripeId([u8; HASH_LEN]);

impl StripeId {
    /// The 32 bytes; on the circle of identifiers they are one big-endian integer.
    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }
}

impl From<[u8; HASH_LEN]> for StripeId {
    fn from(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for StripeId {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StripeId {
    /// The first 8 hexadecimal digits: enough to tell stripes apart in a trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stripe id is 64 hexadecimal digits")]
pub struct StripeIdError;

impl FromStr for StripeId {
    type Err = StripeIdError;

    /// 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, StripeIdError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != HASH_LEN || !rest.is_empty() {
            return Err(StripeIdError);
        }
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        let mut bytes = [0; HASH_LEN];
        for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
            let (high, low) = digit(high).zip(digit(low)).ok_or(StripeIdError)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// Why bytes are not a header. Nothing was kept of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Written by a version this one does not read.
    #[error("stripe header of version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// A kind of stripe reserved for later versions.
    #[error("stripe of reserved kind {0}; this program knows immutable stripes only")]
    ReservedKind(u8),
    /// The code is unknown or out of bounds.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The placement policy is unknown.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A group of the policy is smaller than the stripe.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A stripe of nothing.
    #[error("stripe of an empty block")]
    EmptyBlock,
    /// The shards would be longer than [`MAX_SHARD_LEN`].
    #[error("a block of {block_len} bytes makes {code} shards longer than {MAX_SHARD_LEN} bytes")]
    ShardsTooLong {
        /// Bytes of the block.
        block_len: u32,
        /// Code of the stripe.
        code: Code,
    },
    /// Cut short, or with bytes after the end.
    #[error("stripe header of {found} bytes where {expected} belong")]
    Length {
        /// Bytes at hand.
        found: usize,
        /// Bytes of a header with this code, or of the part before the hashes if the code was not reached.
        expected: usize,
    },
}

/// The header of a stripe: well formed and within bounds. Clones share it.
#[derive(Clone)]
pub struct Header(Arc<Fields>);

struct Fields {
    /// The canonical encoding; the hashes are read from it.
    bytes: Bytes,
    id: StripeId,
    code: Code,
    policy: Policy,
    anchor: [u8; HASH_LEN],
    block_len: u32,
    owner: [u8; HASH_LEN],
}

impl Header {
    /// The header of an immutable stripe, for a code within bounds, a policy whose groups hold it, a block
    /// that it takes and the SHA-256 of each of its n shards, by index.
    pub(crate) fn new(
        code: Code,
        policy: Policy,
        anchor: [u8; HASH_LEN],
        block_len: u32,
        owner: [u8; HASH_LEN],
        hashes: &[[u8; HASH_LEN]],
    ) -> Self {
        let mut bytes = Vec::with_capacity(FIXED_LEN + hashes.len() * HASH_LEN);
        bytes.extend([VERSION, IMMUTABLE]);
        bytes.extend(code.to_wire());
        bytes.push(policy.to_wire());
        bytes.extend(anchor);
        bytes.extend(block_len.to_be_bytes());
        bytes.extend(owner);
        bytes.extend(hashes.as_flattened());
        Self::decode(&bytes).expect("the caller checked code, policy, block length and number of hashes")
    }

    /// Reads a header, which must be all of `bytes`. They are copied.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let cut = || HeaderError::Length {
            found: bytes.len(),
            expected: FIXED_LEN,
        };
        let (&[version, kind], rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if kind != IMMUTABLE {
            return Err(HeaderError::ReservedKind(kind));
        }
        let (&code, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (&[policy], rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (&anchor, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (&block_len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (&owner, hashes) = rest.split_first_chunk().ok_or_else(cut)?;

        let code = Code::from_wire(code)?;
        let policy = Policy::from_wire(policy)?.check(code)?;
        let block_len = u32::from_be_bytes(block_len);
        if block_len == 0 {
            return Err(HeaderError::EmptyBlock);
        }
        if shard_len(code, block_len) > MAX_SHARD_LEN {
            return Err(HeaderError::ShardsTooLong { block_len, code });
        }
        let hashes_len = usize::from(code.n()) * HASH_LEN;
        if hashes.len() != hashes_len {
            return Err(HeaderError::Length {
                found: bytes.len(),
                expected: FIXED_LEN + hashes_len,
            });
        }
        let id = StripeId(
            Sha256::new()
                .chain_update(ID_DOMAIN)
                .chain_update(bytes)
                .finalize()
                .into(),
        );
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(Self(Arc::new(Fields {
            bytes,
            id,
            code,
            policy,
            anchor,
            block_len,
            owner,
        })))
    }

    /// The canonical encoding, at most [`MAX_HEADER_LEN`] bytes; not copied.
    pub fn encode(&self) -> Bytes {
        self.0.bytes.clone()
    }

    /// The identifier of the stripe.
    pub fn id(&self) -> StripeId {
        self.0.id
    }

    /// The code of the stripe.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// How its holders are chosen.
    pub fn policy(&self) -> Policy {
        self.0.policy
    }

    /// What the policy places the stripe by when it is not the stripe id; all zero when it is.
    pub fn anchor(&self) -> &[u8; HASH_LEN] {
        &self.0.anchor
    }

    /// Bytes of the block, at least 1.
    pub fn block_len(&self) -> u32 {
        self.0.block_len
    }

    /// The key (ed25519) whose signature may delete the stripe.
    pub fn owner(&self) -> &[u8; HASH_LEN] {
        &self.0.owner
    }

    /// SHA-256 of a shard's payload; none if there is no shard with this index.
    pub fn hash(&self, index: u8) -> Option<&[u8; HASH_LEN]> {
        let (hashes, _) = self.0.bytes.get(FIXED_LEN..)?.as_chunks();
        hashes.get(usize::from(index))
    }

    /// Bytes of every shard's payload, 1 to [`MAX_SHARD_LEN`].
    pub fn shard_len(&self) -> usize {
        shard_len(self.0.code, self.0.block_len)
    }
}

/// L = ceil(block length / k) in bytes, for a code within bounds.
fn shard_len(code: Code, block_len: u32) -> usize {
    // A u32 fits a usize wherever a block of that size fits memory.
    usize::try_from(block_len.div_ceil(u32::from(code.k()))).unwrap_or(usize::MAX)
}

impl PartialEq for Header {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Header {}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("id", &self.0.id)
            .field("code", &self.0.code)
            .field("policy", &self.0.policy)
            .field("block_len", &self.0.block_len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
