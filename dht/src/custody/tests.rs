//! Custody on an in-memory network. At every drop of a committed shard the harness checks that the index
//! still lies on another disk.

mod audits;
mod faults;
pub(super) mod harness;
mod leases;
mod policies;
mod records;
mod together;
mod tombstones;
mod view;

use std::time::Duration;

use super::*;
use crate::PeerState;
use harness::{CustodyNet, RS, committed, peer, quick, secs, stripe};

const STRIPES: u64 = 60;

fn filled_with(peers: u8, seed: u64, config: CustodyConfig) -> CustodyNet {
    let mut net = CustodyNet::new(peers, config, seed);
    net.run(secs(1));
    for number in 0..STRIPES {
        net.put(stripe(number), RS);
    }
    net.run(secs(10));
    net
}

fn filled(peers: u8, seed: u64) -> CustodyNet {
    filled_with(peers, seed, quick())
}

fn all(net: &CustodyNet, check: impl Fn(&CustodyNet, Id) -> bool) -> bool {
    (0..STRIPES).all(|number| check(net, stripe(number)))
}

fn all_whole(net: &CustodyNet) -> bool {
    all(net, |net, id| net.distinct(id) == 6)
}

fn all_exact(net: &CustodyNet) -> bool {
    all(net, |net, id| net.is_exact(id, RS.n))
}

fn all_placed(net: &CustodyNet) -> bool {
    all(net, |net, id| net.is_placed(id, RS.n))
}

/// Every primary's record agrees with the disks, and nothing is on its way.
fn all_known(net: &CustodyNet) -> bool {
    all(net, |net, id| {
        let primary = net.nodes[&net.primary(id)].custody.as_ref().unwrap();
        let record = primary.stripe(id).unwrap();
        let reported: Vec<_> = record
            .shards
            .iter()
            .map(|shard| (shard.index, shard.peer))
            .collect();
        record.primary && reported == net.live(id)
    })
}

#[test]
fn primaries_after_puts_know_every_shard() {
    let net = filled(12, 1);
    assert!(all_known(&net));
    let health = net.stats();
    assert_eq!((health.safe, health.unsure, health.lost), (60, 0, 0));
    assert_eq!(net.counters.jobs, 0);
}

#[test]
fn report_with_small_pages_lists_everything() {
    let config = CustodyConfig { page: 3, ..quick() };
    let net = filled_with(8, 3, config);
    assert!(all_known(&net));
    assert_eq!(net.counters.jobs, 0);
}

#[test]
fn kills_within_tolerance_are_repaired() {
    let mut net = filled(12, 2);
    for round in 0..3 {
        net.kill(peer(round * 2));
        net.kill(peer(round * 2 + 1));
        assert!(all(&net, |net, id| net.distinct(id) >= 4));
        net.run_until(secs(60), all_whole);
    }
    net.run_until(secs(60), |net| all_exact(net) && net.stats().safe == 60);
    assert_eq!(net.counters.failed_jobs, 0);
}

#[test]
fn staggered_kills_are_repaired() {
    let mut net = filled(12, 4);
    for victim in 0..5 {
        net.kill(peer(victim));
        net.run(secs(12));
        assert!(all(&net, |net, id| net.distinct(id) >= 4));
    }
    net.run_until(secs(60), all_exact);
}

#[test]
fn excess_of_returning_peers_is_trimmed() {
    let mut net = filled(12, 5);
    net.kill(peer(3));
    net.kill(peer(4));
    net.run_until(secs(60), all_whole);
    net.start(peer(3));
    net.start(peer(4));
    let start = net.now;
    while !all_placed(&net) {
        assert!(all_whole(&net));
        assert!(net.now.since(start) < secs(300));
        net.run(secs(1));
    }
    assert!(net.counters.dropped > 0);
}

#[test]
fn new_peers_receive_their_share_by_handoff() {
    let mut net = filled(6, 6);
    for number in 6..12 {
        net.join(peer(number));
    }
    let start = net.now;
    while !all_placed(&net) {
        assert!(all_whole(&net));
        assert!(net.now.since(start) < secs(300));
        net.run(secs(1));
    }
    let moved: usize = (6..12).map(|number| net.nodes[&peer(number)].disk.len()).sum();
    assert!(moved > 60);
    assert_eq!(net.counters.copied, moved as u64, "every shard moves once");
    assert_eq!(net.counters.regenerated, 0);
    assert_eq!(net.counters.dropped, moved as u64);
}

#[test]
fn mass_kill_and_return_starts_no_repair() {
    let mut net = filled(12, 7);
    for victim in 0..5 {
        net.kill(peer(victim));
    }
    net.run(secs(4));
    for victim in 0..5 {
        net.start(peer(victim));
    }
    net.run(secs(120));
    assert_eq!(net.counters.jobs, 0);
    assert!(all_placed(&net) && all_known(&net));
    assert_eq!(net.stats().safe, 60);
}

