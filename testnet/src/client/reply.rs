//! What the daemon answers, as types. Unknown fields are ignored: a newer daemon may say more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DaemonFile;

/// An answer both as the daemon sent it (for `--json`) and as a type (for people).
#[derive(Clone, Debug)]
pub struct Reply<T> {
    /// The document as sent.
    pub json: Value,
    /// The same, read.
    pub body: T,
}

/// How well a file or stripe is protected; ordered from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Fewer than k shards are reachable.
    Lost,
    /// Exactly k shards: one more loss and it is gone.
    Endangered,
    /// Fewer than n shards.
    Degraded,
    /// All n shards on distinct live peers.
    Safe,
}

impl Health {
    /// The word used in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Endangered => "endangered",
            Self::Degraded => "degraded",
            Self::Safe => "safe",
        }
    }
}

/// Answer to `put`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutReport {
    /// The link to the file.
    pub link: String,
    /// Bytes taken in.
    pub size_bytes: u64,
    /// Stripes stored, manifest included.
    pub stripes: u64,
    /// The code used, `auto` resolved.
    pub code: String,
    /// The placement policy used.
    pub placement: String,
    /// `file` or `fragment`, what keeps to one group; none where the policy has no groups.
    #[serde(default)]
    pub scope: Option<String>,
    /// Shards that are durable.
    pub shards_stored: u64,
    /// Shards the code asks for.
    pub shards_total: u64,
    /// Seconds from the first byte to the acknowledgement.
    pub seconds: f64,
    /// Why the file is protected less than the code promises.
    #[serde(default)]
    pub warning: Option<String>,
}

/// Answer to `rm`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deleted {
    /// Base name given at `put`.
    pub name: String,
    /// File size in bytes.
    pub size_bytes: u64,
    /// Stripes deleted, those of the manifest included; 0 if an earlier attempt had deleted them all.
    pub stripes: u64,
    /// Shards at peers that did not answer; they go when these come back.
    pub shards_left: u64,
}

/// Answer to `stat`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileStat {
    /// File size in bytes.
    pub size_bytes: u64,
    /// Base name given at `put`.
    #[serde(default)]
    pub name: Option<String>,
    /// When it was put, RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// Code of its data.
    pub code: String,
    /// Placement policy.
    pub placement: String,
    /// `file` or `fragment`, what keeps to one group; none where the policy has no groups.
    #[serde(default)]
    pub scope: Option<String>,
    /// The worst stripe's health.
    pub health: Health,
    /// Every stripe.
    pub stripes: Vec<StripeStat>,
}

/// One stripe of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StripeStat {
    /// Stripe id, hexadecimal.
    pub id: String,
    /// `data` or `manifest`.
    pub kind: String,
    /// Bytes of the block it holds.
    pub length_bytes: u64,
    /// What its group is found by, hexadecimal; none where that is the stripe id, or there are no groups.
    #[serde(default)]
    pub anchor: Option<String>,
    /// Peers of its group as it is now; none where there are no groups.
    #[serde(default)]
    pub group: Option<Vec<String>>,
    /// Distinct shards on live peers.
    pub live: u32,
    /// Shards needed to read it (k).
    pub needed: u32,
    /// Every shard.
    pub shards: Vec<ShardStat>,
}

/// One shard of a stripe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardStat {
    /// Index within the stripe.
    pub index: u32,
    /// The holder, when one is known.
    #[serde(default)]
    pub peer: Option<String>,
    /// `ok`, `pending`, `corrupt`, `missing` or `unreachable`.
    pub state: String,
}

/// Answer to `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This peer's id.
    pub peer: String,
    /// Version of the daemon.
    pub version: String,
    /// Bytes given to the network.
    pub capacity_bytes: u64,
    /// Bytes of committed shards with their headers.
    pub used_bytes: u64,
    /// Shards held.
    pub shards: u64,
    /// Places on the ring.
    pub virtual_nodes: u64,
    /// `alone`, `joining`, `joined`, `refused` or `leaving`.
    pub ring: String,
    /// Who does not let this peer in, and why, while `ring` is `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Id of the network; none before one is joined.
    #[serde(default)]
    pub network: Option<String>,
    /// Whether anybody can join it; none before one is joined.
    #[serde(default)]
    pub open: Option<bool>,
    /// Join addresses through which nobody was met yet, each with how the last attempt ended.
    #[serde(default)]
    pub join: BTreeMap<String, String>,
    /// Peers known to live, this one included.
    pub peers_known: u64,
    /// Health of the files put here, as last determined.
    pub files: FileHealth,
    /// Age of the oldest of these answers.
    #[serde(default)]
    pub files_age_seconds: Option<u64>,
    /// How many of the files have which code.
    #[serde(default)]
    pub codes: BTreeMap<String, u64>,
    /// Repair work.
    pub repair: RepairCounters,
    /// What the scrub and other reads found.
    #[serde(default)]
    pub scrub: ScrubCounters,
    /// Changes of the shard store that its disk failed, since the daemon started.
    #[serde(default)]
    pub write_failures_total: u64,
    /// Whether the API may be served beyond loopback, in plain text.
    #[serde(default)]
    pub api_insecure: bool,
    /// The daemon process.
    pub process: ProcessUse,
    /// Seconds since the daemon started.
    pub uptime_seconds: f64,
}

/// How a peer looks to others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outside {
    /// Peers that were asked.
    pub asked: u64,
    /// Peers that answered.
    pub answered: u64,
    /// Of these, those that could open a connection to an address it announces.
    pub reached: u64,
    /// How far their clocks are ahead of its own, the middle of them; none if nobody answered.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
}

