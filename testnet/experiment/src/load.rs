//! `load`: which peers serve how many requests and bytes when files are read and written.
//!
//! A file of B blocks on N equal peers should be read from every one in equal parts, B/N requests each; on
//! peers of different capacity in proportion to it. Three expectations stand beside each count: by capacity;
//! by where the file's shards lie, if every holder of a stripe served it equally often; and what a single
//! server would bear, which is all of it. Requests that a peer serves to itself count like those of others.
//! Repair is off, so nothing else moves shards.

mod measure;
mod tables;

use std::time::Duration;

use itertools::iproduct;
use mutualstore_contract::units::Size;
use serde::{Deserialize, Serialize};

use super::findings::real;
use super::{Experiment, Findings, Result, Stage, check_code, check_some, ensure, expansion};

const PUT_RATE: f64 = 100e6;
const GET_RATE: f64 = 200e6;
/// Seconds to start a peer.
const START: f64 = 0.35;

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// Number of daemons; the baseline has one.
    pub peers: usize,
    /// Codes; `auto` is the daemon's choice.
    pub codes: Vec<String>,
    /// Shard sizes, bytes.
    pub shard_sizes_bytes: Vec<u64>,
    /// File sizes, bytes.
    pub sizes_bytes: Vec<u64>,
    /// Number of small files.
    pub small_files: usize,
    /// Size of a small file, bytes: at most 16 KiB, so that it lies in its manifest.
    pub small_bytes: u64,
    /// Repetitions, each with other bytes.
    pub repeat: usize,
}

impl Load {
    /// Two codes, two shard sizes, two file sizes, three times each.
    pub fn full() -> Self {
        Self {
            peers: 12,
            codes: vec!["copies:3".to_owned(), "auto".to_owned()],
            shard_sizes_bytes: vec![256 << 10, 1 << 20],
            sizes_bytes: vec![32 << 20, 128 << 20],
            small_files: 100,
            small_bytes: 4 << 10,
            repeat: 3,
        }
    }

    /// The same in less than a minute: smaller files, once.
    pub fn quick() -> Self {
        Self {
            sizes_bytes: vec![8 << 20, 32 << 20],
            small_files: 40,
            repeat: 1,
            ..Self::full()
        }
    }
}

/// On which network, and what is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Case {
    /// Equal peers: a file is written and read.
    Equal,
    /// Equal peers: many small files, one after the other.
    Small,
    /// Equal peers, one of which is killed before the file is read.
    Degraded,
    /// Peers of capacities 1, 2, 3, 4, 1, 2, ...: a file is written and read.
    Weighted,
    /// One peer has everything.
    Single,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What is done.
    pub case: Case,
    /// The code of the files.
    pub code: String,
    /// Shard size.
    pub shard_size_bytes: u64,
    /// File size.
    pub file_bytes: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
}

/// What one peer did during one operation, a field for each column of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What was done.
    pub case: Case,
    /// `write` or `read`; shards stored or served.
    pub op: String,
    /// Code asked for.
    pub code: String,
    /// Code used.
    pub code_used: String,
    /// Shard size.
    pub shard_size_bytes: u64,
    /// Size of each file.
    pub file_bytes: u64,
    /// Number of files.
    pub files: usize,
    /// Which repetition.
    pub repetition: usize,
    /// Number of the peer.
    pub peer: usize,
    /// Its capacity.
    pub capacity_bytes: u64,
    /// Whether the client asked this peer.
    pub is_asked: bool,
    /// Shards it stored or served.
    pub requests: u64,
    /// Their bytes.
    pub served_bytes: u64,
    /// Requests by its part of the live capacity: B/N on equal peers.
    pub expected_requests: f64,
    /// Bytes by its part of the live capacity.
    pub expected_bytes: f64,
    /// Requests by what it holds of the file, each holder of a stripe serving equally often.
    pub placed_requests: f64,
    /// Mean number of peers that took part in putting or getting one file.
    pub peers_per_file: f64,
    /// How long the whole operation took.
    pub seconds: f64,
}

impl Experiment for Load {
    const NAME: &'static str = "load";
    type Cell = Cell;
    type Reading = Reading;

