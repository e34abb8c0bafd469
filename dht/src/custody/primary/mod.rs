//! The primary: it puts the reports of holders together and judges what each of its stripes needs.
//!
//! Per stripe it keeps who says that he holds what (`reports`), decides the next step (`plan`, `targets`),
//! has it done (`repair`) and has others check the result (`verify`).

pub(super) mod merge;
mod plan;
mod repair;
pub(super) mod reports;
mod targets;
mod verify;

use std::collections::BTreeSet;

use self::merge::Merges;
use self::plan::{Assessment, Decision};
use self::repair::Jobs;
use self::reports::{Claim, Condition, KnownStripe, Reports};
use super::candidates::Candidates;
use super::key::{ItemKey, Slot};
use super::message::TrimOrder;
use super::peers::{Handle, ME};
use super::{
    Custody, CustodyStats, Effect, Item, MAX_ENTRIES, RETRY, Report, Reported, SLICE, Shape, ShardRecord,
    StripeRecord,
};
use crate::{Flaw, Id, RingView, Time};

/// Priorities of jobs. A repair's is how many indices more than k are matched, so the most endangered stripe
/// comes first. Tombstones come after all repairs, then handoffs, and locators last.
const LOCATE: u16 = 257;
const HANDOFF: u16 = 256;
const TOMBSTONES: u16 = 255;

/// What this peer knows of stripes as their primary, and what it does about them.
#[derive(Debug, Default)]
pub(super) struct Primary {
    reports: Reports,
    jobs: Jobs,
    merges: Merges,
}

impl Primary {
    /// What holders reported of a stripe; none if nothing.
    pub(super) fn known(&self, slot: Slot) -> Option<&KnownStripe> {
        self.reports.stripes.get(&slot)
    }

    /// Every stripe is judged again.
    pub(super) fn start_sweep(&mut self) {
        self.reports.sweep.start();
    }

    /// Whether stripes wait to be judged.
    pub(super) fn is_busy(&self) -> bool {
        self.reports.sweep.is_running() || !self.reports.dirty.is_empty()
    }

    pub(super) fn poll_timeout(&self, parallel: usize) -> Option<Time> {
        let timers = [self.reports.wakes.next(), self.jobs.poll_timeout(parallel)];
        timers.into_iter().flatten().min()
    }

    pub(super) fn stats(&self) -> CustodyStats {
        let count = |condition| self.reports.count(condition);
        CustodyStats {
            safe: count(Condition::Safe),
            degraded: count(Condition::Degraded),
            unaudited: count(Condition::Unaudited),
            endangered: count(Condition::Endangered),
            lost: count(Condition::Lost),
            pending: count(Condition::Pending),
            unsure: count(Condition::Unsure),
            inconsistent: self.reports.inconsistent(),
            repairs_waiting: self.jobs.waiting(),
            repairs_running: self.jobs.running(),
            parked: self.reports.parked(),
            regenerated_total: self.jobs.regenerated_total,
            bytes_total: self.jobs.bytes_total,
            taken_over_total: 0,
        }
    }
}

/// Getters of stripes.
impl Custody {
    /// The stripes this peer is the primary of with fewer than k shards, as far as holders reported.
    pub fn lost(&self) -> impl Iterator<Item = (Id, Shape)> {
        let stripes = self.primary.reports.stripes.iter();
        let lost = stripes.filter(|(_, known)| known.condition == Condition::Lost);
        lost.map(|(slot, known)| (slot.stripe, known.shape))
    }

    /// What holders reported to this peer of a stripe; none if nothing.
    pub fn stripe(&self, stripe: Id) -> Option<StripeRecord> {
        let known = self.primary.known(Slot::of(stripe))?;
        let mut shards: Vec<ShardRecord> = known
            .claims
            .iter()
            .filter_map(|claim| Some((claim.item.shard()?, claim)))
            .map(|(index, claim)| ShardRecord {
                index,
                peer: self.peers.get(claim.peer).peer,
                committed: claim.committed,
                standing: self.peers.standing(self.schedule.now, claim.peer),
            })
            .collect();
        shards.sort_by_key(|shard| (shard.index, shard.peer));
        Some(StripeRecord {
            shape: known.shape,
            primary: known.tracked.is_some(),
            shards,
        })
    }
}

impl Custody {
    /// Judges the stripes that are due, and starts jobs.
    pub(super) fn handle_primary_timeout(&mut self, now: Time, ring: &impl RingView) {
        for slot in self.primary.reports.unjudged(now, SLICE) {
            self.judge(now, ring, slot);
        }
        self.launch(now, ring);
    }

