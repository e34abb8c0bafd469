//! Any sequence of operations amid losses of power, failing writes, syncs and reads, full disks, flipped
//! bytes, cut segments and lost indices: what was acknowledged is read back or, where its bytes were
//! destroyed, not at all; nothing removed comes back; one damaged record costs one record.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;

use super::super::*;
use super::memory::{Faults, MemoryDisk, Reads};

#[derive(Debug, Clone)]
enum Op {
    Put { n: u8, len: usize, lease: Option<u64> },
    Commit(Vec<u8>),
    Renew(Vec<u8>, u64),
    Remove(Vec<u8>),
    Expire(Vec<u8>, u64),
    PutTombstone(u8),
    Compact,
    Fault(Fault),
    Damage(Damage),
    Reopen(End),
}

/// What the next operation meets.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Sync,
    Write,
    Full,
    Room,
    /// Everything is read amid errors, and again when they are over.
    Reads,
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    Cut,
}

/// How a store ends before the next one opens the directory.
#[derive(Debug, Clone, Copy)]
enum End {
    Stop,
    Kill,
    PowerLoss,
    IndexLost,
    IndexGarbled,
    /// A start during which a read fails, after so many that do not, and another one.
    Misread(usize),
}

/// Shards in the stripes that sequences are about.
const SHARDS: u8 = 9;
/// Shards of one stripe.
const OF_STRIPE: u8 = 3;
const CONFIG: StoreConfig = StoreConfig {
    capacity: 4 << 20,
    max_segment: 12 << 10,
};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = 0..SHARDS;
    let keys = vec(n.clone(), 1..4);
    let len = prop_oneof![6 => 0usize..300, 1 => 4000usize..9_000];
    let fault = prop_oneof![
        1 => Just(Fault::Sync),
        1 => Just(Fault::Write),
        1 => Just(Fault::Full),
        2 => Just(Fault::Room),
        1 => Just(Fault::Reads),
    ];
    let damage = prop_oneof![4 => Just(Damage::Flip), 1 => Just(Damage::Cut)];
    let end = prop_oneof![
        1 => Just(End::Stop),
        1 => Just(End::Kill),
        4 => Just(End::PowerLoss),
        1 => Just(End::IndexLost),
        1 => Just(End::IndexGarbled),
        1 => (0usize..12).prop_map(End::Misread),
    ];
    let put = (n.clone(), len, proptest::option::of(0u64..100));
    let op = prop_oneof![
        12 => put.prop_map(|(n, len, lease)| Op::Put { n, len, lease }),
        3 => keys.clone().prop_map(Op::Commit),
        2 => (keys.clone(), 0u64..100).prop_map(|(keys, until)| Op::Renew(keys, until)),
        5 => keys.clone().prop_map(Op::Remove),
        1 => (keys, 0u64..100).prop_map(|(keys, now)| Op::Expire(keys, now)),
        1 => n.prop_map(Op::PutTombstone),
        3 => Just(Op::Compact),
        3 => fault.prop_map(Op::Fault),
        1 => damage.prop_map(Op::Damage),
        3 => end.prop_map(Op::Reopen),
    ];
    vec(op, 1..24)
}

fn key(n: u8) -> Key {
    Key {
        stripe: [n / OF_STRIPE; 32],
        index: n % OF_STRIPE,
    }
}

fn tombstone(stripe: [u8; 32]) -> Key {
    Key {
        stripe,
        index: TOMBSTONE,
    }
}

/// The end of its lease (`None`: committed) and its bytes.
type Shard = (Option<u64>, Vec<u8>);

/// What must be held, and what may be.
#[derive(Default)]
struct Model {
    shards: BTreeMap<Key, Shard>,
    deleted: BTreeSet<[u8; 32]>,
    /// What the next start may find instead, because an operation failed when it was half done; `None`:
    /// nothing.
    maybe: BTreeMap<Key, Vec<Option<Shard>>>,
    maybe_deleted: BTreeSet<[u8; 32]>,
    /// Shards and tombstones whose records were hit.
    hit: BTreeSet<Key>,
    /// Something was hit: perhaps a record that said that a shard is committed, or removed.
    damaged: bool,
    full: bool,
}

impl Model {
    fn may_be(&mut self, key: Key, shard: Option<Shard>) {
        self.maybe.entry(key).or_default().push(shard);
    }

