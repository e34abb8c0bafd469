//! One cell of `churn`.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::ClientError;
use mutualstore_contract::exit;
use mutualstore_contract::reply::Departure;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Cell, Churn, Reading};
use crate::findings::{mean, real};
use crate::stage::{Stored, counters, put_options};
use crate::{ExperimentError, Result, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::scratch::Scratch;

const LEAST_CAPACITY: u64 = 256 << 20;
/// Between two looks at what the daemons count: what a killed one counted since the last is not known.
const LOOK: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);
/// Without a repair for so long, beside the repair delay, there is none to come.
const QUIET: Duration = Duration::from_secs(3);
/// A peer that has not left by then is killed.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);
/// How long files are looked for that all who were asked deny, beside four repair delays.
const DENIED_LIMIT: Duration = Duration::from_secs(5);
/// How long repairs, and files of which nobody says anything, are waited for, beside eight repair delays.
const LIMIT: Duration = Duration::from_mins(1);

pub(super) fn cell(churn: &Churn, cell: &Cell, stage: &mut Stage) -> Result<Reading> {
    // The same sessions for every code and delay.
    let seed = stage.seed(&(cell.session_seconds, cell.repetition), "events");
    let files_seed = stage.seed(cell, "files");
    let bytes = churn.file_bytes * churn.files as u64;
    let delay = Duration::from_secs(cell.repair_delay_seconds);
    // Every peer could hold one shard of everything, and what it dropped until that is compacted.
    let capacities = Capacities::same((2 * bytes).max(LEAST_CAPACITY));
    let flags = format!("--repair-delay {}s", cell.repair_delay_seconds);
    let scratch = stage.network(churn.peers, capacities, &flags)?;
    let files = store(churn, cell, scratch, files_seed)?;
    scratch.settle()?;
    let mut book = Book::default();
    book.look(scratch);
    let before = book.total();
    let mut turmoil = Turmoil {
        scratch,
        rng: ChaCha8Rng::seed_from_u64(seed),
        leave: f64::from(churn.leave_percent) / 100.0,
        begun: Instant::now(),
        ends: BTreeMap::new(),
        leaving: BTreeMap::new(),
        book,
        stored: Vec::new(),
        reading: Reading {
            peers: churn.peers,
            code: cell.code.clone(),
            session_seconds: cell.session_seconds,
            repair_delay_seconds: cell.repair_delay_seconds,
            repetition: cell.repetition,
            files: churn.files,
            ..Reading::default()
        },
    };
    turmoil.run(Duration::from_secs(churn.duration_seconds))?;
    let seconds = turmoil.begun.elapsed().as_secs_f64();
    turmoil.book.close(turmoil.scratch, delay)?;
    let after = turmoil.book.total();
    let stored_bytes = mean(&turmoil.stored).unwrap_or(0.0);
    let gone = real(turmoil.reading.leaves + turmoil.reading.kills);
    Ok(Reading {
        seconds,
        files_lost: lost(turmoil.scratch, &files, delay)?,
        stored_bytes,
        repaired_shards: after.shards - before.shards,
        repair_bytes: after.bytes - before.bytes,
        traffic_bytes: after.traffic - before.traffic,
        bound_bytes: bound(stored_bytes, seconds / real(cell.session_seconds)),
        bound_seen_bytes: bound(stored_bytes, gone / real(churn.peers)),
        ..turmoil.reading
    })
}

/// Puts all files, each through another peer.
fn store(churn: &Churn, cell: &Cell, scratch: &Scratch, seed: u64) -> Result<Vec<Stored>> {
    let options = put_options(&cell.code, None);
    let one = |number: usize| {
        let seed = seed.wrapping_add(number as u64);
        Stored::put(scratch, number % churn.peers, seed, churn.file_bytes, &options)
    };
    (0..churn.files).map(one).collect()
}

/// Blake and Rodrigues 2003: while every peer is replaced so many times, all together send and receive that
/// much.
fn bound(stored_bytes: f64, replacements: f64) -> f64 {
    2.0 * stored_bytes * replacements
}

