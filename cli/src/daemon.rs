//! `mutualstore daemon`: flags into [`Overrides`], then the daemon takes over the process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use mutualstore_contract::units::{Rate, Size, Switch};
use mutualstore_daemon::adversary;
use mutualstore_daemon::config::Overrides;
use mutualstore_erasure::Policy;

use crate::connect::data_dir;
use crate::output::CliError;

/// Every key of the configuration; what is not given comes from `MUTUALSTORE_*`, then from the file given
/// as `--config`, then from `DIR/config.toml`. A flag given twice counts as given last, so that
/// `testnet up -- FLAGS` can override what the testnet chooses; lists collect.
#[derive(clap::Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Every key is also a variable: MUTUALSTORE_REPAIR_DELAY=1h; \
    that of --api is MUTUALSTORE_DAEMON_API. Values are kept in DIR/config.toml for the next start."
)]
pub(crate) struct Args {
    /// Where identity, configuration and shards are kept [default: the XDG data directory `mutualstore`;
    /// env: `MUTUALSTORE_DATA_DIR`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Disk to give; needed for the first start
    #[arg(long, value_name = "SIZE")]
    capacity: Option<Size>,
    /// Where to listen for peers, such as `/ip4/0.0.0.0/tcp/4001` or `/ip6/::/tcp/4001`; repeatable; port 0
    /// is any free one, kept from then on
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Addresses to tell peers instead of those listened on, which are followed as interfaces come and go;
    /// repeatable
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<String>,
    /// Where the HTTP API listens, on loopback unless --api-insecure is given; port 0 is any free one
    #[arg(long, value_name = "ADDR:PORT")]
    api: Option<SocketAddr>,
    /// What to join: @FILE or - (standard input) holds an invite, or addresses, one a line. They may stand
    /// here too, but an invite is a secret, and everybody on this machine sees the arguments of its
    /// processes. Kept in DIR/config.toml for later starts [env: `MUTUALSTORE_JOIN`]
    #[arg(long, value_name = "@FILE|-|INVITE|MULTIADDR")]
    join: Vec<String>,
    /// Found an open network: whoever reaches one of its peers joins it, by its bare address. Without this,
    /// joining takes an invite
    #[arg(long)]
    open: bool,
    /// A configuration file to read above DIR/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Id of the network to found or to belong to, 64 hexadecimal digits
    #[arg(long, value_name = "ID")]
    network: Option<String>,
    /// Capacity of one virtual node, in a network founded here
    #[arg(long, value_name = "SIZE")]
    unit: Option<Size>,
    /// Distinct peers of a successor list, in a network founded here
    #[arg(long, value_name = "R")]
    successors: Option<u32>,
    /// Whether to rebuild what others lost: on or off
    #[arg(long, value_name = "on|off")]
    repair: Option<Switch>,
    /// How long a peer is unreachable before it counts as gone
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    repair_delay: Option<Duration>,
    /// Most bytes per second for repair
    #[arg(long, value_name = "RATE")]
    repair_rate: Option<Rate>,
    /// How long shards of an unfinished put are held without renewal
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pending_lease: Option<Duration>,
    /// How long a put waits for all shards of a stripe
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    write_timeout: Option<Duration>,
    /// How long a deletion is remembered
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    tombstone_retention: Option<Duration>,
    /// Most that is sent to all peers together per second, and as much received, like 100Mbit; 1Mbit at least
    #[arg(long, value_name = "RATE")]
    link_rate: Option<Rate>,
    /// Time between two rounds of ring maintenance
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stabilize: Option<Duration>,
    /// Memory for decoded blocks
    #[arg(long, value_name = "SIZE")]
    cache: Option<Size>,
    /// Memory for what is fetched for reads and not taken yet, of all reads together
    #[arg(long, value_name = "SIZE")]
    read_ahead: Option<Size>,
    /// Serve the HTTP API at an address beyond loopback too, in plain text: whoever sees its traffic can read
    /// every file and use the API
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    api_insecure: Option<Switch>,
    /// How peers are chosen for files put here: successors, random, copysets, buddies or buddies:G
    #[arg(long, value_name = "POLICY")]
    placement: Option<Policy>,
    /// What is logged, in the form of `RUST_LOG`
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Stop when standard input closes: for daemons that must not outlive who started them
    #[arg(long)]
    exit_on_stdin_close: bool,
    /// Be a hostile member: liar
    #[arg(long, value_name = "ROLE", hide = !adversary::AVAILABLE)]
    adversary: Option<String>,
}

