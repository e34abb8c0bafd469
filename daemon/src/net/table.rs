//! Every accepted connection, by peer, and the dials under way.
//!
//! Invariants: a peer has links of one instance only; never more links than the limits; at most one dial
//! of ours per peer and class.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, Shared};
use mutualstore_dht::Peer;

use super::link::Link;
use super::{CallError, Class};

/// A dial that several callers wait for.
pub(super) type SharedDial = Shared<BoxFuture<'static, Result<Arc<Link>, CallError>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    links: HashMap<Peer, Vec<Arc<Link>>>,
    total: usize,
    pub(super) dials: HashMap<(Peer, Class), SharedDial>,
}

/// Why a link was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddError {
    /// The peer, or all peers together, have as many as are allowed.
    #[error("too many connections")]
    Limit,
    /// Links of another instance are there.
    #[error("another instance is connected")]
    Instance,
}

impl Table {
    /// The link calls of `class` go by. Of crossed dials both sides prefer the one dialled by the smaller
    /// peer, so that the other one falls idle.
    pub(super) fn pick(&self, own: Peer, peer: Peer, class: Class) -> Option<Arc<Link>> {
        let usable = self.of(peer).iter().filter(|link| link.takes(class));
        usable.max_by_key(|link| link.dialled == (own < peer)).cloned()
    }

    /// Links with `peer`, of all classes.
    pub(super) fn of(&self, peer: Peer) -> &[Arc<Link>] {
        self.links.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// Every link.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links.values().flatten().cloned().collect()
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// A link of another instance of `peer` than `instance`; one of class rpc if there is one, because there
    /// a ping is answered soonest.
    pub(super) fn other_instance(&self, peer: Peer, instance: [u8; 16]) -> Option<Arc<Link>> {
        let others = self.of(peer).iter().filter(|link| link.instance != instance);
        others.max_by_key(|link| link.class == Class::Rpc).cloned()
    }

    /// Adds a link within the limits.
    pub(super) fn add(&mut self, link: &Arc<Link>, per_peer: usize, total: usize) -> Result<(), AddError> {
        if self.other_instance(link.peer, link.instance).is_some() {
            return Err(AddError::Instance);
        }
        let links = self.links.entry(link.peer).or_default();
        if links.len() >= per_peer || self.total >= total {
            return Err(AddError::Limit);
        }
        links.push(Arc::clone(link));
        self.total += 1;
        Ok(())
    }

    /// Removes a link; whether it was there and the last one of its peer.
    pub(super) fn remove(&mut self, link: &Arc<Link>) -> bool {
        let Some(links) = self.links.get_mut(&link.peer) else {
            return false;
        };
        let before = links.len();
        links.retain(|known| !Arc::ptr_eq(known, link));
        self.total -= before - links.len();
        let last = links.is_empty();
        if last {
            self.links.remove(&link.peer);
        }
        last
    }
}
