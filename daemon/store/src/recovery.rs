//! Opening a store: believe the index after a clean stop, rebuild it from the segments otherwise.
//!
//! A segment with a footer is replayed from it. One without was open when the process or the machine died:
//! its records are read whole, those with damaged bodies are left out, what follows the last record is cut
//! off, and it gets a footer of its own; nothing is ever appended to it. Records are replayed in the order of
//! the log, so the latest about a key wins. Where reading fails, a segment is left as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::entry::Entry;
use super::error::OpenError;
use super::index::Index;
use super::log::{Log, Segment, Start, Tally};
use super::record::{Kind, RecordHeader, decode_keys};
use super::segment::{Scanner, Trailer, file_name, parse_name, read_body};
use super::{Key, State, StoreConfig};

/// The content of the file `format`. The number rises when older versions would misread what newer ones
/// write.
const FORMAT: &[u8] = b"mutualstore shard store 1\n";

/// What opening a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether the index was believed; it was rebuilt otherwise.
    pub clean: bool,
    /// Number of segments.
    pub segments: usize,
    /// Of these, segments that had to be read whole.
    pub scanned: usize,
    /// Shards held.
    pub shards: u64,
    /// Shards that are no longer held because their bytes are damaged: among them puts that were never
    /// acknowledged.
    pub damaged: Vec<Key>,
    /// Bytes between records in which none was found: a damaged header shows only here.
    pub skipped_bytes: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

/// Locks the directory, creating it if it is missing.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    std::fs::create_dir_all(dir)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::DirInUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Refuses a directory laid out by a version that this one would misread, and marks a new one as its own.
pub(super) fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if text == FORMAT {
        return Ok(());
    }
    // A crash may have left a part of it.
    if !FORMAT.starts_with(&text) {
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let found = String::from_utf8_lossy(first.get(..FORMAT.len() * 2).unwrap_or(first));
        return Err(OpenError::Format(found.escape_debug().to_string()));
    }
    let mut file = File::create(&path)?;
    file.write_all(FORMAT)?;
    file.sync_all()?;
    Ok(())
}

/// Brings log and index in `dir` to the state that was last acknowledged.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    config: StoreConfig,
) -> Result<(Log, Index, OpenReport), OpenError> {
    let (segments_dir, index_dir) = (dir.join("segments"), dir.join("index"));
    std::fs::create_dir_all(&segments_dir)?;
    disk.sync_dir(dir)?;
    let mut replay = Replay::list(disk.as_ref(), &segments_dir)?;
    let last = replay
        .tally
        .segments
        .values()
        .next_back()
        .map_or(Some(0), |segment| segment.footer);
    let mut tally = replay.tally.clone();
    let marked = last.and_then(|sequence| {
        Index::open_marked(disk.as_ref(), &index_dir, sequence, |key, entry| {
            tally.add(key, entry)
        })
    });
    let clean = marked.is_some();
    let index = if let Some(index) = marked {
        index
    } else {
        let index = Index::create(disk.as_ref(), &index_dir)?;
        replay.run(&index)?;
        tally = std::mem::take(&mut replay.tally);
        index.walk(|key, entry| {
            tally.add(&key, &entry);
        })?;
        index
    };
    let report = OpenReport {
        clean,
        segments: tally.segments.len(),
        scanned: replay.incomplete.len(),
        shards: tally.shards,
        damaged: replay.damaged.into_iter().collect(),
        skipped_bytes: replay.skipped_bytes,
        read_errors: replay.read_errors,
    };
    let start = Start {
        tally,
        next_sequence: replay.next_sequence,
        capacity: config.capacity,
        max_segment: config.max_segment,
    };
    let log = Log::new(Arc::clone(disk), &segments_dir, dir.join("reserve"), start);
    for (id, bad) in replay.incomplete {
        log.seal(id, &bad);
    }
    // The process may have died before it did so, and what says that they are dead is durable by now.
    log.retire(&replay.dropped);
    log.drop_dead();
    Ok((log, index, report))
}

/// The replay of the segments into an empty index.
struct Replay<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    tally: Tally,
    next_sequence: u64,
    damaged: BTreeSet<Key>,
    /// Segments without a footer that read well, with the offsets of their damaged records.
    incomplete: BTreeMap<u32, BTreeSet<u64>>,
    skipped_bytes: u64,
    read_errors: u64,
    /// Records that later ones removed or replaced.
    dropped: Vec<Entry>,
}

impl<'a> Replay<'a> {
    fn list(disk: &'a dyn Disk, dir: &'a Path) -> io::Result<Self> {
        let mut replay = Self {
            disk,
            dir,
            tally: Tally::default(),
            next_sequence: 1,
            damaged: BTreeSet::new(),
            incomplete: BTreeMap::new(),
            skipped_bytes: 0,
            read_errors: 0,
            dropped: Vec::new(),
        };
        for name in disk.list(dir)? {
            let Some((id, salt)) = name.to_str().and_then(parse_name) else {
                continue;
            };
            let file = disk.open(&dir.join(&name))?;
            let len = file.len()?;
            let trailer = Trailer::read(file.as_ref(), salt, len).unwrap_or_else(|_| {
                replay.read_errors += 1;
                None
            });
            if let Some(trailer) = &trailer {
                replay.next_sequence = replay.next_sequence.max(trailer.sequence + 1);
            }
            let segment = Segment::new(salt, len, file.allocated()?, trailer.as_ref());
            if let Some(other) = replay.tally.segments.insert(id, segment) {
                replay.choose(id, other, segment)?;
            }
        }
        Ok(replay)
    }

