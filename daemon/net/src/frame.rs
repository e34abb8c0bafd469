//! Frames: what travels after the hello, in both classes.
//!
//! ```text
//! kind u8 ‖ request id u64 ‖ head length u32 ‖ payload length u32 ‖ head ‖ payload      big-endian
//! ```
//!
//! The head is for the class shards, where it describes the payload; it is empty in the class rpc. Lengths
//! are checked against the class before anything is allocated for them.

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::OwnedSemaphorePermit;

use super::Class;

/// Bytes of an rpc body at most.
pub const MAX_RPC_BODY: usize = 1024 * 1024;
/// Bytes of the head of a shard request or response at most.
pub const MAX_SHARD_HEAD: usize = 64 * 1024;
/// Bytes of the payload of a shard request or response at most: a shard, and room for what wraps it.
pub const MAX_SHARD_PAYLOAD: usize = 1024 * 1024 + 64 * 1024;

/// What one connection of a class may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head.
    pub(super) head: usize,
    /// Bytes of a payload.
    pub(super) payload: usize,
    /// Requests in flight in each direction.
    pub(super) window: usize,
}

impl Limits {
    /// Those of a class.
    pub fn of(class: Class) -> Self {
        match class {
            Class::Rpc => Self {
                head: 0,
                payload: MAX_RPC_BODY,
                window: 256,
            },
            Class::Shards => Self {
                head: MAX_SHARD_HEAD,
                payload: MAX_SHARD_PAYLOAD,
                window: 16,
            },
        }
    }

    pub(super) fn allow(&self, head: usize, payload: usize) -> bool {
        head <= self.head && payload <= self.payload
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks; its id is the sender's, rising.
    Request,
    /// Answers the request, or ping, of that id.
    Response,
    /// The request of that id could not be answered. Empty.
    Failed,
    /// Is the process behind the connection alive? Empty; answered with an empty response. With id 0 it asks
    /// nothing and is not answered: the sender lives, although it reads slowly.
    Ping,
    /// The sender closes the connection, which was idle, and will not look at what is still under way.
    /// Empty, id 0.
    Bye,
}

/// One frame to send.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
    /// Room in memory, given back when the frame was written.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

impl Frame {
    pub(super) fn empty(kind: Kind, id: u64) -> Self {
        Self {
            kind,
            id,
            head: Bytes::new(),
            payload: Bytes::new(),
            budget: None,
        }
    }

    pub(super) fn header(&self) -> Header {
        Header {
            kind: self.kind,
            id: self.id,
            head: self.head.len(),
            payload: self.payload.len(),
        }
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Of the request.
    pub id: u64,
    /// Bytes of head that follow.
    pub head: usize,
    /// Bytes of payload that follow the head.
    pub payload: usize,
}

/// A header no peer that keeps to the protocol sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no such kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// More than the class, or the kind, may carry.
    #[error("frame of {head} + {payload} bytes exceeds the limit")]
    TooLarge {
        /// Bytes of head announced.
        head: usize,
        /// Bytes of payload announced.
        payload: usize,
    },
}

impl Header {
    /// Bytes of an encoded header.
    pub const LEN: usize = 17;

    /// Appends the encoded header. The lengths must be within the limits of some class.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(match self.kind {
            Kind::Request => 0,
            Kind::Response => 1,
            Kind::Failed => 2,
            Kind::Ping => 3,
            Kind::Bye => 4,
        });
        out.put_u64(self.id);
        out.put_uint(self.head as u64, 4);
        out.put_uint(self.payload as u64, 4);
    }

    /// Parses a header and checks its lengths.
    pub fn parse(bytes: &[u8; Self::LEN], limits: Limits) -> Result<Self, HeaderError> {
        let mut bytes = bytes.as_slice();
        let kind = match bytes.get_u8() {
            0 => Kind::Request,
            1 => Kind::Response,
            2 => Kind::Failed,
            3 => Kind::Ping,
            4 => Kind::Bye,
            other => return Err(HeaderError::Kind(other)),
        };
        let id = bytes.get_u64();
        let head = bytes.get_u32() as usize;
        let payload = bytes.get_u32() as usize;
        let limits = match kind {
            Kind::Request | Kind::Response => limits,
            Kind::Failed | Kind::Ping | Kind::Bye => Limits {
                head: 0,
                payload: 0,
                window: 0,
            },
        };
        if limits.allow(head, payload) {
            Ok(Self {
                kind,
                id,
                head,
                payload,
            })
        } else {
            Err(HeaderError::TooLarge { head, payload })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_checked_by_class_and_kind() {
        let parse = |kind, head, payload, class| {
            let mut bytes = Vec::new();
            Header {
                kind,
                id: 7,
                head,
                payload,
            }
            .put(&mut bytes);
            Header::parse(&bytes.try_into().unwrap(), Limits::of(class))
        };
        assert!(parse(Kind::Request, 0, MAX_RPC_BODY, Class::Rpc).is_ok());
        assert!(parse(Kind::Request, 1, 0, Class::Rpc).is_err());
        assert!(parse(Kind::Request, 0, MAX_RPC_BODY + 1, Class::Rpc).is_err());
        assert!(parse(Kind::Response, MAX_SHARD_HEAD, MAX_SHARD_PAYLOAD, Class::Shards).is_ok());
        assert!(parse(Kind::Response, MAX_SHARD_HEAD + 1, 0, Class::Shards).is_err());
        assert!(parse(Kind::Response, 0, MAX_SHARD_PAYLOAD + 1, Class::Shards).is_err());
        assert!(parse(Kind::Ping, 0, 1, Class::Shards).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_and_what_parses_is_canonical(bytes: [u8; Header::LEN]) {
            if let Ok(header) = Header::parse(&bytes, Limits::of(Class::Shards)) {
                let mut again = Vec::new();
                header.put(&mut again);
                prop_assert_eq!(again.as_slice(), bytes.as_slice());
            }
        }
    }
}
