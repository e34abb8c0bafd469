//! The primary at work: it judges its stripes one by one, queues what they need, and runs a bounded number of
//! jobs, the most endangered stripe first.

pub(super) mod plan;
pub(super) mod reports;
pub(super) mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::custody::key::{ShardKey, Slot};
use crate::custody::message::TrimOrder;
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::plan::{Decision, Survey};
use crate::custody::primary::reports::{Claim, StripeHealth};
use crate::custody::{Custody, Effect, JobId, JobOutcome, LOCATOR, Shape, TOMBSTONE};
use crate::{Flaw, Membership, Time};

/// Time between two instructions about one stripe, to let the first be followed and reported.
pub(in crate::custody) const RETRY: Duration = Duration::from_secs(10);
/// How long a peer that failed to take a shard is no target.
const REFUSED: Duration = Duration::from_secs(10);
/// How long audits disregard the tombstones that a peer says it has, after it showed none.
const UNPROVEN: Duration = Duration::from_mins(10);
/// First and longest wait after a failed job; doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));
/// Handoffs come after all repairs and tombstones, and locators last; a repair's priority is how many indices
/// more than k live.
const LOCATE: u16 = 257;
const HANDOFF: u16 = 256;
const TOMBSTONES: u16 = 255;

#[derive(Debug)]
struct Job {
    slot: Slot,
    targets: Vec<(u8, Handle)>,
    /// Where a copy comes from.
    source: Option<Handle>,
    regenerates: bool,
}

/// Jobs waiting and running.
#[derive(Debug, Default)]
pub(in crate::custody) struct Jobs {
    waiting: BTreeSet<(u16, Slot)>,
    running: BTreeMap<JobId, Job>,
    next: u64,
    /// When the rate allows the next job: each takes its bytes divided by the rate (GCRA without burst).
    free_at: Time,
    pub(in crate::custody) regenerated_total: u64,
    pub(in crate::custody) bytes_total: u64,
}

impl Jobs {
    pub(in crate::custody) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(in crate::custody) fn running(&self) -> usize {
        self.running.len()
    }

    pub(in crate::custody) fn poll_timeout(&self, parallel: usize) -> Option<Time> {
        (!self.waiting.is_empty() && self.running.len() < parallel).then_some(self.free_at)
    }

    fn charge(&mut self, now: Time, bytes: u64, rate: Option<u64>) {
        if let Some(rate) = rate {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.free_at = self.free_at.max(now) + Duration::from_micros(micros);
        }
    }

    fn begin(&mut self, job: Job) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.running.insert(id, job);
        id
    }
}

