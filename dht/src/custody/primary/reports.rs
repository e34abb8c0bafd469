//! What holders reported to this primary: for each stripe, who says it holds which index.
//!
//! The record of a holder is exactly what that holder reports to this peer, whether or not this peer thinks
//! itself the primary of the stripe: so totals agree whenever the exchange is complete, and a change of view
//! on one side needs no message until the other side sees it too. Only stripes this peer is the primary of
//! are judged.

use std::collections::{BTreeMap, BTreeSet};

use crate::Time;
use crate::custody::key::{Item, ItemKey, Slot};
use crate::custody::message::{Entry, Listing};
use crate::custody::peers::Handle;
use crate::custody::sweep::Sweep;
use crate::custody::sync::fingerprint::Fingerprints;
use crate::custody::timers::Timers;
use crate::custody::types::Shape;

/// One holder's word for one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::custody) struct Claim {
    pub(super) peer: Handle,
    pub(super) item: Item,
    pub(super) committed: bool,
}

/// The condition of a stripe as its primary judges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// Another peer is the primary of it.
    #[default]
    Foreign,
    /// This peer holds its tombstone, or a holder says that it does.
    Deleted,
    Pending,
    /// This peer has not been the primary for long enough to have heard of all its shards.
    Unsure,
    Lost,
    Endangered,
    Degraded,
    /// Whole after a repair of this peer, and not yet audited by another one.
    Unaudited,
    Safe,
}

/// The record of one stripe. Its fields lie side by side: there is one for every stripe of this primary, and
/// boxes would cost more memory than they tidy up.
#[derive(Debug)]
pub(in crate::custody) struct KnownStripe {
    pub(super) shape: Shape,
    pub(super) claims: Vec<Claim>,
    /// Since when this peer has been the primary of the stripe.
    pub(super) tracked: Option<Time>,
    /// When a claim was last withdrawn by its holder.
    pub(super) withdrawn: Time,
    /// No job begins before this: the last one failed, or its outcome is not reported yet.
    pub(super) not_before: Time,
    /// No instruction to holders goes out before this: the last one is still being followed.
    pub(super) retry_at: Time,
    pub(super) wake: Option<Time>,
    pub(super) queued: Option<u16>,
    pub(super) condition: Condition,
    pub(super) failures: u32,
    pub(super) running: bool,
    pub(super) parked: bool,
    pub(super) inconsistent: bool,
    /// Present while a repair of this peer is not audited as whole.
    pub(super) unaudited: Option<Box<PendingAudit>>,
    /// Present after shards were moved: the peers that have a locator written since.
    pub(super) located: Option<BTreeSet<Handle>>,
    /// Present where records of this id were put together.
    pub(super) merging: Option<Box<Merging>>,
}

/// The last time that the records under an id were put together.
#[derive(Debug, Default)]
pub(super) struct Merging {
    pub(super) running: bool,
    pub(super) failures: u32,
    /// Digests of sets that were put together with the others.
    pub(super) included: BTreeSet<u64>,
    /// They are not put together again before this.
    pub(super) not_before: Time,
    /// Holders are not told again before this that they are too far away.
    pub(super) retry_at: Time,
}

/// The audit that a repair waits for.
#[derive(Debug, Default)]
pub(super) struct PendingAudit {
    pub(super) auditor: Option<Handle>,
    pub(super) asked: usize,
    /// When the next auditor is asked.
    pub(super) due: Time,
}

impl KnownStripe {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            claims: Vec::new(),
            tracked: None,
            withdrawn: Time::ZERO,
            not_before: Time::ZERO,
            retry_at: Time::ZERO,
            wake: None,
            queued: None,
            condition: Condition::Foreign,
            failures: 0,
            running: false,
            parked: false,
            inconsistent: false,
            unaudited: None,
            located: None,
            merging: None,
        }
    }

    /// A stripe with these claims alone.
    pub(super) fn of(shape: Shape, claims: impl Iterator<Item = Claim>) -> Self {
        Self {
            claims: claims.collect(),
            ..Self::new(shape)
        }
    }

    pub(in crate::custody) fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether this peer is the primary of the stripe, as far as it has looked.
    pub(in crate::custody) fn is_tracked(&self) -> bool {
        self.tracked.is_some()
    }

    /// The peers that say that they hold shards.
    pub(in crate::custody) fn shard_holders(&self) -> impl Iterator<Item = Handle> {
        let shards = self.claims.iter().filter(|claim| claim.item.is_shard());
        shards.map(|claim| claim.peer)
    }

    /// Whether the peer says that it holds a shard.
    pub(super) fn holds(&self, peer: Handle) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.peer == peer && claim.item.is_shard())
    }

    /// Whether the peer says that it holds the locator.
    pub(super) fn is_located_at(&self, peer: Handle) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.peer == peer && claim.item == Item::Locator)
    }

    /// A job ended. Locators are outdated by what it moved, or up to date where it wrote them.
    pub(super) fn note_located(&mut self, targets: &[(Item, Handle)], stored: &[(Item, Handle)]) {
        if !self.shape.placement.needs_locators() {
            return;
        }
        if stored.iter().any(|(item, _)| item.is_shard()) {
            self.located = Some(BTreeSet::new());
        } else if targets.iter().any(|(item, _)| *item == Item::Locator) && targets.len() == stored.len() {
            self.located = None;
        } else if let Some(written) = &mut self.located {
            let located = stored.iter().filter(|(item, _)| *item == Item::Locator);
            written.extend(located.map(|(_, peer)| *peer));
        }
    }

    pub(in crate::custody) fn is_committed(&self) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.committed && matches!(claim.item, Item::Shard(_) | Item::Locator))
    }
}

