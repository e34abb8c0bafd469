//! A kill is a copy of the directory taken while the store is open: what a dead process leaves behind.

mod compact;
mod faults;
mod format;
mod index;
mod memory;
mod model;
mod recovery;
mod storms;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;
const HEADER: &[u8] = b"a stripe's header";
const LATER: State = State::Pending {
    until_unix_ms: 5_000,
    writer: [9; 32],
};

pub(super) fn key(n: u32) -> Key {
    let mut stripe = [0; 32];
    stripe[..4].copy_from_slice(&n.to_be_bytes());
    Key {
        stripe,
        index: u8::try_from(n % 7).unwrap(),
    }
}

fn payload(n: u32, len: usize) -> Vec<u8> {
    (0u32..)
        .map(|i| u8::try_from((i.wrapping_mul(n + 7) >> 3) & 0xff).unwrap())
        .take(len)
        .collect()
}

fn config(capacity: u64) -> StoreConfig {
    StoreConfig {
        capacity,
        ..StoreConfig::default()
    }
}

pub(super) fn open(dir: &Path) -> (Store, OpenReport) {
    Store::open(dir, config(64 * MIB)).unwrap()
}

fn put(store: &Store, n: u32, len: usize) {
    let outcome = store
        .put(key(n), State::Committed, [1; 16], HEADER, &payload(n, len))
        .unwrap();
    assert_eq!(outcome, PutOutcome::Stored);
}

