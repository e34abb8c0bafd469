//! A disk in memory that forgets, tears and flips what a real one may, and says how it was asked to fail.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::super::disk::DiskFile;
use super::super::tree::Tree;
use super::super::*;

/// What was asked of a file since it was last durable.
#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Truncate(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |offset: u64| usize::try_from(offset).unwrap();
        match self {
            Self::Write(offset, data) => {
                let end = place(*offset) + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[place(*offset)..end].copy_from_slice(data);
            }
            Self::Punch(offset, len) => {
                let end = place(offset + len).min(bytes.len());
                bytes[place(*offset).min(end)..end].fill(0);
            }
            Self::Truncate(len) => bytes.resize(place(*len), 0),
        }
    }

    /// A part of it that may reach the device.
    fn torn(&self, rng: &mut ChaCha8Rng) -> Self {
        match self {
            Self::Write(offset, data) => {
                let kept = below(rng, data.len() + 1);
                Self::Write(*offset, data[..kept].to_vec())
            }
            Self::Punch(..) | Self::Truncate(_) => self.clone(),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Default)]
struct Map {
    entries: BTreeMap<Key, Entry>,
    mark: Option<Mark>,
}

/// What goes wrong next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// The next sync fails.
    pub(super) sync: bool,
    /// The next write fails when some of it is written.
    pub(super) write: bool,
    /// The file system is full.
    pub(super) full: bool,
    pub(super) reads: Reads,
}

/// Which reads fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reads {
    #[default]
    None,
    /// The one after so many others.
    One(usize),
    All,
}

struct State {
    rng: ChaCha8Rng,
    files: BTreeMap<PathBuf, Contents>,
    /// Names that survive a loss of power.
    names: BTreeSet<PathBuf>,
    /// Files that a loss of power may bring back.
    removed: BTreeMap<PathBuf, Contents>,
    map: Map,
    /// Entries of it that were read in pages.
    paged: usize,
    durable_map: Map,
    /// Opening the index fails.
    garbled: bool,
    faults: Faults,
    /// Bytes that may still be written on a full disk.
    spare: u64,
}

impl State {
    fn name_all(&mut self) {
        self.names = self.files.keys().cloned().collect();
        self.removed.clear();
    }
}

/// See the module head.
#[derive(Clone)]
pub(super) struct MemoryDisk(Arc<Mutex<State>>);

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % u64::try_from(bound.max(1)).unwrap()).unwrap()
}

impl MemoryDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            files: BTreeMap::new(),
            names: BTreeSet::new(),
            removed: BTreeMap::new(),
            map: Map::default(),
            paged: 0,
            durable_map: Map::default(),
            garbled: false,
            faults: Faults::default(),
            spare: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn fail(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Entries of the index that were read in pages since this was asked last.
    pub(super) fn paged(&self) -> usize {
        std::mem::take(&mut self.state().paged)
    }

    /// Power is lost: of what was not made durable anything may be there, whole or in part.
    pub(super) fn lose_power(&self) {
        let mut state = self.state();
        let State {
            rng,
            files,
            names,
            removed,
            ..
        } = &mut *state;
        let mut left = BTreeMap::new();
        for (path, contents) in files.iter().chain(removed.iter()) {
            let sure = files.contains_key(path) && names.contains(path);
            if !sure && rng.next_u32().is_multiple_of(2) {
                continue;
            }
            let mut bytes = contents.durable.clone();
            for change in &contents.pending {
                match rng.next_u32() % 3 {
                    0 => {}
                    1 => change.apply(&mut bytes),
                    _ => change.torn(rng).apply(&mut bytes),
                }
            }
            let contents = Contents {
                now: bytes.clone(),
                durable: bytes,
                pending: Vec::new(),
            };
            left.insert(path.clone(), contents);
        }
        state.files = left;
        state.name_all();
        match state.rng.next_u32() % 4 {
            0 => state.garbled = true,
            1 => {}
            _ => state.map = state.durable_map.clone(),
        }
        state.faults = Faults::default();
        state.spare = 0;
    }

    /// All that was written reaches the device.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        for contents in state.files.values_mut() {
            contents.pending.clear();
            contents.durable.clone_from(&contents.now);
        }
        state.name_all();
    }

    /// Files other than empty ones.
    fn segments(&self) -> Vec<PathBuf> {
        let state = self.state();
        let segments = state.files.iter().filter(|(path, contents)| {
            path.extension().is_some_and(|extension| extension == "seg") && !contents.now.is_empty()
        });
        segments.map(|(path, _)| path.clone()).collect()
    }

    /// Changes a byte of some segment, another way each time; its number and the place. None: there is none.
    pub(super) fn flip(&self) -> Option<(u32, u64)> {
        self.damage(|bytes, at| bytes[at] = bytes[at].wrapping_add(1))
    }

    /// Cuts some segment off somewhere.
    pub(super) fn cut(&self) -> Option<(u32, u64)> {
        self.damage(Vec::truncate)
    }

    fn damage(&self, how: impl Fn(&mut Vec<u8>, usize)) -> Option<(u32, u64)> {
        self.settle();
        let segments = self.segments();
        let mut state = self.state();
        let chosen = below(&mut state.rng, segments.len());
        let path = segments.get(chosen)?;
        let len = state.files[path].now.len();
        let at = below(&mut state.rng, len);
        let contents = state.files.get_mut(path).unwrap();
        how(&mut contents.now, at);
        contents.durable.clone_from(&contents.now);
        let id = segment::parse_name(path.file_name()?.to_str()?)?.0;
        Some((id, u64::try_from(at).unwrap()))
    }

    /// The index is lost, or damaged so that opening it fails.
    pub(super) fn lose_index(&self, garbled: bool) {
        let mut state = self.state();
        state.garbled = garbled;
        state.map = Map::default();
    }

    pub(super) fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    uncached: bool,
}

