//! What the names of an account are made of.

use bytes::{Bytes, BytesMut};
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::codec::Reader;
use mutualstore_tree::entry::Entry;
use mutualstore_tree::head::Head;
use mutualstore_tree::record::{MAX_CONTENT, MAX_RECORD, Record};
use mutualstore_tree::run::{Tail, Writer, entries};

use crate::wire::{NETWORK, SEED};

/// A record: what a bucket's key did not sign is refused, and what it did opens.
pub fn record(bytes: &[u8]) {
    if let Ok(record) = Record::parse(&Bytes::copy_from_slice(bytes), &NETWORK) {
        assert!(record.bytes == bytes && bytes.len() <= MAX_RECORD);
    }
    let key = WriteKey::new(SEED);
    let signed = Record::head(&key, &NETWORK, (1, 2), bytes);
    assert_eq!(signed.is_ok(), bytes.len() <= MAX_CONTENT);
    if let Ok(signed) = signed {
        let opened = signed.open(&key.read_key());
        assert!(opened.is_ok_and(|content| *content == bytes));
    }
}

/// A head: what is read is written again byte for byte, unless that is too long.
pub fn head(bytes: &[u8]) {
    if let Ok(head) = Head::parse(bytes) {
        let written = head.encode();
        assert_eq!(written.is_ok(), bytes.len() <= MAX_CONTENT);
        assert!(written.is_ok_and(|written| *written == bytes) || bytes.len() > MAX_CONTENT);
    }
}

/// An entry: what is read is written again byte for byte.
pub fn entry(bytes: &[u8]) {
    let mut reader = Reader(bytes);
    if let Ok(entry) = Entry::read(&mut reader) {
        let mut written = BytesMut::new();
        entry.write(&mut written);
        assert_eq!(written.len() + reader.0.len(), bytes.len());
        assert!(bytes.starts_with(&written));
    }
}

/// A block of a run: what is read is found in a run that is written of it.
pub fn run_block(bytes: &[u8]) {
    let Ok(read) = entries(bytes) else { return };
    let mut writer = Writer::default();
    for entry in &read {
        writer.push(entry);
    }
    let written = writer.finish();
    let tail = usize::try_from(written.blocks).expect("64 bits");
    let tail = Tail::parse(&written.bytes.slice(tail..)).expect("just written");
    let blocks = (0..tail.blocks()).filter_map(|block| tail.range(block));
    let range = |range: std::ops::Range<u64>| {
        let at = |at| usize::try_from(at).expect("64 bits");
        written.bytes.slice(at(range.start)..at(range.end))
    };
    let again = blocks.flat_map(|block| entries(&range(block)).expect("just written"));
    assert!(again.eq(read.iter().cloned()));
    assert!(read.iter().all(|entry| tail.may_have(&entry.name)));
}

/// What stands behind the blocks of a run: lengths and order hold for whatever is read.
pub fn run_tail(bytes: &[u8]) {
    let Ok(tail) = Tail::parse(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let mut end = 0;
    for block in 0..tail.blocks() {
        let range = tail.range(block).expect("one of them");
        assert!(range.start == end && range.end >= end);
        end = range.end;
        let first = tail.first(block).expect("one of them");
        assert!(tail.seek(first) <= block);
    }
}
