//! Tombstones, on one custody and what is reported to it.

use std::collections::{BTreeMap, BTreeSet};

use super::harness::{RS, committed, peer, quick, secs, stripe};
use super::view::View;
use super::*;

fn at(seconds: u64) -> Time {
    Time::ZERO + secs(seconds)
}

fn tombstone(id: Id, until: Time) -> Holding {
    Holding {
        stripe: id,
        item: Item::Tombstone,
        shape: RS,
        tenure: Tenure::Deleted { until },
    }
}

fn drops(custody: &mut Custody) -> Vec<Item> {
    let mut dropped = Vec::new();
    while let Some(effect) = custody.poll_effect() {
        if let Effect::Drop { item, .. } = effect {
            dropped.push(item);
        }
    }
    dropped
}

/// In the view of peer 0, which is the primary of stripe 0, in a ring with peer 1.
fn as_primary<T>(act: impl FnOnce(&View<'_>) -> T) -> T {
    let primary = stripe(0);
    let ids = BTreeMap::from([(primary, peer(0)), (primary.successor(), peer(1))]);
    let states = BTreeMap::from([(peer(0), PeerState::Accepting), (peer(1), PeerState::Accepting)]);
    act(&View::Oracle {
        me: peer(0),
        ids: &ids,
        living: &BTreeSet::from([peer(0), peer(1)]),
        states: &states,
    })
}

/// Custody of peer 0 does `until` then all that is due.
fn drive(custody: &mut Custody, until: Time) -> Vec<Effect> {
    as_primary(|ring| {
        let mut effects = Vec::new();
        while let Some(due) = custody.poll_timeout().filter(|due| *due <= until) {
            custody.handle_timeout(due.max(custody.schedule.now), ring);
            while let Some(transmit) = custody.poll_transmit() {
                custody.handle_failure(custody.schedule.now, ring, transmit.id);
            }
            effects.extend(std::iter::from_fn(|| custody.poll_effect()));
        }
        effects
    })
}

fn copies_of_tombstones(effects: &[Effect]) -> Vec<(JobId, Peer, Peer)> {
    let mut copies = Vec::new();
    for effect in effects {
        if let Effect::Copy {
            job,
            item: Item::Tombstone,
            from,
            to,
            ..
        } = effect
        {
            copies.push((*job, *from, *to));
        }
    }
    copies
}

#[test]
fn tombstone_before_or_after_shards_drops_them() {
    let mut custody = Custody::new(quick(), peer(0), 1, Time::ZERO);
    let id = stripe(0);
    custody.insert(at(1), committed(id, Item::Shard(2), RS));
    custody.insert(at(1), committed(stripe(1), Item::Shard(0), RS));
    custody.insert(at(2), tombstone(id, at(100)));
    assert_eq!(drops(&mut custody), [Item::Shard(2)]);
    custody.insert(at(3), committed(id, Item::Shard(4), RS));
    assert_eq!(drops(&mut custody), [Item::Shard(4)]);
}

#[test]
fn tombstone_past_its_time_is_dropped() {
    let mut custody = Custody::new(quick(), peer(0), 1, Time::ZERO);
    custody.insert(at(1), tombstone(stripe(0), at(50)));
    let early = drive(&mut custody, at(49));
    assert!(!early.iter().any(|effect| matches!(effect, Effect::Drop { .. })));
    let late = drive(&mut custody, at(51));
    assert!(late.iter().any(|effect| matches!(
        effect,
        Effect::Drop {
            item: Item::Tombstone,
            ..
        }
    )));
}

#[test]
fn tombstone_at_the_primary_is_replicated_to_the_preferred() {
    let mut custody = Custody::new(quick(), peer(0), 1, Time::ZERO);
    custody.insert(at(1), tombstone(stripe(0), at(1000)));
    let copies = copies_of_tombstones(&drive(&mut custody, at(20)));
    let [(_, from, to)] = copies.as_slice() else {
        panic!("{copies:?}");
    };
    assert_eq!((*from, *to), (peer(0), peer(1)));
}

#[test]
fn tombstone_claimed_but_not_shown_drops_nothing() {
    let mut custody = Custody::new(quick(), peer(0), 1, Time::ZERO);
    let id = stripe(0);
    custody.insert(at(1), committed(id, Item::Shard(2), RS));
    drive(&mut custody, at(5));
    let entry = Entry {
        stripe: id,
        item: Item::Tombstone,
        shape: RS,
        committed: true,
    };
    let report = Report {
        instance: 1,
        sequence: 1,
        total: 7,
        listings: vec![Listing {
            bucket: key::Slot::of(id).bucket,
            from: Id::default(),
            to: Id::new([0xff; 32]),
            entries: vec![entry],
        }],
    };
    as_primary(|ring| custody.handle_request(at(6), ring, peer(1), Request::Report(report)));
    let asked = drive(&mut custody, at(10));
    // It wants to see the tombstone, and drops nothing before it has.
    let copies = copies_of_tombstones(&asked);
    let [(job, from, to)] = copies.as_slice() else {
        panic!("{copies:?}");
    };
    assert_eq!((*from, *to), (peer(1), peer(0)));
    assert!(!asked.iter().any(|effect| matches!(effect, Effect::Drop { .. })));
    let outcome = JobOutcome {
        failed: vec![(Item::Tombstone, peer(0))],
        ..JobOutcome::default()
    };
    as_primary(|ring| custody.handle_job(at(10), ring, *job, outcome));
    // Who says so and has none is not believed for a while, and the stripe is what it was.
    assert_eq!(copies_of_tombstones(&drive(&mut custody, at(15))), []);
    assert!(
        custody.stats().safe + custody.stats().degraded + custody.stats().lost + custody.stats().unsure > 0
    );
}
