//! Whether the daemons form one ring: every one says that it is joined, and a walk around the ring that
//! starts at any of them meets exactly the same peers.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::{Client, RingQuery};
use mutualstore_contract::reply::PeerState;

const POLL: Duration = Duration::from_millis(150);
/// A peer that is not let in for so long stays out.
const REFUSED: Duration = Duration::from_secs(1);
/// Others need a while to notice that the process is dead which had its identity before.
const TAKEN_FOR_A_TWIN: Duration = Duration::from_secs(10);

/// One daemon that should be in the ring.
#[derive(Clone, Debug)]
pub struct Member {
    /// Number of the peer.
    pub index: usize,
    /// Its peer id.
    pub peer: String,
    /// The address that others join by.
    pub listen: String,
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
    /// Whether waiting longer would not help: it is not let into its network.
    pub refused: bool,
    /// The end of its log, where that is known.
    pub log: String,
}

/// Waits until `members` form one ring, at most `limit`. `check` is asked between two looks; its failure ends
/// the wait.
pub fn wait<E: From<NotWhole>>(
    members: &[Member],
    limit: Duration,
    check: impl Fn() -> Result<(), E>,
) -> Result<(), E> {
    let begun = Instant::now();
    let mut refused_since: Option<Duration> = None;
    while let Err(mut differs) = look(members) {
        check()?;
        let waited = begun.elapsed();
        refused_since = differs.refused.then(|| refused_since.unwrap_or(waited));
        let twin = differs.why.contains("same identity");
        let enough = if twin { TAKEN_FOR_A_TWIN } else { REFUSED };
        differs.refused = refused_since.is_some_and(|since| waited.saturating_sub(since) >= enough);
        differs.waited = waited;
        if differs.refused || waited > limit {
            return Err(differs.into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

impl NotWhole {
    /// A peer disagrees; how long was waited is not said.
    pub fn new(index: usize, why: impl Into<String>) -> Self {
        Self {
            waited: Duration::ZERO,
            index,
            why: why.into(),
            refused: false,
            log: String::new(),
        }
    }
}

/// One look at every member; who disagrees, and why: one that is not let in, or else the first. Walks are
/// dear, so states come first.
fn look(members: &[Member]) -> Result<(), NotWhole> {
    let states = members.iter().map(|member| state(member, members.len()));
    let differing = states.filter_map(Result::err);
    // The others only miss it.
    if let Some(differs) = differing.min_by_key(|differs| !differs.refused) {
        return Err(differs);
    }
    let expected: BTreeSet<&str> = members.iter().map(|member| member.peer.as_str()).collect();
    members.iter().try_for_each(|member| walk(member, &expected))
}

/// What the member knows without asking anybody. Its `status`, which counts its files, only when it is not
/// healthy.
fn state(member: &Member, count: usize) -> Result<(), NotWhole> {
    let differs = |why| NotWhole::new(member.index, why);
    let silent = |error| differs(format!("does not answer: {error}"));
    if !member.client.healthy().map_err(silent)? {
        let status = member.client.status().map_err(silent)?.body;
        return Err(match status.refused {
            Some(why) => NotWhole {
                refused: true,
                ..differs(format!("is not let in: {why}"))
            },
            None => differs("is joining".to_owned()),
        });
    }
    let ring = member.client.ring(RingQuery::default()).map_err(silent)?.body;
    let states = ring.peers.iter().map(|peer| &peer.state);
    let known = states.filter(|state| **state == PeerState::Alive).count();
    if known < count {
        return Err(differs(format!("knows {known} of {count} peers")));
    }
    Ok(())
}

fn walk(member: &Member, expected: &BTreeSet<&str>) -> Result<(), NotWhole> {
    let differs = |why| NotWhole::new(member.index, why);
    let failed = |error| differs(format!("cannot walk: {error}"));
    let query = RingQuery {
        walk: true,
        ..RingQuery::default()
    };
    let ring = member.client.ring(query).map_err(failed)?.body;
    let met: BTreeSet<&str> = ring.peers.iter().map(|peer| peer.peer.as_str()).collect();
    if met == *expected {
        return Ok(());
    }
    let missing = expected.difference(&met).count();
    let (all, foreign) = (met.len(), met.difference(expected).count());
    let why = format!("walks past {all} peers: {missing} missing, {foreign} unexpected");
    Err(differs(why))
}
