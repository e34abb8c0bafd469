//! Copysets of successor placement: they are counted from a ring, there is no closed form for them.
//!
//! A stripe lies with the first n distinct peers that follow its identifier, so every arc between two virtual
//! nodes makes one set of holders. With one virtual node each, N peers make N sets; with V each up to N·V
//! different ones, and the more there are, the more placement behaves like a random one (Cidon et al. 2013 §3
//! on scatter width).

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

use itertools::Itertools;
use mutualstore_dht::choice::{CANDIDATES, choose};
use mutualstore_dht::{Contact, Id, Peer, PeerState, Signature};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ModelError;
use crate::findings::real;
use crate::shard_map::{MAX_PEERS, PeerSet, peer_set};

/// Rings drawn to find a mean.
const RINGS: u64 = 20;

/// Numbers of peers and of the virtual nodes of each.
type Size = (usize, usize);

/// Rings that were drawn.
static DRAWN: Mutex<BTreeMap<Size, Arc<[Ring]>>> = Mutex::new(BTreeMap::new());

/// Always the same rings of that size. They take seconds to draw, and every code asks for them, so they are
/// remembered.
pub(super) fn drawn(peers: usize, virtual_nodes: usize) -> Arc<[Ring]> {
    let draw = |seed| Ring::draw(peers, virtual_nodes, &mut ChaCha8Rng::seed_from_u64(seed));
    let mut drawn = DRAWN.lock();
    let rings = drawn.entry((peers, virtual_nodes));
    Arc::clone(rings.or_insert_with(|| (0..RINGS).map(draw).collect()))
}

/// Virtual nodes of numbered peers at random points of a circle.
#[derive(Clone, Debug)]
pub struct Ring {
    peers: usize,
    /// Point and owner, ascending.
    nodes: Vec<(u64, usize)>,
}

impl Ring {
    /// `virtual_nodes` of each of `peers`, which come one after the other and choose their places as daemons
    /// do ([`choose`]): rings of them are more even than chance, and have more sets of holders.
    pub fn draw(peers: usize, virtual_nodes: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut known: Vec<Contact> = Vec::with_capacity(peers);
        let indices = (0u16..).take(virtual_nodes * CANDIDATES).collect::<Vec<_>>();
        let groups: Vec<Vec<u16>> = indices.chunks(CANDIDATES).map(<[u16]>::to_vec).collect();
        for _ in 0..peers {
            let peer = Peer::new(rng.random());
            let chosen = choose(peer, &[], &groups, known.iter());
            known.push(Contact {
                peer,
                version: 0,
                virtual_nodes: chosen.into(),
                addresses: [].into(),
                capacity: 1,
                used: 0,
                state: PeerState::Accepting,
                zone: "".into(),
                signature: Signature::default(),
            });
        }
        let places = known.iter().enumerate();
        let nodes = places.flat_map(|(owner, contact)| contact.ids().map(move |id| (point(&id), owner)));
        Self::new(peers, nodes)
    }

    /// The virtual nodes of a ring as points (of 2^64) with the numbers of their owners, below `peers`.
    pub fn new(peers: usize, nodes: impl IntoIterator<Item = (u64, usize)>) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_unstable();
        Self { peers, nodes }
    }

    /// Who holds what lies on each arc, for stripes of `shards`.
    pub fn holder_sets(&self, shards: usize) -> Result<HolderSets, ModelError> {
        let before = self.nodes.iter().cycle().skip(self.nodes.len().max(1) - 1);
        let arcs = self.nodes.iter().zip(before).enumerate();
        let sets = arcs.map(|(start, ((point, _), (last, _)))| {
            let owners = self.nodes.iter().cycle().skip(start).take(self.nodes.len());
            let holders = owners.map(|(_, owner)| *owner).unique().take(shards).collect();
            // The only node of a ring follows itself: the arc is the whole circle, of 2^64 points.
            let share = match point.wrapping_sub(*last) {
                0 => f64::from(self.nodes.len() == 1),
                arc => real(arc) / 2f64.powi(64),
            };
            (holders, share)
        });
        HolderSets::new(self.peers, shards, sets)
    }
}

