//! Daemons that start together: who joins by whom, one after the other where they choose places on the ring.

use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::time::Duration;

use mutualstore_contract::reply::DaemonFile;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::FleetError;
use crate::parallel::each;
use crate::proc;
use crate::spawn::{self, Fleet, Launch, Recipe};
use crate::state::Peer;
use crate::whole::Member;

/// Daemons started at the same time; more would only fight for the processors.
const START_WIDTH: usize = 6;
/// A newcomer that has not joined by then is left to itself.
const PLACED_LIMIT: Duration = Duration::from_secs(10);
/// How many addresses a daemon is given to join.
pub const JOIN_WIDTH: usize = 3;

/// Who of `known` the peer `index` is to join by.
pub fn join_by<T>(known: &[T], seed: u64, index: usize) -> impl Iterator<Item = &T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(index as u64));
    known.sample(&mut rng, JOIN_WIDTH)
}

/// Starts daemons, a few at a time, until one fails; which ones were started, by number, and the failure.
/// Each joins by `known` peers and those started before it; launches that bring addresses of their own use
/// these, and whoever is in no network yet is invited by one of the known. Returns when all serve, joined or
/// not. Newcomers start one after the other: each chooses its places on the ring among those that are taken.
pub fn start_all(
    fleet: &Fleet,
    recipe: &Recipe,
    launches: &[Launch],
    known: Vec<Member>,
    seed: u64,
) -> (Vec<Peer>, Result<(), FleetError>) {
    let newcomers = launches.iter().any(|launch| is_newcomer(&launch.data_dir));
    let starting = Mutex::new(Starting {
        known,
        started: Vec::new(),
        failed: false,
    });
    let outcome = each(launches, if newcomers { 1 } else { START_WIDTH }, |_, launch| {
        let started = start_next(&starting, fleet, recipe, launch.clone(), seed);
        starting.lock().failed |= started.is_err();
        started
    });
    let mut started = starting.into_inner().started;
    started.sort_by_key(|peer| peer.index);
    (started, outcome.map(drop))
}

/// Whether the daemon has no places on the ring yet.
pub(super) fn is_newcomer(data_dir: &Path) -> bool {
    !data_dir.join("vnodes.json").exists()
}

/// Whether the daemon belongs to a network, whose secret it then has.
fn is_member(data_dir: &Path) -> bool {
    let network = fs::read(data_dir.join("network.json")).ok();
    let network = network.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    network.is_some_and(|network| network.get("adopted") == Some(&true.into()))
}

/// An invite by one of `known`, the first that is in a network; none when nobody is known.
fn invitation(known: &[Member]) -> Result<Option<String>, FleetError> {
    let mut invited = Ok(None);
    let ask = || {
        for peer in known {
            invited = peer.client.invite().map(|reply| Some(reply.body.invite));
            if invited.is_ok() {
                break;
            }
        }
        invited.is_ok().then_some(())
    };
    spawn::until(PLACED_LIMIT, spawn::POLL, ask);
    Ok(invited?)
}

/// Waits, not for long, until a newcomer has joined or is alone.
fn wait_placed(fleet: &Fleet, launch: &Launch, member: &Member) {
    let placed = || {
        let status = member.client.status();
        status.is_ok_and(|status| match status.body.ring.as_str() {
            "refused" => true,
            "joining" => false,
            _ => !is_newcomer(&launch.data_dir),
        })
    };
    let over = || placed() || fleet.check().is_err();
    spawn::until(PLACED_LIMIT, spawn::POLL, || over().then_some(()));
}

struct Starting {
    known: Vec<Member>,
    started: Vec<Peer>,
    failed: bool,
}

/// Starts one more daemon, unless another failed, invited by one of those known if it is in no network yet.
fn start_next(
    shared: &Mutex<Starting>,
    fleet: &Fleet,
    recipe: &Recipe,
    mut launch: Launch,
    seed: u64,
) -> Result<(), FleetError> {
    let known = {
        let starting = shared.lock();
        if starting.failed {
            return Ok(());
        }
        if launch.join.is_empty() {
            let chosen = join_by(&starting.known, seed, launch.index);
            launch.join = chosen.map(|peer| peer.listen.clone()).collect();
        }
        starting.known.clone()
    };
    if !is_member(&launch.data_dir) {
        launch.join.extend(invitation(&known)?);
    }
    let newcomer = is_newcomer(&launch.data_dir);
    let peer = peer_of(&launch, fleet.start(recipe, &launch)?);
    let member = peer.member()?;
    if newcomer {
        wait_placed(fleet, &launch, &member);
    }
    let mut starting = shared.lock();
    starting.known.push(member);
    starting.started.push(peer);
    Ok(())
}

fn peer_of(launch: &Launch, file: DaemonFile) -> Peer {
    let local = file
        .listen
        .iter()
        .find(|address| address.starts_with("/ip4/127."));
    Peer {
        index: launch.index,
        pid: file.pid,
        listen: local.or(file.listen.first()).cloned().unwrap_or_default(),
        peer: file.peer,
        api: file.api,
        data_dir: launch.data_dir.clone(),
        capacity_bytes: launch.capacity_bytes,
        start_ticks: proc::start_ticks(file.pid).unwrap_or(0),
        alive: true,
    }
}
