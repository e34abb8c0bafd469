//! Walking around virtual nodes sorted by identifier.

use std::collections::BTreeMap;

use crate::{Id, Peer};

/// Virtual nodes from `from` (included) once around the circle.
pub(crate) fn clockwise(nodes: &BTreeMap<Id, Peer>, from: Id) -> impl Iterator<Item = (Id, Peer)> + '_ {
    let (ahead, behind) = (nodes.range(from..), nodes.range(..from));
    ahead.chain(behind).map(|(id, peer)| (*id, *peer))
}

/// Virtual nodes from before `from` (excluded) once around the circle, backwards.
pub(crate) fn counter_clockwise(
    nodes: &BTreeMap<Id, Peer>,
    from: Id,
) -> impl Iterator<Item = (Id, Peer)> + '_ {
    let (behind, ahead) = (nodes.range(..from).rev(), nodes.range(from..).rev());
    behind.chain(ahead).map(|(id, peer)| (*id, *peer))
}

/// Peers met on a walk around the circle: few, so a sorted list is faster than a tree.
#[derive(Debug, Default)]
pub(crate) struct Met(Vec<Peer>);

impl Met {
    pub(crate) fn with(peer: Peer) -> Self {
        Self(vec![peer])
    }

    /// Adds a peer. Says whether it was not met before.
    pub(crate) fn insert(&mut self, peer: Peer) -> bool {
        match self.0.binary_search(&peer) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, peer);
                true
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
