//! Walking around virtual nodes sorted by identifier.

use std::collections::BTreeMap;

use crate::Id;

/// Virtual nodes from `from` (included) once around the circle, each with what is written there.
pub(crate) fn clockwise<T: Copy>(nodes: &BTreeMap<Id, T>, from: Id) -> impl Iterator<Item = (Id, T)> + '_ {
    let (ahead, behind) = (nodes.range(from..), nodes.range(..from));
    ahead.chain(behind).map(|(id, owner)| (*id, *owner))
}

/// Virtual nodes from before `from` (excluded) once around the circle, backwards.
pub(crate) fn counter_clockwise<T: Copy>(
    nodes: &BTreeMap<Id, T>,
    from: Id,
) -> impl Iterator<Item = (Id, T)> + '_ {
    let (behind, ahead) = (nodes.range(..from).rev(), nodes.range(from..).rev());
    behind.chain(ahead).map(|(id, owner)| (*id, *owner))
}

/// Owners met on a walk around the circle: few, so a sorted list is faster than a tree.
#[derive(Debug)]
pub(crate) struct Met<T>(Vec<T>);

impl<T: Ord> Met<T> {
    /// Nobody yet, with room for `room` of them.
    pub(crate) fn nobody(room: usize) -> Self {
        Self(Vec::with_capacity(room))
    }

    /// Adds an owner. Says whether it was not met before.
    pub(crate) fn insert(&mut self, owner: T) -> bool {
        match self.0.binary_search(&owner) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, owner);
                true
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
