//! Choosing places on the circle for new virtual nodes, as a pure function.
//!
//! Identifiers are hashes, so arcs between them differ by orders of magnitude, and with them the load of
//! peers with few virtual nodes. Each new virtual node therefore chooses among [`CANDIDATES`] unused indices
//! (the power of several choices, Byers et al. 2003, "Simple load balancing for distributed hash tables").
//! First each takes the one that splits its arc best. Then each looks once more at its candidates and moves
//! where that lowers
//!
//! ```text
//! Σ over n in {2, 3, 6}, over peers p of load(p, n)² / virtual nodes of p
//! ```
//!
//! `load(p, n)` being the part of the circle for which p is among the first n distinct peers: what p stores
//! of stripes with n shards. The sum is least when load is proportional to capacity. Splitting arcs alone
//! leaves peers with few virtual nodes at the mercy of their neighbours; at 12 peers with capacities 1 to 4
//! the second step takes the largest load per capacity from 1.16 times the mean to 1.1 for n = 2, at 36 peers
//! with capacities 1 to 10 from 1.19 to 1.05 for n = 6.
//!
//! What a peer may choose among is fixed by its identity, so a place is still nobody's to pick.

use std::collections::BTreeMap;

use crate::circle::{clockwise, counter_clockwise};
use crate::contact::{MAX_INDEX, MAX_VIRTUAL_NODES};
use crate::{Contact, Id, Peer};

/// Indices each new virtual node is chosen from.
pub const CANDIDATES: usize = (MAX_INDEX / MAX_VIRTUAL_NODES) as usize;

/// Shards per stripe the load is balanced for.
const SHARDS: [usize; 3] = [2, 3, 6];
/// The most of them.
const MOST: usize = 6;
/// Virtual nodes that look again, at most: with more, chance balances them.
const SECOND_LOOKS: usize = 64;

/// The best of each group of `candidates` for `me`, which keeps its virtual nodes `kept`, in a ring of
/// `known` peers.
pub fn choose<'a>(
    me: Peer,
    kept: &[u16],
    candidates: &[Vec<u16>],
    known: impl Iterator<Item = &'a Contact>,
) -> Vec<u16> {
    let mut circle = Circle::default();
    for contact in known.filter(|contact| contact.peer != me) {
        for id in contact.ids() {
            circle.nodes.insert(id, contact.peer);
        }
        circle
            .sizes
            .insert(contact.peer, count(contact.virtual_nodes.len()));
    }
    let place = |index: &u16| (*index, me.virtual_node(*index));
    circle.nodes.extend(kept.iter().map(|index| (place(index).1, me)));
    circle.sizes.insert(me, count(kept.len() + candidates.len()));
    let mut chosen = Vec::with_capacity(candidates.len());
    for group in candidates {
        if let Some(best) = group.iter().map(place).max_by_key(|(_, id)| circle.split(*id)) {
            circle.nodes.insert(best.1, me);
            chosen.push(best);
        }
    }
    if circle.sizes.len() > 1 {
        circle.weigh();
        for (current, group) in chosen.iter_mut().zip(candidates).take(SECOND_LOOKS) {
            circle.look_again(me, current, group.iter().map(place));
        }
    }
    chosen.into_iter().map(|(index, _)| index).collect()
}

#[expect(clippy::cast_precision_loss, reason = "at most 256")]
fn count(nodes: usize) -> f64 {
    nodes as f64
}

/// Virtual nodes and what their places make peers store.
#[derive(Default)]
struct Circle {
    nodes: BTreeMap<Id, Peer>,
    /// Virtual nodes each peer is to have.
    sizes: BTreeMap<Peer, f64>,
    /// Parts of the circle each peer is responsible for, one for each of [`SHARDS`].
    loads: BTreeMap<Peer, [f64; SHARDS.len()]>,
}

