//! Every accepted connection, by peer, and the dials under way.
//!
//! Invariants: a peer has connections of one instance only; never more connections than the limits; at most
//! one dial of ours per peer and class.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, Shared};
use mutualstore_dht::Peer;

use super::connection::Connection;
use super::{CallError, Class};

/// A dial that several callers wait for.
pub(super) type SharedDial = Shared<BoxFuture<'static, Result<Arc<Connection>, CallError>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    connections: HashMap<Peer, Vec<Arc<Connection>>>,
    total: usize,
    pub(super) dials: HashMap<(Peer, Class), SharedDial>,
}

/// Why a connection was not added.
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
    /// The connection calls of `class` go by. Of crossed dials both sides prefer the one dialled by the
    /// smaller peer, so that the other one falls idle.
    pub(super) fn pick(&self, own: Peer, peer: Peer, class: Class) -> Option<Arc<Connection>> {
        let usable = self.of(peer).iter().filter(|connection| connection.takes(class));
        usable
            .max_by_key(|connection| connection.dialled == (own < peer))
            .cloned()
    }

    /// Links with `peer`, of all classes.
    pub(super) fn of(&self, peer: Peer) -> &[Arc<Connection>] {
        self.connections.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// Every connection.
    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        self.connections.values().flatten().cloned().collect()
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// A connection of another instance of `peer` than `instance`; one of class rpc if there is one, because
    /// there a ping is answered soonest.
    pub(super) fn other_instance(&self, peer: Peer, instance: [u8; 16]) -> Option<Arc<Connection>> {
        let others = self
            .of(peer)
            .iter()
            .filter(|connection| connection.instance != instance);
        others
            .max_by_key(|connection| connection.class == Class::Rpc)
            .cloned()
    }

    /// Adds a connection within the limits.
    pub(super) fn add(
        &mut self,
        connection: &Arc<Connection>,
        per_peer: usize,
        total: usize,
    ) -> Result<(), AddError> {
        if self
            .other_instance(connection.peer, connection.instance)
            .is_some()
        {
            return Err(AddError::Instance);
        }
        let connections = self.connections.entry(connection.peer).or_default();
        if connections.len() >= per_peer || self.total >= total {
            return Err(AddError::Limit);
        }
        connections.push(Arc::clone(connection));
        self.total += 1;
        Ok(())
    }

    /// Removes a connection; whether it was there and the last one of its peer.
    pub(super) fn remove(&mut self, connection: &Arc<Connection>) -> bool {
        let Some(connections) = self.connections.get_mut(&connection.peer) else {
            return false;
        };
        let before = connections.len();
        connections.retain(|known| !Arc::ptr_eq(known, connection));
        self.total -= before - connections.len();
        let last = connections.is_empty();
        if last {
            self.connections.remove(&connection.peer);
        }
        last
    }
}
