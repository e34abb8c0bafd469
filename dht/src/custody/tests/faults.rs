//! Random faults within tolerance.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::harness::{CustodyNet, RS, peer, quick, secs, stripe};
use crate::custody::Shape;
use crate::placement::Placement;
use crate::{Id, PeerState};

const COPIES: Shape = Shape {
    k: 1,
    n: 3,
    shard_len: 16 << 10,
    placement: Placement::Successors,
};
const XOR: Shape = Shape {
    k: 4,
    n: 5,
    shard_len: 1 << 20,
    placement: Placement::Successors,
};
const PEERS: u8 = 12;

#[derive(Clone, Debug)]
enum Fault {
    Kill(u8),
    Start(u8),
    Full(u8, bool),
    Put(u64),
    Loss(u8),
    Wait(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => (0..PEERS).prop_map(Fault::Kill),
        3 => (0..PEERS).prop_map(Fault::Start),
        1 => ((0..PEERS), any::<bool>()).prop_map(|(peer, full)| Fault::Full(peer, full)),
        2 => (100..200u64).prop_map(Fault::Put),
        1 => (0..60u8).prop_map(Fault::Loss),
        6 => (100..9000u64).prop_map(Fault::Wait),
    ]
}

fn shape(id: u64) -> Shape {
    match id % 3 {
        0 => RS,
        1 => COPIES,
        _ => XOR,
    }
}

fn is_recoverable(net: &CustodyNet, stored: &BTreeSet<u64>) -> bool {
    let enough = |id: &u64| net.distinct(stripe(*id)) >= usize::from(shape(*id).k);
    stored.iter().all(enough)
}

/// Kills only what the code of every stripe tolerates at this moment. Of an index with several holders any
/// but one may be about to drop it in favour of that one.
fn apply(net: &mut CustodyNet, stored: &mut BTreeSet<u64>, fault: &Fault) {
    match *fault {
        Fault::Kill(number) if net.is_up(peer(number)) => {
            let without = |id: &u64| {
                let live = net.live(stripe(*id));
                let hit = live.iter().filter(|(_, holder)| *holder == peer(number));
                let hit: BTreeSet<u8> = hit.map(|(index, _)| *index).collect();
                net.distinct(stripe(*id)) - hit.len() >= usize::from(shape(*id).k)
            };
            if stored.iter().all(without) {
                net.kill(peer(number));
            }
        }
        Fault::Start(number) if !net.is_up(peer(number)) => net.start(peer(number)),
        Fault::Kill(_) | Fault::Start(_) => {}
        Fault::Full(number, full) => {
            let state = if full {
                PeerState::Full
            } else {
                PeerState::Accepting
            };
            net.set_state(peer(number), state);
        }
        Fault::Put(id) => {
            let preferred = net.preferred(stripe(id), shape(id).n);
            if preferred.len() == usize::from(shape(id).n) && stored.insert(id) {
                net.put(stripe(id), shape(id));
            }
        }
        Fault::Loss(loss) => net.loss = loss,
        Fault::Wait(millis) => net.run(std::time::Duration::from_millis(millis)),
    }
}

fn recover(net: &mut CustodyNet) {
    net.loss = 0;
    for number in 0..PEERS {
        if !net.is_up(peer(number)) {
            net.start(peer(number));
        }
        net.set_state(peer(number), PeerState::Accepting);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn faults_within_tolerance_lose_nothing(seed: u64, faults in prop::collection::vec(fault(), 1..60)) {
        let mut net = CustodyNet::new(PEERS, quick(), seed);
        net.run(secs(1));
        let mut stored: BTreeSet<u64> = (0..20).collect();
        for id in &stored {
            net.put(stripe(*id), shape(*id));
        }
        net.run(secs(2));
        for fault in &faults {
            apply(&mut net, &mut stored, fault);
            prop_assert!(is_recoverable(&net, &stored), "after {fault:?}");
        }
        recover(&mut net);
        let placed = |net: &CustodyNet, id: Id, n| net.is_placed(id, n);
        net.run_until(secs(900), |net| {
            stored.iter().all(|id| placed(net, stripe(*id), shape(*id).n))
        });
        net.run(secs(30));
        let quiet = net.counters;
        net.run(secs(120));
        prop_assert_eq!((quiet.jobs, quiet.dropped), (net.counters.jobs, net.counters.dropped));
        prop_assert_eq!(net.stats().safe, stored.len());
        prop_assert!(quiet.copied + quiet.regenerated <= 40 * stored.len() as u64, "{:?}", quiet);
    }
}
