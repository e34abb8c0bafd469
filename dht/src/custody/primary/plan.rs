//! What a stripe needs: pure judgement over what its primary knows.

use std::collections::BTreeSet;

use super::reports::{Claim, Condition, KnownStripe};
use super::targets;
use crate::custody::Item;
use crate::custody::candidates::Candidates;
use crate::custody::matching::{Matching, Redundancy, by_index};
use crate::custody::peers::{Handle, ME, Peers};
use crate::custody::types::CustodyConfig;
use crate::{Flaw, PeerState, Time};

/// Which indices of a stripe live, and which count as missing.
#[derive(Debug, Default)]
pub(super) struct Assessment {
    /// Index and live holder, committed or not.
    pub(super) live: Vec<(u8, Handle)>,
    /// Indices that no live and no suspect peer holds.
    pub(super) missing: Vec<u8>,
    /// Indices held only by live peers that count for other indices.
    pub(super) doubled: Vec<u8>,
    /// Distinct live indices.
    pub(super) distinct: usize,
    /// Distinct live indices on as many distinct peers.
    pub(super) matched: usize,
    /// No holder has named some index, and one may yet do so.
    pub(super) unsure: bool,
    /// When an index that is neither live nor missing will be missing.
    pub(super) wake: Option<Time>,
}

impl Assessment {
    pub(super) fn take(now: Time, known: &KnownStripe, peers: &Peers, config: &CustodyConfig) -> Self {
        let mut assessment = Self::default();
        for claim in &known.claims {
            let shard = claim.item.shard().filter(|index| *index < known.shape.n);
            if let Some(index) = shard.filter(|_| peers.is_live(claim.peer)) {
                assessment.live.push((index, claim.peer));
            }
        }
        let live: BTreeSet<u8> = assessment.live.iter().map(|(index, _)| *index).collect();
        assessment.distinct = live.len();
        let matching = Matching::of(&by_index(
            known.shape.n,
            &assessment.live.iter().copied(),
            |peer| peer,
        ));
        let twice = config.has(Flaw::CountTwice);
        assessment.matched = if twice {
            assessment.distinct
        } else {
            matching.len()
        };
        let delay = if assessment.matched == usize::from(known.shape.k) {
            config.repair_delay.min(config.exactly_k_delay)
        } else {
            config.repair_delay
        };
        let unheard = || {
            // Where all missing peers are forgotten, those that are there have reported soon.
            let patience = if peers.misses_only_forgotten(now) {
                delay.min(config.exchange_idle * 2)
            } else {
                delay
            };
            let tracked = peers.tracked_since(known.tracked.unwrap_or(now));
            (tracked + patience).max(known.withdrawn + config.settle())
        };
        for index in 0..known.shape.n {
            if matching.keeper(index).is_some() || twice && live.contains(&index) {
                continue;
            }
            let claims = known
                .claims
                .iter()
                .filter(|claim| claim.item == Item::Shard(index));
            let away = claims.filter(|claim| !peers.is_live(claim.peer));
            let suspected = away.map(|claim| peers.gone_at(claim.peer, delay)).max();
            if suspected.is_none() && live.contains(&index) {
                assessment.doubled.push(index);
                continue;
            }
            let due = suspected.unwrap_or_else(unheard);
            if due > now {
                assessment.unsure |= suspected.is_none();
                assessment.wake = Some(assessment.wake.map_or(due, |wake| wake.min(due)));
            } else if live.contains(&index) {
                assessment.doubled.push(index);
            } else {
                assessment.missing.push(index);
            }
        }
        assessment
    }

    pub(super) fn condition(&self, known: &KnownStripe) -> Condition {
        let shape = known.shape;
        if !known.is_committed() {
            return Condition::Pending;
        }
        match Redundancy::judge(self.distinct, self.matched, shape.k, shape.n) {
            Redundancy::Whole if known.unaudited.is_some() => Condition::Unaudited,
            Redundancy::Whole => Condition::Safe,
            _ if self.unsure => Condition::Unsure,
            Redundancy::Lost => Condition::Lost,
            Redundancy::Endangered => Condition::Endangered,
            Redundancy::Degraded => Condition::Degraded,
        }
    }

    /// Matches indices with holders: with as many preferred peers as can be, then with any, the nearest
    /// first. Only holders for which `counts` is true take part.
    fn keepers(
        &self,
        n: u8,
        preferred: &[Handle],
        candidates: &Candidates,
        counts: impl Fn(u8, Handle) -> bool,
    ) -> Matching<Handle> {
        let held = self
            .live
            .iter()
            .copied()
            .filter(|(index, peer)| counts(*index, *peer));
        let mut holders = by_index(n, &held, |peer| {
            (!preferred.contains(&peer), position(candidates, peer), peer)
        });
        holders.sort_by_key(|(_, peers)| peers.len());
        let mut preferred_first = holders.clone();
        for (_, peers) in &mut preferred_first {
            peers.retain(|peer| preferred.contains(peer));
        }
        let mut keepers = Matching::of(&preferred_first);
        keepers.extend(&holders);
        keepers
    }
}

