//! The daemons of a chaos run, each behind a proxy, some on a disk of their own: what can be done to them.

use parking_lot::RwLock;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mutualstore_client::Client;
use mutualstore_contract::reply::RingState;
use rustix::process::Signal;
use tempfile::TempDir;

use super::account::Account;
use super::disk::Disk;
use super::proxy::{NetworkFault, Passed, Proxies, Proxy};
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError, JOIN_WIDTH};
use mutualstore_fleet::scratch::{RunOptions, fleet_in, temporary};
use mutualstore_fleet::spawn::{self, Fleet, Launch, Recipe};
use mutualstore_fleet::whole::{self, Member};

/// How long anything that must happen may take; far more than it does.
pub(super) const LIMIT: Duration = Duration::from_mins(3);
/// One in so many daemons has a small disk of its own, where that can be made.
const DISK_EVERY: usize = 4;
/// What such a disk has beside the daemon's capacity.
const DISK_SPARE: u64 = 24 << 20;

/// One daemon.
#[derive(Debug)]
struct Daemon {
    launch: Launch,
    proxy: Proxy,
    disk: Option<Disk>,
    peer: String,
    /// While it answers.
    client: Option<Client>,
    /// It left for good.
    departed: bool,
}

impl Daemon {
    /// The address of its proxy.
    fn address(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.proxy.port())
    }

    /// The daemon as a member of the ring, while it answers.
    fn member(&self) -> Option<Member> {
        Some(Member {
            index: self.launch.index,
            peer: self.peer.clone(),
            listen: self.address(),
            client: self.client.clone()?,
        })
    }
}

/// All daemons, by number; those that departed keep theirs. Each fault is a method.
#[derive(Debug)]
pub(super) struct Cluster {
    // Dropped in this order: nobody writes into what is being removed.
    fleet: Fleet,
    daemons: RwLock<Vec<Daemon>>,
    dir: TempDir,
    proxies: Proxies,
    recipe: Recipe,
    account: Account,
    capacities: Capacities,
    seed: u64,
}

impl Cluster {
    /// Starts `count` daemons.
    pub(super) fn start_all(
        run: &RunOptions,
        capacities: Capacities,
        seed: u64,
        count: usize,
    ) -> Result<Self, FleetError> {
        let dir = temporary(run.place.as_deref(), "mutualstore-chaos-")?;
        let account = Account::make(&run.binary, &dir.path().join("account"))?;
        let cluster = Self {
            account,
            fleet: fleet_in(&dir)?,
            daemons: RwLock::default(),
            dir,
            proxies: Proxies::start().map_err(FleetError::io("cannot start the proxies"))?,
            recipe: run.recipe(capacities.smallest() / 8),
            capacities,
            seed,
        };
        cluster.enter(count)?;
        Ok(cluster)
    }

