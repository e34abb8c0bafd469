//! Custody of records.

use std::collections::BTreeMap;

use super::harness::{CustodyNet, peer, quick, secs, stripe};
use crate::records::{HOLDERS, RecordSet, Stamp};
use crate::{Id, Peer, PeerState};

fn stamp(writer: u64, sequence: u64) -> Stamp {
    Stamp {
        writer,
        sequence,
        hash: [1; 32],
    }
}

/// Whether the first five that are up and stay, and no others, have records under an id, and the same ones.
fn is_placed(net: &CustodyNet, id: Id) -> bool {
    let near = net.nearest(id, HOLDERS);
    let sets: Vec<RecordSet> = near.iter().map(|peer| net.records(*peer, id)).collect();
    let mut recorders = net.recorders(id);
    let mut expected = near;
    recorders.sort();
    expected.sort();
    recorders == expected && sets.iter().all(|set| !set.is_empty() && *set == sets[0])
}

fn write(net: &mut CustodyNet, id: Id, stamp: Stamp, count: usize) -> Vec<Peer> {
    let near = net.nearest(id, count);
    for peer in &near {
        assert!(net.record(*peer, id, stamp));
    }
    near
}

#[test]
fn records_of_a_majority_come_to_all_five() {
    let mut net = CustodyNet::new(12, quick(), 1);
    for number in 0..20 {
        write(&mut net, stripe(number), stamp(1, 5), 3);
        let second = net.nearest(stripe(number), 5)[4];
        net.record(second, stripe(number), stamp(2, 1));
    }
    let all = |net: &CustodyNet| (0..20).all(|number| is_placed(net, stripe(number)));
    net.run_until(secs(60), all);
    for number in 0..20 {
        let set = net.records(net.nearest(stripe(number), 1)[0], stripe(number));
        assert_eq!(set.stamps().collect::<Vec<_>>(), [stamp(1, 5), stamp(2, 1)]);
    }
    let merged = net.counters.merged;
    net.run(secs(300));
    assert_eq!(net.counters.merged, merged, "what agrees is left alone");
}

#[test]
fn records_follow_who_dies_comes_and_leaves() {
    let mut net = CustodyNet::new(12, quick(), 2);
    let ids: Vec<Id> = (0..20).map(stripe).collect();
    let all = |net: &CustodyNet| ids.iter().all(|id| is_placed(net, *id));
    for id in &ids {
        write(&mut net, *id, stamp(1, 5), 5);
    }
    net.run_until(secs(60), all);
    net.kill(peer(3));
    net.kill(peer(4));
    net.run_until(secs(60), all);
    for number in 20..24 {
        net.join(peer(number));
    }
    net.run_until(secs(120), all);
    net.start(peer(3));
    net.set_state(peer(7), PeerState::Draining);
    net.run_until(secs(120), all);
    assert!(ids.iter().all(|id| net.records(peer(7), *id).is_empty()));
    net.set_state(peer(8), PeerState::Full);
    net.run_until(secs(120), all);
}

/// Holders that lag behind one another are not taken for ones that differ.
#[test]
fn set_that_changes_all_the_time_is_seldom_put_together() {
    let mut net = CustodyNet::new(12, quick(), 3);
    let id = stripe(1);
    for sequence in 0..300 {
        write(&mut net, id, stamp(1, sequence), 5);
        net.run(secs(1));
    }
    net.run_until(secs(60), |net| is_placed(net, id));
    assert!(
        net.counters.merged <= 60,
        "{} times in 300 s",
        net.counters.merged
    );
}

/// Whatever comes, goes and is restarted, nobody goes down, and what a majority took in is everywhere in the
/// end.
#[test]
fn nothing_acknowledged_is_lost_under_churn() {
    for seed in 0..20 {
        let mut net = CustodyNet::new(14, quick(), 100 + seed);
        net.loss = 10;
        let ids: Vec<Id> = (0..5).map(stripe).collect();
        let mut highest: BTreeMap<Id, u64> = BTreeMap::new();
        for round in 1..30u64 {
            let id = ids[usize::try_from((round * 7 + seed) % 5).unwrap()];
            write(&mut net, id, stamp(1, round), 3);
            highest.insert(id, round);
            let number = u8::try_from((round * 5 + seed) % 14).unwrap();
            if net.is_up(peer(number)) && net.up().len() > 12 {
                net.kill(peer(number));
            } else if !net.is_up(peer(number)) {
                net.start(peer(number));
            }
            net.run(secs(round % 9 * 2 + 1));
            // Two at most are down at a time, so one of three that acknowledged is up.
            for (id, highest) in &highest {
                let asked = net.nearest(*id, 8).into_iter();
                let seen = asked.flat_map(|peer| net.records(peer, *id).stamps().collect::<Vec<_>>());
                assert_eq!(
                    seen.map(|stamp| stamp.sequence).max(),
                    Some(*highest),
                    "seed {seed}"
                );
            }
        }
        net.loss = 0;
        net.run(secs(300));
        for id in highest.keys() {
            if !is_placed(&net, *id) {
                println!(
                    "seed {seed} {id:?} near {:?} up {:?}",
                    net.nearest(*id, 9),
                    net.up().len()
                );
                for peer in net.recorders(*id) {
                    println!("  {peer:?} {:?}", net.records(peer, *id).digest());
                }
                panic!();
            }
        }
    }
}
