//! Which peers should hold a stripe's shards: a pure function of the stripe, its policy and the peers there
//! are, run by whoever writes and by whoever repairs.
//!
//! All policies name distinct peers, and in all of them virtual nodes decide where a stripe begins, so that a
//! peer that gives twice the disk is twice as often the first.
//!
//! * *successors*: the first peers from the stripe's id (Stoica et al. 2003, `DHash`). With V virtual nodes a
//!   peer shares stripes with the peers behind each of them, so nearly any n peers that die together take a
//!   stripe with them.
//! * *random*: shard i with the successor of `SHA-256(stripe id ‖ i)`, i one byte, that has none yet.
//!   What Cidon et al. 2013 call random replication: every n peers are as likely as any other to hold a
//!   stripe.
//! * *copysets*: all peers, in the order of `SHA-256(peer id)`, fall into consecutive runs of n.
//!   The run of the peer that follows the anchor has the stripe. The `MinCopysets` of Cidon et al. 2013 §6: N
//!   / n sets of peers whose death together loses data, the fewest there can be.
//! * *buddies*: the same with runs of g > n, by default 2n, of which each stripe takes n at random: the order
//!   of `SHA-256(stripe id ‖ peer id)`.
//!
//! Where peers are no multiple of the run, the last runs are longer; of a longer run of copysets a stripe has
//! the n from the peer on that follows the anchor. With fewer peers than one run needs there is one run of
//! all.
//!
//! Peers come and go, and runs change with them, so runs say only where shards *go*: a holder that lives
//! stays one ([`Custody`](crate::custody::Custody) keeps to that), and only those that replace the dead are
//! chosen anew ([`replacements`]): under *copysets* the next ones in the run of the first that is left, so
//! that stripes that had the same holders have the same ones again, and there are no more copysets than
//! before; under *buddies* peers of the run in which most of the holders lie that are left. While less than
//! half a run is missing those runs are cut as if nobody were, so that who dies moves only those behind it,
//! by one, and a file keeps to as many peers as it had. Where a run cannot take all shards, the peers behind
//! it in the order follow: shards off their run are better than none.
//!
//! Deliberately absent: any list of peers that has to be agreed on. Two peers that see different members
//! choose different runs for a moment; what that costs is that some stripe lies across two runs, never a
//! shard.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::circle::Met;
use crate::{Id, Member, Peer, PeerState, RingView};

/// How the holders of a stripe are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The first peers from the stripe's id.
    #[default]
    Successors,
    /// A place for each shard.
    Random,
    /// The run of n peers in which the peer lies that follows the anchor.
    Copysets {
        /// A point that stripes of one group share; the stripe's id where it has a group of its own.
        anchor: Id,
    },
    /// n members of the run of `group` peers in which the peer lies that follows the anchor.
    Buddies {
        /// Peers in a run, at least n.
        group: u8,
        /// As in [`Placement::Copysets`].
        anchor: Id,
    },
}

impl Placement {
    /// Whether holders cannot be found from the stripe's id alone, so that locators are kept.
    pub fn needs_locators(self) -> bool {
        self != Self::Successors
    }

    /// Whether the peers of the whole ring decide, so that all must be known.
    pub fn needs_roster(self) -> bool {
        match self {
            Self::Successors | Self::Random => false,
            Self::Copysets { .. } | Self::Buddies { .. } => true,
        }
    }

    /// Peers in a run for a stripe of n shards; none where there are no runs.
    pub fn group(self, n: u8) -> Option<usize> {
        match self {
            Self::Successors | Self::Random => None,
            Self::Copysets { .. } => Some(usize::from(n)),
            Self::Buddies { group, .. } => Some(usize::from(group.max(n))),
        }
    }
}

/// Shard i of a stripe under *random* goes to the successor of this point.
pub fn point(stripe: Id, i: u8) -> Id {
    let hash = Sha256::new().chain_update(stripe.as_bytes()).chain_update([i]);
    Id::new(hash.finalize().into())
}

