//! Who should hold a stripe's shards in its primary's view: the holders that stay, then the peers that its
//! policy names.
//!
//! Under `successors` these are the first peers from the stripe's id, and misplaced shards are handed off.
//! Under the other policies a holder that lives and stays is at its place wherever it is, whatever has become
//! of runs since. Only what replaces the dead and the leaving is placed anew, near the others of its run.
//!
//! A reader of such a stripe knows its id alone. So the responsible set holds its *locator*: the stripe's
//! header, and who held which shard when it was written. A locator is reported to the primary like a shard.
//! The primary has it written where it is missing, and again after it has moved shards. Locators are hints:
//! the primary itself knows better, and no decision rests on one, but that whoever holds it audits the
//! stripe.

use std::collections::BTreeSet;

use super::plan::{Assessment, Decision, Excess};
use super::reports::KnownStripe;
use crate::custody::candidates::Candidates;
use crate::custody::key::Slot;
use crate::custody::peers::{Handle, Peers};
use crate::custody::{Custody, Item};
use crate::placement::Placement;
use crate::{PeerState, RingView, Time};

impl Custody {
    /// The preference list of a stripe: the peers that may hold its shards, best first.
    pub(super) fn preference(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        responsible: &Candidates,
    ) -> Vec<(Handle, PeerState)> {
        let shape = self.primary.reports.stripes.get(&slot).map(|known| known.shape);
        let Some(shape) = shape.filter(|shape| shape.placement != Placement::Successors) else {
            return responsible.to_vec();
        };
        let claims = self
            .primary
            .reports
            .stripes
            .get(&slot)
            .into_iter()
            .flat_map(|known| &known.claims);
        let shards = claims.filter(|claim| claim.item.is_shard());
        let stays =
            |peer: &Handle| self.peers.is_alive(*peer) && self.peers.get(*peer).state != PeerState::Draining;
        let staying: BTreeSet<Handle> = shards.map(|claim| claim.peer).filter(stays).collect();
        let mut staying: Vec<Handle> = staying.into_iter().collect();
        let policy_peers = self.policy_peers(now, ring, slot, shape, &staying);
        let (mut preference, others): (Vec<_>, Vec<_>) = policy_peers
            .into_iter()
            .partition(|(peer, _)| staying.contains(peer));
        staying.retain(|peer| !preference.iter().any(|(other, _)| other == peer));
        preference.extend(staying.into_iter().map(|peer| (peer, self.peers.get(peer).state)));
        preference.extend(others);
        preference
    }
}

/// The responsible peers at which the stripe's locator is to be written: it is missing, or from before shards
/// were moved.
pub(super) fn locate(
    now: Time,
    known: &KnownStripe,
    assessment: &Assessment,
    peers: &Peers,
    responsible: &Candidates,
) -> Option<Decision> {
    if !known.shape.placement.needs_locators() || assessment.live.is_empty() {
        return None;
    }
    let able = |peer: Handle, state| {
        state == PeerState::Accepting && peers.is_alive(peer) && peers.get(peer).refused_until <= now
    };
    let outdated = |peer: Handle| {
        known
            .located
            .as_ref()
            .is_some_and(|written| !written.contains(&peer))
    };
    let lacking = responsible
        .iter()
        .filter(|(peer, state)| able(*peer, *state) && (!known.is_located_at(*peer) || outdated(*peer)));
    let to: Vec<Handle> = lacking.map(|(peer, _)| *peer).collect();
    (!to.is_empty()).then(|| Decision::Locate {
        to,
        holders: assessment.live.clone(),
    })
}

/// Locators with peers outside the responsible set, or that leave, if a responsible peer has one.
pub(super) fn misplaced_locators(
    known: &KnownStripe,
    peers: &Peers,
    responsible: &Candidates,
) -> Vec<Excess> {
    let stays = |peer: Handle| {
        let member = responsible.iter().find(|(member, _)| *member == peer);
        member.is_some_and(|(_, state)| *state != PeerState::Draining)
    };
    let located = |peer: Handle| known.is_located_at(peer) && stays(peer);
    let Some((keep, _)) = responsible.iter().find(|(peer, _)| located(*peer)) else {
        return Vec::new();
    };
    let located = known.claims.iter().filter(|claim| claim.item == Item::Locator);
    let victims = located
        .map(|claim| claim.peer)
        .filter(|peer| peer != keep && !stays(*peer) && peers.is_alive(*peer));
    let excess = |victim| Excess {
        victim,
        item: Item::Locator,
        keep: *keep,
        others: Vec::new(),
    };
    victims.map(excess).collect()
}
