//! What a client's peer decides while it writes a file or deletes one.
//!
//! Three machines, each for one operation:
//! * [`Placing`]: the shards of one stripe go to distinct peers, in the order of the stripe's policy;
//! * [`Committing`]: the holders of all stripes of a put make their shards permanent, and what was lost since
//!   it was stored is made good;
//! * [`Deleting`]: holders keep tombstones instead of shards, until too few know nothing of them.
//!
//! They stand beside [`Engine`](crate::Engine) and not in it, as in quinn-proto a connection stands beside
//! its endpoint: an operation lives as long as its client waits and is driven by the client's own task, so
//! that a slow body or disk holds up neither ring nor custody. Shards, tokens and signatures stay with the
//! driver; the machines know indices and peers.
//!
//! The driver takes actions from `poll` until there is none, performs them side by side, and hands in each
//! result. It polls again after every result and at `poll_timeout`, until `is_over`. An operation whose
//! driver dies is finished by custody, or taken back by leases and by the driver's journal.

mod committing;
mod deleting;
mod placing;

use std::time::Duration;

pub use committing::{Commit, Committing};
pub use deleting::{Delete, Deleting, Outlook, Seen, Target};
pub use placing::{Answer, Lacking, Place, Placing};

use crate::{Id, Peer, Time};

/// Peers looked up beyond those that are needed, to replace some that fail.
pub const SPARE: usize = 4;

/// A stripe and where its shards are, each durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The stripe.
    pub stripe: Id,
    /// Shards needed to read it.
    pub k: u8,
    /// Shards it has.
    pub n: u8,
    /// Who holds which.
    pub holders: Vec<(u8, Peer)>,
}

impl Placed {
    /// The least number of shards that a put may end with.
    pub fn least(k: u8, n: u8, degraded: bool) -> usize {
        usize::from(if degraded { k } else { n.min(k.saturating_add(1)) })
    }

    /// Whether a put may end with these holders.
    pub fn is_enough(&self, degraded: bool) -> bool {
        self.holders.len() >= Self::least(self.k, self.n, degraded)
    }

    /// Indices that nobody holds.
    pub fn missing(&self) -> Vec<u8> {
        let held = |index: &u8| self.holders.iter().any(|(other, _)| other == index);
        (0..self.n).filter(|index| !held(index)).collect()
    }
}

/// How long a put waits for holders that it lacks: once, for all of its stripes together.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    length: Duration,
    since: Option<Time>,
}

impl Patience {
    /// So long from the first time that holders lack.
    pub const fn new(length: Duration) -> Self {
        Self { length, since: None }
    }

    /// When it ends. It begins now, unless it has begun.
    fn until(&mut self, now: Time) -> Time {
        *self.since.get_or_insert(now) + self.length
    }
}
