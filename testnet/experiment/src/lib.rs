//! Experiments on networks of real daemons: parameters, cells, measurements that survive an interruption.
//!
//! An [`Experiment`] is a list of *cells*, each measured by itself on a temporary network. What a cell gave
//! is appended durably to `OUT/NAME/cells.jsonl` before the next one begins; the same command run again
//! measures only the cells that are missing, and [`Findings`] are computed from all of them. `OUT/NAME.csv`
//! has every reading.
//!
//! Invariants: a cell is kept whole or not at all, and never after Ctrl-C took its daemons down; a directory
//! belongs to one set of parameters, and to one process at a time. Every byte that is read back is compared.
//! Nothing here prints: whoever calls [`run`] is told how far it is.

pub mod analysis;
pub mod churn;
pub mod findings;
pub mod ingest;
mod journal;
pub mod load;
pub mod loss;
mod pace;
pub mod patterns;
mod publish;
pub mod report;
mod run;
pub mod shard_map;
mod stage;
#[cfg(test)]
mod testing;
pub mod timing;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mutualstore_client::ClientError;
use mutualstore_contract::exit;
use mutualstore_erasure::{Code, Policy};
use serde::Serialize;
use serde::de::DeserializeOwned;

use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::scratch::RunOptions;

pub use findings::{Findings, Histogram};
pub use pace::Progress;
pub use publish::publish;
pub use run::{Outcome, Planned, ProgressSink, plan, run};
pub use stage::Stage;

/// What all experiments of a run have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// Where results are kept; made when missing.
    pub out: PathBuf,
    /// Seed of every file's bytes and of every choice.
    pub seed: u64,
    /// The parameters were chosen for a short run: noted in every output.
    pub quick: bool,
}

/// One experiment; its fields are its parameters.
pub trait Experiment: fmt::Debug + Serialize {
    /// Of its directory, its CSV file and its command.
    const NAME: &'static str;
    /// What distinguishes one measurement from all others of the experiment.
    type Cell: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned;
    /// One row of the CSV file: flat, with the cell's parameters; units stand in the names of its fields.
    type Reading: fmt::Debug + Serialize + DeserializeOwned;

    /// Fails where it cannot work with these parameters; nothing is begun then.
    fn check(&self) -> Result<()>;

    /// Everything to measure, in order; neighbours that share a network cost less.
    fn cells(&self) -> Vec<Self::Cell>;

    /// About how long a cell takes on two cores; what is left to do is estimated from the ratios.
    fn cost(&self, cell: &Self::Cell) -> Duration;

    /// A cell in a few words, for whoever waits.
    fn label(&self, cell: &Self::Cell) -> String;

    /// Measures one cell.
    fn measure(&mut self, cell: &Self::Cell, stage: &mut Stage) -> Result<Vec<Self::Reading>>;

    /// What the readings say.
    fn findings(&self, readings: &[Self::Reading]) -> Findings;

    /// The values of which histograms are worth drawing, if any.
    fn histograms(&self, _readings: &[Self::Reading]) -> Vec<Histogram> {
        Vec::new()
    }
}

