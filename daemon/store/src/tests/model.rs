//! Any sequence of operations, clean stops and kills against a `BTreeMap`.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::*;
use super::{copy_dir, key};

#[derive(Debug, Clone)]
enum Op {
    Put { n: u32, len: usize, lease: Option<u64> },
    Commit(Vec<u32>),
    Renew(Vec<u32>, u64),
    Remove(Vec<u32>),
    Expire(Vec<u32>, u64),
    PutTombstone(u32),
    Reopen(End),
}

/// How a store ends before the next one opens the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    LoseIndex,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = 0u32..12;
    let keys = vec(n.clone(), 0..4);
    let len = prop_oneof![0usize..300, 4000usize..14_000];
    let put = (n.clone(), len, proptest::option::of(0u64..100));
    let op = prop_oneof![
        12 => put.prop_map(|(n, len, lease)| Op::Put { n, len, lease }),
        3 => keys.clone().prop_map(Op::Commit),
        2 => (keys.clone(), 0u64..100).prop_map(|(keys, until)| Op::Renew(keys, until)),
        5 => keys.clone().prop_map(Op::Remove),
        1 => (keys, 0u64..100).prop_map(|(keys, now)| Op::Expire(keys, now)),
        1 => n.prop_map(Op::PutTombstone),
        1 => Just(Op::Reopen(End::Stop)),
        1 => Just(Op::Reopen(End::Kill)),
        1 => Just(Op::Reopen(End::LoseIndex)),
    ];
    vec(op, 1..40)
}

/// Lease (`None`: committed) and payload of shards; of deleted stripes, which have one key each here, when.
#[derive(Default)]
struct Model {
    shards: BTreeMap<Key, (Option<u64>, Vec<u8>)>,
    deleted: BTreeMap<Key, u64>,
}

struct Subject {
    dir: TempDir,
    store: Option<Store>,
}

const CONFIG: StoreConfig = StoreConfig {
    capacity: 8 << 20,
    max_segment: 48 << 10,
};

