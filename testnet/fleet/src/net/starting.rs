//! Daemons that start together: who joins by whom, one after the other where they choose places on the ring.

use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use mutualstore_contract::reply::DaemonFile;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{FleetError, member};
use crate::proc;
use crate::spawn::{self, Fleet, Launch, Recipe};
use crate::state::Peer;
use crate::whole::Member;

/// Daemons started at the same time; more would only fight for the processors.
const START_WIDTH: usize = 6;
/// A newcomer that has not joined by then is left to itself.
const PLACED_LIMIT: Duration = Duration::from_secs(10);
/// How many addresses a daemon is given to join.
pub(super) const JOIN_WIDTH: usize = 3;

/// A peer that others join by.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its address.
    pub listen: String,
    /// What it invites by.
    pub client: Client,
}

/// What a running peer is to those that join by it.
pub fn known(peer: &Peer) -> Result<Known, FleetError> {
    let Member { client, .. } = member(peer)?;
    let listen = peer.listen.clone();
    Ok(Known { listen, client })
}

/// Starts daemons, a few at a time. Each joins by `known` peers and those started before it; launches that
/// bring addresses of their own use these, and whoever is in no network yet is invited by one of the known.
/// Returns when all serve, joined or not. Newcomers start one after the other: each chooses its places on the
/// ring among those that are taken.
pub fn start_all(
    fleet: &Fleet,
    recipe: &Recipe,
    launches: &[Launch],
    known: Vec<Known>,
    seed: u64,
) -> Result<Vec<Peer>, FleetError> {
    match start_each(fleet, recipe, launches, known, seed) {
        (_, Some(failure)) => Err(failure),
        (started, None) => Ok(started),
    }
}

/// Starts daemons until one fails; which ones were started, by number.
pub(super) fn start_each(
    fleet: &Fleet,
    recipe: &Recipe,
    launches: &[Launch],
    known: Vec<Known>,
    seed: u64,
) -> (Vec<Peer>, Option<FleetError>) {
    let shared = Mutex::new(Starting {
        next: 0,
        known,
        started: Vec::new(),
        failure: None,
    });
    let width = if launches.iter().any(|launch| is_newcomer(&launch.data_dir)) {
        1
    } else {
        START_WIDTH
    };
    thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| while start_next(&shared, fleet, recipe, launches, seed) {});
        }
    });
    let Starting {
        mut started, failure, ..
    } = shared.into_inner();
    started.sort_by_key(|peer| peer.index);
    (started, failure)
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
fn invitation(known: &[Known]) -> Result<Option<String>, FleetError> {
    let deadline = Instant::now() + PLACED_LIMIT;
    loop {
        let mut refused = None;
        for peer in known {
            match peer.client.invite() {
                Ok(reply) => return Ok(Some(reply.body.invite)),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if Instant::now() > deadline => return Err(error.into()),
            Some(_) => thread::sleep(spawn::POLL),
            None => return Ok(None),
        }
    }
}

/// Waits, not for long, until a newcomer has joined or is alone.
fn wait_placed(fleet: &Fleet, peer: &Peer) {
    let Ok(member) = member(peer) else { return };
    let placed = || {
        let status = member.client.status();
        status.is_ok_and(|status| match status.body.ring.as_str() {
            "refused" => true,
            "joining" => false,
            _ => !is_newcomer(&peer.data_dir),
        })
    };
    let over = || placed() || fleet.any_ended().is_some();
    spawn::until(PLACED_LIMIT, spawn::POLL, || over().then_some(()));
}

struct Starting {
    next: usize,
    known: Vec<Known>,
    started: Vec<Peer>,
    failure: Option<FleetError>,
}

/// Starts the next launch; false when none is left or one failed.
fn start_next(
    shared: &Mutex<Starting>,
    fleet: &Fleet,
    recipe: &Recipe,
    launches: &[Launch],
    seed: u64,
) -> bool {
    let (launch, known) = {
        let mut starting = shared.lock();
        let Some(launch) = launches.get(starting.next).filter(|_| starting.failure.is_none()) else {
            return false;
        };
        starting.next += 1;
        let mut launch = launch.clone();
        if launch.join.is_empty() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(launch.index as u64));
            let chosen = starting.known.sample(&mut rng, JOIN_WIDTH);
            launch.join = chosen.map(|peer| peer.listen.clone()).collect();
        }
        (launch, starting.known.clone())
    };
    let outcome = start_one(fleet, recipe, launch, &known);
    let mut starting = shared.lock();
    match outcome {
        Ok((peer, known)) => {
            starting.known.push(known);
            starting.started.push(peer);
            true
        }
        Err(error) => {
            starting.failure.get_or_insert(error);
            false
        }
    }
}

/// Starts a daemon, invited by one of those known if it is in no network yet.
fn start_one(
    fleet: &Fleet,
    recipe: &Recipe,
    mut launch: Launch,
    inviters: &[Known],
) -> Result<(Peer, Known), FleetError> {
    if !is_member(&launch.data_dir) {
        launch.join.extend(invitation(inviters)?);
    }
    let newcomer = is_newcomer(&launch.data_dir);
    let peer = peer_of(&launch, fleet.start(recipe, &launch)?);
    if newcomer {
        wait_placed(fleet, &peer);
    }
    let known = known(&peer)?;
    Ok((peer, known))
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
