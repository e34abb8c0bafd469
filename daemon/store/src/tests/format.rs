//! The bytes on disk, one by one: what a store of this version wrote is read by later ones.

use super::super::segment::parse_name;
use super::*;

const PENDING: State = State::Pending {
    until_unix_ms: 0x0102_0304_0506_0708,
    writer: [0xbb; 32],
};
const SHARD: Key = Key {
    stripe: [0xaa; 32],
    index: 3,
};

/// Parts, and the CRC-32 of them all.
fn sealed(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

/// The header of the record of [`SHARD`], as under this salt.
fn put(salt: u64) -> Vec<u8> {
    sealed(&[
        b"MSR1\x01\x01\x01\x03",
        &salt.to_be_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[0xaa; 32],
        &[0, 0, 0, 6],
        &[0, 0, 0, 7],
        &[1, 2, 3, 4, 5, 6, 7, 8],
        &[0xbb; 32],
        &[0xcc; 16],
        &crc32fast::hash(b"headerpayload").to_be_bytes(),
    ])
}

#[test]
fn complete_segment_is_these_bytes() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), config(64 * MIB)).unwrap();
    store
        .put(SHARD, PENDING, [0xcc; 16], b"header", b"payload")
        .unwrap();
    store.close().unwrap();
    let file = fs::read_dir(dir.path().join("segments")).unwrap().next();
    let path = file.unwrap().unwrap().path();
    let (id, salt) = parse_name(path.file_name().unwrap().to_str().unwrap()).unwrap();

    let entry = [&0_u64.to_be_bytes(), put(!salt).as_slice()].concat();
    let footer = sealed(&[
        b"MSR1\x01\x06\x00\x00",
        &salt.to_be_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 2],
        &[0; 32],
        &[0, 0, 0, 0],
        &[0, 0, 0, 136],
        &[0; 56],
        &crc32fast::hash(&entry).to_be_bytes(),
    ]);
    let trailer = sealed(&[
        b"MSF1",
        &salt.to_be_bytes(),
        &192_u64.to_be_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 2],
        &[0, 0, 0, 1],
        &[0; 28],
    ]);
    let mut expected = [put(salt).as_slice(), b"headerpayload"].concat();
    expected.resize(192, 0);
    expected.extend([footer, entry].concat());
    expected.resize(512, 0);
    expected.extend(trailer);
    assert_eq!(id, 1);
    assert_eq!(fs::read(path).unwrap(), expected);
}

#[test]
fn index_entry_is_these_bytes() {
    let entry = |state| Entry {
        sequence: 1,
        segment: 2,
        offset: 3 * 64,
        header_len: 4,
        payload_len: 5,
        state,
        token: [0xcc; 16],
    };
    let committed = [
        &[0, 0, 0, 0, 0, 0, 0, 1][..],
        &[0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5],
        &[0xcc; 16],
    ]
    .concat();
    let until = [1, 2, 3, 4, 5, 6, 7, 8];
    let pending = [&committed[..], &until, &[0xbb; 32]].concat();
    assert_eq!(entry(State::Committed).encode(), committed);
    assert_eq!(entry(PENDING).encode(), pending);
    let deleted = State::Deleted { since_unix_ms: 9 };
    assert_eq!(
        entry(deleted).encode(),
        [&committed[..], &9_u64.to_be_bytes()].concat()
    );
}