/// Shards read again since the daemon started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ScrubCounters {
    /// Shards read.
    pub checked_total: u64,
    /// Of these, those that were damaged, and dropped for others to replace.
    pub bad_total: u64,
}

/// Number of files put through a daemon, by health.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FileHealth {
    /// Every stripe complete.
    pub safe: u64,
    /// Some stripe incomplete.
    pub degraded: u64,
    /// Some stripe at exactly k.
    pub endangered: u64,
    /// Some stripe below k.
    pub lost: u64,
    /// Not asked about since the daemon began.
    #[serde(default)]
    pub unknown: u64,
}

/// Repair work of a daemon since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RepairCounters {
    /// Shards known to be missing.
    pub pending: u64,
    /// Shards rebuilt.
    pub regenerated_total: u64,
    /// Bytes of the rebuilt shards.
    pub bytes_total: u64,
}

/// What the daemon process uses.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ProcessUse {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Files and connections that are open.
    #[serde(default)]
    pub files_open: u64,
    /// How many may be; none if nothing limits it.
    #[serde(default)]
    pub files_limit: Option<u64>,
}

/// Answer to `ring`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ring {
    /// The peers; a walk lists only those that answered.
    pub peers: Vec<RingPeer>,
    /// With `fingers`: the routing shortcuts of this peer.
    #[serde(default)]
    pub fingers: Vec<Finger>,
    /// With `check`: whether every virtual node reaches every other.
    #[serde(default)]
    pub check: Option<RingCheck>,
}

/// One peer of the ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RingPeer {
    /// Its id.
    pub peer: String,
    /// Its places on the ring.
    pub virtual_nodes: u64,
    /// The indices of these; with the peer's id they make the ids on the ring.
    #[serde(default)]
    pub indices: Vec<u16>,
    /// Bytes it gives.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// Bytes it holds, when known.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    /// Part of the circle it owns, 0..=1.
    #[serde(default)]
    pub share: Option<f64>,
    /// Where it listens.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// `alive`, `suspect` or `gone`.
    pub state: String,
}

/// One routing shortcut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finger {
    /// The identifier looked for, hexadecimal.
    pub target: String,
    /// The virtual node found, hexadecimal.
    pub id: String,
    /// Its peer.
    pub peer: String,
}

/// Outcome of a ring check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RingCheck {
    /// Nothing was found.
    pub ok: bool,
    /// Lookups made.
    #[serde(default)]
    pub lookups: u64,
    /// One line per virtual node that was not reached or contradicted.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Answer to `lookup`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// The identifier looked up, hexadecimal.
    pub id: String,
    /// Peers asked one after the other.
    pub hops: u64,
    /// Peers that did not answer.
    pub timeouts: u64,
    /// Time taken.
    pub milliseconds: f64,
    /// The peers asked, in order.
    pub path: Vec<String>,
    /// The peers responsible, nearest first.
    pub holders: Vec<String>,
    /// The shards of the stripe with that id that somebody reachable has, or knows of.
    #[serde(default)]
    pub shards: Vec<ShardStat>,
}

/// Answer to `ls`, or one page of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileList {
    /// Files put through this daemon, in the order they were put.
    pub files: Vec<ListedFile>,
    /// Where the next page begins; none when there is no more.
    #[serde(default)]
    pub next: Option<String>,
}

/// One line of `ls`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListedFile {
    /// Base name.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// When it was put, RFC 3339.
    pub created: String,
    /// Code of its data.
    pub code: String,
    /// Health as last determined; absent before the first look.
    #[serde(default)]
    pub health: Option<Health>,
    /// How long ago that was.
    #[serde(default)]
    pub health_age_seconds: Option<u64>,
    /// The link.
    pub link: String,
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
    /// Peers that could not be asked.
    #[serde(default)]
    pub silent: Vec<String>,
    /// What cannot be rebuilt now, of what the daemon knows.
    #[serde(default)]
    pub unrecoverable: Vec<Unrecoverable>,
}

/// A file or stripe of which too few shards are reachable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unrecoverable {
    /// Name of the file; none for a stripe of a file that was put elsewhere.
    #[serde(default)]
    pub name: Option<String>,
    /// The stripe, how many shards are needed, how many are there, and how many may come back.
    pub reason: String,
    /// Whether it stays so whoever comes back.
    #[serde(default)]
    pub gone: bool,
}

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Its peer id.
    pub peer: String,
    /// Its process id.
    pub pid: u32,
    /// Its start, Unix time in milliseconds; none if it does not say.
    #[serde(default)]
    pub started: Option<u64>,
}

impl Identity {
    /// Whether it is the daemon that wrote this file.
    pub(super) fn is_of(&self, file: &DaemonFile) -> bool {
        let same_start = self.started.is_none_or(|started| started == file.started);
        self.peer == file.peer && self.pid == file.pid && same_start
    }
}

/// Answer to `invite`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteReply {
    /// One word with addresses, network id and secret.
    pub invite: String,
}

/// What is known of a file before its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHead {
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Base name given at `put`, decoded but not made harmless.
    pub name: Option<String>,
}

/// A batch of events of one transfer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Events {
    #[serde(default, rename = "events")]
    pub(super) lines: Vec<String>,
    #[serde(default)]
    pub(super) next: u64,
    #[serde(default)]
    pub(super) done: bool,
    #[serde(default)]
    pub(super) error: Option<ErrorBody>,
}

/// Every error of the daemon.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: String,
    pub(super) code: u8,
    #[serde(default)]
    pub(super) retry: bool,
}
