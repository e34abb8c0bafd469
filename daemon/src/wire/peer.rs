//! Requests and answers on the RPC stream.

use bytes::Bytes;
use mutualstore_dht::records::{Publish, RecordSet};
use mutualstore_dht::{Id, Peer, custody, ring};
use mutualstore_proto::wire;
use prost::Message;
use sha2::{Digest, Sha256};

use super::contact::{id, index, peer, wire_id, wire_peer};
use super::record::{self as wire_record, Given};
use super::signed::Verifier;
use super::{Malformed, custody as wire_custody, ring as wire_ring};
use crate::format::crypt::SIGNATURE;

/// One request names at most this many stripes.
pub const MAX_STRIPES: usize = 2048;
/// One request deletes at most this many stripes: each costs the receiver two writes.
pub const MAX_TOMBSTONES: usize = 256;
/// One request brings at most this many locators, of up to some 6 KiB each.
pub const MAX_LOCATORS: usize = 1024;
/// A survey names at most this many peers.
const MAX_SURVEY: usize = 65_536;

/// What one holder is given for the shards of one put: who knows it may commit, renew and discard them there.
pub type Token = [u8; 16];

/// The token of shards that belong to no put: nobody commits, renews or discards by it.
pub const NO_TOKEN: Token = [0; 16];

/// Drawn by a writer for one put and told to nobody. Each holder gets a token of its own made from it, so
/// that no holder can discard what others hold.
#[derive(Clone, Copy)]
pub struct PutSecret(pub [u8; 16]);

impl PutSecret {
    /// The first 16 bytes of SHA-256("mutualstore/put-token/1" ‖ secret ‖ public key of the holder).
    pub fn token(&self, holder: Peer) -> Token {
        let mut hash = Sha256::new();
        hash.update(b"mutualstore/put-token/1");
        hash.update(self.0);
        hash.update(holder.as_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        hash.first_chunk().copied().unwrap_or(NO_TOKEN)
    }
}

/// What one daemon asks another.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerRequest {
    /// A question of the ring.
    Ring(ring::Request),
    /// A question of custody.
    Custody(custody::Request),
    /// Make pending shards permanent. Answered by [`PeerResponse::Done`] once durable.
    Commit(Token, Vec<Id>),
    /// Drop the shards of a put that was given up. Answered by [`PeerResponse::Done`].
    Discard(Token, Vec<Id>),
    /// Extend the lease of pending shards to so many milliseconds from now.
    Renew(Token, Vec<Id>, u64),
    /// Delete stripes. Answered by [`PeerResponse::Done`] once durable.
    Tombstones(Vec<WireTombstone>),
    /// Keep locators, pending for so many milliseconds, or committed at 0. Answered by [`PeerResponse::Done`]
    /// once durable.
    Locate(Token, u64, Vec<WireLocator>),
    /// What do you hold of these stripes? Answered by [`PeerResponse::Holdings`].
    Holdings(Vec<Id>),
    /// Walk the ring. Answered by [`PeerResponse::Survey`].
    Survey,
    /// What is there to rebuild? Answered by [`PeerResponse::Mending`].
    Mending,
    /// Rebuild what is missing now, and do not wait for this peer any longer unless it answers. Answered by
    /// [`PeerResponse::Mending`].
    Mend(Option<Peer>),
    /// How do I look from there? Answered by [`PeerResponse::Probed`].
    Probe,
    /// Keep a record, not verified yet. Answered by [`PeerResponse::Taken`] once durable.
    TakeRecord(Bytes),
    /// What do you have of a key beyond this? Answered by [`PeerResponse::Given`].
    ReadRecords(Id, RecordSet),
}

/// What a peer has to rebuild and has rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mending {
    /// Stripes that wait for it or are being repaired.
    pub pending: u64,
    /// Shards since its start.
    pub regenerated: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The tombstone of a stripe, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireTombstone {
    /// The stripe.
    pub stripe: Id,
    /// Its canonical header; empty where the receiver holds a shard of it.
    pub header: Bytes,
    /// The owner's signature, 64 bytes.
    pub signature: Bytes,
}

/// A locator, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireLocator {
    /// Canonical stripe header.
    pub header: Bytes,
    /// As [`Locator::payload`](crate::format::locator::Locator::payload).
    pub holders: Bytes,
}

