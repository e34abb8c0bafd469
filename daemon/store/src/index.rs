//! Which shard lies where: a map on disk that a rescan of the segments rebuilds at any time.
//!
//! Its files are believed only after a clean stop, told by a mark that is the same here and in the last
//! segment's footer: the [`tree`](super::tree) alone promises too little.
//! [`entry`](super::entry) has the format of what is in it.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Key;
use super::disk::Disk;
use super::entry::{Entry, Mark};
use super::tree::Tree;

/// Keys handed out at a time by a walk.
const PAGE_KEYS: usize = 256;

/// The index. Every write is visible to every read that begins after it returned.
pub(super) struct Index(Box<dyn Tree>);

impl Index {
    /// An empty index in place of whatever lies in `dir`.
    pub(super) fn create(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        disk.remove_tree(dir)?;
        disk.tree(dir).map(Self)
    }

    /// The index in `dir`, if it carries the mark of a clean stop after the footer `sequence` and `check`
    /// accepts all its entries.
    pub(super) fn open_marked(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        mut check: impl FnMut(&Key, &Entry) -> bool,
    ) -> Option<Self> {
        let attempt = catch_unwind(AssertUnwindSafe(|| -> io::Result<Option<Self>> {
            let index = Self(disk.tree(dir)?);
            let Some(mark) = index.0.mark()?.filter(|mark| mark.sequence == sequence) else {
                return Ok(None);
            };
            let (mut shards, mut sound) = (0, true);
            index.walk(|key, entry| {
                shards += 1;
                sound &= check(&key, &entry);
            })?;
            Ok((sound && shards == mark.shards).then_some(index))
        }));
        attempt.ok()?.ok()?
    }

    /// Durably notes that nothing will change until `mark` stands in the last footer too.
    pub(super) fn set_mark(&self, mark: Mark) -> io::Result<()> {
        self.0.set_mark(mark)
    }

    pub(super) fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        self.0.get(key)
    }

    pub(super) fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        self.0.insert(key, entry)
    }

    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        self.0.remove(key)
    }

    /// All shards of a stripe, by index, and its tombstone at the end.
    pub(super) fn stripe(&self, stripe: &[u8; 32]) -> io::Result<Vec<(Key, Entry)>> {
        let at = |index| Key {
            stripe: *stripe,
            index,
        };
        // The end is given, for without it each question about one stripe would read a page of others.
        let range = (Bound::Included(at(0)), Bound::Included(at(u8::MAX)));
        self.0.page(range, usize::MAX)
    }

    /// The first `limit` entries behind a key.
    pub(super) fn after(&self, key: Option<Key>, limit: usize) -> io::Result<Vec<(Key, Entry)>> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.page((from, Bound::Unbounded), limit)
    }

    /// All entries in the order of their keys, without holding a lock while `visit` runs.
    pub(super) fn walk(&self, mut visit: impl FnMut(Key, Entry)) -> io::Result<()> {
        let mut page = self.after(None, PAGE_KEYS)?;
        while let Some(&(last, _)) = page.last() {
            page.drain(..).for_each(|(key, entry)| visit(key, entry));
            page = self.after(Some(last), PAGE_KEYS)?;
        }
        Ok(())
    }
}
