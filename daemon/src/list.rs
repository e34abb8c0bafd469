//! The local file list: what was put through this daemon and not deleted through it.
//!
//! `DIR/files`, one sealed JSON object per line (names and links do not stand on the disk in the clear): the file that
//! was put, or `{"deleted": link}`. Appended and synced before a put or a deletion is acknowledged; puts that end together share a sync. A line that a crash cut short is
//! skipped and closed by the next append. The list is read from the disk when asked for, so it takes no memory.
//!
//! Deliberately absent: what is stored elsewhere, and health, which is asked from the holders.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use crate::crypt::LineCipher;
use crate::files::sync_directory;
use crate::link::Link;

/// Name of the file in the data directory.
const FILE: &str = "files";

/// One put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The file's own name, possibly empty.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// When it was put, Unix time in milliseconds.
    pub created: u64,
    /// The code of its blocks.
    pub code: String,
    /// The placement policy of its stripes.
    pub placement: String,
    /// What it is found and opened by.
    #[serde(with = "link_text")]
    pub link: Link,
}

/// A line of the list.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Put(Listed),
    Deleted(Deletion),
}

/// A file was deleted.
#[derive(Serialize, Deserialize)]
struct Deletion {
    #[serde(with = "link_text")]
    deleted: Link,
}

/// Why the list could not be read or an entry not be noted.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The operating system refused. The entries before are there; the one to be noted may or may not be.
    #[error("cannot {action} the file list {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier sync failed, so the system's word for later ones is worth nothing until a restart.
    #[error("the file list {} could not be synced before; restart the daemon when the disk is well", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

/// The list. Shared between threads; calls block on the disk.
#[derive(Debug)]
pub struct FileList {
    path: PathBuf,
    cipher: LineCipher,
    written: Mutex<Written>,
    synced: Mutex<Synced>,
}

#[derive(Debug)]
struct Written {
    file: File,
    /// Entries appended since the list was opened.
    entries: u64,
    /// Whether the last line may lack its end: a write failed half-way.
    torn: bool,
}

#[derive(Debug, Default)]
struct Synced {
    /// Of the entries appended, how many are durable.
    entries: u64,
    broken: bool,
}

impl FileList {
    /// Opens or creates the list in the data directory.
    pub fn open(data_directory: &Path, account: &[u8; 32]) -> Result<Self, ListError> {
        let path = data_directory.join(FILE);
        let open = || {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            if file.metadata()?.len() > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                }
            }
            sync_directory(data_directory)?;
            Ok(file)
        };
        let file = open().map_err(|source| ListError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let written = Mutex::new(Written {
            file,
            entries: 0,
            torn: false,
        });
        Ok(Self {
            path,
            cipher: LineCipher::new(account),
            written,
            synced: Mutex::default(),
        })
    }

    /// An entry as it stands in the list.
    pub fn seal(&self, entry: &Listed) -> String {
        // Text, numbers and a link always have a JSON form.
        let json = Zeroizing::new(serde_json::to_vec(entry).unwrap_or_default());
        self.cipher.seal(&json)
    }

    /// A deletion as it stands in the list.
    pub fn seal_deletion(&self, link: &Link) -> String {
        let entry = Deletion {
            deleted: link.clone(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&entry).unwrap_or_default());
        self.cipher.seal(&json)
    }

    /// The link in a [sealed](Self::seal_deletion) deletion, if it is undamaged and of this account.
    pub fn open_deletion(&self, sealed: &str) -> Option<Link> {
        let opened = self.cipher.open(sealed.as_bytes())?;
        let entry: Deletion = serde_json::from_slice(&opened).ok()?;
        Some(entry.deleted)
    }

    /// Notes a put. Durable on return.
    pub fn append(&self, entry: &Listed) -> Result<(), ListError> {
        self.append_sealed(&self.seal(entry))
    }

    /// Notes a put whose entry was [sealed](Self::seal) before. Durable on return. An entry may stand in the list
    /// twice; it is shown once.
    pub fn append_sealed(&self, sealed: &str) -> Result<(), ListError> {
        let mut line = format!("{sealed}\n").into_bytes();
        let mine = {
            let mut written = lock(&self.written);
            if written.torn {
                line.insert(0, b'\n');
            }
            written.torn = true;
            written
                .file
                .write_all(&line)
                .map_err(|error| self.error("write", error))?;
            written.torn = false;
            written.entries += 1;
            written.entries
        };
        // Whoever holds this lock syncs for all who wrote before it; most who waited find their entry durable.
        let mut synced = lock(&self.synced);
        if synced.entries >= mine {
            return Ok(());
        }
        if synced.broken {
            return Err(ListError::Broken {
                path: self.path.clone(),
            });
        }
        let (file, entries) = {
            let written = lock(&self.written);
            (written.file.try_clone(), written.entries)
        };
        if let Err(error) = file.and_then(|file| file.sync_data()) {
            synced.broken = true;
            return Err(self.error("write", error));
        }
        synced.entries = entries;
        Ok(())
    }

    /// The files not deleted whose name matches `pattern` (all without one), in the order they were put. Lines that do not
    /// parse are skipped with a warning.
    pub fn load(&self, pattern: Option<&str>) -> Result<Vec<Listed>, ListError> {
        let file = File::open(&self.path).map_err(|error| self.error("read", error))?;
        let mut entries = Vec::new();
        let mut deleted = BTreeSet::new();
        // A line written twice begins with the same nonce.
        let mut seen = BTreeSet::new();
        for (line, number) in BufReader::new(file).split(b'\n').zip(1u64..) {
            let line = line.map_err(|error| self.error("read", error))?;
            if line.is_empty() {
                continue;
            }
            if !seen.insert(line.get(..24).map(<[u8]>::to_vec)) {
                continue;
            }
            let opened = self.cipher.open(&line).unwrap_or_default();
            match serde_json::from_slice::<Line>(&opened) {
                Ok(Line::Put(entry)) if pattern.is_none_or(|pattern| matches(pattern, &entry.name)) => {
                    entries.push(entry);
                }
                Ok(Line::Put(_)) => {}
                Ok(Line::Deleted(entry)) => {
                    deleted.insert(entry.deleted.manifest);
                }
                // The error is not shown: it could quote the link.
                Err(_) => warn!("line {number} of {} is damaged; skipped", self.path.display()),
            }
        }
        entries.retain(|entry: &Listed| !deleted.contains(&entry.link.manifest));
        Ok(entries)
    }

    fn error(&self, action: &'static str, source: io::Error) -> ListError {
        ListError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// What these locks guard is whole after every step, also where a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `name` as a whole matches `pattern`, where `*` stands for any characters and `?` for one.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on when a later part does not match: behind the last `*`, one character more swallowed by it.
    let mut retry = None;
    loop {
        let before = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                name = before;
                retry = Some((pattern.clone(), name.clone()));
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            (Some(_) | None, Some(_) | None) => {
                let Some((after_star, swallowed)) = &mut retry else {
                    return false;
                };
                if swallowed.next().is_none() {
                    return false;
                }
                (pattern, name) = (after_star.clone(), swallowed.clone());
            }
        }
    }
}

