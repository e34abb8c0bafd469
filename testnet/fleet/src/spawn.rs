//! Starting one daemon process, and a fleet of them that never outlives us by accident.
//!
//! Invariants: until [`Fleet::detach`] every started daemon is killed when the fleet is dropped, on a
//! panic, and on Ctrl-C; tethered daemons also hold a pipe of ours as standard input and exit when it
//! closes, so even SIGKILL of this process leaves none behind. The environment's `MUTUALSTORE_*` is kept
//! from them: it describes a daemon to talk to, not the ones to start.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_contract::exit;
use mutualstore_contract::reply::DaemonFile;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::interrupt::OnInterrupt;
use crate::proc;

/// Pause between two looks at something another process does.
pub const POLL: Duration = Duration::from_millis(25);
const SERVING_LIMIT: Duration = Duration::from_mins(1);
const LOG_TAIL: u64 = 2 << 10;
/// In messages of errors, what the lines of a daemon's log stand behind.
pub const LOG_FOLLOWS: &str = "its log says:\n";
/// What the line begins with that says why a daemon ended.
const LAST_LINE: &str = "error: ";

/// What all daemons of a fleet have in common.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The `mutualstore` binary.
    pub binary: PathBuf,
    /// Capacity of one virtual node, bytes.
    pub unit_bytes: u64,
    /// Further flags of `mutualstore daemon`.
    pub flags: Vec<String>,
    /// The daemons exit when this process dies.
    pub tethered: bool,
}

/// One daemon to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Number of the peer.
    pub index: usize,
    /// Data directory; made when missing. Holds the log too.
    pub data_dir: PathBuf,
    /// Capacity in bytes.
    pub capacity_bytes: u64,
    /// API port; 0 for any free one.
    pub api_port: u16,
    /// Listen port of a first start, on 127.0.0.1; 0 for any free one. Later starts keep theirs. Of no
    /// account when the flags say where to listen.
    pub listen_port: u16,
    /// Addresses and invites to join by. They reach the daemon in a file, for everybody sees its arguments.
    pub join: Vec<String>,
    /// Further flags of this daemon alone.
    pub flags: Vec<String>,
}

impl Launch {
    /// One on any free ports that joins nobody.
    pub fn new(index: usize, data_dir: PathBuf, capacity_bytes: u64) -> Self {
        Self {
            index,
            data_dir,
            capacity_bytes,
            ..Self::default()
        }
    }

