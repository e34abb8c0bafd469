//! What the network is held to: every acknowledged file whole, every deleted one gone, every shard accounted
//! for.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mutualstore_client::{Client, GetOptions};
use mutualstore_contract::exit;
use mutualstore_contract::reply::Health;

use super::cluster::late;
use super::inside::{Estate, Inside, NamedFiles, ShardName};
use super::journal::{AckedFile, Fate};
use super::workload::{REMEMBERED, Workload, read};
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::parallel::each;
use mutualstore_fleet::stream::is_wrong;

/// What a store may take on disk beside its shards: a twentieth of them,
const OVERHEAD: u64 = 20;
/// its reserve, its index and what is not worth compacting,
const FIXED_OVERHEAD: u64 = 6 << 20;
/// and for each tombstone and locator its record and its place in the index.
const OF_SMALL_RECORD: u64 = 1 << 10;
/// Questions asked at the same time.
const WIDTH: usize = 4;

/// Who looks.
pub(super) struct Audit<'a> {
    workload: &'a Workload<'a>,
    inside: &'a dyn Inside,
    /// Of all daemons that ended for good: links that no client may have received, since a put broke off
    /// and was finished by the daemon's journal, and stripes of puts that nobody will finish or take back.
    estate: Mutex<Estate>,
    /// Links of the files that lists of names have which were read.
    lists: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// Shards that should be there, and those that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    /// Per daemon, by what `stat` of all files says.
    pub(super) expected: BTreeMap<usize, BTreeSet<ShardName>>,
    /// Per daemon, by what its `status` says.
    pub(super) held: BTreeMap<usize, u64>,
    /// Per daemon, those in its store that no file has; looked up only where it holds more than expected.
    pub(super) misplaced: BTreeMap<usize, BTreeSet<ShardName>>,
    /// Of these, shards of puts that ended with their daemon.
    pub(super) orphans: u64,
    /// Tombstones and locators, of all daemons.
    pub(super) small_records: u64,
    /// Bytes of all shards, by what each `status` says.
    pub(super) used_bytes: u64,
    /// Bytes that the daemons' shard stores take on disk.
    pub(super) disk_bytes: u64,
}

impl Stock {
    /// Shards that all files have together.
    pub(super) fn expected(&self) -> u64 {
        self.expected.values().map(|shards| shards.len() as u64).sum()
    }

    /// Shards that all daemons hold.
    pub(super) fn held(&self) -> u64 {
        self.held.values().sum()
    }

    /// Whether the stores of so many daemons hold what they should, and take no more disk than that needs.
    fn fits(&self, daemons: u64) -> bool {
        let there = |(number, expected): (&usize, &BTreeSet<ShardName>)| {
            self.held.get(number).unwrap_or(&0) >= &(expected.len() as u64)
        };
        let overhead =
            self.used_bytes / OVERHEAD + FIXED_OVERHEAD * daemons + OF_SMALL_RECORD * self.small_records;
        self.held() <= self.expected() + self.orphans
            && self.disk_bytes <= self.used_bytes + overhead
            && self.expected.iter().all(there)
    }
}

impl fmt::Display for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, held) in &self.held {
            let expected = self.expected.get(number).map_or(0, BTreeSet::len);
            write!(f, "peer {number} holds {held} of {expected}")?;
            for (stripe, index) in self.misplaced.get(number).into_iter().flatten() {
                write!(f, " {stripe:.8}:{index}")?;
            }
            f.write_str("; ")?;
        }
        write!(
            f,
            "{} of puts that ended with their daemon; {} bytes of shards, {} on disk, {} tombstones and \
             locators",
            self.orphans, self.used_bytes, self.disk_bytes, self.small_records
        )
    }
}

impl<'a> Audit<'a> {
    pub(super) fn new(workload: &'a Workload<'a>, inside: &'a dyn Inside) -> Self {
        Self {
            workload,
            inside,
            estate: Mutex::default(),
            lists: Mutex::default(),
        }
    }

