//! `DIR/testnet.json`: which daemons a testnet consists of.
//!
//! Invariants: the file is replaced in one step, so a reader sees the peers before or after a command,
//! never between; a peer is alive only while its pid *and* start time match, so a recycled pid is never
//! signalled; one command at a time changes a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mutualstore_client::{Client, ClientError};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::capacities::Capacities;
use crate::proc;
use crate::whole::Member;

const FILE: &str = "testnet.json";
const LOCK: &str = "lock";

/// One daemon of a testnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Number of the peer, from 0; also the name of its directory.
    pub index: usize,
    /// Process id of the last start.
    pub pid: u32,
    /// Peer id.
    pub peer: String,
    /// `http://ADDR:PORT` of the API.
    pub api: String,
    /// Listen address with `/p2p/`.
    pub listen: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Capacity given to the network.
    pub capacity_bytes: u64,
    /// Whether the process lived when the file was written or [`Testnet::refresh`]ed.
    pub alive: bool,
    /// Start time of the process in clock ticks since boot: tells it from a later owner of its pid.
    pub start_ticks: u64,
}

impl Peer {
    /// The peer as a member of its ring, to be asked.
    pub fn member(&self) -> Result<Member, ClientError> {
        Ok(Member {
            index: self.index,
            peer: self.peer.clone(),
            listen: self.listen.clone(),
            client: Client::with_token_file(&self.api, &self.data_dir.join("token"))?,
        })
    }

    /// Whether the very process that was started still runs.
    pub fn runs(&self) -> bool {
        proc::start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// A testnet: its daemons and how to start more of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testnet {
    /// The daemons, by index.
    pub peers: Vec<Peer>,
    /// Capacity of one virtual node, bytes; a parameter of the network.
    pub unit_bytes: u64,
    /// Capacities of the peers.
    pub capacities: Capacities,
    /// Peer i has its API on this port + i; any free port when absent.
    pub api_base: Option<u16>,
    /// Seed of the choices made when peers join.
    pub seed: u64,
    /// Flags handed to every daemon.
    pub flags: Vec<String>,
}

/// The description of a testnet cannot be used; it is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error("no testnet in {}; start one with `mutualstore testnet up`", .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use {}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    /// It is not what this program writes.
    #[error("{} is damaged: {}", .0.display(), .1)]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// Held, until dropped, by the one command that may change a testnet directory. Waits for the command that
/// holds it; every command ends in bounded time.
pub fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(LOCK);
    let held = File::create(&path).and_then(|file| {
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    });
    held.map_err(|error| unusable(dir, path, error))
}

/// A file of `dir` that is not there says that the testnet is not.
fn unusable(dir: &Path, path: PathBuf, source: io::Error) -> StateError {
    if source.kind() == io::ErrorKind::NotFound {
        StateError::Missing(dir.to_owned())
    } else {
        StateError::Io(path, source)
    }
}

impl Testnet {
    /// Reads the testnet of `dir` and looks which of its peers live.
    pub fn load(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|error| unusable(dir, path.clone(), error))?;
        let mut testnet: Self =
            serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged(path, source))?;
        testnet.refresh();
        Ok(testnet)
    }

    /// Replaces `dir/testnet.json` in one step.
    pub fn save(&self, dir: &Path) -> Result<(), StateError> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(dir.join(FILE))?;
            File::open(dir)?.sync_all()
        };
        let path = dir.join(FILE);
        write().map_err(|source| StateError::Io(path, source))
    }

    /// Looks again which peers live.
    pub fn refresh(&mut self) {
        for peer in &mut self.peers {
            peer.alive = peer.runs();
        }
    }

    /// The peers that live.
    pub fn alive(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.alive)
    }

    /// The number of the next newcomer.
    pub fn next_index(&self) -> usize {
        self.peers.iter().map(|peer| peer.index + 1).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(pid: u32, start_ticks: u64) -> Peer {
        Peer {
            index: 0,
            pid,
            peer: "12D3".to_owned(),
            api: "http://127.0.0.1:1".to_owned(),
            listen: "/ip4/127.0.0.1/tcp/2/p2p/12D3".to_owned(),
            data_dir: PathBuf::from("/x/0"),
            capacity_bytes: 1 << 30,
            alive: true,
            start_ticks,
        }
    }

    fn testnet(peers: Vec<Peer>) -> Testnet {
        Testnet {
            peers,
            unit_bytes: 1,
            capacities: Capacities::same(1),
            api_base: None,
            seed: 7,
            flags: vec!["--x".to_owned()],
        }
    }

    #[test]
    fn state_file_has_the_documented_fields() {
        let json = serde_json::to_value(testnet(vec![peer(1, 2)])).unwrap();
        let fields = [
            "index",
            "pid",
            "peer",
            "api",
            "listen",
            "data_dir",
            "capacity_bytes",
            "alive",
        ];
        for field in fields {
            assert!(!json["peers"][0][field].is_null(), "{field}");
        }
        assert!(json["peers"][0]["listen"].is_string());
    }

    #[test]
    fn state_saved_is_loaded_and_a_recycled_pid_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let ticks = proc::start_ticks(pid).unwrap();
        let saved = testnet(vec![peer(pid, ticks), peer(pid, ticks + 1)]);
        saved.save(dir.path()).unwrap();
        let loaded = Testnet::load(dir.path()).unwrap();
        assert_eq!(loaded.peers[0], saved.peers[0]);
        assert!(!loaded.peers[1].alive);
        assert_eq!(loaded.alive().count(), 1);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "the temporary file is gone"
        );
    }

    #[test]
    fn missing_state_file_differs_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Testnet::load(dir.path()),
            Err(StateError::Missing { .. })
        ));
        assert!(matches!(
            lock(&dir.path().join("none")),
            Err(StateError::Missing { .. })
        ));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(
            Testnet::load(dir.path()),
            Err(StateError::Damaged { .. })
        ));
    }

    #[test]
    fn lock_held_refuses_a_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let file = File::open(dir.path().join(LOCK)).unwrap();
        let second = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(second(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(held);
        assert_eq!(second(), Ok(()));
    }
}
