//! Codes, stripes and verified shards: pure functions from blocks to shards and back.
//!
//! A *block* is coded into a *stripe* of n *shards*, any k of which bring it back. Every shard travels and
//! rests with the [`Header`] of its stripe, which holds the hashes of all n shards and whose own hash is the
//! [`StripeId`]; so any shard verifies alone, and any k rebuild *and verify* the rest.
//!
//! * [`Code`]: how many shards there are and how many are needed.
//! * [`Header`], [`StripeId`]: the canonical description of a stripe.
//! * [`Policy`]: how its holders are chosen, as far as its header says.
//! * [`Shard`] → [`VerifiedShard`]: from foreign bytes to bytes that belong to their stripe.
//! * [`encode`], [`decode`], [`reconstruct`]: between blocks and shards.
//!
//! Invariants: a [`Header`] is always well formed and within bounds; a [`VerifiedShard`] always matches its
//! header; nothing is decoded, rebuilt or returned that was not verified. The same input gives the same bytes
//! on every machine.
//!
//! Deliberately absent: input and output, time, threads, randomness, encryption (blocks are ciphertext
//! already), where shards are placed, signatures, and changing a stripe in place.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod code;
mod galois;
mod header;
mod policy;
mod shard;
mod stripe;

pub use code::{Code, CodeError, MAX_SHARDS};
pub use header::{Header, HeaderError, MAX_HEADER_LEN, MAX_SHARD_LEN, StripeId, StripeIdError};
pub use policy::{GroupError, GroupSize, MAX_GROUP, Policy, PolicyError};
pub use shard::{Shard, ShardError, VerifiedShard};
pub use stripe::{DecodeError, EncodeError, decode, encode, reconstruct};

/// Length of a SHA-256 digest in bytes.
pub const HASH_LEN: usize = 32;

/// Whether this processor can run the coder. On x86-64 its inner loops are compiled for Haswell without a
/// check of their own, so a program must ask before the first stripe, or it dies of an illegal instruction.
pub fn cpu_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    let supported = std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("movbe");
    #[cfg(not(target_arch = "x86_64"))]
    let supported = true;
    supported
}
