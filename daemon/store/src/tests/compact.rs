//! Space comes back, and nothing else does.

use super::*;

const CONFIG: StoreConfig = StoreConfig {
    capacity: 64 * MIB,
    max_segment: 128 << 10,
};

fn store(dir: &Path) -> Store {
    Store::open(dir, CONFIG).unwrap().0
}

/// Of another length each, all of them smaller than a page.
fn small(n: u32) -> usize {
    100 + usize::try_from(n % 29).unwrap() * 97
}

/// Compacts while there is something to gain.
fn compact_all(store: &Store, anyway: u64) -> Compacted {
    let mut sum = Compacted { copied: 0, gained: 0 };
    for _ in 0..500 {
        let Some(done) = store.compact_above(anyway).unwrap() else {
            return sum;
        };
        sum.copied += done.copied;
        sum.gained += done.gained;
    }
    panic!("there is no end to it: {sum:?}, {:?}", store.used());
}

#[test]
fn what_small_shards_left_comes_back() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    (0..4000).for_each(|n| put(&store, n, small(n)));
    let gone: Vec<Key> = (0..4000).filter(|n| n % 3 > 0).map(key).collect();
    store.remove(&gone).unwrap();
    let before = store.used();
    assert!(before.dead_bytes > before.used(), "{before:?}");
    let done = compact_all(&store, 0);
    (0..4000)
        .step_by(3)
        .for_each(|n| assert_held(&store, n, small(n)));
    let after = store.used();
    assert_eq!((after.shards, after.used()), (before.shards, before.used()));
    // A part of the last segment, and what the footers take.
    assert!(after.dead_bytes < after.used() / 8, "{after:?}");
    assert!(done.copied < done.gained, "{done:?}");
    assert_eq!(store.compact_above(0).unwrap(), None);
    let segments = segment_files(dir.path()).into_iter();
    let segments = segments.map(|file| file.metadata().unwrap().len());
    let segments: u64 = segments.sum();
    assert!(
        segments <= after.used() + after.dead_bytes + 4096,
        "{segments}, {after:?}"
    );

    for clean in [false, true] {
        if clean {
            store.close().unwrap();
        }
        let copy = kill(dir.path());
        let (killed, report) = Store::open(copy.path(), CONFIG).unwrap();
        assert_eq!(report.clean, clean);
        assert_eq!((report.shards, report.damaged.len()), (after.shards, 0));
        (0..4000)
            .step_by(3)
            .for_each(|n| assert_held(&killed, n, small(n)));
        assert!(killed.get(key(1)).unwrap().is_none());
    }
}

#[test]
fn a_removal_outlives_its_segment() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    // The oldest segment is full of what stays, and one shard that does not.
    (0..120).for_each(|n| put(&store, n, 1_000));
    (1000..1400).for_each(|n| put(&store, n, 500));
    store.remove(&[key(5)]).unwrap();
    store
        .put(key(6000), LATER, [1; 16], HEADER, &payload(6000, 100))
        .unwrap();
    (2000..2400).for_each(|n| put(&store, n, 500));
    assert_eq!(store.commit(&[key(6000)]).unwrap(), 1);
    (3000..3400).for_each(|n| put(&store, n, 500));
    let gone: Vec<Key> = (1000..3300).map(key).collect();
    store.remove(&gone).unwrap();
    put(&store, 4000, 10);
    let first = segment_files(dir.path()).remove(0);
    compact_all(&store, 0);
    assert_eq!(
        segment_files(dir.path()).remove(0),
        first,
        "nothing was gained there"
    );
    assert!(segment_files(dir.path()).len() <= 6);
    let shards = store.used().shards;
    assert_eq!(shards, 119 + 1 + 100 + 1);
    let copy = kill(dir.path());
    let (killed, report) = Store::open(copy.path(), CONFIG).unwrap();
    assert_eq!((report.shards, report.damaged.len()), (shards, 0));
    assert!(killed.get(key(5)).unwrap().is_none());
    let committed = killed.meta(key(6000)).unwrap();
    assert_eq!(committed.state, State::Committed);
}

#[test]
fn of_two_versions_the_later_counts() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    (0..120).for_each(|n| put(&store, n, 1_000));
    (1000..1400).for_each(|n| put(&store, n, 500));
    store.remove(&[key(5)]).unwrap();
    (2000..2400).for_each(|n| put(&store, n, 500));
    let gone: Vec<Key> = (1000..2400).map(key).collect();
    store.remove(&gone).unwrap();
    put(&store, 4000, 10);
    let before = kill(dir.path());
    compact_all(&store, 0);
    let after = kill(dir.path());
    let names = |dir: &Path| -> BTreeSet<PathBuf> {
        let files = segment_files(dir).into_iter();
        files.map(|file| file.file_name().unwrap().into()).collect()
    };
    let (old, new) = (names(before.path()), names(after.path()));
    let number = |name: &PathBuf| name.to_str().unwrap()[..8].to_owned();
    let rewritten: Vec<&PathBuf> = old
        .difference(&new)
        .filter(|name| new.iter().any(|other| number(other) == number(name)))
        .collect();
    assert!(!rewritten.is_empty(), "no segment was written again");
    for name in rewritten {
        let from = before.path().join("segments").join(name);
        fs::copy(from, after.path().join("segments").join(name)).unwrap();
    }
    let (killed, report) = Store::open(after.path(), CONFIG).unwrap();
    assert_eq!(report.shards, store.used().shards);
    assert!(killed.get(key(5)).unwrap().is_none());
    assert_eq!(names(after.path()), new);
}

#[test]
fn a_damaged_shard_keeps_its_segment() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    (0..400).for_each(|n| put(&store, n, 1_000));
    let gone: Vec<Key> = (1..200).map(key).collect();
    store.remove(&gone).unwrap();
    let file = segment_files(dir.path()).remove(0);
    flip(&file, place(&store, 0) + 300);
    compact_all(&store, 0);
    assert!(matches!(store.get(key(0)), Err(GetError::Corrupt)));
    store.remove(&[key(0)]).unwrap();
    compact_all(&store, 0);
    assert!(!file.exists());
    (200..400).for_each(|n| assert_held(&store, n, 1_000));
}
