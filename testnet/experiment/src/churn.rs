//! `churn`: peers come, leave and die all the time; how many files are lost and what repair moves.
//!
//! There are always N peers. Each stays for a time drawn from an exponential distribution, then it leaves in
//! order or, more often, is killed and its disk is gone; a new and empty one joins in its place. Departures
//! of all peers together are so a Poisson process of rate N / session. A daemon takes seconds to start, and
//! sessions are scaled to minutes to fit.
//!
//! Blake and Rodrigues 2003 ("High Availability, Scalable Storage, Dynamic Peer Networks: Pick Two", `HotOS`
//! IX): whatever the scheme, in a steady state each peer's stored bytes must be sent to somebody in every
//! session, so that its link carries at least 2 × stored bytes / session, once up and once down. What the
//! daemons send and receive on their connections for shards stands beside that.

mod measure;
mod tables;

use std::time::Duration;

use itertools::iproduct;
use mutualstore_erasure::Code;
use serde::{Deserialize, Serialize};

use super::{AUTO, Experiment, Findings, Result, Stage, check_code, check_some, ensure, parsed};

/// Seconds to start a network, and to look for what was lost.
const AROUND_SECONDS: f64 = 12.0;

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Churn {
    /// Number of daemons at any time.
    pub peers: usize,
    /// Codes, spelled out: each must leave peers over.
    pub codes: Vec<String>,
    /// Mean session lengths, seconds.
    pub sessions_seconds: Vec<u64>,
    /// Repair delays, seconds.
    pub repair_delays_seconds: Vec<u64>,
    /// Of 100 sessions, how many end with a departure in order.
    pub leave_percent: u8,
    /// Number of files.
    pub files: usize,
    /// Size of each, bytes.
    pub file_bytes: u64,
    /// How long peers come and go, seconds.
    pub duration_seconds: u64,
    /// Repetitions, each with other events.
    pub repeat: usize,
}

impl Churn {
    /// Four codes, three session lengths, two delays, two minutes each.
    pub fn full() -> Self {
        Self {
            peers: 12,
            codes: ["copies:3", "xor:4", "rs:4+2", "rs:4+4"]
                .map(str::to_owned)
                .into(),
            sessions_seconds: vec![60, 240],
            repair_delays_seconds: vec![2, 10],
            leave_percent: 25,
            files: 40,
            file_bytes: 1_000_000,
            duration_seconds: 60,
            repeat: 1,
        }
    }

    /// A glimpse: a quarter of a minute of heavy churn for two codes.
    pub fn quick() -> Self {
        Self {
            codes: ["copies:3", "rs:4+2"].map(str::to_owned).into(),
            sessions_seconds: vec![30],
            repair_delays_seconds: vec![2],
            files: 10,
            duration_seconds: 15,
            ..Self::full()
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The code of the file.
    pub code: String,
    /// Mean session length.
    pub session_seconds: u64,
    /// Repair delay.
    pub repair_delay_seconds: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
}

/// What came of a cell, a field for each column of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Number of daemons at any time.
    pub peers: usize,
    /// The code of the file.
    pub code: String,
    /// Mean session length.
    pub session_seconds: u64,
    /// Repair delay.
    pub repair_delay_seconds: u64,
    /// Which repetition.
    pub repetition: usize,
    /// How long peers came and went.
    pub seconds: f64,
    /// Peers that joined.
    pub joins: u64,
    /// Peers that left in order.
    pub leaves: u64,
    /// Peers that were killed.
    pub kills: u64,
    /// Files stored.
    pub files: usize,
    /// Files that nobody could read in the end.
    pub files_lost: usize,
    /// Bytes of shards on all peers, mean over the time.
    pub stored_bytes: f64,
    /// Shards that were rebuilt or copied.
    pub repaired_shards: u64,
    /// Their bytes.
    pub repair_bytes: u64,
    /// What daemons sent and received on their connections for shards, both directions.
    pub traffic_bytes: u64,
    /// Least traffic in this time by Blake and Rodrigues: 2 × stored bytes × time / session.
    pub bound_bytes: f64,
    /// The same with the departures that happened instead of those that the session length lets expect.
    pub bound_seen_bytes: f64,
}

impl Experiment for Churn {
    const NAME: &'static str = "churn";
    type Cell = Cell;
    type Reading = Reading;

    fn check(&self) -> Result<()> {
        check_some("peer", self.peers)?;
        check_some("code", self.codes.len())?;
        check_some("session length", self.sessions_seconds.len())?;
        check_some("repair delay", self.repair_delays_seconds.len())?;
        check_some("file", self.files)?;
        check_some("repetition", self.repeat)?;
        let (peers, leave) = (self.peers, self.leave_percent);
        let lasts = self.file_bytes > 0 && self.duration_seconds > 0 && !self.sessions_seconds.contains(&0);
        ensure(lasts, || {
            "files, sessions and the whole time must be longer than 0".to_owned()
        })?;
        let delays = !self.repair_delays_seconds.contains(&0);
        ensure(delays, || "a repair delay of 0 s is none".to_owned())?;
        ensure(leave <= 100, || format!("{leave} of 100 sessions cannot be"))?;
        self.codes.iter().try_for_each(|code| {
            check_code(code, peers)?;
            ensure(code != AUTO, || {
                format!("{code}: here the code must be spelled out")
            })?;
            ensure(usize::from(parsed::<Code>(code)?.n()) < peers, || {
                format!("{code} leaves none of {peers} peers to repair with")
            })
        })
    }

    fn cells(&self) -> Vec<Cell> {
        let (sessions, delays) = (&self.sessions_seconds, &self.repair_delays_seconds);
        let all = iproduct!(&self.codes, sessions, delays, 0..self.repeat);
        let cell = |(code, session, delay, repetition): (&String, &u64, &u64, usize)| Cell {
            code: code.clone(),
            session_seconds: *session,
            repair_delay_seconds: *delay,
            repetition,
        };
        all.map(cell).collect()
    }

    fn cost(&self, cell: &Cell) -> Duration {
        let seconds = self.duration_seconds + 2 * cell.repair_delay_seconds;
        Duration::from_secs(seconds) + Duration::from_secs_f64(AROUND_SECONDS)
    }

    fn label(&self, cell: &Cell) -> String {
        let (session, delay) = (cell.session_seconds, cell.repair_delay_seconds);
        format!("{}, sessions of {session} s, repair after {delay} s", cell.code)
    }

    fn measure(&mut self, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
        let measured = measure::cell(self, cell, stage);
        // Nobody can use what is left of it.
        if measured.is_ok() {
            stage.interrupted()?;
        }
        stage.close();
        Ok(vec![measured?])
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
    fn cells_hold_every_combination() {
        let full = Churn::full();
        full.check().unwrap();
        assert_eq!(full.cells().len(), 4 * 2 * 2);
        let quick = Churn::quick();
        quick.check().unwrap();
        let total: Duration = quick.cells().iter().map(|cell| quick.cost(cell)).sum();
        assert!(total < Duration::from_mins(2), "{total:?}");
    }

    #[test]
    fn parameters_that_cannot_be_measured_are_refused() {
        let refused = |churn: Churn| assert!(matches!(churn.check(), Err(ExperimentError::Usage(_))));
        let quick = Churn::quick;
        refused(Churn { peers: 6, ..quick() });
        refused(Churn {
            codes: vec!["auto".to_owned()],
            ..quick()
        });
        refused(Churn {
            sessions_seconds: vec![0],
            ..quick()
        });
        refused(Churn {
            leave_percent: 101,
            ..quick()
        });
        refused(Churn { files: 0, ..quick() });
    }
}
