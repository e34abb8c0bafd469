//! Which peers may hold the shards of a stripe: those that follow its id, and those that its policy names.

use super::Custody;
use super::key::Slot;
use super::peers::{Handle, ME};
use super::types::Shape;
use crate::placement::{self, Placement, Roster};
use crate::records::ASKED;
use crate::{Flaw, Id, Peer, PeerState, RingView, Time};

/// Peers with their state, best first.
pub(super) type Candidates = [(Handle, PeerState)];

/// All peers in the order of runs, for policies that need them.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    /// Computed on demand since the membership last changed.
    current: Option<Roster>,
    /// Some policy, or the search for holders far away, needs all peers of the ring.
    needed: bool,
}

impl Rosters {
    pub(super) fn membership_changed(&mut self) {
        self.current = None;
    }

    /// From now on the driver sees to it that the ring knows all peers.
    pub(super) fn need(&mut self, needed: bool) {
        self.needed |= needed;
    }
}

impl Custody {
    /// The responsible set of a stripe: the first r peers from its id, its primary first. They hold its
    /// locator.
    pub(super) fn responsible(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
    ) -> Vec<(Handle, PeerState)> {
        self.first(now, ring, slot, self.config.r)
    }

    /// The first peers from an id of records: as many as are asked for them, and some in place of those that
    /// leave.
    pub(super) fn responsible_for_records(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
    ) -> Vec<(Handle, PeerState)> {
        self.first(now, ring, slot, self.config.r.max(ASKED * 2))
    }

    fn first(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        count: usize,
    ) -> Vec<(Handle, PeerState)> {
        let first = ring.successors(slot.stripe, count).into_iter();
        first
            .map(|member| (self.peers.intern(now, member.peer, true), member.state))
            .collect()
    }

    /// The peers that the policy names for a stripe with these holders, best first.
    pub(super) fn policy_peers(
        &mut self,
        now: Time,
        ring: &impl RingView,
        slot: Slot,
        shape: Shape,
        holders: &[Handle],
    ) -> Vec<(Handle, PeerState)> {
        if shape.placement == Placement::Successors || self.config.has(Flaw::ForgetPolicy) {
            return self.responsible(now, ring, slot);
        }
        if shape.placement.needs_roster() {
            self.rosters.need(true);
            if self.rosters.current.is_none() {
                self.rosters.current = Some(Roster::new(self.peers.view().iter().copied()));
            }
        }
        let none = Roster::default();
        let roster = self.rosters.current.as_ref().unwrap_or(&none);
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

    /// Whether a peer may hold shards of a stripe of which something is held here: it is in the responsible
    /// set, or its policy names it.
    pub fn may_hold(&mut self, now: Time, ring: &impl RingView, stripe: Id, peer: Peer) -> bool {
        let slot = Slot::of(stripe);
        let shape = self.holder.shape_of(stripe);
        let Some(peer) = self.intern_alive(now, ring, peer) else {
            return false;
        };
        let mut legal = self.responsible(now, ring, slot);
        if let Some(shape) = shape {
            legal.extend(self.policy_peers(now, ring, slot, shape, &[]));
        }
        legal.iter().any(|(member, _)| *member == peer)
    }

    /// The handle of a peer that others name, if the ring knows it alive. No other is remembered on others'
    /// word.
    pub(super) fn intern_alive(&mut self, now: Time, ring: &impl RingView, peer: Peer) -> Option<Handle> {
        (peer == ring.me() || ring.is_alive(peer)).then(|| self.peers.intern(now, peer, true))
    }

    /// Whether some stripe's policy needs the list of all peers, or holders far away were strangers: then the
    /// driver sees to it that the ring knows all.
    pub fn needs_roster(&self) -> bool {
        self.rosters.needed
    }
}

/// How many candidates come before this peer.
pub(super) fn rank(responsible: &Candidates) -> Option<u32> {
    let rank = responsible.iter().position(|(peer, _)| *peer == ME);
    rank.and_then(|rank| u32::try_from(rank).ok())
}