/// The answer to a [`PeerRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum PeerResponse {
    /// To a question of the ring.
    Ring(ring::Response),
    /// To a question of custody.
    Custody(custody::Response),
    /// For each stripe named, whether the receiver holds a shard of it under that token, or its tombstone
    /// now.
    Done(Vec<bool>),
    /// One for each stripe asked, in order.
    Holdings(Vec<StripeHoldings>),
    /// Peers that answered the walk, in ring order, and how many virtual nodes they have.
    Survey(Vec<Peer>, u32),
    /// What is to be rebuilt, and was.
    Mending(Mending),
    /// The clock there, in Unix milliseconds, and whether a new connection to the asker was taken.
    Probed {
        /// The clock.
        unix_ms: u64,
        /// Whether it was taken.
        reached: bool,
    },
    /// What became of a record.
    Taken(Publish),
    /// Records, as far as they fit.
    Given(Given),
    /// Not now, for the reason given.
    Refused(String),
}

/// What a peer holds and knows of one stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StripeHoldings {
    /// Indices held by the peer itself, and whether they are pending.
    pub held: Vec<(u8, bool)>,
    /// Where it is the stripe's primary: holders it has on record, also those that do not answer now.
    pub known: Vec<(u8, Peer)>,
}

fn ids(list: &[Bytes]) -> Result<Vec<Id>, Malformed> {
    if list.len() > MAX_STRIPES {
        return Err(Malformed("too many stripes in one request"));
    }
    list.iter().map(id).collect()
}

fn token(bytes: &Bytes) -> Result<Token, Malformed> {
    bytes
        .as_ref()
        .try_into()
        .map_err(|_| Malformed("a put token has 16 bytes"))
}

fn wire_ids(ids: &[Id]) -> Vec<Bytes> {
    ids.iter()
        .map(|id| Bytes::copy_from_slice(id.as_bytes()))
        .collect()
}

fn wire_token(token: &Token) -> Bytes {
    Bytes::copy_from_slice(token)
}

