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