/// Runs the daemon until it is told to stop.
pub(crate) fn run(args: Args) -> Result<ExitCode, CliError> {
    let data_dir = data_dir(args.data_dir.as_deref())?;
    if let Some(role) = &args.adversary {
        let role = role.parse().and_then(adversary::Role::assume);
        role.map_err(|error: adversary::RoleError| CliError::Usage(format!("{error}; nothing was started")))?;
    }
    mutualstore_daemon::run(&data_dir, overrides(args)).map_err(|failure| CliError::Daemon {
        code: failure.exit,
        message: failure.message,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn overrides(args: Args) -> Overrides {
    let list = |values: Vec<String>| if values.is_empty() { None } else { Some(values) };
    Overrides {
        capacity: args.capacity,
        listen: list(args.listen),
        announce: list(args.announce),
        api: args.api,
        join: list(args.join),
        open: args.open,
        network: args.network,
        unit: args.unit,
        successors: args.successors,
        repair: args.repair,
        repair_delay: args.repair_delay,
        repair_rate: args.repair_rate,
        pending_lease: args.pending_lease,
        write_timeout: args.write_timeout,
        tombstone_retention: args.tombstone_retention,
        link_rate: args.link_rate,
        stabilize: args.stabilize,
        cache: args.cache,
        read_ahead: args.read_ahead,
        api_insecure: args.api_insecure,
        placement: args.placement.map(|policy| policy.to_string()),
        log: args.log,
        exit_on_stdin_close: args.exit_on_stdin_close,
        file: args.config,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Overrides, clap::Error> {
        let words = std::iter::once("daemon").chain(line.split_ascii_whitespace());
        Line::try_parse_from(words).map(|line| overrides(line.args))
    }

    #[test]
    fn flags_become_overrides() {
        let given =
            parse("--capacity 2GiB --repair off --repair-delay 1h --link-rate 100Mbit --join a --join b")
                .unwrap();
        assert_eq!(given.capacity, Some(Size(2 << 30)));
        assert_eq!(given.repair, Some(Switch::Off));
        assert_eq!(given.repair_delay, Some(Duration::from_hours(1)));
        assert_eq!(given.link_rate, Some(Rate(12_500_000)));
        assert_eq!(given.join, Some(vec!["a".to_owned(), "b".to_owned()]));
        let placed = parse("--placement random --placement buddies:9").unwrap();
        assert_eq!(placed.placement, Some("buddies:9".to_owned()));
        assert_eq!(parse("").unwrap(), Overrides::default());
        let insecure = |line| parse(line).unwrap().api_insecure;
        assert_eq!(insecure("--api-insecure --api 0.0.0.0:0"), Some(Switch::On));
        assert_eq!(insecure("--api-insecure=off"), Some(Switch::Off));
    }

    #[test]
    fn the_last_of_two_counts_and_nonsense_is_usage() {
        let given =
            parse("--repair-delay 5s --listen x --capacity 1GiB --repair-delay 1h --capacity 2GiB").unwrap();
        assert_eq!(given.repair_delay, Some(Duration::from_hours(1)));
        assert_eq!(given.capacity, Some(Size(2 << 30)));
        for line in [
            "--capacity lots",
            "--repair maybe",
            "--placement nearby",
            "--api nowhere",
            "--repair-delay soon",
            "--nonsense",
        ] {
            assert_eq!(parse(line).err().unwrap().exit_code(), 2, "{line}");
        }
    }
}
