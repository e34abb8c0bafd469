//! Configuration: defaults < `DIR/config.toml` < the file of `--config` < `MUTUALSTORE_*` < flags.
//!
//! [`Settings`] is the table of all keys. An entry is everything a key needs: its help text, its type, its
//! default, its variable and its flag; `config.toml` has it by its name. Bounds stand in [`bounds`].
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
//! `api` is `MUTUALSTORE_DAEMON_API`, because `MUTUALSTORE_API` says where clients find the daemon. An empty
//! variable counts as none.

mod bounds;
mod error;
mod file;
mod join;
mod text;

use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use confique::{Config as _, Layer as _};
use mutualstore_contract::units::{Rate, Size, Switch, TimeSpan};
use mutualstore_erasure::Policy;

use crate::datadir::network::{Join, split_address};

pub use self::error::ConfigError;
use self::file::FILE;
pub(crate) use self::file::{joins_anew, keep};
pub use self::text::NetworkId;

/// Stripes of one transfer are on their way together for this long at most at the link's rate, or one alone.
const LINK_AHEAD: Duration = Duration::from_secs(30);

/// Every key of the configuration. The docs of an entry are its help text; comments say what else is to know.
#[derive(Clone, Debug, PartialEq, confique::Config)]
#[config(layer_attr(derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Serialize)))]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Settings {
    /// Disk to give; needed for the first start
    #[config(env = "MUTUALSTORE_CAPACITY", layer_attr(arg(long, value_name = "SIZE")))]
    pub capacity: Size,
    /// Where to listen for peers, such as `/ip4/0.0.0.0/tcp/4001` or `/ip6/::/tcp/4001`; repeatable; port 0
    /// is any free one, kept from then on
    #[config(env = "MUTUALSTORE_LISTEN", parse_env = text::list, default = ["/ip4/0.0.0.0/tcp/0"])]
    #[config(layer_attr(arg(long, value_name = "MULTIADDR")))]
    pub listen: Vec<String>,
    /// Addresses to tell peers instead of those listened on, which are followed as interfaces come and go;
    /// repeatable
    #[config(env = "MUTUALSTORE_ANNOUNCE", parse_env = text::list, default = [])]
    #[config(layer_attr(arg(long, value_name = "MULTIADDR")))]
    pub announce: Vec<String>,
    /// Where the HTTP API listens, on loopback unless --api-insecure is given; port 0 is any free one
    #[config(env = "MUTUALSTORE_DAEMON_API", default = "127.0.0.1:0")]
    #[config(layer_attr(arg(long, value_name = "ADDR:PORT")))]
    pub api: SocketAddr,
    /// What to join: @FILE or - (standard input) holds an invite, or addresses, one a line. They may stand
    /// here too, but an invite is a secret, and everybody on this machine sees the arguments of its
    /// processes. Kept in DIR/config.toml for later starts [env: `MUTUALSTORE_JOIN`]
    #[config(env = "MUTUALSTORE_JOIN", parse_env = text::list, default = [])]
    #[config(layer_attr(arg(long, value_name = "@FILE|-|INVITE|MULTIADDR")))]
    join: Vec<String>,
    /// Id of the network to found or to belong to, 64 hexadecimal digits
    #[config(env = "MUTUALSTORE_NETWORK", layer_attr(arg(long, value_name = "ID")))]
    #[config(deserialize_with = text::deserialize, layer_attr(serde(serialize_with = "text::serialize")))]
    pub network: Option<NetworkId>,
    /// Capacity of one virtual node, in a network founded here
    #[config(env = "MUTUALSTORE_UNIT", layer_attr(arg(long, value_name = "SIZE")))]
    pub unit: Option<Size>,
    /// Distinct peers of a successor list, in a network founded here
    #[config(env = "MUTUALSTORE_SUCCESSORS", default = 16)]
    #[config(layer_attr(arg(long, value_name = "R")))]
    pub successors: u32,
    /// Whether to rebuild what others lost: on or off
    #[config(env = "MUTUALSTORE_REPAIR", default = "on")]
    #[config(layer_attr(arg(long, value_name = "on|off")))]
    pub repair: Switch,
    /// How long a peer is unreachable before it counts as gone
    #[config(env = "MUTUALSTORE_REPAIR_DELAY", default = "15m")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub repair_delay: TimeSpan,
    /// Most bytes per second for repair
    #[config(env = "MUTUALSTORE_REPAIR_RATE", layer_attr(arg(long, value_name = "RATE")))]
    pub repair_rate: Option<Rate>,
    /// How long shards of an unfinished put are held without renewal
    #[config(env = "MUTUALSTORE_PENDING_LEASE", default = "5m")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub pending_lease: TimeSpan,
    /// How long a put waits for all shards of a stripe
    #[config(env = "MUTUALSTORE_WRITE_TIMEOUT", default = "10s")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub write_timeout: TimeSpan,
    /// How long a deletion is remembered
    #[config(env = "MUTUALSTORE_TOMBSTONE_RETENTION", default = "30d")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub tombstone_retention: TimeSpan,
    /// How long lists of names are kept that others replaced: readers may still be at them
    #[config(env = "MUTUALSTORE_PURGE_GRACE", default = "24h")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub purge_grace: TimeSpan,
    /// Most that is sent to all peers together per second, and as much received, like 100Mbit; 1Mbit at least
    // Requests of ring and custody go before shards. Not counted are handshakes and what encryption and TCP
    // add, about 4 %; a burst of 64 KiB, or of 10 ms if that is more, may go beyond it.
    #[config(env = "MUTUALSTORE_LINK_RATE", layer_attr(arg(long, value_name = "RATE")))]
    pub link_rate: Option<Rate>,
    /// Time between two rounds of ring maintenance
    #[config(env = "MUTUALSTORE_STABILIZE", default = "1s")]
    #[config(layer_attr(arg(long, value_name = "TIME")))]
    pub stabilize: TimeSpan,
    /// Memory for decoded blocks
    #[config(env = "MUTUALSTORE_CACHE", default = "32MiB")]
    #[config(layer_attr(arg(long, value_name = "SIZE")))]
    pub cache: Size,
    /// Memory for what is fetched for reads and not taken yet, of all reads together
    // A client that takes nothing keeps none of it for longer than 10 s.
    #[config(env = "MUTUALSTORE_READ_AHEAD", default = "64MiB")]
    #[config(layer_attr(arg(long, value_name = "SIZE")))]
    pub read_ahead: Size,
    /// Serve the HTTP API at an address beyond loopback too, in plain text: whoever sees its traffic can read
    /// every file and use the API
    #[config(env = "MUTUALSTORE_API_INSECURE", default = "off")]
    #[config(layer_attr(arg(
        long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on"
    )))]
    pub api_insecure: Switch,
    /// How peers are chosen for files put here: successors, random, copysets, buddies or buddies:G
    #[config(env = "MUTUALSTORE_PLACEMENT", default = "successors")]
    #[config(deserialize_with = text::deserialize, layer_attr(serde(serialize_with = "text::serialize")))]
    #[config(layer_attr(arg(long, value_name = "POLICY")))]
    pub placement: Policy,
    /// What is logged, in the form of `RUST_LOG`
    #[config(env = "MUTUALSTORE_LOG", parse_env = text::some, default = "info")]
    #[config(layer_attr(arg(long, value_name = "FILTER")))]
    pub log: String,
}

