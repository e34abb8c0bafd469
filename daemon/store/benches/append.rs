//! Puts into a shard store and reads from it; a put ends when its bytes are on the device.

#![allow(missing_docs, reason = "benches are named by what they measure")]

use std::sync::atomic::{AtomicU64, Ordering};

use divan::counter::BytesCount;
use mutualstore_store::{Key, State, Store, StoreConfig};
use tempfile::TempDir;

const LENGTHS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

fn main() {
    divan::main();
}

fn open() -> (TempDir, Store) {
    let dir = TempDir::new().expect("a directory for temporary files");
    let (store, _) = Store::open(dir.path(), StoreConfig::default()).expect("a new store");
    (dir, store)
}

fn key(number: u64) -> Key {
    let mut stripe = [0; 32];
    stripe
        .iter_mut()
        .zip(number.to_be_bytes())
        .for_each(|(to, from)| *to = from);
    Key { stripe, index: 0 }
}

/// By one thread, and by eight, whose puts share flushes.
#[divan::bench(args = LENGTHS, threads = [1, 8], sample_count = 20)]
fn put(bencher: divan::Bencher<'_, '_>, length: usize) {
    let (_dir, store) = open();
    let (payload, number) = (vec![7; length], AtomicU64::new(0));
    bencher.counter(BytesCount::new(length)).bench(|| {
        let key = key(number.fetch_add(1, Ordering::Relaxed));
        store.put(key, State::Committed, [1; 16], b"header", &payload)
    });
}

#[divan::bench(args = LENGTHS)]
fn get(bencher: divan::Bencher<'_, '_>, length: usize) {
    let (_dir, store) = open();
    let payload = vec![7; length];
    store
        .put(key(0), State::Committed, [1; 16], b"header", &payload)
        .expect("there is room");
    bencher
        .counter(BytesCount::new(length))
        .bench(|| store.get(key(0)));
}
