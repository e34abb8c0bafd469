//! The ring on a network in memory.

mod entry;

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::Id;
use crate::PeerState;
use crate::testing::{RingNet, contact, peer, successors};

const SECOND: Duration = Duration::from_secs(1);

/// Virtual nodes of the peer with this number: capacities in ratio 1 to 4.
fn size(number: usize) -> u16 {
    [3, 6, 9, 12][number % 4]
}

fn point(number: u64) -> Id {
    Id::new(Sha256::digest(number.to_be_bytes()).into())
}

/// Runs until every list is as it should be.
fn converge(net: &mut RingNet, limit: Duration) -> Duration {
    net.run_until(limit, |net| net.check().is_ok())
        .unwrap_or_else(|| panic!("after {limit:?}: {}", net.check().unwrap_err()))
}

/// A ring of `count` peers that joined one by one through random members.
fn grown(seed: u64, count: usize) -> RingNet {
    let mut net = RingNet::new(seed);
    net.add(0, size(0));
    for number in 1..count {
        let via = peer(usize::try_from(net.random(number as u64)).unwrap());
        let newcomer = net.add(number, size(number));
        net.introduce(newcomer, via);
        net.run(SECOND / 2);
    }
    converge(&mut net, 30 * SECOND);
    net
}

#[test]
fn peers_joining_one_by_one_form_one_ring() {
    for (seed, count) in [(1, 1), (2, 2), (3, 3), (4, 12), (5, 50)] {
        grown(seed, count);
    }
}

#[test]
fn peers_joining_at_once_form_one_ring() {
    for (seed, count) in [(1, 2), (2, 3), (3, 12), (4, 50)] {
        let mut net = RingNet::new(seed);
        let first = net.add(0, size(0));
        for number in 1..count {
            let newcomer = net.add(number, size(number));
            net.introduce(newcomer, first);
        }
        converge(&mut net, 30 * SECOND);
    }
}

#[test]
fn join_storm_of_200_forms_one_ring_with_short_lookups() {
    let mut net = RingNet::new(7);
    let first = net.add(0, 1);
    for number in 1..200 {
        let newcomer = net.add(number, 1 + u16::from(number % 3 == 0));
        let via = if number < 10 { first } else { peer(number / 10) };
        net.introduce(newcomer, via);
        net.run(Duration::from_millis(20));
    }
    converge(&mut net, 120 * SECOND);
    net.run(60 * SECOND);
    let circle = net.circle(0);
    let mut most = 0;
    for number in 0..200 {
        let at = peer(number);
        let target = point(number as u64);
        let id = net.with(at, |ring, now| ring.lookup(now, target, 3));
        let found = net.outcome(id, at).unwrap();
        let peers: Vec<Peer> = found.contacts.iter().map(|contact| contact.peer).collect();
        assert_eq!(peers, successors(&circle, target)[..3]);
        most = most.max(found.hops);
    }
    assert!(most <= 6, "{most} hops");
    assert!(net.ring(peer(0)).fingers().count() >= 3);
}

#[test]
fn lookup_at_rest_finds_the_owner_on_the_circle() {
    let mut net = grown(11, 24);
    let circle = net.circle(0);
    for number in 0..200 {
        let at = peer(usize::try_from(number % 24).unwrap());
        let count = usize::try_from(1 + number % 12).unwrap();
        let id = net.with(at, |ring, now| ring.lookup(now, point(number), count));
        let found = net.outcome(id, at).unwrap();
        let peers: Vec<Peer> = found.contacts.iter().map(|contact| contact.peer).collect();
        assert_eq!(peers, successors(&circle, point(number))[..count]);
        assert!(found.hops <= 2, "{} hops among 24", found.hops);
        assert_eq!(found.timeouts, 0);
    }
}