impl Circle {
    /// How well `id` splits the arc it lies on: the product of the two parts.
    fn split(&self, id: Id) -> u128 {
        let after = clockwise(&self.nodes, id).next();
        match (counter_clockwise(&self.nodes, id).next(), after) {
            (Some((before, _)), Some((after, _))) => {
                u128::from(id.distance_from(&before).prefix()) * u128::from(after.distance_from(&id).prefix())
            }
            (None, _) | (_, None) => 0,
        }
    }

    /// Computes all loads.
    fn weigh(&mut self) {
        self.loads.clear();
        let all: Vec<Id> = self.nodes.keys().copied().collect();
        self.count(&all, 1.0);
    }

    /// Adds the arcs that end at these nodes to the loads, `sign` times.
    fn count(&mut self, ends: &[Id], sign: f64) {
        for end in ends {
            let start = counter_clockwise(&self.nodes, *end).next();
            let Some((start, _)) = start else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let arc = end.distance_from(&start).prefix() as f64 / u64::MAX as f64 * sign;
            for (place, peer) in self.holders(*end).into_iter().enumerate() {
                let loads = self.loads.entry(peer).or_default();
                for (load, shards) in loads.iter_mut().zip(SHARDS) {
                    *load += if place < shards { arc } else { 0.0 };
                }
            }
        }
    }

    /// The first distinct peers from `end` on.
    fn holders(&self, end: Id) -> Vec<Peer> {
        let mut holders: Vec<Peer> = Vec::with_capacity(MOST);
        for (_, peer) in clockwise(&self.nodes, end) {
            if !holders.contains(&peer) {
                holders.push(peer);
                if holders.len() == MOST {
                    break;
                }
            }
        }
        holders
    }

    /// Nodes other than `id` whose arcs or their holders depend on whether `me` has a node at `id`.
    fn around(&self, me: Peer, id: Id) -> Vec<Id> {
        let mut before: Vec<Peer> = Vec::with_capacity(MOST);
        let next = clockwise(&self.nodes, id)
            .map(|(next, _)| next)
            .find(|next| *next != id);
        let mut ends: Vec<Id> = next.into_iter().collect();
        for (end, peer) in counter_clockwise(&self.nodes, id) {
            if peer != me && !before.contains(&peer) {
                before.push(peer);
            }
            if before.len() == MOST || end == id || Some(end) == next {
                break;
            }
            ends.push(end);
        }
        ends
    }

    /// Puts a node of `me` at `id`, or takes it away if it is there.
    fn toggle(&mut self, me: Peer, id: Id) {
        let mut ends = self.around(me, id);
        if self.nodes.contains_key(&id) {
            self.count(&[id], -1.0);
            self.count(&ends, -1.0);
            self.nodes.remove(&id);
        } else {
            self.count(&ends, -1.0);
            self.nodes.extend([(id, me)]);
            ends.push(id);
        }
        self.count(&ends, 1.0);
    }

    /// The sum to be made small.
    fn unevenness(&self) -> f64 {
        let peers = self.loads.iter().map(|(peer, loads)| {
            let size = self.sizes.get(peer).copied().unwrap_or(1.0);
            loads.iter().map(|load| load * load).sum::<f64>() / size
        });
        peers.sum()
    }

