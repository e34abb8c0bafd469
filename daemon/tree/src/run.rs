//! Runs: sorted entries in a file of their own.
//!
//! ```text
//! run   = blocks ‖ tail
//! block = (shared u16 ‖ length u16 ‖ rest of the name ‖ version [16] ‖ length u32 ‖ body) each entry
//! tail  = format u8 = 1 ‖ count u32 ‖ (length u32 of the block ‖ length u16 ‖ its first name) each block
//!         ‖ filter
//! ```
//!
//! Entries ascend by name and of one name descend by version. A name is written without the bytes that it
//! shares with the one before it in its block, as in the tables of `LevelDB`. A block ends with the entry
//! that takes it to 16 KiB, and a name may go on in the next.
//!
//! The filter is Bloom's ("Space/time trade-offs in hash coding with allowable errors", 1970) with 10 bits a
//! name and 7 of them set: the bits h + i·g modulo their number, for i from 0 to 6, where h and g are the
//! first two u64 of SHA-256 over the name's bytes (Kirsch & Mitzenmacher 2006). One name in 120 that a run
//! does not have passes.
//!
//! A run is an ordinary file, so encryption vouches for its bytes; reading it fails, and never panics, on
//! any.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::codec::{Malformed, Reader, put_short};
use crate::entry::{Entry, MAX_BODY, MAX_KEY, Name};
use crate::version::Version;

/// A block ends when it has so many bytes.
const BLOCK: usize = 16 << 10;
const FORMAT: u8 = 1;
const BITS_PER_NAME: usize = 10;
const PROBES: u64 = 7;

/// A run as it is written.
#[derive(Debug, Default)]
pub struct Writer {
    blocks: BytesMut,
    /// Length and first name of each block that ended.
    index: Vec<(usize, Vec<u8>)>,
    /// Where the block under way began, and its first name.
    block: Option<(usize, Vec<u8>)>,
    /// Of each name, for the filter.
    hashes: Vec<(u64, u64)>,
    last: Vec<u8>,
    entries: u32,
}

/// A run that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub bytes: Bytes,
    /// How many of them are blocks.
    pub blocks: u32,
    /// How many entries there are.
    pub entries: u32,
}

impl Writer {
    /// Appends an entry. It comes behind all others: its name is greater, or the same with a lesser version.
    pub fn push(&mut self, entry: &Entry) {
        let name = entry.name.to_bytes();
        let begins = self.block.is_none();
        let (from, _) = self
            .block
            .get_or_insert_with(|| (self.blocks.len(), name.clone()));
        let from = *from;
        let same = self.last.iter().zip(&name).take_while(|(a, b)| a == b).count();
        let shared = if begins { 0 } else { same };
        // A name has at most 1025 bytes.
        self.blocks.put_u16(u16::try_from(shared).unwrap_or_default());
        put_short(&mut self.blocks, name.get(shared..).unwrap_or_default());
        self.blocks.put_slice(&entry.version.to_bytes());
        let body = entry.body();
        self.blocks.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.blocks.put_slice(&body);
        self.entries += 1;
        if self.last != name {
            self.hashes.push(hash(&name));
            self.last = name;
        }
        if self.blocks.len() - from >= BLOCK {
            self.end_block();
        }
    }

    /// Bytes of the run so far.
    pub fn len(&self) -> usize {
        let index: usize = self.index.iter().map(|(_, name)| name.len() + 6).sum();
        self.blocks.len() + index + self.hashes.len() * BITS_PER_NAME / 8
    }

    /// Whether it has no entries yet.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The file.
    pub fn finish(mut self) -> Written {
        self.end_block();
        let blocks = self.blocks.len();
        let mut out = self.blocks;
        out.put_u8(FORMAT);
        out.put_u32(u32::try_from(self.index.len()).unwrap_or(u32::MAX));
        for (length, name) in &self.index {
            out.put_u32(u32::try_from(*length).unwrap_or(u32::MAX));
            put_short(&mut out, name);
        }
        let mut filter = vec![0u8; (self.hashes.len() * BITS_PER_NAME).div_ceil(8)];
        for hash in self.hashes {
            for (byte, bit) in probes(hash, filter.len()) {
                if let Some(byte) = filter.get_mut(byte) {
                    *byte |= bit;
                }
            }
        }
        out.put_slice(&filter);
        Written {
            bytes: out.freeze(),
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            entries: self.entries,
        }
    }

