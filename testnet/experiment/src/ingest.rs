//! `ingest`: how long a file takes from the first byte to full redundancy, and from a request to its last
//! byte, by number of peers, placement and size, with and without a limit on the peers' links; beside
//! [`model`].
//!
//! A put is acknowledged when all shards of all stripes are durable on distinct peers, so the time until its
//! answer is the time to full redundancy; a put that said less is kept as a reading and left out of every
//! figure. The file is then read through another peer, every byte compared, and deleted, so that disks stay
//! small. Writer and reader are drawn anew each time. Repair is off: nothing else moves shards.
//!
//! What the writer kept of its own file, and what the reader had on its own disk, is counted by the daemons
//! and stands in each reading: a prediction takes that instead of an average over places.
//!
//! Every limit is measured beside the same cells without one: what those take is what links do not explain.

mod measure;
pub mod model;
mod tables;

use std::time::Duration;

use itertools::iproduct;
use serde::{Deserialize, Serialize};

use super::findings::{decimal, distinct, real};
use super::{Experiment, Findings, Histogram, Result, Stage};
use super::{check_code, check_placement, check_some, ensure, parsed};

/// The least that daemons accept as `link_rate`, bits per second.
pub const LEAST_RATE: u64 = 1_000_000;

/// What two cores do without a limit, bytes per second: for the a-priori cost of a cell. Stored bytes count
/// for each copy.
const STORE_RATE: f64 = 260e6;
const READ_RATE: f64 = 250e6;
/// Seconds of one repetition of an empty file.
const EACH: f64 = 0.06;
/// Seconds until a network that stands is quiet.
const QUIET: f64 = 0.8;
/// Seconds to start a peer.
const START: f64 = 0.35;

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Ingest {
    /// Copies of each block, k.
    pub copies: u8,
    /// Numbers of daemons, N.
    pub peers: Vec<usize>,
    /// Placement policies.
    pub placements: Vec<String>,
    /// File sizes, bytes.
    pub sizes_bytes: Vec<u64>,
    /// Limits of each peer's link, bits per second each way; without one is measured always.
    pub rates_bits: Vec<u64>,
    /// Whether limits are measured for every number of daemons, or for the largest only.
    pub is_limited_everywhere: bool,
    /// Repetitions of each cell.
    pub repeat: usize,
    /// With a limit, a cell that would take longer has fewer repetitions, or none.
    pub cell_seconds: u64,
}

impl Ingest {
    /// 3 copies on up to 24 peers, 100 kB to 100 MB, without limit and at 100 Mbit/s.
    pub fn full() -> Self {
        Self {
            copies: 3,
            peers: vec![3, 6, 12, 24],
            placements: ["successors", "random", "copysets", "buddies"]
                .map(str::to_owned)
                .into(),
            sizes_bytes: vec![100_000, 1_000_000, 10_000_000, 100_000_000],
            rates_bits: vec![100_000_000],
            is_limited_everywhere: true,
            repeat: 100,
            cell_seconds: 40,
        }
    }

    /// The same kinds of cells in about a minute, too few repetitions for percentiles.
    pub fn quick() -> Self {
        Self {
            peers: vec![3, 12],
            sizes_bytes: vec![100_000, 1_000_000],
            is_limited_everywhere: false,
            repeat: 5,
            ..Self::full()
        }
    }

    /// The code of `k` copies.
    fn code(&self) -> String {
        format!("copies:{}", self.copies)
    }

    /// Estimated seconds of one repetition.
    fn repetition_seconds(&self, peers: usize, bytes: u64, rate_bits: Option<u64>) -> f64 {
        let (bytes, copies) = (real(bytes), f64::from(self.copies));
        let unlimited = bytes * copies / STORE_RATE + bytes / READ_RATE;
        let links = rate_bits.map_or(0.0, |bits| {
            let moved = copies - model::kept(copies, real(peers)) + 1.0;
            bytes * moved * 8.0 / real(bits)
        });
        EACH + unlimited.max(links)
    }

    /// How often such a file is stored and read; 0: not at all, it would take too long.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive number"
    )]
    fn repetitions(&self, peers: usize, bytes: u64, rate_bits: Option<u64>) -> usize {
        if rate_bits.is_none() {
            return self.repeat;
        }
        let fit = real(self.cell_seconds) / self.repetition_seconds(peers, bytes, rate_bits);
        (fit as usize).min(self.repeat)
    }

    /// Numbers of daemons at which limits are measured.
    fn limited_peers(&self) -> Vec<usize> {
        let peers = distinct(self.peers.iter().copied());
        if self.is_limited_everywhere {
            return peers;
        }
        peers.into_iter().max().into_iter().collect()
    }

    /// Numbers of daemons, sizes and limits that would take too long.
    fn left_out(&self) -> Vec<(usize, u64, u64)> {
        let all = iproduct!(&self.rates_bits, self.limited_peers(), &self.sizes_bytes);
        let all = all.map(|(bits, peers, bytes)| (peers, *bytes, *bits));
        all.filter(|(peers, bytes, bits)| self.repetitions(*peers, *bytes, Some(*bits)) == 0)
            .collect()
    }
}

