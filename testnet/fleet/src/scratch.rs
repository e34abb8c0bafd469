//! A testnet that exists only while a command runs: in a temporary directory, gone with it.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use tempfile::TempDir;

use crate::capacities::Capacities;
use crate::net::{self, FleetError};
use crate::proc;
use crate::spawn::{Fleet, Launch, Recipe};
use crate::state::{Peer, Testnet};

/// Daemons are quiet when together they use less of a core than this.
const QUIET: f64 = 0.05;
const QUIET_WINDOW: Duration = Duration::from_millis(500);
const QUIET_LIMIT: Duration = Duration::from_secs(15);

/// What every command on temporary daemons takes.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The `mutualstore` binary.
    pub binary: PathBuf,
    /// Where temporary directories are made; the system's place for such when absent.
    pub place: Option<PathBuf>,
    /// Flags handed to every daemon.
    pub flags: Vec<String>,
}

impl RunOptions {
    /// The same with a repair delay fit for a testnet, unless the flags name one themselves.
    #[must_use]
    pub fn with_repair_delay(&self) -> Self {
        Self {
            flags: net::with_repair_delay(&self.flags, "2s"),
            ..self.clone()
        }
    }

    /// How daemons are started that end with this process; capacities are counted in units.
    pub fn recipe(&self, unit_bytes: u64) -> Recipe {
        Recipe {
            binary: self.binary.clone(),
            unit_bytes: unit_bytes.max(1),
            flags: self.flags.clone(),
            tethered: true,
        }
    }
}

/// A running temporary testnet; dropping it kills the daemons, then removes their directory.
#[derive(Debug)]
pub struct Scratch {
    // Dropped in this order: nobody writes into a directory that is being removed.
    fleet: Fleet,
    /// Its peers are alive until they are killed here.
    testnet: Testnet,
    dir: TempDir,
    recipe: Recipe,
}

impl Scratch {
    /// Starts the daemons and returns when their ring is whole.
    pub fn up(
        run: &RunOptions,
        prefix: &str,
        peers: usize,
        capacities: Capacities,
        seed: u64,
    ) -> Result<Self, FleetError> {
        let dir = temporary(run.place.as_deref(), prefix)?;
        let recipe = run.recipe(capacities.smallest() / 8);
        let testnet = Testnet {
            peers: Vec::new(),
            unit_bytes: recipe.unit_bytes,
            capacities,
            api_base: None,
            seed,
            flags: recipe.flags.clone(),
        };
        let mut scratch = Self {
            fleet: fleet_in(&dir)?,
            testnet,
            dir,
            recipe,
        };
        scratch.enter(peers)?;
        scratch.wait_whole()?;
        Ok(scratch)
    }

    /// Starts `count` newcomers and returns their numbers when they serve; [`Self::wait_whole`] waits for the
    /// ring.
    pub fn enter(&mut self, count: usize) -> Result<Vec<usize>, FleetError> {
        self.enter_with(count, &[])
    }

    /// Like [`Self::enter`], with flags for these newcomers alone.
    pub fn enter_with(&mut self, count: usize, flags: &[String]) -> Result<Vec<usize>, FleetError> {
        let next = self.testnet.next_index();
        let numbers = next..next + count;
        let mut launches = net::launches(self.dir.path(), &self.testnet, numbers.clone())?;
        for launch in &mut launches {
            launch.flags = flags.to_vec();
        }
        self.launch(&launches)?;
        Ok(numbers.collect())
    }

    /// Starts those of these peers that do not run, with what is on their disks, and returns when they serve.
    pub fn restart(&mut self, numbers: &[usize]) -> Result<(), FleetError> {
        let dead = |peer: &&Peer| !peer.alive && numbers.contains(&peer.index);
        let launch = |peer: &Peer| Launch::new(peer.index, peer.data_dir.clone(), peer.capacity_bytes);
        let launches: Vec<Launch> = self.peers().iter().filter(dead).map(launch).collect();
        self.launch(&launches)
    }

