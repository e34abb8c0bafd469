//! `timing`: how long puts and gets take, beside what file-system course projects published for theirs.
//!
//! What a user can vary is varied: redundancy (`copies:1` and the automatic code), shard size (the frames
//! that travel), the cache (`--cache 0`), the peer that is asked. How many stripes are on their way at once,
//! and the window of the transport, are fixed in the daemon and always on. A repetition is a cell of its own;
//! tables show medians.

mod measure;
mod published;
mod tables;

use std::fmt;
use std::time::Duration;

use itertools::iproduct;
use mutualstore_contract::units::Size;
use serde::{Deserialize, Serialize};

use super::findings::{decimal, distinct, real};
use super::{Experiment, Findings, Result, Stage, check_code, check_some, ensure, expansion};

pub use published::{Published, TABLE as PUBLISHED};

/// Slowest rate thinkable beside what two cores do, bytes per second: for the a-priori cost of a cell.
const PUT_RATE: f64 = 150e6;
const GET_RATE: f64 = 300e6;
const SMALL_SECONDS: f64 = 0.01;
/// Range reads need a file of several blocks that fits into the default cache of 32 MiB.
const RANGES_BYTES: u64 = 16 << 20;

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Number of daemons.
    pub peers: usize,
    /// Codes; `auto` is the daemon's choice.
    pub codes: Vec<String>,
    /// Sizes of the files that one client puts and gets, bytes.
    pub sizes_bytes: Vec<u64>,
    /// Numbers of clients at the same time, for large and for small files.
    pub clients: Vec<usize>,
    /// Size of each client's large file, bytes.
    pub large_bytes: u64,
    /// Small files of each client.
    pub small_files: usize,
    /// Size of a small file, bytes.
    pub small_bytes: u64,
    /// Shard sizes, bytes.
    pub shard_sizes_bytes: Vec<u64>,
    /// Size of the file for shard sizes, bytes.
    pub shard_file_bytes: u64,
    /// How often each is measured.
    pub repeat: usize,
}

impl Timing {
    /// As published, three times each.
    pub fn full() -> Self {
        Self {
            peers: 12,
            codes: vec!["copies:1".to_owned(), "auto".to_owned()],
            sizes_bytes: vec![10_000_000, 100_000_000, 500_000_000, 1_500_000_000],
            clients: vec![1, 10],
            large_bytes: 500_000_000,
            small_files: 100,
            small_bytes: 10_000,
            shard_sizes_bytes: vec![64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20],
            shard_file_bytes: 100_000_000,
            repeat: 2,
        }
    }

    /// The same kinds of cells in less than a minute.
    pub fn quick() -> Self {
        Self {
            sizes_bytes: vec![10_000_000, 100_000_000],
            large_bytes: 20_000_000,
            small_files: 20,
            shard_sizes_bytes: vec![64 << 10, 1 << 20],
            shard_file_bytes: 50_000_000,
            repeat: 1,
            ..Self::full()
        }
    }

    /// The most that lies on the peers at the same time, as bytes of files.
    fn most_bytes(&self) -> u64 {
        let clients = self.clients.iter().max().copied().unwrap_or(1) as u64;
        let sizes = self.sizes_bytes.iter().copied();
        let others = [
            self.large_bytes * clients,
            self.small_bytes * self.small_files as u64 * clients,
            self.shard_file_bytes,
            RANGES_BYTES,
        ];
        sizes.chain(others).max().unwrap_or(0)
    }
}

/// Files of several clients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Number of clients.
    pub clients: usize,
    /// Files of each.
    pub files: usize,
    /// Size of each file.
    pub bytes: u64,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} × {}", self.clients, self.files, decimal(self.bytes))
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Each client its own files, put, got, got again through a third peer, and one of them got by all.
    Files(Batch),
    /// Ranges across the borders of shards, each read twice.
    Ranges,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The code of the file.
    pub code: String,
    /// Shard size; the daemon's own when absent.
    pub shard_size_bytes: Option<u64>,
    /// Whether the daemons have their cache.
    pub cache: bool,
    /// What clients do.
    pub load: Load,
    /// Which repetition, from 0.
    pub repetition: usize,
}

/// One operation that was timed, a field for each column of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Number of daemons.
    pub peers: usize,
    /// Code asked for.
    pub code: String,
    /// Code used.
    pub code_used: String,
    /// Shard size asked for.
    pub shard_size_bytes: Option<u64>,
    /// Whether the daemons had their cache.
    pub cache: bool,
    /// Clients at the same time.
    pub clients: usize,
    /// Files of each client.
    pub files: usize,
    /// Size of each file.
    pub file_bytes: u64,
    /// Which repetition.
    pub repetition: usize,
    /// `put`, `get`, `get_again` (through another peer), `get_same` (all clients one file), `ranges`,
    /// `ranges_again`.
    pub op: String,
    /// From the first request of all clients to the last byte of the last.
    pub seconds: f64,
    /// Bytes of files moved by all clients.
    pub moved_bytes: u64,
    /// Processor time of all daemons meanwhile.
    pub daemons_cpu_seconds: f64,
}

impl Experiment for Timing {
    const NAME: &'static str = "timing";
    type Cell = Cell;
    type Reading = Reading;