#[track_caller]
fn assert_held(store: &Store, n: u32, len: usize) {
    let stored = store.get(key(n)).unwrap().unwrap();
    assert_eq!(stored.header, HEADER);
    assert!(stored.payload == payload(n, len), "other bytes");
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn kill(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn flip(file: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

fn place(store: &Store, n: u32) -> u64 {
    store.index.get(&key(n)).unwrap().unwrap().offset
}

fn du(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let bytes = |entry: fs::DirEntry| {
        if entry.path().is_dir() {
            du(&entry.path())
        } else {
            entry.metadata().unwrap().blocks() * 512
        }
    };
    entries.map(bytes).sum()
}

#[test]
fn what_was_put_is_served_and_counted() {
    let dir = TempDir::new().unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((report.shards, report.segments), (0, 0));
    for n in 0..20 {
        put(&store, n, n as usize * 1000);
    }
    for n in 0..20 {
        assert_held(&store, n, n as usize * 1000);
    }
    assert_eq!(store.get(key(99)).unwrap(), None);
    assert_eq!(store.meta(key(3)).unwrap().len as usize, HEADER.len() + 3000);
    assert_eq!(store.indices(&key(3).stripe), [(3, store.meta(key(3)).unwrap())]);
    let mut keys = Vec::new();
    store.for_each(|key, _| keys.push(key)).unwrap();
    assert_eq!(keys, (0..20).map(key).collect::<Vec<_>>());
    let usage = store.used();
    assert_eq!(usage.shards, 20);
    assert!(usage.committed_bytes > 190_000 + 20 * 128 && usage.committed_bytes < 190_000 + 20 * 256);
    assert_eq!(
        store.remove(&[key(19), key(19), key(99)]).unwrap(),
        128 + 17 + 19_000 + 55
    );
    assert_eq!(store.get(key(19)).unwrap(), None);
    assert_eq!(store.used().shards, 19);
}

#[test]
fn a_walk_passes_page_bounds() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    std::thread::scope(|scope| {
        for t in 0..8 {
            let store = &store;
            scope.spawn(move || (0..100).for_each(|n| put(store, t * 100 + n, 10)));
        }
    });
    let mut keys = Vec::new();
    store.for_each(|key, _| keys.push(key)).unwrap();
    assert_eq!(keys, (0..800).map(key).collect::<Vec<_>>());
}

#[test]
fn pending_shards_are_committed_renewed_expired_and_discarded() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    for n in 0..5 {
        store.put(key(n), LATER, [1; 16], HEADER, b"x").unwrap();
    }
    assert_eq!(store.used().committed_bytes, 0);
    assert_eq!(store.commit(&[key(0), key(0), key(77)]).unwrap(), 1);
    assert_eq!(store.commit(&[key(0)]).unwrap(), 1);
    store.renew(&[key(0), key(1), key(77)], 9_000).unwrap();
    store.renew(&[key(1)], 8_000).unwrap();
    assert_eq!(
        store
            .put(key(2), State::Committed, [2; 16], HEADER, b"x")
            .unwrap(),
        PutOutcome::AlreadyHeld
    );
    let again = State::Pending {
        until_unix_ms: 4_000,
        writer: [8; 32],
    };
    let stolen = store.put(key(3), again, [3; 16], HEADER, b"x");
    assert!(matches!(stolen, Err(PutError::Taken)));
    assert_eq!(store.discard(&[key(3)], [3; 16]).unwrap(), 0);
    assert_eq!(
        store.put(key(3), again, [1; 16], HEADER, b"x").unwrap(),
        PutOutcome::AlreadyHeld
    );
    let expected = [
        Some((State::Committed, [1; 16])),
        Some((
            State::Pending {
                until_unix_ms: 9_000,
                writer: [9; 32],
            },
            [1; 16],
        )),
        Some((State::Committed, [1; 16])),
        Some((
            State::Pending {
                until_unix_ms: 5_000,
                writer: [8; 32],
            },
            [1; 16],
        )),
        Some((LATER, [1; 16])),
    ];
    let states =
        |store: &Store| [0, 1, 2, 3, 4].map(|n| store.meta(key(n)).map(|meta| (meta.state, meta.token)));
    assert_eq!(states(&store), expected);
    let copy = kill(dir.path());
    let (killed, report) = open(copy.path());
    assert!(!report.clean);
    assert_eq!(states(&killed), expected);
    assert_eq!(killed.used().committed_bytes, store.used().committed_bytes);
    assert_eq!(killed.used().pending_bytes, store.used().pending_bytes);

    let all = [0, 1, 2, 3, 4].map(key);
    assert_eq!(store.discard(&all, [3; 16]).unwrap(), 0);
    assert!(store.discard(&[key(3)], [1; 16]).unwrap() > 0);
    assert!(store.expire(&all, 5_000).unwrap() > 0);
    assert_eq!(
        states(&store),
        [expected[0], expected[1], expected[2], None, None]
    );
}

#[test]
fn a_full_store_refuses_puts_deletes_and_takes_again() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    let len = usize::try_from(MIB).unwrap();
    let mut held = 0;
    let free = loop {
        match store.put(key(held), LATER, [0; 16], HEADER, &payload(held, len)) {
            Ok(_) => held += 1,
            Err(PutError::NoSpace { free }) => break free,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(
        free < MIB + 1024 && held >= 60,
        "{held} shards, {free} bytes free"
    );
    assert!(du(dir.path()) <= 64 * MIB);
    let all: Vec<_> = (0..held).map(key).collect();
    assert_eq!(store.commit(&all).unwrap(), all.len());
    assert!(store.remove(&[key(0), key(1)]).unwrap() > 2 * MIB);
    put(&store, 1000, len);
    assert_held(&store, 1000, len);
    assert_held(&store, 2, len);
    store.set_capacity(MIB);
    assert!(matches!(
        store.put(key(1), LATER, [0; 16], b"", b""),
        Err(PutError::NoSpace { free: 0 })
    ));
    assert_held(&store, 2, len);
}

#[test]
fn what_the_store_says_it_takes_is_what_it_takes() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), config(128 * MIB)).unwrap();
    let agree = |store: &Store, when: &str| {
        let (said, taken) = (store.used().used(), du(dir.path()));
        assert!(
            taken.abs_diff(said) * 20 <= taken,
            "{when}: {said} said, {taken} taken"
        );
    };
    let len = 256 << 10;
    (0..400).for_each(|n| put(&store, n, len));
    agree(&store, "after puts");
    let gone: Vec<_> = (0..400).filter(|n| n % 3 == 0).map(key).collect();
    store.remove(&gone).unwrap();
    agree(&store, "after removals");
    store.close().unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), config(128 * MIB)).unwrap();
    agree(&store, "after a clean stop");
    (0..400)
        .filter(|n| n % 3 != 0)
        .for_each(|n| assert_held(&store, n, len));
}