    fn launch(&mut self, launches: &[Launch]) -> Result<(), FleetError> {
        net::launch(&mut self.testnet, &self.fleet, &self.recipe, launches)
    }

    /// Waits until the peers that were not killed form one ring.
    pub fn wait_whole(&self) -> Result<(), FleetError> {
        net::wait_whole(&self.fleet, &self.testnet)
    }

    /// Where the daemons keep their data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The peers, by index; killed ones have `alive` false.
    pub fn peers(&self) -> &[Peer] {
        &self.testnet.peers
    }

    /// Numbers of the peers that were not killed.
    pub fn alive(&self) -> Vec<usize> {
        self.testnet.alive().map(|peer| peer.index).collect()
    }

    /// The same without some.
    pub fn alive_but(&self, avoid: &[usize]) -> Vec<usize> {
        let alive = self.alive().into_iter();
        alive.filter(|index| !avoid.contains(index)).collect()
    }

    /// The APIs of the peers that were not killed.
    pub fn clients(&self) -> Result<Vec<Client>, FleetError> {
        let members = self.testnet.alive().map(Peer::member);
        members.map(|member| Ok(member?.client)).collect()
    }

    /// The API of a peer.
    pub fn client(&self, index: usize) -> Result<Client, FleetError> {
        let peer = self.peers().iter().find(|peer| peer.index == index);
        let peer = peer.ok_or_else(|| FleetError::Usage(format!("there is no peer {index}")))?;
        Ok(peer.member()?.client)
    }

    /// SIGKILL; returns when the peer is gone.
    pub fn kill(&mut self, index: usize) {
        self.fleet.kill(index);
        for peer in &mut self.testnet.peers {
            peer.alive &= peer.index != index;
        }
    }

    /// Whether a peer that was told to leave has ended; it counts as killed then.
    pub fn has_left(&mut self, index: usize) -> bool {
        let left = self.fleet.end(index, Duration::ZERO).is_some();
        if left {
            self.kill(index);
        }
        left
    }

    /// CPU time that the live daemons have used so far. Fails when one is gone by itself.
    pub fn cpu_time(&self) -> Result<Duration, FleetError> {
        let time = |(_, pid)| proc::cpu_time(pid).unwrap_or_default();
        let sum = self.pids().into_iter().map(time).sum();
        self.fleet.check()?;
        Ok(sum)
    }

    /// Resident memory of all live daemons, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let pids = self.pids().into_iter();
        pids.filter_map(|(_, pid)| proc::rss_bytes(pid)).sum()
    }

    /// Waits until the daemons have done what was left behind, so that it is not counted to what follows; not
    /// for ever.
    pub fn settle(&self) -> Result<(), FleetError> {
        let begun = Instant::now();
        let mut before = self.cpu_time()?;
        let mut used = Duration::MAX;
        while used >= QUIET_WINDOW.mul_f64(QUIET) && begun.elapsed() <= QUIET_LIMIT {
            thread::sleep(QUIET_WINDOW);
            let now = self.cpu_time()?;
            used = now.saturating_sub(before);
            before = now;
        }
        Ok(())
    }

    /// Fails once Ctrl-C or a signal takes the daemons down: what is seen of them then means nothing.
    pub fn interrupted(&self) -> Result<(), FleetError> {
        Ok(self.fleet.interrupted()?)
    }

    /// Process ids of the live daemons, with the peers' numbers.
    pub fn pids(&self) -> Vec<(usize, u32)> {
        self.fleet.pids()
    }
}

/// No daemons yet, in a directory that goes with them on Ctrl-C.
pub fn fleet_in(dir: &TempDir) -> Result<Fleet, FleetError> {
    Fleet::new(Some(dir.path().to_owned())).map_err(FleetError::io("cannot watch for Ctrl-C"))
}

/// A temporary directory in `place`, or where the system has such.
pub fn temporary(place: Option<&Path>, prefix: &str) -> Result<TempDir, FleetError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    let dir = place.map_or_else(|| builder.tempdir(), |place| builder.tempdir_in(place));
    dir.map_err(|error| FleetError::Usage(format!("cannot make a temporary directory: {error}")))
}