    /// Waits until every file that was acknowledged before now has all its shards on live peers.
    pub(super) fn wait_safe(&self) -> Result<(), FleetError> {
        let mut left = self.workload.journal.all(|file| file.fate == Fate::Stored);
        let mut worst = String::new();
        let safe = self.workload.cluster.in_time(|| {
            left.retain(|file| self.workload.journal.fate(file) == Some(Fate::Stored));
            let seen = self.ask(&left, health).into_iter();
            let unsafe_ones = seen.filter_map(|(file, why)| {
                worst = why?;
                Some(file)
            });
            left = unsafe_ones.collect();
            left.is_empty().then_some(())
        })?;
        safe.ok_or_else(|| late(format!("every file to be safe ({} are not: {worst})", left.len())))
    }

    /// Takes note of what a daemon knew that ended for good.
    pub(super) fn inherit(&self, number: usize) -> Result<(), FleetError> {
        let dir = self.workload.cluster.data_dir(number).unwrap_or_default();
        let left = self.inside.estate(&dir);
        let left = left.map_err(FleetError::io(format!("cannot read what peer {number} left")))?;
        let mut estate = self.estate.lock();
        estate.links.extend(left.links);
        estate.stripes.extend(left.stripes);
        estate.named.extend(left.named);
        Ok(())
    }

    /// Reads every file there should be through two daemons, and tries to read every file there should not
    /// be.
    pub(super) fn read_all(&self) {
        for _ in 0..2 {
            let all = self.workload.journal.all(|_| true);
            for (file, problem) in self.ask(&all, problem) {
                if let Some(problem) = problem {
                    self.workload
                        .violation(format!("file {} ({} bytes): {problem}", file.noise, file.size));
                }
            }
        }
    }

    /// Waits until daemons hold exactly the shards that files have. What never goes is a violation.
    pub(super) fn settle(&self) -> Result<Stock, FleetError> {
        let mut last = Stock::default();
        let members = self.workload.cluster.members().len() as u64;
        let settled = self.workload.cluster.in_time(|| {
            last = self.stock()?;
            last.fits(members).then_some(())
        })?;
        if settled.is_none() {
            self.workload.violation(format!(
                "shards that belong to no file, or belong elsewhere, or take too much: {last}"
            ));
        }
        Ok(last)
    }

    /// Compares the shards that daemons hold with those that files have; what is left over may still go.
    fn stock(&self) -> Option<Stock> {
        let Estate {
            mut links,
            stripes,
            named,
        } = self.estate.lock().clone();
        links.extend(self.named(named)?);
        for (_, client) in self.workload.cluster.serving() {
            let listed = client.list(None, false).ok()?.body.files;
            links.extend(listed.into_iter().map(|file| file.link));
        }
        for file in self.workload.journal.all(|_| true) {
            match file.fate {
                Fate::Stored | Fate::Deleting => links.insert(file.link),
                Fate::Deleted(_) => links.remove(&file.link),
            };
        }
        let links: Vec<String> = links.into_iter().collect();
        let mut stock = Stock::default();
        for (_, stat) in self.ask(&links, |client, link| stat(client, link)) {
            for (peer, shard) in stat? {
                let number = self.workload.cluster.number_of(&peer)?;
                stock.expected.entry(number).or_default().insert(shard);
            }
        }
        for (number, client) in self.workload.cluster.serving() {
            let status = client.status().ok()?.body;
            stock.used_bytes += status.used_bytes;
            let counted = client.metrics().ok()?;
            stock.small_records += counted.get("tombstones").ok()? + counted.get("locators").ok()?;
            let dir = self.workload.cluster.data_dir(number)?;
            stock.disk_bytes += on_disk(&dir.join("shards"));
            let expected = stock.expected.entry(number).or_default();
            if status.shards > expected.len() as u64 {
                let misplaced = &self.inside.shards(&dir).ok()? - expected;
                let orphans = misplaced.iter().filter(|(stripe, _)| stripes.contains(stripe));
                stock.orphans += orphans.count() as u64;
                stock.misplaced.insert(number, misplaced);
            }
            stock.held.insert(number, status.shards);
        }
        Some(stock)
    }

