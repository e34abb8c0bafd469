//! A testnet in a directory: daemons that run detached, one file that says which.

mod error;
mod starting;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use mutualstore_contract::reply::Status;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::capacities::Capacities;
use crate::proc;
use crate::spawn::{self, Fleet, Launch, Recipe};
use crate::state::{self, Peer, StateError, Testnet};
use crate::whole::{self, Member, NotWhole};

pub use self::error::{FleetError, require};
use self::starting::is_newcomer;
pub use self::starting::{JOIN_WIDTH, join_by, start_all};

/// A stopping daemon has 5 s by contract.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// What `--wipe` keeps: who the peer is and which network it belongs to.
const KEPT: [&str; 8] = [
    "identity",
    "account",
    "network.json",
    "vnodes.json",
    "book.json",
    "config.toml",
    "token",
    "log",
];

/// A new testnet.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The `mutualstore` binary.
    pub binary: PathBuf,
    /// Number of daemons.
    pub peers: usize,
    /// Their capacities.
    pub capacities: Capacities,
    /// Capacity of one virtual node in bytes; an eighth of the smallest capacity when absent.
    pub unit_bytes: Option<u64>,
    /// Peer i has its API on this port + i; any free port when absent.
    pub api_base: Option<u16>,
    /// Seed of the choices made here; random when absent.
    pub seed: Option<u64>,
    /// Flags handed to every daemon, now and later.
    pub flags: Vec<String>,
}

impl UpOptions {
    /// Capacity of one virtual node, bytes.
    pub fn unit(&self) -> u64 {
        self.unit_bytes
            .unwrap_or_else(|| (self.capacities.smallest() / 8).max(1))
    }
}

/// `flags` with a repair delay fit for a testnet, unless they name one themselves.
pub fn with_repair_delay(flags: &[String], delay: &str) -> Vec<String> {
    let given = |flag: &String| flag == "--repair-delay" || flag.starts_with("--repair-delay=");
    let mut flags = flags.to_vec();
    if !flags.iter().any(given) {
        flags.extend(["--repair-delay".to_owned(), delay.to_owned()]);
    }
    flags
}

/// Starts a new testnet in `dir` and returns when its ring is whole.
pub fn up(dir: &Path, options: &UpOptions) -> Result<Testnet, FleetError> {
    require(options.peers > 0, "a testnet needs at least one peer")?;
    fs::create_dir_all(dir).map_err(FleetError::io(format!("cannot make {}", dir.display())))?;
    let dir = fs::canonicalize(dir).map_err(FleetError::io(format!("cannot find {}", dir.display())))?;
    let _lock = state::lock(&dir)?;
    let free = match Testnet::load(&dir) {
        Err(StateError::Missing { .. }) => true,
        found => found.map(|_| false)?,
    };
    let place = dir.display();
    let taken = format!("{place} holds a testnet already; `testnet start` or `testnet down --wipe` it first");
    require(free, taken)?;
    let mut testnet = Testnet {
        peers: Vec::new(),
        unit_bytes: options.unit(),
        capacities: options.capacities.clone(),
        api_base: options.api_base,
        seed: options.seed.unwrap_or_else(rand::random),
        flags: with_repair_delay(&options.flags, "5s"),
    };
    let launches = launches(&dir, &testnet, 0..options.peers)?;
    grow(&mut testnet, &options.binary, &launches)?;
    testnet.save(&dir)?;
    Ok(testnet)
}

/// Adds `count` daemons and returns when the ring is whole with them.
pub fn add(dir: &Path, binary: &Path, count: usize) -> Result<Testnet, FleetError> {
    let _lock = state::lock(dir)?;
    let mut testnet = Testnet::load(dir)?;
    let lives = testnet.alive().next().is_some();
    require(lives, "no peer is alive to join; `testnet start` some first")?;
    let next = testnet.next_index();
    let launches = launches(dir, &testnet, next..next + count)?;
    grow(&mut testnet, binary, &launches)?;
    testnet.save(dir)?;
    Ok(testnet)
}

/// Starts dead daemons again, all dead ones when `indices` is empty, and returns when the ring of all
/// live ones is whole.
pub fn start(dir: &Path, binary: &Path, indices: &[usize]) -> Result<Testnet, FleetError> {
    let _lock = state::lock(dir)?;
    let mut testnet = Testnet::load(dir)?;
    let chosen = chosen(&testnet, indices)?;
    let dead: Vec<&Peer> = chosen.into_iter().filter(|peer| !peer.alive).collect();
    let launches: Vec<Launch> = dead.iter().map(|peer| relaunch(&testnet, peer)).collect();
    let grown = grow(&mut testnet, binary, &launches);
    testnet.refresh();
    testnet.save(dir)?;
    grown.map(|()| testnet)
}

