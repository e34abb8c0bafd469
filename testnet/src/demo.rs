//! The promise in one command: real daemons, a real file, killed peers, the same bytes again.

mod report;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, iter, slice};

use itertools::Itertools;
use mutualstore_client::{Client, GetOptions, PutOptions};
use mutualstore_contract::reply::Health;
use mutualstore_contract::units::Size;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError, require, status};
use mutualstore_fleet::scratch::{RunOptions, Scratch};
use mutualstore_fleet::state::Peer;
use mutualstore_fleet::stream::Hashing;

pub use report::{DemoFile, DemoPeer, DemoReport, Step};

const MINIMUM_CAPACITY: u64 = 256 << 20;
const POLL: Duration = Duration::from_millis(200);
/// How long the survivors may take to rebuild, beside what the bytes need at the slowest rate thinkable.
const REPAIR_LIMIT: Duration = Duration::from_mins(3);
const SLOWEST_REPAIR: u64 = 1_000_000;

/// What to demonstrate.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// Number of daemons.
    pub peers: usize,
    /// How many to kill at once, twice.
    pub kill: usize,
    /// Files to store; the binary itself when empty.
    pub files: Vec<PathBuf>,
    /// Seed of who is killed; random when absent.
    pub seed: Option<u64>,
}

/// Shards needed (k) and stored (n) per stripe of `auto` in a network of so many peers.
fn auto_code(peers: usize) -> (usize, usize) {
    match peers {
        0 | 1 => (1, 1),
        2 => (1, 2),
        3 => (2, 3),
        4..=5 => (2, 4),
        6..=15 => (4, 6),
        _ => (8, 12),
    }
}

fn check(options: &DemoOptions) -> Result<(), FleetError> {
    let DemoOptions { peers, kill, .. } = *options;
    let (k, n) = auto_code(peers);
    require(kill > 0, "kill at least one peer, or nothing is demonstrated")?;
    let most = n - k;
    let much = format!("the code of {peers} peers survives {most} killed at once, not {kill}");
    require(kill <= most, much)?;
    let (survivors, least) = (peers - kill, n + kill);
    let few = format!(
        "{survivors} survivors of {peers} peers cannot hold {n} shards each on a peer of its own; take at \
         least {least} peers"
    );
    require(peers >= least, few)
}

/// Runs the demonstration; `narrate` is given one line per step as it ends.
pub fn run(options: &DemoOptions, narrate: &dyn Fn(&str)) -> Result<DemoReport, FleetError> {
    check(options)?;
    let binary = slice::from_ref(&options.run.binary);
    let given = options.files.as_slice();
    let paths = if given.is_empty() { binary } else { given };
    let sizes = paths.iter().map(|path| Ok(open(path)?.1));
    let total = sizes.sum::<Result<u64, FleetError>>()?;
    let seed = options.seed.unwrap_or_else(rand::random);
    // A peer holds at most one shard of a stripe, so this fits wherever the shards end up.
    let base = MINIMUM_CAPACITY.max(total);
    let begun = Instant::now();
    let capacities = Capacities::repeating((1..=4).map(|ratio| ratio * base));
    let run = options.run.with_repair_delay();
    let scratch = Scratch::up(&run, "mutualstore-demo-", options.peers, capacities, seed)?;
    let ring_seconds = begun.elapsed().as_secs_f64();
    narrate(&format!(
        "ring whole       {ring_seconds:7.2} s  {} daemons with capacities 1:2:3:4 in {}",
        options.peers,
        scratch.dir().display()
    ));
    let rng = ChaCha8Rng::seed_from_u64(seed);
    Demo {
        scratch,
        rng,
        narrate,
        files: Vec::new(),
        failures: Vec::new(),
        broken: BTreeSet::new(),
    }
    .play(options, paths, ring_seconds)
}

/// A regular file, and its size.
fn open(path: &Path) -> Result<(File, u64), FleetError> {
    let unreadable = |error| FleetError::Usage(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let other = format!("{} is not a regular file", path.display());
    require(meta.is_file(), other)?;
    Ok((file, meta.len()))
}

struct Demo<'a> {
    scratch: Scratch,
    rng: ChaCha8Rng,
    narrate: &'a dyn Fn(&str),
    files: Vec<DemoFile>,
    failures: Vec<String>,
    broken: BTreeSet<usize>,
}

