//! Disks as sets of shards, the truth about every stripe, and custody's effects carried out by bookkeeping.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mutualstore_dht::custody::{
    self, Effect, Holding, Item, JobId, JobOutcome, LOCATOR, Request, Shape, TOMBSTONE, TrimOrder,
};
use mutualstore_dht::{Id, Peer};

use super::check::Violation;
use super::host::Host;
use super::pick;
use super::world::{Event, Who, World, micros};

/// Reading, computing and writing one shard.
const WORK: Duration = Duration::from_millis(15);
/// How long tombstones are kept: longer than a scenario is.
pub(super) const RETENTION: Duration = Duration::from_hours(24);
/// Removing or committing.
const TOUCH: Duration = Duration::from_millis(1);

/// What survives a crash of its host.
pub(crate) type Disk = BTreeMap<(Id, u8), Stored>;

/// One durable shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Shape,
    pub(crate) tenure: Tenure,
}

/// Whether what is under this index counts as a part of the stripe: neither a tombstone nor a locator.
pub(super) fn is_shard(index: u8) -> bool {
    index < LOCATOR
}

/// Distinct indices among these copies.
pub(super) fn indices<'a>(copies: impl IntoIterator<Item = &'a (u8, Who)>) -> BTreeSet<u8> {
    copies.into_iter().map(|(index, _)| *index).collect()
}

/// Distinct hosts among these copies.
pub(super) fn holders(copies: &[(u8, Who)]) -> BTreeSet<Who> {
    copies.iter().map(|(_, who)| *who).collect()
}

/// How firmly a shard is held, in microseconds of the simulation and with hosts by number.
pub(crate) type Tenure = custody::Tenure<u64, Who>;

impl Stored {
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.tenure, Tenure::Pending { .. })
    }

    /// As custody of `host` counts time and names peers.
    pub(crate) fn holding(&self, (stripe, index): (Id, u8), host: &Host, hosts: &[Host]) -> Holding {
        let peer = |who: Who| hosts.get(who as usize).map_or(host.peer, |writer| writer.peer);
        Holding {
            stripe,
            item: index.into(),
            shape: self.shape,
            tenure: self.tenure.map(|until| host.moment(until), peer),
        }
    }
}

/// All there is to know of one stripe.
#[derive(Clone, Debug)]
pub(crate) struct Stripe {
    pub(crate) shape: Shape,
    /// The client was told that it is stored, and honest hosts hold enough of it.
    pub(crate) acked: bool,
    /// When a holder was first told to commit: the client may be told any time after.
    pub(super) promised: Option<u64>,
    /// Every durable shard, on hosts up or down.
    pub(crate) copies: Vec<(u8, Who)>,
    /// Somebody holds a tombstone of it, or did.
    pub(crate) deleted: bool,
    /// Fewer than k indices were left where no tombstone is: it must not come back.
    gone: bool,
    /// Indices of which a copy was destroyed lately: another one may be on its way out in favour of it.
    risky: BTreeMap<u8, u64>,
    /// Indices of which the last copy went as excess, in favour of a liar.
    taken: BTreeSet<u8>,
}

impl Stripe {
    /// Whether it must be there: somebody may have been told that it is stored, and nobody has deleted it.
    pub(super) fn is_promised(&self) -> bool {
        self.promised.is_some() && !self.deleted
    }

    /// Whether a copy of an index was destroyed lately.
    pub(super) fn is_risky(&self, index: u8, now: u64) -> bool {
        self.risky.get(&index).is_some_and(|until| *until > now)
    }

    /// Indices of which there is a durable copy.
    pub(crate) fn distinct(&self) -> usize {
        indices(&self.copies).len()
    }
}

/// The truth about every stripe.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) stripes: BTreeMap<Id, Stripe>,
}

impl Truth {
    fn add(&mut self, key: (Id, u8), shape: Shape, who: Who) {
        let stripe = self.stripes.entry(key.0).or_insert_with(|| Stripe {
            shape,
            acked: false,
            promised: None,
            copies: Vec::new(),
            deleted: false,
            gone: false,
            risky: BTreeMap::new(),
            taken: BTreeSet::new(),
        });
        stripe.taken.remove(&key.1);
        stripe.deleted |= key.1 == TOMBSTONE;
        if is_shard(key.1) && !stripe.copies.contains(&(key.1, who)) {
            stripe.copies.push((key.1, who));
        }
    }
}

impl World {
    /// Whether two running hosts reach each other.
    pub(crate) fn reaches(&self, from: Who, to: Who) -> bool {
        let running = |who| self.running(who).is_some();
        from == to
            || running(from) && running(to) && self.links.passes(from, to) && self.links.passes(to, from)
    }