    fn keys(numbers: &[u8]) -> Vec<Key> {
        numbers.iter().map(|n| key(*n)).collect()
    }

    /// Notes the outcome of an update of `keys` that makes `change` of each shard held.
    fn update<T>(
        &mut self,
        keys: &[Key],
        outcome: &Result<T, UpdateError>,
        change: impl Fn(&Shard) -> Option<Shard>,
    ) {
        for key in distinct(keys) {
            let Some(held) = self.shards.get(&key) else {
                continue;
            };
            let after = change(held);
            match outcome {
                Ok(_) => match after {
                    Some(after) => drop(self.shards.insert(key, after)),
                    None => drop(self.shards.remove(&key)),
                },
                Err(UpdateError::Sync(_) | UpdateError::NoSpace | UpdateError::Io(_)) => {
                    self.may_be(key, after);
                }
                Err(UpdateError::Index(_) | UpdateError::Closed) => panic!("neither fails here"),
            }
        }
    }
}

struct Subject<'a> {
    dir: &'a Path,
    disk: MemoryDisk,
    store: Option<Store>,
    model: Model,
}

impl Subject<'_> {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn start(&mut self) {
        self.store = None;
        self.store = Some(Store::open_on(&self.disk.as_disk(), self.dir, CONFIG).unwrap().0);
    }

    fn reopen(&mut self, end: End) {
        self.disk.fail(Faults::default());
        self.model.full = false;
        match end {
            End::Stop | End::IndexLost | End::IndexGarbled => drop(self.store().close()),
            End::Kill | End::PowerLoss | End::Misread(_) => {}
        }
        self.store = None;
        match end {
            End::Stop | End::Kill => {}
            End::PowerLoss => self.disk.lose_power(),
            End::IndexLost => self.disk.lose_index(false),
            End::IndexGarbled => self.disk.lose_index(true),
            End::Misread(reads) => {
                self.disk.fail(Faults {
                    reads: Reads::One(reads),
                    ..Faults::default()
                });
                drop(Store::open_on(&self.disk.as_disk(), self.dir, CONFIG));
                self.disk.fail(Faults::default());
            }
        }
        self.start();
        self.adopt();
    }

    /// Of what may be, a start decides what is.
    fn adopt(&mut self) {
        for stripe in (0..SHARDS / OF_STRIPE).map(|stripe| [stripe; 32]) {
            let key = tombstone(stripe);
            let (must, may) = (
                self.model.deleted.contains(&stripe),
                self.model.maybe_deleted.contains(&stripe),
            );
            let hit = self.model.hit.contains(&key);
            let held = match self.store().get(key) {
                Ok(Some(_)) => true,
                Ok(None) => false,
                Err(_) if hit => true,
                Err(error) => panic!("tombstone of {stripe:?}: {error}"),
            };
            assert!(
                if held { must || may } else { !must || hit },
                "tombstone of {stripe:?}"
            );
            if held {
                self.model.deleted.insert(stripe);
                self.model.shards.retain(|key, _| key.stripe != stripe);
            } else {
                self.model.deleted.remove(&stripe);
                self.model.hit.remove(&key);
            }
        }
        self.model.maybe_deleted.clear();
        for key in (0..SHARDS).map(key) {
            let mut allowed = self.model.maybe.remove(&key).unwrap_or_default();
            allowed.push(self.model.shards.remove(&key));
            if self.model.deleted.contains(&key.stripe) {
                continue;
            }
            let (hit, damaged) = (self.model.hit.contains(&key), self.model.damaged);
            match self.store().get(key) {
                Ok(None) => {
                    assert!(hit || allowed.contains(&None), "{key:?} is gone");
                    self.model.hit.remove(&key);
                }
                Ok(Some(stored)) => {
                    let seen = shard(&stored);
                    let same = |allowed: &Shard| allowed.1 == seen.1 && (damaged || allowed.0 == seen.0);
                    assert!(allowed.iter().flatten().any(same), "{key:?} is {:?}", seen.0);
                    self.model.shards.insert(key, seen);
                }
                Err(error) => {
                    assert!(matches!(error, GetError::Corrupt), "{error}");
                    let removed = damaged && allowed.contains(&None);
                    assert!(hit || removed, "{key:?} is said to be damaged");
                    self.model.hit.insert(key);
                }
            }
        }
    }

    fn apply(&mut self, op: &Op, time: u8) {
        match op {
            Op::Put { n, len, lease } => self.put(key(*n), vec![time; *len], *lease),
            Op::Commit(numbers) => {
                let keys = Model::keys(numbers);
                let outcome = self.store().commit(&keys);
                self.model
                    .update(&keys, &outcome, |(_, bytes)| Some((None, bytes.clone())));
            }
            Op::Renew(numbers, until) => {
                let keys = Model::keys(numbers);
                let outcome = self.store().renew(&keys, *until);
                self.model.update(&keys, &outcome, |(lease, bytes)| {
                    Some((lease.map(|held| held.max(*until)), bytes.clone()))
                });
            }
            Op::Remove(numbers) => {
                let keys = Model::keys(numbers);
                let outcome = self.store().remove(&keys);
                self.model.update(&keys, &outcome, |_| None);
            }
            Op::Expire(numbers, now) => {
                let keys = Model::keys(numbers);
                let outcome = self.store().expire(&keys, *now);
                self.model.update(&keys, &outcome, |(lease, bytes)| {
                    let ended = lease.is_some_and(|until| until <= *now);
                    (!ended).then(|| (*lease, bytes.clone()))
                });
            }
            Op::PutTombstone(n) => self.put_tombstone(key(*n).stripe),
            Op::Compact => self.compact(),
            Op::Fault(fault) => self.fault(*fault),
            Op::Damage(damage) => self.damage(*damage),
            Op::Reopen(end) => self.reopen(*end),
        }
    }

    fn put(&mut self, key: Key, payload: Vec<u8>, lease: Option<u64>) {
        let state = lease.map_or(State::Committed, |until_unix_ms| State::Pending {
            until_unix_ms,
            writer: [3; 32],
        });
        let outcome = self.store().put(key, state, [7; 16], b"header", &payload);
        let held = self.model.shards.get(&key);
        let after = match held {
            Some((until, bytes)) => (until.zip(lease).map(|(held, new)| held.max(new)), bytes.clone()),
            None => (lease, payload.clone()),
        };
        match outcome {
            Ok(PutOutcome::AlreadyHeld) => {
                assert!(held.is_some(), "{key:?} was not held");
                self.model.shards.insert(key, after);
            }
            Ok(PutOutcome::Stored) => {
                let hit = self.model.hit.remove(&key);
                assert!(held.is_none() || hit, "{key:?} was held");
                self.model.shards.insert(key, (lease, payload));
            }
            Err(PutError::Deleted) => assert!(self.model.deleted.contains(&key.stripe)),
            Err(PutError::Sync(_) | PutError::NoSpace { .. } | PutError::Io(_)) => {
                self.model.may_be(key, Some(after));
                self.model.may_be(key, Some((lease, payload)));
            }
            Err(error @ (PutError::Index(_) | PutError::Closed | PutError::Taken)) => panic!("{error}"),
        }
    }

    fn put_tombstone(&mut self, stripe: [u8; 32]) {
        let outcome = self.store().put_tombstone(stripe, b"header", &[7; 64], 5);
        match outcome {
            Ok(_) => {
                self.model.deleted.insert(stripe);
                self.model.hit.remove(&tombstone(stripe));
                let gone: Vec<Key> = self.model.shards.keys().copied().collect();
                for key in gone.into_iter().filter(|key| key.stripe == stripe) {
                    // Removing them may have failed: should the tombstone be destroyed too, they may be back.
                    let shard = self.model.shards.remove(&key);
                    self.model.may_be(key, shard);
                }
            }
            Err(PutError::Sync(_) | PutError::NoSpace { .. } | PutError::Io(_)) => {
                self.model.maybe_deleted.insert(stripe);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Nothing changes, whatever comes of it.
    fn compact(&self) {
        match self.store().compact_above(0) {
            Ok(_) | Err(UpdateError::Sync(_) | UpdateError::NoSpace | UpdateError::Io(_)) => {}
            Err(error @ (UpdateError::Index(_) | UpdateError::Closed)) => panic!("{error}"),
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.model.full = match fault {
            Fault::Full => true,
            Fault::Room => false,
            Fault::Sync | Fault::Write | Fault::Reads => self.model.full,
        };
        let mut faults = Faults {
            full: self.model.full,
            ..Faults::default()
        };
        match fault {
            Fault::Sync => faults.sync = true,
            Fault::Write => faults.write = true,
            Fault::Full | Fault::Room => {}
            Fault::Reads => {
                self.disk.fail(Faults {
                    reads: Reads::All,
                    ..faults
                });
                for key in (0..SHARDS).map(key) {
                    let read = self.store().get(key);
                    assert!(!matches!(read, Ok(Some(_)) | Err(GetError::Corrupt)), "{key:?}");
                }
            }
        }
        self.disk.fail(faults);
    }

    fn damage(&mut self, damage: Damage) {
        let (place, beyond) = match damage {
            Damage::Flip => (self.disk.flip(), false),
            Damage::Cut => (self.disk.cut(), true),
        };
        let Some((segment, at)) = place else { return };
        self.model.damaged = true;
        let tombstones = (0..SHARDS / OF_STRIPE).map(|stripe| tombstone([stripe; 32]));
        for key in (0..SHARDS).map(key).chain(tombstones) {
            let entry = self.store().index.get(&key).unwrap();
            let hit = entry.is_some_and(|entry| {
                let end = entry.offset + entry.record_bytes();
                entry.segment == segment && at < end && (beyond || entry.offset <= at)
            });
            if hit {
                self.model.hit.insert(key);
            }
        }
    }

    fn check(&self) {
        for key in (0..SHARDS).map(key) {
            let hit = self.model.hit.contains(&key);
            match (self.store().get(key), self.model.shards.get(&key)) {
                (Ok(Some(stored)), Some(held)) => {
                    let seen = shard(&stored);
                    assert!(seen == *held, "{key:?} is {:?}, not {:?}", seen.0, held.0);
                }
                (Ok(None), None) => {}
                (Err(GetError::Corrupt) | Ok(None), _) if hit => {}
                (read, held) => panic!(
                    "{key:?} {:?} reads {:?}",
                    held.map(|held| held.0),
                    read.map(|_| ())
                ),
            }
        }
        let (mut shards, mut bytes) = (0, 0);
        let visit = |key: Key, meta: Meta| {
            if key.index != TOMBSTONE {
                shards += 1;
                bytes += record::record_bytes(u64::from(meta.len));
            }
        };
        self.store().for_each(visit).unwrap();
        let usage = self.store().used();
        assert_eq!((usage.shards, usage.used()), (shards, bytes));
    }
}

fn shard(stored: &Stored) -> Shard {
    let lease = match stored.meta.state {
        State::Committed => None,
        State::Pending { until_unix_ms, .. } => Some(until_unix_ms),
        State::Deleted { .. } => panic!("a shard that is a tombstone"),
    };
    (lease, stored.payload.to_vec())
}

/// Sequences tried, some seconds of work; `PROPTEST_CASES` asks for more.
const SEQUENCES: u32 = 100_000;

#[test]
fn storms_lose_nothing_but_what_they_destroy() {
    let dir = TempDir::new().unwrap();
    let config = ProptestConfig {
        cases: SEQUENCES.max(ProptestConfig::default().cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in ops(), seed: u64)| storm(dir.path(), &ops, seed));
}

fn storm(dir: &Path, ops: &[Op], seed: u64) {
    let mut subject = Subject {
        dir,
        disk: MemoryDisk::new(seed),
        store: None,
        model: Model::default(),
    };
    subject.start();
    for (time, op) in (1u8..).zip(ops) {
        subject.apply(op, time);
        subject.check();
    }
    subject.reopen(End::PowerLoss);
    subject.check();
}

/// The footer of the older segment is damaged, so only the header written over the removed shard says that it
/// is dead; and that was not durable yet when the record of the removal was compacted away.
#[test]
fn a_removal_is_not_forgotten_before_the_dead_record_is_marked_for_good() {
    let dir = TempDir::new().unwrap();
    let put = |n, len| Op::Put { n, len, lease: None };
    let ops = [
        put(0, 0),
        Op::PutTombstone(6),
        Op::Reopen(End::IndexLost),
        Op::Damage(Damage::Flip),
        Op::Remove(vec![0]),
        Op::Fault(Fault::Sync),
        put(0, 1),
        put(1, 0),
        Op::Compact,
    ];
    for seed in 0..200 {
        storm(dir.path(), &ops, seed);
    }
}