    fn check(&self) -> Result<()> {
        check_some("peer", self.peers)?;
        check_some("code", self.codes.len())?;
        check_some("file size", self.sizes_bytes.len())?;
        check_some("shard size", self.shard_sizes_bytes.len())?;
        check_some("small file", self.small_files)?;
        check_some("repetition", self.repeat)?;
        let full = !self.sizes_bytes.contains(&0) && self.small_bytes > 0;
        ensure(full, || "a file of 0 bytes is no load".to_owned())?;
        self.codes
            .iter()
            .try_for_each(|code| check_code(code, self.peers))
    }

    /// By network; those that kill come last among those on the same.
    fn cells(&self) -> Vec<Cell> {
        let (shards, sizes) = (&self.shard_sizes_bytes, &self.sizes_bytes);
        let equal = iproduct!(&self.codes, shards, sizes);
        let equal = equal.map(|(code, shard, bytes)| (Case::Equal, code.as_str(), *shard, *bytes));
        let shard = shards.iter().min().copied().unwrap_or(1 << 20);
        let largest = sizes.iter().max().copied().unwrap_or(1 << 20);
        let mut others = vec![
            (Case::Small, self.small_bytes),
            (Case::Degraded, largest),
            (Case::Weighted, largest),
        ];
        others.retain(|(case, _)| *case != Case::Degraded || self.peers >= 2);
        let others = iproduct!(others, &self.codes);
        let others = others.map(|((case, bytes), code)| (case, code.as_str(), shard, bytes));
        let single =
            iproduct!(shards, sizes).map(|(shard, bytes)| (Case::Single, "copies:1", *shard, *bytes));
        let all = iproduct!(equal.chain(others).chain(single), 0..self.repeat);
        let cell = |((case, code, shard_size_bytes, file_bytes), repetition): ((_, &str, _, _), _)| Cell {
            case,
            code: code.to_owned(),
            shard_size_bytes,
            file_bytes,
            repetition,
        };
        all.map(cell).collect()
    }

    fn cost(&self, cell: &Cell) -> Duration {
        let bytes = real(cell.file_bytes);
        let moved = bytes * expansion(&cell.code) / PUT_RATE + bytes / GET_RATE;
        let seconds = match cell.case {
            Case::Equal | Case::Weighted | Case::Single => 1.5 + moved,
            Case::Small => 1.5 + real(self.small_files) * 0.05,
            Case::Degraded => 5.0 + moved,
        };
        // The first on a network waits for it.
        let starts = match cell.case {
            Case::Weighted if cell.repetition == 0 && self.codes.first() == Some(&cell.code) => self.peers,
            Case::Single => 1,
            Case::Equal | Case::Small | Case::Degraded | Case::Weighted => 0,
        };
        Duration::from_secs_f64(seconds + real(starts) * START)
    }

    fn label(&self, cell: &Cell) -> String {
        let (size, shard) = (Size(cell.file_bytes), Size(cell.shard_size_bytes));
        format!("{} {} {size}, shards of {shard}", cell.case, cell.code)
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
    fn cells_hold_every_combination_once() {
        let full = Load::full();
        full.check().unwrap();
        let cells = full.cells();
        assert_eq!(super::super::findings::distinct(cells.clone()).len(), cells.len());
        let count = |case| cells.iter().filter(|cell| cell.case == case).count();
        let cases = [
            Case::Equal,
            Case::Small,
            Case::Degraded,
            Case::Weighted,
            Case::Single,
        ];
        assert_eq!(cases.map(count), [24, 6, 6, 6, 12]);
    }

    #[test]
    fn quick_parameters_take_a_short_time() {
        let quick = Load::quick();
        let total: Duration = quick.cells().iter().map(|cell| quick.cost(cell)).sum();
        assert!(total < Duration::from_mins(1), "{total:?}");
    }

    #[test]
    fn parameters_that_cannot_be_measured_are_refused() {
        let refused = |load: Load| assert!(matches!(load.check(), Err(ExperimentError::Usage(_))));
        refused(Load {
            peers: 0,
            ..Load::quick()
        });
        refused(Load {
            peers: 2,
            ..Load::quick()
        });
        refused(Load {
            sizes_bytes: Vec::new(),
            ..Load::quick()
        });
        refused(Load {
            small_files: 0,
            ..Load::quick()
        });
    }
}
