//! Answers to what keeps a network healthy: repair, scrub, forget, leave.

use serde::{Deserialize, Serialize};

words! {
    /// How far a departure is.
    Departure {
        /// Nobody asked for it.
        Stays = "stays",
        /// Shards go to others.
        Draining = "draining",
        /// Not all can be handed over: the peer stays.
        Stuck = "stuck",
        /// The peer left the ring and ends soon.
        Left = "left",
    }
}

/// Answer to `repair`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepairReport {
    /// Shards rebuilt since the request (0 unless waited for).
    #[serde(default)]
    pub regenerated: u64,
    /// Their bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Shards still to be rebuilt.
    #[serde(default)]
    pub pending: u64,
    /// Live peers that could not be asked.
    #[serde(default)]
    pub silent: Vec<String>,
    /// What cannot be rebuilt now, as far as the daemon knows; it looks when it is to wait, or a peer is
    /// named.
    #[serde(default)]
    pub unrecoverable: Vec<Unrecoverable>,
}

/// A file or stripe of which fewer shards are reachable than it takes to rebuild one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrecoverable {
    /// Name of a file that was put through this peer; none for a stripe of which only the id is known here.
    #[serde(default)]
    pub name: Option<String>,
    /// The stripe, how many shards are needed, how many are there, and how many may come back.
    pub reason: String,
    /// Whether it stays so whoever comes back: as far as it is known here, too few shards exist.
    #[serde(default)]
    pub gone: bool,
}

/// Answer to `scrub`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Whether everything was read; otherwise the pass has only begun.
    pub done: bool,
    /// Shards and tombstones read.
    #[serde(default)]
    pub checked: u64,
    /// Of these, those that were damaged, and dropped for others to replace.
    #[serde(default)]
    pub bad: u64,
    /// The first of them, `<stripe id>:<index>`.
    #[serde(default)]
    pub bad_shards: Vec<String>,
}

/// Answer to `forget`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// The peer's whole id.
    pub peer: String,
    /// Peers that do not wait for it any longer.
    pub told: u64,
    /// Peers that could not be told.
    #[serde(default)]
    pub silent: Vec<String>,
}

/// Answer to `leave`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveReport {
    /// How far it is.
    pub state: Departure,
    /// Shards still here.
    #[serde(default)]
    pub shards: u64,
    /// Their bytes, without those of unfinished puts.
    #[serde(default)]
    pub committed_bytes: u64,
    /// Why it is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