/// One cell, with all its repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Number of daemons.
    pub peers: usize,
    /// Placement policy.
    pub placement: String,
    /// File size.
    pub file_bytes: u64,
    /// Limit of each peer's link, bits per second; none: no limit.
    pub rate_bits: Option<u64>,
    /// How often.
    pub repetitions: usize,
}

/// One file that was stored, read and deleted, a field for each column of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Number of daemons.
    pub peers: usize,
    /// Copies of each block.
    pub copies: u8,
    /// Placement policy.
    pub placement: String,
    /// File size.
    pub file_bytes: u64,
    /// Limit of each peer's link, bits per second; none: no limit.
    pub rate_bits: Option<u64>,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Number of the peer that received the file.
    pub writer: usize,
    /// Number of the peer it was read through.
    pub reader: usize,
    /// From the first byte sent to the acknowledgement, as the client sees it.
    pub ingest_seconds: f64,
    /// The same as the daemon says.
    pub daemon_seconds: f64,
    /// From the request to the last byte.
    pub download_seconds: f64,
    /// Shards that were durable at the acknowledgement.
    pub shards_stored: u64,
    /// Shards the code asks for.
    pub shards_total: u64,
    /// Bytes of shards that the writer kept itself.
    pub kept_bytes: u64,
    /// Bytes of shards that the reader had itself.
    pub own_bytes: u64,
}

impl Experiment for Ingest {
    const NAME: &'static str = "ingest";
    type Cell = Cell;
    type Reading = Reading;

    fn check(&self) -> Result<()> {
        check_some("number of peers", self.peers.len())?;
        check_some("placement", self.placements.len())?;
        check_some("file size", self.sizes_bytes.len())?;
        check_some("repetition", self.repeat)?;
        check_some("second for each cell", usize::from(self.cell_seconds > 0))?;
        let full = !self.sizes_bytes.contains(&0);
        ensure(full, || "a file of 0 bytes has nothing to be copied".to_owned())?;
        self.rates_bits.iter().try_for_each(|bits| {
            let (link, least) = (rate(*bits), rate(LEAST_RATE));
            ensure(*bits >= LEAST_RATE, || {
                format!("a link of {link} is too slow for a peer; {least} is the least")
            })
        })?;
        let (code, least) = (self.code(), self.peers.iter().min().copied().unwrap_or(0));
        check_code(&code, least)?;
        ensure(least >= 2, || {
            "a file is read through another peer than the writer, so 2 are needed".to_owned()
        })?;
        let code = parsed(&code)?;
        let mut placements = self.placements.iter();
        placements.try_for_each(|placement| check_placement(placement, code))
    }

    /// By network.
    fn cells(&self) -> Vec<Cell> {
        let unlimited = self.peers.iter().map(|peers| (*peers, None));
        let limited = iproduct!(&self.rates_bits, self.limited_peers());
        let networks = unlimited.chain(limited.map(|(bits, peers)| (peers, Some(*bits))));
        let all = iproduct!(networks, &self.sizes_bytes, &self.placements);
        let cell =
            |((peers, rate_bits), file_bytes, placement): ((usize, Option<u64>), &u64, &String)| Cell {
                peers,
                placement: placement.clone(),
                file_bytes: *file_bytes,
                rate_bits,
                repetitions: self.repetitions(peers, *file_bytes, rate_bits),
            };
        distinct(all.map(cell).filter(|cell| cell.repetitions > 0))
    }

    fn cost(&self, cell: &Cell) -> Duration {
        let each = self.repetition_seconds(cell.peers, cell.file_bytes, cell.rate_bits);
        // The first on a network waits for it.
        let is_first = self.sizes_bytes.first() == Some(&cell.file_bytes)
            && self.placements.first() == Some(&cell.placement);
        let starts = if is_first { cell.peers } else { 0 };
        Duration::from_secs_f64(QUIET + each * real(cell.repetitions) + START * real(starts))
    }

    fn label(&self, cell: &Cell) -> String {
        let limit = cell.rate_bits.map(|bits| format!(" at {}", rate(bits)));
        format!(
            "{} peers, {}, {} × {}{}",
            cell.peers,
            cell.placement,
            cell.repetitions,
            decimal(cell.file_bytes),
            limit.unwrap_or_default()
        )
    }

