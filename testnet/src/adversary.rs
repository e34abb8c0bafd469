//! One hostile member among honest ones, on real sockets: what is left of the files that were put.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::{Client, PutOptions};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{FleetError, require};
use mutualstore_fleet::scratch::{RunOptions, Scratch};
use mutualstore_fleet::stream::{Midway, Noise, get, is_wrong};

/// Capacity of an honest member; a hostile one may claim more.
const CAPACITY: u64 = 256 << 20;
const LARGEST: u64 = 4;
/// Sizes of files: small ones are copied, the others coded.
const SMALL: u64 = 8 << 10;
const LARGE: u64 = 200 << 10;
/// Code of the large ones, and the shards that it bears to lose.
const CODE: &str = "rs:4+2";
const SHARD: u64 = 64 << 10;
const M: usize = 2;
/// One file in so many comes slowly: it stays unfinished for a while, when its first shards lie there to be
/// stolen.
const SLOW: usize = 25;
const SLOW_BYTES: u64 = 600 << 10;
const PAUSE: Duration = Duration::from_secs(3);
/// A put that is refused is tried so often.
const TRIES: usize = 5;

/// What to try.
#[derive(Clone, Debug)]
pub struct AdversaryOptions {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// What the hostile member does.
    pub role: String,
    /// Number of members, the hostile one among them; at least 7.
    pub peers: usize,
    /// Files to put.
    pub files: usize,
    /// How long the hostile member acts on them.
    pub seconds: f64,
    /// Whether it claims four times the capacity of the others; drawn by the seed when absent.
    pub largest: Option<bool>,
    /// Honest members killed before files are read; with the hostile one no more than the code bears.
    pub kill: usize,
    /// Seed of what is drawn; random when absent.
    pub seed: Option<u64>,
}

/// What came of it, flat, as its JSON is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AdversaryReport {
    /// What the hostile member did.
    pub role: String,
    /// Members, it included.
    pub peers: usize,
    /// Its capacity, as a multiple of the others'.
    pub capacity_ratio: u64,
    /// Honest members killed before files were read.
    pub killed: usize,
    /// Files put and acknowledged.
    pub files: usize,
    /// Puts that were refused and tried again.
    pub puts_refused: usize,
    /// Puts that were never acknowledged.
    pub puts_failed: usize,
    /// Acknowledged files that do not come back, or not whole.
    pub files_lost: usize,
    /// Files that came back with other bytes.
    pub wrong_bytes: usize,
    /// All puts together.
    pub put_seconds: f64,
    /// How long the hostile member had after the last put.
    pub acted_seconds: f64,
    /// All reads together.
    pub get_seconds: f64,
    /// Memory of the largest honest daemon in the end, in bytes.
    pub rss_bytes_max: u64,
    /// Seed of what was drawn.
    pub seed: u64,
    /// What failed, one line each.
    pub failures: Vec<String>,
}

impl AdversaryReport {
    /// Whether what was promised held.
    pub fn is_good(&self) -> bool {
        self.files_lost == 0 && self.wrong_bytes == 0 && self.puts_failed == 0
    }
}

impl fmt::Display for AdversaryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "one {} of {} members, with {} times the capacity of the others; {} honest ones killed",
            self.role, self.peers, self.capacity_ratio, self.killed
        )?;
        writeln!(
            f,
            "files  {} put in {:.1} s, {} puts refused, {} never acknowledged",
            self.files, self.put_seconds, self.puts_refused, self.puts_failed
        )?;
        write!(
            f,
            "after  {:.0} s of lies: {} lost, {} with wrong bytes, read in {:.1} s",
            self.acted_seconds, self.files_lost, self.wrong_bytes, self.get_seconds
        )
    }
}

/// Runs it; `narrate` is given one line per step as it ends.
pub fn run(options: &AdversaryOptions, narrate: &dyn Fn(&str)) -> Result<AdversaryReport, FleetError> {
    let AdversaryOptions { peers, kill, .. } = *options;
    // All shards on distinct peers, and one to take the place of a dead one.
    let few = format!("{peers} members are too few for {CODE}: give 7 at least");
    require(peers >= 7, few)?;
    let many = format!("{CODE} bears {M} lost members, the hostile one included");
    require(kill < M, many)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let largest = options.largest.unwrap_or(rng.next_u32() % 2 == 0);
    let ratio = if largest { LARGEST } else { 1 };
    let honest = peers - 1;
    let capacities = std::iter::repeat_n(CAPACITY, honest).chain([CAPACITY * ratio]);
    let (run, capacities) = (options.run.with_repair_delay(), Capacities::repeating(capacities));
    let mut scratch = Scratch::up(&run, "mutualstore-adversary-", honest, capacities, seed)?;
    scratch.enter_with(1, &["--adversary".to_owned(), options.role.clone()])?;
    scratch.wait_whole()?;
    narrate(&format!("{honest} honest members and one {}", options.role));
    let mut trial = Trial {
        clients: (0..honest)
            .map(|at| scratch.client(at))
            .collect::<Result<_, _>>()?,
        scratch,
        files: BTreeMap::new(),
        report: AdversaryReport {
            role: options.role.clone(),
            peers,
            capacity_ratio: ratio,
            killed: kill,
            seed,
            ..AdversaryReport::default()
        },
    };
    trial.put_all(options.files);
    narrate(&format!(
        "{} files put in {:.1} s",
        trial.report.files, trial.report.put_seconds
    ));
    trial.wait(options.seconds)?;
    for victim in (0..honest).collect::<Vec<_>>().sample(&mut rng, kill) {
        trial.scratch.kill(*victim);
    }
    trial.read_all()?;
    Ok(trial.report)
}

