//! Records, heads, entries and runs for the corpora.

use bytes::{Bytes, BytesMut};
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, File, Name, Pointer, Space, What, tag};
use mutualstore_tree::head::{Dropped, Head, Run, TABLE};
use mutualstore_tree::record::Record;
use mutualstore_tree::run::{Writer, Written};
use mutualstore_tree::version::Version;
use zeroize::Zeroizing;

use crate::wire::{NETWORK, SEED};

fn entry(space: Space, key: &str, ms: u64, what: What) -> Entry {
    let version = |ms| Version {
        ms,
        counter: 1,
        writer: 2,
    };
    Entry {
        name: Name::new(space, key).unwrap(),
        version: version(ms),
        base: version(ms - 1),
        what,
        fields: Fields::from([
            (tag::EXECUTABLE, Bytes::new()),
            (999, Bytes::from_static(b"later")),
        ]),
    }
}

/// Sorted as runs want them.
fn entries() -> Vec<Entry> {
    let file = File {
        pointer: Pointer {
            manifest: [1; 32],
            key: Zeroizing::new([2; 32]),
        },
        size: 3,
        modified_ms: -4,
        media_type: "text/plain".to_owned(),
    };
    vec![
        entry(Space::Files, "a/", 5, What::Directory { modified_ms: 6 }),
        entry(Space::Files, "a/b", 8, What::Deleted),
        entry(Space::Files, "a/b", 7, What::File(file)),
        entry(
            Space::Settings,
            "keep",
            9,
            What::Setting(Bytes::from_static(b"30 days")),
        ),
        entry(
            Space::Snapshots,
            "monday",
            10,
            What::Snapshot(vec![(11, 12), (13, 14)]),
        ),
    ]
}

/// Each kind.
pub(super) fn all_entries() -> Vec<Vec<u8>> {
    let write = |entry: &Entry| {
        let mut out = BytesMut::new();
        entry.write(&mut out);
        out.to_vec()
    };
    entries().iter().map(write).collect()
}

/// An empty one and one with all there is.
pub(super) fn heads() -> Vec<Vec<u8>> {
    let run = Run {
        pointer: Pointer {
            manifest: [3; 32],
            key: Zeroizing::new([4; 32]),
        },
        blocks: 5,
        tail: 6,
        entries: 7,
        tier: TABLE,
        from: b"\0a".to_vec(),
        to: b"\0b".to_vec(),
    };
    let dropped = Dropped {
        pointer: Pointer {
            manifest: [5; 32],
            key: Zeroizing::new([6; 32]),
        },
        since_ms: 7,
    };
    let full = Head {
        instance: 1,
        device: "desk".to_owned(),
        entries: entries(),
        runs: vec![run],
        dropped: vec![dropped],
        seen: vec![(8, 9)],
        fields: Fields::from([(10, Bytes::from_static(b"later"))]),
    };
    let heads = [Head::default(), full];
    heads.iter().map(|head| head.encode().unwrap().to_vec()).collect()
}

fn run() -> (Written, usize) {
    let mut writer = Writer::default();
    for entry in entries() {
        writer.push(&entry);
    }
    let written = writer.finish();
    let blocks = usize::try_from(written.blocks).unwrap();
    (written, blocks)
}

pub(super) fn block() -> Vec<u8> {
    let (written, blocks) = run();
    written.bytes.slice(..blocks).to_vec()
}

pub(super) fn tail() -> Vec<u8> {
    let (written, blocks) = run();
    written.bytes.slice(blocks..).to_vec()
}

pub(super) fn record() -> Vec<u8> {
    let record = Record::end(&WriteKey::new(SEED), &NETWORK).unwrap();
    record.bytes.to_vec()
}
