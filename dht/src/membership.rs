//! The part of the ring that custody depends on.

use crate::{Id, Peer, PeerState};

/// A live peer as seen from a point of the circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub peer: Peer,
    /// Whether it takes new shards.
    pub state: PeerState,
}

/// What custody needs to know of the ring.
pub trait Membership {
    /// This peer.
    fn me(&self) -> Peer;
    /// Distinct live peers clockwise from `id`, the responsible one first, self included in its place; at
    /// most `limit`.
    fn successors(&self, id: Id, limit: usize) -> Vec<Member>;
    /// Whether `peer` is judged alive.
    fn is_alive(&self, peer: Peer) -> bool;
    /// Whether the ring is joined or known to be alone (not joining).
    fn is_settled(&self) -> bool;
}
