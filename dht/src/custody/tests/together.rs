//! Ring and custody together.

use super::harness::{CustodyNet, RS, quick, secs, stripe};
use crate::Id;
use crate::testing::peer;

const STRIPES: u64 = 40;

fn filled(seed: u64) -> CustodyNet {
    let mut net = CustodyNet::on_rings(12, quick(), seed);
    net.run_until(secs(60), |net| net.up().iter().all(|peer| net.knows(*peer) == 12));
    for number in 0..STRIPES {
        net.put(stripe(number), RS);
    }
    net.run(secs(10));
    assert_eq!((net.stats().safe, net.counters.jobs), (40, 0));
    net
}

fn all(net: &CustodyNet, check: impl Fn(&CustodyNet, Id) -> bool) -> bool {
    (0..STRIPES).all(|number| check(net, stripe(number)))
}

fn whole(net: &CustodyNet) -> bool {
    all(net, |net, id| net.distinct(id) == 6)
}

#[test]
fn kills_on_real_rings_are_repaired() {
    let mut net = filled(1);
    for pair in [[0, 1], [5, 6]] {
        net.kill(peer(pair[0]));
        net.kill(peer(pair[1]));
        net.run_until(secs(90), whole);
    }
    for number in [0, 1, 5, 6] {
        net.start(peer(number));
    }
    net.run_until(secs(600), |net| all(net, |net, id| net.is_placed(id, 6)));
    net.run(secs(10));
    assert_eq!(net.stats().safe, 40);
}

#[test]
fn five_of_twelve_returning_find_everything_kept() {
    let mut net = filled(2);
    for number in 0..5 {
        net.kill(peer(number));
    }
    net.run(secs(60));
    for number in 0..5 {
        net.start(peer(number));
    }
    net.run_until(secs(600), |net| {
        all(net, |net, id| net.is_placed(id, 6)) && net.stats().safe == 40
    });
}

#[test]
fn restart_of_all_on_real_rings_repairs_nothing() {
    let mut net = filled(3);
    for number in 0..12 {
        net.kill(peer(number));
    }
    net.run(secs(1));
    for number in 0..12 {
        net.start(peer(number));
    }
    net.run(secs(60));
    assert_eq!((net.counters.jobs, net.stats().safe), (0, 40));
}
