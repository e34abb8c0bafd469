//! From a block to the shards of a stripe, and back.
//!
//! Data shards are slices of the block and the block is read as the data shards it is made of: bytes are
//! copied only to pad the tail. Whatever is computed from other shards is checked against its hash before it
//! leaves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::galois::{combinations, combine, generator};
use crate::header::MAX_SHARD_LEN;
use crate::shard::sha256;
use crate::{Code, CodeError, GroupError, HASH_LEN, Header, Policy, Shard, StripeId, VerifiedShard};

/// Why a block was not coded. Nothing was made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// The code is out of bounds.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A group of the policy is smaller than the stripe.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// There is nothing to code. (An empty file lives in its manifest.)
    #[error("an empty block has no stripe")]
    Empty,
    /// The shards would be longer than [`MAX_SHARD_LEN`].
    #[error("a block of {len} bytes is too long for {code}, which takes {max}")]
    TooLong {
        /// Bytes of the block.
        len: usize,
        /// The code asked for.
        code: Code,
        /// Longest block that the code takes.
        max: usize,
    },
}

/// Why shards did not give what was wanted. The shards given stay as valid as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// More shards of this stripe are needed.
    #[error("{needed} shards are needed, {distinct} are at hand")]
    TooFew {
        /// Shards needed, k; 1 when there was no shard to tell k from.
        needed: u8,
        /// Distinct indices at hand.
        distinct: u8,
    },
    /// The shards do not belong together: the caller mixed them up.
    #[error("shards of the stripes {0} and {1} were mixed")]
    MixedStripes(StripeId, StripeId),
    /// The stripe has no shard with an index that was wanted.
    #[error("the stripe has {n} shards, none with index {index}")]
    NoSuchIndex {
        /// Index wanted.
        index: u8,
        /// Shards of the stripe.
        n: u8,
    },
    /// A rebuilt shard does not match its hash: its writer made the stripe from hashes that do not belong
    /// together. No retry helps, and other shards may give other answers.
    #[error("stripe {stripe} is inconsistent: shard {index} rebuilt from others does not match its hash")]
    Inconsistent {
        /// The stripe.
        stripe: StripeId,
        /// Index of the rebuilt shard.
        index: u8,
    },
}

/// Codes a block of at most k MiB into the n shards of a stripe, by index.
///
/// `anchor` is all zero when the stripe is placed by its own id; `owner` is the key whose signature may
/// delete it.
#[expect(clippy::needless_pass_by_value, reason = "the block becomes the data shards")]
pub fn encode(
    code: Code,
    policy: Policy,
    anchor: [u8; HASH_LEN],
    owner: [u8; HASH_LEN],
    block: Bytes,
) -> Result<Vec<VerifiedShard>, EncodeError> {
    let code = code.check()?;
    let policy = policy.check(code)?;
    let k = usize::from(code.k());
    let max = k * MAX_SHARD_LEN;
    let block_len = match u32::try_from(block.len()) {
        Ok(0) => return Err(EncodeError::Empty),
        Ok(len) if block.len() <= max => len,
        Ok(_) | Err(_) => {
            return Err(EncodeError::TooLong {
                len: block.len(),
                code,
                max,
            });
        }
    };
    let len = block.len().div_ceil(k);
    let mut payloads: Vec<Bytes> = (0..k).map(|index| data_shard(&block, index, len)).collect();
    let hashes = if let [copy] = payloads.as_slice() {
        let (copy, hash) = (copy.clone(), sha256(copy));
        payloads.resize(usize::from(code.n()), copy);
        vec![hash; payloads.len()]
    } else {
        let parity = combine(&generator(code).split_off(k), &slices(&payloads), len);
        payloads.extend(parity.into_iter().map(Bytes::from));
        payloads.iter().map(|payload| sha256(payload)).collect()
    };
    let header = Header::new(code, policy, anchor, block_len, owner, &hashes);
    let shard = |(index, payload)| VerifiedShard::trusted(header.clone(), index, payload);
    Ok((0..code.n()).zip(payloads).map(shard).collect())
}

