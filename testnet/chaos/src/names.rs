//! Clients that write names through several devices of one account, and what all of them have to list in the
//! end: every version that was acknowledged, the same everywhere.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_client::{Client, ClientError, GetOptions, NamesQuery, PutOptions};
use mutualstore_contract::reply::{Batch, CopyName};
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::stream::{Expecting, Noise, is_wrong};
use parking_lot::Mutex;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::account::Account;
use super::cluster::Cluster;

/// The bucket.
const BUCKET: &str = "chaos";
/// How many keys are written.
const KEYS: u32 = 24;
/// Bytes of a file at most; one in ten is longer than a manifest holds.
const SMALL: u64 = 9_000;
const LARGE: u64 = 300_000;

/// A version that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    key: String,
    version: String,
    /// Seed and number of its bytes; none of a deletion.
    bytes: Option<(u64, u64)>,
}

/// How an operation went.
pub(super) enum Outcome {
    /// A name was written, or not.
    Write(bool),
    /// A version was read, or not.
    Read(bool),
    /// What must never happen.
    Wrong(String),
}

/// All versions that were acknowledged.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeSet<Written>>);

fn key(rng: &mut ChaCha8Rng) -> String {
    format!("key {}", rng.random_range(0..KEYS))
}

fn resource(key: &str) -> String {
    format!("/{BUCKET}/{key}")
}

fn device(cluster: &Cluster, rng: &mut ChaCha8Rng) -> Option<(usize, Client)> {
    devices(cluster).choose(rng).cloned()
}

fn devices(cluster: &Cluster) -> Vec<(usize, Client)> {
    let serving = cluster.serving().into_iter();
    serving.filter(|(number, _)| Account::has(*number)).collect()
}

/// Makes the bucket.
pub(super) fn begin(cluster: &Cluster) -> Result<(), FleetError> {
    cluster.until("the bucket to be made", || {
        let (_, client) = devices(cluster).into_iter().next()?;
        client.create_bucket(BUCKET).ok()
    })?;
    Ok(())
}

impl Names {
    /// One operation of a client through any device; none where no device answers.
    pub(super) fn operate(&self, cluster: &Cluster, rng: &mut ChaCha8Rng) -> Option<Outcome> {
        let (number, client) = device(cluster, rng)?;
        Some(match rng.random_range(0..10) {
            0..5 => Outcome::Write(self.put(&client, rng)),
            5 => Outcome::Write(self.delete(&client, rng)),
            6 => Outcome::Write(rename(&client, rng)),
            _ => {
                let written = self.any(rng)?;
                match read_version(&client, &written) {
                    Err(error) if is_wrong(&error) => {
                        let key = &written.key;
                        Outcome::Wrong(format!("peer {number} served wrong bytes of {key:?}: {error}"))
                    }
                    outcome => Outcome::Read(outcome.is_ok()),
                }
            }
        })
    }

    fn any(&self, rng: &mut ChaCha8Rng) -> Option<Written> {
        let all = self.0.lock();
        let files: Vec<&Written> = all.iter().filter(|written| written.bytes.is_some()).collect();
        files.choose(rng).map(|written| (*written).clone())
    }

    fn put(&self, client: &Client, rng: &mut ChaCha8Rng) -> bool {
        let most = if rng.random_range(0..10) == 0 {
            LARGE
        } else {
            SMALL
        };
        let (key, seed, size) = (key(rng), rng.random(), rng.random_range(0..=most));
        let options = PutOptions {
            to: Some(resource(&key)),
            ..PutOptions::default()
        };
        let mut bytes = std::io::Read::take(Noise::new(seed), size);
        let stored = client.put(&mut bytes, Some(size), &options, None, &mut |_, _| ());
        let version = stored.ok().and_then(|reply| {
            let version = reply.json.get("version")?.as_str();
            version.map(str::to_owned)
        });
        self.note(key, version, Some((seed, size)))
    }