    /// Moves a node of `me` to the best of its candidates.
    fn look_again(&mut self, me: Peer, current: &mut (u16, Id), group: impl Iterator<Item = (u16, Id)>) {
        let mut least = self.unevenness();
        for candidate in group {
            if self.nodes.contains_key(&candidate.1) {
                continue;
            }
            self.toggle(me, current.1);
            self.toggle(me, candidate.1);
            let unevenness = self.unevenness();
            if unevenness < least {
                least = unevenness;
                *current = candidate;
            } else {
                self.toggle(me, candidate.1);
                self.toggle(me, current.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{contact, peer};

    /// A circle grown by newcomers that choose, `size` virtual nodes each.
    fn grown(first: usize, count: usize, size: impl Fn(usize) -> u16) -> Vec<Contact> {
        let mut all: Vec<Contact> = Vec::new();
        for number in first..first + count {
            let candidates: Vec<Vec<u16>> = (0..size(number) * 8)
                .collect::<Vec<u16>>()
                .chunks(CANDIDATES)
                .map(<[u16]>::to_vec)
                .collect();
            let mut newcomer = contact(number, 1, 0);
            let mut chosen = choose(newcomer.peer, &[], &candidates, all.iter());
            chosen.sort_unstable();
            newcomer.virtual_nodes = chosen.into();
            assert!(newcomer.is_valid());
            all.push(newcomer);
        }
        all
    }

    fn drawn(first: usize, count: usize, size: impl Fn(usize) -> u16) -> Vec<Contact> {
        let numbers = first..first + count;
        numbers.map(|number| contact(number, 1, size(number))).collect()
    }

    /// The largest load per virtual node, by its mean, for each of [`SHARDS`].
    fn imbalance(contacts: &[Contact]) -> [f64; 3] {
        let mut circle = Circle::default();
        for contact in contacts {
            circle.nodes.extend(contact.ids().map(|id| (id, contact.peer)));
            circle
                .sizes
                .insert(contact.peer, super::count(contact.virtual_nodes.len()));
        }
        circle.weigh();
        let all: f64 = circle.sizes.values().sum();
        let mut most = [0.0; 3];
        for (peer, loads) in &circle.loads {
            for ((most, load), shards) in most.iter_mut().zip(loads).zip(SHARDS) {
                *most = f64::max(*most, load / circle.sizes[peer] * all / super::count(shards));
            }
        }
        most
    }

    #[test]
    fn load_with_chosen_positions_follows_size() {
        let small = |number| [8, 16, 24, 32][number % 4];
        let large = |number: usize| [4, 40, 12, 28, 20, 8, 36, 16, 32, 24][number % 10];
        let mut sums = [0.0; 4];
        for round in 0..4 {
            let first = round * 100;
            let [two, three, _] = imbalance(&grown(first, 12, small));
            assert!(two < 1.35 && three < 1.35, "{two} {three}");
            let [_, _, six] = imbalance(&grown(first, 36, large));
            assert!(six < 1.2, "{six}");
            sums[0] += two - 1.0;
            sums[1] += imbalance(&drawn(first, 12, small))[0] - 1.0;
            sums[2] += six - 1.0;
            sums[3] += imbalance(&drawn(first, 36, large))[2] - 1.0;
        }
        assert!(sums[0] < sums[1] / 2.0 && sums[2] < sums[3] / 3.0, "{sums:?}");
    }

    #[test]
    fn loads_updated_in_steps_equal_loads_computed_anew() {
        for count in [2, 5, 7, 20] {
            let mut circle = Circle::default();
            for contact in drawn(0, count, |number| 1 + u16::try_from(number % 3).unwrap()) {
                circle.nodes.extend(contact.ids().map(|id| (id, contact.peer)));
            }
            circle.weigh();
            for index in 100..140 {
                let who = peer(usize::from(index) % count);
                circle.toggle(who, who.virtual_node(index));
                if index % 3 == 0 {
                    circle.toggle(who, who.virtual_node(index));
                }
                let kept = circle.loads.clone();
                circle.weigh();
                for (peer, loads) in &circle.loads {
                    for (anew, kept) in loads.iter().zip(kept[peer]) {
                        assert!(
                            (anew - kept).abs() < 1e-9,
                            "{count} peers, step {index}: {anew} {kept}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn lone_peer_spreads_its_virtual_nodes() {
        let [alone] = grown(3, 1, |_| 16).try_into().unwrap();
        let gap = |contact: &Contact| {
            let mut ids: Vec<Id> = contact.ids().collect();
            ids.sort_unstable();
            let gaps = ids
                .windows(2)
                .map(|pair| pair[1].distance_from(&pair[0]).prefix());
            gaps.min().unwrap()
        };
        assert!(gap(&alone) > 4 * gap(&contact(3, 1, 16)));
    }
}
