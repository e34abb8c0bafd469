//! What the network is held to: every acknowledged file whole, every deleted one gone, every shard accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::ChaosError;
use super::cast::Cast;
use super::journal::{Fate, Journal, Kept};
use super::traffic::{Traffic, is_wrong, read};
use crate::client::{Client, FileStat, Health, NOT_FOUND, UNRECOVERABLE};

/// Questions asked at the same time.
const WIDTH: usize = 4;
/// What was deleted may be read from a cache for 5 s.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Who looks.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    pub(super) cast: &'a Cast,
    pub(super) journal: &'a Journal,
    /// Links that daemons list and no client was told: puts that broke off and were finished by a journal.
    unclaimed: Mutex<BTreeSet<String>>,
}

/// Shards that should be there, and those that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    /// Per daemon, by what `stat` of all files says.
    pub(super) expected: BTreeMap<usize, u64>,
    /// Per daemon, by what its `status` says.
    pub(super) held: BTreeMap<usize, u64>,
    /// Tombstones and locators, of all daemons.
    pub(super) small_records: u64,
    /// Bytes of all shards, by what each `status` says.
    pub(super) used_bytes: u64,
    /// Bytes that the daemons' shard stores take on disk.
    pub(super) disk_bytes: u64,
}

impl<'a> Audit<'a> {
    pub(super) fn new(cast: &'a Cast, journal: &'a Journal) -> Self {
        Self {
            cast,
            journal,
            unclaimed: Mutex::default(),
        }
    }

    /// Waits until every file that was acknowledged before now has all its shards on live peers.
    pub(super) fn wait_safe(&self) -> Result<(), ChaosError> {
        let mut left = self.journal.all(|file| file.fate == Fate::Stored);
        let mut worst = String::new();
        let safe = self.cast.until("every file to be safe", || {
            left.retain(|file| self.journal.fate(file) == Some(Fate::Stored));
            let seen = self.ask(&left, health);
            left = seen
                .into_iter()
                .filter_map(|(file, unsafe_because)| {
                    worst = unsafe_because?;
                    Some(file)
                })
                .collect();
            left.is_empty().then_some(())
        });
        safe.map_err(|error| {
            let ChaosError::Late { what, waited } = error else {
                return error;
            };
            let what = format!("{what} ({} are not: {worst})", left.len());
            ChaosError::Late { what, waited }
        })
    }

    /// Takes note of files that a daemon lists and nobody was told of, before it is gone.
    pub(super) fn claim(&self, number: usize) {
        let Some(files) = self.cast.client(number).and_then(|client| client.list(None).ok()) else {
            return;
        };
        let known = self.journal.all(|_| true);
        let known: BTreeSet<&str> = known.iter().map(|file| file.link.as_str()).collect();
        let found = files.body.files.into_iter().map(|file| file.link);
        self.unclaimed()
            .extend(found.filter(|link| !known.contains(link.as_str())));
    }

    /// Reads every file there should be through two daemons, and tries to read every file there should not be.
    pub(super) fn read_all(&self, traffic: &Traffic<'_>) {
        for _ in 0..2 {
            let all = self.journal.all(|_| true);
            for (file, problem) in self.ask(&all, problem) {
                if let Some(problem) = problem {
                    traffic.violation(format!("file {} ({} bytes): {problem}", file.noise, file.size));
                }
            }
        }
    }

    /// Compares the shards that daemons hold with those that files have; what is left over may still go.
    pub(super) fn stock(&self) -> Option<Stock> {
        let mut links: BTreeSet<String> = self.unclaimed().clone();
        for number in self.cast.members() {
            self.claim(number);
        }
        links.extend(self.unclaimed().iter().cloned());
        for file in self.journal.all(|_| true) {
            match file.fate {
                Fate::Stored | Fate::Doomed => links.insert(file.link),
                Fate::Deleted(_) => links.remove(&file.link),
            };
        }
        let links: Vec<String> = links.into_iter().collect();
        let mut stock = Stock::default();
        for (_, stat) in self.ask(&links, |client, link| stat(client, link)) {
            for peer in stat? {
                *stock.expected.entry(self.cast.number_of(&peer)?).or_default() += 1;
            }
        }
        for (number, client) in self.cast.serving() {
            let status = client.status().ok()?.body;
            stock.used_bytes += status.used_bytes;
            let counted = client.metrics().ok()?;
            stock.small_records += counted.get("tombstones").ok()? + counted.get("locators").ok()?;
            stock.disk_bytes += on_disk(&self.cast.data_dir(number)?.join("shards"));
            if status.shards > 0 {
                stock.held.insert(number, status.shards);
            }
        }
        Some(stock)
    }

    /// Puts a question about each item to the daemons in turn, a few at a time.
    fn ask<T: Clone + Sync + Send, U: Send>(
        &self,
        items: &[T],
        question: impl Fn(&Client, &T) -> U + Sync,
    ) -> Vec<(T, U)> {
        let serving = self.cast.serving();
        let question = &question;
        let work = |start: usize| {
            let mine = items.iter().enumerate().skip(start).step_by(WIDTH);
            mine.filter_map(|(place, item)| {
                let (_, client) = serving.get((place + start) % serving.len().max(1))?;
                Some((item.clone(), question(client, item)))
            })
            .collect::<Vec<_>>()
        };
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..WIDTH).map(|start| scope.spawn(move || work(start))).collect();
            let answers = threads.into_iter().map(thread::ScopedJoinHandle::join);
            answers
                .flat_map(|answer| answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    fn unclaimed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a file is not safe, if it is not.
fn health(client: &Client, file: &Kept) -> Option<String> {
    match client.stat(&file.link) {
        Ok(stat) if stat.body.health == Health::Safe => None,
        Ok(stat) => Some(format!("file {} is {}", file.noise, stat.body.health.as_str())),
        Err(error) => Some(format!("file {}: {error}", file.noise)),
    }
}

/// What is wrong with a file, if anything is.
fn problem(client: &Client, file: &Kept) -> Option<String> {
    let outcome = read(client, file);
    match (file.fate, outcome) {
        (_, Err(error)) if is_wrong(&error) => Some(format!("wrong bytes: {error}")),
        (Fate::Deleted(_), Err(error)) if error.exit_code() == NOT_FOUND => None,
        (Fate::Stored, Ok(())) | (Fate::Doomed, _) => None,
        (Fate::Deleted(at), Ok(())) if at.elapsed() < REMEMBERED => None,
        (Fate::Deleted(_), Ok(())) => Some("was deleted and can be read".to_owned()),
        (Fate::Stored, Err(error)) => Some(format!("is lost: {error}")),
        (Fate::Deleted(_), Err(error)) => Some(format!("was deleted and is not gone: {error}")),
    }
}

/// The holders of a file's shards, one entry each; `None` when that cannot be said now.
fn stat(client: &Client, link: &str) -> Option<Vec<String>> {
    match client.stat(link) {
        Ok(reply) => Some(holders(&reply.body)),
        // Deleted, or a deletion that nobody can finish was begun.
        Err(error) if [NOT_FOUND, UNRECOVERABLE].contains(&error.exit_code()) => Some(Vec::new()),
        Err(_) => None,
    }
}

fn holders(stat: &FileStat) -> Vec<String> {
    let shards = stat.stripes.iter().flat_map(|stripe| &stripe.shards);
    shards.filter_map(|shard| shard.peer.clone()).collect()
}

/// Bytes allocated to all files below a directory; what vanishes meanwhile takes none.
fn on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => on_disk(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