    fn delete(&self, client: &Client, rng: &mut ChaCha8Rng) -> bool {
        let key = key(rng);
        let deleted = client.delete_name(&resource(&key));
        self.note(key, deleted.ok().map(|reply| reply.body.version), None)
    }

    /// Takes note of a version, if there is one. Whether there is.
    fn note(&self, key: String, version: Option<String>, bytes: Option<(u64, u64)>) -> bool {
        let Some(version) = version else { return false };
        self.0.lock().insert(Written { key, version, bytes });
        true
    }

    /// Waits until all devices list the same, with every acknowledged version, and reads all of these. What
    /// never comes.
    pub(super) fn audit(&self, cluster: &Cluster) -> Result<Vec<String>, FleetError> {
        let mut last = String::new();
        let agreed = cluster.in_time(|| {
            last = match self.disagreement(cluster) {
                Ok(None) => return Some(()),
                Ok(Some(what)) => what,
                Err(error) => error.to_string(),
            };
            None
        })?;
        if agreed.is_none() {
            return Ok(vec![format!("names: {last}")]);
        }
        let devices = devices(cluster);
        let all: Vec<Written> = self.0.lock().iter().cloned().collect();
        let mut wrong = Vec::new();
        for (written, place) in all.iter().filter(|written| written.bytes.is_some()).zip(0..) {
            let Some((number, client)) = devices.get(place % devices.len().max(1)) else {
                continue;
            };
            if let Err(error) = read_version(client, written) {
                let Written { key, version, .. } = written;
                wrong.push(format!(
                    "version {version} of {key:?} cannot be read through peer {number}: {error}"
                ));
            }
        }
        Ok(wrong)
    }

    /// What devices do not agree about, or do not have, if anything.
    fn disagreement(&self, cluster: &Cluster) -> Result<Option<String>, ClientError> {
        let query = NamesQuery {
            versions: true,
            deleted: true,
            fresh: true,
            ..NamesQuery::default()
        };
        let mut lists: BTreeMap<usize, BTreeSet<(String, String, String)>> = BTreeMap::new();
        for (number, client) in devices(cluster) {
            let files = client.names(BUCKET, &query)?.files.into_iter();
            let list = files.map(|file| (file.name, file.version, file.kind.to_string()));
            lists.insert(number, list.collect());
        }
        let all = self.0.lock();
        for (number, list) in &lists {
            let there: BTreeSet<(&str, &str)> = list
                .iter()
                .map(|(key, version, _)| (key.as_str(), version.as_str()))
                .collect();
            let lacks = all
                .iter()
                .find(|written| !there.contains(&(written.key.as_str(), written.version.as_str())));
            if let Some(Written { key, version, .. }) = lacks {
                return Ok(Some(format!("peer {number} lacks version {version} of {key:?}")));
            }
        }
        let mut pairs = lists.iter().zip(lists.iter().skip(1));
        let differ = pairs.find(|((_, one), (_, other))| one != other);
        Ok(differ.map(|((one, _), (other, _))| format!("peers {one} and {other} list different names")))
    }

    /// How many versions were acknowledged.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().len() as u64
    }
}

fn rename(client: &Client, rng: &mut ChaCha8Rng) -> bool {
    let copy = CopyName {
        from: key(rng),
        to: key(rng),
        bucket: None,
        recursive: false,
        version: None,
        moved: true,
    };
    let batch = Batch {
        copy: vec![copy],
        ..Batch::default()
    };
    client.apply(BUCKET, &batch).is_ok()
}

/// Reads a version and compares its bytes.
fn read_version(client: &Client, written: &Written) -> Result<(), ClientError> {
    let Some((seed, size)) = written.bytes else {
        return Ok(());
    };
    let options = GetOptions {
        version: Some(written.version.clone()),
        ..GetOptions::default()
    };
    let mut expecting = Expecting::new(seed);
    let name = resource(&written.key);
    let moved = client.get(&name, &options, &mut expecting, None, &mut |_, _| ())?;
    if moved == size {
        return Ok(());
    }
    let what = format!("{moved} bytes came back, not {size}");
    Err(ClientError::Output(std::io::Error::other(what)))
}
