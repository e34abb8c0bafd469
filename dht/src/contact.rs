//! What one peer says of itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::{Id, Peer, VirtualNodes};

/// Virtual-node indices are below this: 8 candidates for each of at most 256 virtual nodes.
pub const MAX_INDEX: u16 = 8 * MAX_VIRTUAL_NODES;
/// A peer has at most this many virtual nodes.
pub const MAX_VIRTUAL_NODES: u16 = 256;
/// A contact carries at most this many addresses.
pub const MAX_ADDRESSES: usize = 8;
/// One address is at most this many bytes of text.
pub const MAX_ADDRESS_LEN: usize = 256;
/// The name of a zone is at most this many bytes.
pub const MAX_ZONE_LEN: usize = 64;

/// Whether a peer takes new shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Takes new shards.
    #[default]
    Accepting,
    /// Above 95 % of its capacity and not yet below 90 % again: serves and deletes, takes nothing.
    Full,
    /// About to leave: serves, takes nothing, wants to be relieved of what it holds.
    Draining,
}

/// An ed25519 signature, kept and handed on, never looked into here. All zero: unsigned, as in the simulator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Default for Signature {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl fmt::Debug for Signature {
    /// The first 4 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.first_chunk().copied().unwrap_or_default();
        write!(f, "{:08x}…", u32::from_be_bytes(first))
    }
}

/// Signs what a peer says of itself. The ring holds no keys: it calls this whenever its own contact changed,
/// before any message carries the contact.
pub trait SignContact: fmt::Debug + Send + Sync {
    /// The signature of `contact`; what its field `signature` holds does not count.
    fn sign(&self, contact: &Contact) -> Signature;
}

/// Signs nothing: for rings whose messages never leave the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned;

impl SignContact for Unsigned {
    fn sign(&self, _: &Contact) -> Signature {
        Signature::default()
    }
}

/// What one peer says of itself. Ring identifiers are never carried, always computed from `peer` and
/// `virtual_nodes`, so nobody picks a place on the ring. `capacity` is believed for now.
///
/// Contacts travel by hearsay, so each is signed by its peer. Whoever makes one from foreign bytes verifies
/// the signature first; the ring relies on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The peer that says this of itself.
    pub peer: Peer,
    /// Rises with every change of the fields below; of two contacts of one peer the higher one counts. Begins
    /// at the Unix time of the daemon's start in milliseconds, and is raised above every version this peer
    /// signed before that it hears of. Ends at the largest number, where only the peer's own word counts.
    pub version: u64,
    /// Indices of the virtual nodes: ascending, distinct, each below [`MAX_INDEX`], 1 to
    /// [`MAX_VIRTUAL_NODES`] of them.
    pub virtual_nodes: VirtualNodes,
    /// Multiaddresses the peer can be dialled at, best first, distinct, at most [`MAX_ADDRESSES`].
    pub addresses: Arc<[String]>,
    /// Bytes of disk given.
    pub capacity: u64,
    /// Bytes in use when the contact was made.
    pub used: u64,
    /// Whether the peer takes new shards.
    pub state: PeerState,
    /// What the peer shares a fate with (a home, a rack), at most [`MAX_ZONE_LEN`] bytes; empty: none named.
    pub zone: Arc<str>,
    /// The peer's signature of all of the above.
    pub signature: Signature,
}

impl Contact {
    /// Makes the next version. Saturates.
    pub(crate) fn rise(&mut self) {
        self.rise_above(self.version);
    }

    /// Makes a version above `version`. Saturates.
    pub(crate) fn rise_above(&mut self, version: u64) {
        self.version = version.max(self.version).saturating_add(1);
    }

    /// Ring identifiers of the virtual nodes, in the order of their indices.
    pub fn ids(&self) -> impl Iterator<Item = Id> + Clone + '_ {
        self.virtual_nodes.ids(self.peer)
    }

    /// Whether the limits stated at the fields hold. A contact from the network that fails this is refused.
    pub fn is_valid(&self) -> bool {
        let count = self.virtual_nodes.len();
        (1..=usize::from(MAX_VIRTUAL_NODES)).contains(&count)
            && self.virtual_nodes.is_sorted_by(|a, b| a < b)
            && self.virtual_nodes.last().is_some_and(|last| *last < MAX_INDEX)
            && self.addresses.len() <= MAX_ADDRESSES
            && self.addresses.iter().all(|address| is_address(address))
            && self.addresses.iter().collect::<BTreeSet<_>>().len() == self.addresses.len()
            && self.zone.len() <= MAX_ZONE_LEN
            && self.zone.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// Whether the text has the shape of a multiaddress: printable ASCII that begins with a slash. Which of them
/// can be dialled is the transport's to know.
pub(crate) fn is_address(text: &str) -> bool {
    text.starts_with('/') && text.len() <= MAX_ADDRESS_LEN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How many virtual nodes a peer of `capacity` bytes has in a network of `unit` bytes:
/// `clamp(round(capacity / unit), 1, 256)`.
pub fn virtual_nodes_for(capacity: u64, unit: u64) -> u16 {
    let unit = unit.max(1);
    let rounded = capacity.saturating_add(unit / 2) / unit;
    u16::try_from(rounded)
        .unwrap_or(MAX_VIRTUAL_NODES)
        .clamp(1, MAX_VIRTUAL_NODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_nodes_are_proportional_to_capacity() {
        assert_eq!(virtual_nodes_for(0, 8), 1);
        assert_eq!(virtual_nodes_for(12, 8), 2);
        assert_eq!(virtual_nodes_for(11, 8), 1);
        assert_eq!(virtual_nodes_for(u64::MAX, 1), 256);
    }
}