struct Trial {
    scratch: Scratch,
    clients: Vec<Client>,
    /// Link and number of each file.
    files: BTreeMap<String, usize>,
    report: AdversaryReport,
}

/// Seed of the bytes of a file, and how many they are.
fn content(seed: u64, number: usize) -> (u64, u64) {
    let length = match number {
        slow if slow.is_multiple_of(SLOW) => SLOW_BYTES,
        large if large.is_multiple_of(2) => LARGE,
        _ => SMALL,
    };
    let number = number as u64;
    (seed ^ number.rotate_left(32), length + number)
}

impl Trial {
    fn put_all(&mut self, files: usize) {
        let begun = Instant::now();
        for number in 0..files {
            let mut refused = Vec::new();
            let link = (0..TRIES).find_map(|attempt| {
                let tried = self.put(number, attempt);
                tried.map_err(|error| refused.push(error)).ok()
            });
            self.report.puts_refused += refused.len();
            if let Some(link) = link {
                self.files.insert(link, number);
                continue;
            }
            let error = refused.pop().unwrap_or_default();
            self.report.puts_failed += 1;
            self.report
                .failures
                .push(format!("put of file {number}: {error}"));
        }
        self.report.files = self.files.len();
        self.report.put_seconds = begun.elapsed().as_secs_f64();
    }

    fn put(&self, number: usize, attempt: usize) -> Result<String, String> {
        let through = (number + attempt) % self.clients.len();
        let client = self.clients.get(through).ok_or("no member")?;
        let options = PutOptions {
            code: Some(CODE.to_owned()),
            shard_size: Some(SHARD),
            ..PutOptions::default()
        };
        let (seed, length) = content(self.report.seed, number);
        let pause = || {
            thread::sleep(PAUSE);
            Ok(())
        };
        let mut input = Midway {
            from: Noise::new(seed).take(length),
            left: length / 4 * 3,
            then: number.is_multiple_of(SLOW).then_some(pause),
        };
        let put = client.put(&mut input, Some(length), &options, None, &mut |_, _| {});
        put.map(|reply| reply.body.link)
            .map_err(|error| error.to_string())
    }

    fn wait(&mut self, seconds: f64) -> Result<(), FleetError> {
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds {
            self.scratch.interrupted()?;
            thread::sleep(Duration::from_millis(100));
        }
        self.report.acted_seconds = begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn read_all(&mut self) -> Result<(), FleetError> {
        self.scratch.interrupted()?;
        let begun = Instant::now();
        let alive: Vec<usize> = self.scratch.alive();
        let readers: Vec<usize> = alive.into_iter().filter(|at| *at < self.clients.len()).collect();
        for (link, number) in std::mem::take(&mut self.files) {
            let through = readers.get(number % readers.len().max(1)).copied().unwrap_or(0);
            let Some(client) = self.clients.get(through) else {
                continue;
            };
            let (seed, length) = content(self.report.seed, number);
            let why = match get(client, &link, seed, length) {
                Ok(()) => continue,
                Err(error) if is_wrong(&error) => {
                    self.report.wrong_bytes += 1;
                    "other bytes".to_owned()
                }
                Err(error) => {
                    self.report.files_lost += 1;
                    error.to_string()
                }
            };
            self.report
                .failures
                .push(format!("file {number} through peer {through}: {why}"));
        }
        self.report.get_seconds = begun.elapsed().as_secs_f64();
        let pids = self.scratch.pids().into_iter();
        let honest = pids.filter(|(at, _)| *at < self.clients.len());
        let rss = honest.filter_map(|(_, pid)| mutualstore_fleet::proc::rss_bytes(pid));
        self.report.rss_bytes_max = rss.max().unwrap_or(0);
        Ok(())
    }
}
