//! Configuration: defaults < `DIR/config.toml` < the file of `--config` < `MUTUALSTORE_*` < flags.
//!
//! What the daemon was started with is kept: after a start `DIR/config.toml` holds every value that was ever
//! given, until another one is given. The file is rewritten only when that changes something; comments of its
//! owner do not survive a rewrite. It may hold an invite, so it is readable by its owner only.
//!
//! What to join is a secret when it is an invite, and everybody on a machine sees the arguments of its
//! processes: `--join` and `MUTUALSTORE_JOIN` also take `@FILE`, and `--join` takes `-` for standard input.
//! What was read there is what is kept.
//!
//! Variables are named like their keys, `MUTUALSTORE_REPAIR_DELAY`, lists separated by commas; only that of
//! `api` is `MUTUALSTORE_DAEMON_API`, because `MUTUALSTORE_API` says where clients find the daemon.

mod error;
mod join;

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use mutualstore_contract::units::{Rate, Size, Switch, UnitError, optional_duration};
use mutualstore_erasure::Policy;
use serde::{Deserialize, Serialize};

use crate::datadir::files::{read_optional, write_atomic};
use crate::datadir::network::{
    DEFAULT_SUCCESSORS, Join, check_listen_address, check_peer_address, id_from_hex, split_address,
};
use crate::log;

pub use self::error::ConfigError;
use self::error::in_one_line;

/// Name of the file in the data directory.
pub const FILE: &str = "config.toml";
/// The least a peer gives: a shard of 1 MiB has to be a small part of it.
pub const MIN_CAPACITY: u64 = 16 << 20;
/// The least [`Config::link_rate`], 1 Mbit/s: below, the ring's own messages and a few shards at once take so
/// long that peers are taken for dead.
pub const MIN_LINK_RATE: u64 = 125_000;
/// The least [`Config::read_ahead`]: a block or two.
pub const MIN_READ_AHEAD: u64 = 8 << 20;
/// Stripes of one transfer are on their way together for this long at most at the link's rate, or one alone.
const LINK_AHEAD: Duration = Duration::from_secs(30);
/// Bounds of the number of distinct peers in a successor list.
pub const SUCCESSORS: std::ops::RangeInclusive<u32> = 5..=64;

/// First line of the file.
const HEADING: &str = "# Kept by the MutualStore daemon: what it was last started with. May be edited while \
                       it is stopped.\n";

/// How a daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Config {
    /// Bytes of disk given to the network, at least [`MIN_CAPACITY`]. Has no default: 0 here.
    pub capacity: u64,
    /// Multiaddresses to listen on for peers. Default `/ip4/0.0.0.0/tcp/0`; the port is kept.
    pub listen: Vec<String>,
    /// Multiaddresses told to peers instead of those listened on.
    pub announce: Vec<String>,
    /// Where the HTTP API listens. Default 127.0.0.1, a free port.
    pub api: SocketAddr,
    /// Peers to join by, or invites.
    pub join: Vec<Join>,
    /// Whether a network founded here is open to everybody; never kept, for the network keeps it. Default no.
    pub open: bool,
    /// Id of the network to found or to belong to; none: a random one, or that of the peers joined.
    pub network: Option<[u8; 32]>,
    /// Bytes of capacity per virtual node in a network founded here. Default an eighth of the capacity.
    pub unit: Option<u64>,
    /// Distinct peers of a successor list in a network founded here, within [`SUCCESSORS`]. Default 16.
    pub successors: u32,
    /// Whether this peer rebuilds what others lost. Default on.
    pub repair: bool,
    /// How long a peer is unreachable before it counts as gone, at least 100 ms. Default 15 min.
    pub repair_delay: Duration,
    /// Bytes per second that repair reads and writes at most, at least 64 KiB; none: no limit.
    pub repair_rate: Option<u64>,
    /// How long shards of an unfinished put are held without renewal, at least 1 s. Default 5 min.
    pub pending_lease: Duration,
    /// How long a put waits for all n shards of a stripe, at least 100 ms. Default 10 s.
    pub write_timeout: Duration,
    /// How long a deletion is remembered, at least 1 s. Default 30 days.
    pub tombstone_retention: Duration,
    /// Bytes per second sent to all peers together at most, and as many received from them, at least
    /// [`MIN_LINK_RATE`]; none: no limit. Requests of ring and custody go before shards. Not counted are
    /// handshakes and what encryption and TCP add, about 4 %; a burst of 64 KiB, or of 10 ms if that is more,
    /// may go beyond it.
    pub link_rate: Option<u64>,
    /// Time between two rounds of ring maintenance, 50 ms to 1 h. Default 1 s.
    pub stabilize: Duration,
    /// Bytes of decoded blocks held for reads. Default 32 MiB.
    pub cache: u64,
    /// Bytes of blocks fetched for reads and not taken by their clients yet, of all reads together, at least
    /// [`MIN_READ_AHEAD`]. Default 64 MiB. A client that takes nothing keeps none of it for longer than 10 s.
    pub read_ahead: u64,
    /// Whether the HTTP API, which is plain text, may be served elsewhere than on loopback. Default no.
    pub api_insecure: bool,
    /// How the holders of files are chosen that are put here without saying it. Default successors.
    pub placement: Policy,
    /// What is logged, in the form of `RUST_LOG`, see `log::check_filter`. Default `info`.
    pub log: String,
    /// Whether the daemon stops when its standard input closes; never kept. Default no.
    pub exit_on_stdin_close: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 0,
            listen: vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
            announce: Vec::new(),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            join: Vec::new(),
            open: false,
            network: None,
            unit: None,
            successors: DEFAULT_SUCCESSORS,
            repair: true,
            repair_delay: Duration::from_mins(15),
            repair_rate: None,
            pending_lease: Duration::from_mins(5),
            write_timeout: Duration::from_secs(10),
            tombstone_retention: Duration::from_hours(30 * 24),
            link_rate: None,
            stabilize: Duration::from_secs(1),
            cache: 32 << 20,
            read_ahead: 64 << 20,
            api_insecure: false,
            placement: Policy::Successors,
            log: "info".to_owned(),
            exit_on_stdin_close: false,
        }
    }
}