#[test]
fn five_of_twelve_killed_at_once_leave_one_ring() {
    let mut net = grown(21, 12);
    for number in [0, 3, 4, 7, 11] {
        net.kill(peer(number));
    }
    converge(&mut net, 10 * SECOND);
    let living = net.alive();
    for at in living.clone() {
        let (answered, _) = net.walk(at);
        let answered: BTreeSet<Peer> = answered.iter().map(|contact| contact.peer).collect();
        assert_eq!(answered, living.iter().copied().collect());
    }
    for number in [0, 3, 4, 7, 11] {
        net.start(peer(number));
    }
    converge(&mut net, 10 * SECOND);
}

#[test]
fn death_without_disconnect_is_detected() {
    let mut net = grown(22, 12);
    for number in [1, 2, 3] {
        net.freeze(peer(number));
    }
    converge(&mut net, 60 * SECOND);
}

#[test]
fn deaths_beyond_the_list_length_leave_one_ring() {
    let mut net = RingNet::new(23);
    net.config.r = 4;
    net.add(0, 1);
    for number in 1..40 {
        let newcomer = net.add(number, 1);
        net.introduce(newcomer, peer(0));
        net.run(SECOND / 4);
    }
    converge(&mut net, 60 * SECOND);
    net.run(30 * SECOND);
    let in_a_row: Vec<Peer> = net.circle(0).into_values().take(9).collect();
    for dead in in_a_row {
        net.kill(dead);
    }
    converge(&mut net, 120 * SECOND);
}

#[test]
fn partition_healed_merges_into_one_ring() {
    let mut net = grown(31, 12);
    for number in 0..5 {
        net.set_island(peer(number), 1);
    }
    converge(&mut net, 60 * SECOND);
    net.run(120 * SECOND);
    for number in 0..5 {
        net.set_island(peer(number), 0);
    }
    converge(&mut net, 60 * SECOND);
}

#[test]
fn peer_cut_off_alone_rejoins() {
    let mut net = grown(32, 6);
    net.set_island(peer(2), 1);
    converge(&mut net, 60 * SECOND);
    assert_eq!(net.ring(peer(2)).phase(), Phase::Alone);
    net.run(60 * SECOND);
    net.set_island(peer(2), 0);
    converge(&mut net, 30 * SECOND);
}

#[test]
fn restart_of_all_finds_the_ring_without_a_lone_peer() {
    let mut net = grown(41, 12);
    for number in 0..12 {
        net.kill(peer(number));
    }
    net.events.clear();
    for number in 0..12 {
        net.start(peer(number));
    }
    converge(&mut net, 10 * SECOND);
    let alone = |(_, event): &(Peer, Event)| *event == Event::PhaseChanged(Phase::Alone);
    assert!(!net.events.iter().any(alone));
}

#[test]
fn restarted_peer_with_dead_book_is_alone_until_one_returns() {
    let mut net = grown(42, 3);
    for number in 0..3 {
        net.kill(peer(number));
    }
    net.start(peer(1));
    assert_eq!(net.ring(peer(1)).phase(), Phase::Joining);
    converge(&mut net, 10 * SECOND);
    assert_eq!(net.ring(peer(1)).phase(), Phase::Alone);
    net.run(60 * SECOND);
    net.start(peer(2));
    converge(&mut net, 10 * SECOND);
}

#[test]
fn peer_with_one_contact_joins() {
    let mut net = RingNet::new(43);
    net.add(0, 3);
    net.add(1, 5);
    let invitation = net.ring(peer(0)).me().clone();
    net.with(peer(1), |ring, now| ring.add_contact(now, invitation));
    converge(&mut net, 10 * SECOND);
}

#[test]
fn joins_during_deaths_end_in_one_ring() {
    for seed in 50..54 {
        let mut net = grown(seed, 16);
        for round in 0..8 {
            let victim = peer(round * 2);
            net.kill(victim);
            let newcomer = net.add(100 + round, size(round));
            net.introduce(newcomer, peer(round * 2 + 1));
            let pause = net.random(700);
            net.run(Duration::from_millis(pause));
            if round % 3 == 0 {
                net.start(victim);
            }
        }
        converge(&mut net, 30 * SECOND);
    }
}

