//! The local file list: what was put through this daemon and not deleted through it.
//!
//! `DIR/files`, one sealed JSON object per line (names and links do not stand on the disk in the clear): the
//! file that was put, or `{"deleted": link}`. Files in buckets stand there too, for the health of all that
//! was put through this daemon. Appended and synced before a put or a deletion is acknowledged; puts that end
//! together share a sync. A line that a crash cut short is skipped and closed by the next append. The whole
//! list is read once, before it is first asked for (some five seconds for a million files); in memory is an
//! [`index`] of it, and what is shown is read from its lines.
//!
//! Deliberately absent: what is stored elsewhere, and health, which is asked from the holders and remembered
//! in the index.

pub mod index;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use self::index::{Entry, Index};
use crate::datadir::files::sync_directory;
use crate::error::Failure;
use crate::format::crypt::LineCipher;
use crate::format::link::Link;

/// Name of the file in the data directory.
const FILE: &str = "files";
/// Lines of a page are looked up in the index so many at a time.
const AT_ONCE: usize = 1024;

/// One put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The file's own name, possibly empty.
    pub name: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When it was put, Unix time in milliseconds.
    pub created: u64,
    /// The code of its blocks.
    pub code: String,
    /// The placement policy of its stripes.
    pub placement: String,
    /// How many stripes it has, those of its manifest included; 0 where an older version put it.
    #[serde(default)]
    pub stripes: u64,
    /// It has a name in a bucket: it is watched, and not listed here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// What it is found and opened by.
    #[serde(with = "link_text")]
    pub link: Link,
}

/// A put as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// The file's own name, possibly empty.
    pub name: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When it was put, Unix time in milliseconds.
    pub created: u64,
    /// The code of its blocks.
    pub code: String,
    /// It has a name in a bucket.
    #[serde(default)]
    pub named: bool,
    /// The link as text. Unlike that of [`Listed`] it is not parsed, which takes longer than all the rest.
    pub link: String,
}

/// What the index takes from a line: a put, or a deletion.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(deserialize_with = "link_text::optional")]
    link: Option<Link>,
    #[serde(deserialize_with = "link_text::optional")]
    deleted: Option<Link>,
    code: String,
    placement: String,
    stripes: u64,
}

impl Line {
    fn of(entry: &Listed) -> Self {
        Self {
            link: Some(entry.link.clone()),
            deleted: None,
            code: entry.code.clone(),
            placement: entry.placement.clone(),
            stripes: entry.stripes,
        }
    }
}

/// A file was deleted, or is to be if nothing names it.
#[derive(Serialize, Deserialize)]
struct Deletion {
    #[serde(with = "link_text")]
    deleted: Link,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<InBucket>,
}

/// Where in a bucket a file belongs. Such files have names, and are not in the list of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InBucket {
    /// What the owner keys of the bucket's files follow from.
    #[serde(with = "bytes_text")]
    pub owner: Zeroizing<[u8; 32]>,
    /// The bucket's public key.
    #[serde(with = "bytes_text")]
    pub public: [u8; 32],
    /// It gets its name by a later request, within a day.
    pub staged: bool,
}

mod bytes_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        bytes: &impl AsRef<[u8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Zeroizing::new(hex::encode(bytes)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: From<[u8; 32]>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.as_bytes(), bytes.as_mut_slice())
            .map_err(|_| serde::de::Error::custom("expected 64 hex digits"))?;
        Ok(T::from(*bytes))
    }
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
        /// What the system says.
        source: io::Error,
    },
    /// An earlier sync failed, so the system's word for later ones is worth nothing until a restart.
    #[error(
        "the file list {} could not be synced before; restart the daemon when the disk is well",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

impl From<ListError> for Failure {
    fn from(error: ListError) -> Self {
        match &error {
            ListError::Io { source, .. } => Self::disk(source.kind(), &error),
            ListError::Broken { .. } => Self::unexpected(error),
        }
    }
}

/// Files of the list, as many as were asked for.
#[derive(Debug)]
pub struct Page {
    /// By number, in the order they were put.
    pub files: Vec<(u32, Shown)>,
    /// Behind which number the next page begins; none when this is the last.
    pub next: Option<u32>,
}

/// The list, which remembers a `W` of each file until the daemon ends. Shared between threads; calls block on
/// the disk.
#[derive(Debug)]
pub struct FileList<W = ()> {
    path: PathBuf,
    cipher: LineCipher,
    /// None until it is read. Taken last.
    index: Mutex<Option<Index<W>>>,
    written: Mutex<Written>,
    synced: Mutex<Synced>,
}