impl Demo<'_> {
    fn play(
        mut self,
        options: &DemoOptions,
        paths: &[PathBuf],
        ring_seconds: f64,
    ) -> Result<DemoReport, FleetError> {
        let put = self.put_all(paths)?;
        let mut peers = self.survey()?;
        let get = self.get_all("get", &[0])?;
        let victims: Vec<usize> = iter::once(0).chain(self.draw(options.kill - 1, &[0])?).collect();
        let killed_at = self.kill(&victims, &mut peers, "killed first");
        let degraded_get = self.get_all("degraded get", &[])?;
        let repair = self.repair(killed_at, put.bytes)?;
        let victims = self.draw(options.kill, &[])?;
        self.kill(&victims, &mut peers, "killed second");
        let final_get = self.get_all("get once more", &[])?;
        Ok(DemoReport {
            peers,
            files_lost: self.broken.len(),
            files: self.files,
            ring_seconds,
            put,
            get,
            degraded_get,
            repair,
            final_get,
            failures: self.failures,
        })
    }

    fn put_all(&mut self, paths: &[PathBuf]) -> Result<Step, FleetError> {
        let client = self.scratch.client(0)?;
        let begun = Instant::now();
        for path in paths {
            let (file, length) = open(path)?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let mut reader = Hashing::new(file);
            let options = PutOptions {
                name: name.clone(),
                ..PutOptions::default()
            };
            let report = client
                .put(&mut reader, Some(length), &options, None, &mut |_, _| ())
                .map_err(FleetError::request("put failed"))?
                .body;
            let (size_bytes, sha256) = reader.finish();
            self.files.push(DemoFile {
                name: name.unwrap_or_default(),
                link: report.link,
                size_bytes,
                sha256,
                code: report.code,
                stripes: report.stripes,
            });
        }
        let step = Step::new(begun.elapsed(), self.total());
        let codes = self
            .files
            .iter()
            .map(|file| &file.code)
            .sorted()
            .dedup()
            .join(", ");
        self.narrate_step("put", &step, &format!("through peer 0, {codes}"));
        Ok(step)
    }

    fn total(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Reads every file through a live peer not in `avoid` and compares.
    fn get_all(&mut self, what: &'static str, avoid: &[usize]) -> Result<Step, FleetError> {
        let readers = self.scratch.alive_but(avoid);
        let reader = readers.choose(&mut self.rng).copied().unwrap_or_default();
        let client = self.scratch.client(reader)?;
        let begun = Instant::now();
        for (number, file) in self.files.iter().enumerate() {
            if let Err(why) = identical(&client, file) {
                self.broken.insert(number);
                self.failures
                    .push(format!("{what} of {} through peer {reader}: {why}", file.name));
            }
        }
        self.scratch.interrupted()?;
        let step = Step::new(begun.elapsed(), self.total());
        let verdict = if self.failures.is_empty() {
            "every byte identical"
        } else {
            "NOT IDENTICAL"
        };
        self.narrate_step(what, &step, &format!("through peer {reader}, {verdict}"));
        Ok(step)
    }

    fn draw(&mut self, count: usize, avoid: &[usize]) -> Result<Vec<usize>, FleetError> {
        net::draw(&self.scratch.alive_but(avoid), count, self.rng.next_u64())
    }

    fn kill(&mut self, victims: &[usize], peers: &mut [DemoPeer], fate: &'static str) -> Instant {
        let killed_at = Instant::now();
        for victim in victims {
            self.scratch.kill(*victim);
        }
        for peer in peers.iter_mut().filter(|peer| victims.contains(&peer.index)) {
            peer.fate = fate;
        }
        let names = victims.iter().join(" and ");
        (self.narrate)(&format!("SIGKILL                     peers {names}"));
        killed_at
    }

    /// Waits until every stripe has all its shards on live peers again.
    fn repair(&self, killed_at: Instant, bytes: u64) -> Result<Step, FleetError> {
        let clients = self.scratch.clients()?;
        let Some(client) = clients.first() else {
            return Err(FleetError::Usage("nobody is left".to_owned()));
        };
        let limit = REPAIR_LIMIT + Duration::from_secs(bytes / SLOWEST_REPAIR);
        let mut incomplete = self.incomplete(client)?;
        while incomplete > 0 {
            let waited = killed_at.elapsed();
            if waited > limit {
                let waited = waited.as_secs();
                let text = format!("after {waited} s {incomplete} stripes still lack shards");
                return Err(FleetError::Failed(text));
            }
            thread::sleep(POLL);
            incomplete = self.incomplete(client)?;
        }
        let waited = killed_at.elapsed();
        let rebuilt = clients
            .iter()
            .map(|client| Ok(status(client)?.repair.bytes_total));
        let step = Step::new(waited, rebuilt.sum::<Result<_, FleetError>>()?);
        self.narrate_step("repair", &step, "since the kill; every stripe is complete again");
        Ok(step)
    }

    fn incomplete(&self, client: &Client) -> Result<usize, FleetError> {
        let mut incomplete = 0;
        for file in &self.files {
            match client.stat(&file.link) {
                Ok(stat) if stat.body.health == Health::Safe => {}
                Ok(stat) => {
                    let stripes = stat.body.stripes.iter();
                    let lacking = stripes.filter(|stripe| stripe.live as usize != stripe.shards.len());
                    incomplete += lacking.count().max(1);
                }
                // Shaken by the kill; it settles.
                Err(error) if error.retry() => incomplete += 1,
                Err(error) => return Err(FleetError::request("stat failed")(error)),
            }
        }
        Ok(incomplete)
    }

    /// What each peer holds now.
    fn survey(&self) -> Result<Vec<DemoPeer>, FleetError> {
        let survey = |peer: &Peer| {
            Ok(DemoPeer {
                index: peer.index,
                peer: peer.peer.clone(),
                capacity_bytes: peer.capacity_bytes,
                stored_bytes: status(&self.scratch.client(peer.index)?)?.used_bytes,
                share: 0.0,
                fate: "",
            })
        };
        let mut peers = self
            .scratch
            .peers()
            .iter()
            .map(survey)
            .collect::<Result<Vec<_>, FleetError>>()?;
        report::fill_shares(&mut peers);
        Ok(peers)
    }

    fn narrate_step(&self, what: &str, step: &Step, note: &str) {
        let (seconds, speed, size) = (step.seconds, step.mb_per_s, Size(step.bytes));
        let line = format!("{what:<16} {seconds:7.2} s  {size:>9}  {speed:6.0} MB/s  {note}");
        (self.narrate)(&line);
    }
}

