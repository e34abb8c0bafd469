//! What devices say, as the daemon's names have it: each thing is an entry of the tree, in a head or a run.
//!
//! In the end every entry that was acknowledged is in the tree that the records of its key make, which is all
//! that a device restored from the account's words has.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::records::{RecordSet, Stamp};
use mutualstore_tree::bucket::Bucket;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, Pointer, What};
use mutualstore_tree::head::{Head, Run};
use mutualstore_tree::merge::merge;
use mutualstore_tree::version::Version;
use zeroize::Zeroizing;

/// Keys that devices write.
const KEYS: u64 = 6;
/// Bytes of a key: a head has room for a few, so that there are runs.
const KEY: usize = 700;
/// So many runs are put together, as in the daemon.
const TOGETHER: usize = 8;
/// Clocks are this far from the true time at most, milliseconds.
const SKEW_MS: u64 = 60_000;

/// One version of a name.
type Written = (Name, Version);

/// What was said, by what finds it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    heads: BTreeMap<[u8; 32], Head>,
    runs: BTreeMap<[u8; 32], Vec<Entry>>,
    /// All that each device wrote, in order.
    written: BTreeMap<usize, Vec<Written>>,
}

impl Tree {
    /// The tree of a new device that writes under this number.
    pub(super) fn bucket(writer: u64) -> Bucket {
        Bucket::new(writer, Head::default())
    }

    /// A device whose number decides how wrong its clock is writes the next thing.
    pub(super) fn write(&mut self, device: usize, bucket: &mut Bucket, now_ms: u64, lot: u64) {
        let key = format!("{:KEY$}", lot % KEYS);
        let Ok(name) = Name::file(&key) else { return };
        let skew = (device as u64 * 7_919) % (2 * SKEW_MS);
        let newest = self.entries(std::iter::once(bucket.head()));
        let newest = newest
            .into_iter()
            .filter(|entry| entry.name == name)
            .map(|entry| entry.version)
            .max();
        let what = if lot.is_multiple_of(4) {
            What::Deleted
        } else {
            What::Directory { modified_ms: 0 }
        };
        let now_ms = (now_ms + skew).saturating_sub(SKEW_MS);
        let entry = bucket.write(now_ms, name, newest.unwrap_or_default(), what, Fields::new());
        self.written
            .entry(device)
            .or_default()
            .push((entry.name, entry.version));
        self.make_room(bucket, now_ms);
    }

    /// A record says what the bucket does now.
    pub(super) fn said(&mut self, hash: [u8; 32], bucket: &Bucket) {
        self.heads.insert(hash, bucket.head().clone());
    }

    /// A device takes in what a record of another says.
    pub(super) fn heard(&self, bucket: &mut Bucket, stamp: &Stamp) {
        if let Some(head) = self.heads.get(&stamp.hash) {
            bucket.take((stamp.writer, stamp.sequence, stamp.hash), head.clone());
        }
    }

    fn make_room(&mut self, bucket: &mut Bucket, now_ms: u64) {
        if !bucket.is_full() {
            return;
        }
        let inline = bucket.inline();
        let run = self.store(inline.clone(), 0);
        bucket.spilled(&inline, vec![run]);
        while let Some((tier, old)) = bucket.to_merge(TOGETHER, u32::MAX) {
            let parts = old
                .iter()
                .filter_map(|run| self.runs.get(&run.pointer.manifest))
                .cloned();
            let merged = merge(parts.collect::<Vec<_>>());
            let entries = merged
                .flat_map(|versions| versions.all().cloned().collect::<Vec<_>>())
                .collect();
            let run = self.store(entries, tier + 1);
            bucket.merged(now_ms, &old, vec![run]);
        }
    }

    fn store(&mut self, entries: Vec<Entry>, tier: u8) -> Run {
        let mut manifest = [0; 32];
        manifest[..8].copy_from_slice(&(self.runs.len() as u64).to_be_bytes());
        let bound = |entry: Option<&Entry>| entry.map(|entry| Run::bound(&entry.name)).unwrap_or_default();
        let run = Run {
            pointer: Pointer {
                manifest,
                key: Zeroizing::new([0; 32]),
            },
            blocks: 0,
            tail: 0,
            entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            tier,
            from: bound(entries.first()),
            to: bound(entries.last()),
        };
        self.runs.insert(manifest, entries);
        run
    }

    /// All entries that heads say, in them and in their runs.
    fn entries<'a>(&'a self, heads: impl Iterator<Item = &'a Head>) -> Vec<&'a Entry> {
        let mut entries = Vec::new();
        for head in heads {
            entries.extend(&head.entries);
            let runs = head
                .runs
                .iter()
                .filter_map(|run| self.runs.get(&run.pointer.manifest));
            entries.extend(runs.flatten());
        }
        entries
    }

    /// The first of so many things that a device wrote which the records of a set do not say.
    pub(super) fn missing(&self, set: &RecordSet, device: usize, count: u64) -> Option<&Written> {
        let stamps: Vec<Stamp> = set.stamps().collect();
        let heads = stamps.iter().filter_map(|stamp| self.heads.get(&stamp.hash));
        let there: BTreeSet<(&Name, Version)> = self
            .entries(heads)
            .into_iter()
            .map(|entry| (&entry.name, entry.version))
            .collect();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let written = self.written.get(&device).into_iter().flatten().take(count);
        let mut written = written.filter(|(name, version)| !there.contains(&(name, *version)));
        written.next()
    }
}