    fn check(&self) -> Result<()> {
        check_some("peer", self.peers)?;
        check_some("code", self.codes.len())?;
        check_some("repetition", self.repeat)?;
        check_some("client", self.clients.iter().min().copied().unwrap_or(0))?;
        let bytes =
            self.sizes_bytes
                .iter()
                .chain([&self.large_bytes, &self.small_bytes, &self.shard_file_bytes]);
        ensure(bytes.copied().all(|bytes| bytes > 0), || {
            "a file of 0 bytes takes no time worth measuring".to_owned()
        })?;
        self.codes
            .iter()
            .try_for_each(|code| check_code(code, self.peers))
    }

    /// Those with a cache first: the network without one is another.
    fn cells(&self) -> Vec<Cell> {
        let cell = |code: &String, shard_size_bytes, cache, load| Cell {
            code: code.clone(),
            shard_size_bytes,
            cache,
            load,
            repetition: 0,
        };
        let files = |clients, files, bytes| {
            Load::Files(Batch {
                clients,
                files,
                bytes,
            })
        };
        let mut cells = Vec::new();
        for code in &self.codes {
            let sizes = self.sizes_bytes.iter().map(|bytes| files(1, 1, *bytes));
            let large = |clients: &usize| files(*clients, 1, self.large_bytes);
            let small = |clients: &usize| files(*clients, self.small_files, self.small_bytes);
            let (large, small) = (self.clients.iter().map(large), self.clients.iter().map(small));
            let loads = sizes.chain(large).chain(small);
            cells.extend(loads.map(|load| cell(code, None, true, load)));
        }
        if let Some(code) = self.codes.last() {
            let load = || files(1, 1, self.shard_file_bytes);
            let shards = self.shard_sizes_bytes.iter();
            cells.extend(shards.map(|bytes| cell(code, Some(*bytes), true, load())));
            cells.extend([true, false].map(|cache| cell(code, None, cache, Load::Ranges)));
        }
        // A size may be asked for twice, as one of the sizes and as the large one.
        let numbered = iproduct!(distinct(cells), 0..self.repeat);
        let cell = |(cell, repetition)| Cell { repetition, ..cell };
        let mut cells: Vec<Cell> = numbered.map(cell).collect();
        cells.sort_by_key(|cell| !cell.cache);
        cells
    }

    fn cost(&self, cell: &Cell) -> Duration {
        let seconds = match cell.load {
            Load::Files(batch) => {
                let count = real(batch.clients * batch.files);
                let all = real(batch.bytes) * count;
                // Got twice or thrice, and deleted.
                all * expansion(&cell.code) / PUT_RATE + 3.0 * all / GET_RATE + 4.0 * count * SMALL_SECONDS
            }
            Load::Ranges => 1.0,
        };
        Duration::from_secs_f64(1.0 + seconds)
    }

    fn label(&self, cell: &Cell) -> String {
        let load = match cell.load {
            Load::Files(batch) => batch.to_string(),
            Load::Ranges => "ranges".to_owned(),
        };
        let shard = cell.shard_size_bytes.map(Size);
        let shard = shard.map(|size| format!(", shards of {size}"));
        let cache = if cell.cache { "" } else { ", no cache" };
        format!("{} {load}{}{cache}", cell.code, shard.unwrap_or_default())
    }

    fn measure(&mut self, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
        measure::cell(self, cell, stage)
    }

    fn findings(&self, readings: &[Reading]) -> Findings {
        tables::findings(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExperimentError;

    #[test]
    fn cells_hold_every_published_case_once() {
        let full = Timing::full();
        full.check().unwrap();
        let cells = full.cells();
        assert_eq!(distinct(cells.clone()).len(), cells.len());
        for published in PUBLISHED {
            // The published small files have no size.
            let bytes = match published.file_bytes {
                0 => full.small_bytes,
                bytes => bytes,
            };
            let load = Load::Files(Batch {
                clients: published.clients,
                files: published.files,
                bytes,
            });
            let same = |cell: &&Cell| cell.load == load && cell.shard_size_bytes.is_none();
            let found = cells.iter().filter(same).count();
            assert_eq!(found, full.codes.len() * full.repeat, "{published:?}");
        }
        assert!(cells.iter().any(|cell| !cell.cache));
    }

    #[test]
    fn quick_parameters_take_a_short_time() {
        let total =
            |timing: &Timing| -> Duration { timing.cells().iter().map(|cell| timing.cost(cell)).sum() };
        let (quick, full) = (total(&Timing::quick()), total(&Timing::full()));
        assert!(quick < Duration::from_mins(1), "{quick:?}");
        assert!(full > 5 * quick && full < Duration::from_mins(45), "{full:?}");
    }

    #[test]
    fn parameters_that_cannot_be_measured_are_refused() {
        let quick = Timing::quick;
        let refused = |timing: Timing| assert!(matches!(timing.check(), Err(ExperimentError::Usage(_))));
        refused(Timing { peers: 0, ..quick() });
        refused(Timing {
            peers: 5,
            codes: vec!["rs:4+2".to_owned()],
            ..quick()
        });
        refused(Timing {
            clients: vec![1, 0],
            ..quick()
        });
        refused(Timing {
            sizes_bytes: vec![0],
            ..quick()
        });
        refused(Timing { repeat: 0, ..quick() });
    }
}
