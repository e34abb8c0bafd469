//! Repairs in place of a primary that does not repair: what follows from an audit of a stripe.
//!
//! The i-th peer rebuilds an index that no audit has seen for its patience, which grows with i. Only holders
//! know of a stripe: it stays as it is where none that is left repairs. Nobody's word puts a take-over off
//! for ever. A primary that says that it is at work is believed a few times. Who says that the stripe is
//! deleted shows the tombstone. Of audits in a row that lack an answer, or in which the primary names
//! strangers, only the first few are in doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Audit, MAX_AUDITS};
use crate::custody::candidates::{Candidates, rank};
use crate::custody::key::Slot;
use crate::custody::peers::Handle;
use crate::custody::sync::DEADLINE;
use crate::custody::{Custody, RETRY, Shape};
use crate::{Flaw, RingView, Time};

/// How often a primary that says that it is at work is believed, for one loss.
const BELIEFS: u32 = 4;
/// How many audits in a row may be in doubt, for one loss.
const DOUBTS: u32 = 8;
/// How long a take-over waits for which there is no room among the jobs.
const NO_ROOM: Duration = Duration::from_secs(1);

/// A stripe of which the last audits did not find all indices.
#[derive(Debug)]
pub(super) struct Short {
    since: Time,
    /// When an audit last saw an index, if one did since.
    seen: BTreeMap<u8, Time>,
    /// How often its primary said that it is at work, and was believed.
    beliefs: u32,
    /// How many audits in a row were in doubt.
    doubts: u32,
    /// The timer of the next audit.
    pub(super) wake: Option<Time>,
}

impl Custody {
    /// Draws the consequences of an audit of a stripe held here: remembers since when which indices were not
    /// seen, and takes over if that is too long.
    pub(super) fn weigh(&mut self, now: Time, ring: &impl RingView, slot: Slot, shape: Shape, audit: &Audit) {
        let responsible = self.responsible(now, ring, slot);
        let rank = rank(&responsible).filter(|rank| *rank > 0);
        let seen: BTreeSet<u8> = audit.keepers(&self.config).into_keys().collect();
        let whole = (0..shape.n).all(|index| seen.contains(&index));
        let (Some(rank), false) = (rank, whole) else {
            return self.audits.is_whole(slot);
        };
        if !self.audits.short.contains_key(&slot) && self.audits.short.len() >= MAX_AUDITS {
            return;
        }
        let (delay, patience) = (self.config.repair_delay, self.patience());
        let short = self.audits.short.entry(slot).or_insert_with(|| Short {
            since: now,
            seen: BTreeMap::new(),
            beliefs: 0,
            doubts: 0,
            wake: None,
        });
        let under_repair =
            audit.under_repair && (short.beliefs < BELIEFS || self.config.has(Flaw::BelievePrimaries));
        if under_repair {
            short.beliefs = short.beliefs.saturating_add(1);
            short.since = now;
        }
        short.seen.extend(seen.iter().map(|index| (*index, now)));
        let since = |index: &u8| {
            short
                .seen
                .get(index)
                .map_or(short.since, |seen| short.since.max(*seen))
        };
        short.doubts = if audit.doubtful { short.doubts + 1 } else { 0 };
        let patient = short.doubts <= DOUBTS || self.config.has(Flaw::DoubtForEver);
        if short.doubts > 0 && patient {
            return self.audits.wake(slot, Some(now + delay));
        }
        let unseen = (0..shape.n).filter(|index| since(index) + patience * rank <= now);
        let missing: Vec<u8> = unseen.collect();
        let able = audit.indices().len() >= usize::from(shape.k) && !self.config.has(Flaw::NoTakeOver);
        let next = if under_repair {
            now + patience
        } else if !audit.deleted.is_empty() {
            self.ask_for_proof(now, slot, shape, &audit.deleted);
            now + DEADLINE * 2
        } else if missing.is_empty() {
            now + delay * rank
        } else if !able {
            now + patience * rank
        } else if !self.has_room(now) {
            now + NO_ROOM
        } else {
            let holders: Vec<Handle> = audit.held.iter().map(|(_, peer)| *peer).collect();
            let policy_peers = self.policy_peers(now, ring, slot, shape, &holders);
            self.take_over(now, slot, (shape, &missing), &policy_peers, audit);
            now + RETRY.max(patience)
        };
        self.audits.wake(slot, Some(next));
    }

    /// Has the tombstone of a short stripe copied here from one of the peers that say they have it.
    fn ask_for_proof(&mut self, now: Time, slot: Slot, shape: Shape, from: &BTreeSet<Handle>) {
        if let Some(from) = from.first().copied().filter(|_| self.has_room(now)) {
            self.fetch_tombstone(now, slot, shape, from);
        }
    }

    /// Rebuilds the missing indices of a stripe as its primary would.
    fn take_over(
        &mut self,
        now: Time,
        slot: Slot,
        (shape, missing): (Shape, &[u8]),
        candidates: &Candidates,
        audit: &Audit,
    ) {
        // The policy names other peers in place of the dead than it did for the audit: those that were silent
        // are left out.
        let silent = |peer: &Handle| audit.again.contains(peer) && !audit.answered.contains(peer);
        let there = candidates.iter().filter(|(peer, _)| !silent(peer));
        let there: Vec<_> = there.copied().collect();
        let begun = self.regenerate(now, slot, (shape, missing), &audit.held, &there);
        self.audits.taken_over_total += u64::from(begun);
    }
}
