//! A disk that fails when told to.

use std::ffi::OsString;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::super::disk::DiskFile;
use super::super::tree::Tree;
use super::super::*;
use super::{HEADER, LATER, MIB, assert_held, config, key, kill, open, payload, put, segment_files};

/// What goes wrong.
#[derive(Default)]
struct Faults {
    /// Every sync fails, and what was written since the last good one never reached the device.
    fail_syncs: AtomicBool,
    /// The next sync waits a moment for one beside it, and that one is told of a failure, as by a system that
    /// tells but once.
    pair: Mutex<Pair>,
    met: Condvar,
    /// Writes beyond the file system's size fail; 0 is no bound.
    size: AtomicU64,
    written: AtomicU64,
    reserved: AtomicU64,
}

#[derive(Default, PartialEq)]
enum Pair {
    #[default]
    Idle,
    Wanted,
    Waiting,
    Met,
}

impl Faults {
    fn meet(&self) -> io::Result<()> {
        let mut pair = self.pair.lock().unwrap();
        match *pair {
            Pair::Wanted => {
                *pair = Pair::Waiting;
                let alone = |pair: &mut Pair| *pair == Pair::Waiting;
                let (mut pair, _) = self
                    .met
                    .wait_timeout_while(pair, Duration::from_millis(300), alone)
                    .unwrap();
                if *pair == Pair::Waiting {
                    *pair = Pair::Wanted;
                }
                Ok(())
            }
            Pair::Waiting => {
                *pair = Pair::Met;
                self.met.notify_all();
                Err(io::Error::other("the device said no"))
            }
            Pair::Idle | Pair::Met => Ok(()),
        }
    }
}

