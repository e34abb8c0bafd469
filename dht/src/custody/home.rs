//! What a home has been told: for each stripe, who says it holds which index.
//!
//! The record of a holder is exactly what that holder reports to this peer, whether or not this peer thinks
//! itself home of the stripe: so totals agree whenever the exchange is complete, and a change of view on one
//! side needs no message until the other side sees it too. Only stripes this peer is home of are judged.

use std::collections::{BTreeMap, BTreeSet};

use super::fingerprint::{Fingerprints, ShardKey, Slot};
use super::message::{Entry, Listing};
use super::peers::Handle;
use super::sweep::Sweep;
use super::timers::Timers;
use super::types::{LOCATOR, Shape, TOMBSTONE, is_shard};
use crate::Time;

/// One holder's word for one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) peer: Handle,
    pub(super) index: u8,
    pub(super) committed: bool,
}

/// How well a stripe is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Another peer is home of it.
    #[default]
    Foreign,
    /// This peer holds its tombstone, or somebody says that he does.
    Deleted,
    Pending,
    /// This peer has not been home for long enough to have heard of all its shards.
    Unsure,
    Lost,
    Endangered,
    Degraded,
    /// Whole as far as this peer knows, which has repaired it; nobody else has counted it yet.
    Uncounted,
    Safe,
}

/// The record of one stripe.
#[derive(Debug)]
pub(super) struct Homed {
    pub(super) shape: Shape,
    pub(super) claims: Vec<Claim>,
    /// Since when this peer has been home of the stripe.
    pub(super) tracked: Option<Time>,
    /// When a claim was last withdrawn by its holder.
    pub(super) withdrawn: Time,
    /// No job before this: the last one failed, or its outcome is not reported yet.
    pub(super) not_before: Time,
    /// No instruction to holders before this: the last one is still being followed.
    pub(super) nag: Time,
    pub(super) wake: Option<Time>,
    pub(super) queued: Option<u16>,
    pub(super) class: Class,
    pub(super) failures: u32,
    pub(super) running: bool,
    pub(super) parked: bool,
    pub(super) inconsistent: bool,
    /// Repaired here, and nobody else has counted all n since.
    pub(super) uncounted: Option<Box<Uncounted>>,
    /// Shards were moved, and these peers have a locator written since.
    pub(super) located: Option<BTreeSet<Handle>>,
}

/// Who is asked to count a stripe.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    pub(super) counter: Option<Handle>,
    pub(super) asked: usize,
    /// When the next one is asked.
    pub(super) due: Time,
}

impl Homed {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            claims: Vec::new(),
            tracked: None,
            withdrawn: Time::ZERO,
            not_before: Time::ZERO,
            nag: Time::ZERO,
            wake: None,
            queued: None,
            class: Class::Foreign,
            failures: 0,
            running: false,
            parked: false,
            inconsistent: false,
            uncounted: None,
            located: None,
        }
    }

    /// A stripe with these claims alone.
    pub(super) fn of(shape: Shape, claims: impl Iterator<Item = Claim>) -> Self {
        Self {
            claims: claims.collect(),
            ..Self::new(shape)
        }
    }

    /// Whether the peer says that it holds a shard.
    pub(super) fn holds(&self, peer: Handle) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.peer == peer && is_shard(claim.index))
    }

    /// Whether the peer says that it holds the locator.
    pub(super) fn is_located_at(&self, peer: Handle) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.peer == peer && claim.index == LOCATOR)
    }

    /// A job ended: what it moved is not in the locators, or those it wrote are up to date.
    pub(super) fn note_located(&mut self, targets: &[(u8, Handle)], stored: &[(u8, Handle)]) {
        if !self.shape.placement.needs_locators() {
            return;
        }
        if stored.iter().any(|(index, _)| is_shard(*index)) {
            self.located = Some(BTreeSet::new());
        } else if targets.iter().any(|(index, _)| *index == LOCATOR) && targets.len() == stored.len() {
            self.located = None;
        } else if let Some(told) = &mut self.located {
            let written = stored.iter().filter(|(index, _)| *index == LOCATOR);
            told.extend(written.map(|(_, peer)| *peer));
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        let mut shards = self.claims.iter().filter(|claim| claim.index != TOMBSTONE);
        shards.any(|claim| claim.committed)
    }
}

/// All records, and which must be judged again.
#[derive(Debug, Default)]
pub(super) struct Home {
    pub(super) stripes: BTreeMap<Slot, Homed>,
    pub(super) dirty: BTreeSet<Slot>,
    pub(super) wakes: Timers<Slot>,
    pub(super) sweep: Sweep<Slot>,
    tally: BTreeMap<Class, usize>,
    parked: usize,
    inconsistent: usize,
}

