//! Looking after a peer: scrub, forget, leave.

use mutualstore_contract::reply::{Forgotten, LeaveReport, ScrubReport};
use serde::de::DeserializeOwned;

use super::{Client, ClientError, Reply, accepted, answer, encoded, with_query};

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