    fn log(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// The file of what [`Launch::join`] holds, a line each.
    fn join_file(&self) -> PathBuf {
        self.data_dir.join("join")
    }
}

/// A daemon did not come up. Others of the fleet are not affected.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The process cannot be made.
    #[error("cannot start daemon {index} ({}): {source}", binary.display())]
    Start {
        /// Number of the peer.
        index: usize,
        /// What was to be run.
        binary: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("daemon {index} ended ({status}){}", last_words(log))]
    Exited {
        /// Number of the peer.
        index: usize,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It runs but does not serve; it was killed.
    #[error("daemon {index} did not get ready in {} s; {LOG_FOLLOWS}{log}", limit.as_secs())]
    Late {
        /// Number of the peer.
        index: usize,
        /// How long was waited.
        limit: Duration,
        /// The end of its log.
        log: String,
    },
    /// The fleet is being taken down.
    #[error("interrupted")]
    Closed,
}

impl SpawnError {
    /// The exit code of a command that failed by this: that of the daemon, where it says what is wrong.
    pub fn exit_code(&self) -> u8 {
        let Self::Exited { status, .. } = self else {
            return exit::UNEXPECTED;
        };
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.filter(|code| [exit::USAGE, exit::REFUSED, exit::NO_SPACE, exit::NOT_ALLOWED].contains(code))
            .unwrap_or(exit::UNEXPECTED)
    }
}

/// Why a daemon ended, in its own words: the line it ends with, or else the end of its log.
fn last_words(log: &str) -> String {
    let last = log
        .lines()
        .next_back()
        .and_then(|line| line.strip_prefix(LAST_LINE));
    last.map_or_else(|| format!("; {LOG_FOLLOWS}{log}"), |line| format!(": {line}"))
}

/// The last lines of a daemon's log.
pub fn log_tail(data_dir: &Path) -> String {
    log_since(data_dir, 0)
}

/// The same without what was there before: a daemon that started earlier may have complained of something
/// else.
fn log_since(data_dir: &Path, before: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(data_dir.join("log"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL).max(before)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    match read() {
        Ok(text) if text.is_empty() => "(nothing)".to_owned(),
        Ok(text) => text,
        Err(error) => format!("(no log: {error})"),
    }
}

/// A free TCP port on loopback below the range the system hands out to outgoing connections, so that a
/// daemon finds its port free again when it is restarted; 0 (any) when there is none.
pub fn free_port(taken: &mut BTreeSet<u16>) -> u16 {
    const LOWEST: u16 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first: u16 = range
        .split_ascii_whitespace()
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(32_768);
    let Some(room) = first.checked_sub(LOWEST).filter(|room| *room > 0) else {
        return 0;
    };
    let ports = (0..200).map(|_| LOWEST + rand::random::<u16>() % room);
    let mut free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.find(|port| taken.insert(*port)).unwrap_or(0)
}

/// Looks again and again, with a pause between two looks, until something is there or the time is over.
pub fn until<T>(limit: Duration, pause: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let seen = look();
        if seen.is_some() || begun.elapsed() > limit {
            return seen;
        }
        thread::sleep(pause);
    }
}

fn command(recipe: &Recipe, launch: &Launch) -> io::Result<Command> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&launch.data_dir)?;
    match fs::remove_file(launch.data_dir.join("daemon.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if !launch.join.is_empty() {
        keep_join(launch)?;
    }
    let log = File::options().create(true).append(true).open(launch.log())?;
    let mut command = Command::new(&recipe.binary);
    command.args(["daemon", "--data-dir"]).arg(&launch.data_dir);
    command.args(arguments(recipe, launch));
    command.stdin(if recipe.tethered {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stderr(log.try_clone()?).stdout(log);
    // A group of its own: Ctrl-C at the terminal is for us, not for the daemons.
    command.process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUTUALSTORE_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn keep_join(launch: &Launch) -> io::Result<()> {
    let mut options = File::options();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(launch.join_file())?;
    file.write_all(launch.join.join("\n").as_bytes())
}

fn arguments(recipe: &Recipe, launch: &Launch) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if !launch.join.is_empty() {
        let mut from_file = OsString::from("@");
        from_file.push(launch.join_file());
        arguments.extend(["--join".into(), from_file]);
    }
    let mut flag = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    flag("--capacity", launch.capacity_bytes.to_string());
    flag("--unit", recipe.unit_bytes.to_string());
    flag("--api", format!("127.0.0.1:{}", launch.api_port));
    let mut flags = recipe.flags.iter().chain(&launch.flags);
    let elsewhere = flags.any(|flag| flag == "--listen");
    if !elsewhere && !launch.data_dir.join("config.toml").exists() {
        flag("--listen", format!("/ip4/127.0.0.1/tcp/{}", launch.listen_port));
    }
    if recipe.tethered {
        arguments.push("--exit-on-stdin-close".into());
    }
    arguments.extend(recipe.flags.iter().chain(&launch.flags).map(OsString::from));
    arguments
}

#[derive(Debug)]
struct Running {
    data_dir: PathBuf,
    child: Child,
    /// Bytes of its log when it was started.
    log_before: u64,
}

impl Running {
    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn ended(&mut self, index: usize) -> Option<SpawnError> {
        let status = self.status()?;
        let log = log_since(&self.data_dir, self.log_before);
        Some(SpawnError::Exited { index, status, log })
    }

    fn kill(&mut self) {
        // Fails only for a child that was waited for already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Debug, Default)]
struct Roster {
    closed: bool,
    running: BTreeMap<usize, Running>,
}

impl Roster {
    fn close(&mut self) {
        self.closed = true;
        self.running.values_mut().for_each(Running::kill);
        self.running.clear();
    }
}

/// Daemons started by this process, by number.
#[derive(Debug)]
pub struct Fleet {
    roster: Arc<Mutex<Roster>>,
    _on_interrupt: OnInterrupt,
}

impl Fleet {
    /// An empty fleet. On Ctrl-C its daemons are killed and `scratch`, when given, is removed.
    pub fn new(scratch: Option<PathBuf>) -> io::Result<Self> {
        let roster = Arc::new(Mutex::new(Roster::default()));
        let closing = Arc::clone(&roster);
        let on_interrupt = OnInterrupt::run(move || {
            closing.lock().close();
            if let Some(scratch) = scratch {
                // Nobody is left to be told.
                drop(fs::remove_dir_all(scratch));
            }
        })?;
        Ok(Self {
            roster,
            _on_interrupt: on_interrupt,
        })
    }

    /// Starts a daemon and waits until it serves its API, joined or not.
    pub fn start(&self, recipe: &Recipe, launch: &Launch) -> Result<DaemonFile, SpawnError> {
        let pid = self.spawn(recipe, launch)?;
        let served = until(SERVING_LIMIT, POLL, || {
            let file = mutualstore_client::read_daemon_file(&launch.data_dir);
            let serves = file.filter(|file| file.pid == pid).map(Ok);
            serves.or_else(|| self.ended(launch.index).map(Err))
        });
        served.unwrap_or_else(|| {
            self.kill(launch.index);
            Err(SpawnError::Late {
                index: launch.index,
                limit: SERVING_LIMIT,
                log: log_tail(&launch.data_dir),
            })
        })
    }

    fn spawn(&self, recipe: &Recipe, launch: &Launch) -> Result<u32, SpawnError> {
        let failed = |source| SpawnError::Start {
            index: launch.index,
            binary: recipe.binary.clone(),
            source,
        };
        let mut roster = self.roster.lock();
        if roster.closed {
            return Err(SpawnError::Closed);
        }
        let log_before = fs::metadata(launch.log()).map_or(0, |log| log.len());
        let child = command(recipe, launch)
            .and_then(|mut command| command.spawn())
            .map_err(failed)?;
        let pid = child.id();
        let running = Running {
            data_dir: launch.data_dir.clone(),
            child,
            log_before,
        };
        roster.running.insert(launch.index, running);
        Ok(pid)
    }

    /// SIGKILL for one daemon; returns when it is gone.
    pub fn kill(&self, index: usize) {
        let mut roster = self.roster.lock();
        if let Some(mut daemon) = roster.running.remove(&index) {
            daemon.kill();
        }
    }

    /// Sends a signal to one daemon, if it runs.
    pub fn signal(&self, index: usize, signal: Signal) -> io::Result<()> {
        let roster = self.roster.lock();
        let running = roster.running.get(&index);
        let pid = running.ok_or(Errno::SRCH)?.child.id();
        Ok(proc::signal(pid, signal)?)
    }

    /// Waits for the end of a daemon that is about to end by itself; `None` when it does not within `limit`.
    pub fn end(&self, index: usize, limit: Duration) -> Option<ExitStatus> {
        until(limit, POLL, || {
            let mut roster = self.roster.lock();
            let Some(daemon) = roster.running.get_mut(&index) else {
                return Some(None);
            };
            let status = daemon.status()?;
            roster.running.remove(&index);
            Some(Some(status))
        })
        .flatten()
    }

    /// Fails when a daemon ended by itself.
    pub fn check(&self) -> Result<(), SpawnError> {
        let mut roster = self.roster.lock();
        let mut running = roster.running.iter_mut();
        let ended = running.find_map(|(index, daemon)| daemon.ended(*index));
        ended.map_or(Ok(()), Err)
    }

    fn ended(&self, index: usize) -> Option<SpawnError> {
        self.roster.lock().running.get_mut(&index)?.ended(index)
    }

    /// Fails once Ctrl-C or a signal takes the daemons down: what is seen of them then means nothing.
    pub fn interrupted(&self) -> Result<(), SpawnError> {
        let closed = self.roster.lock().closed;
        if closed { Err(SpawnError::Closed) } else { Ok(()) }
    }

    /// The daemons' process ids, with the peers' numbers.
    pub fn pids(&self) -> Vec<(usize, u32)> {
        let roster = self.roster.lock();
        let running = roster.running.iter();
        running
            .map(|(index, daemon)| (*index, daemon.child.id()))
            .collect()
    }

    /// Lets the daemons live on.
    pub fn detach(self) {
        self.roster.lock().running.clear();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.roster.lock().close();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn launch(dir: &Path) -> Launch {
        Launch {
            index: 3,
            data_dir: dir.to_owned(),
            capacity_bytes: 1000,
            api_port: 7003,
            listen_port: 9,
            join: vec!["/ip4/127.0.0.1/tcp/1/p2p/A".to_owned(), "B".to_owned()],
            flags: vec!["--cache".to_owned(), "0".to_owned()],
        }
    }

    fn recipe(binary: &str, tethered: bool) -> Recipe {
        Recipe {
            binary: binary.into(),
            unit_bytes: 125,
            flags: vec!["--repair".into(), "off".into()],
            tethered,
        }
    }

    #[test]
    fn flags_of_a_daemon_follow_the_contract_and_a_restart_keeps_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let text = |recipe: &Recipe| {
            let words = arguments(recipe, &launch(dir.path()));
            words
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let join = dir.path().join("join");
        assert_eq!(
            text(&recipe("x", false)),
            format!(
                "--join @{} --capacity 1000 --unit 125 --api 127.0.0.1:7003 --listen /ip4/127.0.0.1/tcp/9 \
                 --repair off --cache 0",
                join.display()
            )
        );
        keep_join(&launch(dir.path())).unwrap();
        assert_eq!(
            fs::read_to_string(&join).unwrap(),
            "/ip4/127.0.0.1/tcp/1/p2p/A\nB"
        );
        assert_eq!(fs::metadata(&join).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(dir.path().join("config.toml"), "").unwrap();
        assert!(!text(&recipe("x", false)).contains("--listen"));
        assert!(text(&recipe("x", true)).ends_with("--exit-on-stdin-close --repair off --cache 0"));
    }

    #[test]
    fn daemon_that_ended_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::new(None).unwrap();
        let failure = fleet
            .start(&recipe("/bin/ls", false), &launch(dir.path()))
            .unwrap_err();
        assert!(
            matches!(failure, SpawnError::Exited { index: 3, .. }),
            "{failure}"
        );
        assert!(failure.to_string().contains("daemon"), "{failure}");
        let failure = fleet
            .start(&recipe("/nonexistent", false), &launch(dir.path()))
            .unwrap_err();
        assert!(matches!(failure, SpawnError::Start { .. }), "{failure}");
    }

    #[test]
    fn daemon_that_ended_early_is_quoted() {
        let log = "x INFO a: b\nerror: not allowed: because";
        assert_eq!(last_words(log), ": not allowed: because");
        assert_eq!(last_words("killed"), format!("; {LOG_FOLLOWS}killed"));
        let ended = |code: i32| SpawnError::Exited {
            index: 0,
            status: std::os::unix::process::ExitStatusExt::from_raw(code << 8),
            log: String::new(),
        };
        assert_eq!([8, 2, 1, 101].map(|code| ended(code).exit_code()), [8, 2, 1, 1]);
    }

    #[test]
    fn dropped_fleet_leaves_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("sleeper");
        fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let fleet = Fleet::new(None).unwrap();
        let pid = fleet
            .spawn(
                &recipe(&script.to_string_lossy(), true),
                &launch(&dir.path().join("d")),
            )
            .unwrap();
        assert!(crate::proc::start_ticks(pid).is_some());
        assert!(fleet.check().is_ok());
        drop(fleet);
        assert_eq!(crate::proc::start_ticks(pid), None);
    }

    #[test]
    fn free_ports_differ() {
        let mut taken = BTreeSet::new();
        let (one, two) = (free_port(&mut taken), free_port(&mut taken));
        assert_ne!(one, two);
        assert_eq!(taken.len(), 2);
    }
}
