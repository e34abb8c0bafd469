//! Whether the daemons form one ring: every one says that it is joined, and a walk around the ring that
//! starts at any of them meets exactly the same peers.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, RingQuery};

const POLL: Duration = Duration::from_millis(150);

/// One daemon that should be in the ring.
#[derive(Clone, Debug)]
pub struct Member {
    /// Number of the peer.
    pub index: usize,
    /// Its peer id.
    pub peer: String,
    /// Its API.
    pub client: Client,
}

/// The daemons run but do not form one ring.
#[derive(Debug, thiserror::Error)]
#[error("after {} s the ring is not whole: peer {index} {why}", waited.as_secs())]
pub struct NotWhole {
    /// How long was waited.
    pub waited: Duration,
    /// A peer that does not agree.
    pub index: usize,
    /// What it said.
    pub why: String,
}

/// Waits until `members` form one ring, at most `limit`. `abort` is asked between two looks; what it
/// answers ends the wait.
pub fn wait<E: From<NotWhole>>(
    members: &[Member],
    limit: Duration,
    abort: impl Fn() -> Option<E>,
) -> Result<(), E> {
    let begun = Instant::now();
    while let Err((index, why)) = look(members) {
        if let Some(error) = abort() {
            return Err(error);
        }
        let waited = begun.elapsed();
        if waited > limit {
            return Err(NotWhole { waited, index, why }.into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// One look at every member; the first that disagrees, and why. Walks are dear, so states come first.
fn look(members: &[Member]) -> Result<(), (usize, String)> {
    for member in members {
        state(member, members.len()).map_err(|why| (member.index, why))?;
    }
    let expected: BTreeSet<&str> = members.iter().map(|member| member.peer.as_str()).collect();
    for member in members {
        walk(member, &expected).map_err(|why| (member.index, why))?;
    }
    Ok(())
}

/// What the member knows without asking anybody; not `status`, which asks for the health of all files put
/// through it.
fn state(member: &Member, count: usize) -> Result<(), String> {
    let silent = |error| format!("does not answer: {error}");
    if !member.client.healthy().map_err(silent)? {
        return Err("is joining".to_owned());
    }
    let ring = member.client.ring(RingQuery::default()).map_err(silent)?.body;
    let known = ring.peers.iter().filter(|peer| peer.state == "alive").count();
    if known < count {
        return Err(format!("knows {known} of {count} peers"));
    }
    Ok(())
}

fn walk(member: &Member, expected: &BTreeSet<&str>) -> Result<(), String> {
    let query = RingQuery {
        walk: true,
        ..RingQuery::default()
    };
    let ring = member
        .client
        .ring(query)
        .map_err(|error| format!("cannot walk: {error}"))?
        .body;
    let met: BTreeSet<&str> = ring.peers.iter().map(|peer| peer.peer.as_str()).collect();
    if met == *expected {
        return Ok(());
    }
    let missing = expected.difference(&met).count();
    let foreign = met.difference(expected).count();
    Err(format!(
        "walks past {} peers: {missing} missing, {foreign} unexpected",
        met.len()
    ))
}
