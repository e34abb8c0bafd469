//! One hostile member among honest ones, on real sockets: what is left of the files that were put.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::{Client, GetOptions, PutOptions};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::scratch::{RunOptions, Scratch};
use mutualstore_fleet::stream::Noise;

/// Capacity of an honest member; a hostile one may claim more.
const CAPACITY: u64 = 256 << 20;
const LARGEST: u64 = 4;
/// Sizes of files: small ones are copied, the others coded.
const SMALL: usize = 8 << 10;
const LARGE: usize = 200 << 10;
/// Code of the large ones, and the shards that it bears to lose.
const CODE: &str = "rs:4+2";
const SHARD: u64 = 64 << 10;
const M: usize = 2;
/// One file in so many comes slowly: it stays unfinished for a while, when its first shards lie there to be
/// stolen.
const SLOW: usize = 25;
const SLOW_BYTES: usize = 600 << 10;
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
        let Self {
            role,
            peers,
            files,
            files_lost,
            wrong_bytes,
            ..
        } = self;
        writeln!(
            f,
            "one {role} of {peers} members, with {} times the capacity of the others; {} honest ones killed",
            self.capacity_ratio, self.killed
        )?;
        writeln!(
            f,
            "files  {files} put in {:.1} s, {} puts refused, {} never acknowledged",
            self.put_seconds, self.puts_refused, self.puts_failed
        )?;
        write!(
            f,
            "after  {:.0} s of lies: {files_lost} lost, {wrong_bytes} with wrong bytes, read in {:.1} s",
            self.acted_seconds, self.get_seconds
        )
    }
}

/// Runs it; `narrate` is given one line per step as it ends.
pub fn run(options: &AdversaryOptions, narrate: &dyn Fn(&str)) -> Result<AdversaryReport, FleetError> {
    let usage = |why: String| Err(FleetError::Usage(why));
    // All shards on distinct peers, and one to take the place of a dead one.
    if options.peers < 7 {
        return usage(format!(
            "{} members are too few for {CODE}: give 7 at least",
            options.peers
        ));
    }
    if options.kill + 1 > M {
        return usage(format!("{CODE} bears {M} lost members, the hostile one included"));
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let largest = options.largest.unwrap_or(rng.next_u32() % 2 == 0);
    let ratio = if largest { LARGEST } else { 1 };
    let honest = options.peers - 1;
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
            peers: options.peers,
            capacity_ratio: ratio,
            killed: options.kill,
            seed,
            ..AdversaryReport::default()
        },
    };
    trial.put_all(options.files, seed);
    narrate(&format!(
        "{} files put in {:.1} s",
        trial.report.files, trial.report.put_seconds
    ));
    trial.wait(options.seconds)?;
    for victim in (0..honest).collect::<Vec<_>>().sample(&mut rng, options.kill) {
        trial.scratch.kill(*victim);
    }
    trial.read_all()?;
    Ok(trial.report)
}

/// Yields bytes, and pauses once when so many are left.
struct Producer<'a> {
    rest: &'a [u8],
    pause_at: Option<usize>,
}

impl Read for Producer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.pause_at.unwrap_or(0);
        if self.rest.len() <= left && self.pause_at.take().is_some() {
            thread::sleep(PAUSE);
        }
        let ahead = self.rest.len() - self.pause_at.unwrap_or(0);
        let count = self.rest.len().min(buffer.len()).min(ahead);
        let (now, later) = self.rest.split_at(count);
        if let Some(buffer) = buffer.get_mut(..count) {
            buffer.copy_from_slice(now);
        }
        self.rest = later;
        Ok(count)
    }
}

struct Trial {
    scratch: Scratch,
    clients: Vec<Client>,
    /// Link and number of each file.
    files: BTreeMap<String, usize>,
    report: AdversaryReport,
}

/// The bytes of a file.
fn content(seed: u64, number: usize) -> Vec<u8> {
    let length = match number {
        slow if slow.is_multiple_of(SLOW) => SLOW_BYTES,
        large if large.is_multiple_of(2) => LARGE,
        _ => SMALL,
    };
    let mut bytes = vec![0; length + number];
    Noise::new(seed ^ u64::try_from(number).unwrap_or(u64::MAX).rotate_left(32)).fill(&mut bytes);
    bytes
}

impl Trial {
    fn put_all(&mut self, files: usize, seed: u64) {
        let begun = Instant::now();
        for number in 0..files {
            let bytes = content(seed, number);
            let mut last = None;
            for attempt in 0..TRIES {
                match self.put(number + attempt, &bytes, number.is_multiple_of(SLOW)) {
                    Ok(link) => {
                        self.files.insert(link, number);
                        last = None;
                        break;
                    }
                    Err(error) => {
                        self.report.puts_refused += 1;
                        last = Some(format!("put of file {number}: {error}"));
                    }
                }
            }
            if let Some(failure) = last {
                self.report.puts_failed += 1;
                self.report.failures.push(failure);
            }
        }
        self.report.files = self.files.len();
        self.report.put_seconds = begun.elapsed().as_secs_f64();
    }

    fn put(&self, through: usize, bytes: &[u8], slow: bool) -> Result<String, String> {
        let client = self
            .clients
            .get(through % self.clients.len())
            .ok_or("no member")?;
        let options = PutOptions {
            code: Some(CODE.to_owned()),
            shard_size: Some(SHARD),
            ..PutOptions::default()
        };
        let length = u64::try_from(bytes.len()).ok();
        let mut input = Producer {
            rest: bytes,
            pause_at: slow.then_some(bytes.len() / 4),
        };
        let put = client.put(&mut input, length, &options, None, &mut |_, _| {});
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
            let mut bytes: Vec<u8> = Vec::new();
            let got = match self.clients.get(through) {
                Some(client) => {
                    let output: &mut dyn Write = &mut bytes;
                    client
                        .get(&link, &GetOptions::default(), output, None, &mut |_, _| {})
                        .map(drop)
                }
                None => continue,
            };
            match got {
                Err(error) => {
                    self.report.files_lost += 1;
                    self.report
                        .failures
                        .push(format!("file {number} through peer {through}: {error}"));
                }
                Ok(()) if bytes != content(self.report.seed, number) => {
                    self.report.wrong_bytes += 1;
                    self.report
                        .failures
                        .push(format!("file {number} through peer {through}: other bytes"));
                }
                Ok(()) => {}
            }
        }
        self.report.get_seconds = begun.elapsed().as_secs_f64();
        let honest = self
            .scratch
            .pids()
            .into_iter()
            .filter(|(at, _)| *at < self.clients.len());
        let rss = honest.filter_map(|(_, pid)| mutualstore_fleet::proc::rss_bytes(pid));
        self.report.rss_bytes_max = rss.max().unwrap_or(0);
        Ok(())
    }
}