    fn measure(&mut self, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
        measure::cell(self, cell, stage)
    }

    fn findings(&self, readings: &[Reading]) -> Findings {
        tables::findings(self, readings)
    }

    fn histograms(&self, readings: &[Reading]) -> Vec<Histogram> {
        tables::histograms(readings)
    }
}

/// `100 Mbit/s`.
fn rate(bits: u64) -> String {
    let units = [
        (1_000_000_000, "Gbit/s"),
        (1_000_000, "Mbit/s"),
        (1_000, "kbit/s"),
    ];
    let exact = units
        .into_iter()
        .find(|(factor, _)| bits > 0 && bits.is_multiple_of(*factor));
    let (factor, unit) = exact.unwrap_or((1, "bit/s"));
    format!("{} {unit}", bits / factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExperimentError;

    fn total(ingest: &Ingest) -> Duration {
        ingest.cells().iter().map(|cell| ingest.cost(cell)).sum()
    }

    #[test]
    fn cells_hold_every_combination_once_and_often_enough() {
        let full = Ingest::full();
        full.check().unwrap();
        let cells = full.cells();
        assert_eq!(distinct(cells.clone()).len(), cells.len());
        let unlimited = cells.iter().filter(|cell| cell.rate_bits.is_none());
        assert_eq!(unlimited.clone().count(), 4 * 4 * 4);
        assert!(unlimited.clone().all(|cell| cell.repetitions == 100));
        let limited: Vec<&Cell> = cells.iter().filter(|cell| cell.rate_bits.is_some()).collect();
        assert_eq!(limited.len() + 4 * full.left_out().len(), 4 * 4 * 4);
        let often = limited.iter().filter(|cell| cell.file_bytes <= 1_000_000);
        assert!(often.clone().count() == 32 && often.clone().all(|cell| cell.repetitions == 100));
    }

    #[test]
    fn cells_of_one_network_start_it_once() {
        let cells = Ingest::full().cells();
        let networks: Vec<_> = cells.iter().map(|cell| (cell.peers, cell.rate_bits)).collect();
        let mut changes = networks.clone();
        changes.dedup();
        assert_eq!(changes.len(), distinct(networks).len());
    }

    #[test]
    fn cells_that_take_too_long_are_left_out_and_said() {
        let slow = Ingest {
            rates_bits: vec![LEAST_RATE],
            ..Ingest::full()
        };
        slow.check().unwrap();
        assert!(slow.left_out().contains(&(24, 100_000_000, LEAST_RATE)));
        let left = |cell: &Cell| cell.rate_bits.is_some() && cell.file_bytes == 100_000_000;
        assert!(!slow.cells().iter().any(left));
        let patient = Ingest {
            cell_seconds: 1_000_000,
            ..slow
        };
        assert!(patient.left_out().is_empty() && patient.cells().iter().any(left));
    }

    #[test]
    fn quick_parameters_take_a_short_time() {
        let (quick, full) = (total(&Ingest::quick()), total(&Ingest::full()));
        Ingest::quick().check().unwrap();
        assert!(quick < Duration::from_mins(1), "{quick:?}");
        assert!(full > 5 * quick && full < Duration::from_mins(110), "{full:?}");
    }

    #[test]
    fn parameters_that_cannot_be_measured_are_refused() {
        let quick = Ingest::quick;
        let bad = |ingest: Ingest, why: &str| {
            let error = ingest.check().unwrap_err();
            assert!(matches!(error, ExperimentError::Usage(_)), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        };
        bad(
            Ingest { copies: 4, ..quick() },
            "copies:4 needs 4 peers; there are 3",
        );
        bad(Ingest { copies: 0, ..quick() }, "copies:0");
        bad(
            Ingest {
                peers: Vec::new(),
                ..quick()
            },
            "at least one",
        );
        let alone = Ingest {
            copies: 1,
            peers: vec![1],
            ..quick()
        };
        bad(alone, "another peer");
        bad(
            Ingest {
                sizes_bytes: vec![0],
                ..quick()
            },
            "0 bytes",
        );
        bad(Ingest { repeat: 0, ..quick() }, "repetition");
        let slow = Ingest {
            rates_bits: vec![999_999],
            ..quick()
        };
        bad(
            slow,
            "a link of 999999 bit/s is too slow for a peer; 1 Mbit/s is the least",
        );
        let placed = |name: &str| Ingest {
            placements: vec![name.to_owned()],
            ..quick()
        };
        bad(placed("neighbours"), "neighbours");
        bad(placed("buddies:2"), "no groups can be formed");
    }
}