/// An experiment was not carried to its end. No process is left; the cells measured so far are kept.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// It cannot work with these parameters; nothing was begun.
    #[error("{0}")]
    Usage(String),
    /// Results cannot be written or read.
    #[error("cannot use {}: {source}", path.display())]
    Out {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The directory holds results of other parameters; they are untouched.
    #[error("{} was measured with {difference}; take these again, or another --out", path.display())]
    OtherParameters {
        /// The file of results.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// The file of results is not what this program writes; it is untouched.
    #[error("{} is damaged in line {line}; move it away, or take another --out", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// Another process is writing there.
    #[error("another run writes to {}", path.display())]
    Busy {
        /// The file of results.
        path: PathBuf,
    },
    /// The daemons did not come up or did not do what was asked, or one ended by itself.
    #[error("{what}: {source}")]
    Fleet {
        /// The cell.
        what: String,
        /// What happened.
        source: FleetError,
    },
}

/// What comes of an experiment, or of a part of it.
pub type Result<T, E = ExperimentError> = std::result::Result<T, E>;

impl ExperimentError {
    /// The exit code the command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Out { source, .. } if source.kind() == io::ErrorKind::StorageFull => exit::NO_SPACE,
            Self::Usage(_) | Self::Out { .. } | Self::OtherParameters { .. } | Self::Damaged { .. } => {
                exit::USAGE
            }
            Self::Busy { .. } => exit::REFUSED,
            Self::Fleet { source, .. } => source.exit_code(),
        }
    }

    /// The same, said of a cell.
    fn of(mut self, cell: &str) -> Self {
        if let Self::Fleet { what, .. } = &mut self {
            cell.clone_into(what);
        }
        self
    }

    fn client(what: impl Into<String>) -> impl FnOnce(ClientError) -> Self {
        let what = what.into();
        move |source| FleetError::Request { what, source }.into()
    }

    fn out(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Out { path, source }
    }
}

impl<E: Into<FleetError>> From<E> for ExperimentError {
    fn from(source: E) -> Self {
        Self::Fleet {
            what: String::new(),
            source: source.into(),
        }
    }
}

/// What a text says, or that it says nothing of the kind.
fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error| ExperimentError::Usage(format!("{text}: {error}")))
}

/// `auto`, or a code that `peers` peers can hold one shard each of.
fn check_code(code: &str, peers: usize) -> Result<()> {
    if code == AUTO {
        return Ok(());
    }
    let shards = parsed::<Code>(code)?.n();
    ensure(usize::from(shards) <= peers, || {
        format!("{code} needs {shards} peers; there are {peers}")
    })
}

/// A policy whose groups hold a stripe of this code.
fn check_placement(placement: &str, code: Code) -> Result<()> {
    let checked = parsed::<Policy>(placement)?.check(code);
    let unfit = |error| ExperimentError::Usage(format!("no groups can be formed: {error}"));
    checked.map(drop).map_err(unfit)
}

/// Fails with what is wrong, unless it is fine.
fn ensure(fine: bool, wrong: impl FnOnce() -> String) -> Result<()> {
    fine.then_some(()).ok_or_else(|| ExperimentError::Usage(wrong()))
}

/// Fails when there are none of something of which some are needed.
fn check_some(what: &str, count: usize) -> Result<()> {
    ensure(count > 0, || format!("at least one {what} is needed"))
}

/// How a code is shown that may be the daemon's choice.
fn shown_code(asked: &str, used: &str) -> String {
    if asked == used {
        asked.to_owned()
    } else {
        format!("{asked} ({used})")
    }
}

/// The code a daemon chooses by the number of peers.
const AUTO: &str = "auto";

/// Stored bytes per byte of a file; of `auto`, the most it comes to with two peers and more.
fn expansion(code: &str) -> f64 {
    code.parse::<Code>()
        .map_or(2.0, |code| f64::from(code.n()) / f64::from(code.k().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_fleet::spawn::SpawnError;

    #[test]
    fn code_of_more_shards_than_peers_is_refused() {
        assert!(check_code("auto", 1).is_ok());
        assert!(check_code("rs:4+2", 6).is_ok());
        for (code, peers) in [("rs:4+2", 5), ("copies:3", 2), ("three", 9)] {
            let error = check_code(code, peers).unwrap_err();
            assert_eq!(error.exit_code(), exit::USAGE, "{error}");
        }
        assert!(check_some("peer", 0).is_err());
    }

    #[test]
    fn failure_of_a_cell_names_it() {
        let late = ExperimentError::from(FleetError::Late {
            what: "an end".to_owned(),
            waited: Duration::from_secs(3),
        });
        assert_eq!(
            late.of("rs:4+2, 1 MB").to_string(),
            "rs:4+2, 1 MB: waited 3 s for an end"
        );
        let gone = ExperimentError::from(SpawnError::Closed);
        assert_eq!(gone.of("copies:1").to_string(), "copies:1: interrupted");
    }
}
