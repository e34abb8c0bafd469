//! What is known of one bucket in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_dht::records::Author;
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::bucket::Bucket;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, Pointer, What};
use mutualstore_tree::head::{Dropped, Head, Run};
use mutualstore_tree::merge::{Versions, merge};
use mutualstore_tree::record::Record;
use mutualstore_tree::version::{MAX_AHEAD_MS, Version};

use crate::clock::unix_ms;
use crate::datadir::journal::Kept;
use crate::error::Failure;
use crate::transfer::records::Known;

/// Numbers under which devices wrote into a bucket, before one draws another for want of room in its record;
/// 256 of them can live.
const MOST_NUMBERS: usize = 192;
/// So many names are looked up one by one.
const FEW: usize = 16;

/// What a name is to become.
pub(crate) struct Change {
    /// The name.
    pub(crate) name: Name,
    /// What it is then.
    pub(crate) what: What,
    /// More of it.
    pub(crate) fields: Fields,
    /// What the journal has of its file.
    pub(crate) kept: Option<Kept>,
    /// Its file waits for its name.
    pub(crate) staged: bool,
    /// Where there is something of this name, it gets `NAME (2)` or the next one that is free.
    pub(crate) free: bool,
    /// What must hold of what the name shows, at the moment it changes here.
    pub(crate) condition: Option<Condition>,
}

/// Whether a name that shows this may change.
pub(crate) type Condition = Box<dyn Fn(Option<&Entry>) -> bool + Send + Sync>;

impl Change {
    /// A change that no put made.
    pub(crate) fn new(name: Name, what: What, fields: Fields) -> Self {
        Self {
            name,
            what,
            fields,
            kept: None,
            staged: false,
            free: false,
            condition: None,
        }
    }

    /// What finds the file, where it waits for this name.
    pub(super) fn staged_file(&self) -> Option<&Pointer> {
        match &self.what {
            What::File(file) if self.staged => Some(&file.pointer),
            What::File(_) | What::Directory { .. } | What::Deleted | What::Snapshot(_) | What::Setting(_) => {
                None
            }
        }
    }
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
    /// What the last record does not say yet, and how many of the changes are on disk besides.
    pub(super) unsaid: Vec<Entry>,
    pub(super) noted: u64,
    /// Runs that others replaced and that are not deleted yet.
    pub(super) dropped: Vec<Dropped>,
    /// When those whose time has come are looked at next.
    pub(super) purge_at: Instant,
    /// Puts that stay in the journal until the own record says their names.
    pub(super) kept: Vec<Kept>,
    /// When others were heard, and what this device's clock said then.
    pub(super) gathered: Option<(Instant, u64)>,
    /// How far the clocks of others are ahead, milliseconds.
    pub(super) clock_ahead_ms: Option<i64>,
    /// There are others, and none of them answered.
    pub(super) unheard: bool,
    pub(super) unwritten: bool,
}

impl State {
    /// What is known after a start: the own record, which may not be with its holders.
    pub(super) fn new(bucket: Bucket, author: Author, own: Option<Record>) -> Self {
        Self {
            bucket,
            author,
            known: Known::default(),
            runs: BTreeMap::new(),
            pending: own,
            changes: 0,
            in_record: 0,
            said: 0,
            unsaid: Vec::new(),
            noted: 0,
            dropped: Vec::new(),
            purge_at: Instant::now(),
            kept: Vec::new(),
            gathered: None,
            clock_ahead_ms: None,
            unheard: false,
            unwritten: false,
        }
    }

    /// Refuses to write under a wrong clock: what it writes would show too early, or hide what others write.
    pub(super) fn check_clock(&self) -> Result<(), Failure> {
        let ahead = self.clock_ahead_ms.unwrap_or_default();
        if ahead.unsigned_abs() <= MAX_AHEAD_MS {
            return Ok(());
        }
        let seconds = humantime::format_duration(Duration::from_secs(ahead.unsigned_abs() / 1000));
        let which = if ahead > 0 { "behind" } else { "ahead of" };
        Err(Failure::refused(format!(
            "this machine's clock is {seconds} {which} those of the other peers; names are not written until \
             it is right"
        )))
    }

    /// Whether a record may be made that says so many changes, if it is to be made. Dates again what nobody
    /// was told of: where nobody answers, nobody says what time it is.
    pub(super) fn prepare(&mut self, change: u64) -> Result<(), Failure> {
        if self.pending.is_some() || self.said >= change {
            return Ok(());
        }
        if self.unheard {
            return Err(Failure::refused("no other peer answers"));
        }
        self.check_clock()?;
        self.bucket.date_again(unix_ms(), &mut self.unsaid);
        Ok(())
    }

    /// Whether it is time to hear others: after so long, or where the clock was set meanwhile.
    pub(super) fn is_due(&self, after: Duration) -> bool {
        self.gathered.is_none_or(|(gathered, clock_ms)| {
            let elapsed = gathered.elapsed();
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            elapsed > after || clock_ms.saturating_add(elapsed_ms).abs_diff(unix_ms()) > MAX_AHEAD_MS
        })
    }