/// The keys that one place gives: a file, the environment or the command line. What is absent comes from the
/// layer below.
pub type SettingsLayer = <Settings as confique::Config>::Layer;

/// What the command line gives: keys, and what only a start is told and nothing keeps.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Flags {
    /// What it gives of the keys.
    #[command(flatten)]
    pub settings: SettingsLayer,
    /// Found an open network: whoever reaches one of its peers joins it, by its bare address. Without this,
    /// joining takes an invite
    #[arg(long)]
    pub open: bool,
    /// A configuration file to read above DIR/config.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stop when standard input closes: for daemons that must not outlive who started them
    #[arg(long)]
    pub exit_on_stdin_close: bool,
}

/// How a daemon runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The keys, defaults filled in; what to join is in `join`.
    pub settings: Settings,
    /// Peers to join by, or invites.
    pub join: Vec<Join>,
    /// Whether a network founded here is open to everybody; never kept, for the network keeps it.
    pub open: bool,
    /// Whether the daemon stops when its standard input closes.
    pub exit_on_stdin_close: bool,
}

impl Config {
    /// The configuration of the daemon in `directory`, of all layers, and what to [keep] of it once the
    /// daemon has started.
    pub fn load(directory: &Path, flags: Flags) -> Result<(Self, SettingsLayer), ConfigError> {
        Self::merge(directory, flags, SettingsLayer::from_env()?)
    }