    /// Adds `count` daemons and returns once they joined.
    pub(super) fn enter(&self, count: usize) -> Result<(), FleetError> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let number = self.daemons.read().len();
            let daemon = self.daemon(number)?;
            self.daemons.write().push(daemon);
            numbers.push(number);
        }
        self.start(&numbers)
    }

    fn daemon(&self, index: usize) -> Result<Daemon, FleetError> {
        let capacity_bytes = self.capacities.of(index);
        let mut data_dir = self.dir.path().join(index.to_string());
        let mut disk = None;
        if index % DISK_EVERY == 1 && has_disks() {
            let made =
                fs::create_dir(&data_dir).and_then(|()| Disk::make(&data_dir, capacity_bytes + DISK_SPARE));
            let made = made.map_err(FleetError::io("cannot make a disk in memory"))?;
            data_dir = made.path().join("data");
            disk = Some(made);
        }
        let daemons = self.daemons.read();
        let mut taken = daemons.iter().map(|daemon| daemon.launch.listen_port).collect();
        let port = spawn::free_port(&mut taken);
        let proxy = self.proxies.open(port);
        let proxy = proxy.map_err(FleetError::io("cannot open a proxy"))?;
        let mut daemon = Daemon {
            launch: Launch::new(index, data_dir, capacity_bytes),
            proxy,
            disk,
            peer: String::new(),
            client: None,
            departed: false,
        };
        daemon.launch.listen_port = port;
        daemon.launch.flags = vec!["--announce".to_owned(), daemon.address()];
        Ok(daemon)
    }

    /// Starts daemons that do not run, all at once, and returns when each has joined.
    pub(super) fn start(&self, numbers: &[usize]) -> Result<(), FleetError> {
        for number in numbers.iter().filter(|number| Account::has(**number)) {
            if let Some(dir) = self.data_dir(*number) {
                self.account.restore(&dir)?;
            }
        }
        let launches: Vec<Launch> = numbers.iter().filter_map(|number| self.launch(*number)).collect();
        let known = self.answering();
        let (started, outcome) = net::start_all(&self.fleet, &self.recipe, &launches, known, self.seed);
        outcome?;
        for peer in started {
            let member = peer.member()?;
            self.with(peer.index, |daemon| {
                daemon.peer = member.peer;
                daemon.client = Some(member.client);
            });
        }
        numbers.iter().try_for_each(|number| self.joined(*number))
    }

    /// Joins through the proxies of some that were there before, whether they run or not.
    fn launch(&self, number: usize) -> Option<Launch> {
        let daemons = self.daemons.read();
        let others: Vec<&Daemon> = daemons
            .iter()
            .filter(|daemon| daemon.launch.index != number && !daemon.departed && !daemon.peer.is_empty())
            .collect();
        let mut launch = daemons.get(number)?.launch.clone();
        let chosen = net::join_by(&others, self.seed, number);
        launch.join = chosen.map(|other| other.address()).collect();
        // The very first start, one after the other: as the addresses of those just started.
        if launch.join.is_empty() {
            let earlier = daemons.iter().take(number.min(JOIN_WIDTH));
            launch.join = earlier.map(Daemon::address).collect();
        }
        Some(launch)
    }

    fn joined(&self, number: usize) -> Result<(), FleetError> {
        let alone = self.members().len() == 1;
        self.until(&format!("peer {number} to join"), || {
            let status = self.client(number)?.status().ok()?.body;
            (status.ring == RingState::Joined || alone && status.ring == RingState::Alone).then_some(())
        })
    }

    /// Asks `done` again and again. A daemon that ends meanwhile by itself ends the wait.
    pub(super) fn until<T>(&self, what: &str, done: impl FnMut() -> Option<T>) -> Result<T, FleetError> {
        self.in_time(done)?.ok_or_else(|| late(what))
    }

    /// The same, with nothing when it is not done in time.
    pub(super) fn in_time<T>(&self, mut done: impl FnMut() -> Option<T>) -> Result<Option<T>, FleetError> {
        let looked = || done().map(Ok).or_else(|| self.check().err().map(Err));
        spawn::until(LIMIT, spawn::POLL, looked).transpose()
    }

    /// Fails when a daemon ended by itself or the run is being interrupted.
    pub(super) fn check(&self) -> Result<(), FleetError> {
        self.fleet.check()?;
        Ok(self.fleet.interrupted()?)
    }

    /// Kills a daemon with SIGKILL.
    pub(super) fn kill(&self, number: usize) {
        self.take_offline(number);
        self.fleet.kill(number);
    }

    /// SIGTERM; returns when the process has ended.
    pub(super) fn stop(&self, number: usize) -> Result<(), FleetError> {
        self.take_offline(number);
        self.signal(number, Signal::TERM)?;
        self.ended(number)
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub(super) fn pause(&self, number: usize) -> Result<Option<Client>, FleetError> {
        let client = self.take_offline(number);
        self.signal(number, Signal::STOP)?;
        Ok(client)
    }

    /// Lets a stopped daemon go on (SIGCONT).
    pub(super) fn resume(&self, number: usize, client: Option<Client>) -> Result<(), FleetError> {
        self.signal(number, Signal::CONT)?;
        self.with(number, |daemon| daemon.client = client);
        self.joined(number)
    }

    /// Waits for the end of a daemon that said it would leave.
    pub(super) fn departed(&self, number: usize) -> Result<(), FleetError> {
        self.take_offline(number);
        self.ended(number)?;
        self.with(number, |daemon| daemon.departed = true);
        Ok(())
    }

    fn ended(&self, number: usize) -> Result<(), FleetError> {
        let ended = self.fleet.end(number, LIMIT);
        let status = ended.ok_or_else(|| late(format!("peer {number} to end")))?;
        if status.success() {
            return Ok(());
        }
        let log = self.with(number, |daemon| spawn::log_tail(&daemon.launch.data_dir));
        let (index, log) = (number, log.unwrap_or_default());
        Err(spawn::SpawnError::Exited { index, status, log }.into())
    }

    /// Removes all that a daemon stored which was killed.
    pub(super) fn wipe(&self, number: usize) -> Result<(), FleetError> {
        self.data_dir(number).map_or(Ok(()), |dir| net::empty(&dir))
    }

    pub(super) fn network_fault(&self, number: usize, network_fault: NetworkFault) {
        self.with(number, |daemon| daemon.proxy.set(network_fault));
    }

    /// Fills a daemon's disk, or frees it. Nothing happens to those that share one.
    pub(super) fn fill_disk(&self, number: usize, full: bool) -> Result<(), FleetError> {
        let daemons = self.daemons.read();
        let Some(disk) = daemons.get(number).and_then(|daemon| daemon.disk.as_ref()) else {
            return Ok(());
        };
        let done = if full { disk.fill() } else { disk.free() };
        done.map_err(FleetError::io("cannot fill or free a disk"))
    }

    pub(super) fn has_disk(&self, number: usize) -> bool {
        let daemons = self.daemons.read();
        daemons.get(number).is_some_and(|daemon| daemon.disk.is_some())
    }

    pub(super) fn data_dir(&self, number: usize) -> Option<PathBuf> {
        self.with(number, |daemon| daemon.launch.data_dir.clone())
    }

    /// The number of a peer.
    pub(super) fn number_of(&self, peer: &str) -> Option<usize> {
        self.daemons.read().iter().position(|daemon| daemon.peer == peer)
    }

    /// Those that did not depart.
    pub(super) fn members(&self) -> Vec<usize> {
        let daemons = self.daemons.read();
        let there = daemons.iter().filter(|daemon| !daemon.departed);
        there.map(|daemon| daemon.launch.index).collect()
    }

    /// Those that can be asked now.
    pub(super) fn serving(&self) -> Vec<(usize, Client)> {
        let answering = self.answering().into_iter();
        answering.map(|member| (member.index, member.client)).collect()
    }

    fn answering(&self) -> Vec<Member> {
        self.daemons.read().iter().filter_map(Daemon::member).collect()
    }

    /// The API of a daemon, while it can be asked.
    pub(super) fn client(&self, number: usize) -> Option<Client> {
        self.daemons.read().get(number)?.client.clone()
    }

    /// Waits until all members form one ring.
    pub(super) fn whole(&self) -> Result<(), FleetError> {
        whole::wait(&self.answering(), LIMIT, || Ok(self.fleet.check()?))
    }

    /// Leaves the directory where it is, with the logs of all daemons.
    pub(super) fn keep(self) -> PathBuf {
        for daemon in self.daemons.read().iter().filter(|daemon| daemon.disk.is_some()) {
            let log = self.dir.path().join(format!("{}.log", daemon.launch.index));
            // A log more or less: what failed is known already.
            drop(fs::copy(daemon.launch.data_dir.join("log"), log));
        }
        let Self { fleet, dir, .. } = self;
        drop(fleet);
        dir.keep()
    }

    /// What the network between them carried.
    pub(super) fn passed(&self) -> Passed {
        self.proxies.passed()
    }

    /// Where everything lies.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn signal(&self, number: usize, signal: Signal) -> Result<(), FleetError> {
        let sent = self.fleet.signal(number, signal);
        sent.map_err(FleetError::io(format!("cannot signal peer {number}")))
    }

    /// Nobody asks it any more.
    fn take_offline(&self, number: usize) -> Option<Client> {
        self.with(number, |daemon| daemon.client.take()).flatten()
    }

    fn with<T>(&self, number: usize, change: impl FnOnce(&mut Daemon) -> T) -> Option<T> {
        self.daemons.write().get_mut(number).map(change)
    }
}

/// Something did not happen in the time that anything may take.
pub(super) fn late(what: impl Into<String>) -> FleetError {
    FleetError::Late {
        what: what.into(),
        waited: LIMIT,
    }
}

/// Whether some daemons have disks of their own.
pub(super) fn has_disks() -> bool {
    rustix::process::geteuid().is_root()
}
