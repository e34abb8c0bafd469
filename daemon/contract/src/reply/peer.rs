//! Answers about one peer and the ring as it knows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ShardStat;

words! {
    /// How far a peer is a member of its ring.
    RingState {
        /// It has a ring of its own and nobody to join.
        Alone = "alone",
        /// It looks for the ring that it is to join.
        Joining = "joining",
        /// It is a member.
        Joined = "joined",
        /// Others do not let it in.
        Refused = "refused",
        /// It hands over what it holds, or has done so.
        Leaving = "leaving",
    }
}

words! {
    /// Whether a peer answers others.
    PeerState {
        /// It answers.
        Alive = "alive",
        /// It does not answer, and its shards are not rebuilt yet.
        Suspect = "suspect",
        /// It has not answered for so long that its shards count as lost.
        Gone = "gone",
    }
}

/// `DIR/daemon.json`: who serves a data directory, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonFile {
    /// Process id.
    pub pid: u32,
    /// Peer id as libp2p shows it.
    pub peer: String,
    /// `http://ADDR:PORT` of the API.
    pub api: String,
    /// Multiaddresses it listens on, with `/p2p/`.
    pub listen: Vec<String>,
    /// Start, Unix time in milliseconds.
    pub started: u64,
    /// Device and inode of `DIR/lock`: a copy of the directory has another one. Empty where the system does
    /// not tell.
    #[serde(default)]
    pub lock: String,
}

/// Who answers: lets a client make sure, at no cost, that it talks to the daemon it means.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Its peer id.
    pub peer: String,
    /// Its process id.
    pub pid: u32,
    /// Its start as in [`DaemonFile`]; none if it does not say.
    #[serde(default)]
    pub started: Option<u64>,
}

impl Identity {
    /// Whether it is the daemon that wrote this file.
    pub fn is_of(&self, file: &DaemonFile) -> bool {
        let same_start = self.started.is_none_or(|started| started == file.started);
        self.peer == file.peer && self.pid == file.pid && same_start
    }
}

/// Answer to `status`. It is flat, as its JSON is: scripts read the fields by name.
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
    /// Bytes of shards whose put is not finished.
    #[serde(default)]
    pub pending_bytes: u64,
    /// Shards held.
    pub shards: u64,
    /// Locators held.
    #[serde(default)]
    pub locators: u64,
    /// Places on the ring.
    pub virtual_nodes: u64,
    /// How far it is a member.
    pub ring: RingState,
    /// Who does not let this peer in, and why, while `ring` is `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Id of the network, hexadecimal; none before one is joined.
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
    /// Files put through this daemon, by health as it is remembered.
    pub files: FileHealth,
    /// Age of the oldest of these answers in seconds.
    #[serde(default)]
    pub files_age_seconds: Option<u64>,
    /// How many of the files have which code.
    #[serde(default)]
    pub codes: BTreeMap<String, u64>,
    /// Repair work.
    pub repair: RepairCounters,
    /// Stripes this peer is the primary of.
    #[serde(default)]
    pub stripes_home: StripesHome,
    /// What the scrub and other reads found.
    #[serde(default)]
    pub scrub: ScrubCounters,
    /// Buckets with changes that stand here alone, as too few holders could be had.
    #[serde(default)]
    pub buckets_waiting: u64,
    /// Records of buckets that holders had and no longer have, since the daemon started; they got them again.
    #[serde(default)]
    pub records_rolled_back_total: u64,
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

/// Number of files put through a daemon, by health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHealth {
    /// Every stripe is complete.
    pub safe: u64,
    /// Some stripe is incomplete.
    pub degraded: u64,
    /// Some stripe has exactly k shards.
    pub endangered: u64,
    /// Some stripe has fewer than k shards.
    pub lost: u64,
    /// Nobody was asked about them since the daemon began.
    #[serde(default)]
    pub unknown: u64,
}

/// Repair work of a daemon since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RepairCounters {
    /// Repairs to be done or running.
    pub pending: u64,
    /// Repairs that are running.
    #[serde(default)]
    pub running: u64,
    /// Repairs that wait for peers to come back.
    #[serde(default)]
    pub parked: u64,
    /// Shards rebuilt.
    pub regenerated_total: u64,
    /// Repairs begun in place of a primary that did not repair.
    #[serde(default)]
    pub taken_over_total: u64,
    /// Bytes of the rebuilt shards.
    pub bytes_total: u64,
}

/// Stripes a peer is the primary of, by health.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StripesHome {
    /// All n shards are there, and another peer has counted them.
    pub safe: u64,
    /// Fewer than n shards are there.
    pub degraded: u64,
    /// Repaired here and not yet counted by another peer.
    pub uncounted: u64,
    /// Exactly k shards are there.
    pub endangered: u64,
    /// Fewer than k shards are there.
    pub lost: u64,
    /// Their put is not finished.
    pub pending: u64,
}

/// Shards read again since the daemon started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ScrubCounters {
    /// Shards read.
    pub checked_total: u64,
    /// Of these, those that were damaged, and dropped for others to replace.
    pub bad_total: u64,
}

/// What the daemon process uses.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ProcessUse {
    /// User and system CPU time since the start.
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

/// How a peer looks to a few others.
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

/// Answer to `ring`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ring {
    /// The peers; a walk lists only those that answered.
    pub peers: Vec<RingPeer>,
    /// With `fingers`: the routing shortcuts of this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingers: Option<Vec<Finger>>,
    /// With `check`: whether every virtual node reaches every other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// Part of the circle it is responsible for, 0..=1.
    #[serde(default)]
    pub share: Option<f64>,
    /// Where it listens.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether it answers.
    pub state: PeerState,
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
    /// Virtual nodes looked up.
    #[serde(default)]
    pub lookups: u64,
    /// One line for each peer that sees another ring and each virtual node that was not found.
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

/// Answer to `invite`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteReply {
    /// One word with addresses, network id and secret.
    pub invite: String,
}
