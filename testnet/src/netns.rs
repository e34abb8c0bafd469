//! Daemons on real interfaces: one in each of several network namespaces that share bridges.
//!
//! A loopback testnet cannot show what a peer tells others of its addresses, since there all of them work.
//! Here each peer listens on the wildcard address and has a loopback interface that reaches nobody else and
//! several that do. A run starts the daemons in a random order, each joining by an invite of one before;
//! looks at every contact on every daemon; puts and gets a file; takes interfaces of one peer down, while
//! another one puts if it is still to be reached; brings them back with other addresses, and waits until
//! every contact everywhere is right again and the peer stores and reads as before. At last one more daemon
//! joins by an invite of the peer that moved.
//!
//! What is found wrong is a problem in the report, not an error: the runs go on.

mod space;
mod transfers;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use itertools::Itertools;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tempfile::TempDir;

use self::space::Space;
pub use self::space::enter;
use mutualstore_client::{Client, RingQuery};
use mutualstore_contract::reply::PeerState;
use mutualstore_fleet::net::{FleetError, require};
use mutualstore_fleet::scratch::{RunOptions, fleet_in, temporary};
use mutualstore_fleet::spawn::{Fleet, Launch};

/// Most peers of a run.
pub const MAX_PEERS: usize = 200;
/// Most interfaces of a peer.
pub const MAX_INTERFACES: usize = 4;
/// An interface that came back with another address is known everywhere within this.
pub const HEAL_LIMIT: Duration = Duration::from_secs(30);
/// From a daemon's start with an invite until it is a member.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the first contacts may take to be right everywhere.
const CONTACTS_LIMIT: Duration = Duration::from_secs(30);
/// How long the look goes on after the limit, to tell late from never.
const PATIENCE: Duration = Duration::from_mins(1);
/// A put after the move may take so many times as long as the one before, and [`SLACK`].
const SLOWER: f64 = 4.0;
/// Seconds: small files are over too soon for a ratio alone.
const SLACK: f64 = 1.0;
/// A put that loses one of two ways to a peer may take so many seconds longer: half of what it would wait for
/// one that is gone.
const DETOUR: f64 = 5.0;
const POLL: Duration = Duration::from_millis(100);
const PORT: u16 = 4001;
const CAPACITY: u64 = 1 << 30;

/// Which addresses the interfaces have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Family {
    #[default]
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both, listened on at once.
    Both,
}

