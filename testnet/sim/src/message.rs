//! What hosts send each other.

use std::hash::Hasher;

use mutualstore_dht::{Contact, Id, custody, ring};

use super::disk::is_shard;
use super::records;
use super::world::Who;
use super::writer::{self, Ask};

/// What a message says. The number of its kind is part of the trace.
#[derive(Clone, Debug, strum::EnumDiscriminants)]
#[strum_discriminants(vis(pub(super)), name(Kind))]
pub(crate) enum Body {
    RingRequest(ring::RequestId, ring::Request),
    RingResponse(ring::RequestId, ring::Response),
    RingFailure(ring::RequestId),
    CustodyRequest(custody::RequestId, custody::Request),
    CustodyResponse(custody::RequestId, custody::Response),
    CustodyFailure(custody::RequestId),
    Hello { contact: Contact, answer: bool },
    Disconnect,
    Writer(writer::Message),
    Records(records::Message),
}

/// From one life of a host to another host.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) from: Who,
    pub(super) from_life: u32,
    pub(super) to: Who,
    /// Answers belong to one life of whom they are for.
    pub(super) to_life: Option<u32>,
    pub(crate) body: Body,
}

impl Message {
    /// The index of the stripe that it brings.
    pub(super) fn shard_of(&self, id: Id) -> Option<u8> {
        let Body::Writer(writer::Message::Request { stripe, ask, .. }) = &self.body else {
            return None;
        };
        match ask {
            Ask::Store(index) if *stripe == id && is_shard(*index) => Some(*index),
            Ask::Store(_) | Ask::Commit => None,
        }
    }
}

/// Peers of the simulator are random numbers: a part of one is a good hash of it.
#[derive(Default)]
pub(super) struct PeerHasher(u64);

impl Hasher for PeerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
}