    /// The version that a manifest is, and whether it shows.
    pub(super) fn version_of(&self, manifest: &[u8; 32]) -> Option<(Entry, bool)> {
        let is = |entry: &&Entry| match &entry.what {
            What::File(file) => file.pointer.manifest == *manifest,
            What::Directory { .. } | What::Deleted | What::Snapshot(_) | What::Setting(_) => false,
        };
        let mut old = None;
        for versions in self.merged(&[], &[]) {
            if versions.there().as_ref().is_some_and(is) {
                return Some((versions.newest().clone(), true));
            }
            old = old.or_else(|| versions.all().find(is).map(|entry| (entry.clone(), false)));
        }
        old
    }

    /// Takes the heads of all known records into what is known of the bucket.
    pub(super) fn take_known(&mut self, key: &WriteKey) {
        let read = key.read_key();
        for record in self.known.heads() {
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

    /// All names from `from` on that begin with `prefix`.
    pub(super) fn merged(&self, from: &[u8], prefix: &[u8]) -> impl Iterator<Item = Versions> + use<> {
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
        merge(sources)
    }

    /// The name itself, or the first of those numbered from 2 on of which there is nothing.
    fn free(&self, name: &Name) -> Result<Name, Failure> {
        let is_taken = |name: &Name| {
            let versions = self.versions(name);
            versions.is_some_and(|versions| versions.there().is_some())
        };
        let mut free = name.clone();
        let mut number = 2;
        while is_taken(&free) {
            free = Name::file(&format!("{} ({number})", name.key())).map_err(Failure::usage)?;
            number += 1;
        }
        Ok(free)
    }

    /// Writes names here. Which they are, and their versions.
    pub(super) fn enter(&mut self, mut changes: Vec<Change>) -> Result<Vec<(Name, Version)>, Failure> {
        for change in changes.iter_mut().filter(|change| change.free) {
            change.name = self.free(&change.name)?;
        }
        for change in &changes {
            let Some(condition) = &change.condition else {
                continue;
            };
            let versions = self.versions(&change.name);
            if !condition(versions.as_ref().and_then(Versions::there)) {
                return Err(Failure::precondition());
            }
        }
        let mut newest = self.newest(&changes);
        let mut written = Vec::with_capacity(changes.len());
        for change in changes {
            let Change {
                name,
                what,
                fields,
                kept,
                ..
            } = change;
            let before = newest.get(&name).copied().unwrap_or_default();
            let entry = self.bucket.write(unix_ms(), name, before, what, fields);
            newest.insert(entry.name.clone(), entry.version);
            written.push((entry.name.clone(), entry.version));
            self.unsaid.push(entry);
            self.kept.extend(kept);
        }
        self.changes += 1;
        Ok(written)
    }

    /// The newest versions of the names that are to change.
    fn newest(&self, changes: &[Change]) -> BTreeMap<Name, Version> {
        let names: BTreeSet<&Name> = changes.iter().map(|change| &change.name).collect();
        let of = |versions: Versions| (versions.name().clone(), versions.newest().version);
        match (names.first(), names.last()) {
            // One walk for many.
            (Some(first), Some(last)) if names.len() > FEW => self
                .merged(&first.to_bytes(), &[])
                .take_while(|versions| versions.name() <= *last)
                .filter(|versions| names.contains(versions.name()))
                .map(of)
                .collect(),
            _ => names
                .iter()
                .filter_map(|name| self.versions(name).map(of))
                .collect(),
        }
    }

    /// What is on disk that the last record does not say is written again.
    pub(super) fn enter_again(&mut self, noted: Vec<Entry>) {
        if !noted.is_empty() {
            self.changes += 1;
            self.noted = self.changes;
        }
        for entry in &noted {
            self.bucket.enter(entry.clone());
        }
        self.unsaid = noted;
    }

    /// Whether the device may go on under another number: there are so many of a bucket at most.
    pub(super) fn may_begin_anew(&self) -> bool {
        self.known.set().writers() < MOST_NUMBERS
    }

    /// What the last record has no room for is said under another number; all have that record.
    pub(super) fn begin_anew(&mut self, said: usize, key: &WriteKey) {
        let writer = rand::random();
        self.author.renumber(writer, None);
        self.bucket.begin_anew(writer, said);
        self.take_known(key);
    }

    /// The record that is sent says the first entries of the head, and none of those that came since.
    pub(super) fn said_in_part_by(&mut self, record: Record, said: &[Entry]) {
        self.author.next(record.hash);
        self.pending = Some(record);
        self.unsaid.retain(|entry| !said.contains(entry));
    }

    /// The record that is sent says all there is.
    pub(super) fn said_by(&mut self, record: Record) {
        self.author.next(record.hash);
        self.pending = Some(record);
        self.in_record = self.changes;
        self.unsaid.clear();
        for kept in self.kept.drain(..) {
            if let Err(error) = kept.finish() {
                tracing::warn!(%error, "the journal of a put stays; the next start sees to it");
            }
        }
    }

    /// All versions of a name.
    pub(super) fn versions(&self, name: &Name) -> Option<Versions> {
        let bytes = name.to_bytes();
        self.merged(&bytes, &bytes)
            .take_while(|versions| versions.name() <= name)
            .find(|versions| versions.name() == name)
    }
}

/// What this device is called: the name of its machine.
pub(super) fn device() -> String {
    let name = rustix::system::uname();
    let mut name = name.nodename().to_string_lossy().into_owned();
    while name.len() > mutualstore_tree::head::MAX_DEVICE {
        name.pop();
    }
    name
}