/// Kills daemons with SIGKILL and returns their numbers when they are gone. With `wipe` their data is
/// removed but for identity and network files.
pub fn kill(dir: &Path, victims: &Victims, wipe: bool) -> Result<Vec<usize>, FleetError> {
    let _lock = state::lock(dir)?;
    let mut testnet = Testnet::load(dir)?;
    let peers = match victims {
        Victims::Peers(indices) => chosen(&testnet, indices)?,
        Victims::Random { count, seed } => {
            let alive: Vec<usize> = testnet.alive().map(|peer| peer.index).collect();
            let drawn = draw(&alive, *count, *seed)?;
            testnet
                .alive()
                .filter(|peer| drawn.contains(&peer.index))
                .collect()
        }
    };
    let indices = peers.iter().map(|peer| peer.index).collect();
    for peer in peers.iter().filter(|peer| peer.runs()) {
        signal(peer, Signal::KILL)?;
    }
    for peer in &peers {
        killed(peer)?;
        if wipe {
            empty(&peer.data_dir)?;
        }
    }
    testnet.refresh();
    testnet.save(dir)?;
    Ok(indices)
}

/// Which daemons to kill.
#[derive(Clone, Debug)]
pub enum Victims {
    /// These, dead or alive.
    Peers(Vec<usize>),
    /// So many of the live ones; the same seed chooses the same among the same.
    Random {
        /// How many.
        count: usize,
        /// Seed of the choice.
        seed: u64,
    },
}

/// A seed for a choice that need not be made again.
pub fn random_seed() -> u64 {
    rand::random()
}

/// Stops all daemons, with SIGKILL those that need more than 5 s. With `wipe` the directory goes too.
pub fn down(dir: &Path, wipe: bool) -> Result<(), FleetError> {
    let _lock = state::lock(dir)?;
    let mut testnet = Testnet::load(dir)?;
    for peer in testnet.alive() {
        signal(peer, Signal::TERM)?;
    }
    let deadline = Instant::now() + STOP_LIMIT;
    for peer in testnet.alive() {
        if gone(peer, deadline.saturating_duration_since(Instant::now())).is_none() {
            signal(peer, Signal::KILL)?;
            killed(peer)?;
        }
    }
    testnet.refresh();
    testnet.save(dir)?;
    if wipe {
        fs::remove_dir_all(dir).map_err(FleetError::io(format!("cannot remove {}", dir.display())))?;
    }
    Ok(())
}

/// Starts `launches` and waits for the ring of all live peers. Where a daemon that was there before does not
/// start, those that did go on; on any other failure what was started is killed.
fn grow(testnet: &mut Testnet, binary: &Path, launches: &[Launch]) -> Result<(), FleetError> {
    if launches.is_empty() {
        return Ok(());
    }
    let fleet = Fleet::new(None).map_err(FleetError::io("cannot watch for Ctrl-C"))?;
    let recipe = Recipe {
        binary: binary.to_owned(),
        unit_bytes: testnet.unit_bytes,
        flags: testnet.flags.clone(),
        tethered: false,
    };
    if let Err(failure) = launch(testnet, &fleet, &recipe, launches) {
        // What was there before goes on without the one that does not start; a new network is given up.
        if launches.iter().any(|launch| !is_newcomer(&launch.data_dir)) {
            fleet.detach();
        }
        return Err(failure);
    }
    wait_whole(&fleet, testnet)?;
    fleet.detach();
    Ok(())
}

/// Starts `launches`, who join by live peers, and takes note of those that started.
pub(crate) fn launch(
    testnet: &mut Testnet,
    fleet: &Fleet,
    recipe: &Recipe,
    launches: &[Launch],
) -> Result<(), FleetError> {
    let known = testnet.alive().map(Peer::member).collect::<Result<_, _>>()?;
    let (started, outcome) = start_all(fleet, recipe, launches, known, testnet.seed);
    testnet
        .peers
        .retain(|peer| started.iter().all(|new| new.index != peer.index));
    testnet.peers.extend(started);
    testnet.peers.sort_by_key(|peer| peer.index);
    outcome
}

/// Waits until the live peers form one ring; a daemon that ends meanwhile, or that is not let in, ends the
/// wait.
pub fn wait_whole(fleet: &Fleet, testnet: &Testnet) -> Result<(), FleetError> {
    let peers: Vec<&Peer> = testnet.alive().collect();
    let members: Vec<Member> = peers.iter().map(|peer| peer.member()).collect::<Result<_, _>>()?;
    let limit =
        Duration::from_mins(1) + Duration::from_secs(2) * u32::try_from(peers.len()).unwrap_or(u32::MAX);
    let begun = Instant::now();
    let check = || {
        fleet.check()?;
        let waited = begun.elapsed();
        match peers.iter().find(|peer| !peer.runs()) {
            Some(gone) => Err(FleetError::from(NotWhole {
                waited,
                ..NotWhole::new(gone.index, "runs no more")
            })),
            None => Ok(()),
        }
    };
    whole::wait(&members, limit, check).map_err(|error| {
        let FleetError::NotWhole(mut differs) = error else {
            return error;
        };
        if differs.refused {
            return FleetError::Refused(differs);
        }
        if let Some(peer) = peers.iter().find(|peer| peer.index == differs.index) {
            differs.log = spawn::log_tail(&peer.data_dir);
        }
        FleetError::NotWhole(differs)
    })
}