/// Where a peer stands in the order that is cut into runs.
fn order(peer: Peer) -> Id {
    Id::new(Sha256::digest(peer.to_peer_id_bytes()).into())
}

/// The lot of a peer of a run for one stripe.
fn lot(stripe: Id, peer: Peer) -> Id {
    let hash = Sha256::new()
        .chain_update(stripe.as_bytes())
        .chain_update(peer.to_peer_id_bytes());
    Id::new(hash.finalize().into())
}

/// All peers in the order that is cut into runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster(Vec<(Id, Peer)>);

impl Roster {
    /// The order of these peers; those that leave are in no run.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let stays = |member: &Member| member.state != PeerState::Draining;
        let members = members.into_iter().filter(stays);
        let mut peers: Vec<(Id, Peer)> = members.map(|member| (order(member.peer), member.peer)).collect();
        peers.sort_unstable();
        peers.dedup();
        Self(peers)
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The runs of `group` peers, the last ones longer where that does not come out even.
    pub fn runs(&self, group: usize) -> impl Iterator<Item = Vec<Peer>> + '_ {
        let cut = Cut::new(self.len(), group);
        (0..cut.runs).map(move |run| {
            let (start, len) = cut.bounds(run);
            self.0
                .iter()
                .skip(start)
                .take(len)
                .map(|(_, peer)| *peer)
                .collect()
        })
    }

    /// The run of `group` in which the peer lies, or would lie, in its order.
    pub fn run_of(&self, peer: Peer, group: usize) -> Vec<Peer> {
        let (peers, run) = self.from(peer, group);
        let mut run: Vec<Peer> = peers.into_iter().take(run).collect();
        run.sort_by_cached_key(|peer| order(*peer));
        run
    }

    /// Where a peer stands, or whoever would follow it; the last one of all if nobody does.
    fn place_of(&self, peer: Peer) -> usize {
        let place = order(peer);
        let at = self.0.partition_point(|(other, _)| *other < place);
        at.min(self.len().saturating_sub(1))
    }

    /// The run of `group` in which most of these peers are, of runs that hardly move when a peer dies: while
    /// less than half a run is missing the others are cut as if nobody were, from the first peer on. The
    /// later run where that is even, because a death moves who follows to the front.
    fn run_of_most(&self, peers: &[Peer], group: usize) -> impl Iterator<Item = Peer> + '_ {
        let (group, len) = (group.max(1), self.len());
        let runs = (len + group / 2) / group;
        let cut = if runs * group > len {
            Cut {
                runs,
                base: group,
                longer: 0,
            }
        } else {
            Cut::new(len, group)
        };
        let mut found: BTreeMap<usize, usize> = BTreeMap::new();
        for peer in peers {
            *found.entry(cut.run_of(self.place_of(*peer))).or_default() += 1;
        }
        let most = found.into_iter().max_by_key(|(run, count)| (*count, *run));
        let (start, taken) = most.map_or((0, 0), |(run, _)| cut.bounds(run));
        self.0.iter().skip(start).take(taken).map(|(_, peer)| *peer)
    }

    /// The peers from `peer` on around its run of `group`, then those behind the run, once around; `peer`
    /// need not be among them. With the length of the run.
    fn from(&self, peer: Peer, group: usize) -> (Vec<Peer>, usize) {
        if self.is_empty() {
            return (Vec::new(), 0);
        }
        let at = self.place_of(peer);
        let cut = Cut::new(self.len(), group);
        let (start, len) = cut.bounds(cut.run_of(at));
        let peers = |from: usize, count: usize| self.0.iter().cycle().skip(from).take(count);
        let run = peers(at, start + len - at).chain(peers(start, at - start));
        let others = peers(start + len, self.len() - len);
        (run.chain(others).map(|(_, peer)| *peer).collect(), len)
    }
}