impl Family {
    /// What this kind has of the two.
    fn of(self, v4: String, v6: String) -> Vec<String> {
        match self {
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
            Self::Both => vec![v4, v6],
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct NetnsOptions {
    /// What every command on temporary daemons takes.
    pub run: RunOptions,
    /// Number of daemons, 2 to [`MAX_PEERS`].
    pub peers: usize,
    /// Interfaces of each, 1 to [`MAX_INTERFACES`].
    pub interfaces: usize,
    /// Kinds of addresses, one after the other.
    pub families: Vec<Family>,
    /// Starts of each kind.
    pub starts: usize,
    /// Seed of the order of starting, and of who moves.
    pub seed: u64,
    /// Bytes of the file that is put.
    pub size_bytes: u64,
    /// How long interfaces stay down.
    pub down: Duration,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
pub struct NetnsReport {
    /// Number of daemons.
    pub peers: usize,
    /// Interfaces of each.
    pub interfaces: usize,
    /// What to repeat it with.
    pub seed: u64,
    /// Every start, one after the other.
    pub starts: Vec<StartReport>,
    /// Whether none has a problem.
    pub holds: bool,
}

/// One start, flat, as its JSON is. Figures are absent where it did not come so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StartReport {
    /// Kind of addresses.
    pub family: Family,
    /// Number of the start among those of its kind.
    pub start: usize,
    /// Peers in the order of starting.
    pub order: Vec<usize>,
    /// From the last daemon's start until every contact everywhere was right.
    pub contacts_seconds: Option<f64>,
    /// Loopback addresses in contacts, at any look.
    pub loopback_told: usize,
    /// Seconds of the put.
    pub put_seconds: Option<f64>,
    /// Megabytes (10^6) a second.
    pub put_mbps: Option<f64>,
    /// The same of the get through another peer.
    pub get_mbps: Option<f64>,
    /// Who moved.
    pub moved_peer: usize,
    /// Its interfaces that did.
    pub moved_interfaces: Vec<usize>,
    /// Seconds of a put through another peer, half-way through which the interface went down; absent where
    /// all of them did.
    pub put_meanwhile_seconds: Option<f64>,
    /// From the new address until every contact everywhere was right.
    pub healed_seconds: Option<f64>,
    /// Seconds of a put through the peer that moved, afterwards.
    pub put_after_seconds: Option<f64>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// Runs everything; `note` hears how it goes. Call [`enter`] first: this takes namespaces of its own for
/// granted.
pub fn run(options: &NetnsOptions, note: &dyn Fn(String)) -> Result<NetnsReport, FleetError> {
    check(options)?;
    Space::prepare(options.interfaces)?;
    let dir = temporary(options.run.place.as_deref(), "mutualstore-netns-")?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut starts = Vec::new();
    for family in &options.families {
        for start in 0..options.starts {
            let report = one(options, (*family, start), &dir, &mut rng)?;
            note(line(&report));
            starts.push(report);
        }
    }
    Ok(NetnsReport {
        peers: options.peers,
        interfaces: options.interfaces,
        seed: options.seed,
        holds: starts.iter().all(|start| start.problems.is_empty()),
        starts,
    })
}

fn check(options: &NetnsOptions) -> Result<(), FleetError> {
    let peers = (2..=MAX_PEERS).contains(&options.peers);
    require(peers, format!("--peers is 2 to {MAX_PEERS}"))?;
    let interfaces = (1..=MAX_INTERFACES).contains(&options.interfaces);
    require(interfaces, format!("--interfaces is 1 to {MAX_INTERFACES}"))?;
    let something = options.starts > 0 && options.size_bytes > 0;
    require(something, "--starts and --size are not 0")
}

fn line(report: &StartReport) -> String {
    let (family, start) = (report.family, report.start);
    if report.problems.is_empty() {
        format!("{family} start {start}: holds")
    } else {
        format!("{family} start {start}: {}", report.problems.join("; "))
    }
}

/// One start in fresh namespaces, with fresh daemons.
fn one(
    options: &NetnsOptions,
    (family, start): (Family, usize),
    dir: &TempDir,
    rng: &mut ChaCha8Rng,
) -> Result<StartReport, FleetError> {
    let mut order: Vec<usize> = (0..options.peers).collect();
    order.shuffle(rng);
    let moved_peer = order.choose(rng).copied().unwrap_or_default();
    let first = rng.random_range(0..options.interfaces);
    // Half of the time it is out of reach meanwhile.
    let moved_interfaces = if rng.random() {
        (0..options.interfaces).collect()
    } else {
        vec![first]
    };
    let mut report = StartReport {
        family,
        start,
        order,
        moved_peer,
        moved_interfaces,
        ..StartReport::default()
    };
    // One more for who joins at last.
    let space = Space::new(options.peers + 1, options.interfaces, family)?;
    let place = dir.path().join(format!("{family}-{start}"));
    let fleet = fleet_in(dir)?;
    let mut stage = Stage {
        options,
        place: &place,
        space,
        fleet,
        peers: Vec::new(),
    };
    if let Err(problem) = stage.play(&mut report, rng) {
        report.problems.push(problem.to_string());
    }
    let published = report.loopback_told;
    if published > 0 {
        let text = format!("{published} loopback addresses were published");
        report.problems.push(text);
    }
    drop(stage);
    // The temporary directory goes at the end anyway.
    drop(fs::remove_dir_all(place));
    Ok(report)
}

/// A daemon that runs.
struct Member {
    index: usize,
    peer: String,
    client: Client,
}

/// One start under way. The daemons go before the namespaces.
struct Stage<'a> {
    options: &'a NetnsOptions,
    /// Holds the data directories.
    place: &'a Path,
    fleet: Fleet,
    peers: Vec<Member>,
    space: Space,
}

impl Stage<'_> {
    fn play(&mut self, report: &mut StartReport, rng: &mut ChaCha8Rng) -> Result<(), FleetError> {
        for index in report.order.clone() {
            let host = self.peers.choose(rng).map(|member| member.index);
            self.launch(report.family, index, host)?;
            self.await_joined(index, report)?;
        }
        report.contacts_seconds = Some(self.await_contacts(report, CONTACTS_LIMIT, "at the start")?);
        let (writer, reader) = self.two(rng);
        let seed = rng.random();
        let put = self.put(writer, seed, || Ok(()))?;
        report.put_seconds = Some(put.seconds);
        report.put_mbps = Some(self.speed(put.seconds));
        report.get_mbps = Some(self.speed(self.get(reader, &put.link, seed)?));

        self.cut(report, writer, put.seconds)?;
        thread::sleep(self.options.down);
        for interface in &report.moved_interfaces {
            self.space.bring_back(report.moved_peer, *interface)?;
        }
        report.healed_seconds = Some(self.await_contacts(report, HEAL_LIMIT, "after the move")?);
        let after = self.put(report.moved_peer, seed, || Ok(()))?;
        report.put_after_seconds = Some(after.seconds);
        if after.seconds > SLOWER * put.seconds + SLACK {
            let text = format!(
                "a put took {:.2} s before the move, {:.2} s after",
                put.seconds, after.seconds
            );
            report.problems.push(text);
        }
        self.get(report.moved_peer, &put.link, seed)?;
        self.get(reader, &after.link, seed)?;
        let newcomer = self.options.peers;
        self.launch(report.family, newcomer, Some(report.moved_peer))?;
        self.await_joined(newcomer, report)
    }

    /// Starts a daemon in its namespace, invited by one that runs; the first one founds the network.
    fn launch(&mut self, family: Family, index: usize, host: Option<usize>) -> Result<(), FleetError> {
        let mut join = Vec::new();
        if let Some(host) = host {
            let asked = self.ask(host, Client::invite)?;
            join.push(asked.map_err(FleetError::request("no invite"))?.body.invite);
        }
        let recipe = self.options.run.recipe(CAPACITY / 8);
        let (v4, v6) = (format!("/ip4/0.0.0.0/tcp/{PORT}"), format!("/ip6/::/tcp/{PORT}"));
        let listen = family.of(v4, v6).into_iter();
        let launch = Launch {
            join,
            flags: listen
                .flat_map(|address| ["--listen".to_owned(), address])
                .collect(),
            ..Launch::new(index, self.data_dir(index), CAPACITY)
        };
        let fleet = &self.fleet;
        let started = Space::within(index, || {
            let file = fleet.start(&recipe, &launch)?;
            let client =
                Client::open(&launch.data_dir).map_err(FleetError::request("cannot ask the daemon"))?;
            Ok::<_, FleetError>((file.peer, client))
        });
        let (peer, client) = started??;
        self.peers.push(Member { index, peer, client });
        Ok(())
    }

    fn data_dir(&self, index: usize) -> PathBuf {
        self.place.join(index.to_string())
    }

    /// Where a daemon says in `daemon.json` that it listens, without loopback, sorted.
    fn listens(&self, index: usize) -> String {
        let file = mutualstore_client::read_daemon_file(&self.data_dir(index));
        let listen = file.map(|file| file.listen).unwrap_or_default();
        let wide = listen.iter().filter(|address| !is_loopback(address));
        let bare = wide.filter_map(|address| Some(address.split_once("/p2p/")?.0));
        bare.sorted().join(" ")
    }

    /// Waits until the daemon started last is a member.
    fn await_joined(&self, index: usize, report: &mut StartReport) -> Result<(), FleetError> {
        let joined = || match self.ask(index, |client| client.healthy().unwrap_or(false)) {
            Ok(false) => Err(FleetError::Failed(format!("peer {index} did not join"))),
            asked => asked.map(drop),
        };
        let late = format!("peer {index} joined");
        self.wait(&mut report.problems, JOIN_LIMIT, &late, joined)
            .map(drop)
    }

    /// Waits until every daemon holds the right contact of every peer, and answers how long that took.
    fn await_contacts(
        &self,
        report: &mut StartReport,
        limit: Duration,
        when: &str,
    ) -> Result<f64, FleetError> {
        let begun = Instant::now();
        let right = || {
            self.look(&mut report.loopback_told).map_err(|problem| {
                let waited = begun.elapsed().as_secs();
                FleetError::Failed(format!("{when}, after {waited} s: {problem}"))
            })
        };
        let late = format!("{when}: contacts were right");
        self.wait(&mut report.problems, limit, &late, right)
    }

    /// Waits until `look` finds nothing wrong, and answers how many seconds that took: a problem when it is
    /// later than `limit`.
    fn wait(
        &self,
        problems: &mut Vec<String>,
        limit: Duration,
        late: &str,
        mut look: impl FnMut() -> Result<(), FleetError>,
    ) -> Result<f64, FleetError> {
        let begun = Instant::now();
        while let Err(problem) = look() {
            self.fleet.check()?;
            if begun.elapsed() > limit + PATIENCE {
                return Err(problem);
            }
            thread::sleep(POLL);
        }
        let took = begun.elapsed();
        let seconds = took.as_secs_f64();
        if took > limit {
            problems.push(format!("{late} only after {seconds:.1} s"));
        }
        Ok(seconds)
    }

    /// One look at every contact on every daemon; the first that is wrong.
    fn look(&self, loopback: &mut usize) -> Result<(), String> {
        let mut wrong = Vec::new();
        for member in &self.peers {
            let index = member.index;
            let asked = self.ask(index, |client| client.ring(RingQuery::default()));
            let asked = asked.map_err(|error| error.to_string())?;
            let silent = |error| format!("peer {index} does not answer: {error}");
            let ring = asked.map_err(silent)?.body;
            let (listens, expected) = (self.listens(index), self.space.expected(index, PORT).join(" "));
            if listens != expected {
                wrong.push(format!(
                    "daemon.json of peer {index} has {listens}, not {expected}"
                ));
            }
            let published = ring.peers.iter().flat_map(|peer| &peer.addresses);
            *loopback += published.filter(|address| is_loopback(address)).count();
            for Member {
                index: other, peer, ..
            } in &self.peers
            {
                let Some(entry) = ring.peers.iter().find(|entry| entry.peer == *peer) else {
                    wrong.push(format!("peer {index} does not know peer {other}"));
                    continue;
                };
                let (held, state) = (entry.addresses.iter().sorted().join(" "), &entry.state);
                let expected = self.space.expected(*other, PORT).join(" ");
                if held != expected || *state != PeerState::Alive {
                    wrong.push(format!(
                        "on peer {index} the contact of peer {other} ({state}) has {held}, not {expected}"
                    ));
                }
            }
        }
        wrong.into_iter().next().map_or(Ok(()), Err)
    }

    /// Two different peers.
    fn two(&self, rng: &mut ChaCha8Rng) -> (usize, usize) {
        let mut numbers: Vec<usize> = self.peers.iter().map(|member| member.index).collect();
        numbers.shuffle(rng);
        numbers.into_iter().next_tuple().unwrap_or_default()
    }

    /// Does `work` with the API of a peer, where that is to be reached.
    fn ask<T: Send>(&self, index: usize, work: impl FnOnce(&Client) -> T + Send) -> Result<T, FleetError> {
        let found = self.peers.iter().find(|member| member.index == index);
        let member = found.ok_or_else(|| FleetError::Failed(format!("peer {index} does not run")))?;
        Space::within(index, || work(&member.client))
    }
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}