/// The next job for a stripe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Nothing,
    Regenerate {
        sources: Vec<(u8, Handle)>,
        targets: Vec<(u8, Handle)>,
    },
    Copy {
        item: Item,
        from: Handle,
        to: Handle,
    },
    /// Write the locator.
    Locate {
        to: Vec<Handle>,
        holders: Vec<(u8, Handle)>,
    },
    /// Something is missing and nobody can take it. If a peer refused lately, it is asked again then.
    Parked {
        until: Option<Time>,
    },
}

/// An excess shard or locator, and the holders that make it one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) victim: Handle,
    pub(super) item: Item,
    pub(super) keep: Handle,
    pub(super) others: Vec<(u8, Handle)>,
}

fn position(candidates: &Candidates, peer: Handle) -> usize {
    candidates
        .iter()
        .position(|(member, _)| *member == peer)
        .unwrap_or(usize::MAX)
}

/// The preferred peers: the first n of the candidates that take shards, or hold one already and do not leave.
/// A full holder stays preferred, or else a peer near its limit would be emptied and refilled in turns.
fn preferred(now: Time, known: &KnownStripe, peers: &Peers, candidates: &Candidates) -> Vec<Handle> {
    let holds = |peer| known.holds(peer);
    let eligible = |peer, state| match state {
        PeerState::Accepting => holds(peer) || peers.get(peer).refused_until <= now,
        PeerState::Full => holds(peer),
        PeerState::Draining => false,
    };
    let legal = candidates.iter().filter(|(peer, state)| eligible(*peer, *state));
    legal
        .map(|(peer, _)| *peer)
        .take(usize::from(known.shape.n))
        .collect()
}

/// When the first of the candidates that failed to take a shard lately may be asked again.
pub(super) fn refusal(now: Time, peers: &Peers, candidates: &Candidates) -> Option<Time> {
    let refused = candidates.iter().map(|(peer, _)| peers.get(*peer).refused_until);
    refused.filter(|until| *until > now).min()
}

/// Where the tombstone of a stripe goes next. This peer gets it first, for it believes nobody's word for it.
/// Then come the peers that should hold shards and those that say they do. None if nobody is known to have
/// one.
pub(super) fn replicate_tombstone(
    now: Time,
    known: &KnownStripe,
    peers: &Peers,
    responsible: &Candidates,
    deleted: bool,
) -> Option<Decision> {
    let able = |peer: Handle| peers.is_alive(peer) && peers.get(peer).refused_until <= now;
    let (tombstones, shards): (Vec<&Claim>, Vec<&Claim>) = known
        .claims
        .iter()
        .partition(|claim| claim.item == Item::Tombstone);
    let (from, to) = if deleted {
        let preferred = responsible
            .iter()
            .map(|(peer, _)| *peer)
            .take(usize::from(known.shape.n));
        let has = |peer: Handle| peer == ME || tombstones.iter().any(|claim| claim.peer == peer);
        let mut wanted = preferred.chain(shards.iter().map(|claim| claim.peer));
        let Some(to) = wanted.find(|peer| !has(*peer) && able(*peer)) else {
            return Some(Decision::Nothing);
        };
        (ME, to)
    } else {
        (tombstones.iter().find(|claim| able(claim.peer))?.peer, ME)
    };
    Some(Decision::Copy {
        item: Item::Tombstone,
        from,
        to,
    })
}

/// What to do next for a committed stripe: first for its shards, then for its locators with the responsible
/// set.
pub(super) fn decide(
    now: Time,
    known: &KnownStripe,
    assessment: &Assessment,
    peers: &Peers,
    (preference, responsible): (&Candidates, &Candidates),
) -> Decision {
    let decision = place(now, known, assessment, peers, preference);
    match decision {
        // Readers must find what holders cannot take at the moment.
        Decision::Nothing | Decision::Parked { .. } => {
            targets::locate(now, known, assessment, peers, responsible).unwrap_or(decision)
        }
        Decision::Regenerate { .. } | Decision::Copy { .. } | Decision::Locate { .. } => decision,
    }
}

