//! Testnets in temporary directories, driven through the binary as a person would.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Generous: the machine may be busy with something else.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

/// Testnets are heavy: the tests of one binary take turns.
static TURN: Mutex<()> = Mutex::new(());

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        Self {
            code,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The only word on standard output.
    pub(crate) fn word(&self) -> String {
        self.text().trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Ended with `code` and one clear line.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{}", self.stderr);
        self
    }
}

/// The binary with a clean environment.
pub(crate) fn mutualstore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mutualstore"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUTUALSTORE_"))
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

pub(crate) fn say<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Said {
    Said::of(mutualstore().args(words).output().unwrap())
}

/// For tests that start daemons otherwise than by [`Net::up`]: one at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A testnet; dropping it stops the daemons and removes the directory.
pub(crate) struct Net {
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Net {
    /// `testnet up` with these flags.
    #[track_caller]
    pub(crate) fn up(peers: usize, flags: &[&str]) -> Self {
        let turn = turn();
        let net = Self {
            dir: tempfile::tempdir().unwrap(),
            _turn: turn,
        };
        let peers = peers.to_string();
        let mut words = vec!["--peers", &peers];
        words.extend(flags);
        net.testnet("up", &words).ok();
        net
    }

    /// `testnet COMMAND --dir DIR ...`
    pub(crate) fn testnet(&self, command: &str, words: &[&str]) -> Said {
        Said::of(self.testnet_command(command, words).output().unwrap())
    }

    pub(crate) fn testnet_command(&self, command: &str, words: &[&str]) -> Command {
        let mut line = mutualstore();
        line.args(["testnet", command, "--dir"])
            .arg(self.net_dir())
            .args(words);
        line
    }

    /// Kills a peer with SIGKILL.
    pub(crate) fn kill(&self, index: usize) {
        self.testnet("kill", &["--peer", &index.to_string()]).ok();
    }

    /// Starts a daemon that was killed; returns when it serves.
    pub(crate) fn start(&self, index: usize) {
        self.testnet("start", &["--peer", &index.to_string()]).ok();
    }

    fn net_dir(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    /// Place for a test's own files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client command through peer `index`, not yet run.
    pub(crate) fn command(&self, index: usize, words: &[&str]) -> Command {
        let mut command = mutualstore();
        command
            .args(words)
            .arg("--data-dir")
            .arg(self.data_dir(index))
            .current_dir(self.dir.path());
        command
    }

    /// A client command through peer `index`.
    pub(crate) fn run(&self, index: usize, words: &[&str]) -> Said {
        Said::of(self.command(index, words).output().unwrap())
    }

    /// Stores bytes through peer `index` and answers the link.
    #[track_caller]
    pub(crate) fn put(&self, index: usize, bytes: &[u8], flags: &[&str]) -> String {
        let path = self.file("to-put");
        fs::write(&path, bytes).unwrap();
        let mut words = vec!["put", "--unnamed", path.to_str().unwrap()];
        words.extend(flags);
        self.run(index, &words).ok().word()
    }

    /// Whether a file comes back through peer `index` byte for byte.
    #[track_caller]
    pub(crate) fn expect(&self, index: usize, link: &str, bytes: &[u8]) {
        let said = self.run(index, &["get", link, "-o", "-"]);
        let log = mutualstore_fleet::spawn::log_tail(&self.data_dir(index));
        assert_eq!(
            said.code, 0,
            "through peer {index}: {}; it logged\n{log}",
            said.stderr
        );
        assert!(said.stdout == bytes, "through peer {index} other bytes came back");
    }

    pub(crate) fn peers(&self) -> Vec<Value> {
        self.testnet("ls", &["--json"]).ok().json()["peers"]
            .as_array()
            .unwrap()
            .clone()
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        let alive = |peer: &Value| peer["alive"] == true;
        self.peers()
            .iter()
            .filter(|peer| alive(peer))
            .map(number)
            .collect()
    }

    pub(crate) fn data_dir(&self, index: usize) -> PathBuf {
        self.net_dir().join(index.to_string())
    }

    /// Number of the peer with this id.
    pub(crate) fn index_of(&self, peer: &str) -> usize {
        self.peers()
            .iter()
            .find(|entry| entry["peer"] == peer)
            .map(number)
            .unwrap()
    }

    pub(crate) fn stat(&self, index: usize, link: &str) -> Value {
        self.run(index, &["stat", link, "--json"]).ok().json()
    }

    pub(crate) fn status(&self, index: usize) -> Value {
        self.run(index, &["status", "--json"]).ok().json()
    }

    /// Waits until a file has this health, seen through peer `index`.
    #[track_caller]
    pub(crate) fn becomes(&self, index: usize, link: &str, health: &str) {
        eventually(&format!("{link:.12} is {health}"), || {
            let said = self.run(index, &["stat", link, "--json"]);
            (said.code == 0 && said.json()["health"] == health).then_some(())
        });
    }

    /// The peers a walk from peer `index` meets, sorted.
    pub(crate) fn walk(&self, index: usize) -> Vec<String> {
        let said = self.run(index, &["ring", "--walk", "--json"]);
        if said.code != 0 {
            return Vec::new();
        }
        let mut peers: Vec<String> = said.json()["peers"].as_array().unwrap().iter().map(id).collect();
        peers.sort();
        peers
    }

    /// Ids of the peers with these numbers, sorted.
    pub(crate) fn ids(&self, indices: &[usize]) -> Vec<String> {
        let chosen = |peer: &&Value| indices.contains(&number(peer));
        let mut ids: Vec<String> = self.peers().iter().filter(chosen).map(id).collect();
        ids.sort();
        ids
    }

    /// Bytes of shards on all live peers.
    pub(crate) fn stored(&self) -> u64 {
        self.alive()
            .into_iter()
            .map(|index| self.status(index)["used_bytes"].as_u64().unwrap())
            .sum()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let said = self.testnet("down", &["--wipe"]);
        if !thread::panicking() {
            assert_eq!(said.code, 0, "{}", said.stderr);
        }
    }
}

fn number(peer: &Value) -> usize {
    usize::try_from(peer["index"].as_u64().unwrap()).unwrap()
}

fn id(peer: &Value) -> String {
    peer["peer"].as_str().unwrap().to_owned()
}

/// A port for somebody who is to listen there later. None that the system draws for outgoing connections:
/// while nobody listens there, one of those might take it.
pub(crate) fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let drawn: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    assert!(drawn > LOWEST, "the system draws ports from {drawn} on");
    let first = usize::try_from(std::process::id()).unwrap() % usize::from(drawn - LOWEST);
    let mut ports = (LOWEST..drawn).cycle().skip(first);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(free).unwrap()
}

/// Polls until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Bytes that do not compress and differ by seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    mutualstore_fleet::stream::Noise::new(seed).fill(&mut bytes);
    bytes
}

/// Processes whose command line names `place`.
pub(crate) fn processes_at(place: &Path) -> Vec<u32> {
    let needle = place.to_str().unwrap().as_bytes();
    let names = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(needle.len()).any(|part| part == needle)
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(names)
        .collect()
}