    fn end_block(&mut self) {
        if let Some((from, first)) = self.block.take() {
            self.index.push((self.blocks.len() - from, first));
        }
    }
}

fn hash(name: &[u8]) -> (u64, u64) {
    let hash: [u8; 32] = Sha256::digest(name).into();
    let mut reader = Reader(&hash);
    (reader.u64().unwrap_or_default(), reader.u64().unwrap_or_default())
}

/// The bytes of a filter of `length` bytes that a name touches, and the bit in each.
fn probes((h, g): (u64, u64), length: usize) -> impl Iterator<Item = (usize, u8)> {
    let bits = (length as u64 * 8).max(1);
    (0..PROBES).map(move |i| {
        let bit = h.wrapping_add(i.wrapping_mul(g)) % bits;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        (byte, 1 << (bit % 8))
    })
}

/// What stands behind the blocks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    blocks: Vec<(Vec<u8>, Range<u64>)>,
    filter: Bytes,
}

impl Tail {
    /// Reads the bytes behind the blocks.
    pub fn parse(tail: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader(tail);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(Malformed::Version(format));
        }
        let mut at = 0;
        let blocks = (0..reader.u32()?).map(|_| {
            let length = u64::from(reader.u32()?);
            let name = reader.short("length of a key", MAX_KEY + 1)?.to_vec();
            at += length;
            Ok((name, at - length..at))
        });
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        if !blocks.is_sorted_by(|(a, _), (b, _)| a <= b) {
            return Err(Malformed::Field("order of blocks"));
        }
        Ok(Self {
            blocks,
            filter: tail.slice_ref(reader.0),
        })
    }

    /// Whether the run may have this name.
    pub fn may_have(&self, name: &Name) -> bool {
        let set = |(byte, bit)| self.filter.get(byte).is_some_and(|byte: &u8| byte & bit != 0);
        probes(hash(&name.to_bytes()), self.filter.len()).all(set)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The first block that may have names from these bytes on.
    pub fn seek(&self, from: &[u8]) -> usize {
        // A name that begins a block may have begun in the one before.
        let later = self.blocks.partition_point(|(first, _)| first.as_slice() < from);
        later.saturating_sub(1)
    }

    /// The first name of a block.
    pub fn first(&self, block: usize) -> Option<&[u8]> {
        self.blocks.get(block).map(|(first, _)| first.as_slice())
    }

    /// Where a block lies in the run, in bytes.
    pub fn range(&self, block: usize) -> Option<Range<u64>> {
        self.blocks.get(block).map(|(_, range)| range.clone())
    }
}

