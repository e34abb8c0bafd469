//! Answers about files and their transfers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ErrorBody;

words! {
    /// How well a file or stripe is protected; ordered from worst to best.
    Health {
        /// Fewer than k shards are reachable.
        Lost = "lost",
        /// Exactly k shards are reachable: one more loss and it is gone.
        Endangered = "endangered",
        /// Fewer than n shards are reachable.
        Degraded = "degraded",
        /// All n shards are on distinct live peers.
        Safe = "safe",
    }
}

words! {
    /// Where one shard of a stripe is.
    ShardState {
        /// A live peer holds it.
        Ok = "ok",
        /// A live peer holds it, but its put is not finished.
        Pending = "pending",
        /// Nobody is known to hold it.
        Missing = "missing",
        /// Its holder does not answer.
        Unreachable = "unreachable",
    }
}

words! {
    /// What a stripe holds of a file.
    StripeKind {
        /// Bytes of the file.
        Data = "data",
        /// The manifest, or a part of it.
        Manifest = "manifest",
    }
}

/// What stays together in one group, under the policies that have groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The whole file, its manifest included.
    #[default]
    File,
    /// Each stripe for itself.
    Fragment,
}

/// The text names no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope; expected file or fragment")]
pub struct ScopeError;

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        match text {
            "file" => Ok(Self::File),
            "fragment" => Ok(Self::Fragment),
            _ => Err(ScopeError),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Fragment => "fragment",
        })
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
    /// What keeps to one group; none where the policy has no groups.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// Shards that are durable.
    pub shards_stored: u64,
    /// Shards the code asks for.
    pub shards_total: u64,
    /// Seconds from the first byte to the acknowledgement.
    pub seconds: f64,
    /// Why the file is protected less than the code promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// The file has a name, `/BUCKET/KEY`: that is deleted, and nothing else yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
}

/// Answer to `stat`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileStat {
    /// File size in bytes.
    pub size_bytes: u64,
    /// Base name given at `put`.
    pub name: String,
    /// When it was put, RFC 3339.
    pub created: String,
    /// Code of its data.
    pub code: String,
    /// Placement policy.
    pub placement: String,
    /// What keeps to one group; none where the policy has no groups.
    #[serde(default)]
    pub scope: Option<Scope>,
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
    /// What it holds of the file.
    pub kind: StripeKind,
    /// Bytes of the block it holds.
    pub length_bytes: u64,
    /// What its group is found by, hexadecimal; none where that is the stripe id, or there are no groups.
    #[serde(default)]
    pub anchor: Option<String>,
    /// Peers of its group in the ring as it is; none where there are no groups.
    #[serde(default)]
    pub group: Option<Vec<String>>,
    /// Distinct shards on live peers.
    pub live: u32,
    /// Shards needed to read it (k).
    pub needed: u32,
    /// How well it is protected.
    pub health: Health,
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
    /// Where it is.
    pub state: ShardState,
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
    /// Health as last determined; none before the first answer after the daemon began.
    #[serde(default)]
    pub health: Option<Health>,
    /// Age of that answer in seconds.
    #[serde(default)]
    pub health_age_seconds: Option<u64>,
    /// The link.
    pub link: String,
}

/// What a running transfer noticed since it was last asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// One line for each event.
    #[serde(default)]
    pub events: Vec<String>,
    /// What `after` is for the next question.
    #[serde(default)]
    pub next: u64,
    /// Whether the transfer ended.
    #[serde(default)]
    pub done: bool,
    /// Why it failed, if it did.
    #[serde(default)]
    pub error: Option<ErrorBody>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_read_from_its_name_alone() {
        assert_eq!("file".parse(), Ok(Scope::File));
        assert_eq!("fragment".parse(), Ok(Scope::Fragment));
        assert_eq!("File".parse::<Scope>(), Err(ScopeError));
    }
}
