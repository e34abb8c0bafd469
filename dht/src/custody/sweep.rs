//! A walk over a sorted map in slices, so that no call touches all of a large inventory.

use std::collections::BTreeMap;
use std::ops::Bound;

/// The state of the walk. The map may change between slices; what is inserted behind the walk is missed,
/// which is why a new start during a walk makes a whole new one follow.
#[derive(Clone, Debug)]
pub(super) struct Sweep<K> {
    running: bool,
    again: bool,
    after: Option<K>,
}

impl<K> Default for Sweep<K> {
    fn default() -> Self {
        Self {
            running: false,
            again: false,
            after: None,
        }
    }
}

impl<K: Ord + Copy> Sweep<K> {
    /// Every key is visited once from now on.
    pub(super) fn start(&mut self) {
        self.again |= self.running;
        self.running = true;
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// The next keys, at most `limit`.
    pub(super) fn slice<V>(&mut self, map: &BTreeMap<K, V>, limit: usize) -> Vec<K> {
        if !self.running {
            return Vec::new();
        }
        let from = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys: Vec<K> = map
            .range((from, Bound::Unbounded))
            .map(|(key, _)| *key)
            .take(limit)
            .collect();
        self.after = keys.last().copied();
        if keys.len() < limit {
            self.after = None;
            self.running = std::mem::take(&mut self.again);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_started_during_a_walk_walks_again() {
        let map: BTreeMap<u8, u8> = (0..5).map(|key| (key, key)).collect();
        let mut sweep = Sweep::default();
        assert!(sweep.slice(&map, 3).is_empty());
        sweep.start();
        assert_eq!(sweep.slice(&map, 3), [0, 1, 2]);
        sweep.start();
        assert_eq!(sweep.slice(&map, 3), [3, 4]);
        assert_eq!(sweep.slice(&map, 3), [0, 1, 2]);
        assert_eq!(sweep.slice(&map, 3), [3, 4]);
        assert!(!sweep.is_running());
    }
}
