//! Stripes whose holders another policy than `successors` chose: repaired under it, found by their locators.

use std::collections::BTreeSet;

use super::harness::{CustodyNet, RS, peer, quick, secs, stripe};
use super::*;
use crate::PeerState;
use crate::placement::Placement;

const STRIPES: u64 = 12;

fn copies(placement: Placement) -> Shape {
    Shape {
        k: 1,
        n: 3,
        placement,
        ..RS
    }
}

/// The policies for a stripe of three copies.
fn policies(anchor: Id) -> [Placement; 3] {
    [
        Placement::Random,
        Placement::Copysets { anchor },
        Placement::Buddies { group: 6, anchor },
    ]
}

/// Some stripes of each policy, stored.
fn loaded(net: &mut CustodyNet) -> Vec<(Id, Shape)> {
    let placements = (0..STRIPES).flat_map(|file| policies(stripe(1000 + file)));
    let stripes: Vec<(Id, Shape)> = placements
        .zip(0..)
        .map(|(placement, number)| (stripe(number), copies(placement)))
        .collect();
    for (id, shape) in &stripes {
        net.put(*id, *shape);
    }
    stripes
}

fn located(net: &CustodyNet, id: Id) -> BTreeSet<Peer> {
    let up = net.up().into_iter();
    up.filter(|peer| net.holds(*peer, id, Item::Locator)).collect()
}

fn are_whole(net: &CustodyNet, stripes: &[(Id, Shape)]) -> bool {
    stripes.iter().all(|(id, shape)| {
        let first: BTreeSet<Peer> = net.preferred(*id, 16).into_iter().collect();
        net.is_exact(*id, shape.n) && located(net, *id) == first
    })
}

#[test]
fn holders_after_joins_stay_and_the_first_peers_have_locators() {
    let mut net = CustodyNet::new(20, quick(), 1);
    let stripes = loaded(&mut net);
    let before: Vec<_> = stripes.iter().map(|(id, _)| net.live(*id)).collect();
    net.run_until(secs(60), |net| are_whole(net, &stripes));
    net.run(secs(60));
    let after: Vec<_> = stripes.iter().map(|(id, _)| net.live(*id)).collect();
    assert_eq!(before, after, "nothing was moved");
    assert_eq!(net.counters.regenerated + net.counters.copied, 0);
    let (located, health) = (net.counters.located, net.stats());
    assert_eq!(
        located,
        stripes.len() as u64 * 16,
        "each locator was written once"
    );
    assert_eq!(health.safe, stripes.len());
}

#[test]
fn replacements_of_the_dead_follow_the_policy() {
    let mut net = CustodyNet::new(13, quick(), 2);
    let stripes = loaded(&mut net);
    net.run_until(secs(60), |net| are_whole(net, &stripes));
    let before: Vec<BTreeSet<Peer>> = stripes
        .iter()
        .map(|(id, _)| net.live(*id).into_iter().map(|(_, peer)| peer).collect())
        .collect();
    net.kill(peer(4));
    net.run_until(secs(120), |net| {
        are_whole(net, &stripes) && net.stats().safe == stripes.len()
    });
    let mut moved = 0;
    for ((id, shape), before) in stripes.iter().zip(before) {
        let after: BTreeSet<Peer> = net.live(*id).into_iter().map(|(_, peer)| peer).collect();
        let stayed: BTreeSet<Peer> = before
            .iter()
            .copied()
            .filter(|holder| *holder != peer(4))
            .collect();
        assert!(
            stayed.is_subset(&after),
            "{:?}: who lives stays a holder",
            shape.placement
        );
        let new: Vec<Peer> = after.difference(&before).copied().collect();
        assert_eq!(new.len(), 3 - stayed.len());
        // The new one is the first that the policy names now and that held nothing.
        let left: Vec<Peer> = stayed.iter().copied().collect();
        let policy_peers = net.policy_peers(*id, *shape, &left);
        let expected = policy_peers.into_iter().filter(|peer| !stayed.contains(peer));
        assert_eq!(new, expected.take(new.len()).collect::<Vec<_>>());
        moved += new.len();
    }
    assert!(moved > 3, "{moved}");
}