mod link_text {
    use serde::Serializer;
    use serde::de::{Deserialize, Deserializer, Error};

    use crate::link::Link;

    pub(super) fn serialize<S: Serializer>(link: &Link, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(link)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Link, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn listed(name: &str) -> Listed {
        Listed {
            name: name.to_owned(),
            size_bytes: 5,
            created: 1_700_000_000_000,
            code: "rs:4+2".to_owned(),
            placement: "successors".to_owned(),
            link: Link {
                manifest: [1; 32],
                key: Zeroizing::new([2; 32]),
                tag: [3; 4],
            },
        }
    }

    fn names(list: &FileList, pattern: Option<&str>) -> Vec<String> {
        list.load(pattern)
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect()
    }

    #[test]
    fn entries_are_found_again_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let list = FileList::open(directory.path(), &[7; 32]).unwrap();
        assert_eq!(list.load(None).unwrap(), []);
        for name in ["b.txt", "a\nb", "", "c.txt"] {
            list.append(&listed(name)).unwrap();
        }
        drop(list);
        let list = FileList::open(directory.path(), &[7; 32]).unwrap();
        assert_eq!(
            list.load(None).unwrap(),
            ["b.txt", "a\nb", "", "c.txt"].map(listed)
        );
        assert_eq!(names(&list, Some("*.txt")), ["b.txt", "c.txt"]);
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_line_cut_anywhere_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        FileList::open(directory.path(), &[7; 32])
            .unwrap()
            .append(&listed("first"))
            .unwrap();
        let first = fs::read(&path).unwrap();
        for end in 1..first.len() {
            fs::write(&path, [&first, &first[..end]].concat()).unwrap();
            let list = FileList::open(directory.path(), &[7; 32]).unwrap();
            list.append(&listed("next")).unwrap();
            let expected = ["first", "next"];
            assert_eq!(names(&list, None), expected, "cut at {end}");
        }
    }

    #[test]
    fn many_writers_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let list = FileList::open(directory.path(), &[7; 32]).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let list = &list;
                scope.spawn(move || {
                    for i in 0..20 {
                        list.append(&listed(&format!("{writer}-{i}"))).unwrap();
                    }
                });
            }
        });
        let found = names(&list, None);
        assert_eq!(found.len(), 160);
        for writer in 0..8 {
            let own: Vec<_> = found
                .iter()
                .filter(|name| name.starts_with(&format!("{writer}-")))
                .collect();
            let expected: Vec<_> = (0..20).map(|i| format!("{writer}-{i}")).collect();
            assert_eq!(own, expected.iter().collect::<Vec<_>>());
        }
        assert_eq!(lock(&list.synced).entries, 160);
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("?", "é", true),
            ("?", "", false),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("**a", "ba", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a]", "a", false),
            ("*a*a*a*a*a*b", &"a".repeat(2000), false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// The definition of a match, exponential.
    fn matches_slowly(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], _) => name.is_empty(),
            (['*', rest @ ..], _) => (0..=name.len()).any(|skip| matches_slowly(rest, &name[skip..])),
            ([_, ..], []) => false,
            ([wanted, pattern @ ..], [found, name @ ..]) => {
                (*wanted == '?' || wanted == found) && matches_slowly(pattern, name)
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,7}", name in "[ab]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), matches_slowly(&chars(&pattern), &chars(&name)));
        }
    }
}