    fn merge(
        directory: &Path,
        flags: Flags,
        environment: SettingsLayer,
    ) -> Result<(Self, SettingsLayer), ConfigError> {
        let path = directory.join(FILE);
        let kept = file::read(&path)?;
        let missing = if kept.is_some() {
            ConfigError::CapacityMissing { path }
        } else {
            ConfigError::NoCapacity
        };
        let extra = flags
            .config
            .map(|path| file::read(&path)?.ok_or(ConfigError::Missing { path }))
            .transpose()?;
        let standard_input = flags.settings.join.is_some() && !flags.exit_on_stdin_close;
        let mut given = flags
            .settings
            .with_fallback(environment)
            .with_fallback(extra.unwrap_or_default())
            .with_fallback(kept.unwrap_or_default());
        given.join = given
            .join
            .map(|join| join::read(join, standard_input))
            .transpose()?;
        if given.capacity.is_none() {
            return Err(missing);
        }
        let config = Self {
            open: flags.open,
            exit_on_stdin_close: flags.exit_on_stdin_close,
            ..Self::from_layer(given.clone())?
        };
        Ok((config, given))
    }

    /// Fills in defaults, parses what is to be joined and checks all bounds.
    fn from_layer(given: SettingsLayer) -> Result<Self, ConfigError> {
        let mut settings = Settings::from_layer(given.with_fallback(SettingsLayer::default_values()))?;
        let join = mem::take(&mut settings.join);
        settings.check()?;
        Ok(Self {
            settings,
            join: join.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            open: false,
            exit_on_stdin_close: false,
        })
    }

    /// Keeps the ports that were free ones at the first start, so that peers find this one again. `bound` are
    /// the addresses really listened on; one of the same host stands for each entry with port 0, any one of
    /// the family where the entry is the unspecified address.
    pub fn keep_ports(&mut self, directory: &Path, bound: &[String]) -> Result<(), ConfigError> {
        let listen = &mut self.settings.listen;
        let before = listen.clone();
        let mut ports: Vec<u16> = before
            .iter()
            .filter_map(|entry| split_address(entry).ok())
            .map(|parts| parts.port)
            .collect();
        for entry in &mut *listen {
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
        if *listen != before {
            let path = directory.join(FILE);
            let mut kept = file::read(&path)?.unwrap_or_default();
            kept.listen = Some(listen.clone());
            file::write(&kept, &path)?;
        }
        Ok(())
    }
}

impl Settings {
    /// How long `bytes` take over the link at least; zero when nothing limits it.
    pub fn link_time(&self, bytes: u64) -> Duration {
        self.link_rate.map_or(Duration::ZERO, |Rate(rate)| {
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

    /// Bytes per virtual node in a network founded by this peer: [`Settings::unit`], else an eighth of the
    /// capacity.
    pub fn founding_unit(&self) -> u64 {
        self.unit.map_or(self.capacity.0 / 8, |unit| unit.0)
    }
}

#[cfg(test)]
impl Config {
    /// The configuration that this text gives above the defaults, and above a capacity of 1 GiB.
    pub(crate) fn of(text: &str) -> Self {
        let given: SettingsLayer = toml::from_str(text).unwrap();
        let capacity = toml::from_str("capacity = '1GiB'").unwrap();
        Self::from_layer(given.with_fallback(capacity)).unwrap()
    }
}

#[cfg(test)]
mod tests;