fn identical(client: &Client, file: &DemoFile) -> Result<(), String> {
    let (options, mut output) = (GetOptions::default(), Hashing::new(io::sink()));
    client
        .get(&file.link, &options, &mut output, None, &mut |_, _| ())
        .map_err(|error| error.to_string())?;
    let (size, sha256) = output.finish();
    if (size, &sha256) == (file.size_bytes, &file.sha256) {
        return Ok(());
    }
    Err(format!(
        "{size} bytes with SHA-256 {sha256} instead of {} with {}",
        file.size_bytes, file.sha256
    ))
}

#[cfg(test)]
mod tests {
    use mutualstore_contract::exit;

    use super::*;

    fn options(peers: usize, kill: usize) -> DemoOptions {
        DemoOptions {
            run: RunOptions {
                binary: "/nonexistent".into(),
                ..RunOptions::default()
            },
            peers,
            kill,
            files: Vec::new(),
            seed: Some(1),
        }
    }

    #[test]
    fn kills_beyond_the_code_are_refused() {
        for (peers, kill) in [(12, 2), (8, 2), (16, 4), (5, 1), (3, 1)] {
            let accepted = check(&options(peers, kill)).is_ok();
            assert_eq!(accepted, peers != 3, "{peers} peers, {kill} killed");
        }
        for (peers, kill) in [(12, 0), (12, 3), (7, 2), (1, 1), (0, 1)] {
            assert_eq!(
                check(&options(peers, kill)).unwrap_err().exit_code(),
                exit::USAGE,
                "{peers}, {kill}"
            );
        }
    }

    #[test]
    fn unreadable_file_is_named_before_anything_starts() {
        let failure = run(&options(12, 2), &|_| ()).unwrap_err();
        assert!(
            failure.to_string().starts_with("cannot read /nonexistent"),
            "{failure}"
        );
        let folder = DemoOptions {
            files: vec!["/".into()],
            ..options(12, 2)
        };
        assert_eq!(
            run(&folder, &|_| ()).unwrap_err().to_string(),
            "/ is not a regular file"
        );
    }
}
