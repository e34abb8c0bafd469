//! One cell of `timing`.

use std::ops::Range;
use std::time::{Duration, Instant};

use mutualstore_client::{ByteRange, Client, ClientError, GetOptions};

use super::{Batch, Cell, Load, RANGES_BYTES, Reading, Timing};
use crate::stage::{Stored, put_options};
use crate::{ExperimentError, Result, Stage};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::parallel::side_by_side;
use mutualstore_fleet::scratch::Scratch;
use mutualstore_fleet::stream::Noise;

/// Longest range read: it begins that much before the border of two shards and ends as much after it.
const MARGIN: usize = 32 << 10;
const LEAST_CAPACITY: u64 = 1 << 30;

pub(super) fn cell(timing: &Timing, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
    let seed = stage.seed(cell, "files");
    let bytes = timing.most_bytes();
    // A peer holds at most one shard of a stripe, so this fits whatever the code.
    let capacities = Capacities::same((bytes + bytes / 4).max(LEAST_CAPACITY));
    let flags = if cell.cache { "" } else { "--cache 0" };
    let work = Work {
        scratch: stage.network(timing.peers, capacities, flags)?,
        cell,
        peers: timing.peers,
    };
    match cell.load {
        Load::Files(batch) => work.files(seed, batch),
        Load::Ranges => work.ranges(seed),
    }
}

struct Work<'a> {
    scratch: &'a Scratch,
    cell: &'a Cell,
    peers: usize,
}

impl Work<'_> {
    fn files(&self, seed: u64, batch: Batch) -> Result<Vec<Reading>> {
        let clients = batch.clients;
        let (stored, put) = self.timed(|| self.put(seed, batch))?;
        self.scratch.settle()?;
        let read = |away: usize| {
            let client = |number: usize| {
                let mut own = stored.get(number).into_iter().flatten();
                own.try_for_each(|file| self.get(file, file.peer + away))
            };
            self.timed(|| side_by_side(clients, client))
        };
        // Far from the writer, which may have something of it in memory; then through a third.
        let (_, got) = read(self.peers.div_ceil(2))?;
        let (_, again) = read(self.peers.div_ceil(3))?;
        let first = stored.iter().flatten().next();
        let code = first.map_or("", |file| file.report.code.as_str());
        let mut readings: Vec<Reading> = [("put", put), ("get", got), ("get_again", again)]
            .map(|(op, timed)| self.reading(op, code, batch, timed))
            .into();
        if clients > 1
            && let Some(shared) = stored.first()
        {
            let client = |number: usize| {
                let through = |file: &Stored| self.get(file, file.peer + 1 + number);
                shared.iter().try_for_each(through)
            };
            let (_, same) = self.timed(|| side_by_side(clients, client))?;
            readings.push(self.reading("get_same", code, batch, same));
        }
        // Frees the disks for the next cell.
        let mut files = stored.iter().flatten();
        files.try_for_each(|file| file.delete(self.scratch))?;
        Ok(readings)
    }

    /// Every client puts its files through a peer of its own.
    fn put(&self, seed: u64, batch: Batch) -> Result<Vec<Vec<Stored>>> {
        let client = |number: usize| {
            let file = |file: usize| {
                let seed = seed.wrapping_add((number * batch.files + file) as u64);
                self.put_one(seed, number % self.peers, batch.bytes)
            };
            (0..batch.files).map(file).collect()
        };
        side_by_side(batch.clients, client)
    }

    fn put_one(&self, seed: u64, peer: usize, bytes: u64) -> Result<Stored> {
        let options = put_options(&self.cell.code, self.cell.shard_size_bytes);
        Stored::put(self.scratch, peer, seed, bytes, &options)
    }

    fn get(&self, file: &Stored, peer: usize) -> Result<()> {
        file.get(self.scratch, peer % self.peers)
    }

    /// Reads around every border of two shards of a block, twice: with a cache, the second time from memory.
    /// Such a range needs two shards, so the daemon decodes the whole block; one within a shard is read from
    /// its holder alone.
    fn ranges(&self, seed: u64) -> Result<Vec<Reading>> {
        let file = self.put_one(seed, 0, RANGES_BYTES)?;
        let mut whole = vec![0; usize::try_from(RANGES_BYTES).unwrap_or_default()];
        Noise::new(seed).fill(&mut whole);
        let shard = self.cell.shard_size_bytes.unwrap_or(1 << 20);
        let shard = usize::try_from(shard).unwrap_or(usize::MAX);
        let borders = || (shard..whole.len()).step_by(shard);
        let client = self.scratch.client(self.peers / 2)?;
        let pass = || {
            borders().try_for_each(|border| {
                let read = read_range(
                    &client,
                    &file.report.link,
                    &whole,
                    border - MARGIN..border + MARGIN,
                );
                read.map_err(ExperimentError::client("get of a range"))
            })
        };
        self.scratch.settle()?;
        let batch = Batch {
            clients: 1,
            files: 1,
            bytes: RANGES_BYTES,
        };
        let mut readings = Vec::new();
        for op in ["ranges", "ranges_again"] {
            let ((), timed) = self.timed(pass)?;
            readings.push(Reading {
                moved_bytes: (borders().count() * 2 * MARGIN) as u64,
                ..self.reading(op, &file.report.code, batch, timed)
            });
        }
        file.delete(self.scratch)?;
        Ok(readings)
    }

    /// Wall clock, and processor time of all daemons.
    fn timed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, (Duration, Duration))> {
        let (cpu, begun) = (self.scratch.cpu_time()?, Instant::now());
        let done = work()?;
        let took = begun.elapsed();
        Ok((done, (took, self.scratch.cpu_time()?.saturating_sub(cpu))))
    }

    fn reading(&self, op: &str, code: &str, batch: Batch, (took, cpu): (Duration, Duration)) -> Reading {
        Reading {
            peers: self.peers,
            code: self.cell.code.clone(),
            code_used: code.to_owned(),
            shard_size_bytes: self.cell.shard_size_bytes,
            cache: self.cell.cache,
            clients: batch.clients,
            files: batch.files,
            file_bytes: batch.bytes,
            repetition: self.cell.repetition,
            op: op.to_owned(),
            seconds: took.as_secs_f64(),
            moved_bytes: (batch.clients * batch.files) as u64 * batch.bytes,
            daemons_cpu_seconds: cpu.as_secs_f64(),
        }
    }
}

/// Reads a part of a file and compares it with the generated bytes, of which `whole` is the file.
fn read_range(client: &Client, link: &str, whole: &[u8], part: Range<usize>) -> Result<(), ClientError> {
    let options = GetOptions {
        range: Some(ByteRange {
            first: part.start as u64,
            last: Some(part.end as u64 - 1),
        }),
        ..GetOptions::default()
    };
    let mut output = Vec::with_capacity(part.len());
    client.get(link, &options, &mut output, None, &mut |_, _| ())?;
    let first = part.start;
    if output == whole.get(part).unwrap_or_default() {
        return Ok(());
    }
    Err(ClientError::Unexpected {
        what: format!("bytes {first} and following differ from those stored"),
    })
}