#[derive(Debug)]
struct Written {
    file: File,
    /// Its length in bytes.
    end: u64,
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

impl<W: Default> FileList<W> {
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
            let end = file.metadata()?.len();
            Ok((file, end))
        };
        let (file, end) = open().map_err(|source| ListError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let written = Mutex::new(Written {
            file,
            end,
            entries: 0,
            torn: false,
        });
        Ok(Self {
            path,
            cipher: LineCipher::new(account),
            index: Mutex::new(None),
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

    /// A deletion as it stands in the list, or in the journal.
    pub fn seal_deletion(&self, link: &Link, bucket: Option<&InBucket>) -> String {
        let entry = Deletion {
            deleted: link.clone(),
            bucket: bucket.cloned(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&entry).unwrap_or_default());
        self.cipher.seal(&json)
    }

    /// The link in a [sealed](Self::seal_deletion) deletion, and the bucket, if it is undamaged and of this
    /// account.
    pub fn open_deletion(&self, sealed: &str) -> Option<(Link, Option<InBucket>)> {
        let opened = self.cipher.open(sealed.as_bytes())?;
        let entry: Deletion = serde_json::from_slice(&opened).ok()?;
        Some((entry.deleted, entry.bucket))
    }

    /// Notes a put, and what is remembered of it. Durable on return.
    pub fn append(&self, entry: &Listed, watched: W) -> Result<(), ListError> {
        self.append_line(&self.seal(entry), &Line::of(entry), watched)
    }

    /// Notes a put of a file in a bucket, whose name is durable elsewhere: a crash may take the note away.
    pub fn append_named(&self, entry: &Listed, watched: W) -> Result<(), ListError> {
        self.write_line(&self.seal(entry), &Line::of(entry), watched)
            .map(drop)
    }

    /// A file in a bucket is gone, and no longer watched.
    pub fn forget_named(&self, link: &Link) -> Result<(), ListError> {
        if self.entry(&link.manifest)?.is_some_and(|entry| entry.named) {
            let sealed = self.seal_deletion(link, None);
            let gone = Line {
                deleted: Some(link.clone()),
                ..Line::default()
            };
            self.write_line(&sealed, &gone, W::default())?;
        }
        Ok(())
    }

    /// Notes a put or a deletion whose entry was [sealed](Self::seal) before. Durable on return. An entry may
    /// stand in the list twice; it is shown once.
    pub fn append_sealed(&self, sealed: &str) -> Result<(), ListError> {
        let Some(line) = self.parse::<Line>(sealed.as_bytes()) else {
            warn!("an entry for {} is damaged; left out", self.path.display());
            return Ok(());
        };
        self.append_line(sealed, &line, W::default())
    }

    fn append_line(&self, sealed: &str, parsed: &Line, watched: W) -> Result<(), ListError> {
        let mine = self.write_line(sealed, parsed, watched)?;
        self.sync(mine).inspect_err(|_| {
            if let (Some(link), Some(index)) = (&parsed.link, lock(&self.index).as_mut()) {
                index.remove(&link.manifest);
            }
        })
    }

    /// Appends a line and takes it into the index. Its number among those appended.
    fn write_line(&self, sealed: &str, parsed: &Line, watched: W) -> Result<u64, ListError> {
        let mut written = lock(&self.written);
        let torn = if written.torn { "\n" } else { "" };
        let line = format!("{torn}{sealed}\n");
        written.torn = true;
        if let Err(error) = written.file.write_all(line.as_bytes()) {
            // So much of it as was written stands there.
            written.end = written.file.metadata().map_or(written.end, |meta| meta.len());
            return Err(self.error("write", error));
        }
        written.torn = false;
        let offset = written.end + torn.len() as u64;
        written.end += line.len() as u64;
        written.entries += 1;
        if let Some(index) = lock(&self.index).as_mut() {
            take(index, parsed, offset, sealed.len(), watched);
        }
        Ok(written.entries)
    }

    /// Whoever holds this lock syncs for all who wrote before it; most who waited find their entry durable.
    fn sync(&self, mine: u64) -> Result<(), ListError> {
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

    /// Looks at the index, or changes what is remembered; the first to ask waits until the list is read.
    pub fn index<R>(&self, look: impl FnOnce(&mut Index<W>) -> R) -> Result<R, ListError> {
        let mut index = lock(&self.index);
        if index.is_none() {
            *index = Some(self.load()?);
        }
        Ok(look(index.get_or_insert_default()))
    }

    /// Reads the whole list. Lines that do not parse are skipped with a warning.
    fn load(&self) -> Result<Index<W>, ListError> {
        let file = File::open(&self.path).map_err(|error| self.error("read", error))?;
        let mut index = Index::default();
        let mut deleted = HashSet::new();
        let (mut reader, mut line, mut offset, mut number) = (BufReader::new(file), Vec::new(), 0, 0u64);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            let read = read.map_err(|error| self.error("read", error))?;
            if read == 0 {
                break;
            }
            number += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            match self.parse::<Line>(&line) {
                Some(Line {
                    deleted: Some(gone), ..
                }) => drop(deleted.insert(gone.manifest)),
                Some(put) => take(&mut index, &put, offset, line.len(), W::default()),
                None if line.is_empty() => {}
                // The error is not shown: it could quote the link.
                None => warn!("line {number} of {} is damaged; skipped", self.path.display()),
            }
            offset += read as u64;
        }
        for manifest in deleted {
            index.remove(&manifest);
        }
        Ok(index)
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Option<T> {
        serde_json::from_slice(&self.cipher.open(line)?).ok()
    }

    /// The first `limit` files behind number `after` whose name matches `pattern` (all without one), in the
    /// order they were put.
    pub fn page(&self, after: Option<u32>, limit: usize, pattern: Option<&str>) -> Result<Page, ListError> {
        let file = File::open(&self.path).map_err(|error| self.error("read", error))?;
        let mut page = Page {
            files: Vec::new(),
            next: None,
        };
        let mut after = after;
        loop {
            // Lines are read without the lock; those of a file deleted meanwhile stand as well.
            let lines = self.index(|index| {
                let lines = index.after(after).take(AT_ONCE);
                lines
                    .map(|(number, entry)| (number, entry.offset, entry.length))
                    .collect::<Vec<_>>()
            })?;
            let Some((last, ..)) = lines.last() else {
                return Ok(page);
            };
            after = Some(*last);
            for (number, offset, length) in lines {
                let listed = self.read(&file, offset, length)?;
                let fits = |listed: &Shown| {
                    !listed.named && pattern.is_none_or(|pattern| matches(pattern, &listed.name))
                };
                let Some(listed) = listed.filter(fits) else {
                    continue;
                };
                if page.files.len() == limit {
                    page.next = page.files.last().map(|(number, _)| *number);
                    return Ok(page);
                }
                page.files.push((number, listed));
            }
        }
    }

    /// Files by their numbers; those that are deleted are left out.
    pub fn listed(&self, numbers: &[u32]) -> Result<Vec<(u32, Listed)>, ListError> {
        let file = File::open(&self.path).map_err(|error| self.error("read", error))?;
        let place = |index: &mut Index<W>, number: u32| {
            let entry: &Entry<W> = index.get(number)?;
            Some((number, entry.offset, entry.length))
        };
        let lines = self.index(|index| {
            let lines = numbers.iter().filter_map(|number| place(index, *number));
            lines.collect::<Vec<_>>()
        })?;
        let mut listed = Vec::with_capacity(lines.len());
        for (number, offset, length) in lines {
            listed.extend(self.read(&file, offset, length)?.map(|entry| (number, entry)));
        }
        Ok(listed)
    }

    /// The file with this manifest, unless it is deleted, or has a name in a bucket.
    pub fn find(&self, manifest: &[u8; 32]) -> Result<Option<Listed>, ListError> {
        Ok(self.entry(manifest)?.filter(|listed| !listed.named))
    }

    fn entry(&self, manifest: &[u8; 32]) -> Result<Option<Listed>, ListError> {
        let number = self.index(|index| index.find(manifest))?;
        let found = number.map(|number| self.listed(&[number])).transpose()?;
        Ok(found.and_then(|mut found| found.pop()).map(|(_, listed)| listed))
    }

    /// The put at a line's place; none if it is damaged since.
    fn read<T: DeserializeOwned>(
        &self,
        file: &File,
        offset: u64,
        length: u32,
    ) -> Result<Option<T>, ListError> {
        let mut line = vec![0; length as usize];
        file.read_exact_at(&mut line, offset)
            .map_err(|error| self.error("read", error))?;
        Ok(self.parse(&line))
    }

    fn error(&self, action: &'static str, source: io::Error) -> ListError {
        ListError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// Takes what a line says into the index.
fn take<W: Default>(index: &mut Index<W>, line: &Line, offset: u64, length: usize, watched: W) {
    if let Some(link) = &line.link {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let kind = (line.code.as_str(), line.placement.as_str());
        index.insert(link.manifest, (offset, length), kind, line.stripes == 1, watched);
    }
    if let Some(link) = &line.deleted {
        index.remove(&link.manifest);
    }
}

/// What these locks guard is whole after every step, also where a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `name` as a whole matches `pattern`, where `*` stands for any characters and `?` for one.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on when a later part does not match: behind the last `*`, one character more swallowed by
    // it.
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

    use crate::format::link::Link;

    pub(super) fn serialize<S: Serializer>(link: &Link, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(link)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Link, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }

    pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Link>, D::Error> {
        deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests;
