//! Who a peer is: a public key, and where its virtual nodes lie.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::Id;
use crate::id::words;

/// Multihash and protobuf prefix that makes an ed25519 public key a libp2p peer id.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A peer: the 32 bytes of its ed25519 public key. Shown and parsed as the libp2p peer id (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer([u8; 32]);

impl Ord for Peer {
    fn cmp(&self, other: &Self) -> Ordering {
        words(&self.0).cmp(&words(&other.0))
    }
}

impl PartialOrd for Peer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Peer {
    /// The peer with this ed25519 public key.
    pub const fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 38 bytes of the libp2p peer id.
    pub fn to_peer_id_bytes(&self) -> [u8; 38] {
        let mut out = [0; 38];
        for (out, byte) in out.iter_mut().zip(PEER_ID_PREFIX.iter().chain(&self.0)) {
            *out = *byte;
        }
        out
    }

    /// The ring identifier of this peer's virtual node `index`:
    /// `SHA-256("mutualstore/vnode/1" ‖ peer id ‖ index)`, the index as two big-endian bytes.
    pub fn virtual_node(&self, index: u16) -> Id {
        let mut hash = Sha256::new();
        hash.update(b"mutualstore/vnode/1");
        hash.update(self.to_peer_id_bytes());
        hash.update(index.to_be_bytes());
        Id::new(hash.finalize().into())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for Peer {
    /// The last 6 characters of the peer id: the first ones are the same for all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        f.write_str(text.get(text.len().saturating_sub(6)..).unwrap_or(&text))
    }
}

/// Text that is not the peer id of an ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 peer id (expected text that begins with 12D3KooW)")]
pub struct ParsePeerError;

impl FromStr for Peer {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        let bytes = bs58::decode(text).into_vec().map_err(|_| ParsePeerError)?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(ParsePeerError)?;
        key.try_into().map(Self).map_err(|_| ParsePeerError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_parses_as_libp2p_prints_it() {
        let peer = Peer::new([7; 32]);
        assert!(peer.to_string().starts_with("12D3KooW"));
        assert_eq!(peer.to_string().parse(), Ok(peer));
        assert_eq!("12D3KooW".parse::<Peer>(), Err(ParsePeerError));
    }
}