#[test]
fn restart_of_all_starts_no_repair() {
    let mut net = filled(12, 8);
    for victim in 0..12 {
        net.kill(peer(victim));
    }
    for victim in 0..12 {
        net.run(Duration::from_millis(200));
        net.start(peer(victim));
    }
    net.run(secs(60));
    assert_eq!(net.counters.jobs, 0);
    assert_eq!(net.stats().safe, 60);
}

#[test]
fn primary_dead_during_repair_is_replaced() {
    let mut net = filled(12, 9);
    net.job_time = secs(3);
    net.kill(peer(1));
    net.run_until(secs(20), |net| net.counters.jobs > 0);
    let primary = (0..STRIPES)
        .map(|number| net.primary(stripe(number)))
        .find(|primary| {
            let custody = net.nodes[primary].custody.as_ref().unwrap();
            custody.stats().repairs_running > 0
        });
    net.kill(primary.unwrap());
    net.run_until(secs(200), all_exact);
}

#[test]
fn primaries_that_disagree_lose_nothing() {
    let mut net = filled(12, 10);
    net.delude(peer(0), (0..6).map(peer));
    net.delude(peer(6), (4..12).map(peer));
    for _ in 0..60 {
        net.run(secs(2));
        assert!(all_whole(&net));
    }
    net.enlighten(peer(0));
    net.enlighten(peer(6));
    net.run_until(secs(300), |net| all_placed(net) && all_known(net));
}

#[test]
fn message_loss_delays_repair_only() {
    let mut net = filled(12, 11);
    net.loss = 80;
    net.kill(peer(0));
    net.kill(peer(1));
    net.run_until(secs(120), all_whole);
    net.start(peer(0));
    for number in 12..14 {
        net.join(peer(number));
    }
    net.run_until(secs(900), |net| all_placed(net) && all_known(net));
}

#[test]
fn returning_peer_under_heavy_loss_is_heard_in_the_end() {
    // Small pages: it takes several reports until its word is complete.
    let config = CustodyConfig { page: 1, ..quick() };
    let mut net = filled_with(12, 34, config);
    net.kill(peer(3));
    net.run(secs(20));
    net.loss = 230;
    net.start(peer(3));
    net.run(secs(60));
    net.loss = 0;
    let before = net.counters.requests;
    net.run_until(secs(120), |net| all_placed(net) && all_known(net));
    net.run(secs(600));
    let sent = net.counters.requests - before;
    assert!(sent < 12 * 11 * 40, "{sent} requests");
}

#[test]
fn full_peer_keeps_its_shards_and_receives_none() {
    let mut net = filled(12, 12);
    for full in 8..11 {
        net.set_state(peer(full), PeerState::Full);
    }
    let before: Vec<usize> = (8..11).map(|full| net.nodes[&peer(full)].disk.len()).collect();
    net.kill(peer(0));
    net.run_until(secs(60), all_whole);
    net.run(secs(60));
    let after: Vec<usize> = (8..11).map(|full| net.nodes[&peer(full)].disk.len()).collect();
    assert_eq!(before, after, "a full peer keeps what it has and takes nothing");
    assert_eq!(net.counters.failed_jobs, 0);
    assert!(all_exact(&net));
}

#[test]
fn draining_peer_is_emptied() {
    let mut net = filled(12, 13);
    net.set_state(peer(5), PeerState::Draining);
    let start = net.now;
    while !net.nodes[&peer(5)].disk.is_empty() {
        assert!(all_whole(&net));
        assert!(net.now.since(start) < secs(200));
        net.run(secs(1));
    }
    assert!(all_placed(&net));
}

#[test]
fn stripe_without_a_target_is_parked_until_one_joins() {
    let mut net = filled(6, 14);
    net.kill(peer(2));
    net.run(secs(60));
    let health = net.stats();
    assert_eq!((health.parked, health.degraded, net.counters.jobs), (60, 60, 0));
    net.join(peer(6));
    net.run_until(secs(60), all_exact);
    net.run(secs(5));
    assert_eq!((net.stats().parked, net.stats().safe), (0, 60));
}

#[test]
fn stripe_below_k_is_lost_until_holders_return() {
    let mut net = filled(7, 15);
    for victim in 0..4 {
        net.kill(peer(victim));
    }
    net.run(secs(60));
    assert_eq!(net.stats().lost, 60);
    assert_eq!(net.counters.jobs, 0, "nothing to rebuild from");
    net.start(peer(0));
    net.start(peer(1));
    net.start(peer(2));
    net.run_until(secs(120), |net| all_exact(net) && net.stats().safe == 60);
}

