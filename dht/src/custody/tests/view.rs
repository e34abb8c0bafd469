//! A peer's view of the ring: a set of peers it thinks alive, or a real ring.

use std::collections::{BTreeMap, BTreeSet};

use crate::ring::Ring;
use crate::{Id, Member, Peer, PeerState, RingView};

pub(crate) enum View<'a> {
    Oracle {
        me: Peer,
        ids: &'a BTreeMap<Id, Peer>,
        living: &'a BTreeSet<Peer>,
        states: &'a BTreeMap<Peer, PeerState>,
    },
    Ring(&'a Ring),
}

impl RingView for View<'_> {
    fn me(&self) -> Peer {
        match self {
            Self::Oracle { me, .. } => *me,
            Self::Ring(ring) => RingView::me(*ring),
        }
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        match self {
            Self::Oracle {
                ids, living, states, ..
            } => successors(ids, id, limit, |peer| living.contains(&peer))
                .into_iter()
                .map(|peer| Member {
                    peer,
                    state: states[&peer],
                })
                .collect(),
            Self::Ring(ring) => RingView::successors(*ring, id, limit),
        }
    }

    fn is_alive(&self, peer: Peer) -> bool {
        match self {
            Self::Oracle { living, .. } => living.contains(&peer),
            Self::Ring(ring) => RingView::is_alive(*ring, peer),
        }
    }

    fn moves(&self) -> u64 {
        match self {
            Self::Oracle { .. } => 0,
            Self::Ring(ring) => ring.moves(),
        }
    }

    fn is_settled(&self) -> bool {
        match self {
            Self::Oracle { .. } => true,
            Self::Ring(ring) => ring.is_settled(),
        }
    }
}

/// The first distinct peers that count, clockwise from `id`.
pub(super) fn successors(
    ids: &BTreeMap<Id, Peer>,
    id: Id,
    limit: usize,
    counts: impl Fn(Peer) -> bool,
) -> Vec<Peer> {
    let mut out: Vec<Peer> = Vec::new();
    for (_, peer) in ids.range(id..).chain(ids.range(..id)) {
        if out.len() < limit && counts(*peer) && !out.contains(peer) {
            out.push(*peer);
        }
    }
    out
}
