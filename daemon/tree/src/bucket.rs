//! What a device knows of a bucket: its own head and those of the others, as far as they are in memory.
//!
//! Runs stand in files; who drives this reads those that [`Bucket::runs`] names and merges them in. The
//! driver publishes [`Bucket::head`] after every change, keeps what it published, and moves entries to runs
//! when the head [is full](Bucket::is_full).

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::Fields;
use crate::entry::{Entry, Name, What};
use crate::head::{Dropped, Head, INLINE, Run, TABLE};
use crate::run::precedes;
use crate::version::{Clock, MAX_AHEAD_MS, Version};

/// The most dropped runs that a head names, the latest. What older ones take is not freed.
const MAX_DROPPED: usize = 32;

/// What tells a record from others: its writer, its sequence, and its hash where two devices use one number.
pub type Source = (u64, u64, [u8; 32]);

/// See the module head.
#[derive(Clone, Debug)]
pub struct Bucket {
    own: Head,
    clock: Clock,
    /// Heads of others, by who said them. Of one writer there are two where two devices use its number.
    others: BTreeMap<Source, Head>,
}

impl Bucket {
    /// A bucket of which this device, that writes as `writer`, has said `own`.
    pub fn new(writer: u64, own: Head) -> Self {
        let last = own.entries.iter().map(|entry| entry.version).max();
        Self {
            clock: Clock::new(writer, last.unwrap_or_default()),
            own,
            others: BTreeMap::new(),
        }
    }

    /// The head to publish.
    pub fn head(&self) -> &Head {
        &self.own
    }

    /// The same head goes on under another number: another device used the old one.
    pub fn renumber(&mut self, writer: u64) {
        let last = self.own.entries.iter().map(|entry| entry.version).max();
        self.clock = Clock::new(writer, last.unwrap_or_default());
    }

    /// Under another number the device says what the old one does not: all but the first `said` entries. The
    /// old number's last record stays what it is, another's from here on.
    pub fn begin_anew(&mut self, writer: u64, said: usize) {
        let entries = self.own.entries.split_off(said.min(self.own.entries.len()));
        self.own = Head {
            entries,
            runs: Vec::new(),
            dropped: Vec::new(),
            ..std::mem::take(&mut self.own)
        };
        self.clock = self.clock.under(writer);
    }

    /// Whether the head of this record is known.
    pub fn knows(&self, source: &Source) -> bool {
        self.others.contains_key(source)
    }

    /// Takes in what another device says, in place of what it said before.
    pub fn take(&mut self, source: Source, head: Head) {
        let (writer, sequence, _) = source;
        self.others
            .retain(|(other, before, _), _| *other != writer || *before >= sequence);
        let newest = self.others.keys().find(|(other, ..)| *other == writer);
        if newest.is_none_or(|(_, newest, _)| *newest == sequence) {
            self.others.insert(source, head);
        }
        let mut seen = BTreeMap::new();
        for (writer, sequence, _) in self.others.keys() {
            seen.insert(*writer, *sequence);
        }
        self.own.seen = seen.into_iter().collect();
    }

    fn heads(&self) -> impl Iterator<Item = &Head> {
        std::iter::once(&self.own).chain(self.others.values())
    }