impl Home {
    /// Takes a holder's word. `record` is the fingerprint of all its words. A stripe becoming committed is
    /// not spread before `nag`: the writer is doing that.
    pub(super) fn claim(
        &mut self,
        key: ShardKey,
        shape: Shape,
        claim: Claim,
        record: &mut Fingerprints,
        nag: Time,
    ) {
        let tally = &mut self.tally;
        let homed = self.stripes.entry(key.slot).or_insert_with(|| {
            *tally.entry(Class::Foreign).or_default() += 1;
            Homed::new(shape)
        });
        if claim.committed && !homed.is_committed() {
            homed.nag = nag;
        }
        let same = |old: &&mut Claim| old.peer == claim.peer && old.index == claim.index;
        match homed.claims.iter_mut().find(same) {
            Some(old) if *old == claim => return,
            Some(old) => {
                record.remove(key, old.committed);
                *old = claim;
            }
            None => {
                homed.claims.reserve_exact(1);
                homed.claims.push(claim);
            }
        }
        record.add(key, claim.committed);
        self.dirty.insert(key.slot);
    }

    /// The holder withdraws its word.
    pub(super) fn withdraw(&mut self, now: Time, key: ShardKey, peer: Handle, record: &mut Fingerprints) {
        if let Some(homed) = self.stripes.get_mut(&key.slot) {
            homed.withdrawn = now;
            homed.claims.retain(|claim| {
                let hit = claim.peer == peer && claim.index == key.index;
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
        nag: Time,
    ) {
        let slot = |stripe| Slot {
            bucket: listing.bucket,
            stripe,
        };
        let listed: BTreeMap<ShardKey, &Entry> = listing
            .entries
            .iter()
            .map(|entry| (entry.into(), entry))
            .collect();
        let range = self.stripes.range(slot(listing.from)..=slot(listing.to));
        let withdrawn: Vec<ShardKey> = range
            .flat_map(|(slot, homed)| homed.claims.iter().map(move |claim| (*slot, claim)))
            .filter(|(_, claim)| claim.peer == holder)
            .map(|(slot, claim)| ShardKey {
                slot,
                index: claim.index,
            })
            .filter(|key| !listed.contains_key(key))
            .collect();
        for key in withdrawn {
            self.withdraw(now, key, holder, record);
        }
        for (key, entry) in listed {
            let claim = Claim {
                peer: holder,
                index: entry.index,
                committed: entry.committed,
            };
            self.claim(key, entry.shape, claim, record, nag);
        }
    }

    /// The next stripes to judge, at most `limit`.
    pub(super) fn unjudged(&mut self, now: Time, limit: usize) -> Vec<Slot> {
        while let Some(slot) = self.wakes.pop_due(now) {
            if let Some(homed) = self.stripes.get_mut(&slot) {
                homed.wake = None;
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
        if let Some(homed) = self.stripes.get_mut(&slot) {
            self.wakes.rearm(slot, &mut homed.wake, at);
        }
    }

    /// Files the stripe under a class.
    pub(super) fn classify(&mut self, slot: Slot, class: Class, parked: bool) {
        if let Some(homed) = self.stripes.get_mut(&slot) {
            *self.tally.entry(class).or_default() += 1;
            let old = std::mem::replace(&mut homed.class, class);
            *self.tally.entry(old).or_default() -= 1;
            self.parked += usize::from(parked);
            self.parked -= usize::from(std::mem::replace(&mut homed.parked, parked));
        }
    }

    pub(super) fn mark_inconsistent(&mut self, slot: Slot) {
        if let Some(homed) = self.stripes.get_mut(&slot) {
            self.inconsistent += usize::from(!homed.inconsistent);
            homed.inconsistent = true;
        }
    }

    /// Forgets a stripe nobody claims.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.classify(slot, Class::Foreign, false);
        self.wake(slot, None);
        if let Some(homed) = self.stripes.remove(&slot) {
            self.inconsistent -= usize::from(homed.inconsistent);
            *self.tally.entry(homed.class).or_default() -= 1;
        }
        self.dirty.remove(&slot);
    }

    pub(super) fn count(&self, class: Class) -> usize {
        self.tally.get(&class).copied().unwrap_or(0)
    }

    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    pub(super) fn inconsistent(&self) -> usize {
        self.inconsistent
    }
}