#[test]
fn run_that_lost_a_peer_keeps_its_stripes_together() {
    let mut net = CustodyNet::new(12, quick(), 3);
    let shape = |anchor| copies(Placement::Copysets { anchor });
    let stripes: Vec<(Id, Shape)> = (0..60)
        .map(|number| (stripe(number), shape(stripe(number))))
        .collect();
    for (id, shape) in &stripes {
        net.put(*id, *shape);
    }
    net.run(secs(20));
    net.kill(peer(7));
    net.run_until(secs(120), |net| net.stats().safe == stripes.len());
    let holders = |id| {
        net.live(id)
            .into_iter()
            .map(|(_, peer)| peer)
            .collect::<BTreeSet<Peer>>()
    };
    let sets: BTreeSet<BTreeSet<Peer>> = stripes.iter().map(|(id, _)| holders(*id)).collect();
    // Eleven peers in runs of 3, 4 and 4, and no more copysets than the four there were.
    assert_eq!(sets.len(), 4, "{sets:?}");
}

#[test]
fn locators_after_joins_follow_the_ring_and_misplaced_ones_go() {
    let mut net = CustodyNet::new(30, quick(), 4);
    let stripes = loaded(&mut net);
    net.run_until(secs(60), |net| are_whole(net, &stripes));
    for number in 30..36 {
        net.join(peer(number));
    }
    net.run_until(secs(120), |net| are_whole(net, &stripes));
    net.set_state(peer(3), PeerState::Draining);
    net.run_until(secs(240), |net| {
        stripes.iter().all(|(id, shape)| {
            net.is_exact(*id, shape.n) && net.live(*id).iter().all(|(_, holder)| *holder != peer(3))
        }) && stripes
            .iter()
            .all(|(id, _)| !located(net, *id).contains(&peer(3)))
    });
}

#[test]
fn audit_asks_holders_outside_their_run() {
    let config = CustodyConfig { r: 8, ..quick() };
    let mut net = CustodyNet::new(14, config, 6);
    let stripes = loaded(&mut net);
    net.run(secs(60));
    for number in 14..34 {
        net.join(peer(number));
    }
    let before: Vec<_> = stripes.iter().map(|(id, _)| net.live(*id)).collect();
    net.run(secs(900));
    let after: Vec<_> = stripes.iter().map(|(id, _)| net.live(*id)).collect();
    assert_eq!(before, after, "nothing was moved");
    assert_eq!((net.counters.regenerated, net.stats().taken_over_total), (0, 0));
    // Where one of them dies and the primary does nothing, the others replace it by a peer that no audit
    // asked.
    for primary in stripes
        .iter()
        .map(|(id, _)| net.primary(*id))
        .collect::<BTreeSet<Peer>>()
    {
        net.nodes.get_mut(&primary).unwrap().wedged = true;
    }
    let wedged = |net: &CustodyNet, peer: Peer| net.nodes.get(&peer).is_some_and(|node| node.wedged);
    let holders = stripes.iter().flat_map(|(id, _)| net.live(*id));
    let mut holders = holders.map(|(_, peer)| peer);
    let victim = holders.find(|peer| !wedged(&net, *peer)).unwrap();
    net.kill(victim);
    net.run_until(secs(900), |net| {
        stripes
            .iter()
            .all(|(id, shape)| net.distinct(*id) == usize::from(shape.n))
    });
}

#[test]
fn wedged_primary_under_every_policy_is_taken_over() {
    let mut net = CustodyNet::new(14, quick(), 5);
    let stripes = loaded(&mut net);
    net.run_until(secs(60), |net| are_whole(net, &stripes));
    let wedged = net.primary(stripes[0].0);
    net.nodes.get_mut(&wedged).unwrap().wedged = true;
    let victim = net
        .live(stripes[0].0)
        .into_iter()
        .map(|(_, peer)| peer)
        .find(|peer| *peer != wedged);
    net.kill(victim.unwrap());
    net.run_until(secs(600), |net| {
        stripes
            .iter()
            .all(|(id, shape)| net.distinct(*id) == usize::from(shape.n))
    });
    assert!(net.stats().taken_over_total > 0);
}