/// The first 64 bits of an identifier: enough to tell apart those of one network.
pub(crate) fn point(id: &Id) -> u64 {
    u64::from_be_bytes(id.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// The different sets of holders of a ring, each with the share of all stripes that it holds.
#[derive(Clone, Debug)]
pub struct HolderSets {
    sets: Vec<(PeerSet, f64)>,
}

impl HolderSets {
    /// From the holders of each arc and its length in any unit, as read from a ring. Equal sets become one,
    /// arcs of no length none.
    pub fn new(
        peers: usize,
        shards: usize,
        arcs: impl IntoIterator<Item = (Vec<usize>, f64)>,
    ) -> Result<Self, ModelError> {
        if peers > MAX_PEERS {
            return Err(ModelError::TooManyPeers { peers });
        }
        let mut sets: BTreeMap<PeerSet, f64> = BTreeMap::new();
        for (holders, weight) in arcs {
            let set = peer_set(holders.iter().copied());
            if set.count_ones(..) != shards || holders.iter().any(|peer| *peer >= peers) {
                return Err(ModelError::Holders { shards, holders });
            }
            if weight > 0.0 {
                *sets.entry(set).or_default() += weight;
            }
        }
        let sum: f64 = sets.values().sum();
        if sets.is_empty() || !sum.is_finite() {
            return Err(ModelError::EmptyRing);
        }
        let sets = sets.into_iter().map(|(set, weight)| (set, weight / sum));
        Ok(Self { sets: sets.collect() })
    }

    /// Number of different sets.
    pub fn distinct(&self) -> usize {
        self.sets.len()
    }

    /// Share of all stripes of which more than `tolerated` holders are dead.
    pub fn lost(&self, dead: &PeerSet, tolerated: usize) -> f64 {
        let is_lost = |set: &PeerSet| set.intersection_count(dead) > tolerated;
        let lost = self.sets.iter().filter(|(set, _)| is_lost(set));
        lost.map(|(_, weight)| weight).sum()
    }

    /// The holders of a stripe with a random identifier.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> PeerSet {
        let mut point: f64 = rng.random();
        let hit = self.sets.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        // Rounding may leave a point beyond the last set.
        hit.or(self.sets.last())
            .map_or(PeerSet::default(), |(set, _)| set.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::binomial::tail;
    use crate::patterns::Patterns;

    #[test]
    fn one_virtual_node_per_peer_makes_as_many_copysets_as_peers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sets = Ring::draw(12, 1, &mut rng).holder_sets(3).unwrap();
        assert_eq!(sets.distinct(), 12);
        assert!((sets.sets.iter().map(|(_, weight)| weight).sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn more_virtual_nodes_make_more_copysets() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let count = |nodes, rng: &mut _| Ring::draw(36, nodes, rng).holder_sets(3).unwrap().distinct();
        let counts = [1, 4, 16].map(|nodes| count(nodes, &mut rng));
        assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
        assert!(
            counts
                .iter()
                .zip([1, 4, 16])
                .all(|(count, nodes)| *count <= 36 * nodes)
        );
    }

    #[test]
    fn arcs_of_a_ring_weigh_their_length() {
        let quarter = 1 << 62;
        let ring = Ring::new(3, [(0, 0), (quarter, 1), (3 * quarter, 2)]);
        let sets: BTreeMap<PeerSet, f64> = ring.holder_sets(2).unwrap().sets.into_iter().collect();
        let set = |peers: [usize; 2]| peer_set(peers);
        // An identifier up to a node's point belongs to that node.
        let expected = [([0, 1], 0.25), ([1, 2], 0.25), ([0, 2], 0.5)];
        assert_eq!(sets, expected.map(|(peers, weight)| (set(peers), weight)).into());
    }

    #[test]
    fn mean_share_lost_on_any_ring_equals_the_tail() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (peers, shards, tolerated, killed) in [(9, 3, 2, 4), (10, 5, 1, 3), (12, 6, 2, 5)] {
            let sets = Ring::draw(peers, 3, &mut rng).holder_sets(shards).unwrap();
            let patterns = Patterns::choose(peers, killed, u64::MAX, 0);
            let mut sum = 0.0;
            patterns.for_each(|dead| sum += sets.lost(dead, tolerated));
            let mean = sum / f64::from(u32::try_from(patterns.len()).unwrap());
            assert!((mean - tail(peers, shards, killed, tolerated)).abs() < 1e-12);
        }
    }

    #[test]
    fn ring_that_makes_no_sets_is_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let small = Ring::draw(2, 4, &mut rng).holder_sets(3);
        assert!(matches!(small, Err(ModelError::Holders { shards: 3, .. })));
        let empty = Ring::new(3, []).holder_sets(3);
        assert!(matches!(empty, Err(ModelError::EmptyRing)));
        let large = Ring::draw(300, 1, &mut rng).holder_sets(3);
        assert!(matches!(large, Err(ModelError::TooManyPeers { peers: 300 })));
        let unknown = HolderSets::new(3, 2, [(vec![0, 3], 1.0)]);
        assert!(matches!(unknown, Err(ModelError::Holders { .. })));
    }

    #[test]
    fn stripes_on_arcs_are_drawn_in_proportion() {
        let arcs = [(vec![0, 1], 1.0), (vec![1, 2], 3.0), (vec![1, 0], 1.0)];
        let sets = HolderSets::new(3, 2, arcs).unwrap();
        assert_eq!(sets.distinct(), 2);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let first = peer_set([0, 1]);
        let drawn = (0..10_000).filter(|_| sets.draw(&mut rng) == first).count();
        assert!((3_800..4_200).contains(&drawn), "{drawn}");
    }
}