impl Custody {
    /// Looks at one stripe: files it under its class, queues a job, tells holders what to do, and sets the
    /// time of the next look.
    pub(in crate::custody) fn judge(&mut self, now: Time, ring: &impl Membership, slot: Slot) {
        let responsible = self.responsible(now, ring, slot);
        let is_primary = responsible.first().is_some_and(|(primary, _)| *primary == ME);
        self.prune(now, slot, is_primary);
        let stable = self.peers.changed() + self.config.settle();
        let preference = self.preference(now, ring, slot, &responsible);
        let Some(known) = self.reports.stripes.get_mut(&slot) else {
            return;
        };
        if !is_primary {
            known.tracked = None;
            // Its new primary judges and audits by itself.
            known.unaudited = None;
            self.enqueue(slot, None);
            self.reports.set_health(slot, StripeHealth::Foreign, false);
            self.reports.wake(slot, None);
            let holders = self
                .reports
                .stripes
                .get(&slot)
                .into_iter()
                .flat_map(|known| &known.claims);
            let holders: Vec<Handle> = holders.map(|claim| claim.peer).collect();
            self.redirect(slot.stripe, holders);
            return;
        }
        known.tracked.get_or_insert(now);
        let deleted = self.inventory.is_deleted(slot.stripe);
        let replication = plan::replicate_tombstone(now, known, &self.peers, &responsible, deleted);
        if let Some(decision) = replication.filter(|_| !self.config.has(Flaw::IgnoreTombstones)) {
            self.judge_deleted(now, slot, &decision, &responsible);
            return;
        }
        let survey = Survey::take(now, known, &self.peers, &self.config);
        let health = survey.health(known);
        let mut wakes = vec![survey.wake, plan::refusal(now, &self.peers, &preference)];
        let mut priority = None;
        let mut parked = false;
        let due = health != StripeHealth::Pending || self.config.has(Flaw::RepairBeforeCommit);
        let orders = if self.config.repair && due && !known.running {
            match plan::decide(now, known, &survey, &self.peers, (&preference, &responsible)) {
                Decision::Nothing => {}
                Decision::Parked { until } => {
                    parked = true;
                    wakes.push(until);
                }
                Decision::Regenerate { .. } if known.not_before > now => wakes.push(Some(known.not_before)),
                Decision::Regenerate { .. } if self.config.has(Flaw::NoRepair) => {}
                Decision::Regenerate { .. } => {
                    let spare = survey.matched.saturating_sub(usize::from(known.shape.k));
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
            plan::excess(now, known, &survey, &self.peers, (&preference, &responsible))
        } else {
            Vec::new()
        };
        if health == StripeHealth::Unaudited {
            wakes.push(self.want_audit(now, slot, &responsible));
        }
        self.reports.set_health(slot, health, parked);
        self.enqueue(slot, priority);
        wakes.push(self.instruct(now, ring, slot, orders, stable));
        self.reports.wake(slot, wakes.into_iter().flatten().min());
    }

    /// Queues the next copy of a tombstone.
    fn judge_deleted(&mut self, now: Time, slot: Slot, decision: &Decision, responsible: &plan::Candidates) {
        let Some(known) = self.reports.stripes.get(&slot) else {
            return;
        };
        // What was stored is believed at once: nothing is waited for but after a failure.
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
        self.reports.set_health(slot, StripeHealth::Deleted, false);
        self.enqueue(slot, priority);
        self.reports.wake(slot, wake);
    }

    /// Spreads the commit and orders trims, unless that was done lately. Returns when to do it (again).
    fn instruct(
        &mut self,
        now: Time,
        ring: &impl Membership,
        slot: Slot,
        orders: Vec<plan::Excess>,
        stable: Time,
    ) -> Option<Time> {
        let known = self.reports.stripes.get_mut(&slot)?;
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
                index: excess.index,
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

    /// Forgets claims of gone peers that nobody needs any more, and a stripe without claims.
    fn prune(&mut self, now: Time, slot: Slot, is_primary: bool) {
        let Some(known) = self.reports.stripes.get_mut(&slot) else {
            return;
        };
        let live = |claim: &Claim| claim.committed && self.peers.is_live(claim.peer);
        let replaced: BTreeSet<u8> = known
            .claims
            .iter()
            .filter(|claim| live(claim))
            .map(|claim| claim.index)
            .collect();
        let all = !is_primary || !known.is_committed();
        let stale: Vec<Claim> = known
            .claims
            .iter()
            .filter(|claim| all || replaced.contains(&claim.index))
            // A peer that is back is still being heard: what it said so far must stay, or the two never
            // agree.
            .filter(|claim| self.peers.is_gone(now, claim.peer) && !self.peers.is_alive(claim.peer))
            .copied()
            .collect();
        known.claims.retain(|claim| !stale.contains(claim));
        let empty = known.claims.is_empty();
        for claim in stale {
            let key = ShardKey {
                slot,
                index: claim.index,
            };
            let record = &mut self.peers.get_mut(claim.peer).incoming.fingerprints;
            record.remove(key, claim.committed);
        }
        if empty {
            self.enqueue(slot, None);
            self.reports.forget(slot);
        }
    }

    fn enqueue(&mut self, slot: Slot, priority: Option<u16>) {
        if let Some(known) = self.reports.stripes.get_mut(&slot) {
            if let Some(old) = known.queued.take() {
                self.jobs.waiting.remove(&(old, slot));
            }
            if let Some(priority) = priority {
                self.jobs.waiting.insert((priority, slot));
                known.queued = Some(priority);
            }
        }
    }

    /// Whether the limits allow another job.
    pub(in crate::custody) fn has_room(&self, now: Time) -> bool {
        self.jobs.running.len() < self.config.parallel && self.jobs.free_at <= now
    }

    /// Starts waiting jobs as far as the limits allow.
    pub(in crate::custody) fn launch(&mut self, now: Time, ring: &impl Membership) {
        while self.has_room(now)
            && let Some((_, slot)) = self.jobs.waiting.pop_first()
        {
            let responsible = self.responsible(now, ring, slot);
            let preference = self.preference(now, ring, slot, &responsible);
            let Some(known) = self.reports.stripes.get_mut(&slot) else {
                continue;
            };
            known.queued = None;
            // The stripe was judged a while ago: it is judged again after this.
            self.reports.dirty.insert(slot);
            if responsible.first().is_some_and(|(primary, _)| *primary == ME) {
                let deleted = self.inventory.is_deleted(slot.stripe);
                let replication = plan::replicate_tombstone(now, known, &self.peers, &responsible, deleted);
                let replication = replication.filter(|_| !self.config.has(Flaw::IgnoreTombstones));
                let decision = replication.unwrap_or_else(|| {
                    let survey = Survey::take(now, known, &self.peers, &self.config);
                    plan::decide(now, known, &survey, &self.peers, (&preference, &responsible))
                });
                let shape = known.shape;
                let begun = self.perform(now, slot, shape, decision);
                if let Some(known) = self.reports.stripes.get_mut(&slot) {
                    known.running |= begun;
                }
            }
        }
    }

    /// Begins what was decided about a stripe; whether there was something to begin.
    pub(in crate::custody) fn perform(
        &mut self,
        now: Time,
        slot: Slot,
        shape: Shape,
        decision: Decision,
    ) -> bool {
        let with_names = |shards: &[(u8, Handle)]| {
            let shards = shards
                .iter()
                .map(|(index, peer)| (*index, self.peers.get(*peer).peer));
            shards.collect::<Vec<_>>()
        };
        let stripe = slot.stripe;
        let (effect, shards) = match decision {
            Decision::Nothing | Decision::Parked { .. } => return false,
            Decision::Regenerate { sources, targets } => {
                let (from, to) = (with_names(&sources), with_names(&targets));
                let shards = usize::from(shape.k) + targets.len();
                let job = self.jobs.begin(Job {
                    slot,
                    targets,
                    source: None,
                    regenerates: true,
                });
                let effect = Effect::Regenerate {
                    job,
                    stripe,
                    shape,
                    sources: from,
                    targets: to,
                };
                (effect, shards)
            }
            Decision::Copy { index, from, to } => {
                let job = self.jobs.begin(Job {
                    slot,
                    targets: vec![(index, to)],
                    source: Some(from),
                    regenerates: false,
                });
                let (from, to) = (self.peers.get(from).peer, self.peers.get(to).peer);
                let effect = Effect::Copy {
                    job,
                    stripe,
                    index,
                    from,
                    to,
                };
                (effect, 2)
            }
            Decision::Locate { to, holders } => {
                let holders = with_names(&holders);
                let peers = to.iter().map(|peer| self.peers.get(*peer).peer).collect();
                let job = self.jobs.begin(Job {
                    slot,
                    targets: to.into_iter().map(|peer| (LOCATOR, peer)).collect(),
                    source: None,
                    regenerates: false,
                });
                let effect = Effect::Locate {
                    job,
                    stripe,
                    holders,
                    to: peers,
                };
                (effect, 0)
            }
        };
        let bytes = u64::from(shape.shard_len).saturating_mul(shards as u64);
        self.jobs.charge(now, bytes, self.config.repair_rate);
        self.effects.push_back(effect);
        true
    }

    /// The driver did an effect, or failed. Unknown jobs are ignored.
    pub fn handle_job(&mut self, now: Time, ring: &impl Membership, id: JobId, outcome: JobOutcome) {
        self.now = now;
        let Some(job) = self.jobs.running.remove(&id) else {
            return;
        };
        self.jobs.bytes_total = self.jobs.bytes_total.saturating_add(outcome.bytes);
        if job.regenerates {
            self.jobs.regenerated_total += outcome.stored.len() as u64;
        }
        let stored: Vec<(u8, Handle)> = outcome
            .stored
            .into_iter()
            .map(|(index, peer)| (index, self.peers.intern(now, peer, ring.is_alive(peer))))
            .collect();
        let mut unproven = false;
        for (index, peer) in &job.targets {
            let name = self.peers.get(*peer).peer;
            if outcome.failed.contains(&(*index, name)) {
                let span = if self.config.has(Flaw::RefusedForEver) {
                    REFUSED * 1000
                } else {
                    REFUSED
                };
                // Whoever says that it has a tombstone and has none is not believed for a while; repairs need
                // not wait.
                let source = job.source.filter(|_| *index == TOMBSTONE && *peer == ME);
                unproven |= source.is_some();
                if source.is_some() && self.config.has(Flaw::BelieveTombstones) {
                    continue;
                }
                if let Some(source) = source {
                    self.peers.get_mut(source).unproven_until = now + UNPROVEN;
                }
                self.peers.get_mut(source.unwrap_or(*peer)).refused_until = now + span;
            }
        }
        if outcome.inconsistent {
            self.reports.mark_inconsistent(job.slot);
            self.audits.give_up(job.slot);
        }
        let complete = job.targets.iter().all(|target| stored.contains(target));
        let jitter = self.jitter();
        let config = &self.config;
        let Some(known) = self.reports.stripes.get_mut(&job.slot) else {
            return;
        };
        known.running = false;
        known.retry_at = now;
        if job.regenerates && !stored.is_empty() {
            known.unaudited = Some(Box::default());
        }
        known.note_located(&job.targets, &stored);
        if complete {
            self.audits.repaired = self.audits.repaired.max(job.regenerates.then_some(now));
            known.failures = 0;
            known.not_before = now + config.exchange_dirty * 4;
        } else if !unproven {
            known.failures += u32::from(!config.has(Flaw::BelieveClaims));
            known.not_before = now + backoff(known.failures).mul_f64(jitter);
        }
        let tracked = known.tracked.is_some();
        self.reports.dirty.insert(job.slot);
        if tracked {
            self.believe(now, job.slot, &stored);
        }
    }

    /// Takes the outcome of a job for the targets' own words, which follow. One that sees another primary
    /// reports to that: it is asked, or what is believed here would never be corrected. This peer's own came
    /// by `insert`.
    fn believe(&mut self, now: Time, slot: Slot, stored: &[(u8, Handle)]) {
        let Some(shape) = self.reports.stripes.get(&slot).map(|known| known.shape) else {
            return;
        };
        for (index, peer) in stored.iter().filter(|(_, peer)| *peer != ME) {
            let claim = Claim {
                peer: *peer,
                index: *index,
                committed: true,
            };
            let record = self.peers.get_mut(*peer);
            record.outbox.solicit(now + self.config.exchange_idle);
            let key = ShardKey { slot, index: *index };
            self.reports
                .claim(key, shape, claim, &mut record.incoming.fingerprints, now);
            self.peers.arm(*peer);
        }
    }

    /// The stripe's next job may start at once.
    pub(in crate::custody) fn forgive(&mut self) {
        for known in self.reports.stripes.values_mut() {
            known.not_before = Time::ZERO;
            known.retry_at = Time::ZERO;
            known.failures = 0;
        }
        for peer in self.peers.all() {
            self.peers.get_mut(peer).refused_until = Time::ZERO;
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let doubled = first * 2u32.pow(failures.saturating_sub(1).min(16));
    doubled.min(longest)
}