/// What daemons count, as last seen: those that are gone keep theirs.
#[derive(Clone, Debug, Default)]
struct Book {
    peers: BTreeMap<usize, Counts>,
    /// Bytes of shards held by the live ones at the last look.
    used: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    shards: u64,
    bytes: u64,
    traffic: u64,
}

impl Book {
    /// Asks every live peer; one that is about to end may not answer.
    fn look(&mut self, scratch: &Scratch) {
        self.used = 0;
        for peer in scratch.alive() {
            let names = [
                "shards_repaired_total",
                "shards_repaired_bytes_total",
                "shard_sent_bytes_total",
                "shard_received_bytes_total",
                "used_bytes",
            ];
            let client = scratch.client(peer).map_err(ExperimentError::from);
            let counted = client.and_then(|client| counters(&client, names));
            if let Ok([shards, bytes, sent, received, used]) = counted {
                let counts = Counts {
                    shards,
                    bytes,
                    traffic: sent + received,
                };
                self.peers.insert(peer, counts);
                self.used += used;
            }
        }
    }

    /// Repairs that the last departures ask for belong to them: waits until nothing was repaired for longer
    /// than the delay.
    fn close(&mut self, scratch: &Scratch, repair_delay: Duration) -> Result<()> {
        let begun = Instant::now();
        let (mut last, mut changed) = (self.total().shards, Instant::now());
        while changed.elapsed() < repair_delay + QUIET && begun.elapsed() < LIMIT + 8 * repair_delay {
            scratch.interrupted()?;
            thread::sleep(LOOK);
            self.look(scratch);
            let now = self.total().shards;
            if now != last {
                (last, changed) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn total(&self) -> Counts {
        let add = |sum: Counts, one: &Counts| Counts {
            shards: sum.shards + one.shards,
            bytes: sum.bytes + one.bytes,
            traffic: sum.traffic + one.traffic,
        };
        self.peers.values().fold(Counts::default(), add)
    }
}

/// Peers that come and go.
struct Turmoil<'a> {
    scratch: &'a mut Scratch,
    rng: ChaCha8Rng,
    /// Probability that a session ends with a departure in order.
    leave: f64,
    begun: Instant,
    /// When each peer's session ends, since the beginning.
    ends: BTreeMap<usize, Duration>,
    /// Peers that were told to leave, and when.
    leaving: BTreeMap<usize, Instant>,
    book: Book,
    /// Bytes of shards on all peers at each look.
    stored: Vec<f64>,
    /// Counts joins, leaves and kills.
    reading: Reading,
}

impl Turmoil<'_> {
    fn run(&mut self, duration: Duration) -> Result<()> {
        for peer in self.scratch.alive() {
            self.stay(peer);
        }
        let mut looked: Option<Instant> = None;
        while self.begun.elapsed() < duration || !self.leaving.is_empty() {
            self.scratch.interrupted()?;
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                self.book.look(self.scratch);
                self.stored.push(real(self.book.used));
                looked = Some(Instant::now());
            }
            self.see_off()?;
            let now = self.begun.elapsed();
            let due = self.ends.iter().min_by_key(|(_, end)| **end);
            match due.map(|(peer, end)| (*peer, *end)) {
                Some((peer, end)) if end <= now && now < duration => self.end(peer)?,
                Some(_) | None => thread::sleep(POLL),
            }
        }
        Ok(())
    }

    /// A peer's session begins.
    fn stay(&mut self, peer: usize) {
        let length = exponential(&mut self.rng, real(self.reading.session_seconds));
        self.ends.insert(peer, self.begun.elapsed() + length);
    }

    /// A peer's session ends and another one's begins.
    fn end(&mut self, peer: usize) -> Result<()> {
        self.ends.remove(&peer);
        if self.rng.random_bool(self.leave) && self.ask_to_leave(peer) {
            self.leaving.insert(peer, Instant::now());
        } else {
            self.kill(peer);
        }
        for newcomer in self.scratch.enter(1)? {
            self.reading.joins += 1;
            self.stay(newcomer);
        }
        Ok(())
    }

