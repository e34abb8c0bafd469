//! The word of all devices put together.
//!
//! Every device has sorted entries, in its head and in its runs. Merged they give all versions of each name,
//! the newest first. The newest is what shows. A version *conflicts* if another one lies between it and the
//! one it replaced: whoever wrote it had not seen the other. The next write, which has seen both, ends that.

use itertools::Itertools;

use crate::entry::{Entry, Name};
use crate::run::precedes;
use crate::version::Version;

/// All versions of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    newest: Entry,
    /// The newest first, each version once.
    older: Vec<Entry>,
}

impl Versions {
    /// The name.
    pub fn name(&self) -> &Name {
        &self.newest().name
    }

    /// What shows.
    pub fn newest(&self) -> &Entry {
        &self.newest
    }

    /// What shows, unless the name is deleted.
    pub fn there(&self) -> Option<&Entry> {
        Some(self.newest()).filter(|entry| entry.is_there())
    }

    /// The newest first.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// This version, if it is one of them.
    pub fn at(&self, version: Version) -> Option<&Entry> {
        self.all().find(|entry| entry.version == version)
    }

    /// What showed at a moment, Unix milliseconds.
    pub fn as_of(&self, ms: u64) -> Option<&Entry> {
        self.all().find(|entry| entry.version.ms <= ms)
    }

    /// The versions that the writer of this one had not seen, and that were there before it.
    pub fn unseen_by<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        let between = move |other: &&Entry| entry.base < other.version && other.version < entry.version;
        self.all().filter(between)
    }

    /// Whether what shows was written by somebody who had not seen all that was there before.
    pub fn conflicts(&self) -> bool {
        self.unseen_by(self.newest()).next().is_some()
    }
}

/// Merges sorted entries: all versions of each name, by name. A source ascends by name, and of one name
/// descends by version.
pub fn merge<S>(sources: impl IntoIterator<Item = S>) -> impl Iterator<Item = Versions>
where
    S: IntoIterator<Item = Entry>,
{
    let merged = sources.into_iter().kmerge_by(precedes);
    let distinct = merged.dedup_by(|a, b| (&a.name, a.version) == (&b.name, b.version));
    let mut entries = distinct.peekable();
    std::iter::from_fn(move || {
        let newest = entries.next()?;
        let older = entries
            .peeking_take_while(|next| next.name == newest.name)
            .collect();
        Some(Versions { newest, older })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::codec::Fields;
    use crate::entry::What;
    use crate::version::Clock;

    fn entry(key: &str, version: (u64, u64), base: (u64, u64), what: What) -> Entry {
        let of = |(ms, writer)| Version {
            ms,
            counter: 0,
            writer,
        };
        Entry {
            name: Name::file(key).unwrap(),
            version: of(version),
            base: of(base),
            what,
            fields: Fields::new(),
        }
    }

    const THERE: What = What::Directory { modified_ms: 0 };

    fn one(entries: Vec<Entry>) -> Versions {
        let mut merged = merge(entries.into_iter().map(|entry| [entry]));
        let versions = merged.next().unwrap();
        assert_eq!(merged.next(), None);
        versions
    }

    #[test]
    fn both_of_two_writes_at_once_stay_and_the_newer_shows() {
        let first = entry("a", (1, 1), (0, 0), THERE);
        let (left, right) = (
            entry("a", (5, 1), (1, 1), THERE),
            entry("a", (6, 2), (1, 1), What::Deleted),
        );
        let versions = one(vec![left.clone(), first.clone(), right.clone()]);
        assert_eq!(versions.newest(), &right);
        assert_eq!(versions.there(), None);
        assert!(versions.conflicts());
        assert_eq!(versions.unseen_by(&right).collect::<Vec<_>>(), [&left]);
        assert_eq!(versions.as_of(5), Some(&left));
        assert_eq!(versions.as_of(0), None);
        let later = entry("a", (7, 1), (6, 2), THERE);
        let versions = one(vec![left, later.clone(), first, right]);
        assert!(!versions.conflicts());
        assert_eq!(versions.there(), Some(&later));
    }

    proptest! {
        /// Devices write, and take in what others wrote at random moments. However their entries lie in
        /// sources: all see the same, and a name conflicts just if the last writer had missed a version.
        #[test]
        fn all_devices_see_the_same(
            steps in prop::collection::vec((0..3usize, 0..3usize, 0..4usize, 0..100u64), 1..60),
            split in 1..7usize,
        ) {
            let mut seen: [BTreeMap<String, BTreeSet<Version>>; 3] = Default::default();
            let mut clocks = [0, 1, 2].map(|writer| Clock::new(writer, Version::ZERO));
            let mut written: BTreeMap<String, BTreeMap<Version, Entry>> = BTreeMap::new();
            let mut missed: BTreeMap<Version, bool> = BTreeMap::new();
            for (device, key, other, now) in steps {
                let key = format!("k{key}");
                if other < 3 {
                    let theirs = seen[other].clone();
                    for (key, versions) in theirs {
                        seen[device].entry(key).or_default().extend(versions);
                    }
                }
                let known = seen[device].entry(key.clone()).or_default();
                let base = known.last().copied().unwrap_or_default();
                let version = clocks[device].next(now, base);
                let all = written.entry(key.clone()).or_default();
                let between = all.range(base..version).any(|(other, _)| *other > base);
                missed.insert(version, between);
                known.insert(version);
                all.insert(version, Entry { version, base, ..entry(&key, (0, 0), (0, 0), THERE) });
            }
            let mut sources = vec![Vec::new(); split];
            for (at, entry) in written.values().flat_map(BTreeMap::values).enumerate() {
                sources[at % split].push(entry.clone());
                sources[(at + 1) % split].push(entry.clone());
            }
            for source in &mut sources {
                source.sort_by(|a, b| (&a.name, b.version).cmp(&(&b.name, a.version)));
            }
            let merged: Vec<Versions> = merge(sources).collect();
            prop_assert_eq!(merged.len(), written.len());
            for (versions, expected) in merged.iter().zip(written.values()) {
                prop_assert!(versions.all().eq(expected.values().rev()));
                // What came later below the newest may have been missed as well.
                let newest = versions.newest();
                let mut range = expected.range(newest.base..newest.version);
                let between = range.any(|(version, _)| *version > newest.base);
                prop_assert_eq!(versions.conflicts(), between);
                prop_assert!(!missed[&newest.version] || versions.conflicts());
            }
        }
    }
}