impl MemoryFile {
    fn with<T>(&self, f: impl FnOnce(&mut State, &mut Contents) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        let mut contents = state.files.remove(&self.path).ok_or(io::ErrorKind::NotFound)?;
        let outcome = f(&mut state, &mut contents);
        state.files.insert(self.path.clone(), contents);
        outcome
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|_, contents| {
            change.apply(&mut contents.now);
            contents.pending.push(change);
            Ok(())
        })
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let fresh = self.state().files.insert(path.to_owned(), Contents::default());
        assert!(fresh.is_none(), "created twice");
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if !self.state().files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            path: path.to_owned(),
            uncached: false,
        }))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            path: path.to_owned(),
            uncached: true,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        let inside = state.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_owned()).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if path.ends_with("reserve") {
            state.spare = 64 << 10;
            return Ok(());
        }
        let contents = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if state.names.contains(path) {
            state.removed.insert(path.to_owned(), contents);
        }
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.state().name_all();
        Ok(())
    }

    fn reserve(&self, _: &Path, _: u64) -> io::Result<()> {
        let mut state = self.state();
        state.spare = 0;
        if state.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn tree(&self, _: &Path) -> io::Result<Box<dyn Tree>> {
        if self.state().garbled {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Box::new(self.clone()))
    }

    fn remove_tree(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.garbled = false;
        state.map = Map::default();
        state.durable_map = Map::default();
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, contents| {
            let next = match state.faults.reads {
                Reads::One(0) | Reads::None => Reads::None,
                Reads::One(others) => Reads::One(others - 1),
                Reads::All => Reads::All,
            };
            let now = std::mem::replace(&mut state.faults.reads, next);
            if matches!(now, Reads::One(0) | Reads::All) {
                return Err(io::Error::other("the device could not read"));
            }
            let bytes = if self.uncached {
                &contents.durable
            } else {
                &contents.now
            };
            let start = usize::try_from(offset).unwrap().min(bytes.len());
            let read = buf.len().min(bytes.len() - start);
            buf[..read].copy_from_slice(&bytes[start..start + read]);
            Ok(read)
        })
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let data = parts.concat();
        let (mut written, mut failure) = (data.len(), None);
        {
            let mut state = self.disk.state();
            let grows = state
                .files
                .get(&self.path)
                .is_none_or(|file| offset + data.len() as u64 > file.now.len() as u64);
            if std::mem::take(&mut state.faults.write) {
                failure = Some(io::Error::other("the device could not write"));
            } else if state.faults.full && grows {
                match state.spare.checked_sub(data.len() as u64) {
                    Some(spare) => state.spare = spare,
                    None => failure = Some(io::ErrorKind::StorageFull.into()),
                }
            }
            if failure.is_some() {
                written = below(&mut state.rng, data.len() + 1);
            }
        }
        self.change(Change::Write(offset, data[..written].to_vec()))?;
        failure.map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, contents| {
            let changes = std::mem::take(&mut contents.pending);
            if !std::mem::take(&mut state.faults.sync) {
                contents.durable.clone_from(&contents.now);
                return Ok(());
            }
            // What was new may be gone for good, although reads still show it. (That an old place was written
            // again and lost is left out: it would take two faults to matter.)
            let end = contents.durable.len() as u64;
            for change in changes {
                let old = matches!(change, Change::Write(offset, _) if offset < end);
                if old || state.rng.next_u32().is_multiple_of(2) {
                    change.apply(&mut contents.durable);
                } else {
                    change.torn(&mut state.rng).apply(&mut contents.durable);
                }
            }
            Err(io::Error::other("the device said no"))
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Punch(offset, len))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Truncate(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, contents| Ok(contents.now.len() as u64))
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}

impl Tree for MemoryDisk {
    fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        Ok(self.state().map.entries.get(key).cloned())
    }

    fn insert(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        self.state().map.entries.insert(*key, entry.clone());
        Ok(())
    }

    fn remove(&self, key: &Key) -> io::Result<()> {
        self.state().map.entries.remove(key);
        Ok(())
    }

    fn page(&self, range: (Bound<Key>, Bound<Key>), limit: usize) -> io::Result<Vec<(Key, Entry)>> {
        let mut state = self.state();
        let entries = state.map.entries.range(range).take(limit);
        let page: Vec<_> = entries.map(|(key, entry)| (*key, entry.clone())).collect();
        state.paged += page.len();
        Ok(page)
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        Ok(self.state().map.mark)
    }

    fn set_mark(&self, mark: Mark) -> io::Result<()> {
        let mut state = self.state();
        state.map.mark = Some(mark);
        state.durable_map = state.map.clone();
        Ok(())
    }
}