/// What to do next for the shards of a committed stripe.
fn place(
    now: Time,
    known: &KnownStripe,
    assessment: &Assessment,
    peers: &Peers,
    candidates: &Candidates,
) -> Decision {
    let regenerated = |wanted: &[u8]| regenerate(now, known, (assessment, wanted), peers, candidates);
    if assessment.distinct < usize::from(known.shape.k) || known.inconsistent {
        return Decision::Nothing;
    }
    if !assessment.missing.is_empty() {
        return regenerated(&assessment.missing);
    }
    if assessment.distinct < usize::from(known.shape.n) {
        return Decision::Nothing;
    }
    // A copy costs less than rebuilding, but a peer that says that it holds an index need not have it.
    let handoff = handoff(
        known,
        assessment,
        candidates,
        &preferred(now, known, peers, candidates),
    );
    let failed = known.failures > 0;
    let mut wanted = assessment.doubled.clone();
    if let Decision::Copy { item, .. } = &handoff {
        if !failed {
            return handoff;
        }
        if wanted.is_empty() {
            wanted.extend(item.shard());
        }
    }
    if wanted.is_empty() {
        return handoff;
    }
    let rebuilt = regenerated(&wanted);
    if matches!(rebuilt, Decision::Parked { .. }) {
        handoff
    } else {
        rebuilt
    }
}

/// Rebuilds the wanted indices of a stripe from the nearest holders, on peers that hold nothing of it.
pub(super) fn regenerate(
    now: Time,
    known: &KnownStripe,
    (assessment, wanted): (&Assessment, &[u8]),
    peers: &Peers,
    candidates: &Candidates,
) -> Decision {
    let holds = |peer| known.holds(peer);
    let willing = candidates
        .iter()
        .filter(|(peer, state)| *state == PeerState::Accepting && !holds(*peer));
    let refused = |peer: &Handle| peers.get(*peer).refused_until > now;
    let (refusing, mut able): (Vec<Handle>, Vec<Handle>) = willing.map(|(peer, _)| *peer).partition(refused);
    let rank = |peer: Handle| (peer != ME, position(candidates, peer), peer);
    let held = assessment.live.iter().copied();
    let nearest = Matching::of(&by_index(known.shape.n, &held, rank));
    if able.is_empty() {
        // All peers that take shards hold some of this stripe: one whose shards others keep is as good as
        // free.
        let spare = candidates
            .iter()
            .filter(|(peer, state)| *state == PeerState::Accepting && !refused(peer) && !nearest.keeps(peer));
        able.extend(spare.map(|(peer, _)| *peer).take(1));
    }
    if able.is_empty() {
        let until = refusing.iter().map(|peer| peers.get(*peer).refused_until).min();
        return Decision::Parked { until };
    }
    // Each peer is asked for one index first: one that says that it holds several may hold none.
    let mut sources: Vec<(u8, Handle)> = nearest.pairs().into_iter().collect();
    sources.sort_by_key(|(_, peer)| rank(*peer));
    let mut others: Vec<(u8, Handle)> = assessment.live.clone();
    others.retain(|shard| !sources.contains(shard));
    others.sort_by_key(|(index, peer)| (rank(*peer), *index));
    sources.extend(others);
    Decision::Regenerate {
        sources,
        targets: wanted.iter().copied().zip(able).collect(),
    }
}

/// The next copy of a misplaced shard: one whose keeper is not preferred, or that has no keeper because its
/// holder keeps another one. It goes to the first preferred peer that holds nothing. Where all of them hold
/// something, a shard whose keeper is not preferred goes to a preferred peer that keeps nothing. What that
/// peer holds would go as excess, but for holders so far away that preferred peers do not know them.
fn handoff(
    known: &KnownStripe,
    assessment: &Assessment,
    candidates: &Candidates,
    preferred: &[Handle],
) -> Decision {
    let keepers = assessment.keepers(known.shape.n, preferred, candidates, |_, _| true);
    let empty = |peer: &&Handle| !known.holds(**peer);
    let spare = |peer: &&Handle| !keepers.keeps(peer);
    let (to, crowded) = match preferred.iter().find(empty) {
        Some(to) => (to, true),
        None => match preferred.iter().rfind(spare) {
            Some(to) => (to, false),
            None => return Decision::Nothing,
        },
    };
    let misplaced = assessment
        .live
        .iter()
        .filter(|(index, peer)| match keepers.keeper(*index) {
            Some(keeper) => keeper == *peer && !preferred.contains(peer),
            None => crowded,
        });
    let farthest =
        misplaced.max_by_key(|(_, peer)| (!preferred.contains(peer), position(candidates, *peer), *peer));
    farthest.map_or(Decision::Nothing, |(index, from)| Decision::Copy {
        item: Item::Shard(*index),
        from: *from,
        to: *to,
    })
}

