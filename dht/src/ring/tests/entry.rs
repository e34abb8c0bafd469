//! How a peer finds its network again, and what it announces there.

use super::*;

/// Answers every ping of a peer with one address in its book so; says what its phases were.
fn phases_of_a_restart(failure: Failure) -> (Ring, Vec<Phase>) {
    let entry = BookEntry {
        contact: contact(1, 1, 1),
        age: Duration::ZERO,
    };
    let mut ring = Ring::new(
        RingConfig::default(),
        contact(0, 1, 1),
        vec![entry],
        1,
        Time::ZERO,
    );
    let mut phases = Vec::new();
    for _ in 0..200 {
        let Some(now) = ring.poll_timeout() else {
            break;
        };
        ring.handle_timeout(now);
        while let Some(transmit) = ring.poll_transmit() {
            ring.handle_failure(now, transmit.id, failure);
        }
        while let Some(event) = ring.poll_event() {
            if let Event::PhaseChanged(phase) = event {
                phases.push(phase);
            }
        }
    }
    (ring, phases)
}

#[test]
fn barred_peer_founds_no_ring_and_joins_once_admitted() {
    let (ring, phases) = phases_of_a_restart(Failure::Unreachable);
    assert_eq!(
        (phases.as_slice(), ring.is_barred()),
        (&[Phase::Alone][..], false)
    );

    let (mut ring, phases) = phases_of_a_restart(Failure::Barred);
    assert_eq!(phases, []);
    assert!(ring.is_barred() && !ring.is_member());
    assert_eq!(ring.phase(), Phase::Joining);

    let now = ring.poll_timeout().unwrap();
    let other = contact(1, 1, 1);
    ring.introduce(now, other.clone());
    assert!(!ring.is_barred());
    let ping =
        std::iter::from_fn(|| ring.poll_transmit()).find(|sent| matches!(sent.request, Request::Ping { .. }));
    let answer = Response::Pong {
        contact: other,
        member: true,
    };
    ring.handle_response(now, ping.unwrap().id, answer);
    assert!(
        std::iter::from_fn(|| ring.poll_transmit()).any(|sent| matches!(sent.request, Request::Next { .. }))
    );
}

#[test]
fn barred_lone_peer_stops_being_a_ring_of_one() {
    let mut ring = Ring::new(RingConfig::default(), contact(0, 1, 1), Vec::new(), 1, Time::ZERO);
    assert_eq!((ring.phase(), ring.is_member()), (Phase::Alone, true));
    ring.handle_barred(Time::ZERO);
    assert_eq!(
        (ring.phase(), ring.is_member(), ring.is_barred()),
        (Phase::Joining, false, true)
    );
}

#[test]
fn peer_outdoes_only_contacts_it_signed() {
    let mut ring = Ring::new(RingConfig::default(), contact(0, 5, 1), Vec::new(), 1, Time::ZERO);
    let ping = |ring: &mut Ring, held: Contact| {
        ring.handle_request(Time::ZERO, peer(1), Request::Ping { held: Some(held) });
        ring.me().version
    };
    let own = |version| Contact {
        version,
        ..contact(0, 5, 1)
    };
    assert_eq!(ping(&mut ring, own(4)), 5);
    assert_eq!(ping(&mut ring, own(1_000_000)), 1_000_001);
    assert_eq!(ping(&mut ring, contact(2, u64::MAX, 1)), 1_000_001);
    assert_eq!(ping(&mut ring, own(u64::MAX - 1)), u64::MAX);
    assert_eq!(ping(&mut ring, own(u64::MAX)), u64::MAX);
}

#[test]
fn two_instances_with_one_key_stop_outdoing_each_other() {
    let mut one = Ring::new(RingConfig::default(), contact(0, 5, 1), Vec::new(), 1, Time::ZERO);
    let mut other = Ring::new(RingConfig::default(), contact(0, 9, 2), Vec::new(), 2, Time::ZERO);
    let hour = 3600;
    for second in 0..hour {
        let now = Time::from_micros(second * 1_000_000);
        let held = other.me().clone();
        one.handle_request(now, peer(1), Request::Ping { held: Some(held) });
        let held = one.me().clone();
        other.handle_request(now, peer(1), Request::Ping { held: Some(held) });
    }
    assert!(one.me().version < 50, "{}", one.me().version);
}
