//! One cell of `timing`.

use std::time::{Duration, Instant};

use mutualstore_client::PutOptions;

use super::{Cell, Load, RANGES_BYTES, Reading, Timing};
use crate::stage::get_range;
use crate::{AUTO, ExperimentError, Network, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::parallel::side_by_side;
use mutualstore_fleet::scratch::Scratch;
use mutualstore_fleet::stream::Noise;
use mutualstore_fleet::stream::{get, put};

/// Longest range read: it begins that much before the border of two shards and ends as much after it.
const MARGIN: usize = 32 << 10;
const LEAST_CAPACITY: u64 = 1 << 30;

/// A stored file.
struct Stored {
    seed: u64,
    /// The peer that put it, and deletes it.
    peer: usize,
    link: String,
    code: String,
}

pub(super) fn cell(timing: &Timing, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>, ExperimentError> {
    let seed = stage.seed(cell, "files");
    let bytes = timing.most_bytes();
    let network = Network {
        peers: timing.peers,
        // A peer holds at most one shard of a stripe, so this fits whatever the code.
        capacities: Capacities::same((bytes + bytes / 4).max(LEAST_CAPACITY)),
        flags: if cell.cache {
            Vec::new()
        } else {
            vec!["--cache".to_owned(), "0".to_owned()]
        },
    };
    let scratch = stage.network(&network)?;
    let work = Work {
        scratch,
        cell,
        peers: timing.peers,
    };
    match cell.load {
        Load::Files {
            clients,
            files,
            bytes,
        } => work.files(seed, clients, files, bytes),
        Load::Ranges => work.ranges(seed),
    }
}

struct Work<'a> {
    scratch: &'a Scratch,
    cell: &'a Cell,
    peers: usize,
}

impl Work<'_> {
    fn files(
        &self,
        seed: u64,
        clients: usize,
        files: usize,
        bytes: u64,
    ) -> Result<Vec<Reading>, ExperimentError> {
        let (stored, mut put) = self.timed(|| self.put(seed, clients, files, bytes))?;
        let stored: Vec<Vec<Stored>> = stored;
        self.scratch.settle()?;
        let read = |away: usize| {
            let client = |number: usize| {
                let own = stored.get(number).map_or(&[][..], Vec::as_slice);
                own.iter()
                    .try_for_each(|file| self.get(file, file.peer + away, bytes))
            };
            self.timed(|| side_by_side(clients, client))
        };
        // Far from the writer, which may have something of it in memory; then through a third.
        let (_, mut got) = read(self.peers.div_ceil(2))?;
        let (_, mut again) = read(self.peers.div_ceil(3))?;
        let code = stored
            .iter()
            .flatten()
            .next()
            .map_or("", |file| file.code.as_str());
        let mut readings: Vec<Reading> = [("put", &mut put), ("get", &mut got), ("get_again", &mut again)]
            .map(|(op, timed)| self.reading(op, code, (clients, files, bytes), *timed))
            .into();
        if clients > 1
            && let Some(shared) = stored.first()
        {
            let client = |number: usize| {
                let through = |file: &Stored| self.get(file, file.peer + 1 + number, bytes);
                shared.iter().try_for_each(through)
            };
            let (_, same) = self.timed(|| side_by_side(clients, client))?;
            readings.push(self.reading("get_same", code, (clients, files, bytes), same));
        }
        self.delete(stored.iter().flatten())?;
        Ok(readings)
    }

    /// Every client puts its files through a peer of its own.
    fn put(
        &self,
        seed: u64,
        clients: usize,
        files: usize,
        bytes: u64,
    ) -> Result<Vec<Vec<Stored>>, ExperimentError> {
        let client = |number: usize| {
            let file = |file: usize| {
                let seed = seed.wrapping_add((number * files + file) as u64);
                self.put_one(seed, number % self.peers, bytes)
            };
            (0..files).map(file).collect()
        };
        side_by_side(clients, client)
    }

    fn put_one(&self, seed: u64, peer: usize, bytes: u64) -> Result<Stored, ExperimentError> {
        let options = PutOptions {
            code: Some(self.cell.code.clone()).filter(|code| code != AUTO),
            shard_size: self.cell.shard_size_bytes,
            ..PutOptions::default()
        };
        let stored = put(&self.scratch.client(peer)?, seed, bytes, &options);
        let report = stored.map_err(ExperimentError::client("put"))?;
        Ok(Stored {
            seed,
            peer,
            link: report.link,
            code: report.code,
        })
    }

    fn get(&self, file: &Stored, peer: usize, bytes: u64) -> Result<(), ExperimentError> {
        let client = self.scratch.client(peer % self.peers)?;
        get(&client, &file.link, file.seed, bytes).map_err(ExperimentError::client("get"))?;
        Ok(())
    }

    /// Frees the disks for the next cell.
    fn delete<'a>(&self, mut files: impl Iterator<Item = &'a Stored>) -> Result<(), ExperimentError> {
        files.try_for_each(|file| {
            let deleted = self.scratch.client(file.peer)?.delete(&file.link);
            deleted.map_err(ExperimentError::client("delete"))?;
            Ok(())
        })
    }

    /// Reads around every border of two shards of a block, twice: with a cache, the second time from memory.
    /// Such a range needs two shards, so the daemon decodes the whole block; one within a shard is read from
    /// its holder alone.
    fn ranges(&self, seed: u64) -> Result<Vec<Reading>, ExperimentError> {
        let file = self.put_one(seed, 0, RANGES_BYTES)?;
        let mut whole = vec![0; usize::try_from(RANGES_BYTES).unwrap_or_default()];
        Noise::new(seed).fill(&mut whole);
        let shard = self.cell.shard_size_bytes.unwrap_or(1 << 20);
        let borders =
            (1..RANGES_BYTES / shard).map(|number| usize::try_from(number * shard).unwrap_or_default());
        let borders: Vec<usize> = borders.collect();
        let client = self.scratch.client(self.peers / 2)?;
        let pass = || {
            borders.iter().try_for_each(|border| {
                let read = get_range(&client, &file.link, &whole, border - MARGIN, 2 * MARGIN);
                read.map_err(ExperimentError::client("get of a range"))
            })
        };
        self.scratch.settle()?;
        let moved = (borders.len() * 2 * MARGIN) as u64;
        let mut readings = Vec::new();
        for op in ["ranges", "ranges_again"] {
            let ((), timed) = self.timed(pass)?;
            let reading = self.reading(op, &file.code, (1, 1, RANGES_BYTES), timed);
            readings.push(Reading {
                moved_bytes: moved,
                ..reading
            });
        }
        self.delete(std::iter::once(&file))?;
        Ok(readings)
    }

    /// Wall clock, and processor time of all daemons.
    fn timed<T>(
        &self,
        work: impl FnOnce() -> Result<T, ExperimentError>,
    ) -> Result<(T, (Duration, Duration)), ExperimentError> {
        let (cpu, begun) = (self.scratch.cpu_time()?, Instant::now());
        let done = work()?;
        let took = begun.elapsed();
        Ok((done, (took, self.scratch.cpu_time()?.saturating_sub(cpu))))
    }

    fn reading(
        &self,
        op: &str,
        code: &str,
        (clients, files, bytes): (usize, usize, u64),
        (took, cpu): (Duration, Duration),
    ) -> Reading {
        Reading {
            peers: self.peers,
            code: self.cell.code.clone(),
            code_used: code.to_owned(),
            shard_size_bytes: self.cell.shard_size_bytes,
            cache: self.cell.cache,
            clients,
            files,
            file_bytes: bytes,
            repetition: self.cell.repetition,
            op: op.to_owned(),
            seconds: took.as_secs_f64(),
            moved_bytes: (clients * files) as u64 * bytes,
            daemons_cpu_seconds: cpu.as_secs_f64(),
        }
    }
}
