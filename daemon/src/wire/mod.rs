//! Messages between daemons: prost on the wire, validated types inside.
//!
//! Every byte from the network passes one of the `decode` functions here once; what comes out keeps the
//! limits stated at its type. Nothing is hashed or signed in protobuf form.

pub mod contact;
pub mod custody;
pub mod peer;
pub mod record;
pub mod ring;
pub mod shard;
pub mod signed;

/// Bytes that are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

impl From<prost::DecodeError> for Malformed {
    fn from(_: prost::DecodeError) -> Self {
        Self("not a protobuf message of this kind")
    }
}