/// The block that k or more shards of one stripe make, in consecutive chunks of at least one byte. A chunk
/// whose data shard is among them is that shard's payload, not a copy.
pub fn decode(shards: &[VerifiedShard]) -> Result<Vec<Bytes>, DecodeError> {
    let (k, mut left) = shards.first().map_or((0, 0), |shard| {
        let header = shard.header();
        (
            header.code().k(),
            usize::try_from(header.block_len()).unwrap_or(usize::MAX),
        )
    });
    let data: Vec<u8> = (0..k).collect();
    let mut chunks = Vec::with_capacity(data.len());
    for shard in reconstruct(shards, &data)? {
        let (_, _, mut chunk) = shard.into_parts();
        chunk.truncate(left);
        left -= chunk.len();
        if !chunk.is_empty() {
            chunks.push(chunk);
        }
    }
    Ok(chunks)
}

/// The wanted shards, in the order wanted: those that are at hand as they are, the others rebuilt from k
/// shards of the stripe and verified.
pub fn reconstruct(shards: &[VerifiedShard], wanted: &[u8]) -> Result<Vec<VerifiedShard>, DecodeError> {
    let header = shards
        .first()
        .ok_or(DecodeError::TooFew {
            needed: 1,
            distinct: 0,
        })?
        .header();
    let code = header.code();
    if let Some(other) = shards.iter().find(|shard| shard.stripe() != header.id()) {
        return Err(DecodeError::MixedStripes(header.id(), other.stripe()));
    }
    if let Some(&index) = wanted.iter().find(|&&index| index >= code.n()) {
        return Err(DecodeError::NoSuchIndex { index, n: code.n() });
    }
    let mut at_hand: BTreeMap<u8, VerifiedShard> = shards
        .iter()
        .map(|shard| (shard.index(), shard.clone()))
        .collect();
    let missing: BTreeSet<u8> = wanted
        .iter()
        .copied()
        .filter(|index| !at_hand.contains_key(index))
        .collect();
    if !missing.is_empty() {
        let given: Vec<&VerifiedShard> = at_hand.values().take(usize::from(code.k())).collect();
        let rebuilt = rebuild(header, &given, &missing)?;
        at_hand.extend(rebuilt.into_iter().map(|shard| (shard.index(), shard)));
    }
    Ok(wanted
        .iter()
        .filter_map(|index| at_hand.get(index))
        .cloned()
        .collect())
}

/// Rebuilds `missing` from k distinct shards.
fn rebuild(
    header: &Header,
    given: &[&VerifiedShard],
    missing: &BTreeSet<u8>,
) -> Result<Vec<VerifiedShard>, DecodeError> {
    let code = header.code();
    if given.len() < usize::from(code.k()) {
        let distinct = u8::try_from(given.len()).unwrap_or(u8::MAX);
        return Err(DecodeError::TooFew {
            needed: code.k(),
            distinct,
        });
    }
    let inconsistent = |index| DecodeError::Inconsistent {
        stripe: header.id(),
        index,
    };
    if let [copy] = given {
        // Every shard is the block: equal hashes need no hashing.
        let clone = |&index: &u8| {
            let equal = header.hash(index) == header.hash(copy.index());
            let shard = VerifiedShard::trusted(header.clone(), index, copy.payload().clone());
            equal.then_some(shard).ok_or(inconsistent(index))
        };
        return missing.iter().map(clone).collect();
    }
    let generator = generator(code);
    let row = |index: u8| generator.get(usize::from(index)).cloned();
    let wanted: Vec<_> = missing.iter().filter_map(|&index| row(index)).collect();
    let rows = combinations(
        given.iter().filter_map(|shard| row(shard.index())).collect(),
        &wanted,
    );
    let inputs: Vec<&[u8]> = given.iter().map(|shard| shard.payload().as_ref()).collect();
    let verify = |(&index, payload)| {
        let shard = Shard {
            header: header.clone(),
            index,
            payload: Bytes::from(payload),
        };
        shard.verify().map_err(|_| inconsistent(index))
    };
    missing
        .iter()
        .zip(combine(&rows, &inputs, header.shard_len()))
        .map(verify)
        .collect()
}

/// Bytes [iL, (i+1)L) of the block, padded with zeros beyond its end.
fn data_shard(block: &Bytes, index: usize, len: usize) -> Bytes {
    let start = (index * len).min(block.len());
    let end = (start + len).min(block.len());
    let slice = block.slice(start..end);
    if slice.len() == len {
        return slice;
    }
    let mut padded = BytesMut::with_capacity(len);
    padded.extend_from_slice(&slice);
    padded.resize(len, 0);
    padded.freeze()
}

fn slices(payloads: &[Bytes]) -> Vec<&[u8]> {
    payloads.iter().map(AsRef::as_ref).collect()
}

#[cfg(test)]
mod tests;
