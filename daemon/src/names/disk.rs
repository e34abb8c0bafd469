//! What this device keeps on disk of one bucket, in `names/<public key>/` of the data directory:
//!
//! * `own`: its own last record, durable before it is sent.
//! * `noted`: entries that this record does not say, because holders could not be had: one line, sealed under
//!   the bucket's read key.
//! * `seen`: records of others that it has seen, which it holds against holders that answer less.
//! * `dropped`: runs of its own that others replaced, and when: a sealed line each.
//!
//! Records are sealed as they are on the ring. `own` has two slots that are written in turn and in place: a
//! write costs one flush and no space, so it succeeds on a full disk, and a crash in the middle of it leaves
//! the record before.
//!
//! ```text
//! slot = generation u64 ‖ length u32 ‖ record ‖ SHA-256 of all before [32]     20 KiB; big-endian
//! seen = (length u32 ‖ record) each
//! noted, opened = count u32 ‖ entries
//! a line of dropped, opened = as in a head
//! ```

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::codec::{Malformed, Reader};
use mutualstore_tree::entry::Entry;
use mutualstore_tree::head::Dropped;
use mutualstore_tree::record::{MAX_RECORD, Record};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::datadir::files::{self, FileError, directory_of, read_optional, sync_directory, write_atomic};
use crate::datadir::spare;
use crate::error::Failure;
use crate::format::crypt::LineCipher;

/// A multiple of the page size, so that a torn write of one slot never touches the other.
const SLOT: usize = 20 << 10;

/// See the module head.
pub(super) struct Disk {
    /// The data directory.
    data: PathBuf,
    dir: PathBuf,
    cipher: LineCipher,
    /// Of the last slot that was written.
    generation: AtomicU64,
}

impl Disk {
    /// The directory of a bucket, which the first write makes.
    pub(super) fn new(data: &Path, key: &WriteKey) -> Self {
        Self {
            dir: dir_of(data, &key.public()),
            data: data.to_owned(),
            cipher: LineCipher::new(key.read_key().bytes()),
            generation: AtomicU64::new(0),
        }
    }

    /// Removes what a crash left of writes. Nobody else may write meanwhile.
    pub(super) fn clean(&self) {
        if let Err(error) = files::remove_temporaries(&self.dir) {
            tracing::debug!(%error, "what a crash left of a write stays");
        }
    }

    /// The device's own last record; none if it wrote nothing, or what it wrote is damaged.
    pub(super) fn own(&self, network: &[u8; 32]) -> Result<Option<Record>, FileError> {
        let Some(content) = read_optional(&self.dir.join("own"))? else {
            return Ok(None);
        };
        let newest = content
            .chunks(SLOT)
            .filter_map(slot)
            .max_by_key(|(generation, _)| *generation);
        let record = newest.and_then(|(generation, record)| {
            self.generation.store(generation, Ordering::Relaxed);
            Record::parse(&Bytes::copy_from_slice(record), network).ok()
        });
        if record.is_none() {
            tracing::warn!(
                "{} is damaged: this device goes on under another number, and what holders have of it stays",
                self.dir.join("own").display()
            );
        }
        Ok(record)
    }

    /// Writes the own record; durable on return.
    pub(super) fn write_own(&self, record: &Record) -> Result<(), Failure> {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        let mut bytes = BytesMut::with_capacity(SLOT);
        bytes.put_u64(generation);
        bytes.put_u32(u32::try_from(record.bytes.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&record.bytes);
        let hash = Sha256::digest(&bytes);
        bytes.put_slice(&hash);
        let path = self.dir.join("own");
        let error = |source| FileError::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let at = if generation.is_multiple_of(2) { 0 } else { SLOT };
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file
                .write_all_at(&bytes, at as u64)
                .and_then(|()| file.sync_data())
                .map_err(error)?,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let mut both = vec![0; 2 * SLOT];
                if let Some(slot) = both.get_mut(at..at + bytes.len()) {
                    slot.copy_from_slice(&bytes);
                }
                self.write("own", &both)?;
            }
            Err(other) => return Err(error(other).into()),
        }
        self.generation.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// Entries that the own record does not say.
    pub(super) fn noted(&self) -> Result<Vec<Entry>, FileError> {
        let path = self.dir.join("noted");
        let Some(line) = read_optional(&path)? else {
            return Ok(Vec::new());
        };
        let opened = self.cipher.open(&line);
        let entries = opened.and_then(|opened| entries(&opened).ok());
        Ok(entries.unwrap_or_else(|| {
            tracing::warn!("{} is damaged: what was noted there is lost", path.display());
            Vec::new()
        }))
    }