impl Subject {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self, end: End) {
        match end {
            End::Stop => self.store().close().unwrap(),
            End::LoseIndex => {
                self.store().close().unwrap();
                self.store = None;
                std::fs::remove_dir_all(self.dir.path().join("index")).unwrap();
            }
            End::Kill => {
                let copy = TempDir::new().unwrap();
                copy_dir(self.dir.path(), copy.path());
                self.dir = copy;
            }
        }
        self.store = None;
        let (store, report) = Store::open(self.dir.path(), CONFIG).unwrap();
        assert!(report.clean || end != End::Stop);
        assert_eq!((report.damaged, report.skipped_bytes), (vec![], 0));
        self.store = Some(store);
    }

    fn apply(&mut self, op: &Op, model: &mut Model, time: u8) {
        let keys = |numbers: &[u32]| numbers.iter().map(|n| key(*n)).collect::<Vec<_>>();
        match op {
            Op::Put { n, len, lease } => {
                let payload = vec![time; *len];
                let state = lease.map_or(State::Committed, |until_unix_ms| State::Pending {
                    until_unix_ms,
                    writer: [3; 32],
                });
                let outcome = self.store().put(key(*n), state, [7; 16], b"header", &payload);
                if model.deleted.contains_key(&key(*n)) {
                    assert!(matches!(outcome, Err(PutError::Deleted)));
                    return;
                }
                let outcome = outcome.unwrap();
                assert_eq!(
                    outcome == PutOutcome::AlreadyHeld,
                    model.shards.contains_key(&key(*n))
                );
                let held = model.shards.entry(key(*n)).or_insert((*lease, payload));
                held.0 = held.0.zip(*lease).map(|(held, new)| held.max(new));
            }
            Op::Commit(numbers) => {
                let committed = self.store().commit(&keys(numbers)).unwrap();
                let held = distinct(&keys(numbers))
                    .into_iter()
                    .filter(|key| model.shards.contains_key(key));
                assert_eq!(committed, held.count());
                for key in keys(numbers) {
                    model.shards.entry(key).and_modify(|held| held.0 = None);
                }
            }
            Op::Renew(numbers, until) => {
                self.store().renew(&keys(numbers), *until).unwrap();
                for key in keys(numbers) {
                    model
                        .shards
                        .entry(key)
                        .and_modify(|held| held.0 = held.0.map(|held| held.max(*until)));
                }
            }
            Op::Remove(numbers) => {
                self.store().remove(&keys(numbers)).unwrap();
                model.shards.retain(|key, _| !keys(numbers).contains(key));
            }
            Op::Expire(numbers, now) => {
                self.store().expire(&keys(numbers), *now).unwrap();
                model.shards.retain(|key, held| {
                    !(keys(numbers).contains(key) && held.0.is_some_and(|until| until <= *now))
                });
            }
            Op::PutTombstone(n) => {
                let Key { stripe, index } = key(*n);
                let removed = self
                    .store()
                    .put_tombstone(stripe, b"header", &[7; 64], u64::from(time))
                    .unwrap();
                let shard = model.shards.remove(&key(*n)).map(|_| index);
                assert_eq!(removed, Vec::from_iter(shard));
                model.deleted.entry(key(*n)).or_insert(u64::from(time));
            }
            Op::Reopen(end) => self.reopen(*end),
        }
    }

    fn check(&self, model: &Model) {
        let (mut listed, mut deleted) = (BTreeMap::new(), BTreeMap::new());
        let visit = |key: Key, meta: Meta| match meta.state {
            State::Deleted { since_unix_ms } => {
                assert_eq!((key.index, meta.len), (TOMBSTONE, 70));
                assert_eq!(deleted.insert(key.stripe, since_unix_ms), None);
            }
            State::Committed | State::Pending { .. } => assert_eq!(listed.insert(key, meta), None),
        };
        self.store().for_each(visit).unwrap();
        assert!(listed.keys().eq(model.shards.keys()));
        assert!(
            deleted
                .into_iter()
                .eq(model.deleted.iter().map(|(key, since)| (key.stripe, *since)))
        );
        for (key, (lease, payload)) in &model.shards {
            let stored = self.store().get(*key).unwrap().unwrap();
            assert!(stored.payload == *payload);
            let until = match stored.meta.state {
                State::Committed => None,
                State::Pending { until_unix_ms, .. } => Some(until_unix_ms),
                State::Deleted { .. } => panic!("a shard that is a tombstone"),
            };
            assert_eq!((until, &stored.meta), (*lease, &listed[key]));
        }
        for key in model.deleted.keys() {
            let tombstone = Key {
                index: TOMBSTONE,
                ..*key
            };
            let stored = self.store().get(tombstone).unwrap().unwrap();
            assert_eq!(
                (stored.header.as_ref(), stored.payload.as_ref()),
                (b"header".as_slice(), [7; 64].as_slice())
            );
            assert_eq!(self.store().get(*key).unwrap(), None);
        }
        self.check_usage(model);
    }

    fn check_usage(&self, model: &Model) {
        let usage = self.store().used();
        let bytes = |pending: bool| -> u64 {
            let chosen = model.shards.values().filter(|held| held.0.is_some() == pending);
            chosen
                .map(|held| record::record_bytes(held.1.len() as u64 + 6))
                .sum()
        };
        assert_eq!(
            (usage.committed_bytes, usage.pending_bytes),
            (bytes(false), bytes(true))
        );
        let counted = (usage.shards, usage.tombstones);
        assert_eq!(counted, (model.shards.len() as u64, model.deleted.len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(ops in ops()) {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), CONFIG).unwrap().0;
        let mut subject = Subject { dir, store: Some(store) };
        let mut model = Model::default();
        for (time, op) in (0u8..).zip(&ops) {
            subject.apply(op, &mut model, time);
        }
        subject.check(&model);
        subject.reopen(End::Kill);
        subject.check(&model);
    }
}
