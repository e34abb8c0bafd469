//! Locators: where the shards of a stripe were when it was written, for policies whose holders the stripe's
//! id does not tell.
//!
//! A locator is the stripe's header, which proves itself by its hash, and a list of (index u8, peer 32), 33
//! bytes each, by index. It is kept like a shard, under the index
//! [`LOCATOR`](mutualstore_dht::custody::LOCATOR), with the first r peers from the stripe's id.
//!
//! The list proves nothing and is a hint: whoever reads asks those it names and verifies what they give.

use bytes::{BufMut, Bytes, BytesMut};
use mutualstore_dht::{Id, Peer};
use mutualstore_erasure::{Header, Policy};

/// Bytes of one holder.
const HOLDER: usize = 33;
/// Holders named at most: while shards move some have two.
const MAX_HOLDERS: usize = 128;

/// The locator of one stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    header: Header,
    holders: Vec<(u8, Peer)>,
}

impl Locator {
    /// The locator of the stripe with this header; of too many holders the first. None for a policy that
    /// needs none.
    pub fn new(header: Header, mut holders: Vec<(u8, Peer)>) -> Option<Self> {
        holders.retain(|(index, _)| *index < header.code().n());
        holders.sort_unstable();
        holders.dedup();
        holders.truncate(MAX_HOLDERS);
        (header.policy() != Policy::Successors).then_some(Self { header, holders })
    }

    /// What [`Locator::payload`] wrote, for the stripe with this header.
    pub fn parse(header: Header, payload: &[u8]) -> Option<Self> {
        let holders = parse_holders(payload)?;
        let locator = Self::new(header, holders)?;
        (locator.payload() == payload).then_some(locator)
    }

    /// The stripe.
    pub fn stripe(&self) -> Id {
        Id::new(*self.header.id().as_bytes())
    }

    /// The stripe's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Who held what.
    pub fn holders(&self) -> &[(u8, Peer)] {
        &self.holders
    }

    /// The list as bytes.
    pub fn payload(&self) -> Bytes {
        write_holders(&self.holders)
    }
}

/// A list of holders as bytes.
pub fn write_holders(holders: &[(u8, Peer)]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(holders.len() * HOLDER);
    for (index, peer) in holders {
        bytes.put_u8(*index);
        bytes.put_slice(peer.as_bytes());
    }
    bytes.freeze()
}

/// Reads what [`write_holders`] wrote.
pub fn parse_holders(bytes: &[u8]) -> Option<Vec<(u8, Peer)>> {
    let (holders, rest) = bytes.as_chunks::<HOLDER>();
    let holder = |[index, peer @ ..]: &[u8; HOLDER]| (*index, Peer::new(*peer));
    (rest.is_empty() && holders.len() <= MAX_HOLDERS).then(|| holders.iter().map(holder).collect())
}

#[cfg(test)]
mod tests {
    use mutualstore_erasure::{Code, encode};
    use proptest::prelude::*;

    use super::*;

    fn header(policy: Policy) -> Header {
        let block = Bytes::from_static(b"block");
        let shards = encode(Code::Copies(3), policy, [0; 32], [1; 32], block).unwrap();
        shards[0].header().clone()
    }

    #[test]
    fn a_locator_survives_and_has_one_form() {
        let peer = |number| Peer::new([number; 32]);
        let holders = vec![
            (2, peer(1)),
            (0, peer(2)),
            (0, peer(1)),
            (2, peer(1)),
            (3, peer(4)),
        ];
        let locator = Locator::new(header(Policy::Random), holders).unwrap();
        assert_eq!(locator.holders(), [(0, peer(1)), (0, peer(2)), (2, peer(1))]);
        let bytes = locator.payload();
        assert_eq!(Locator::parse(header(Policy::Random), &bytes), Some(locator));
        assert_eq!(Locator::parse(header(Policy::Random), &bytes[1..]), None);
        let turned = [&bytes[33..], &bytes[..33]].concat();
        assert_eq!(Locator::parse(header(Policy::Random), &turned), None);
        assert_eq!(Locator::parse(header(Policy::Successors), &bytes), None);
        assert_eq!(Locator::parse(header(Policy::Random), &vec![0; 129 * 33]), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_is_written(bytes: Vec<u8>) {
            if let Some(locator) = Locator::parse(header(Policy::Copysets), &bytes) {
                prop_assert_eq!(locator.payload(), bytes);
            }
        }
    }
}
