//! Heads of the frames on the shard streams.

use bytes::Bytes;
use mutualstore_dht::Id;
use mutualstore_proto::wire;
use prost::Message;

use super::Malformed;
use super::contact::{id, index, wire_id};
use super::peer::Token;

/// What is asked on a shard stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardRequest {
    /// Keep the shard in the payload.
    Store {
        /// Canonical stripe header.
        header: Bytes,
        /// Which shard of the stripe.
        index: u8,
        /// The put it belongs to.
        token: Token,
        /// Milliseconds until it expires unless committed; 0: committed at once.
        lease_ms: u64,
    },
    /// Send a shard.
    Fetch {
        /// Of which stripe.
        stripe: Id,
        /// Which one is wished for.
        want: u8,
        /// Whether another one of the same stripe is of no use.
        exact: bool,
    },
}

/// How a shard request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardStatus {
    /// Stored and flushed (or held already), or fetched.
    Ok,
    /// Nothing held of what was asked for.
    None,
    /// It was held but does not verify any more.
    Corrupt,
    /// The stripe was deleted by its owner.
    Deleted,
    /// No space, or leaving.
    Full,
    /// The shard does not match its header, or the request is malformed.
    Invalid,
    /// The disk failed.
    Failed,
}

/// The head of an answer; its payload is the fetched shard, the owner's signature under a deletion, or where
/// there is none who holds shards of the stripe, as in a locator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardResponse {
    /// How it went.
    pub status: ShardStatus,
    /// Canonical stripe header of a fetched shard or of a deleted stripe, else empty.
    pub header: Bytes,
    /// Index of a fetched or corrupt shard.
    pub index: u8,
    /// Why not, for people.
    pub reason: String,
}

impl ShardRequest {
    /// The head as bytes.
    pub fn encode(&self) -> Bytes {
        use wire::shard_request::Kind;
        let kind = match self {
            Self::Store {
                header,
                index,
                token,
                lease_ms,
            } => Kind::Store(wire::StoreShard {
                header: header.clone(),
                index: u32::from(*index),
                token: Bytes::copy_from_slice(token),
                lease_ms: *lease_ms,
            }),
            Self::Fetch { stripe, want, exact } => Kind::Fetch(wire::FetchShard {
                stripe: wire_id(stripe),
                want: u32::from(*want),
                exact: *exact,
            }),
        };
        wire::ShardRequest { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Parses and validates.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        use wire::shard_request::Kind;
        let kind = wire::ShardRequest::decode(bytes)?
            .kind
            .ok_or(Malformed("a request of no known kind"))?;
        Ok(match kind {
            Kind::Store(m) => Self::Store {
                header: m.header,
                index: index(m.index)?,
                token: m
                    .token
                    .as_ref()
                    .try_into()
                    .map_err(|_| Malformed("a put token has 16 bytes"))?,
                lease_ms: m.lease_ms,
            },
            Kind::Fetch(m) => Self::Fetch {
                stripe: id(&m.stripe)?,
                want: index(m.want)?,
                exact: m.exact,
            },
        })
    }
}

impl ShardResponse {
    /// An answer without a shard.
    pub fn status(status: ShardStatus, reason: impl Into<String>) -> Self {
        Self {
            status,
            header: Bytes::new(),
            index: 0,
            reason: reason.into(),
        }
    }

    /// The head as bytes.
    pub fn encode(&self) -> Bytes {
        let status = match self.status {
            ShardStatus::Ok => wire::ShardStatus::Ok,
            ShardStatus::None => wire::ShardStatus::None,
            ShardStatus::Corrupt => wire::ShardStatus::Corrupt,
            ShardStatus::Full => wire::ShardStatus::Full,
            ShardStatus::Invalid => wire::ShardStatus::Invalid,
            ShardStatus::Failed => wire::ShardStatus::Failed,
            ShardStatus::Deleted => wire::ShardStatus::Deleted,
        };
        let message = wire::ShardResponse {
            status: status.into(),
            header: self.header.clone(),
            index: u32::from(self.index),
            reason: self.reason.clone(),
        };
        message.encode_to_vec().into()
    }

    /// Parses and validates.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let message = wire::ShardResponse::decode(bytes)?;
        let status = match message.status() {
            wire::ShardStatus::Unspecified => return Err(Malformed("an answer without a status")),
            wire::ShardStatus::Ok => ShardStatus::Ok,
            wire::ShardStatus::None => ShardStatus::None,
            wire::ShardStatus::Corrupt => ShardStatus::Corrupt,
            wire::ShardStatus::Full => ShardStatus::Full,
            wire::ShardStatus::Invalid => ShardStatus::Invalid,
            wire::ShardStatus::Failed => ShardStatus::Failed,
            wire::ShardStatus::Deleted => ShardStatus::Deleted,
        };
        Ok(Self {
            status,
            index: index(message.index)?,
            header: message.header,
            reason: message.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire() {
        let store = ShardRequest::Store {
            header: Bytes::from_static(b"header"),
            index: 5,
            token: [3; 16],
            lease_ms: 9,
        };
        let fetch = ShardRequest::Fetch {
            stripe: Id::new([1; 32]),
            want: 2,
            exact: true,
        };
        for request in [store, fetch] {
            assert_eq!(ShardRequest::decode(request.encode()), Ok(request));
        }
        for status in [
            ShardStatus::Ok,
            ShardStatus::None,
            ShardStatus::Corrupt,
            ShardStatus::Full,
            ShardStatus::Deleted,
        ] {
            let response = ShardResponse::status(status, "why");
            assert_eq!(ShardResponse::decode(response.encode()), Ok(response));
        }
        assert!(ShardResponse::decode(Bytes::new()).is_err());
    }
}
