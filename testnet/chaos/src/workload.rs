//! The clients: they put, read, delete and check all the time, through any daemon that answers, and believe
//! nothing but acknowledgements.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::{Client, ClientError, PutOptions};
use mutualstore_contract::exit;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::cluster::Cluster;
use super::journal::{AckedFile, Fate, PutJournal};
use super::names::{Names, Outcome};
use super::tolerance::Tolerance;
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::stream::{self, is_wrong};

/// What one client keeps between two operations, so that the faults get their share of the processor.
const PAUSE: Duration = Duration::from_millis(15);
/// Where shards go.
const PLACEMENTS: [&str; 4] = ["successors", "random", "copysets", "buddies"];
/// Files that are kept; above it deletions outweigh puts.
const KEPT: usize = 120;
/// What was deleted may be read from a cache for 5 s.
pub(super) const REMEMBERED: Duration = Duration::from_secs(10);

/// How often an operation was tried, and how it went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    /// Times it did what it should.
    pub done: u64,
    /// Times it was refused or broken off.
    pub failed: u64,
}

impl Count {
    fn note(&mut self, done: bool) {
        self.done += u64::from(done);
        self.failed += u64::from(!done);
    }
}

/// What the clients did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Operations {
    /// Files put; done means acknowledged.
    pub puts: Count,
    /// Of these, those acknowledged with fewer shards than the code has, with a warning.
    pub puts_with_warning: u64,
    /// Bytes of the files put.
    pub put_bytes: u64,
    /// Files read and compared with what was put.
    pub gets: Count,
    /// Files deleted.
    pub deletes: Count,
    /// Attempts to read what was deleted; done means not found.
    pub checks: Count,
    /// Names written through a device of the account: put, deleted, moved.
    pub named_writes: Count,
    /// Versions of names read and compared with what was put.
    pub named_reads: Count,
    /// What must never happen.
    pub violations: Vec<String>,
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) journal: &'a PutJournal,
    pub(super) tolerance: &'a Tolerance,
    pub(super) names: Names,
    pub(super) over: AtomicBool,
    operations: Mutex<Operations>,
}

impl<'a> Workload<'a> {
    pub(super) fn new(cluster: &'a Cluster, journal: &'a PutJournal, tolerance: &'a Tolerance) -> Self {
        Self {
            cluster,
            journal,
            tolerance,
            names: Names::default(),
            over: AtomicBool::new(false),
            operations: Mutex::default(),
        }
    }

    /// One client; ends when the workload is over.
    pub(super) fn run(&self, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        while !self.over.load(Ordering::Acquire) {
            let stored = self.journal.count(|file| file.fate == Fate::Stored);
            match rng.random_range(0..125) {
                0..40 if stored < KEPT => self.put(&mut rng),
                0..20 | 40..48 => self.delete(&mut rng),
                48..56 => self.check_deleted(&mut rng),
                100.. => self.name(&mut rng),
                _ => self.get(&mut rng),
            }
            thread::sleep(PAUSE);
        }
    }

    pub(super) fn operations(&self) -> Operations {
        self.operations.lock().clone()
    }

    pub(super) fn violation(&self, what: String) {
        self.operations.lock().violations.push(what);
    }

    fn name(&self, rng: &mut ChaCha8Rng) {
        let outcome = self.names.operate(self.cluster, rng);
        let mut operations = self.operations.lock();
        match outcome {
            Some(Outcome::Write(done)) => operations.named_writes.note(done),
            Some(Outcome::Read(done)) => operations.named_reads.note(done),
            Some(Outcome::Wrong(what)) => operations.violations.push(what),
            None => {}
        }
    }

    fn put(&self, rng: &mut ChaCha8Rng) {
        let Some((owner, client)) = self.cluster.serving().choose(rng).cloned() else {
            return;
        };
        let (noise, size) = (rng.random(), size(rng));
        let options = PutOptions {
            code: self.tolerance.codes.choose(rng).map(|code| (*code).to_owned()),
            placement: PLACEMENTS.choose(rng).map(|policy| (*policy).to_owned()),
            ..PutOptions::default()
        };
        let outcome = stream::put(&client, noise, size, &options);
        let mut operations = self.operations.lock();
        operations.puts.note(outcome.is_ok());
        let Ok(report) = outcome else { return };
        operations.put_bytes += size;
        operations.puts_with_warning += u64::from(report.warning.is_some());
        drop(operations);
        self.journal.acknowledged(AckedFile {
            noise,
            size,
            link: report.link,
            fate: Fate::Stored,
            owner,
        });
    }