#[test]
fn dead_segments_go() {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig {
        capacity: 64 * MIB,
        max_segment: 256 << 10,
    };
    let (store, _) = Store::open(dir.path(), config).unwrap();
    (0..2000).for_each(|n| put(&store, n, 1000));
    let before = segment_files(dir.path()).len();
    assert!(before > 8);
    let keys: Vec<_> = (0..2000).map(key).collect();
    store.remove(&keys).unwrap();
    put(&store, 2000, 10);
    assert!(segment_files(dir.path()).len() <= 2);
    let copy = kill(dir.path());
    let (killed, report) = Store::open(copy.path(), config).unwrap();
    assert_eq!(report.shards, 1);
    assert_held(&killed, 2000, 10);
}

#[test]
fn a_store_of_another_version_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    put(&store, 1, 3_000);
    drop(store);
    let file = dir.path().join("format");
    let ours = fs::read(&file).unwrap();
    fs::write(&file, "mutualstore shard store 2\nmore").unwrap();
    let before = du(dir.path());
    let refused = Store::open(dir.path(), config(64 * MIB)).err().unwrap();
    assert!(matches!(&refused, OpenError::Format(found) if found == "mutualstore shard store 2"));
    assert_eq!(du(dir.path()), before);
    for torn in [&ours[..9], &[]] {
        fs::write(&file, torn).unwrap();
        assert_held(&open(dir.path()).0, 1, 3_000);
        assert_eq!(fs::read(&file).unwrap(), ours);
    }
}

#[test]
fn a_directory_has_one_store() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    assert!(matches!(
        Store::open(dir.path(), StoreConfig::default()),
        Err(OpenError::DirInUse)
    ));
    drop(store);
    open(dir.path());
}

#[test]
fn writers_share_syncs() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), config(512 * MIB)).unwrap();
    let (threads, puts) = (16, 40);
    let barrier = Barrier::new(16);
    std::thread::scope(|scope| {
        for t in 0..threads {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                barrier.wait();
                (0..puts).for_each(|n| put(store, t * puts + n, 16_000));
            });
        }
    });
    let syncs = store.syncs();
    assert!(
        syncs < u64::from(threads * puts) / 2,
        "{syncs} syncs for {} puts",
        threads * puts
    );
    let copy = kill(dir.path());
    let (killed, report) = Store::open(copy.path(), config(512 * MIB)).unwrap();
    assert_eq!(
        (report.shards, report.damaged.len()),
        (u64::from(threads * puts), 0)
    );
    (0..threads * puts).for_each(|n| assert_held(&killed, n, 16_000));
}

#[test]
fn puts_and_removals_of_one_key_take_turns() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    store
                        .put(key(1), State::Committed, [1; 16], HEADER, &payload(1, 9_000))
                        .unwrap();
                    if let Some(stored) = store.get(key(1)).unwrap() {
                        assert!(stored.payload == payload(1, 9_000));
                    }
                    store.remove(&[key(1)]).unwrap();
                }
            });
        }
    });
    let usage = store.used();
    assert_eq!((usage.used(), usage.shards), (0, 0));
    put(&store, 1, 9_000);
    let copy = kill(dir.path());
    assert_held(&open(copy.path()).0, 1, 9_000);
}

#[test]
fn tombstones_go_through_when_shards_do_not() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), config(4 * MIB)).unwrap();
    let mut held = Vec::new();
    for n in 0u32.. {
        match store.put(key(n), State::Committed, [1; 16], HEADER, &payload(n, 100_000)) {
            Ok(_) => held.push(n),
            Err(PutError::NoSpace { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(held.len() > 5);
    for n in held {
        assert_eq!(
            store.put_tombstone(key(n).stripe, HEADER, &[3; 64], 9).unwrap(),
            vec![key(n).index]
        );
    }
    assert_eq!(store.used().used(), 0);
    put(&store, 1_000, 100_000);
}