#[test]
fn ring_under_message_loss_recovers() {
    let mut net = RingNet::new(55);
    net.loss = 100;
    net.add(0, 4);
    for number in 1..12 {
        let newcomer = net.add(number, size(number));
        net.introduce(newcomer, peer(0));
    }
    converge(&mut net, 120 * SECOND);
}

#[test]
fn peers_on_a_slow_network_stay_alive() {
    let mut net = grown(56, 12);
    net.run(10 * SECOND);
    net.events.clear();
    net.delay = Duration::from_millis(400);
    net.run(60 * SECOND);
    let down = |(_, event): &(Peer, Event)| matches!(event, Event::PeerDown(_));
    assert!(!net.events.iter().any(down));
    converge(&mut net, Duration::ZERO);
}

#[test]
fn leaving_peer_is_dropped_by_all_and_reports_the_end() {
    let mut net = grown(61, 12);
    let leaver = peer(5);
    net.events.clear();
    net.with(leaver, Ring::leave);
    net.run(SECOND);
    assert!(net.events.contains(&(leaver, Event::Left)));
    let announced = net
        .events
        .iter()
        .filter(|(_, event)| *event == Event::Departed(leaver));
    assert_eq!(announced.count(), 11);
    assert_eq!(net.ring(leaver).phase(), Phase::Left);
    net.kill(leaver);
    converge(&mut net, 2 * SECOND);
}

#[test]
fn dead_peer_named_by_others_stays_dead() {
    let mut net = grown(62, 6);
    net.kill(peer(3));
    let dead = contact(3, 1, 12);
    converge(&mut net, 10 * SECOND);
    let zombie = net.ring(peer(0)).contact(peer(3)).unwrap().clone();
    assert!(zombie.version > dead.version);
    for gossip in [dead, zombie] {
        net.with(peer(0), |ring, now| ring.hear_of(now, gossip));
        assert!(!net.ring(peer(0)).is_alive(peer(3)));
        net.run(5 * SECOND);
        assert!(!net.ring(peer(0)).is_alive(peer(3)));
    }
    net.start(peer(3));
    converge(&mut net, 10 * SECOND);
    assert!(net.ring(peer(0)).is_alive(peer(3)));
}

#[test]
fn changed_contact_reaches_everybody() {
    let mut net = grown(63, 12);
    let change = SelfChange {
        state: Some(PeerState::Full),
        ..SelfChange::default()
    };
    net.with(peer(4), |ring, now| ring.update_self(now, change));
    converge(&mut net, 10 * SECOND);
    let seen = net.ring(peer(9)).contact(peer(4)).unwrap();
    assert_eq!(seen.state, PeerState::Full);
}

#[test]
fn small_change_of_use_is_not_published() {
    let mut net = grown(64, 4);
    let capacity = net.ring(peer(1)).me().capacity;
    let version = net.ring(peer(1)).me().version;
    let used = |bytes| SelfChange {
        used: Some(bytes),
        ..SelfChange::default()
    };
    net.with(peer(1), |ring, now| ring.update_self(now, used(capacity / 200)));
    net.run(10 * SECOND);
    assert_eq!(net.ring(peer(1)).me().version, version);
    net.with(peer(1), |ring, now| ring.update_self(now, used(capacity / 50)));
    net.run(10 * SECOND);
    assert_eq!(net.ring(peer(1)).me().version, version + 1);
    assert_eq!(net.ring(peer(2)).contact(peer(1)).unwrap().used, capacity / 50);
}

#[test]
fn peer_whose_clock_went_back_is_believed_again() {
    let mut net = grown(65, 4);
    let future = Contact {
        version: u64::MAX / 2,
        ..net.ring(peer(1)).me().clone()
    };
    net.with(peer(2), |ring, now| ring.note(now, future));
    net.with(peer(1), |ring, now| {
        ring.update_self(
            now,
            SelfChange {
                state: Some(PeerState::Draining),
                ..SelfChange::default()
            },
        );
    });
    converge(&mut net, 30 * SECOND);
}