#[test]
fn wiped_disk_is_repaired() {
    let mut net = filled(12, 16);
    net.kill(peer(4));
    net.nodes.get_mut(&peer(4)).unwrap().disk.clear();
    net.run(secs(1));
    net.start(peer(4));
    net.run_until(secs(60), all_placed);
}

#[test]
fn shard_lost_by_its_store_is_rebuilt() {
    let mut net = filled(12, 17);
    let (index, holder) = net.live(stripe(0))[2];
    net.nodes
        .get_mut(&holder)
        .unwrap()
        .disk
        .remove(&(stripe(0), Item::Shard(index)));
    net.with(holder, |custody, now, _| {
        custody.removed(now, stripe(0), Item::Shard(index));
    });
    net.run_until(secs(30), |net| net.is_placed(stripe(0), 6));
    assert_eq!(net.counters.jobs, 1);
}

#[test]
fn inconsistent_stripe_is_reported_and_not_retried() {
    let mut net = filled(12, 18);
    net.inconsistent = true;
    let (index, holder) = net.live(stripe(0))[2];
    net.nodes
        .get_mut(&holder)
        .unwrap()
        .disk
        .remove(&(stripe(0), Item::Shard(index)));
    net.with(holder, |custody, now, _| {
        custody.removed(now, stripe(0), Item::Shard(index));
    });
    net.run(secs(600));
    assert_eq!(net.stats().inconsistent, 1);
    // Those that hold a shard too do not take its word for ever, and find out for themselves, once each.
    let tried = net.counters.jobs;
    assert!((1..=6).contains(&tried), "{tried}");
    net.run(secs(1200));
    assert_eq!(net.counters.jobs, tried);
}

#[test]
fn stripe_at_exactly_k_is_repaired_after_the_short_delay() {
    let config = CustodyConfig {
        repair_delay: secs(3600),
        ..CustodyConfig::default()
    };
    let mut net = filled_with(12, 19, config);
    net.run(secs(3600));
    net.kill(peer(0));
    net.run(secs(30));
    net.kill(peer(1));
    net.run(secs(25));
    assert_eq!(net.counters.jobs, 0);
    net.run_until(secs(60), |net| all(net, |net, id| net.distinct(id) > 4));
    net.run(secs(300));
    assert!(!all_whole(&net), "one index less is not urgent");
    net.run_until(secs(3600), all_whole);
}

#[test]
fn forgotten_peer_is_repaired_at_once() {
    let config = CustodyConfig {
        repair_delay: secs(3600),
        ..quick()
    };
    let mut net = filled_with(12, 37, config);
    net.run(secs(10));
    let (_, victim) = net.live(stripe(0))[0];
    let forgets = |net: &mut CustodyNet, about| {
        let reported = net.up();
        let reported = reported.into_iter().filter(|up| *up != about);
        let forget = |up| net.with(up, |custody, now, ring| custody.forget(now, ring, about));
        let answers: Vec<bool> = reported.map(forget).collect();
        answers.into_iter().all(|forgotten| forgotten)
    };
    assert!(!forgets(&mut net, victim), "it is there");
    net.run(secs(120));
    net.kill(victim);
    net.run(secs(60));
    assert!(!all_whole(&net));
    assert!(forgets(&mut net, victim));
    net.run_until(secs(60), all_whole);
    // Said before it was noticed.
    let (_, victim) = net.live(stripe(0))[0];
    net.kill(victim);
    forgets(&mut net, victim);
    net.run(secs(2));
    net.run_until(secs(120), all_whole);
}

#[test]
fn unmet_peer_can_be_forgotten() {
    let config = CustodyConfig {
        repair_delay: secs(3600),
        ..quick()
    };
    let mut net = filled_with(12, 38, config);
    net.run(secs(10));
    let (_, victim) = net.live(stripe(0))[0];
    let others: Vec<Peer> = net.up().into_iter().filter(|up| *up != victim).collect();
    net.kill(victim);
    for other in &others {
        net.kill(*other);
    }
    net.run(secs(10));
    for other in &others {
        net.start(*other);
    }
    net.run(secs(600));
    assert!(!all_whole(&net));
    for other in others {
        assert!(net.with(other, |custody, now, ring| custody.forget(now, ring, victim)));
        assert!(net.with(other, |custody, _, _| custody.is_forgotten(victim)));
    }
    net.run_until(secs(60), all_whole);
}

#[test]
fn suspicion_when_a_quarter_vanishes_starts_anew() {
    let config = CustodyConfig {
        repair_delay: secs(60),
        ..CustodyConfig::default()
    };
    let run = |third: bool| {
        let mut net = filled_with(12, 20, config.clone());
        net.run(secs(60));
        net.kill(peer(0));
        net.run(secs(50));
        net.kill(peer(1));
        net.run(secs(5));
        if third {
            net.kill(peer(2));
        }
        net.run(secs(55));
        let early = net.counters.jobs;
        net.run(secs(60));
        (early, net.counters.jobs)
    };
    let (early, late) = run(true);
    assert_eq!(early, 0);
    assert!(late > 0);
    let (early, _) = run(false);
    assert!(early > 0);
}