    /// All runs that anybody names.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.heads().flat_map(|head| &head.runs)
    }

    /// The entries of all heads that have names from `from` on and begin with `prefix`, sorted, as sources to
    /// merge.
    pub fn sources(&self, from: &[u8], prefix: &[u8]) -> Vec<Vec<Entry>> {
        let sorted = |head: &Head| {
            let wanted = |entry: &&Entry| {
                let name = entry.name.to_bytes();
                name.starts_with(prefix) && name.as_slice() >= from
            };
            let mut entries: Vec<Entry> = head.entries.iter().filter(wanted).cloned().collect();
            entries.sort_by(|a, b| (&a.name, b.version).cmp(&(&b.name, a.version)));
            entries
        };
        self.heads().map(sorted).collect()
    }

    /// Writes a name. `newest` is the version that it has, runs included; [`Version::ZERO`] if none.
    pub fn write(&mut self, now_ms: u64, name: Name, newest: Version, what: What, fields: Fields) -> Entry {
        let entry = Entry {
            name,
            version: self.clock.next(now_ms, newest),
            base: newest,
            what,
            fields,
        };
        self.own.wrote(now_ms);
        self.own.entries.push(entry.clone());
        entry
    }

    /// For how long this device said nothing, milliseconds; 0 if it never did.
    pub fn was_silent_for(&self, now_ms: u64) -> u64 {
        let last = self.own.written_ms();
        last.map_or(0, |last| now_ms.saturating_sub(last))
    }

    /// This device says that it lives.
    pub fn touch(&mut self, now_ms: u64) {
        self.own.wrote(now_ms);
    }

    /// Entries of the own head that nobody was told of, and that a clock far ahead dated, get the time of one
    /// that was put right meanwhile.
    pub fn date_again(&mut self, now_ms: u64, unsaid: &mut [Entry]) {
        let is_wrong = |version: Version| version.ms > now_ms.saturating_add(MAX_AHEAD_MS);
        let mut dated: BTreeMap<(Name, Version), Version> = BTreeMap::new();
        for entry in unsaid.iter_mut().filter(|entry| is_wrong(entry.version)) {
            let before = (entry.name.clone(), entry.base);
            let base = dated.get(&before).copied().unwrap_or(entry.base);
            let mut own = self.own.entries.iter_mut();
            let own = own.find(|own| own.name == entry.name && own.version == entry.version);
            // What replaces something of that time has to be above it.
            if let Some(own) = own.filter(|_| !is_wrong(base)) {
                own.base = base;
                own.version = self.clock.next(now_ms, base);
                dated.insert((entry.name.clone(), entry.version), own.version);
                *entry = own.clone();
            }
        }
    }

    /// Takes in an entry that this device wrote and its head does not say, as after a crash.
    pub fn enter(&mut self, entry: Entry) {
        self.clock.saw(entry.version);
        if !self.own.entries.contains(&entry) {
            self.own.entries.push(entry);
        }
    }

    /// Whether the entries of the own head take more than a head has room for.
    pub fn is_full(&self) -> bool {
        self.room_for() < self.own.entries.len()
    }

    /// How many entries of the own head, oldest first, a head has room for; one at least.
    fn room_for(&self) -> usize {
        let lengths = self.own.entries.iter().map(Entry::encoded_len);
        let mut ends = lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        ends.position(|end| end > INLINE)
            .map_or(self.own.entries.len(), |fit| fit.max(1))
    }

    /// The head with as many of its entries, oldest first, as there is room for; how many those are.
    pub fn head_in_part(&self) -> (Head, usize) {
        let fit = self.room_for();
        let mut head = self.own.clone();
        head.entries.truncate(fit);
        (head, fit)
    }

    /// The entries of the own head, sorted: what the driver stores as a run and names in [`Bucket::spilled`].
    pub fn inline(&self) -> Vec<Entry> {
        let mut entries = self.own.entries.clone();
        entries.sort_by(|a, b| (&a.name, b.version).cmp(&(&b.name, a.version)));
        debug_assert!(entries.is_sorted_by(precedes));
        entries
    }

    /// These entries of the own head stand in runs now.
    pub fn spilled(&mut self, entries: &[Entry], runs: Vec<Run>) {
        let moved: BTreeSet<(&Name, Version)> =
            entries.iter().map(|entry| (&entry.name, entry.version)).collect();
        self.own
            .entries
            .retain(|entry| !moved.contains(&(&entry.name, entry.version)));
        self.own.runs.extend(runs);
    }

    /// The lowest tier of which the own head has so many runs of less than `full` bytes, and those, oldest
    /// first.
    pub fn to_merge(&self, together: usize, full: u32) -> Option<(u8, Vec<Run>)> {
        let tiers: BTreeSet<u8> = self.own.runs.iter().map(|run| run.tier).collect();
        tiers.into_iter().find_map(|tier| {
            let is_small = |run: &&Run| run.blocks < full;
            let runs = self
                .own
                .runs
                .iter()
                .filter(|run| run.tier == tier)
                .filter(is_small);
            let runs: Vec<Run> = runs.cloned().collect();
            (runs.len() >= together && tier < TABLE - 1).then_some((tier, runs))
        })
    }

    /// What stood in `old` runs stands in `new` ones now.
    pub fn merged(&mut self, now_ms: u64, old: &[Run], new: Vec<Run>) {
        self.own.runs.retain(|run| !old.contains(run));
        self.own.runs.extend(new);
        self.own.dropped.extend(old.iter().map(|run| Dropped {
            pointer: run.pointer.clone(),
            since_ms: now_ms,
        }));
        let beyond = self.own.dropped.len().saturating_sub(MAX_DROPPED);
        self.own.dropped.drain(..beyond);
    }

    /// Writers whose clocks are ahead of this one by more than versions go along with, milliseconds.
    pub fn ahead(&self, now_ms: u64) -> impl Iterator<Item = (&str, u64)> {
        self.others.values().filter_map(move |head| {
            let newest = head.entries.iter().map(|entry| entry.version.ms).max()?;
            let ahead = newest.checked_sub(now_ms.saturating_add(MAX_AHEAD_MS))?;
            Some((head.device.as_str(), ahead + MAX_AHEAD_MS))
        })
    }

    /// Devices that said something: what they are called, their numbers, and when they last wrote a key, Unix
    /// milliseconds. This one first.
    pub fn devices(&self) -> impl Iterator<Item = (&str, u64, Option<u64>)> {
        let others = self.others.iter().map(|((writer, ..), head)| (*writer, head));
        let all = std::iter::once((self.clock.writer(), &self.own)).chain(others);
        all.map(|(writer, head)| (head.device.as_str(), writer, head.written_ms()))
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::entry::Pointer;
    use crate::merge::merge;
    use crate::run::cut;

    const THERE: What = What::Directory { modified_ms: 0 };

    fn name(key: &str) -> Name {
        Name::file(key).unwrap()
    }

    fn keys(bucket: &Bucket, prefix: &str) -> Vec<String> {
        let prefix = [&[0], prefix.as_bytes()].concat();
        let merged = merge(bucket.sources(&[], &prefix));
        let there = merged.filter(|versions| versions.there().is_some());
        there.map(|versions| versions.name().key().to_owned()).collect()
    }

    #[test]
    fn heads_of_two_devices_list_the_same() {
        let (mut one, mut two) = (Bucket::new(1, Head::default()), Bucket::new(2, Head::default()));
        one.write(10, name("a/1"), Version::ZERO, THERE, Fields::new());
        let b = two.write(11, name("b"), Version::ZERO, THERE, Fields::new());
        two.take((1, 1, [0; 32]), one.head().clone());
        two.write(12, name("b"), b.version, What::Deleted, Fields::new());
        two.write(13, name("a/2"), Version::ZERO, THERE, Fields::new());
        one.take((2, 3, [0; 32]), two.head().clone());
        assert_eq!(keys(&one, ""), ["a/1", "a/2"]);
        assert_eq!(keys(&two, ""), keys(&one, ""));
        assert_eq!(keys(&one, "a/2"), ["a/2"]);
        assert_eq!(one.head().seen, [(2, 3)]);
    }

    #[test]
    fn only_the_latest_word_of_a_writer_counts_or_both_of_a_doubled_one() {
        let mut bucket = Bucket::new(1, Head::default());
        let head = |key: &str| {
            let mut other = Bucket::new(2, Head::default());
            other.write(10, name(key), Version::ZERO, THERE, Fields::new());
            other.head().clone()
        };
        bucket.take((2, 1, [1; 32]), head("old"));
        bucket.take((2, 2, [2; 32]), head("left"));
        bucket.take((2, 2, [3; 32]), head("right"));
        bucket.take((2, 1, [4; 32]), head("late"));
        assert_eq!(keys(&bucket, ""), ["left", "right"]);
        assert!(bucket.knows(&(2, 2, [2; 32])) && !bucket.knows(&(2, 1, [1; 32])));
    }

    #[test]
    fn full_head_moves_to_a_run_and_nothing_is_lost() {
        let mut bucket = Bucket::new(1, Head::default());
        let mut written = 0;
        while !bucket.is_full() {
            bucket.write(
                written,
                name(&format!("{written:04}")),
                Version::ZERO,
                THERE,
                Fields::new(),
            );
            written += 1;
        }
        let inline = bucket.inline();
        let cut = cut(&inline, usize::MAX);
        // Written while the run is stored.
        bucket.write(9999, name("later"), Version::ZERO, THERE, Fields::new());
        let [(run, part)] = cut.as_slice() else {
            panic!("{} runs", cut.len());
        };
        let blocks = usize::try_from(run.blocks).unwrap();
        let there = crate::run::entries(&run.bytes[..blocks]).unwrap();
        assert_eq!(there.len() as u64, written);
        let reference = Run {
            pointer: Pointer {
                manifest: [1; 32],
                key: Zeroizing::new([2; 32]),
            },
            blocks: run.blocks,
            tail: 0,
            entries: run.entries,
            tier: 0,
            from: Run::bound(&part[0].name),
            to: Run::bound(&part[part.len() - 1].name),
        };
        bucket.spilled(&inline, vec![reference]);
        assert_eq!(keys(&bucket, ""), ["later"]);
        assert_eq!(bucket.runs().count(), 1);
        assert!(bucket.head().encode().is_ok());
    }

    #[test]
    fn what_a_head_has_no_room_for_is_said_under_other_numbers() {
        let mut bucket = Bucket::new(1, Head::default());
        let expected: Vec<String> = (0..40).map(|number| format!("{number:0900}")).collect();
        for (now, key) in (10..).zip(&expected) {
            bucket.write(now, name(key), Version::ZERO, THERE, Fields::new());
        }
        let mut reader = Bucket::new(99, Head::default());
        for writer in 2.. {
            let (head, said) = bucket.head_in_part();
            assert!(head.encode().is_ok());
            reader.take((writer, 1, [0; 32]), head);
            if !bucket.is_full() {
                break;
            }
            bucket.begin_anew(writer, said);
        }
        assert_eq!(keys(&reader, ""), expected);
    }

    #[test]
    fn what_nobody_heard_is_dated_again() {
        const YEARS: u64 = 100_000_000_000;
        let mut bucket = Bucket::new(1, Head::default());
        let said = bucket.write(1000, name("a"), Version::ZERO, THERE, Fields::new());
        let one = bucket.write(YEARS, name("a"), said.version, What::Deleted, Fields::new());
        let two = bucket.write(YEARS, name("a"), one.version, THERE, Fields::new());
        let ahead = Version {
            ms: 2 * YEARS,
            ..said.version
        };
        let other = bucket.write(YEARS, name("b"), ahead, What::Deleted, Fields::new());
        let mut unsaid = vec![one, two, other.clone()];
        bucket.date_again(2000, &mut unsaid);
        let versions: Vec<u64> = unsaid.iter().map(|entry| entry.version.ms).collect();
        assert_eq!(versions[0], 2000);
        assert!(versions[1] > 2000 && versions[1] < 3000 && unsaid[1].base == unsaid[0].version);
        assert_eq!(unsaid[2], other);
        assert_eq!(bucket.head().entries[1..], unsaid);
    }

    #[test]
    fn clock_that_is_ahead_shows() {
        let mut bucket = Bucket::new(1, Head::default());
        let mut other = Bucket::new(
            2,
            Head {
                device: "desk".to_owned(),
                ..Head::default()
            },
        );
        other.write(1_000_000, name("a"), Version::ZERO, THERE, Fields::new());
        bucket.take((2, 1, [0; 32]), other.head().clone());
        assert_eq!(bucket.ahead(900_000).count(), 0);
        assert_eq!(bucket.ahead(100_000).collect::<Vec<_>>(), [("desk", 900_000)]);
    }
}