    /// Judges one stripe: notes its condition, queues a job, instructs holders, and sets the time of the next
    /// look.
    fn judge(&mut self, now: Time, ring: &impl RingView, slot: Slot) {
        let responsible = self.responsible(now, ring, slot);
        let is_primary = responsible.first().is_some_and(|(primary, _)| *primary == ME);
        self.prune(now, slot, is_primary);
        let stable = self.peers.changed() + self.config.settle();
        let preference = self.preference(now, ring, slot, &responsible);
        let Some(known) = self.primary.reports.stripes.get_mut(&slot) else {
            return;
        };
        if !is_primary {
            known.tracked = None;
            // Its new primary judges and audits by itself.
            known.unaudited = None;
            let holders: Vec<Handle> = known.claims.iter().map(|claim| claim.peer).collect();
            self.enqueue(slot, None);
            let reports = &mut self.primary.reports;
            reports.set_condition(slot, Condition::Foreign, false);
            reports.wake(slot, None);
            return self.redirect(slot.stripe, holders);
        }
        known.tracked.get_or_insert(now);
        let (records, alone) = self.judge_records(now, ring, slot);
        let Some(known) = self.primary.reports.stripes.get_mut(&slot).filter(|_| !alone) else {
            return self.primary.reports.wake(slot, records);
        };
        let deleted = self.holder.is_deleted(slot.stripe);
        let replication = plan::replicate_tombstone(now, known, &self.peers, &responsible, deleted);
        if let Some(decision) = replication.filter(|_| !self.config.has(Flaw::IgnoreTombstones)) {
            return self.judge_deleted(now, slot, &decision, &responsible);
        }
        let assessment = Assessment::take(now, known, &self.peers, &self.config);
        let condition = assessment.condition(known);
        let refusal = plan::refusal(now, &self.peers, &preference);
        let mut wakes = vec![assessment.wake, records, refusal];
        let mut priority = None;
        let mut parked = false;
        let due = condition != Condition::Pending || self.config.has(Flaw::RepairBeforeCommit);
        let orders = if self.config.repair && due && !known.running {
            match plan::decide(now, known, &assessment, &self.peers, (&preference, &responsible)) {
                Decision::Nothing => {}
                Decision::Parked { until } => {
                    parked = true;
                    wakes.push(until);
                }
                Decision::Regenerate { .. } if known.not_before > now => wakes.push(Some(known.not_before)),
                Decision::Regenerate { .. } if self.config.has(Flaw::NoRepair) => {}
                Decision::Regenerate { .. } => {
                    let spare = assessment.matched.saturating_sub(usize::from(known.shape.k));
                    priority = u16::try_from(spare).ok();
                }
                Decision::Copy { .. } | Decision::Locate { .. } if known.not_before.max(stable) > now => {
                    wakes.push(Some(known.not_before.max(stable)));
                }
                Decision::Copy { .. } if self.config.has(Flaw::NoHandoff) => {}
                Decision::Copy { .. } => priority = Some(HANDOFF),
                Decision::Locate { .. } if self.config.has(Flaw::NoLocators) => {}
                Decision::Locate { .. } => priority = Some(LOCATE),
            }
            plan::excess(now, known, &assessment, &self.peers, (&preference, &responsible))
        } else {
            Vec::new()
        };
        if condition == Condition::Unaudited {
            wakes.push(self.want_audit(now, slot, &responsible));
        }
        self.primary.reports.set_condition(slot, condition, parked);
        self.enqueue(slot, priority);
        wakes.push(self.instruct(now, ring, slot, orders, stable));
        self.primary.reports.wake(slot, wakes.into_iter().flatten().min());
    }

    /// Queues the next copy of a tombstone.
    fn judge_deleted(&mut self, now: Time, slot: Slot, decision: &Decision, responsible: &Candidates) {
        let Some(known) = self.primary.reports.stripes.get(&slot) else {
            return;
        };
        // What was stored is believed at once, so only a failure is waited for.
        let due = known.not_before.max(now);
        let due = if known.failures == 0 { now } else { due };
        let (priority, wake) = match decision {
            Decision::Copy { .. } if known.running => (None, None),
            Decision::Copy { .. } if due > now => (None, Some(due)),
            Decision::Copy { .. } => (Some(TOMBSTONES), None),
            Decision::Nothing
            | Decision::Regenerate { .. }
            | Decision::Locate { .. }
            | Decision::Parked { .. } => (None, plan::refusal(now, &self.peers, responsible)),
        };
        self.primary
            .reports
            .set_condition(slot, Condition::Deleted, false);
        self.enqueue(slot, priority);
        self.primary.reports.wake(slot, wake);
    }

