//! Records: the first [`HOLDERS`] living peers from an id that do not leave are to have the same.
//!
//! The primary hears the digest of each holder. Where they differ, or one of those peers has none, it has the
//! sets of all that reported put together. Whoever holds records and is not one of those peers is told so,
//! and drops them by a rule of its own (`holder/records.rs`). Merging takes the maximum and loses nothing, so
//! no primary need be right, and any holder may do it: each does in every so many of its audit rounds, in
//! case the primary does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::repair::backoff;
use crate::custody::candidates::Candidates;
use crate::custody::holder::QUIET;
use crate::custody::key::Slot;
use crate::custody::message::TrimOrder;
use crate::custody::peers::{Handle, ME};
use crate::custody::{Custody, Effect, Item, JobId, JobOutcome, RETRY};
use crate::records::HOLDERS;
use crate::{Flaw, PeerState, RingView, Time};

/// The most sets that are put together at one time.
const MAX_MERGES: usize = 64;
/// How long one waits for which there is no room.
const NO_ROOM: Duration = Duration::from_secs(1);

/// Sets that are being put together, with their digests.
pub(super) type Merges = BTreeMap<JobId, (Slot, BTreeSet<u64>)>;

/// Those of the responsible peers that are to have the records.
pub(in crate::custody) fn near(responsible: &Candidates) -> Vec<Handle> {
    let staying = responsible
        .iter()
        .filter(|(_, state)| *state != PeerState::Draining);
    staying.map(|(peer, _)| *peer).take(HOLDERS).collect()
}

/// Whether all holders have the same, and all who are to have it do.
fn agree(held: &BTreeMap<Handle, u64>, near: &[Handle]) -> bool {
    let digests: BTreeSet<u64> = held.values().copied().collect();
    digests.len() <= 1 && near.iter().all(|peer| held.contains_key(peer))
}

impl Custody {
    /// Judges the records under an id, as its primary: when to look again, and whether there is nothing else
    /// under it.
    pub(super) fn judge_records(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
    ) -> (Option<Time>, bool) {
        let Some(known) = self.primary.reports.stripes.get(&slot) else {
            return (None, false);
        };
        let claims = known.claims.iter();
        let records = claims.filter_map(|claim| Some((claim.peer, claim.item.records()?)));
        let held: Vec<(Handle, u64)> = records.collect();
        let alone = !held.is_empty() && held.len() == known.claims.len();
        let held = held.into_iter().filter(|(peer, _)| self.peers.is_live(*peer));
        let held: BTreeMap<Handle, u64> = held.collect();
        if held.is_empty() || !self.config.repair {
            return (None, alone);
        }
        (self.settle_records(now, ring, slot, &held), alone)
    }

    /// Has those that differ put together, or those that are too far give way. Returns when to look again.
    fn settle_records(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        held: &BTreeMap<Handle, u64>,
    ) -> Option<Time> {
        let near = near(&self.responsible_for_records(now, ring, slot));
        let known = self.primary.reports.stripes.get_mut(&slot)?;
        let merging = known.merging.get_or_insert_default();
        let (held_near, beyond): (BTreeMap<_, _>, BTreeMap<_, _>) =
            held.iter().partition(|(peer, _)| near.contains(peer));
        merging.included.extend(held_near.values());
        merging
            .included
            .retain(|digest| held.values().any(|held| held == digest));
        if agree(&held_near, &near) && beyond.values().all(|digest| merging.included.contains(digest)) {
            merging.failures = 0;
            return self.order_to_yield(now, ring, slot, &beyond);
        }
        if merging.running {
            return None;
        }
        if merging.not_before > now {
            return Some(merging.not_before);
        }
        (!self.begin_merge(now, slot, held, &near)).then_some(now + NO_ROOM)
    }

    /// Has the sets of some peers put together and brought to others. Returns whether there was room.
    fn begin_merge(&mut self, now: Time, slot: Slot, held: &BTreeMap<Handle, u64>, to: &[Handle]) -> bool {
        if self.primary.merges.len() >= MAX_MERGES || self.config.has(Flaw::NoMergeOfRecords) {
            return false;
        }
        let job = self.primary.jobs.next_id();
        let digests = held.values().copied().collect();
        self.primary.merges.insert(job, (slot, digests));
        if let Some(known) = self.primary.reports.stripes.get_mut(&slot) {
            known.merging.get_or_insert_default().running = true;
        }
        let name = |peer: &Handle| self.peers.get(*peer).peer;
        let (from, to) = (held.keys().map(name).collect(), to.iter().map(name).collect());
        self.schedule.now = now;
        self.effects.push_back(Effect::Merge {
            job,
            id: slot.stripe,
            from,
            to,
        });
        true
    }

    /// Draws the consequence of an audit of records: who is the primary need not be asked.
    pub(in crate::custody) fn weigh_records(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        held: &BTreeMap<Handle, u64>,
    ) {
        let near = near(&self.responsible_for_records(now, ring, slot));
        if !held.is_empty() && !agree(held, &near) {
            self.begin_merge(now, slot, held, &near);
        }
    }

    /// A set was put together, or not. Whether the job was one of these.
    pub(super) fn handle_merge(&mut self, now: Time, job: JobId, outcome: &JobOutcome) -> bool {
        let Some((slot, digests)) = self.primary.merges.remove(&job) else {
            return false;
        };
        let jitter = self.jitter();
        if let Some(known) = self.primary.reports.stripes.get_mut(&slot) {
            let merging = known.merging.get_or_insert_default();
            merging.running = false;
            if outcome.failed.is_empty() {
                merging.failures = 0;
                merging.included.extend(digests);
                // The holders report first what they have now.
                merging.not_before = now + QUIET * 2 + self.config.exchange_dirty * 4;
            } else {
                merging.failures += 1;
                merging.not_before = now + backoff(merging.failures).mul_f64(jitter);
            }
            self.primary.reports.dirty.insert(slot);
        }
        true
    }

    /// Tells holders that others are nearer, unless that was done lately. Returns when to do it next.
    fn order_to_yield(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        beyond: &BTreeMap<Handle, u64>,
    ) -> Option<Time> {
        let stable = self.peers.changed() + self.config.settle();
        let merging = self.primary.reports.stripes.get_mut(&slot)?.merging.as_mut()?;
        if beyond.is_empty() {
            return None;
        }
        let due = merging.retry_at.max(stable);
        if now < due {
            return Some(due);
        }
        merging.retry_at = now + RETRY;
        for victim in beyond.keys() {
            let order = TrimOrder {
                stripe: slot.stripe,
                item: Item::of_records(0),
                keep: ring.me(),
                others: Vec::new(),
            };
            if *victim == ME {
                self.handle_order(now, ring, ME, &order);
            } else {
                self.peers.get_mut(*victim).outbox.trim(order);
                self.peers.arm(*victim);
            }
        }
        Some(now + RETRY)
    }
}