/// The records of all stripes, and which of them must be judged again.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub(super) stripes: BTreeMap<Slot, KnownStripe>,
    pub(super) dirty: BTreeSet<Slot>,
    pub(super) wakes: Timers<Slot>,
    pub(super) sweep: Sweep<Slot>,
    tally: BTreeMap<Condition, usize>,
    parked: usize,
    inconsistent: usize,
}

impl Reports {
    /// Takes a holder's word. `record` is the fingerprint of all its words. The commit of a stripe that
    /// becomes committed is not spread before `retry_at`: the writer is doing that.
    pub(super) fn claim(
        &mut self,
        key: ItemKey,
        shape: Shape,
        claim: Claim,
        record: &mut Fingerprints,
        retry_at: Time,
    ) {
        let tally = &mut self.tally;
        let known = self.stripes.entry(key.slot).or_insert_with(|| {
            *tally.entry(Condition::Foreign).or_default() += 1;
            KnownStripe::new(shape)
        });
        if known.shape == Shape::RECORDS {
            // Who speaks of records under the id of a stripe hides it from nobody.
            known.shape = shape;
        }
        if claim.committed && !known.is_committed() {
            known.retry_at = retry_at;
        }
        let same = |old: &&mut Claim| old.peer == claim.peer && old.item == claim.item;
        match known.claims.iter_mut().find(same) {
            Some(old) if *old == claim => return,
            Some(old) => {
                record.remove(key, old.committed);
                *old = claim;
            }
            None => {
                known.claims.reserve_exact(1);
                known.claims.push(claim);
            }
        }
        record.add(key, claim.committed);
        self.dirty.insert(key.slot);
    }

    /// The holder withdraws its word.
    pub(super) fn withdraw(&mut self, now: Time, key: ItemKey, peer: Handle, record: &mut Fingerprints) {
        if let Some(known) = self.stripes.get_mut(&key.slot) {
            known.withdrawn = now;
            known.claims.retain(|claim| {
                let hit = claim.peer == peer && claim.item == key.item;
                if hit {
                    record.remove(key, claim.committed);
                }
                !hit
            });
            self.dirty.insert(key.slot);
        }
    }

    /// Replaces what `holder` said in one range.
    pub(super) fn replace(
        &mut self,
        now: Time,
        holder: Handle,
        listing: &Listing,
        record: &mut Fingerprints,
        retry_at: Time,
    ) {
        let slot = |stripe| Slot {
            bucket: listing.bucket,
            stripe,
        };
        let listed: BTreeMap<ItemKey, &Entry> = listing
            .entries
            .iter()
            .map(|entry| (entry.into(), entry))
            .collect();
        let range = self.stripes.range(slot(listing.from)..=slot(listing.to));
        let withdrawn: Vec<ItemKey> = range
            .flat_map(|(slot, known)| known.claims.iter().map(move |claim| (*slot, claim)))
            .filter(|(_, claim)| claim.peer == holder)
            .map(|(slot, claim)| ItemKey {
                slot,
                item: claim.item,
            })
            .filter(|key| !listed.contains_key(key))
            .collect();
        for key in withdrawn {
            self.withdraw(now, key, holder, record);
        }
        for (key, entry) in listed {
            let claim = Claim {
                peer: holder,
                item: entry.item,
                committed: entry.committed,
            };
            self.claim(key, entry.shape, claim, record, retry_at);
        }
    }

    /// The next stripes to judge, at most `limit`.
    pub(super) fn unjudged(&mut self, now: Time, limit: usize) -> Vec<Slot> {
        while let Some(slot) = self.wakes.pop_due(now) {
            if let Some(known) = self.stripes.get_mut(&slot) {
                known.wake = None;
                self.dirty.insert(slot);
            }
        }
        let mut slots = self.sweep.slice(&self.stripes, limit);
        while slots.len() < limit
            && let Some(slot) = self.dirty.pop_first()
        {
            slots.push(slot);
        }
        slots
    }

    pub(super) fn wake(&mut self, slot: Slot, at: Option<Time>) {
        if let Some(known) = self.stripes.get_mut(&slot) {
            self.wakes.rearm(slot, &mut known.wake, at);
        }
    }

    /// Notes the condition of a stripe.
    pub(super) fn set_condition(&mut self, slot: Slot, condition: Condition, parked: bool) {
        if let Some(known) = self.stripes.get_mut(&slot) {
            *self.tally.entry(condition).or_default() += 1;
            let old = std::mem::replace(&mut known.condition, condition);
            *self.tally.entry(old).or_default() -= 1;
            self.parked += usize::from(parked);
            self.parked -= usize::from(std::mem::replace(&mut known.parked, parked));
        }
    }

    pub(super) fn mark_inconsistent(&mut self, slot: Slot) {
        if let Some(known) = self.stripes.get_mut(&slot) {
            self.inconsistent += usize::from(!known.inconsistent);
            known.inconsistent = true;
        }
    }

    /// Forgets a stripe nobody claims.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.set_condition(slot, Condition::Foreign, false);
        self.wake(slot, None);
        if let Some(known) = self.stripes.remove(&slot) {
            self.inconsistent -= usize::from(known.inconsistent);
            *self.tally.entry(known.condition).or_default() -= 1;
        }
        self.dirty.remove(&slot);
    }

    pub(super) fn count(&self, condition: Condition) -> usize {
        self.tally.get(&condition).copied().unwrap_or(0)
    }

    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    pub(super) fn inconsistent(&self) -> usize {
        self.inconsistent
    }
}
