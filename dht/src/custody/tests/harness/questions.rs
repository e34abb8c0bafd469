//! Stripes that a test puts, and what it asks of the network.

use super::*;

impl CustodyNet {
    /// How many peers the ring of `peer` counts, itself included.
    pub(crate) fn knows(&self, peer: Peer) -> usize {
        let ring = self.rings.as_ref().map(|rings| rings.ring(peer));
        ring.map_or(0, |ring| RingView::successors(ring, Id::default(), 1000).len())
    }

    /// The first accepting peers that are up and that the policy names, best first.
    pub(crate) fn policy_peers(&self, stripe: Id, shape: Shape, holders: &[Peer]) -> Vec<Peer> {
        let up = self.up();
        let living: BTreeSet<Peer> = up.iter().copied().collect();
        let states: BTreeMap<Peer, PeerState> = self.nodes.iter().map(|(p, node)| (*p, node.state)).collect();
        let view = View::Oracle {
            me: up[0],
            ids: &self.ids,
            living: &living,
            states: &states,
        };
        let roster = Roster::new(view.successors(stripe, up.len()));
        let policy_peers = replacements(shape.placement, stripe, shape.n, (&view, &roster), 16, holders);
        policy_peers
            .into_iter()
            .filter(|peer| states[peer] == PeerState::Accepting)
            .collect()
    }

    /// The first accepting peers that are up, nearest first.
    pub(crate) fn preferred(&self, stripe: Id, count: u8) -> Vec<Peer> {
        let accepting = |peer| self.is_up(peer) && self.nodes[&peer].state == PeerState::Accepting;
        successors(&self.ids, stripe, usize::from(count), accepting)
    }

    pub(crate) fn primary(&self, stripe: Id) -> Peer {
        successors(&self.ids, stripe, 1, |peer| self.is_up(peer))[0]
    }

    /// Stores a committed stripe at its place.
    pub(crate) fn put(&mut self, stripe: Id, shape: Shape) {
        self.put_as(stripe, shape, Tenure::Committed);
    }

    pub(crate) fn put_as(&mut self, stripe: Id, shape: Shape, tenure: Tenure) {
        let holders = self.policy_peers(stripe, shape, &[]);
        assert!(holders.len() >= usize::from(shape.n));
        for (index, to) in (0..shape.n).zip(holders) {
            let holding = Holding {
                stripe,
                item: Item::Shard(index),
                shape,
                tenure,
            };
            assert!(self.store(to, holding));
        }
    }

    /// Index and holder of the shards on nodes that are up.
    pub(crate) fn live(&self, stripe: Id) -> Vec<(u8, Peer)> {
        let mut live: Vec<(u8, Peer)> = Vec::new();
        for peer in self.up() {
            let shards = self.nodes[&peer]
                .disk
                .range((stripe, Item::FIRST)..=(stripe, Item::LAST));
            live.extend(shards.filter_map(|((_, item), _)| Some((item.shard()?, peer))));
        }
        live.sort_unstable();
        live
    }

    pub(crate) fn distinct(&self, stripe: Id) -> usize {
        let indices: BTreeSet<u8> = self.live(stripe).into_iter().map(|(index, _)| index).collect();
        indices.len()
    }

    /// Whether every index lies on exactly one peer that is up, n peers in all.
    pub(crate) fn is_exact(&self, stripe: Id, n: u8) -> bool {
        let live = self.live(stripe);
        let peers: BTreeSet<Peer> = live.iter().map(|(_, peer)| *peer).collect();
        live.len() == usize::from(n)
            && peers.len() == usize::from(n)
            && self.distinct(stripe) == usize::from(n)
    }

    /// Whether the stripe lies exactly on the peers it should.
    pub(crate) fn is_placed(&self, stripe: Id, n: u8) -> bool {
        let preferred: BTreeSet<Peer> = self.preferred(stripe, n).into_iter().collect();
        self.is_exact(stripe, n) && self.live(stripe).iter().all(|(_, peer)| preferred.contains(peer))
    }

    pub(crate) fn stats(&self) -> CustodyStats {
        let mut sum = CustodyStats::default();
        for peer in self.up() {
            let health = self.nodes[&peer].custody.as_ref().unwrap().stats();
            sum.safe += health.safe;
            sum.degraded += health.degraded;
            sum.unaudited += health.unaudited;
            sum.taken_over_total += health.taken_over_total;
            sum.endangered += health.endangered;
            sum.lost += health.lost;
            sum.pending += health.pending;
            sum.unsure += health.unsure;
            sum.inconsistent += health.inconsistent;
            sum.repairs_waiting += health.repairs_waiting;
            sum.repairs_running += health.repairs_running;
            sum.parked += health.parked;
        }
        sum
    }
}