/// Values given at one place: a file, the environment or the command line. What is absent comes from the
/// layer below. The form of `config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// See [`Config::capacity`].
    pub capacity: Option<Size>,
    /// See [`Config::listen`].
    pub listen: Option<Vec<String>>,
    /// See [`Config::announce`].
    pub announce: Option<Vec<String>>,
    /// See [`Config::api`].
    pub api: Option<SocketAddr>,
    /// See [`Config::join`].
    pub join: Option<Vec<String>>,
    /// See [`Config::network`]: 64 hex digits.
    pub network: Option<String>,
    /// See [`Config::unit`].
    pub unit: Option<Size>,
    /// See [`Config::successors`].
    pub successors: Option<u32>,
    /// See [`Config::repair`].
    pub repair: Option<Switch>,
    /// See [`Config::repair_delay`].
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub repair_delay: Option<Duration>,
    /// See [`Config::repair_rate`].
    pub repair_rate: Option<Rate>,
    /// See [`Config::pending_lease`].
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub pending_lease: Option<Duration>,
    /// See [`Config::write_timeout`].
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<Duration>,
    /// See [`Config::tombstone_retention`].
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub tombstone_retention: Option<Duration>,
    /// See [`Config::link_rate`].
    pub link_rate: Option<Rate>,
    /// See [`Config::stabilize`].
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub stabilize: Option<Duration>,
    /// See [`Config::cache`].
    pub cache: Option<Size>,
    /// See [`Config::read_ahead`].
    pub read_ahead: Option<Size>,
    /// See [`Config::api_insecure`].
    pub api_insecure: Option<Switch>,
    /// See [`Config::placement`].
    pub placement: Option<String>,
    /// See [`Config::log`].
    pub log: Option<String>,
    /// See [`Config::open`]. Only a flag.
    #[serde(skip)]
    pub open: bool,
    /// See [`Config::exit_on_stdin_close`]. Only a flag.
    #[serde(skip)]
    pub exit_on_stdin_close: bool,
    /// A file to read above `DIR/config.toml`: `--config`. Only a flag.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

impl Config {
    /// The configuration of the daemon in `directory`, of all layers, and what to [keep](Overrides::keep) of
    /// it once the daemon has started.
    pub fn load(directory: &Path, flags: Overrides) -> Result<(Self, Overrides), ConfigError> {
        Self::load_from(directory, flags, std::env::vars_os())
    }

