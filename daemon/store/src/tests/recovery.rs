//! What a start finds after a kill, a torn write, or damage on the disk.

use super::*;

#[test]
fn a_clean_stop_is_believed_and_a_kill_is_not() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    (0..30).for_each(|n| put(&store, n, 300_000));
    store.remove(&[key(4), key(5)]).unwrap();
    let usage = store.used();
    let copy = kill(dir.path());
    store.close().unwrap();
    assert!(matches!(
        store.put(key(0), LATER, [0; 16], b"", b""),
        Err(PutError::Closed)
    ));
    assert!(matches!(store.remove(&[key(0)]), Err(UpdateError::Closed)));
    drop(store);

    for (path, clean) in [(dir.path(), true), (dir.path(), false), (copy.path(), false)] {
        let (store, report) = open(path);
        assert_eq!((report.clean, report.shards, report.damaged), (clean, 28, vec![]));
        (0..30)
            .filter(|n| *n != 4 && *n != 5)
            .for_each(|n| assert_held(&store, n, 300_000));
        assert_eq!(store.get(key(4)).unwrap(), None);
        assert_eq!(store.used().committed_bytes, usage.committed_bytes);
        if clean {
            // From here on the index in use is ahead of its mark.
            put(&store, 4, 10);
            store.remove(&[key(4)]).unwrap();
        }
    }
    let (store, _) = open(dir.path());
    store.close().unwrap();
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.clean, "a session without writes ends cleanly");
    drop(store);
    assert!(
        open(dir.path()).1.clean,
        "and leaves nothing that a kill could spoil"
    );
}

#[test]
fn the_index_is_rebuilt_when_missing_or_garbled() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    (0..200).for_each(|n| put(&store, n, 5_000));
    store.commit(&[key(1)]).unwrap();
    store.close().unwrap();
    drop(store);
    let damages: [fn(&Path); 4] = [
        |index| fs::remove_dir_all(index).unwrap(),
        |index| fs::write(index.join("db"), b"nonsense").unwrap(),
        |index| {
            let len = fs::metadata(index.join("db")).unwrap().len();
            (0..len)
                .step_by(97)
                .for_each(|offset| flip(&index.join("db"), offset));
        },
        |index| {
            fs::File::options()
                .write(true)
                .open(index.join("db"))
                .unwrap()
                .set_len(1000)
                .unwrap();
        },
    ];
    for (which, damage) in damages.into_iter().enumerate() {
        let copy = kill(dir.path());
        damage(&copy.path().join("index"));
        let (store, report) = open(copy.path());
        assert_eq!(
            (report.clean, report.shards, report.scanned),
            (false, 200, 0),
            "damage {which}"
        );
        (0..200).for_each(|n| assert_held(&store, n, 5_000));
    }
}

#[test]
fn a_torn_record_is_cut_off_wherever_it_ends() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    (0..3).for_each(|n| put(&store, n, 500));
    let start = place(&store, 2);
    let copy = kill(dir.path());
    let len = fs::metadata(&segment_files(copy.path())[0]).unwrap().len();
    // Behind the body nothing is missed.
    let end = start + (HEADER_BYTES + HEADER.len() + 500) as u64;
    assert!(end < len);
    for cut in start..len {
        let torn = TempDir::new().unwrap();
        fs::create_dir(torn.path().join("segments")).unwrap();
        let from = &segment_files(copy.path())[0];
        let to = torn.path().join("segments").join(from.file_name().unwrap());
        fs::copy(from, &to).unwrap();
        fs::File::options()
            .write(true)
            .open(&to)
            .unwrap()
            .set_len(cut)
            .unwrap();
        // The smallest capacity spares the loop the cost of the reserve.
        let (store, report) = Store::open(torn.path(), config(MIB)).unwrap();
        let whole = cut >= end;
        let shards = 2 + u64::from(whole);
        assert_eq!((report.shards, report.damaged.len()), (shards, 0), "cut at {cut}");
        assert_eq!(store.get(key(2)).unwrap().is_some(), whole);
        assert_held(&store, 1, 500);
    }
}

