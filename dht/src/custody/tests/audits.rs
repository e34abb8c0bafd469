//! Repairs audited by others, and primaries that do not repair.

use super::*;

/// How long the i-th peer of a stripe may need to take over: to audit it, to find it short for its time, to
/// repair it.
fn taken_over(rank: u64) -> Duration {
    secs(20 * rank * 3 + 60)
}

#[test]
fn repair_is_unaudited_until_another_peer_audits_it() {
    let mut net = filled(12, 31);
    net.audits_lost = true;
    net.kill(peer(3));
    net.run_until(secs(60), all_whole);
    net.run(secs(120));
    let health = net.stats();
    assert!(health.unaudited > 0, "{health:?}");
    assert_eq!((health.safe + health.unaudited, health.degraded), (60, 0));
    net.audits_lost = false;
    net.run_until(secs(30), |net| net.stats().safe == 60);
    assert_eq!(net.stats().unaudited, 0);
}

#[test]
fn lost_auditor_is_replaced() {
    let mut net = filled(12, 32);
    net.audits_lost = true;
    net.kill(peer(3));
    net.run_until(secs(60), all_whole);
    net.run(secs(5));
    assert!(net.stats().unaudited > 0);
    net.kill(peer(4));
    net.audits_lost = false;
    net.run_until(secs(120), |net| all_whole(net) && net.stats().safe == 60);
}

#[test]
fn wedged_primary_is_taken_over() {
    let mut net = filled(12, 33);
    for wedged in 0..3 {
        net.nodes.get_mut(&peer(wedged)).unwrap().wedged = true;
    }
    net.kill(peer(5));
    let known = |net: &CustodyNet, id| net.nodes[&net.primary(id)].wedged;
    assert!((0..STRIPES).any(|number| known(&net, stripe(number)) && net.distinct(stripe(number)) < 6));
    net.run_until(taken_over(4), all_whole);
    assert!(net.stats().taken_over_total > 0);
    for wedged in 0..3 {
        net.nodes.get_mut(&peer(wedged)).unwrap().wedged = false;
    }
    net.run_until(secs(300), |net| all_exact(net) && net.stats().safe == 60);
}

#[test]
fn primary_at_work_is_not_taken_over() {
    // A repair takes 40 s of the allowed rate: the last stripes wait for far longer than anybody is patient.
    let config = CustodyConfig {
        repair_rate: Some(1 << 20),
        ..quick()
    };
    let mut net = filled_with(12, 34, config);
    net.kill(peer(5));
    net.run_until(secs(900), all_whole);
    assert_eq!(net.stats().taken_over_total, 0);
}

#[test]
fn audits_at_rest_cost_little_and_change_nothing() {
    let mut net = filled(12, 35);
    let before = net.counters;
    net.run(secs(600));
    let requests = net.counters.requests - before.requests;
    assert_eq!(net.counters.jobs, before.jobs);
    // Reports once in half a minute to up to 11 others, and as many questions once in 20 s.
    assert!(requests < 12 * 11 * (20 + 30) * 3 / 2, "{requests}");
    assert_eq!(net.stats().taken_over_total, 0);
}
