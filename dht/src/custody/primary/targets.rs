//! Who should hold a stripe's shards in its primary's view: those that do and stay, then those its policy
//! names.
//!
//! Under `successors` these are the first peers from the stripe's id, and what lies elsewhere is handed off.
//! Under the other policies a holder that lives and stays is at its place wherever it is, whatever has become
//! of runs since; so only what replaces the dead and the leaving is placed anew, near the others of its run.
//!
//! Whoever is to read such a stripe knows its id alone. So the first r peers from there hold its *locator*,
//! the stripe's header and who held which shard when it was written: under an index no shard has, reported to
//! the primary like a shard. The primary has it written where it is missing, and again after it has moved
//! shards. Locators are hints: the primary itself knows better, and no decision rests on one but that whoever
//! holds it watches over the stripe (`audit`).

use std::collections::BTreeSet;

use crate::custody::key::Slot;
use crate::custody::peers::{Handle, Peers};
use crate::custody::primary::plan::{Candidates, Decision, Excess, Survey};
use crate::custody::primary::reports::KnownStripe;
use crate::custody::types::{LOCATOR, is_shard};
use crate::custody::{Custody, Shape};
use crate::placement::{self, Placement, Roster};
use crate::{Flaw, Id, Membership, Peer, PeerState, Time};

impl Custody {
    /// The first r peers from the stripe's id: its primary, and who holds its locator.
    pub(in crate::custody) fn responsible(
        &mut self,
        now: Time,
        ring: &impl Membership,
        slot: Slot,
    ) -> Vec<(Handle, PeerState)> {
        let responsible = ring.successors(slot.stripe, self.config.r);
        responsible
            .into_iter()
            .map(|member| (self.peers.intern(now, member.peer, true), member.state))
            .collect()
    }

    /// The peers that the policy names for a stripe that these hold shards of, best first.
    pub(in crate::custody) fn policy_peers(
        &mut self,
        now: Time,
        ring: &impl Membership,
        slot: Slot,
        shape: Shape,
        holders: &[Handle],
    ) -> Vec<(Handle, PeerState)> {
        if shape.placement == Placement::Successors || self.config.has(Flaw::ForgetPolicy) {
            return self.responsible(now, ring, slot);
        }
        if shape.placement.needs_roster() {
            self.needs_roster = true;
            if self.roster.is_none() {
                self.roster = Some(Roster::new(self.peers.view().iter().copied()));
            }
        }
        let none = Roster::default();
        let roster = self.roster.as_ref().unwrap_or(&none);
        let holders: Vec<Peer> = holders.iter().map(|peer| self.peers.get(*peer).peer).collect();
        let peers = placement::replacements(
            shape.placement,
            slot.stripe,
            shape.n,
            (ring, roster),
            self.config.r,
            &holders,
        );
        let peers = peers.into_iter().map(|peer| {
            let handle = self.peers.intern(now, peer, true);
            (handle, self.peers.get(handle).state)
        });
        peers.collect()
    }

    /// Whether a peer may hold shards of a stripe of which something is held here: it is one of the first
    /// from its id, or its policy names it.
    pub fn may_hold(&mut self, now: Time, ring: &impl Membership, stripe: Id, peer: Peer) -> bool {
        let slot = Slot::of(stripe);
        let shape = self.inventory.of(stripe).next().map(|(_, held)| held.shape);
        let Some(peer) = self.intern_alive(now, ring, peer) else {
            return false;
        };
        let mut legal = self.responsible(now, ring, slot);
        if let Some(shape) = shape {
            legal.extend(self.policy_peers(now, ring, slot, shape, &[]));
        }
        legal.iter().any(|(member, _)| *member == peer)
    }

    /// Who may hold the stripe's shards, best first; `responsible` are its first peers.
    pub(in crate::custody) fn preference(
        &mut self,
        now: Time,
        ring: &impl Membership,
        slot: Slot,
        responsible: &Candidates,
    ) -> Vec<(Handle, PeerState)> {
        let shape = self.reports.stripes.get(&slot).map(|known| known.shape);
        let Some(shape) = shape.filter(|shape| shape.placement != Placement::Successors) else {
            return responsible.to_vec();
        };
        let claims = self
            .reports
            .stripes
            .get(&slot)
            .into_iter()
            .flat_map(|known| &known.claims);
        let shards = claims.filter(|claim| is_shard(claim.index));
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

    /// Whether some stripe's policy needs the list of all peers, or holders far away were strangers: then the
    /// driver sees to it that the ring knows all.
    pub fn needs_roster(&self) -> bool {
        self.needs_roster
    }
}

/// Where the stripe's locator is to be written: with those of its first peers that have none, or one from
/// before shards were moved.
pub(in crate::custody) fn locate(
    now: Time,
    known: &KnownStripe,
    survey: &Survey,
    peers: &Peers,
    responsible: &Candidates,
) -> Option<Decision> {
    if !known.shape.placement.needs_locators() || survey.live.is_empty() {
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
        holders: survey.live.clone(),
    })
}

/// Locators with peers that are not, or not for long, among the stripe's first, where those have theirs.
pub(in crate::custody) fn misplaced_locators(
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
    let located = known.claims.iter().filter(|claim| claim.index == LOCATOR);
    let victims = located
        .map(|claim| claim.peer)
        .filter(|peer| peer != keep && !stays(*peer) && peers.is_alive(*peer));
    let excess = |victim| Excess {
        victim,
        index: LOCATOR,
        keep: *keep,
        others: Vec::new(),
    };
    victims.map(excess).collect()
}