#[test]
fn what_follows_the_last_record_is_cut_off_once() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    put(&store, 1, 500);
    let copy = kill(dir.path());
    let segment = &segment_files(copy.path())[0];
    let len = fs::metadata(segment).unwrap().len();
    fs::File::options()
        .write(true)
        .open(segment)
        .unwrap()
        .write_all_at(&payload(1, 50_000), len)
        .unwrap();
    assert_eq!(open(copy.path()).1.scanned, 1);
    let (store, report) = open(copy.path());
    assert_eq!((report.scanned, report.shards), (0, 1));
    assert_held(&store, 1, 500);
}

#[test]
fn damage_costs_only_the_record_it_hits() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    (0..9).for_each(|n| put(&store, n, 20_000));
    let (third, sixth) = (place(&store, 3), place(&store, 6));

    let copy = kill(dir.path());
    flip(&segment_files(copy.path())[0], third + 5_000);
    flip(&segment_files(copy.path())[0], sixth + 20);
    let (killed, report) = open(copy.path());
    assert_eq!((report.shards, &report.damaged), (7, &vec![key(3)]));
    assert_eq!(
        report.skipped_bytes,
        record::record_bytes(20_000 + HEADER.len() as u64)
    );
    (0..9)
        .filter(|n| ![3, 6].contains(n))
        .for_each(|n| assert_held(&killed, n, 20_000));
    assert_eq!(killed.get(key(3)).unwrap(), None);
    drop(killed);
    assert_eq!(
        open(copy.path()).1.shards,
        7,
        "the footer written after the scan leaves it out too"
    );

    for offset in [third + 5_000, sixth + 20] {
        flip(&segment_files(dir.path())[0], offset);
    }
    assert!(matches!(store.get(key(3)), Err(GetError::Corrupt)));
    assert!(matches!(store.get(key(6)), Err(GetError::Corrupt)));
    assert_held(&store, 5, 20_000);
    store.remove(&[key(3)]).unwrap();
    put(&store, 3, 20_000);
    assert_held(&store, 3, 20_000);
}

#[test]
fn a_payload_that_imitates_records_is_not_believed() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    let victim = RecordHeader {
        kind: Kind::Drop,
        sequence: 1 << 40,
        key: key(1),
        state: State::Committed,
        token: [0; 16],
        header_len: 0,
        payload_len: 33,
        body_crc: crc32fast::hash(&key(1).to_bytes()),
    };
    put(&store, 1, 100);
    let imitation = [victim.encode(7), key(1).to_bytes().to_vec(), vec![0; 31]].concat();
    store
        .put(key(2), State::Committed, [0; 16], b"", &imitation)
        .unwrap();
    let copy = kill(dir.path());
    flip(&segment_files(copy.path())[0], place(&store, 2));
    let (killed, report) = open(copy.path());
    assert_eq!((report.shards, report.skipped_bytes), (1, 0));
    assert_held(&killed, 1, 100);
}

#[test]
fn deletion_that_was_cut_short_is_finished_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path());
    put(&store, 1, 9_000);
    put(&store, 2, 9_000);
    let Key { stripe, index } = key(1);
    // The tombstone alone is what a crash leaves in the middle of `put_tombstone`.
    let tombstone = Key {
        stripe,
        index: TOMBSTONE,
    };
    let state = State::Deleted { since_unix_ms: 5 };
    store.put(tombstone, state, [0; 16], HEADER, &[3; 64]).unwrap();
    assert_eq!(
        (store.get(key(1)).unwrap(), store.indices(&stripe)),
        (None, vec![])
    );
    let refused = store.put(
        Key {
            stripe,
            index: index + 1,
        },
        State::Committed,
        [1; 16],
        HEADER,
        b"x",
    );
    assert!(matches!(refused, Err(PutError::Deleted)));
    let copy = TempDir::new().unwrap();
    copy_dir(dir.path(), copy.path());
    let (store, report) = open(copy.path());
    assert!(!report.clean);
    let usage = store.used();
    assert_eq!((usage.shards, usage.tombstones), (1, 1));
    assert_held(&store, 2, 9_000);
    assert_eq!(
        store.put_tombstone(stripe, HEADER, &[3; 64], 9).unwrap(),
        Vec::<u8>::new()
    );
    assert_eq!(store.meta(tombstone).unwrap().state, state);
}