#[test]
fn suspicion_after_a_stall_starts_anew() {
    let mut net = filled(12, 21);
    net.kill(peer(0));
    for _ in 0..10 {
        net.run(secs(4));
        for up in net.up() {
            net.with(up, |custody, now, _| custody.handle_stall(now));
        }
    }
    assert_eq!(net.counters.jobs, 0);
    net.run_until(secs(60), all_whole);
}

#[test]
fn repair_with_a_rate_is_bounded_and_most_endangered_first() {
    // A job moves 5 or 6 shards: at 6 MiB/s a primary begins no more than one in 5/6 s.
    let config = CustodyConfig {
        repair_rate: Some(6 << 20),
        ..quick()
    };
    let mut net = filled_with(12, 22, config);
    net.kill(peer(0));
    net.kill(peer(1));
    net.run_until(secs(20), |net| net.counters.jobs > 0);
    let (start, mut most) = (net.counters.jobs, 0);
    for second in 1..=4 {
        net.run(secs(1));
        most = net.counters.jobs - start;
        assert!(most <= 10 * (second * 6 / 5 + 1), "{most} jobs in {second} s");
        for primary in net.up() {
            let custody = net.nodes[&primary].custody.as_ref().unwrap();
            let health = custody.stats();
            let repaired = |net: &CustodyNet, id| net.primary(id) == primary && net.distinct(id) == 6;
            let touched = (0..STRIPES)
                .filter(|number| repaired(&net, stripe(*number)))
                .count();
            assert!(health.endangered == 0 || health.repairs_waiting > 0 || touched > 0);
        }
    }
    assert!(most > 0);
    net.run_until(secs(120), all_whole);
}

#[test]
fn idle_network_sends_little() {
    let mut net = filled(24, 23);
    net.run(secs(60));
    let before = net.counters;
    net.run(secs(300));
    let sent = net.counters.requests - before.requests;
    assert!(sent > 0 && sent <= 24 * 23 * 11, "{sent} requests in 300 s");
    assert_eq!(net.counters.jobs, 0);
}

#[test]
fn repair_switched_off_moves_nothing() {
    let config = CustodyConfig {
        repair: false,
        ..quick()
    };
    let mut net = filled_with(12, 29, config);
    net.kill(peer(0));
    net.join(peer(12));
    net.run(secs(120));
    assert_eq!((net.counters.jobs, net.counters.dropped), (0, 0));
    assert!(net.stats().degraded > 0);
}

#[test]
fn peer_with_two_shards_hands_one_off() {
    let mut net = CustodyNet::new(12, quick(), 30);
    net.run(secs(1));
    let (id, preferred) = (stripe(0), net.preferred(stripe(0), 6));
    for index in 0..6 {
        assert!(net.store(
            preferred[usize::from(index / 2)],
            committed(id, Item::Shard(index), RS)
        ));
    }
    net.run(secs(3));
    // Six indices on three peers: one failure too many takes two of them.
    assert_eq!((net.stats().safe, net.stats().endangered), (0, 1));
    net.run_until(secs(300), |net| net.is_placed(id, 6));
    assert_eq!((net.counters.copied, net.counters.dropped), (3, 3));
}

#[test]
fn check_now_solicits_at_once() {
    let mut net = filled(12, 31);
    net.run(secs(60));
    let before = net.counters.requests;
    net.with(peer(0), |custody, now, ring| custody.check_now(now, ring));
    net.run(Duration::from_millis(100));
    assert!(net.counters.requests >= before + 11);
}

#[test]
fn same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut net = filled(9, seed);
        net.loss = 20;
        net.kill(peer(2));
        net.run(secs(40));
        net.start(peer(2));
        net.run(secs(40));
        (net.trace, net.counters)
    };
    assert_eq!(run(32), run(32));
    assert_ne!(run(32).0, run(33).0);
}

#[test]
fn memory_per_shard_and_stripe_is_bounded() {
    // A full BTreeMap node wastes nothing, one after a split half of it: count half as much again.
    // The anchor of a policy is 34 bytes of each, the digest of records 8 of a claim.
    let held = size_of::<(key::ItemKey, holder::Held)>();
    assert!(held * 3 / 2 <= 210, "{held}");
    let known =
        size_of::<(key::Slot, primary::reports::KnownStripe)>() + 6 * size_of::<primary::reports::Claim>();
    assert!(known * 3 / 2 <= 480, "{known}");
}
