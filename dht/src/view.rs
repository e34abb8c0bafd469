//! What custody needs to know of the ring, and nothing more: custody is tested against an oracle.

use crate::{Id, Peer, PeerState};

/// A live peer and what it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The peer itself.
    pub peer: Peer,
    /// Whether it takes new shards.
    pub state: PeerState,
}

/// What custody needs to know of the ring.
pub trait RingView {
    /// The peer whose view this is.
    fn me(&self) -> Peer;
    /// Distinct live peers clockwise from `id`, the responsible one first, self included in its place; at
    /// most `limit`.
    fn successors(&self, id: Id, limit: usize) -> Vec<Member>;
    /// Whether the ring counts this peer among the living.
    fn is_alive(&self, peer: Peer) -> bool;
    /// Rises when a peer's virtual nodes changed: then it may follow other ids, although the same peers are
    /// there.
    fn moves(&self) -> u64;
    /// Whether the ring is joined or known to be alone (not joining).
    fn is_settled(&self) -> bool;
}
