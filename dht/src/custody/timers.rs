//! One timer per key: a set ordered by time, with the armed time kept at the key's owner.

use std::collections::BTreeSet;

use crate::Time;

/// The armed timers.
#[derive(Clone, Debug)]
pub(super) struct Timers<K> {
    set: BTreeSet<(Time, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { set: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Makes the timer of `key`, armed for `armed` so far, fire at `at`; none: never.
    pub(super) fn rearm(&mut self, key: K, armed: &mut Option<Time>, at: Option<Time>) {
        if *armed == at {
            return;
        }
        if let Some(old) = armed.take() {
            self.set.remove(&(old, key));
        }
        if let Some(at) = at {
            self.set.insert((at, key));
            *armed = Some(at);
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.set.first().map(|(at, _)| *at)
    }

    /// Takes a timer that is due. The owner must forget its armed time.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<K> {
        let (at, _) = self.set.first()?;
        if *at > now {
            return None;
        }
        self.set.pop_first().map(|(_, key)| key)
    }
}