    /// Spreads the commit and orders trims, unless that was done lately. Returns when to do it next.
    fn instruct(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        orders: Vec<plan::Excess>,
        stable: Time,
    ) -> Option<Time> {
        let known = self.primary.reports.stripes.get_mut(&slot)?;
        let pending: Vec<Handle> = if known.is_committed() {
            let pending = known.claims.iter().filter(|claim| !claim.committed);
            pending.map(|claim| claim.peer).collect()
        } else {
            Vec::new()
        };
        if pending.is_empty() && orders.is_empty() {
            return None;
        }
        let due = if pending.is_empty() {
            known.retry_at.max(stable)
        } else {
            known.retry_at
        };
        if now < due {
            return Some(due);
        }
        known.retry_at = now + RETRY;
        for peer in pending {
            if self.config.has(Flaw::NoCommitSpread) {
                continue;
            }
            if peer == ME {
                self.effects.push_back(Effect::Commit { stripe: slot.stripe });
            } else if self.peers.is_alive(peer) {
                self.peers.get_mut(peer).outbox.commit(slot.stripe);
                self.peers.arm(peer);
            }
        }
        let orders = orders.into_iter().filter(|_| !self.config.has(Flaw::NoTrim));
        for excess in orders.collect::<Vec<_>>() {
            let name = |handle| self.peers.get(handle).peer;
            let order = TrimOrder {
                stripe: slot.stripe,
                item: excess.item,
                keep: name(excess.keep),
                others: excess
                    .others
                    .iter()
                    .map(|(index, peer)| (*index, name(*peer)))
                    .collect(),
            };
            if excess.victim == ME {
                self.handle_order(now, ring, ME, &order);
            } else {
                self.peers.get_mut(excess.victim).outbox.trim(order);
                self.peers.arm(excess.victim);
            }
        }
        Some(now + RETRY)
    }

    /// Forgets claims of gone peers that are of no use, and a stripe without claims.
    fn prune(&mut self, now: Time, slot: Slot, is_primary: bool) {
        let Some(known) = self.primary.reports.stripes.get_mut(&slot) else {
            return;
        };
        let live = |claim: &Claim| claim.committed && self.peers.is_live(claim.peer);
        let replaced: BTreeSet<Item> = known
            .claims
            .iter()
            .filter(|claim| live(claim))
            .map(|claim| claim.item)
            .collect();
        let all = !is_primary || !known.is_committed();
        let stale: Vec<Claim> = known
            .claims
            .iter()
            .filter(|claim| all || replaced.contains(&claim.item))
            // A peer that came back is still reporting. What it said so far must stay, or the two never
            // agree.
            .filter(|claim| self.peers.is_gone(now, claim.peer) && !self.peers.is_alive(claim.peer))
            .copied()
            .collect();
        known.claims.retain(|claim| !stale.contains(claim));
        let empty = known.claims.is_empty();
        for claim in stale {
            let key = ItemKey {
                slot,
                item: claim.item,
            };
            let record = &mut self.peers.get_mut(claim.peer).incoming.fingerprints;
            record.remove(key, claim.committed);
        }
        if empty {
            self.enqueue(slot, None);
            self.primary.reports.forget(slot);
        }
    }

    /// Whether this peer is the primary of a stripe and at work on it: a repair is due and repairs succeed,
    /// or the stripe cannot be repaired.
    pub(super) fn is_under_repair(&self, now: Time, slot: Slot) -> bool {
        let known = self.primary.known(slot);
        let due = known.is_some_and(|known| known.running || known.queued.is_some());
        let hopeless = known.is_some_and(|known| known.inconsistent);
        let lately = |at: Time| now < at + self.patience();
        hopeless || due && self.primary.jobs.repaired.is_some_and(lately)
    }

    /// This peer as a holder reports a shard to itself as the primary.
    pub(super) fn report_own(&mut self, now: Time, key: ItemKey, shape: Shape, committed: bool) {
        let claim = Claim {
            peer: ME,
            item: key.item,
            committed,
        };
        let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
        let retry_at = now + self.config.settle();
        self.primary.reports.claim(key, shape, claim, record, retry_at);
    }

    /// This peer as a holder withdraws what it reported to itself.
    pub(super) fn withdraw_own(&mut self, now: Time, key: ItemKey) {
        let record = &mut self.peers.get_mut(ME).incoming.fingerprints;
        self.primary.reports.withdraw(now, key, ME, record);
    }

    /// A holder reports.
    pub(super) fn handle_report(
        &mut self,
        now: Time,
        ring: &impl RingView,
        holder: Handle,
        report: &Report,
    ) -> Reported {
        let retry_at = now + self.config.settle();
        let record = self.peers.get_mut(holder);
        record.outbox.reported();
        let mut elsewhere = Vec::new();
        if record.incoming.admit(report.instance, report.sequence) {
            for listing in &report.listings {
                let fingerprints = &mut record.incoming.fingerprints;
                self.primary
                    .reports
                    .replace(now, holder, listing, fingerprints, retry_at);
            }
            if ring.is_settled() {
                let listed = report.listings.iter().flat_map(|listing| &listing.entries);
                let listed = listed.map(|entry| entry.stripe);
                let stripes: BTreeSet<Id> = listed.chain(std::mem::take(&mut record.redirected)).collect();
                let primary = |stripe| ring.successors(stripe, 1).first().map(|member| member.peer);
                elsewhere = stripes
                    .into_iter()
                    .filter_map(|stripe| Some((stripe, primary(stripe)?)))
                    .filter(|(_, primary)| *primary != ring.me())
                    .take(MAX_ENTRIES)
                    .collect();
            }
        }
        let fingerprints = &record.incoming.fingerprints;
        let same = fingerprints.total() == report.total;
        let differs = (!same).then(|| fingerprints.sums());
        if same && self.peers.synced(holder) {
            self.primary.reports.sweep.start();
        }
        Reported { differs, elsewhere }
    }
}
