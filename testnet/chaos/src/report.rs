//! What a chaos run has to say in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use mutualstore_contract::units::Size;
use serde::Serialize;
use strum::IntoEnumIterator;

use super::injector::{Fault, Tally};
use super::proxy::Passed;
use super::workload::{Count, Operations};

/// The outcome of a run, flat, as its JSON is. It is good when `operations.violations` is empty.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosReport {
    /// Seed of who was hurt, when and how.
    pub seed: u64,
    /// Seconds from the whole ring to the end of the audit.
    pub seconds: f64,
    /// Daemons in the end.
    pub peers: usize,
    /// What was injected, and survived.
    pub faults: BTreeMap<Fault, Tally>,
    /// Whether some daemons had small disks of their own that could be filled.
    pub disks: bool,
    /// Files in the end, each identical.
    pub files_stored: u64,
    /// Files deleted, each gone.
    pub files_deleted: u64,
    /// Versions of names that were acknowledged, each on all devices of the account.
    pub versions_named: u64,
    /// Files whose owner left before it could delete them: there or not.
    pub files_half_deleted: u64,
    /// Shards that all files have together.
    pub shards_expected: u64,
    /// Shards that all daemons hold.
    pub shards_held: u64,
    /// Of these, shards of puts that ended with their daemon: only its journal knew of them.
    pub orphans: u64,
    /// Bytes of these, headers included.
    pub used_bytes: u64,
    /// Bytes that all shard stores take on disk, reserves and indices included.
    pub disk_bytes: u64,
    /// What the network between the daemons carried.
    pub passed: Passed,
    /// What the clients did and saw.
    pub operations: Operations,
    /// Where journal and logs are, when something was wrong.
    pub kept: Option<PathBuf>,
}

impl ChaosReport {
    /// Whether everything was as it should be.
    pub fn is_good(&self) -> bool {
        self.operations.violations.is_empty()
    }

    /// Faults of all kinds injected.
    pub fn injected(&self) -> u64 {
        self.faults.values().map(|tally| tally.injected).sum()
    }

    /// Daemons killed by SIGKILL.
    pub fn kills(&self) -> u64 {
        self.faults.values().map(|tally| tally.kills).sum()
    }

    fn fmt_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = &self.operations;
        let (size, few) = (Size(operations.put_bytes), operations.puts_with_warning);
        let note = format!("; {size}, {few} with fewer shards and told so");
        let lines = [
            ("puts", operations.puts, note.as_str()),
            ("gets, compared", operations.gets, ""),
            ("deletions", operations.deletes, ""),
            ("reads of deleted files", operations.checks, ""),
            ("writes of names", operations.named_writes, ""),
            ("reads of names, compared", operations.named_reads, ""),
        ];
        writeln!(f)?;
        for (what, Count { done, failed }, note) in lines {
            writeln!(f, "{what:<26} {done:>8} {failed:>8} refused or broken off{note}")?;
        }
        writeln!(f)
    }

    fn fmt_outcome(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} files identical, {} deleted ones gone, {} whose deletion nobody could finish; {} versions of \
             names on all devices",
            self.files_stored, self.files_deleted, self.files_half_deleted, self.versions_named
        )?;
        writeln!(
            f,
            "{} daemons hold {} shards ({}, {} on disk); files have {}; {} are of puts that ended with their \
             daemon",
            self.peers,
            self.shards_held,
            Size(self.used_bytes),
            Size(self.disk_bytes),
            self.shards_expected,
            self.orphans
        )?;
        writeln!(
            f,
            "{} went between daemons; {} bits flipped, {} connections cut",
            Size(self.passed.bytes),
            self.passed.flipped_bits,
            self.passed.cut_connections
        )?;
        for violation in &self.operations.violations {
            writeln!(f, "VIOLATION {violation}")?;
        }
        write!(f, "seed {}", self.seed)?;
        if let Some(kept) = &self.kept {
            write!(f, "; journal and logs are kept in {}", kept.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:>8} {:>8}", "fault", "injected", "survived")?;
        for fault in Fault::iter() {
            let tally = self.faults.get(&fault).copied().unwrap_or_default();
            let why = if fault == Fault::FillDisk && !self.disks {
                "  (needs root, for disks of their own)"
            } else {
                ""
            };
            writeln!(f, "{fault:<26} {:>8} {:>8}{why}", tally.injected, tally.survived)?;
        }
        writeln!(
            f,
            "{:<26} {:>8}           {} of them SIGKILLs of daemons, in {:.0} s",
            "all",
            self.injected(),
            self.kills(),
            self.seconds
        )?;
        self.fmt_operations(f)?;
        self.fmt_outcome(f)
    }
}