    /// Notes entries that the own record does not say, in place of those noted before; durable on return.
    pub(super) fn note(&self, entries: &[Entry]) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        out.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        for entry in entries {
            entry.write(&mut out);
        }
        let out = Zeroizing::new(Vec::from(out));
        self.write("noted", self.cipher.seal(&out).as_bytes())
    }

    /// The own record says what was noted.
    pub(super) fn forget_noted(&self) {
        if let Err(error) = fs::remove_file(self.dir.join("noted")) {
            // Should it stay, the next start enters again what is there.
            tracing::debug!(%error, "what was noted stays on disk");
        }
    }

    /// Records of others that were seen.
    pub(super) fn seen(&self, network: &[u8; 32]) -> Result<Vec<Record>, FileError> {
        let path = self.dir.join("seen");
        let content = read_optional(&path)?.unwrap_or_default();
        let mut reader = Reader(&content);
        let mut seen = Vec::new();
        while !reader.0.is_empty() {
            let Some(record) = next_seen(&mut reader, network) else {
                tracing::warn!("{} is damaged; the rest of it is heard again", path.display());
                break;
            };
            seen.push(record);
        }
        Ok(seen)
    }

    /// Writes down what was seen of others.
    pub(super) fn write_seen<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        for record in records {
            out.put_u32(u32::try_from(record.bytes.len()).unwrap_or(u32::MAX));
            out.put_slice(&record.bytes);
        }
        self.write("seen", &out)
    }

    /// Runs that others replaced and that are not deleted yet.
    pub(super) fn dropped(&self) -> Result<Vec<Dropped>, FileError> {
        let content = read_optional(&self.dir.join("dropped"))?.unwrap_or_default();
        let lines = content
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        Ok(lines
            .filter_map(|line| Dropped::read(&mut Reader(&self.cipher.open(line)?)).ok())
            .collect())
    }

    /// Writes down all runs that others replaced and that are not deleted yet.
    pub(super) fn write_dropped(&self, all: &[Dropped]) -> Result<(), Failure> {
        let mut lines = String::new();
        for one in all {
            let mut opened = BytesMut::new();
            one.write(&mut opened);
            lines.push_str(&self.cipher.seal(&opened));
            lines.push('\n');
        }
        self.write("dropped", lines.as_bytes())
    }

    /// Writes a file of the directory, with the space kept back if there is no other.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        spare::with(&self.data, || {
            self.make()?;
            Ok(write_atomic(&self.dir.join(name), bytes, 0o600)?)
        })
    }

    /// Makes the directory, durably.
    fn make(&self) -> Result<(), FileError> {
        if self.dir.is_dir() {
            return Ok(());
        }
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.dir);
        let names = directory_of(&self.dir);
        let made = made
            .and_then(|()| sync_directory(names))
            .and_then(|()| sync_directory(&self.data));
        made.map_err(|source| FileError::Io {
            action: "make",
            path: self.dir.clone(),
            source,
        })
    }
}

/// Where a bucket has its files.
fn dir_of(data: &Path, public: &[u8; 32]) -> PathBuf {
    data.join("names").join(hex::encode(public))
}

/// Whether this device wrote something of a bucket.
pub(super) fn has_own(data: &Path, public: &[u8; 32]) -> bool {
    let dir = dir_of(data, public);
    dir.join("own").exists() || dir.join("noted").exists()
}

/// The record of a slot, if it was written whole.
fn slot(slot: &[u8]) -> Option<(u64, &[u8])> {
    let mut reader = Reader(slot);
    let generation = reader.u64().ok()?;
    let length = usize::try_from(reader.u32().ok()?).ok()?;
    let record = reader.take(length).ok()?;
    let hash: [u8; 32] = reader.array().ok()?;
    let written = slot.get(..12 + length)?;
    (hash == *Sha256::digest(written)).then_some((generation, record))
}

fn entries(opened: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut reader = Reader(opened);
    let entries = (0..reader.u32()?).map(|_| Entry::read(&mut reader));
    let entries = entries.collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(entries)
}

fn next_seen(reader: &mut Reader<'_>, network: &[u8; 32]) -> Option<Record> {
    let length = usize::try_from(reader.u32().ok()?).ok()?;
    let bytes = reader.take(length).ok().filter(|_| length <= MAX_RECORD)?;
    Record::parse(&Bytes::copy_from_slice(bytes), network).ok()
}