/// The excess of a stripe: shards, and locators where they are of no use.
pub(super) fn excess(
    now: Time,
    known: &KnownStripe,
    assessment: &Assessment,
    peers: &Peers,
    (preference, responsible): (&Candidates, &Candidates),
) -> Vec<Excess> {
    let mut excess = excess_shards(now, known, assessment, peers, preference);
    excess.extend(targets::misplaced_locators(known, peers, responsible));
    excess
}

/// Shards of a whole stripe that may go because another holder of the same index is better placed: preferred,
/// or else nearer. No peer keeps more than one.
fn excess_shards(
    now: Time,
    known: &KnownStripe,
    assessment: &Assessment,
    peers: &Peers,
    candidates: &Candidates,
) -> Vec<Excess> {
    let n = usize::from(known.shape.n);
    let committed = |index: u8, peer: Handle| {
        let mut claims = known.claims.iter();
        claims.any(|claim| claim.item == Item::Shard(index) && claim.peer == peer && claim.committed)
    };
    if assessment.live.len() <= n || assessment.matched < n {
        return Vec::new();
    }
    let preferred = preferred(now, known, peers, candidates);
    let keepers = assessment
        .keepers(known.shape.n, &preferred, candidates, committed)
        .pairs();
    if keepers.len() < n {
        return Vec::new();
    }
    let victims = assessment
        .live
        .iter()
        .filter(|(index, peer)| committed(*index, *peer));
    let victims = victims.filter(|(index, peer)| keepers.get(index) != Some(peer));
    let excess = |(index, victim): &(u8, Handle)| {
        let others = keepers.iter().filter(|(other, _)| *other != index);
        Some(Excess {
            victim: *victim,
            item: Item::Shard(*index),
            keep: *keepers.get(index)?,
            others: others.map(|(other, peer)| (*other, *peer)).collect(),
        })
    };
    victims.filter_map(excess).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::custody::Shape;
    use crate::custody::key::{ItemKey, Slot};
    use crate::custody::primary::reports::Reports;
    use crate::custody::sync::fingerprint::Fingerprints;
    use crate::custody::tests::harness::{peer, stripe};
    use crate::placement::Placement;

    const SHAPE: Shape = Shape {
        k: 1,
        n: 3,
        shard_len: 1,
        placement: Placement::Successors,
    };

    /// The decision of a primary, itself preferred first, to which `live` is reported.
    fn decided(live: &[(u8, u8)]) -> (Decision, impl Fn(u8) -> Handle) {
        let mut peers = Peers::new(peer(0), Duration::from_secs(5), Time::ZERO);
        let handles: Vec<Handle> = (0..8)
            .map(|number| peers.intern(Time::ZERO, peer(number), true))
            .collect();
        let handle = move |number: u8| handles.get(usize::from(number)).copied().unwrap_or(ME);
        let mut reports = Reports::default();
        let slot = Slot::of(stripe(1));
        for (index, holder) in live {
            let claim = Claim {
                peer: handle(*holder),
                item: Item::Shard(*index),
                committed: true,
            };
            let key = ItemKey {
                slot,
                item: claim.item,
            };
            reports.claim(key, SHAPE, claim, &mut Fingerprints::default(), Time::ZERO);
        }
        let assessment = Assessment {
            live: live
                .iter()
                .map(|(index, holder)| (*index, handle(*holder)))
                .collect(),
            distinct: 3,
            matched: 3,
            ..Assessment::default()
        };
        let candidates: Vec<(Handle, PeerState)> =
            (0..8).map(|n| (handle(n), PeerState::Accepting)).collect();
        let known = reports.stripes.get(&slot).unwrap();
        let decision = decide(Time::ZERO, known, &assessment, &peers, (&candidates, &candidates));
        (decision, handle)
    }

    #[test]
    fn misplaced_shard_goes_to_a_preferred_peer_that_keeps_nothing() {
        // Peers 0 to 2 are preferred; peer 7 is too far away for them to know it, so what is double stays
        // for ever.
        let (decision, handle) = decided(&[(0, 0), (0, 1), (1, 2), (1, 5), (2, 7)]);
        let expected = Decision::Copy {
            item: Item::Shard(2),
            from: handle(7),
            to: handle(1),
        };
        assert_eq!(decision, expected);
        // A preferred peer that holds nothing is better, and one that keeps an index of its own is no target.
        let (decision, _) = decided(&[(0, 0), (1, 1), (0, 2), (2, 7)]);
        assert!(matches!(decision, Decision::Copy { item: Item::Shard(2), to, .. } if to == handle(2)));
        let (decision, _) = decided(&[(0, 0), (1, 1), (2, 2), (2, 7)]);
        assert_eq!(decision, Decision::Nothing);
    }
}