/// What a peer says of itself.
pub fn status(client: &Client) -> Result<Status, FleetError> {
    let answer = client.status().map_err(FleetError::request("status failed"));
    Ok(answer?.body)
}

/// First starts of the peers `indices` of a testnet in `dir`.
pub(crate) fn launches(
    dir: &Path,
    testnet: &Testnet,
    indices: Range<usize>,
) -> Result<Vec<Launch>, FleetError> {
    let mut taken = BTreeSet::new();
    let launch = |index: usize| {
        Ok(Launch {
            api_port: api_port(testnet.api_base, index)?,
            listen_port: spawn::free_port(&mut taken),
            ..Launch::new(index, dir.join(index.to_string()), testnet.capacities.of(index))
        })
    };
    indices.map(launch).collect()
}

fn api_port(base: Option<u16>, index: usize) -> Result<u16, FleetError> {
    let Some(base) = base else { return Ok(0) };
    u16::try_from(index)
        .ok()
        .and_then(|index| base.checked_add(index))
        .ok_or_else(|| FleetError::Usage(format!("API port {base} + {index} is beyond 65535")))
}

/// A daemon knows its ring from its address book; addresses are given all the same, for a wiped one. Dead
/// ones serve too: their owners may be starting right now.
fn relaunch(testnet: &Testnet, peer: &Peer) -> Launch {
    let others = testnet.peers.iter().filter(|other| other.index != peer.index);
    let (alive, dead): (Vec<&Peer>, Vec<&Peer>) = others.partition(|other| other.alive);
    let pool = if alive.is_empty() { dead } else { alive };
    let join = join_by(&pool, testnet.seed, peer.index);
    Launch {
        api_port: api_port(testnet.api_base, peer.index).unwrap_or(0),
        join: join.map(|other| other.listen.clone()).collect(),
        ..Launch::new(peer.index, peer.data_dir.clone(), peer.capacity_bytes)
    }
}

/// The peers with these numbers, all when none is given.
fn chosen<'a>(testnet: &'a Testnet, indices: &[usize]) -> Result<Vec<&'a Peer>, FleetError> {
    if indices.is_empty() {
        return Ok(testnet.peers.iter().collect());
    }
    let find = |index: &usize| {
        let found = testnet.peers.iter().find(|peer| peer.index == *index);
        found.ok_or_else(|| FleetError::Usage(format!("this testnet has no peer {index}")))
    };
    BTreeSet::from_iter(indices).into_iter().map(find).collect()
}

/// `count` of `alive`, in ascending order.
pub fn draw(alive: &[usize], count: usize, seed: u64) -> Result<Vec<usize>, FleetError> {
    let there = alive.len();
    require(
        count <= there,
        format!("only {there} peers are alive, not {count}"),
    )?;
    Ok(pick(alive, count, seed))
}

/// `count` of these, or all if there are fewer, in ascending order; the same seed picks the same of the same.
pub fn pick<T: Copy + Ord>(from: &[T], count: usize, seed: u64) -> Vec<T> {
    let mut pool = from.to_vec();
    pool.sort_unstable();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (drawn, _) = pool.partial_shuffle(&mut rng, count);
    let mut drawn = drawn.to_vec();
    drawn.sort_unstable();
    drawn
}

fn signal(peer: &Peer, signal: Signal) -> Result<(), FleetError> {
    match proc::signal(peer.pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => {
            let failed = FleetError::io(format!("cannot signal process {}", peer.pid));
            Err(failed(error.into()))
        }
    }
}

/// Waits for the end of a process that got SIGKILL.
fn killed(peer: &Peer) -> Result<(), FleetError> {
    let Peer { index, pid, .. } = peer;
    let undead = || FleetError::Failed(format!("process {pid} of peer {index} does not die"));
    gone(peer, KILL_LIMIT).ok_or_else(undead)
}

/// Waits for the end of a process that need not be a child of ours.
fn gone(peer: &Peer, limit: Duration) -> Option<()> {
    spawn::until(limit, spawn::POLL, || (!peer.runs()).then_some(()))
}

/// Removes all that a daemon stored; it remains who it was.
pub fn empty(data_dir: &Path) -> Result<(), FleetError> {
    let wipe = || -> io::Result<()> {
        for entry in fs::read_dir(data_dir)? {
            let entry = entry?;
            if KEPT.iter().any(|kept| entry.file_name() == *kept) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    wipe().map_err(FleetError::io(format!("cannot empty {}", data_dir.display())))
}

#[cfg(test)]
mod tests;
