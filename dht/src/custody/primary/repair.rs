//! Jobs: a bounded number of repairs and handoffs runs at a time, the most endangered stripe first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{self, Assessment, Decision};
use super::reports::{Claim, KnownStripe};
use crate::custody::candidates::Candidates;
use crate::custody::key::{ItemKey, Slot};
use crate::custody::peers::{Handle, ME};
use crate::custody::{Custody, Effect, Item, JobId, JobOutcome, Shape};
use crate::{Flaw, RingView, Time};

/// How long a peer that failed to take a shard is not a target.
const REFUSED: Duration = Duration::from_secs(10);
/// How long audits disregard the tombstones that a peer says it has, after it showed none.
const UNPROVEN: Duration = Duration::from_mins(10);
/// The first and the longest wait after a failed job. It doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));
#[derive(Debug)]
struct Job {
    slot: Slot,
    targets: Vec<(Item, Handle)>,
    /// The peer that a copy comes from.
    source: Option<Handle>,
    regenerates: bool,
}

/// Jobs waiting and running.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    waiting: BTreeSet<(u16, Slot)>,
    running: BTreeMap<JobId, Job>,
    next: u64,
    /// When the rate allows the next job: each takes its bytes divided by the rate (GCRA without burst).
    free_at: Time,
    /// When a repair last succeeded.
    pub(super) repaired: Option<Time>,
    pub(super) regenerated_total: u64,
    pub(super) bytes_total: u64,
}

impl Jobs {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn poll_timeout(&self, parallel: usize) -> Option<Time> {
        (!self.waiting.is_empty() && self.running.len() < parallel).then_some(self.free_at)
    }

    fn charge(&mut self, now: Time, bytes: u64, rate: Option<u64>) {
        if let Some(rate) = rate {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.free_at = self.free_at.max(now) + Duration::from_micros(micros);
        }
    }

    pub(super) fn next_id(&mut self) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        id
    }

    fn begin(&mut self, job: Job) -> JobId {
        let id = self.next_id();
        self.running.insert(id, job);
        id
    }
}

impl Custody {
    /// Queues a stripe for a job, in place of what it was queued for; none: for nothing.
    pub(super) fn enqueue(&mut self, slot: Slot, priority: Option<u16>) {
        if let Some(known) = self.primary.reports.stripes.get_mut(&slot) {
            if let Some(old) = known.queued.take() {
                self.primary.jobs.waiting.remove(&(old, slot));
            }
            if let Some(priority) = priority {
                self.primary.jobs.waiting.insert((priority, slot));
                known.queued = Some(priority);
            }
        }
    }

    /// Whether the limits allow another job.
    pub(in crate::custody) fn has_room(&self, now: Time) -> bool {
        self.primary.jobs.running.len() < self.config.parallel && self.primary.jobs.free_at <= now
    }

    /// Starts waiting jobs as far as the limits allow.
    pub(super) fn launch(&mut self, now: Time, ring: &impl RingView) {
        while self.has_room(now)
            && let Some((_, slot)) = self.primary.jobs.waiting.pop_first()
        {
            let responsible = self.responsible(now, ring, slot);
            let preference = self.preference(now, ring, slot, &responsible);
            let Some(known) = self.primary.reports.stripes.get_mut(&slot) else {
                continue;
            };
            known.queued = None;
            // The stripe was judged a while ago: it is judged again after this.
            self.primary.reports.dirty.insert(slot);
            if responsible.first().is_some_and(|(primary, _)| *primary == ME) {
                let deleted = self.holder.is_deleted(slot.stripe);
                let replication = plan::replicate_tombstone(now, known, &self.peers, &responsible, deleted);
                let replication = replication.filter(|_| !self.config.has(Flaw::IgnoreTombstones));
                let decision = replication.unwrap_or_else(|| {
                    let assessment = Assessment::take(now, known, &self.peers, &self.config);
                    plan::decide(now, known, &assessment, &self.peers, (&preference, &responsible))
                });
                let shape = known.shape;
                let begun = self.perform(now, slot, shape, decision);
                if let Some(known) = self.primary.reports.stripes.get_mut(&slot) {
                    known.running |= begun;
                }
            }
        }
    }