    /// Of a segment that was being compacted, keeps the version whose footer is the later one. Without any,
    /// nothing was read, so the longer one is taken and both stay.
    fn choose(&mut self, id: u32, one: Segment, other: Segment) -> io::Result<()> {
        let (kept, left) = if (one.footer, one.len) > (other.footer, other.len) {
            (one, other)
        } else {
            (other, one)
        };
        self.tally.segments.insert(id, kept);
        if kept.footer.is_some() {
            self.disk.remove(&self.dir.join(file_name(id, left.salt)))?;
            self.disk.sync_dir(self.dir)?;
        }
        Ok(())
    }

    fn run(&mut self, index: &Index) -> io::Result<()> {
        for (id, segment) in self.tally.segments.clone() {
            let path = self.dir.join(file_name(id, segment.salt));
            let file = self.disk.open(&path)?;
            let file = file.as_ref();
            let trailer = Trailer::read(file, segment.salt, segment.len).ok().flatten();
            let records = trailer.and_then(|trailer| trailer.records(file, segment.salt).ok().flatten());
            if let Some(records) = records {
                for (offset, header) in records {
                    self.apply(index, file, id, offset, &header)?;
                }
            } else {
                self.scan(index, file, id, &segment)?;
            }
        }
        self.damaged
            .retain(|key| index.get(key).is_ok_and(|entry| entry.is_none()));
        Ok(())
    }

    fn scan(&mut self, index: &Index, file: &dyn DiskFile, id: u32, segment: &Segment) -> io::Result<()> {
        let (mut bad, mut end) = (BTreeSet::new(), 0);
        let errors_before = self.read_errors;
        let mut scanner = Scanner::new(file, segment.salt, segment.len);
        for (offset, header) in scanner.by_ref() {
            if header.kind == Kind::Footer {
                break;
            }
            end = offset + header.record_bytes();
            if header.kind == Kind::Dead {
                continue;
            }
            let body = read_body(file, offset, &header).unwrap_or_else(|_| {
                self.read_errors += 1;
                None
            });
            if body.is_some() {
                self.apply(index, file, id, offset, &header)?;
            } else {
                bad.insert(offset);
                if header.kind == Kind::Put {
                    self.damaged.insert(header.key);
                }
            }
        }
        self.skipped_bytes += scanner.skipped;
        self.read_errors += scanner.errors;
        if self.read_errors > errors_before {
            if let Some(segment) = self.tally.segments.get_mut(&id) {
                segment.unread = true;
            }
            return Ok(());
        }
        if end == 0 {
            self.tally.segments.remove(&id);
            // Durably, or else what was written and given up might be found by a later start.
            self.disk.remove(&self.dir.join(file_name(id, segment.salt)))?;
            return self.disk.sync_dir(self.dir);
        }
        file.truncate(end)?;
        if let Some(segment) = self.tally.segments.get_mut(&id) {
            (segment.len, segment.synced, segment.occupied) = (end, end, file.allocated()?);
        }
        self.incomplete.insert(id, bad);
        Ok(())
    }

    fn apply(
        &mut self,
        index: &Index,
        file: &dyn DiskFile,
        id: u32,
        offset: u64,
        header: &RecordHeader,
    ) -> io::Result<()> {
        self.next_sequence = self.next_sequence.max(header.sequence + 1);
        match header.kind {
            Kind::Put => {
                self.damaged.remove(&header.key);
                self.dropped.extend(index.get(&header.key)?);
                index.insert(&header.key, &Entry::new(id, offset, header))
            }
            Kind::Restate => update(index, &header.key, |entry| {
                Some(Entry {
                    state: header.state,
                    token: header.token,
                    ..entry
                })
            }),
            Kind::Drop | Kind::Commit | Kind::Renew => {
                let body = read_body(file, offset, header).unwrap_or_else(|_| {
                    self.read_errors += 1;
                    None
                });
                for key in decode_keys(&body.unwrap_or_default()) {
                    if header.kind == Kind::Drop {
                        self.damaged.remove(&key);
                        self.dropped.extend(index.get(&key)?);
                    }
                    update(index, &key, |entry| restated(header, entry))?;
                }
                Ok(())
            }
            Kind::Footer | Kind::Dead => Ok(()),
        }
    }
}

/// What a batch of `header`'s kind makes of an entry.
fn restated(header: &RecordHeader, entry: Entry) -> Option<Entry> {
    match (header.kind, header.state, entry.state) {
        (Kind::Drop, _, _) => None,
        (Kind::Commit, _, _) => Some(Entry {
            state: State::Committed,
            ..entry
        }),
        (
            Kind::Renew,
            State::Pending { until_unix_ms, .. },
            State::Pending {
                until_unix_ms: held,
                writer,
            },
        ) => {
            let until_unix_ms = until_unix_ms.max(held);
            Some(Entry {
                state: State::Pending {
                    until_unix_ms,
                    writer,
                },
                ..entry
            })
        }
        (Kind::Put | Kind::Renew | Kind::Restate | Kind::Footer | Kind::Dead, _, _) => Some(entry),
    }
}

fn update(index: &Index, key: &Key, change: impl FnOnce(Entry) -> Option<Entry>) -> io::Result<()> {
    match index.get(key)?.map(change) {
        Some(Some(entry)) => index.insert(key, &entry),
        Some(None) => index.remove(key),
        None => Ok(()),
    }
}