impl PeerRequest {
    /// The message as bytes.
    pub fn encode(&self) -> Bytes {
        use wire::node_request::Kind;
        let kind = match self {
            Self::Ring(request) => Kind::Ring(wire_ring::wire_request(request)),
            Self::Custody(request) => Kind::Custody(wire_custody::wire_request(request)),
            Self::Commit(token, stripes) => Kind::Commit(wire::Commit {
                token: wire_token(token),
                stripes: wire_ids(stripes),
            }),
            Self::Discard(token, stripes) => Kind::Discard(wire::Discard {
                token: wire_token(token),
                stripes: wire_ids(stripes),
            }),
            Self::Renew(token, stripes, lease_ms) => Kind::Renew(wire::Renew {
                token: wire_token(token),
                stripes: wire_ids(stripes),
                lease_ms: *lease_ms,
            }),
            Self::Tombstones(tombstones) => Kind::Bury(wire::Bury {
                burials: tombstones.iter().map(WireTombstone::to_wire).collect(),
            }),
            Self::Locate(token, lease_ms, locators) => Kind::Locate(wire::Locate {
                token: wire_token(token),
                lease_ms: *lease_ms,
                locators: locators.iter().map(WireLocator::to_wire).collect(),
            }),
            Self::Holdings(stripes) => Kind::Holdings(wire::Holdings {
                stripes: wire_ids(stripes),
            }),
            Self::Survey => Kind::Survey(wire::Survey {}),
            Self::Mending => Kind::Mend(wire::Mend::default()),
            Self::Mend(gone) => Kind::Mend(wire::Mend {
                gone: gone.as_ref().map(wire_peer).unwrap_or_default(),
                now: true,
            }),
            Self::Probe => Kind::Probe(wire::Probe {}),
            Self::TakeRecord(record) => Kind::TakeRecord(wire::TakeRecord {
                record: record.clone(),
            }),
            Self::ReadRecords(id, have) => Kind::ReadRecords(wire::ReadRecords {
                id: wire_id(id),
                have: wire_record::wire_stamps(have.stamps()),
                ended: have.is_ended(),
            }),
        };
        wire::NodeRequest { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Parses and validates.
    pub fn decode(bytes: Bytes, verifier: &Verifier) -> Result<Self, Malformed> {
        use wire::node_request::Kind;
        let kind = wire::NodeRequest::decode(bytes)?
            .kind
            .ok_or(Malformed("a request of no known kind"))?;
        Ok(match kind {
            Kind::Ring(request) => Self::Ring(wire_ring::request(request, verifier)?),
            Kind::Custody(request) => Self::Custody(wire_custody::request(request)?),
            Kind::Commit(m) => Self::Commit(token(&m.token)?, ids(&m.stripes)?),
            Kind::Discard(m) => Self::Discard(token(&m.token)?, ids(&m.stripes)?),
            Kind::Renew(m) => Self::Renew(token(&m.token)?, ids(&m.stripes)?, m.lease_ms),
            Kind::Bury(m) if m.burials.len() > MAX_TOMBSTONES => {
                return Err(Malformed("too many tombstones in one request"));
            }
            Kind::Bury(m) => Self::Tombstones(
                m.burials
                    .iter()
                    .map(WireTombstone::from_wire)
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Locate(m) if m.locators.len() > MAX_LOCATORS => {
                return Err(Malformed("too many locators in one request"));
            }
            Kind::Locate(m) => Self::Locate(
                token(&m.token)?,
                m.lease_ms,
                m.locators.into_iter().map(WireLocator::from_wire).collect(),
            ),
            Kind::Holdings(m) => Self::Holdings(ids(&m.stripes)?),
            Kind::Survey(wire::Survey {}) => Self::Survey,
            Kind::Mend(m) if !m.now => Self::Mending,
            Kind::Mend(m) if m.gone.is_empty() => Self::Mend(None),
            Kind::Mend(m) => Self::Mend(Some(peer(&m.gone)?)),
            Kind::Probe(wire::Probe {}) => Self::Probe,
            Kind::TakeRecord(m) => Self::TakeRecord(wire_record::record(m.record)?),
            Kind::ReadRecords(m) => Self::ReadRecords(id(&m.id)?, wire_record::set(&m.have, m.ended)?),
        })
    }
}

impl PeerResponse {
    /// The message as bytes.
    pub fn encode(&self) -> Bytes {
        use wire::node_response::Kind;
        let kind = match self {
            Self::Ring(response) => Kind::Ring(wire_ring::wire_response(response)),
            Self::Custody(response) => Kind::Custody(wire_custody::wire_response(response)),
            Self::Done(held) => Kind::Done(wire::Done { held: held.clone() }),
            Self::Holdings(stripes) => Kind::Holdings(wire::HoldingsAnswer {
                stripes: stripes.iter().map(StripeHoldings::to_wire).collect(),
            }),
            Self::Survey(peers, virtual_nodes) => Kind::Survey(wire::SurveyAnswer {
                peers: peers.iter().map(wire_peer).collect(),
                virtual_nodes: *virtual_nodes,
            }),
            Self::Mending(mending) => Kind::Mending(wire::Mending {
                pending: mending.pending,
                regenerated_total: mending.regenerated,
                bytes_total: mending.bytes,
            }),
            Self::Probed { unix_ms, reached } => Kind::Probed(wire::Probed {
                unix_ms: *unix_ms,
                reached: *reached,
            }),
            Self::Taken(answer) => Kind::RecordTaken(wire_record::wire_taken(answer)),
            Self::Given(given) => Kind::RecordsGiven(wire_record::wire_given(given)),
            Self::Refused(reason) => Kind::Declined(wire::Declined {
                reason: reason.clone(),
            }),
        };
        wire::NodeResponse { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Parses and validates.
    pub fn decode(bytes: Bytes, verifier: &Verifier) -> Result<Self, Malformed> {
        use wire::node_response::Kind;
        let kind = wire::NodeResponse::decode(bytes)?
            .kind
            .ok_or(Malformed("an answer of no known kind"))?;
        Ok(match kind {
            Kind::Ring(response) => Self::Ring(wire_ring::response(response, verifier)?),
            Kind::Custody(response) => Self::Custody(wire_custody::response(response)?),
            Kind::Done(m) if m.held.len() <= MAX_STRIPES => Self::Done(m.held),
            Kind::Holdings(m) if m.stripes.len() <= MAX_STRIPES => Self::Holdings(
                m.stripes
                    .iter()
                    .map(StripeHoldings::from_wire)
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Done(_) | Kind::Holdings(_) => {
                return Err(Malformed("more answers than stripes can be asked"));
            }
            Kind::Survey(m) if m.peers.len() <= MAX_SURVEY => Self::Survey(
                m.peers.iter().map(peer).collect::<Result<_, _>>()?,
                m.virtual_nodes,
            ),
            Kind::Survey(_) => return Err(Malformed("too many peers")),
            Kind::Mending(m) => Self::Mending(Mending {
                pending: m.pending,
                regenerated: m.regenerated_total,
                bytes: m.bytes_total,
            }),
            Kind::Probed(m) => Self::Probed {
                unix_ms: m.unix_ms,
                reached: m.reached,
            },
            Kind::RecordTaken(m) => Self::Taken(wire_record::taken(&m)?),
            Kind::RecordsGiven(m) => Self::Given(wire_record::given(m)?),
            Kind::Declined(m) => Self::Refused(m.reason),
        })
    }
}

impl WireTombstone {
    fn to_wire(&self) -> wire::Burial {
        wire::Burial {
            stripe: wire_id(&self.stripe),
            header: self.header.clone(),
            signature: self.signature.clone(),
        }
    }

    fn from_wire(message: &wire::Burial) -> Result<Self, Malformed> {
        if message.signature.len() != SIGNATURE {
            return Err(Malformed("a signature has 64 bytes"));
        }
        Ok(Self {
            stripe: id(&message.stripe)?,
            header: message.header.clone(),
            signature: message.signature.clone(),
        })
    }
}

impl WireLocator {
    fn to_wire(&self) -> wire::Locator {
        wire::Locator {
            header: self.header.clone(),
            holders: self.holders.clone(),
        }
    }

    fn from_wire(message: wire::Locator) -> Self {
        Self {
            header: message.header,
            holders: message.holders,
        }
    }
}

impl StripeHoldings {
    fn to_wire(&self) -> wire::StripeHoldings {
        let held = |(index, pending): &(u8, bool)| wire::HeldShard {
            index: u32::from(*index),
            pending: *pending,
        };
        let known = |(index, peer): &(u8, Peer)| wire::KnownShard {
            index: u32::from(*index),
            peer: wire_peer(peer),
        };
        wire::StripeHoldings {
            held: self.held.iter().map(held).collect(),
            known: self.known.iter().map(known).collect(),
        }
    }

    fn from_wire(message: &wire::StripeHoldings) -> Result<Self, Malformed> {
        if message.held.len() > 256 || message.known.len() > 1024 {
            return Err(Malformed("more shards than a stripe has"));
        }
        Ok(Self {
            held: message
                .held
                .iter()
                .map(|h| Ok((index(h.index)?, h.pending)))
                .collect::<Result<_, Malformed>>()?,
            known: message
                .known
                .iter()
                .map(|k| Ok((index(k.index)?, peer(&k.peer)?)))
                .collect::<Result<_, Malformed>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_dht::records::Stamp;
    use proptest::prelude::*;

    fn verifier() -> Verifier {
        Verifier::new([1; 32])
    }

    fn some_records() -> RecordSet {
        let mut set = RecordSet::default();
        for writer in 1..3 {
            set.take(Stamp {
                writer,
                sequence: 7,
                hash: [8; 32],
            });
        }
        set
    }

    #[test]
    fn messages_survive_the_wire() {
        let stripes = vec![Id::new([1; 32]), Id::new([2; 32])];
        for request in [
            PeerRequest::Commit([7; 16], stripes.clone()),
            PeerRequest::Discard([7; 16], stripes.clone()),
            PeerRequest::Renew([7; 16], stripes.clone(), 60_000),
            PeerRequest::Holdings(stripes),
            PeerRequest::Survey,
            PeerRequest::Mending,
            PeerRequest::Mend(None),
            PeerRequest::Mend(Some(Peer::new([8; 32]))),
            PeerRequest::Probe,
            PeerRequest::TakeRecord(Bytes::from_static(b"record")),
            PeerRequest::ReadRecords(Id::new([1; 32]), some_records()),
            PeerRequest::Locate(
                [7; 16],
                9,
                vec![WireLocator {
                    header: Bytes::from_static(b"header"),
                    holders: Bytes::from_static(b"holders"),
                }],
            ),
            PeerRequest::Tombstones(vec![WireTombstone {
                stripe: Id::new([3; 32]),
                header: Bytes::from_static(b"header"),
                signature: vec![4; SIGNATURE].into(),
            }]),
        ] {
            assert_eq!(PeerRequest::decode(request.encode(), &verifier()), Ok(request));
        }
        let holdings = StripeHoldings {
            held: vec![(3, true)],
            known: vec![(4, Peer::new([9; 32]))],
        };
        for response in [
            PeerResponse::Done(vec![true, false]),
            PeerResponse::Holdings(vec![holdings, StripeHoldings::default()]),
            PeerResponse::Survey(vec![Peer::new([1; 32])], 8),
            PeerResponse::Mending(Mending {
                pending: 1,
                regenerated: 2,
                bytes: 3,
            }),
            PeerResponse::Probed {
                unix_ms: 5,
                reached: true,
            },
            PeerResponse::Taken(Publish::Stored),
            PeerResponse::Taken(Publish::Ended),
            PeerResponse::Taken(Publish::Silent),
            PeerResponse::Taken(Publish::Doubled(some_records().stamps().collect())),
            PeerResponse::Given(Given {
                records: vec![Bytes::from_static(b"record")],
                set: some_records(),
                clock_ms: 7,
            }),
            PeerResponse::Refused("leaving".into()),
        ] {
            assert_eq!(PeerResponse::decode(response.encode(), &verifier()), Ok(response));
        }
    }

    #[test]
    fn limits_are_kept() {
        let many = vec![Id::default(); MAX_STRIPES + 1];
        assert!(PeerRequest::decode(PeerRequest::Holdings(many).encode(), &verifier()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            // Whatever they are.
            drop(PeerRequest::decode(bytes.clone(), &verifier()));
            drop(PeerResponse::decode(bytes, &verifier()));
        }
    }
}