struct FaultyDisk(Arc<Faults>);

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            file,
            faults: Arc::clone(&self.0),
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.create(path).map(|file| self.wrap(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.open(path).map(|file| self.wrap(file))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.open_uncached(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        OsDisk.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.ends_with("reserve") {
            self.0
                .written
                .fetch_sub(self.0.reserved.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.0.written.fetch_add(bytes, Ordering::Relaxed);
        self.0.reserved.store(bytes, Ordering::Relaxed);
        OsDisk.reserve(path, bytes)
    }

    fn tree(&self, dir: &Path) -> io::Result<Box<dyn Tree>> {
        OsDisk.tree(dir)
    }

    fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        OsDisk.remove_tree(dir)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let size = self.faults.size.load(Ordering::Relaxed);
        if size > 0 && self.faults.written.load(Ordering::Relaxed) + bytes as u64 > size {
            self.file.write_at(&parts[..1], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.faults.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.file.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.faults.fail_syncs.load(Ordering::Relaxed) {
            return Err(io::Error::other("the device said no"));
        }
        self.faults.meet()?;
        self.file.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}

fn faulty(dir: &Path) -> (Store, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk(Arc::clone(&faults)));
    (Store::open_on(&disk, dir, config(64 * MIB)).unwrap().0, faults)
}

#[test]
fn a_failed_sync_fails_what_waited_for_it_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (store, faults) = faulty(dir.path());
    (0..4).for_each(|n| put(&store, n, 3_000));
    let before = store.used();
    faults.fail_syncs.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for n in 4..12 {
            let store = &store;
            scope.spawn(move || {
                let outcome = store.put(key(n), LATER, [0; 16], HEADER, &payload(n, 3_000));
                assert!(matches!(outcome, Err(PutError::Sync(_))));
            });
        }
    });
    assert!(matches!(store.remove(&[key(0)]), Err(UpdateError::Sync(_))));
    faults.fail_syncs.store(false, Ordering::Relaxed);
    assert_eq!(store.used().used(), before.used());
    (4..12).for_each(|n| assert_eq!(store.get(key(n)).unwrap(), None));
    (0..4).for_each(|n| assert_held(&store, n, 3_000));
    put(&store, 4, 3_000);
    let copy = kill(dir.path());
    let (killed, report) = open(copy.path());
    assert_eq!((report.shards, report.damaged.len()), (5, 0));
    (0..5).for_each(|n| assert_held(&killed, n, 3_000));
    let suspect = segment_files(dir.path()).remove(0);
    store.remove(&[0, 1, 2, 3].map(key)).unwrap();
    assert!(!suspect.exists(), "nothing in it lives");
}

#[test]
fn nobody_believes_a_sync_beside_one_that_failed() {
    let dir = TempDir::new().unwrap();
    let (store, faults) = faulty(dir.path());
    (0..4).for_each(|n| put(&store, n, 3_000));
    let mut met = 0;
    for round in 1..200 {
        if met == 5 {
            return;
        }
        *faults.pair.lock().unwrap() = Pair::Wanted;
        let outcomes = std::thread::scope(|scope| {
            let put = |n: u32| {
                store
                    .put(key(n), LATER, [0; 16], HEADER, &payload(n, 1_100_000))
                    .is_ok()
            };
            [0, 1]
                .map(|n| scope.spawn(move || put(round * 10 + n)))
                .map(|put| put.join().unwrap())
        });
        let pair = std::mem::take(&mut *faults.pair.lock().unwrap());
        // Else one sync was for both.
        let together = pair == Pair::Met;
        assert_eq!(outcomes, [!together; 2]);
        met += u32::from(together);
        (0..4).for_each(|n| assert_held(&store, n, 3_000));
        store.remove(&[0, 1].map(|n| key(round * 10 + n))).unwrap();
    }
    panic!("no two syncs were under way together");
}

#[test]
fn after_a_failed_sync_the_device_is_asked_what_it_has() {
    let dir = TempDir::new().unwrap();
    let (store, faults) = faulty(dir.path());
    (0..4).for_each(|n| put(&store, n, 3_000));
    let entry = store.index.get(&key(2)).unwrap().unwrap();
    store
        .log
        .file(entry.segment)
        .unwrap()
        .write_at(&[&[0xee; 64]], entry.offset + 1_024)
        .unwrap();
    faults.fail_syncs.store(true, Ordering::Relaxed);
    assert!(
        matches!(store.commit(&[key(0)]), Ok(1)),
        "committed already: nothing to sync"
    );
    assert!(matches!(
        store.put(key(9), LATER, [0; 16], b"", b""),
        Err(PutError::Sync(_))
    ));
    assert_eq!(
        store.get(key(2)).unwrap(),
        None,
        "its record is not what was acknowledged"
    );
    assert_eq!(store.used().shards, 3);
    for n in [0, 1, 3] {
        assert_held(&store, n, 3_000);
    }
}

#[test]
fn a_full_file_system_refuses_puts_but_deletes() {
    let dir = TempDir::new().unwrap();
    let (store, faults) = faulty(dir.path());
    (0..4).for_each(|n| put(&store, n, 3_000));
    store
        .put(key(4), LATER, [0; 16], HEADER, &payload(4, 3_000))
        .unwrap();
    faults
        .size
        .store(faults.written.load(Ordering::Relaxed), Ordering::Relaxed);
    let outcome = store.put(key(5), LATER, [0; 16], HEADER, &payload(5, 3_000));
    assert!(matches!(outcome, Err(PutError::NoSpace { free: 0 })));
    assert!(matches!(store.renew(&[key(4)], 9_000), Err(UpdateError::NoSpace)));
    assert!(dir.path().join("reserve").exists());
    assert!(store.remove(&[key(0)]).unwrap() > 3_000);
    assert_eq!(store.commit(&[key(4)]).unwrap(), 1);
    (1..5).for_each(|n| assert_held(&store, n, 3_000));
    let copy = kill(dir.path());
    let (killed, report) = open(copy.path());
    assert_eq!((report.shards, report.skipped_bytes), (4, 0));
    (1..5).for_each(|n| assert_held(&killed, n, 3_000));
}
