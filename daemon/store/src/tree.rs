//! The ordered map on disk beneath the index: sled, which is named nowhere else.
//!
//! sled's `flush` alone does not survive a loss of power, and it may panic on a damaged file: so what it
//! holds must be possible to rebuild, and a panic here is an error like others to the index.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Key;
use super::entry::{Entry, Mark};
use super::record::Fields;

/// Bounds sled's page cache, in bytes; its default is 1 GiB.
const CACHE_BYTES: u64 = 8 << 20;
/// How long to wait for an index that this process has just let go.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const MARK: &[u8] = b"mark";

/// An ordered map from keys to entries, and one mark. Only [`Tree::set_mark`] makes anything durable.
pub(super) trait Tree: Send + Sync {
    fn get(&self, key: &Key) -> io::Result<Option<Entry>>;
    fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()>;
    fn remove(&self, key: &Key) -> io::Result<()>;
    /// The first `limit` entries between two keys.
    fn page(&self, range: (Bound<Key>, Bound<Key>), limit: usize) -> io::Result<Vec<(Key, Entry)>>;
    /// The mark set last.
    fn mark(&self) -> io::Result<Option<Mark>>;
    /// Makes all entries and then the mark durable.
    fn set_mark(&self, mark: Mark) -> io::Result<()>;
}

/// A sled database in a directory of its own.
pub(super) struct SledTree {
    dir: PathBuf,
    db: sled::Db,
    shards: sled::Tree,
    marks: sled::Tree,
}

impl SledTree {
    /// The database in `dir`, a new one if there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        await_release(&dir.join("db"));
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let (shards, marks) = (db.open_tree("shards")?, db.open_tree("marks")?);
        Ok(Self {
            dir: dir.to_owned(),
            db,
            shards,
            marks,
        })
    }
}

impl Tree for SledTree {
    fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        let entry = self.shards.get(key.to_bytes())?;
        entry.map(|bytes| Entry::decode(&bytes)).transpose()
    }

    fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        self.shards.insert(key.to_bytes(), entry.encode())?;
        Ok(())
    }

    fn remove(&self, key: &Key) -> io::Result<()> {
        self.shards.remove(key.to_bytes())?;
        Ok(())
    }

    fn page(&self, (from, to): (Bound<Key>, Bound<Key>), limit: usize) -> io::Result<Vec<(Key, Entry)>> {
        let range = (from.map(Key::to_bytes), to.map(Key::to_bytes));
        let items = self.shards.range(range).take(limit);
        items.map(parse).collect()
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        Ok(self.marks.get(MARK)?.and_then(|bytes| {
            let mut fields = Fields(&bytes);
            Some(Mark {
                sequence: fields.u64()?,
                shards: fields.u64()?,
            })
        }))
    }

    fn set_mark(&self, mark: Mark) -> io::Result<()> {
        let bytes = [mark.sequence.to_be_bytes(), mark.shards.to_be_bytes()].concat();
        self.marks.insert(MARK, bytes)?;
        self.db.flush()?;
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_file() {
                File::open(path)?.sync_all()?;
            }
        }
        File::open(&self.dir)?.sync_all()
    }
}

/// sled's threads may hold its lock a little longer than the `Db` lived, and its `open` does not wait. Nobody
/// else can hold it: the store's own lock is taken.
fn await_release(db: &Path) {
    let Ok(file) = File::open(db) else { return };
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn parse(item: sled::Result<(sled::IVec, sled::IVec)>) -> io::Result<(Key, Entry)> {
    let (key, entry) = item?;
    let key = Key::from_bytes(&key).ok_or(io::ErrorKind::InvalidData)?;
    Ok((key, Entry::decode(&entry)?))
}