    fn load_from(
        directory: &Path,
        flags: Overrides,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Overrides), ConfigError> {
        let path = directory.join(FILE);
        let mut merged = Overrides::read(&path)?.unwrap_or_default();
        if let Some(file) = flags.file.clone() {
            let given = Overrides::read(&file)?.ok_or(ConfigError::Missing { path: file })?;
            merged = given.over(merged);
        }
        merged = Overrides::from_env(variables)?.over(merged);
        let (exit_on_stdin_close, open) = (flags.exit_on_stdin_close, flags.open);
        let standard_input = flags.join.is_some() && !exit_on_stdin_close;
        merged = flags.over(merged);
        merged.join = merged
            .join
            .map(|join| join::read(join, standard_input))
            .transpose()?;
        if merged.capacity.is_none() && path.exists() {
            return Err(ConfigError::CapacityMissing { path });
        }
        let config = Self {
            open,
            exit_on_stdin_close,
            ..Self::from_overrides(merged.clone())?
        };
        Ok((config, merged))
    }

    /// How long `bytes` take over the link at least; zero when nothing limits it.
    pub fn link_time(&self, bytes: u64) -> Duration {
        self.link_rate.map_or(Duration::ZERO, |rate| {
            Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1))
        })
    }

    /// How many stripes of `bytes` each, all shards together, a transfer has on their way at once: `most`,
    /// and fewer on a slow link, where more would only make each of them late.
    pub(crate) fn stripes_ahead(&self, bytes: u64, most: usize) -> usize {
        let each = self.link_time(bytes).as_millis().max(1);
        let fit = LINK_AHEAD.as_millis() / each;
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, most)
    }

    /// Keeps the ports that were free ones at the first start, so that peers find this one again. `bound` are
    /// the addresses really listened on; one of the same host stands for each entry with port 0, any one of
    /// the family where the entry is the unspecified address.
    pub fn keep_ports(&mut self, directory: &Path, bound: &[String]) -> Result<(), ConfigError> {
        let before = self.listen.clone();
        let mut ports: Vec<u16> = before
            .iter()
            .filter_map(|entry| split_address(entry).ok())
            .map(|parts| parts.port)
            .collect();
        for entry in &mut self.listen {
            let Ok(wanted) = split_address(entry) else {
                continue;
            };
            let any_host = matches!(wanted.host, "0.0.0.0" | "::");
            let port = bound
                .iter()
                .filter_map(|address| split_address(address).ok())
                .filter(|parts| parts.kind == wanted.kind && (any_host || parts.host == wanted.host))
                .map(|parts| parts.port)
                .find(|port| !ports.contains(port));
            if let Some(port) = port.filter(|_| wanted.port == 0) {
                *entry = format!("/{}/{}/tcp/{port}", wanted.kind, wanted.host);
                ports.push(port);
            }
        }
        if self.listen != before {
            let path = directory.join(FILE);
            let mut kept = Overrides::read(&path)?.unwrap_or_default();
            kept.listen = Some(self.listen.clone());
            kept.write(&path)?;
        }
        Ok(())
    }

    /// Fills in defaults, parses what is text and checks all bounds.
    fn from_overrides(given: Overrides) -> Result<Self, ConfigError> {
        let default = Self::default();
        let join = given.join.unwrap_or_default();
        let network = given.network.map(|text| {
            id_from_hex(&text).ok_or_else(|| bounds("network", text, "it is an id of 64 hex digits"))
        });
        let placement = given.placement.map(|text| {
            let parsed = text.parse::<Policy>();
            parsed.map_err(|error| bounds("placement", text, error.to_string()))
        });
        let config = Self {
            capacity: given.capacity.ok_or(ConfigError::NoCapacity)?.0,
            listen: given.listen.unwrap_or(default.listen),
            announce: given.announce.unwrap_or_default(),
            api: given.api.unwrap_or(default.api),
            join: join.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            open: false,
            network: network.transpose()?,
            unit: given.unit.map(|unit| unit.0),
            successors: given.successors.unwrap_or(default.successors),
            repair: given.repair.is_none_or(|switch| switch == Switch::On),
            repair_delay: given.repair_delay.unwrap_or(default.repair_delay),
            repair_rate: given.repair_rate.map(|rate| rate.0),
            pending_lease: given.pending_lease.unwrap_or(default.pending_lease),
            write_timeout: given.write_timeout.unwrap_or(default.write_timeout),
            tombstone_retention: given.tombstone_retention.unwrap_or(default.tombstone_retention),
            link_rate: given.link_rate.map(|rate| rate.0),
            stabilize: given.stabilize.unwrap_or(default.stabilize),
            cache: given.cache.map_or(default.cache, |cache| cache.0),
            read_ahead: given.read_ahead.map_or(default.read_ahead, |bytes| bytes.0),
            api_insecure: given.api_insecure == Some(Switch::On),
            placement: placement.transpose()?.unwrap_or(default.placement),
            log: given.log.unwrap_or(default.log),
            exit_on_stdin_close: false,
        };
        config.check()?;
        Ok(config)
    }

    /// The API sends its token and every file as they are: beyond this machine only where that is wanted.
    fn check_api(&self) -> Result<(), ConfigError> {
        if self.api.ip().is_loopback() || self.api_insecure {
            return Ok(());
        }
        let why = "beyond loopback the HTTP API would send its token and every file in plain text; choose an \
                   address like 127.0.0.1:0, or say --api-insecure";
        Err(bounds("api", self.api, why))
    }

    fn check(&self) -> Result<(), ConfigError> {
        const MIN_RATE: u64 = 64 << 10;
        let least = |key, value: u64, least: u64| {
            let text = || format!("at least {} is needed", Size(least));
            if value < least {
                Err(bounds(key, Size(value), text()))
            } else {
                Ok(())
            }
        };
        let at_least = |key, value: Duration, least: Duration| {
            let text = || format!("at least {} is needed", humantime::format_duration(least));
            let shown = || humantime::format_duration(value);
            if value < least {
                Err(bounds(key, shown(), text()))
            } else {
                Ok(())
            }
        };
        self.check_api()?;
        least("capacity", self.capacity, MIN_CAPACITY)?;
        least("unit", self.unit.unwrap_or(u64::MAX), 1 << 20)?;
        least("read_ahead", self.read_ahead, MIN_READ_AHEAD)?;
        least("repair_rate", self.repair_rate.unwrap_or(u64::MAX), MIN_RATE)?;
        if let Some(rate) = self.link_rate.filter(|rate| *rate < MIN_LINK_RATE) {
            let text = format!(
                "at least {} is needed, or peers would be taken for dead",
                Rate(MIN_LINK_RATE)
            );
            return Err(bounds("link_rate", Rate(rate), text));
        }
        at_least("repair_delay", self.repair_delay, Duration::from_millis(100))?;
        at_least("pending_lease", self.pending_lease, Duration::from_secs(1))?;
        at_least("write_timeout", self.write_timeout, Duration::from_millis(100))?;
        at_least(
            "tombstone_retention",
            self.tombstone_retention,
            Duration::from_secs(1),
        )?;
        at_least("stabilize", self.stabilize, Duration::from_millis(50))?;
        if self.stabilize > Duration::from_hours(1) {
            let shown = humantime::format_duration(self.stabilize);
            return Err(bounds("stabilize", shown, "at most 1h keeps a ring together"));
        }
        if !SUCCESSORS.contains(&self.successors) {
            let text = format!("{} to {} are possible", SUCCESSORS.start(), SUCCESSORS.end());
            return Err(bounds("successors", self.successors, text));
        }
        log::check_filter(&self.log).map_err(|problem| {
            let form = "levels (error, warn, info, debug, trace, off) for all or for parts of the program \
                        are expected, such as `info` or `info,mutualstore_daemon=debug`";
            bounds("log", &self.log, format!("{problem}; {form}"))
        })?;
        if self.listen.is_empty() {
            return Err(bounds("listen", "empty", "give at least one address"));
        }
        for address in &self.listen {
            check_listen_address(address).map_err(|error| ConfigError::Address { key: "listen", error })?;
        }
        for address in &self.announce {
            check_peer_address(address).map_err(|error| ConfigError::Address {
                key: "announce",
                error,
            })?;
        }
        Ok(())
    }

    /// Bytes per virtual node in a network founded by this peer: [`Config::unit`], else an eighth of the
    /// capacity.
    pub fn founding_unit(&self) -> u64 {
        self.unit.unwrap_or(self.capacity / 8)
    }
}