#[cfg(test)]
mod tests {
    use mutualstore_tree::codec::Fields;
    use mutualstore_tree::entry::{Name, Pointer, What};
    use mutualstore_tree::version::Version;

    use super::*;

    const NETWORK: [u8; 32] = [7; 32];

    fn record(key: &WriteKey, sequence: u64) -> Record {
        Record::head(key, &NETWORK, (5, sequence), b"said").unwrap()
    }

    fn entry(key: &str) -> Entry {
        Entry {
            name: Name::file(key).unwrap(),
            version: Version::ZERO,
            base: Version::ZERO,
            what: What::Deleted,
            fields: Fields::new(),
        }
    }

    #[test]
    fn last_record_comes_back_and_a_torn_write_leaves_the_one_before() {
        let data = tempfile::tempdir().unwrap();
        let key = WriteKey::random();
        let open = || Disk::new(data.path(), &key);
        assert_eq!(open().own(&NETWORK).unwrap(), None);
        let records: Vec<Record> = (1..=5).map(|sequence| record(&key, sequence)).collect();
        for pair in records.windows(2) {
            let disk = open();
            disk.own(&NETWORK).unwrap();
            disk.write_own(&pair[0]).unwrap();
            assert_eq!(open().own(&NETWORK).unwrap().as_ref(), Some(&pair[0]));
            disk.write_own(&pair[1]).unwrap();
            assert_eq!(open().own(&NETWORK).unwrap().as_ref(), Some(&pair[1]));
        }
        assert!(has_own(data.path(), &key.public()));
        let path = dir_of(data.path(), &key.public()).join("own");
        let whole = fs::read(&path).unwrap();
        let hit = |slot: usize| {
            let mut content = whole.clone();
            content[slot * SLOT + 100] ^= 1;
            fs::write(&path, content).unwrap();
            open().own(&NETWORK).unwrap()
        };
        let mut left = [hit(0), hit(1)].map(|record| record.unwrap().sequence);
        left.sort_unstable();
        assert_eq!(left, [4, 5]);
        fs::write(&path, vec![9; whole.len()]).unwrap();
        assert_eq!(open().own(&NETWORK).unwrap(), None);
        fs::write(&path, b"cut").unwrap();
        assert_eq!(open().own(&NETWORK).unwrap(), None);
        // It can be written over.
        let disk = open();
        disk.write_own(&records[0]).unwrap();
        disk.write_own(&records[1]).unwrap();
        assert_eq!(open().own(&NETWORK).unwrap().as_ref(), Some(&records[1]));
    }

    #[test]
    fn noted_entries_come_back_and_damage_costs_only_them() {
        let data = tempfile::tempdir().unwrap();
        let key = WriteKey::random();
        let disk = Disk::new(data.path(), &key);
        let entries: Vec<Entry> = (0..3000).map(|n| entry(&format!("{n:0900}"))).collect();
        disk.note(&entries).unwrap();
        assert_eq!(disk.noted().unwrap(), entries);
        let path = dir_of(data.path(), &key.public()).join("noted");
        let sealed = fs::read(&path).unwrap();
        assert!(!sealed.windows(20).any(|part| part == [b'0'; 20]));
        fs::write(&path, &sealed[..sealed.len() - 2]).unwrap();
        assert_eq!(disk.noted().unwrap(), []);
        disk.forget_noted();
        assert!(!path.exists());
    }

    #[test]
    fn dropped_runs_come_back() {
        let data = tempfile::tempdir().unwrap();
        let disk = Disk::new(data.path(), &WriteKey::random());
        assert_eq!(disk.dropped().unwrap(), []);
        let dropped = [3, 4].map(|byte| Dropped {
            pointer: Pointer {
                manifest: [byte; 32],
                key: Zeroizing::new([7; 32]),
            },
            since_ms: byte.into(),
        });
        disk.write_dropped(&dropped).unwrap();
        assert_eq!(disk.dropped().unwrap(), dropped);
    }

    #[test]
    fn seen_records_come_back_up_to_where_they_are_damaged() {
        let data = tempfile::tempdir().unwrap();
        let key = WriteKey::random();
        let disk = Disk::new(data.path(), &key);
        let records = [record(&key, 1), record(&key, 2)];
        disk.write_seen(records.iter()).unwrap();
        assert_eq!(disk.seen(&NETWORK).unwrap(), records);
        let path = dir_of(data.path(), &key.public()).join("seen");
        let mut content = fs::read(&path).unwrap();
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(&path, content).unwrap();
        assert_eq!(disk.seen(&NETWORK).unwrap(), records[..1]);
    }
}
