//! What is known of one bucket in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use mutualstore_dht::records::Author;
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::bucket::Bucket;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, What};
use mutualstore_tree::head::{Head, Run};
use mutualstore_tree::merge::{Versions, merge};
use mutualstore_tree::record::Record;
use mutualstore_tree::version::Version;

use super::exchange::Known;
use crate::clock::unix_ms;

/// What a name is to become.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The name.
    pub(crate) name: Name,
    /// What it is then.
    pub(crate) what: What,
    /// More of it.
    pub(crate) fields: Fields,
}

/// A device that said something of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct DeviceOf {
    /// What it is called.
    pub(crate) device: String,
    /// The number that it writes under.
    pub(crate) writer: u64,
    /// When it last wrote a key, Unix milliseconds.
    pub(crate) written_ms: Option<u64>,
    /// It is this one.
    pub(crate) this: bool,
}

/// See the module head.
pub(super) struct State {
    pub(super) bucket: Bucket,
    pub(super) author: Author,
    pub(super) known: Known,
    /// Entries of runs, by what finds them.
    pub(super) runs: BTreeMap<[u8; 32], Arc<Vec<Entry>>>,
    /// The own record that is sent again until holders have it.
    pub(super) pending: Option<Record>,
    /// How many changes there were, how many the last record says, and how many holders have.
    pub(super) changes: u64,
    pub(super) in_record: u64,
    pub(super) said: u64,
    pub(super) gathered: Option<Instant>,
    /// How far the clocks of others are ahead, milliseconds.
    pub(super) clock_ahead_ms: Option<i64>,
    pub(super) unwritten: bool,
}

impl State {
    /// Takes the heads of all known records into what is known of the bucket.
    pub(super) fn take_known(&mut self, key: &WriteKey) {
        let read = key.read_key();
        for record in self.known.records.values() {
            let source = (record.writer, record.sequence, record.hash);
            if record.writer == self.author.writer() || self.bucket.knows(&source) {
                continue;
            }
            let head = record
                .open(&read)
                .ok()
                .and_then(|content| Head::parse(&content).ok());
            let Some(head) = head else {
                tracing::warn!("a device says something of a bucket that this version cannot read");
                continue;
            };
            self.bucket.take(source, head);
        }
        let named: BTreeSet<[u8; 32]> = self.bucket.runs().map(|run| run.pointer.manifest).collect();
        self.runs.retain(|manifest, _| named.contains(manifest));
    }

    /// Another device uses the number of this one: all is said again under a new one.
    pub(super) fn renumber(&mut self) {
        tracing::warn!("another device writes under the number of this one; it draws a new one");
        let writer = rand::random();
        self.author.renumber(writer, None);
        self.bucket.renumber(writer);
        self.pending = None;
        self.changes += 1;
    }

    /// A run that is not in memory.
    pub(super) fn lacking(&self) -> Option<Run> {
        let lacks = |run: &&Run| !self.runs.contains_key(&run.pointer.manifest);
        self.bucket.runs().find(lacks).cloned()
    }

    /// All entries from `from` on whose names begin with `prefix`.
    pub(super) fn merged(&self, from: &[u8], prefix: &[u8]) -> Vec<Versions> {
        let mut sources = self.bucket.sources(from, prefix);
        for run in self.bucket.runs().filter(|run| run.may_have(prefix)) {
            let entries = self.runs.get(&run.pointer.manifest);
            let entries = entries.map(|entries| entries.as_slice()).unwrap_or_default();
            let least = from.max(prefix);
            let begin = entries.partition_point(|entry| entry.name.to_bytes().as_slice() < least);
            let rest = entries.get(begin..).unwrap_or_default().iter();
            let part = rest.take_while(|entry| entry.name.to_bytes().starts_with(prefix));
            sources.push(part.cloned().collect());
        }
        merge(sources).collect()
    }

    /// Writes a name here.
    pub(super) fn enter(&mut self, Change { name, what, fields }: Change) -> Version {
        let newest = self.versions(&name).map(|versions| versions.newest().version);
        let newest = newest.unwrap_or_default();
        self.bucket.write(unix_ms(), name, newest, what, fields).version
    }

    /// All versions of a name.
    pub(super) fn versions(&self, name: &Name) -> Option<Versions> {
        let bytes = name.to_bytes();
        let all = self.merged(&bytes, &bytes).into_iter();
        all.take_while(|versions| versions.name() <= name)
            .find(|versions| versions.name() == name)
    }
}