#[test]
fn newcomer_that_became_a_member_overrides_its_older_answer() {
    let mut ring = Ring::new(RingConfig::default(), contact(0, 1, 1), Vec::new(), 1, Time::ZERO);
    let newcomer = contact(1, 1, 1);
    let at = |millis: u64| Time::from_micros(millis * 1000);
    ring.introduce(at(1), newcomer.clone());
    let ping = std::iter::from_fn(|| ring.poll_transmit())
        .find(|transmit| matches!(transmit.request, Request::Ping { .. }))
        .unwrap();
    let asks = Request::Neighbours {
        contact: newcomer.clone(),
        member: true,
        of: newcomer.ids().collect(),
        digest: 0,
    };
    ring.handle_request(at(2), newcomer.peer, asks);
    assert!(ring.is_alive(newcomer.peer));
    let before = Response::Pong {
        contact: newcomer.clone(),
        member: false,
    };
    ring.handle_response(at(3), ping.id, before);
    assert!(ring.is_alive(newcomer.peer));
}

#[test]
fn dead_peers_in_a_full_book_are_remembered() {
    let mut net = RingNet::new(29);
    net.config.max_book = 16;
    let first = net.add(0, 1);
    for number in 1..40 {
        let newcomer = net.add(number, 1);
        net.introduce(newcomer, first);
        net.run(SECOND / 4);
    }
    converge(&mut net, 60 * SECOND);
    for number in 10..15 {
        net.kill(peer(number));
    }
    converge(&mut net, 60 * SECOND);
    net.run(10 * SECOND);
    for number in 10..15 {
        let liveness = net.ring(first).liveness(peer(number));
        assert!(matches!(liveness, Some(Liveness::Dead { .. })), "{liveness:?}");
    }
}

#[test]
fn lookup_with_dead_hops_still_ends() {
    let mut net = grown(66, 12);
    for number in [1, 5, 9] {
        net.kill(peer(number));
    }
    let circle = net.circle(0);
    let at = peer(0);
    let ids: Vec<_> = (0..20)
        .map(|number| {
            (
                number,
                net.with(at, |ring, now| ring.lookup(now, point(number), 4)),
            )
        })
        .collect();
    net.run(15 * SECOND);
    let events: Vec<_> = net.events.drain(..).collect();
    let mut failures = 0;
    for (number, wanted) in ids {
        let outcome = events.iter().find_map(|(_, event)| {
            let Event::LookupDone { id, outcome } = event else {
                return None;
            };
            (*id == wanted).then_some(outcome)
        });
        let found = outcome.unwrap().as_ref().unwrap();
        failures += found.timeouts;
        let expected = &successors(&circle, point(number))[..4];
        assert!(
            found
                .contacts
                .iter()
                .any(|contact| expected.contains(&contact.peer))
        );
    }
    assert!(failures > 0, "no lookup met a dead peer");
}

#[test]
fn lookup_before_joining_is_refused() {
    let mut net = grown(67, 3);
    net.kill(peer(1));
    net.start(peer(1));
    let id = net.with(peer(1), |ring, now| ring.lookup(now, point(1), 1));
    assert_eq!(net.outcome(id, peer(1)), Err(LookupError::NotJoined));
}

#[test]
fn walk_names_answering_members_in_circle_order() {
    let mut net = grown(68, 30);
    let (answered, silent) = net.walk(peer(7));
    assert!(silent.is_empty());
    let firsts: Vec<_> = answered.iter().map(|contact| contact.ids().min()).collect();
    assert_eq!(answered.len(), 30);
    assert!(firsts.is_sorted());
    net.freeze(peer(8));
    let (answered, silent) = net.walk(peer(7));
    assert_eq!((answered.len(), silent), (29, vec![peer(8)]));
}

#[test]
fn same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut net = grown(seed, 12);
        net.kill(peer(3));
        net.run(20 * SECOND);
        net.trace()
    };
    assert_eq!(trace(71), trace(71));
    assert_ne!(trace(71), trace(72));
}