/// The entries of a block.
pub fn entries(block: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut reader = Reader(block);
    let mut name: Vec<u8> = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    while !reader.0.is_empty() {
        let shared = usize::from(reader.u16()?);
        if shared > name.len() {
            return Err(Malformed::Field("length of a key"));
        }
        name.truncate(shared);
        name.extend(reader.short("length of a key", MAX_KEY + 1)?);
        let version = Version::read(&mut reader)?;
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(Malformed::Field("length of an entry"));
        }
        let entry = Entry::from_body(Name::from_bytes(&name)?, version, reader.take(length)?)?;
        if entries.last().is_some_and(|last| !precedes(last, &entry)) {
            return Err(Malformed::Field("order of entries"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Sorted entries as runs of about `most` bytes, with the entries of each.
pub fn cut(entries: &[Entry], most: usize) -> Vec<(Written, &[Entry])> {
    let mut runs = Vec::new();
    let mut writer = Writer::default();
    let mut begin = 0;
    for (at, entry) in entries.iter().enumerate() {
        writer.push(entry);
        let end = at + 1;
        if writer.len() >= most || end == entries.len() {
            let part = entries.get(begin..end).unwrap_or_default();
            runs.push((std::mem::take(&mut writer).finish(), part));
            begin = end;
        }
    }
    runs
}

/// Whether one entry comes before the other in runs and listings.
pub fn precedes(a: &Entry, b: &Entry) -> bool {
    (&a.name, b.version) < (&b.name, a.version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::Fields;
    use crate::entry::What;
    use crate::entry::tests::entries as any_entries;

    fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.sort_by(|a, b| (&a.name, b.version).cmp(&(&b.name, a.version)));
        entries.dedup_by(|a, b| (&a.name, a.version) == (&b.name, b.version));
        entries
    }

    fn write(entries: &[Entry]) -> (Written, Tail) {
        let mut writer = Writer::default();
        for entry in entries {
            writer.push(entry);
        }
        let written = writer.finish();
        let tail = written.bytes.slice(usize::try_from(written.blocks).unwrap()..);
        let tail = Tail::parse(&tail).unwrap();
        (written, tail)
    }

    fn read(written: &Written, tail: &Tail, block: usize) -> Vec<Entry> {
        let range = tail.range(block).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        entries(&written.bytes[range]).unwrap()
    }

    #[test]
    fn runs_are_these_bytes() {
        let entry = |key: &str, ms| Entry {
            name: Name::file(key).unwrap(),
            version: Version {
                ms,
                counter: 0,
                writer: 1,
            },
            base: Version::ZERO,
            what: What::Deleted,
            fields: Fields::new(),
        };
        let (written, _) = write(&[entry("ab", 2), entry("ac", 3)]);
        let body = "000000110200000000000000000000000000000000";
        let expected = [
            // Nothing shared, and the name whole; then two bytes of it, the space among them.
            "00000003006162",
            "00000000000200000000000000000001",
            body,
            "0002000163",
            "00000000000300000000000000000001",
            body,
            // The tail: one block, its length and first name, and 20 bits of filter in three bytes.
            "0100000001",
            "000000560003006162",
            "ca8da8",
        ];
        assert_eq!(hex::encode(&written.bytes), expected.concat());
        assert_eq!((written.blocks, written.entries), (0x56, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn runs_come_back_and_every_name_is_found(
            some in prop::collection::vec(any_entries(), 0..60),
            padding in prop_oneof![Just(0usize), Just(9000)],
        ) {
            let mut all = sorted(some);
            for entry in &mut all {
                // Some runs have many blocks.
                entry.fields.insert(u16::MAX, vec![0; padding].into());
            }
            let (written, tail) = write(&all);
            let blocks = 0..tail.blocks();
            let back: Vec<Entry> = blocks.clone().flat_map(|block| read(&written, &tail, block)).collect();
            prop_assert_eq!(&back, &all);
            for entry in &all {
                prop_assert!(tail.may_have(&entry.name));
                let from = tail.seek(&entry.name.to_bytes());
                let mut rest = (from..tail.blocks()).flat_map(|block| read(&written, &tail, block));
                let first = all.iter().find(|other| other.name == entry.name);
                let found = rest.find(|other| other.name == entry.name);
                prop_assert_eq!(found.as_ref(), first);
            }
        }

        #[test]
        fn noise_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(entries(&bytes));
            drop(Tail::parse(&bytes.into()));
        }
    }

    #[test]
    fn filter_keeps_nearly_all_others_out() {
        let entry = |index: u32| Entry {
            name: Name::file(&format!("{index:06}")).unwrap(),
            version: Version::ZERO,
            base: Version::ZERO,
            what: crate::entry::What::Deleted,
            fields: crate::codec::Fields::new(),
        };
        let all: Vec<Entry> = (0..2000).map(entry).collect();
        let (written, tail) = write(&all);
        let others = (2000..12_000).filter(|index| tail.may_have(&entry(*index).name));
        let passed = others.count();
        assert!(passed < 10_000 / 80, "{passed} of 10000 pass");
        assert!(tail.blocks() > 3 && written.entries == 2000);
    }
}
