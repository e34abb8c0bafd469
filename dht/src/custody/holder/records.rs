//! The holder of records: when it reports what it has, and when it drops it.
//!
//! A set that changes is not reported before it was left alone for [`QUIET`], lest each write make the
//! holders differ in the eyes of their primary, nor later than [`LATEST`] after it changed.
//!
//! A holder drops a set only if [`HOLDERS`] peers that are nearer to the id have confirmed all that it has.
//! Of two peers one is the nearer, in everybody's view that knows both; so of any number that drop in favour
//! of each other the nearest has nobody to drop for, and no pins are needed. One that leaves drops for those
//! that stay, however few they are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::custody::holder::Held;
use crate::custody::key::{ItemKey, Slot};
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::merge::near;
use crate::custody::timers::Timers;
use crate::custody::{Custody, Effect, Item, Shape, Tenure};
use crate::records::HOLDERS;
use crate::{Flaw, Id, PeerState, RingView, Time};

/// How long a set must be left alone before it is reported.
pub(in crate::custody) const QUIET: Duration = Duration::from_secs(2);
/// A set that is never left alone is reported so long after it changed.
const LATEST: Duration = Duration::from_secs(10);

/// A set that changed since it was reported.
#[derive(Debug)]
struct Change {
    since: Time,
    /// What it has now; none: nothing.
    digest: Option<u64>,
    wake: Option<Time>,
}

/// Sets that changed since they were reported.
#[derive(Debug, Default)]
pub(super) struct Changes {
    sets: BTreeMap<Id, Change>,
    timers: Timers<Id>,
}

impl Changes {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    fn note(&mut self, now: Time, id: Id, digest: Option<u64>) {
        let change = self.sets.entry(id).or_insert(Change {
            since: now,
            digest,
            wake: None,
        });
        change.digest = digest;
        let due = (now + QUIET).min(change.since + LATEST);
        self.timers.rearm(id, &mut change.wake, Some(due));
    }

    fn pop_due(&mut self, now: Time) -> Option<(Id, Option<u64>)> {
        let id = self.timers.pop_due(now)?;
        self.sets.remove(&id).map(|change| (id, change.digest))
    }
}

impl Custody {
    /// The records under an id changed in the local store: what their digest is now, or none if none are
    /// left.
    pub fn records_changed(&mut self, now: Time, id: Id, digest: Option<u64>) {
        self.schedule.now = now;
        self.holder.changes.note(now, id, digest);
    }

    /// Takes the changes that are due into what is reported.
    pub(super) fn handle_changes(&mut self, now: Time) {
        while let Some((id, digest)) = self.holder.changes.pop_due(now) {
            let keys = self.keys_of(id).into_iter();
            let old: Vec<ItemKey> = keys.filter(|key| key.item.records().is_some()).collect();
            let item = digest.map(Item::of_records);
            if old.iter().any(|key| Some(key.item) == item) {
                continue;
            }
            for key in old {
                self.erase(now, key);
            }
            if let Some(item) = item {
                let key = ItemKey::new(id, item);
                let held = Held::new(Shape::RECORDS, Tenure::Committed, None);
                self.holder.inventory.shards.insert(key, held);
                self.holder.inventory.fresh.insert(key);
            }
        }
    }

    /// Another peer says that others are nearer to an id of which records are held here.
    pub(super) fn handle_order_to_yield(&mut self, now: Time, ring: &impl RingView, slot: Slot) {
        // The order may come from one that knows the ring around the id better.
        self.discover(now, slot.stripe);
        let responsible = self.responsible_for_records(now, ring, slot);
        let leaves = responsible
            .iter()
            .any(|(peer, state)| *peer == ME && *state == PeerState::Draining);
        let nearer = responsible.iter().take_while(|(peer, _)| leaves || *peer != ME);
        let nearer: Vec<(Handle, PeerState)> = nearer.filter(|(peer, _)| *peer != ME).copied().collect();
        let to = near(&nearer);
        let enough = if leaves {
            !to.is_empty()
        } else {
            to.len() >= HOLDERS
        };
        if self.config.has(Flaw::YieldUnasked) {
            self.effects.push_back(Effect::Yield {
                id: slot.stripe,
                to: Vec::new(),
            });
        } else if enough {
            let to = to.into_iter().map(|peer| self.peers.get(peer).peer).collect();
            self.effects.push_back(Effect::Yield { id: slot.stripe, to });
        }
    }
}