    /// Links of all files of buckets and of the lists of their names, by what is known of them anywhere.
    fn named(&self, mut named: NamedFiles) -> Option<BTreeSet<String>> {
        let cluster = self.workload.cluster;
        let serving = cluster.serving();
        let (dir, client) = serving
            .first()
            .and_then(|(number, client)| Some((cluster.data_dir(*number)?, client)))?;
        for (number, _) in &serving {
            named.extend(self.inside.named(&cluster.data_dir(*number)?).ok()?);
        }
        let mut links = named.files;
        let mut read = self.lists.lock();
        for (link, entries) in named.lists {
            if entries > 0 && !read.contains_key(&link) {
                let mut list = Vec::new();
                let got = client.get(&link, &GetOptions::default(), &mut list, None, &mut |_, _| ());
                match got {
                    Ok(_) => {}
                    // Its time was over, and what it listed is elsewhere.
                    Err(error) if error.exit_code() == exit::NOT_FOUND => continue,
                    Err(_) => return None,
                }
                let listed = self.inside.listed_in(list, entries, &dir).ok()?;
                read.insert(link.clone(), listed);
            }
            links.insert(link);
        }
        links.extend(read.values().flatten().cloned());
        Some(links)
    }

    /// Puts a question about each item to the daemons in turn, a few at a time.
    fn ask<T: Clone + Sync + Send, U: Send>(
        &self,
        items: &[T],
        question: impl Fn(&Client, &T) -> U + Sync,
    ) -> Vec<(T, U)> {
        let serving = self.workload.cluster.serving();
        let Ok(asked) = each::<_, _, Infallible>(items, WIDTH, |place, item| {
            let client = serving.get(place % serving.len().max(1));
            Ok(client.map(|(_, client)| (item.clone(), question(client, item))))
        });
        asked.into_iter().flatten().collect()
    }
}

/// Why a file is not safe, if it is not.
fn health(client: &Client, file: &AckedFile) -> Option<String> {
    match client.stat(&file.link) {
        Ok(stat) if stat.body.health == Health::Safe => None,
        Ok(stat) => Some(format!("file {} is {}", file.noise, stat.body.health.as_str())),
        Err(error) => Some(format!("file {}: {error}", file.noise)),
    }
}

/// What is wrong with a file, if anything is.
fn problem(client: &Client, file: &AckedFile) -> Option<String> {
    let outcome = read(client, file);
    match (file.fate, outcome) {
        (_, Err(error)) if is_wrong(&error) => Some(format!("wrong bytes: {error}")),
        (Fate::Deleted(_), Err(error)) if error.exit_code() == exit::NOT_FOUND => None,
        (Fate::Stored, Ok(())) | (Fate::Deleting, _) => None,
        (Fate::Deleted(at), Ok(())) if at.elapsed() < REMEMBERED => None,
        (Fate::Deleted(_), Ok(())) => Some("was deleted and can be read".to_owned()),
        (Fate::Stored, Err(error)) => Some(format!("is lost: {error}")),
        (Fate::Deleted(_), Err(error)) => Some(format!("was deleted and is not gone: {error}")),
    }
}

/// The shards of a file, each with its holder; `None` when that cannot be said now.
fn stat(client: &Client, link: &str) -> Option<Vec<(String, ShardName)>> {
    let stripes = match client.stat(link) {
        Ok(reply) => reply.body.stripes,
        // Deleted, or a deletion that nobody can finish was begun.
        Err(error) if [exit::NOT_FOUND, exit::UNRECOVERABLE].contains(&error.exit_code()) => Vec::new(),
        Err(_) => return None,
    };
    let mut shards = Vec::new();
    for stripe in stripes {
        for shard in stripe.shards {
            let name = (stripe.id.clone(), shard.index);
            shards.extend(shard.peer.map(|peer| (peer, name)));
        }
    }
    Some(shards)
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
