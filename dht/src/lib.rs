//! The Chord ring and shard custody, as sans-IO state machines.
//!
//! Nothing here reads a clock, opens a socket, spawns a thread or draws ambient randomness: time is an
//! argument, randomness a seed given at construction, and messages are values taken from `poll_*` and
//! handed to `handle_*`. The daemon drives these types over libp2p, the simulator over a virtual network.
//!
//! * [`id`]: the circle of 256-bit identifiers.
//! * [`peer`]: who a peer is.
//! * [`contact`]: what one peer says of itself: virtual nodes, addresses, capacity, state.
//! * `virtual_nodes`: which a peer has; [`choice`]: where new ones lie.
//! * [`ring`]: membership and lookup.
//! * [`placement`]: which peers should hold a stripe.
//! * [`view`]: what custody needs to know of the ring.
//! * [`custody`]: who must hold which shard, and what to do when somebody does not.
//! * [`engine`]: ring and custody as one machine.
//! * [`others`]: who is there, away for a while, or gone.
//! * [`writer`]: what a client's peer decides while it writes or deletes.
//! * [`records`]: values that change: what holders keep, how one is written and read.
//! * [`flaw`]: wrong variants of both, for testing the tests.

pub mod choice;
mod circle;
pub mod contact;
pub mod custody;
pub mod engine;
pub mod flaw;
pub mod id;
pub mod others;
pub mod peer;
pub mod placement;
pub mod records;
pub mod ring;
mod time;
pub mod view;
mod virtual_nodes;
pub mod writer;

#[cfg(test)]
mod testing;

pub use contact::{Contact, PeerState, SignContact, Signature, Unsigned};
pub use engine::Engine;
pub use flaw::Flaw;
pub use id::Id;
pub use others::Others;
pub use peer::Peer;
pub use time::Time;
pub use view::{Member, RingView};
pub use virtual_nodes::VirtualNodes;