#[test]
fn ring_at_rest_sends_little() {
    let mut net = RingNet::new(81);
    net.add(0, 8);
    for number in 1..24 {
        let newcomer = net.add(number, [8, 16, 24, 32][number % 4]);
        net.introduce(newcomer, peer(0));
    }
    converge(&mut net, 60 * SECOND);
    net.run(30 * SECOND);
    let before = net.requests;
    net.events.clear();
    net.run(100 * SECOND);
    let requests = net.requests - before;
    assert!(
        requests < 12 * 100 * 24,
        "{requests} requests in 100 s among 24 peers"
    );
    let news = |(_, event): &(Peer, Event)| !matches!(event, Event::BookChanged);
    assert!(!net.events.iter().any(news), "{:?}", net.events);
    converge(&mut net, Duration::ZERO);
}

#[test]
fn peer_with_new_virtual_nodes_is_moved_everywhere() {
    let mut net = large(92, 60);
    net.restart_with(peer(30), (0..12).collect());
    converge(&mut net, 60 * SECOND);
    net.restart_with(peer(30), vec![7, 2000]);
    converge(&mut net, 60 * SECOND);
}

/// A ring in which nobody knows more than a small part.
fn large(seed: u64, count: usize) -> RingNet {
    let mut net = RingNet::new(seed);
    net.config.r = 4;
    net.config.max_learned = 4;
    net.add(0, 1);
    for number in 1..count {
        let newcomer = net.add(number, 1);
        net.introduce(newcomer, peer(number / 2));
        net.run(Duration::from_millis(100));
    }
    converge(&mut net, 300 * SECOND);
    net
}

/// Kills, restarts, freezes, partitions, moves and newcomers at random, then peace.
fn turmoil(seed: u64) {
    let mut net = RingNet::new(seed);
    net.config.r = [4, 8, 16][usize::try_from(net.random(3)).unwrap()];
    net.loss = net.random(2) * 20;
    net.add(0, size(0));
    let mut count = 1;
    for _ in 0..60 {
        let living = net.alive();
        let any = living[usize::try_from(net.random(living.len() as u64)).unwrap()];
        match net.random(9) {
            0..=2 => {
                let newcomer = net.add(count, size(count));
                net.introduce(newcomer, any);
                count += 1;
            }
            3 if living.len() > 1 => net.kill(any),
            4 if living.len() > 1 => net.freeze(any),
            5 => {
                let back = peer(usize::try_from(net.random(count as u64)).unwrap());
                if !living.contains(&back) {
                    net.start(back);
                }
            }
            6 => {
                let island = u8::try_from(net.random(2)).unwrap();
                net.set_island(any, island);
            }
            7 => {
                let first = u16::try_from(net.random(50)).unwrap();
                net.restart_with(any, (first..first + 5).collect());
            }
            _ => {
                let long = net.random(10);
                net.run(SECOND * u32::try_from(long).unwrap());
            }
        }
        let pause = net.random(1_500);
        net.run(Duration::from_millis(pause));
    }
    for number in 0..count {
        net.set_island(peer(number), 0);
    }
    net.loss = 0;
    // Groups that never met need a word from outside: one introduction for each.
    let mut groups = net.groups();
    while let [first, second, ..] = *groups.as_slice() {
        net.introduce(second, first);
        groups = net.groups();
    }
    converge(&mut net, 400 * SECOND);
}

#[test]
fn random_faults_end_in_one_ring() {
    for seed in 0..8 {
        turmoil(seed);
    }
}

#[test]
fn lookup_in_a_large_ring_takes_few_hops() {
    let mut net = large(91, 150);
    net.run(60 * SECOND);
    let circle = net.circle(0);
    let (mut sum, mut most) = (0, 0);
    for number in 0..150 {
        let at = peer(number);
        let target = point(number as u64);
        let id = net.with(at, |ring, now| ring.lookup(now, target, 3));
        let found = net.outcome(id, at).unwrap();
        let peers: Vec<Peer> = found.contacts.iter().map(|contact| contact.peer).collect();
        assert_eq!(peers, successors(&circle, target)[..3]);
        sum += found.hops;
        most = most.max(found.hops);
        assert!(net.ring(at).alive().count() < 40);
    }
    assert!(sum <= 150 * 5 && most <= 12, "{sum} hops in all, {most} at most");
}