/// How so many peers are cut into runs: the first of `base` peers, the last `longer` of one more.
#[derive(Clone, Copy)]
struct Cut {
    runs: usize,
    base: usize,
    longer: usize,
}

impl Cut {
    fn new(peers: usize, group: usize) -> Self {
        let runs = (peers / group.max(1)).max(1);
        Self {
            runs,
            base: peers / runs,
            longer: peers % runs,
        }
    }

    fn run_of(self, at: usize) -> usize {
        let shorter = self.runs - self.longer;
        if at < shorter * self.base {
            at / self.base
        } else {
            shorter + (at - shorter * self.base) / (self.base + 1)
        }
    }

    /// Start and length of a run.
    fn bounds(self, run: usize) -> (usize, usize) {
        let longer = run.saturating_sub(self.runs - self.longer);
        let len = self.base + usize::from(run >= self.runs - self.longer);
        (run * self.base + longer, len)
    }
}

/// The peers that should hold the n shards of a stripe, best first: the n first if all take shards, the
/// others where some do not. At least `limit` of them, as far as there are so many. `roster` matters only to
/// policies that [need](Placement::needs_roster) it.
pub fn candidates(
    placement: Placement,
    stripe: Id,
    n: u8,
    ring: &impl RingView,
    roster: &Roster,
    limit: usize,
) -> Vec<Peer> {
    let (anchor, group) = match placement {
        Placement::Successors => return ring.successors(stripe, limit).iter().map(|m| m.peer).collect(),
        Placement::Random => return scattered(stripe, ring, limit),
        Placement::Copysets { anchor } | Placement::Buddies { anchor, .. } => {
            (anchor, placement.group(n).unwrap_or(1))
        }
    };
    let followers = ring.successors(anchor, limit);
    let stays = followers
        .iter()
        .find(|member| member.state != PeerState::Draining);
    let Some(primary) = stays.or(followers.first()) else {
        return Vec::new();
    };
    let (mut peers, run) = roster.from(primary.peer, group);
    if let (Placement::Buddies { .. }, Some(run)) = (placement, peers.get_mut(..run)) {
        run.sort_by_cached_key(|peer| lot(stripe, *peer));
    }
    peers.truncate(limit.max(run));
    peers
}

/// Like [`candidates`], for a stripe that these peers hold shards of and go on to.
pub fn replacements(
    placement: Placement,
    stripe: Id,
    n: u8,
    (ring, roster): (&impl RingView, &Roster),
    limit: usize,
    holders: &[Peer],
) -> Vec<Peer> {
    match (placement, holders.iter().min_by_key(|peer| order(**peer))) {
        (Placement::Copysets { .. }, Some(first)) => {
            let (mut peers, run) = roster.from(*first, usize::from(n));
            peers.truncate(limit.max(run));
            peers
        }
        (Placement::Buddies { group, .. }, Some(_)) => {
            let mut peers: Vec<Peer> = roster.run_of_most(holders, usize::from(group.max(n))).collect();
            peers.sort_by_cached_key(|peer| lot(stripe, *peer));
            for other in candidates(placement, stripe, n, ring, roster, limit) {
                if !peers.contains(&other) {
                    peers.push(other);
                }
            }
            peers
        }
        _ => candidates(placement, stripe, n, ring, roster, limit),
    }
}

/// The successors of a stripe's points, each the first that was not met before.
fn scattered(stripe: Id, ring: &impl RingView, limit: usize) -> Vec<Peer> {
    let mut met = Met::nobody(limit);
    let mut peers = Vec::with_capacity(limit);
    for i in (0..=u8::MAX).take(limit) {
        // One more than were met is enough to meet another one.
        let followers = ring.successors(point(stripe, i), peers.len() + 1);
        let Some(next) = followers.into_iter().find(|member| met.insert(member.peer)) else {
            break;
        };
        peers.push(next.peer);
    }
    peers
}

#[cfg(test)]
mod tests;