    /// Reads one of such files through any daemon. Wrong bytes are a violation, and so is a deleted file.
    fn read_any(
        &self,
        rng: &mut ChaCha8Rng,
        wanted: impl Fn(&AckedFile) -> bool,
        count: fn(&mut Operations) -> &mut Count,
    ) {
        let Some(file) = self.journal.any(rng, wanted) else {
            return;
        };
        let Some((number, client)) = self.cluster.serving().choose(rng).cloned() else {
            return;
        };
        let (noise, gone) = (file.noise, matches!(file.fate, Fate::Deleted(_)));
        let done = match read(&client, &file) {
            Ok(()) if gone => {
                let what = format!("peer {number} served file {noise}, which was deleted");
                return self.violation(what);
            }
            Err(error) if is_wrong(&error) => {
                let what = format!("peer {number} served wrong bytes of file {noise}: {error}");
                return self.violation(what);
            }
            Ok(()) => true,
            Err(error) => gone && error.exit_code() == exit::NOT_FOUND,
        };
        count(&mut self.operations.lock()).note(done);
    }

    fn get(&self, rng: &mut ChaCha8Rng) {
        let stored = |file: &AckedFile| file.fate == Fate::Stored;
        self.read_any(rng, stored, |operations| &mut operations.gets);
    }

    fn check_deleted(&self, rng: &mut ChaCha8Rng) {
        let long_gone =
            |file: &AckedFile| matches!(file.fate, Fate::Deleted(at) if at.elapsed() > REMEMBERED);
        self.read_any(rng, long_gone, |operations| &mut operations.checks);
    }

    fn delete(&self, rng: &mut ChaCha8Rng) {
        let serving: BTreeSet<usize> = self.cluster.serving().iter().map(|(number, _)| *number).collect();
        let unwanted =
            |file: &AckedFile| !matches!(file.fate, Fate::Deleted(_)) && serving.contains(&file.owner);
        if let Some(file) = self.journal.any(rng, unwanted) {
            let done = self.remove(&file).is_ok();
            self.operations.lock().deletes.note(done);
        }
    }

    /// Deletes a file through its owner.
    pub(super) fn remove(&self, file: &AckedFile) -> Result<(), String> {
        let client = self.cluster.client(file.owner).ok_or("its daemon is down")?;
        self.journal.set(file, Fate::Deleting);
        match client.delete(&file.link) {
            // An earlier attempt got through without an answer.
            Err(error) if error.exit_code() != exit::NOT_FOUND || file.fate != Fate::Deleting => {
                return Err(error.to_string());
            }
            Ok(_) | Err(_) => self.journal.set(file, Fate::Deleted(Instant::now())),
        }
        Ok(())
    }

    /// Deletions whose outcome is not known are asked for again, where the owner is still there. What never
    /// goes is a violation.
    pub(super) fn finish_deletions(&self) -> Result<(), FleetError> {
        let mut last = String::new();
        let finished = self.cluster.in_time(|| {
            let begun = self.journal.all(|file| file.fate == Fate::Deleting);
            let mut left = begun
                .iter()
                .filter(|file| self.cluster.client(file.owner).is_some());
            let removed = left.try_for_each(|file| {
                let AckedFile {
                    noise, size, owner, ..
                } = file;
                let removed = self.remove(file);
                removed.map_err(|error| format!("file {noise} ({size} bytes) through peer {owner}: {error}"))
            });
            removed.map_err(|error| last = error).ok()
        })?;
        if finished.is_none() {
            self.violation(format!("a deletion cannot be finished: {last}"));
        }
        Ok(())
    }
}

/// From nothing to a few blocks; half of them small enough to lie in their manifests.
fn size(rng: &mut ChaCha8Rng) -> u64 {
    let most = match rng.random_range(0..10) {
        0..5 => 16 << 10,
        5..9 => 512 << 10,
        _ => 9 << 20,
    };
    rng.random_range(0..=most)
}

/// Reads a file and compares it with what was put.
pub(super) fn read(client: &Client, file: &AckedFile) -> Result<(), ClientError> {
    stream::get(client, &file.link, file.noise, file.size)
}
