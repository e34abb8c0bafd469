//! Looking after a peer: scrub, forget, leave.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Client, ClientError, Reply, accepted, answer, encoded, with_query};

/// Answer to `scrub`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Whether everything was read; otherwise it has only begun.
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

/// How far a departure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Departure {
    /// Nobody asked for it.
    Stays,
    /// Shards go to others.
    Draining,
    /// Not all can be handed over: it stays.
    Stuck,
    /// It left the ring and ends soon.
    Left,
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
    #[serde(default)]
    pub reason: Option<String>,
}

impl Client {
    /// Reads every shard the peer holds; with `wait` answers when that is done.
    pub fn scrub(&self, wait: bool) -> Result<Reply<ScrubReport>, ClientError> {
        self.post("/v1/scrub", &flags(&[("wait", wait)]))
    }

    /// A peer, by its id or its beginning or end, is gone for good: what it held is rebuilt now.
    pub fn forget(&self, peer: &str) -> Result<Reply<Forgotten>, ClientError> {
        self.post(&format!("/v1/forget/{}", encoded(peer)), &[])
    }

    /// Begins to hand over what the peer holds; then it leaves the ring and ends.
    pub fn leave(&self, force: bool) -> Result<Reply<LeaveReport>, ClientError> {
        self.post("/v1/leave", &flags(&[("force", force)]))
    }

    /// How far that is.
    pub fn leaving(&self) -> Result<Reply<LeaveReport>, ClientError> {
        self.ask("/v1/leave")
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Reply<T>, ClientError> {
        let url = format!("{}{}", self.base, with_query(path, query));
        // It takes as long as it takes.
        let request = self.agent.post(url).header("Authorization", &self.bearer);
        answer(accepted(
            request.send_empty().map_err(|error| self.broken(&error))?,
        )?)
    }
}

fn flags<'a>(flags: &[(&'a str, bool)]) -> Vec<(&'a str, String)> {
    let set = flags.iter().filter(|(_, set)| *set);
    set.map(|(name, _)| (*name, "1".to_owned())).collect()
}