    /// The host with this address, if `from` reaches it.
    pub(crate) fn reached(&self, from: Who, peer: Peer) -> Option<Who> {
        self.who(peer).filter(|to| self.reaches(from, *to))
    }

    /// Those of some copies of a stripe that are committed.
    pub(super) fn committed<'a>(
        &self,
        id: Id,
        copies: &'a [(u8, Who)],
    ) -> impl Iterator<Item = &'a (u8, Who)> {
        let committed = move |(index, who): &&(u8, Who)| self.is_committed((id, *index), *who);
        copies.iter().filter(committed)
    }

    /// Makes a shard durable on a running host and tells its custody. False: it is full.
    pub(crate) fn store(&mut self, who: Who, key: (Id, u8), stored: Stored) -> bool {
        let Some(host) = self.running(who) else {
            return false;
        };
        if let Some(lies) = host.lies {
            return lies.are_about(who, key.0);
        }
        let old = host.disk.get(&key).copied();
        let full = old.is_none() && host.is_full();
        if key.1 != TOMBSTONE && (full || host.is_deleted(key.0)) {
            return false;
        }
        // A committed shard never becomes pending.
        let committed = old.filter(|old| old.tenure == Tenure::Committed);
        let stored = committed.unwrap_or(stored);
        let holding = stored.holding(key, host, &self.hosts);
        if let Some(host) = self.host_mut(who) {
            host.disk.insert(key, stored);
        }
        self.truth.add(key, stored.shape, who);
        self.check_deleted(key.0);
        self.keep(who, |custody, now, _| custody.insert(now, holding));
        self.publish(who);
        true
    }

    /// Makes a tombstone durable on a running host.
    pub(crate) fn store_tombstone(&mut self, who: Who, stripe: Id, shape: Shape) -> bool {
        let tenure = Tenure::Deleted {
            until: self.now + micros(RETENTION),
        };
        self.store(who, (stripe, TOMBSTONE), Stored { shape, tenure })
    }

    /// Once fewer than k indices of a deleted stripe, pending ones included, lie on hosts without its
    /// tombstone, or wait for a stopped one to take them, it can never be rebuilt from them again.
    fn check_deleted(&mut self, id: Id) {
        let Some(stripe) = self.truth.stripes.get(&id).filter(|stripe| stripe.deleted) else {
            return;
        };
        let (mut left, mut committed) = (BTreeSet::new(), BTreeSet::new());
        for (index, who) in &stripe.copies {
            let host = self.host(*who).filter(|host| !host.is_deleted(id));
            if let Some(stored) = host.and_then(|host| host.disk.get(&(id, *index))) {
                left.insert(*index);
                committed.extend((stored.tenure == Tenure::Committed).then_some(*index));
            }
        }
        let stopped = self.hosts.iter().filter(|host| !host.is_deleted(id));
        let waiting = stopped.filter_map(|host| host.frozen.as_ref()).flatten();
        left.extend(waiting.filter_map(|message| message.shard_of(id)));
        let k = usize::from(stripe.shape.k);
        if stripe.gone && committed.len() >= k {
            let detail = format!("of {id:?} the indices {committed:?} lie where no tombstone is");
            self.violate(Violation::custody("the deleted do not come back", detail));
        } else if let Some(stripe) = self.truth.stripes.get_mut(&id) {
            stripe.gone |= left.len() < k;
        }
    }

    /// Removes a shard from a disk.
    fn discard(&mut self, who: Who, key: (Id, u8)) -> Option<Stored> {
        let host = self.host_mut(who)?;
        let stored = host.disk.remove(&key)?;
        if key.1 == LOCATOR {
            host.locators.remove(&key.0);
        }
        if let Some(stripe) = self.truth.stripes.get_mut(&key.0) {
            stripe.copies.retain(|copy| *copy != (key.1, who));
        }
        Some(stored)
    }

    /// The writer gives up: its pending shards go.
    pub(crate) fn take_back(&mut self, who: Who, stripe: Id) {
        let Some(host) = self.host(who) else { return };
        let pending = host.records(stripe).filter(|(_, stored)| stored.is_pending());
        let pending: Vec<u8> = pending.map(|(index, _)| index).collect();
        for index in pending {
            self.discard(who, (stripe, index));
            self.removed(who, (stripe, index));
        }
        self.publish(who);
    }

    /// Destroys all shards of a host; one that runs notices as if it had read them.
    pub(crate) fn wipe(&mut self, who: Who) {
        self.unrest.last = self.now;
        let disk = self.host(who).into_iter().flat_map(|host| host.disk.keys());
        let keys: Vec<(Id, u8)> = disk.copied().collect();
        let pin = self.setup.custody.as_ref().map(|custody| micros(custody.pin));
        let until = self.now + pin.unwrap_or(0);
        for key in keys {
            self.discard(who, key);
            if let Some(stripe) = self.truth.stripes.get_mut(&key.0) {
                stripe.risky.insert(key.1, until);
            }
            self.removed(who, key);
        }
        self.lose_records(who);
    }

    /// Custody learns that something is no longer on its disk.
    fn removed(&mut self, who: Who, (stripe, index): (Id, u8)) {
        self.keep(who, |custody, now, _| custody.removed(now, stripe, index.into()));
    }

    /// Whether every acknowledged stripe outlives the loss of this host's disk, whatever is being trimmed.
    pub(crate) fn may_wipe(&self, who: Who) -> bool {
        let Some(host) = self.host(who) else { return false };
        let stripes: BTreeSet<Id> = host.disk.keys().map(|(stripe, _)| *stripe).collect();
        stripes.into_iter().all(|id| self.outlives(id, who)) && self.records_outlive(who)
    }

    /// Whether enough indices of a stripe are committed elsewhere.
    fn outlives(&self, id: Id, lost: Who) -> bool {
        let Some(stripe) = self.truth.stripes.get(&id).filter(|stripe| stripe.is_promised()) else {
            return true;
        };
        let all = indices(self.committed(id, &stripe.copies));
        let risky = |index: &u8| stripe.is_risky(*index, self.now);
        let lasts = |index: &&u8| !risky(index) && !stripe.copies.contains(&(**index, lost));
        let left = all.iter().filter(lasts);
        // Each liar may yet take an index, but for those that it must serve for already: nobody honest holds
        // them, so nobody drops another one unless a liar claims these.
        let served = (0..stripe.shape.n).filter(|index| !risky(index) && !all.contains(index));
        let loose = self.liars().saturating_sub(served.count());
        left.count() >= usize::from(stripe.shape.k) + loose
    }

    /// Somebody orders the holders of a stripe to drop an index of which there is more than one copy in
    /// favour of each other, or a random one in favour of somebody who may not have it.
    pub(crate) fn forge_order(&mut self) {
        let stripes: Vec<Id> = self.truth.stripes.keys().copied().collect();
        let Some(id) = pick(&mut self.rng, &stripes).copied() else {
            return;
        };
        let copies = self.truth.stripes.get(&id).map(|stripe| stripe.copies.clone());
        let copies = copies.unwrap_or_default();
        let Some((index, one)) = pick(&mut self.rng, &copies).copied() else {
            return;
        };
        let other = copies.iter().find(|(of, who)| *of == index && *who != one);
        let someone = self.random_hosts(1, |_| true);
        let pair = match (other, someone.first()) {
            (Some((_, other)), _) => [(one, *other), (*other, one)],
            (None, Some(someone)) => [(one, *someone); 2],
            (None, None) => return,
        };
        let others = copies.iter().filter(|(of, _)| *of != index);
        let others = others.filter_map(|(of, who)| Some((*of, self.peer(*who)?)));
        let others: BTreeMap<u8, Peer> = others.collect();
        for (victim, keep) in pair {
            let (Some(keep), Some(sender)) = (self.peer(keep), self.peer(one)) else {
                continue;
            };
            let order = TrimOrder {
                stripe: id,
                item: Item::Shard(index),
                keep,
                others: others.clone().into_iter().collect(),
            };
            let request = Request::Trim { orders: vec![order] };
            if self.running(victim).is_some() {
                self.forge(victim, sender, request);
            }
        }
    }

    /// Hands a host a request of custody as if `sender` had sent it.
    pub(super) fn forge(&mut self, victim: Who, sender: Peer, request: Request) {
        self.keep(victim, |custody, now, ring| {
            custody.handle_request(now, ring, sender, request)
        });
    }

    /// The client is told that its stripe is stored.
    pub(crate) fn acknowledge(&mut self, id: Id) {
        let Some(stripe) = self.truth.stripes.get(&id) else {
            return;
        };
        let committed = indices(self.committed(id, &stripe.copies)).len();
        let (k, liars) = (usize::from(stripe.shape.k), self.liars());
        if let Some(stripe) = self.truth.stripes.get_mut(&id) {
            // Where fewer than all were stored, liars may have been too many of these: the client was told.
            stripe.acked = committed >= k || liars == 0;
        }
        if committed + liars < k {
            let detail =
                format!("stripe {id:?} was acknowledged with {committed} of {k} needed shards committed");
            self.violate(Violation::custody("acknowledged means committed", detail));
        }
    }

    /// Custody wants something done.
    pub(crate) fn begin(&mut self, who: Who, life: u32, effect: Effect) {
        self.check_choice(who, &effect);
        if let Effect::Drop {
            stripe,
            item: Item::Shard(index),
            expired: false,
        } = effect
            && is_shard(index)
        {
            self.check_trim(who, (stripe, index));
        }
        let delay = match &effect {
            Effect::Regenerate { sources, .. } => {
                let far: Vec<Who> = sources.iter().filter_map(|(_, peer)| self.who(*peer)).collect();
                let delays = far.iter().map(|from| self.links.delay(&mut self.rng, *from, who));
                WORK + delays.max().unwrap_or_default() * 4
            }
            Effect::Copy { from, to, .. } => {
                let (from, to) = (self.who(*from).unwrap_or(who), self.who(*to).unwrap_or(who));
                WORK + self.links.delay(&mut self.rng, from, to) * 4
            }
            Effect::Locate { .. } | Effect::Merge { .. } | Effect::Yield { .. } => WORK,
            Effect::Drop { .. } | Effect::Commit { .. } | Effect::Discover { .. } => TOUCH,
        };
        self.after(delay, Event::Work(who, life, Box::new(effect)));
    }

    /// Has every repair and copy of a host fail from now on, or none.
    pub(crate) fn wedge(&mut self, who: Who, wedged: bool) {
        if let Some(host) = self.host_mut(who) {
            host.wedged = wedged;
        }
    }

    /// Does it.
    pub(crate) fn perform(&mut self, who: Who, effect: Effect) {
        let wedged = self.host(who).is_some_and(|host| host.wedged);
        match effect {
            Effect::Regenerate { job, .. }
            | Effect::Copy { job, .. }
            | Effect::Locate { job, .. }
            | Effect::Merge { job, .. }
                if wedged =>
            {
                let failed = JobOutcome::default();
                self.drive(who, |engine, now| engine.handle_job(now, job, failed));
            }
            Effect::Regenerate {
                job,
                stripe,
                shape,
                sources,
                targets,
            } => {
                let there = sources
                    .iter()
                    .filter(|(index, peer)| self.serves(who, *peer, (stripe, *index)));
                let there: BTreeSet<u8> = there.map(|(index, _)| *index).collect();
                let able = there.len() >= usize::from(shape.k);
                self.check_repair(who, stripe);
                let shape = Some(shape).filter(|_| able);
                let targets = targets.into_iter().map(|(index, peer)| (index.into(), peer));
                let outcome = self.hand_out(who, (stripe, shape), targets, &[]);
                self.counters.work.regenerated += outcome.stored.len() as u64;
                self.finish(who, job, stripe, outcome);
            }
            Effect::Copy {
                job,
                stripe,
                item,
                from,
                to,
            } => {
                let there = self.serves(who, from, (stripe, item.into()));
                let known = self.truth.stripes.get(&stripe).filter(|_| there);
                let shape = known.map(|stripe| stripe.shape);
                let outcome = self.hand_out(who, (stripe, shape), [(item, to)], &[]);
                self.counters.work.copied += outcome.stored.len() as u64;
                self.finish(who, job, stripe, outcome);
            }
            Effect::Locate {
                job,
                stripe,
                holders,
                to,
            } => {
                let holders = self.by_number(&holders);
                let shape = self.truth.stripes.get(&stripe).map(|stripe| stripe.shape);
                let targets = to.into_iter().map(|peer| (Item::Locator, peer));
                let outcome = self.hand_out(who, (stripe, shape), targets, &holders);
                self.counters.work.located += outcome.stored.len() as u64;
                self.finish(who, job, stripe, outcome);
            }
            Effect::Drop {
                stripe,
                item,
                expired,
            } => self.drop_shard(who, (stripe, item.into()), expired),
            Effect::Merge { job, id, from, to } => self.merge_records(who, job, id, (&from, to)),
            Effect::Yield { id, to } => self.yield_records(who, id, &to),
            Effect::Discover { point } => {
                let r = self.setup.ring.r;
                self.act(who, |ring, now| ring.lookup(now, point, r));
            }
            Effect::Commit { stripe } => drop(self.commit(who, stripe)),
        }
    }

    /// Commits all shards of a stripe on one disk, and its locator; whether there are any shards.
    pub(crate) fn commit(&mut self, who: Who, stripe: Id) -> bool {
        let now = self.now;
        self.check_spread(who, stripe);
        if let Some(stripe) = self.truth.stripes.get_mut(&stripe) {
            stripe.promised.get_or_insert(now);
        }
        let Some(host) = self.host_mut(who) else {
            return false;
        };
        let (mut any, mut located) = (false, false);
        for ((_, index), stored) in host.disk.range_mut((stripe, 0)..(stripe, TOMBSTONE)) {
            stored.tenure = Tenure::Committed;
            any |= is_shard(*index);
            located |= !is_shard(*index);
        }
        if host.is_liar() {
            return true;
        }
        if any || located {
            self.keep(who, |custody, now, _| custody.committed(now, stripe));
        }
        any
    }

    fn serves(&self, asker: Who, peer: Peer, key: (Id, u8)) -> bool {
        self.reached(asker, peer)
            .and_then(|holder| self.host(holder))
            .is_some_and(|host| {
                host.disk.contains_key(&key) && (key.1 == TOMBSTONE || !host.is_deleted(key.0))
            })
    }

    /// Stores things of a stripe, committed, at those of their targets that the host reaches; nothing of one
    /// without a shape. `holders` is what a locator says.
    fn hand_out(
        &mut self,
        who: Who,
        (stripe, shape): (Id, Option<Shape>),
        targets: impl IntoIterator<Item = (Item, Peer)>,
        holders: &[(u8, Who)],
    ) -> JobOutcome {
        let (stored, failed) = targets.into_iter().partition(|(item, peer)| {
            let to = self.reached(who, *peer).zip(shape);
            to.is_some_and(|(to, shape)| self.make_durable(to, (stripe, (*item).into()), shape, holders))
        });
        JobOutcome {
            stored,
            failed,
            ..JobOutcome::default()
        }
    }

    fn make_durable(&mut self, to: Who, key: (Id, u8), shape: Shape, holders: &[(u8, Who)]) -> bool {
        let tenure = Tenure::Committed;
        let committed = Stored { shape, tenure };
        match key.1 {
            TOMBSTONE => self.store_tombstone(to, key.0, shape),
            LOCATOR => self.replace_locator(to, key.0, committed, holders.to_vec()),
            _ => {
                let stored = self.store(to, key, committed);
                if stored {
                    self.commit(to, key.0);
                }
                stored
            }
        }
    }

    fn finish(&mut self, who: Who, job: JobId, stripe: Id, outcome: JobOutcome) {
        self.counters.moved = Some(stripe);
        self.drive(who, |engine, now| engine.handle_job(now, job, outcome));
    }

    fn drop_shard(&mut self, who: Who, key: (Id, u8), expired: bool) {
        let stored = self.host(who).and_then(|host| host.disk.get(&key).copied());
        if let Some(stored) = stored.filter(|stored| expired && stored.tenure == Tenure::Committed) {
            // The store knows better: the commit was made durable meanwhile.
            self.removed(who, key);
            self.store(who, key, stored);
            return;
        }
        if self.discard(who, key).is_some() {
            self.counters.work.dropped += u64::from(!expired);
            self.counters.moved = Some(key.0);
            if expired {
                self.check_expiry(who, key);
            }
            self.check_drop(who, key, expired);
        }
        self.removed(who, key);
        self.publish(who);
    }

    fn check_drop(&mut self, who: Who, (id, index): (Id, u8), expired: bool) {
        let undeleted = |stripe: &&Stripe| stripe.acked && !stripe.deleted && is_shard(index);
        let Some(stripe) = self.truth.stripes.get(&id).filter(undeleted) else {
            return;
        };
        let left = stripe.distinct();
        let last = !stripe.copies.iter().any(|(other, _)| *other == index);
        let risky = stripe.is_risky(index, self.now);
        let liars = self.liars();
        if left < usize::from(stripe.shape.k) && !risky {
            self.violate(Violation::custody(
                "k durable indices",
                format!(
                    "host {who} dropped {id:?}:{index} of which {left} indices are left, {} needed",
                    stripe.shape.k
                ),
            ));
        } else if last
            && !expired
            && !risky
            && self.truth.stripes.get_mut(&id).is_some_and(|stripe| {
                stripe.taken.insert(index);
                stripe.taken.len() > liars
            })
        {
            self.violate(Violation::custody(
                "no trim drops the last copy",
                format!("host {who} dropped {id:?}:{index}"),
            ));
        }
    }
}