    /// Begins what was decided about a stripe. Returns whether there was something to begin.
    fn perform(&mut self, now: Time, slot: Slot, shape: Shape, decision: Decision) -> bool {
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
                let targets = targets
                    .into_iter()
                    .map(|(index, peer)| (Item::Shard(index), peer))
                    .collect();
                let job = self.primary.jobs.begin(Job {
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
            Decision::Copy { item, from, to } => {
                let job = self.primary.jobs.begin(Job {
                    slot,
                    targets: vec![(item, to)],
                    source: Some(from),
                    regenerates: false,
                });
                let (from, to) = (self.peers.get(from).peer, self.peers.get(to).peer);
                let effect = Effect::Copy {
                    job,
                    stripe,
                    item,
                    from,
                    to,
                };
                (effect, 2)
            }
            Decision::Locate { to, holders } => {
                let holders = with_names(&holders);
                let peers = to.iter().map(|peer| self.peers.get(*peer).peer).collect();
                let job = self.primary.jobs.begin(Job {
                    slot,
                    targets: to.into_iter().map(|peer| (Item::Locator, peer)).collect(),
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
        self.primary.jobs.charge(now, bytes, self.config.repair_rate);
        self.effects.push_back(effect);
        true
    }

    /// The driver did a job, or failed to. Unknown jobs are ignored.
    pub fn handle_job(&mut self, now: Time, ring: &impl RingView, id: JobId, outcome: JobOutcome) {
        self.schedule.now = now;
        if self.handle_merge(now, id, &outcome) {
            return;
        }
        let Some(job) = self.primary.jobs.running.remove(&id) else {
            return;
        };
        self.primary.jobs.bytes_total = self.primary.jobs.bytes_total.saturating_add(outcome.bytes);
        if job.regenerates {
            self.primary.jobs.regenerated_total += outcome.stored.len() as u64;
        }
        let stored: Vec<(Item, Handle)> = outcome
            .stored
            .into_iter()
            .map(|(item, peer)| (item, self.peers.intern(now, peer, ring.is_alive(peer))))
            .collect();
        let mut unproven = false;
        for (item, peer) in &job.targets {
            let name = self.peers.get(*peer).peer;
            if outcome.failed.contains(&(*item, name)) {
                let span = if self.config.has(Flaw::RefusedForEver) {
                    REFUSED * 1000
                } else {
                    REFUSED
                };
                // A peer that claims a tombstone and has none is not believed for a while. Repairs need not
                // wait for that.
                let source = job.source.filter(|_| *item == Item::Tombstone && *peer == ME);
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
            self.primary.reports.mark_inconsistent(job.slot);
            self.audits.give_up(job.slot);
        }
        let complete = job.targets.iter().all(|target| stored.contains(target));
        let jitter = self.jitter();
        let config = &self.config;
        let Some(known) = self.primary.reports.stripes.get_mut(&job.slot) else {
            return;
        };
        known.running = false;
        known.retry_at = now;
        if job.regenerates && !stored.is_empty() {
            known.unaudited = Some(Box::default());
        }
        known.note_located(&job.targets, &stored);
        if complete {
            self.primary.jobs.repaired = self.primary.jobs.repaired.max(job.regenerates.then_some(now));
            known.failures = 0;
            known.not_before = now + config.exchange_dirty * 4;
        } else if !unproven {
            known.failures += u32::from(!config.has(Flaw::BelieveClaims));
            known.not_before = now + backoff(known.failures).mul_f64(jitter);
        }
        let tracked = known.tracked.is_some();
        self.primary.reports.dirty.insert(job.slot);
        if tracked {
            self.believe(now, job.slot, &stored);
        }
    }

    /// Takes the outcome of a job for the targets' own reports, which follow. A target that sees another
    /// primary reports to that one; so it is solicited, or the record here would never be corrected. This
    /// peer's own items came by `insert`.
    fn believe(&mut self, now: Time, slot: Slot, stored: &[(Item, Handle)]) {
        let Some(shape) = self.primary.reports.stripes.get(&slot).map(|known| known.shape) else {
            return;
        };
        for (item, peer) in stored.iter().filter(|(_, peer)| *peer != ME) {
            let claim = Claim {
                peer: *peer,
                item: *item,
                committed: true,
            };
            let record = self.peers.get_mut(*peer);
            record.outbox.solicit(now + self.config.exchange_idle);
            let key = ItemKey { slot, item: *item };
            self.primary
                .reports
                .claim(key, shape, claim, &mut record.incoming.fingerprints, now);
            self.peers.arm(*peer);
        }
    }

    /// The stripe's next job may start at once.
    pub(in crate::custody) fn forgive(&mut self) {
        for known in self.primary.reports.stripes.values_mut() {
            known.not_before = Time::ZERO;
            known.retry_at = Time::ZERO;
            known.failures = 0;
        }
        for peer in self.peers.all() {
            self.peers.get_mut(peer).refused_until = Time::ZERO;
        }
    }
}

/// Work that an auditor orders in place of the primary.
impl Custody {
    /// Has the tombstone of a stripe copied here from a peer that says it has it.
    pub(in crate::custody) fn fetch_tombstone(&mut self, now: Time, slot: Slot, shape: Shape, from: Handle) {
        let copy = Decision::Copy {
            item: Item::Tombstone,
            from,
            to: ME,
        };
        self.perform(now, slot, shape, copy);
    }

    /// Rebuilds missing indices of a stripe from what these peers hold. Returns whether that began.
    pub(in crate::custody) fn regenerate(
        &mut self,
        now: Time,
        slot: Slot,
        (shape, missing): (Shape, &[u8]),
        held: &BTreeSet<(u8, Handle)>,
        candidates: &Candidates,
    ) -> bool {
        let assessment = Assessment {
            live: held.iter().copied().collect(),
            ..Assessment::default()
        };
        let claims = held.iter().map(|(index, peer)| Claim {
            peer: *peer,
            item: Item::Shard(*index),
            committed: true,
        });
        let known = KnownStripe::of(shape, claims);
        let decision = plan::regenerate(now, &known, (&assessment, missing), &self.peers, candidates);
        self.perform(now, slot, shape, decision)
    }
}

pub(super) fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let doubled = first * 2u32.pow(failures.saturating_sub(1).min(16));
    doubled.min(longest)
}
