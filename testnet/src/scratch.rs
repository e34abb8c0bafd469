//! A testnet that exists only while a command runs: in a temporary directory, gone with it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::client::Client;
use crate::net::{self, NetError};
use crate::size::Capacities;
use crate::spawn::{self, Fleet, Launch, Recipe, SpawnError};
use crate::state::Peer;

/// What a temporary testnet consists of.
#[derive(Clone, Debug)]
pub struct ScratchOptions {
    /// The `mutualstore` binary.
    pub binary: PathBuf,
    /// Number of daemons.
    pub peers: usize,
    /// Their capacities.
    pub capacities: Capacities,
    /// Where the temporary directory is made; the system's place for such when absent.
    pub place: Option<PathBuf>,
    /// Beginning of the temporary directory's name.
    pub prefix: &'static str,
    /// Seed of the choices made.
    pub seed: u64,
    /// Flags handed to every daemon.
    pub flags: Vec<String>,
}

/// A running temporary testnet; dropping it kills the daemons, then removes their directory.
#[derive(Debug)]
pub struct Scratch {
    // Dropped in this order: nobody writes into a directory that is being removed.
    fleet: Fleet,
    peers: Vec<Peer>,
    dir: TempDir,
}

impl Scratch {
    /// Starts the daemons and returns when their ring is whole.
    pub fn up(options: &ScratchOptions) -> Result<Self, NetError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(options.prefix);
        let dir = match &options.place {
            Some(place) => builder.tempdir_in(place),
            None => builder.tempdir(),
        };
        let dir = dir.map_err(NetError::io("cannot make a temporary directory"))?;
        let fleet =
            Fleet::new(Some(dir.path().to_owned())).map_err(NetError::io("cannot watch for Ctrl-C"))?;
        let mut scratch = Self {
            fleet,
            peers: Vec::new(),
            dir,
        };
        let recipe = Recipe {
            binary: options.binary.clone(),
            unit_bytes: (options.capacities.smallest() / 8).max(1),
            flags: options.flags.clone(),
            tethered: true,
        };
        let launches: Vec<Launch> = (0..options.peers)
            .map(|index| Launch {
                index,
                data_dir: scratch.dir.path().join(index.to_string()),
                capacity_bytes: options.capacities.of(index),
                api_port: 0,
                // Never restarted, so any port will do.
                listen_port: 0,
                join: Vec::new(),
                flags: Vec::new(),
            })
            .collect();
        scratch.peers = net::start_all(&scratch.fleet, &recipe, &launches, Vec::new(), options.seed)?;
        net::wait_whole(&scratch.fleet, &scratch.peers)?;
        Ok(scratch)
    }

    /// Where the daemons keep their data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The peers, by index; killed ones have `alive` false.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Numbers of the peers that were not killed.
    pub fn alive(&self) -> Vec<usize> {
        self.peers
            .iter()
            .filter(|peer| peer.alive)
            .map(|peer| peer.index)
            .collect()
    }

    /// The API of a peer.
    pub fn client(&self, index: usize) -> Result<Client, NetError> {
        let peer = self.peers.iter().find(|peer| peer.index == index);
        let peer = peer.ok_or_else(|| NetError::Usage(format!("there is no peer {index}")))?;
        Ok(Client::with_token_file(&peer.api, &peer.data_dir.join("token"))?)
    }

    /// SIGKILL; returns when the peer is gone.
    pub fn kill(&mut self, index: usize) {
        self.fleet.kill(index);
        self.peers
            .iter_mut()
            .filter(|peer| peer.index == index)
            .for_each(|peer| peer.alive = false);
    }

    /// Fails once Ctrl-C or a signal takes the daemons down: what is seen of them then means nothing.
    pub fn interrupted(&self) -> Result<(), NetError> {
        if self.fleet.is_closed() {
            return Err(SpawnError::Closed.into());
        }
        Ok(())
    }

    /// Process ids of the live daemons, with the peers' numbers.
    pub fn pids(&self) -> Vec<(usize, u32)> {
        self.fleet.pids()
    }

    /// The end of the log of a daemon that ended by itself, if one did.
    pub fn any_ended(&self) -> Option<spawn::SpawnError> {
        self.fleet.any_ended()
    }
}