fn bounds(key: &'static str, value: impl fmt::Display, bounds: impl Into<String>) -> ConfigError {
    ConfigError::Bounds {
        key,
        value: value.to_string(),
        bounds: bounds.into(),
    }
}

impl Overrides {
    /// Keeps these values for the next start; the file is left alone when it says so already.
    pub fn keep(&self, directory: &Path) -> Result<(), ConfigError> {
        let path = directory.join(FILE);
        if Self::read(&path)?.as_ref() == Some(self) {
            return Ok(());
        }
        self.write(&path)
    }

    /// Whether something else is to be joined than what is kept.
    pub(crate) fn joins_anew(&self, directory: &Path) -> Result<bool, ConfigError> {
        let kept = Self::read(&directory.join(FILE))?.and_then(|kept| kept.join);
        Ok(self.join.is_some() && self.join != kept)
    }

    /// The values that the environment gives. An empty variable counts as none.
    pub fn from_env(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut out = Self::default();
        for (name, value) in variables {
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix("MUTUALSTORE_")) else {
                continue;
            };
            let text = value.to_string_lossy();
            if !text.is_empty() {
                let variable = || format!("MUTUALSTORE_{key}");
                out.set(key, &text).map_err(|problem| ConfigError::Variable {
                    variable: variable(),
                    problem,
                })?;
            }
        }
        Ok(out)
    }

    /// Sets the key of one variable. Variables that name no key are for others: clients, tests.
    fn set(&mut self, variable: &str, text: &str) -> Result<(), String> {
        let size = |error: UnitError| error.to_string();
        match variable {
            "CAPACITY" => self.capacity = Some(text.parse().map_err(size)?),
            "LISTEN" => self.listen = Some(list(text)),
            "ANNOUNCE" => self.announce = Some(list(text)),
            "DAEMON_API" => self.api = Some(text.parse().map_err(|_| "expected ADDRESS:PORT")?),
            "JOIN" => self.join = Some(list(text)),
            "NETWORK" => self.network = Some(text.to_owned()),
            "UNIT" => self.unit = Some(text.parse().map_err(size)?),
            "SUCCESSORS" => self.successors = Some(text.parse().map_err(|_| "expected a number")?),
            "REPAIR" => self.repair = Some(text.parse().map_err(size)?),
            "REPAIR_DELAY" => self.repair_delay = Some(duration(text)?),
            "REPAIR_RATE" => self.repair_rate = Some(text.parse().map_err(size)?),
            "PENDING_LEASE" => self.pending_lease = Some(duration(text)?),
            "WRITE_TIMEOUT" => self.write_timeout = Some(duration(text)?),
            "TOMBSTONE_RETENTION" => self.tombstone_retention = Some(duration(text)?),
            "LINK_RATE" => self.link_rate = Some(text.parse().map_err(size)?),
            "STABILIZE" => self.stabilize = Some(duration(text)?),
            "CACHE" => self.cache = Some(text.parse().map_err(size)?),
            "READ_AHEAD" => self.read_ahead = Some(text.parse().map_err(size)?),
            "API_INSECURE" => self.api_insecure = Some(text.parse().map_err(size)?),
            "PLACEMENT" => self.placement = Some(text.to_owned()),
            "LOG" => self.log = Some(text.to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// These values, and those of `below` where these are absent. What is only a flag is left out.
    fn over(self, below: Self) -> Self {
        Self {
            capacity: self.capacity.or(below.capacity),
            listen: self.listen.or(below.listen),
            announce: self.announce.or(below.announce),
            api: self.api.or(below.api),
            join: self.join.or(below.join),
            network: self.network.or(below.network),
            unit: self.unit.or(below.unit),
            successors: self.successors.or(below.successors),
            repair: self.repair.or(below.repair),
            repair_delay: self.repair_delay.or(below.repair_delay),
            repair_rate: self.repair_rate.or(below.repair_rate),
            pending_lease: self.pending_lease.or(below.pending_lease),
            write_timeout: self.write_timeout.or(below.write_timeout),
            tombstone_retention: self.tombstone_retention.or(below.tombstone_retention),
            link_rate: self.link_rate.or(below.link_rate),
            stabilize: self.stabilize.or(below.stabilize),
            cache: self.cache.or(below.cache),
            read_ahead: self.read_ahead.or(below.read_ahead),
            api_insecure: self.api_insecure.or(below.api_insecure),
            placement: self.placement.or(below.placement),
            log: self.log.or(below.log),
            open: false,
            exit_on_stdin_close: false,
            file: None,
        }
    }

    fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let Some(content) = read_optional(path)? else {
            return Ok(None);
        };
        let syntax = |problem: String| ConfigError::Syntax {
            path: path.to_owned(),
            problem,
        };
        let text = str::from_utf8(&content).map_err(|error| syntax(error.to_string()))?;
        Self::from_str(text)
            .map(Some)
            .map_err(|error| syntax(in_one_line(&error, text)))
    }

    fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let syntax = |error: toml::ser::Error| ConfigError::Syntax {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let text = format!("{HEADING}{}", toml::to_string(self).map_err(syntax)?);
        Ok(write_atomic(path, text.as_bytes(), 0o600)?)
    }
}

impl FromStr for Overrides {
    type Err = toml::de::Error;

    fn from_str(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("'{text}' is not a duration (90s, 15m, 1h): {error}"))
}

#[cfg(test)]
mod tests;
