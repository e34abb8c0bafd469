//! The two state machines behind one lock, and who waits for them.
//!
//! [`Core`] is the only place where `Ring` and `Custody` are touched. Every input goes through
//! [`Core::with`], which wakes the [driver](super::driver) to carry out what the machines want done.
//! The lock is never held across an await.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mutualstore_dht::custody::Custody;
use mutualstore_dht::ring::{Found, LookupError, LookupId, Ring};
use mutualstore_dht::{Contact, Engine, Id, Peer, Time};
use tokio::sync::{Notify, oneshot};

/// Who answered a walk around the ring, and who was heard of but did not.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) answered: Vec<Contact>,
    pub(crate) silent: Vec<Peer>,
}

/// Ring, custody and the callers that wait for an outcome.
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(super) lookups: BTreeMap<LookupId, oneshot::Sender<Result<Found, LookupError>>>,
    pub(super) walks: BTreeMap<LookupId, oneshot::Sender<Walk>>,
}

/// The machines behind their lock.
pub(crate) struct Core {
    state: Mutex<State>,
    /// Tells the driver that the machines have something to do.
    pub(super) wake: Notify,
    start: Instant,
}

impl Core {
    /// `start` is the origin of the machines' time.
    pub(crate) fn new(ring: Ring, custody: Custody, start: Instant) -> Self {
        let state = State {
            engine: Engine::new(ring, custody),
            lookups: BTreeMap::new(),
            walks: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            start,
        }
    }

    /// Now, as the machines count it.
    pub(crate) fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The wall-clock instant of a moment of the machines.
    pub(super) fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time::ZERO)
    }

    /// Returns at a moment of the machines.
    pub(crate) async fn sleep_until(&self, time: Time) {
        tokio::time::sleep_until(self.instant(time).into()).await;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left a machine between two states of its own making; each input is
        // applied whole or not at all, so going on is better than taking the peer down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the machines an input and wakes the driver.
    pub(crate) fn with<R>(&self, input: impl FnOnce(&mut State, Time) -> R) -> R {
        let now = self.now();
        let result = input(&mut self.lock(), now);
        self.wake.notify_one();
        result
    }

    /// Looks at the machines without giving them an input.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock())
    }

    /// The first `count` distinct peers clockwise from `target`, as the ring itself answers now.
    pub(crate) async fn lookup(&self, target: Id, count: usize) -> Result<Found, LookupError> {
        let (answer, outcome) = oneshot::channel();
        self.with(|state, now| {
            let id = state.engine.ring.lookup(now, target, count);
            state.lookups.insert(id, answer);
        });
        outcome.await.unwrap_or(Err(LookupError::NotJoined))
    }

    /// Asks every peer that can be reached around the ring. `None` when the machine was replaced meanwhile.
    pub(crate) async fn walk(&self) -> Option<Walk> {
        let (answer, outcome) = oneshot::channel();
        self.with(|state, now| {
            let id = state.engine.ring.walk(now);
            state.walks.insert(id, answer);
        });
        outcome.await.ok()
    }

    /// The local view of the first `count` distinct live peers clockwise from `target`, this one in its
    /// place.
    pub(crate) fn successors(&self, target: Id, count: usize) -> Vec<Contact> {
        self.read(|state| {
            state
                .engine
                .ring
                .successors(target)
                .take(count)
                .cloned()
                .collect()
        })
    }

    /// What is known of `peer`, also when it is dead.
    pub(crate) fn contact(&self, peer: Peer) -> Option<Contact> {
        self.read(|state| state.engine.ring.contact(peer).cloned())
    }

    /// Every live peer, this one first.
    pub(crate) fn alive(&self) -> Vec<Contact> {
        self.read(|state| {
            std::iter::once(state.engine.ring.me())
                .chain(state.engine.ring.alive())
                .cloned()
                .collect()
        })
    }

    /// Whether `peer` answers as far as the ring knows.
    pub(crate) fn is_alive(&self, peer: Peer) -> bool {
        self.read(|state| state.engine.ring.is_alive(peer))
    }
}