    fn ask_to_leave(&self, peer: usize) -> bool {
        let asked = self.scratch.client(peer).map(|client| client.leave(false));
        matches!(asked, Ok(Ok(_)))
    }

    fn kill(&mut self, peer: usize) {
        self.book.look(self.scratch);
        self.scratch.kill(peer);
        self.reading.kills += 1;
    }

    /// Those that left have ended. One that cannot leave, or not soon, is killed.
    fn see_off(&mut self) -> Result<()> {
        for (peer, since) in self.leaving.clone() {
            if self.scratch.has_left(peer) {
                self.reading.leaves += 1;
                self.leaving.remove(&peer);
                continue;
            }
            let state = self.scratch.client(peer)?.leaving();
            let stuck = state.is_ok_and(|report| report.body.state == Departure::Stuck);
            if stuck || since.elapsed() > LEAVE_LIMIT {
                self.kill(peer);
                self.leaving.remove(&peer);
            }
        }
        Ok(())
    }
}

/// A length of time with this mean, seconds.
fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> Duration {
    let uniform: f64 = rng.random();
    Duration::try_from_secs_f64(-mean * (1.0 - uniform).ln()).unwrap_or(Duration::MAX / 4)
}

/// Files that cannot be read by anybody, though repair and the ring had their time. A file that comes back
/// different is an error, not a loss.
fn lost(scratch: &Scratch, files: &[Stored], repair_delay: Duration) -> Result<usize> {
    let begun = Instant::now();
    let mut missing: Vec<&Stored> = files.iter().collect();
    let mut turn = 0;
    loop {
        let (mut still, mut unclear) = (Vec::new(), None);
        for file in missing {
            scratch.interrupted()?;
            let alive = scratch.alive();
            turn += 1;
            let through = alive.get(turn % alive.len().max(1)).copied().unwrap_or(0);
            match file.read(&scratch.client(through)?) {
                Ok(()) => {}
                Err(error @ (ClientError::Output(_) | ClientError::Unexpected { .. })) => {
                    return Err(ExperimentError::client("get")(error));
                }
                Err(error) => {
                    if ![exit::NOT_FOUND, exit::UNRECOVERABLE].contains(&error.exit_code()) {
                        unclear = Some(error);
                    }
                    still.push(file);
                }
            }
        }
        if still.is_empty() {
            return Ok(0);
        }
        match unclear {
            None if begun.elapsed() > DENIED_LIMIT + 4 * repair_delay => return Ok(still.len()),
            Some(error) if begun.elapsed() > LIMIT + 8 * repair_delay => {
                return Err(ExperimentError::client("get")(error));
            }
            None | Some(_) => {}
        }
        missing = still;
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_have_their_mean_and_follow_the_seed() {
        let draw = |seed| -> Vec<Duration> {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (0..4000).map(|_| exponential(&mut rng, 60.0)).collect()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        let mean = drawn.iter().sum::<Duration>().as_secs_f64() / 4000.0;
        // Four standard errors of a mean of 4000.
        assert!((mean - 60.0).abs() < 4.0 * 60.0 / 4000.0_f64.sqrt(), "{mean}");
        // A third of e survives its mean.
        let longer = drawn.iter().filter(|length| length.as_secs_f64() > 60.0).count();
        assert!((1350..1600).contains(&longer), "{longer}");
    }

    #[test]
    fn counts_of_peers_that_are_gone_are_kept() {
        let mut book = Book::default();
        let counts = |bytes| Counts {
            shards: 1,
            bytes,
            traffic: 2 * bytes,
        };
        book.peers.insert(0, counts(10));
        book.peers.insert(1, counts(5));
        book.peers.insert(0, counts(20));
        assert_eq!(
            book.total(),
            Counts {
                shards: 2,
                bytes: 25,
                traffic: 50,
            }
        );
    }

    #[test]
    fn bound_counts_both_directions() {
        assert_eq!(Some(bound(1e6, 3.0)), Some(6e6));
    }
}
