//! `mutualstore daemon`: the flags of its configuration, then the daemon takes over the process.

use std::path::PathBuf;
use std::process::ExitCode;

use mutualstore_daemon::adversary;
use mutualstore_daemon::config::Flags;

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
    #[command(flatten)]
    flags: Flags,
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
    mutualstore_daemon::run(&data_dir, args.flags).map_err(|failure| CliError::Daemon {
        code: failure.exit,
        message: failure.message,
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{CommandFactory, Parser};
    use mutualstore_contract::units::{Rate, Size, Switch, TimeSpan};

    use super::*;

    const FLAGS: &str = "\
--data-dir <DIR>
--capacity <SIZE>
--listen <MULTIADDR>
--announce <MULTIADDR>
--api <ADDR:PORT>
--join <@FILE|-|INVITE|MULTIADDR>
--network <ID>
--unit <SIZE>
--successors <R>
--repair <on|off>
--repair-delay <TIME>
--repair-rate <RATE>
--pending-lease <TIME>
--write-timeout <TIME>
--tombstone-retention <TIME>
--purge-grace <TIME>
--link-rate <RATE>
--stabilize <TIME>
--cache <SIZE>
--read-ahead <SIZE>
--api-insecure[=<on|off>]
--placement <POLICY>
--log <FILTER>
--open
--config <FILE>
--exit-on-stdin-close
--adversary <ROLE>
--help";

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        let words = std::iter::once("daemon").chain(line.split_ascii_whitespace());
        Line::try_parse_from(words).map(|line| line.args.flags)
    }

    #[test]
    fn help_lists_every_flag_with_the_name_of_its_value() {
        let mut command = Line::command();
        command.build();
        let shown: Vec<_> = command.get_arguments().map(ToString::to_string).collect();
        assert_eq!(shown, FLAGS.lines().collect::<Vec<_>>());
    }

    #[test]
    fn flags_become_keys() {
        let line = "--capacity 2GiB --repair off --repair-delay 1h --link-rate 100Mbit --join a --join b";
        let given = parse(line).unwrap().settings;
        assert_eq!(given.capacity, Some(Size(2 << 30)));
        assert_eq!(given.repair, Some(Switch::Off));
        assert_eq!(given.repair_delay, Some(TimeSpan(Duration::from_hours(1))));
        assert_eq!(given.link_rate, Some(Rate(12_500_000)));
        assert_eq!(given.join, Some(vec!["a".to_owned(), "b".to_owned()]));
        let placed = parse("--placement random --placement buddies:9").unwrap();
        assert_eq!(placed.settings.placement, "buddies:9".parse().ok());
        assert_eq!(parse("").unwrap(), Flags::default());
        let insecure = |line| parse(line).unwrap().settings.api_insecure;
        assert_eq!(insecure("--api-insecure --api 0.0.0.0:0"), Some(Switch::On));
        assert_eq!(insecure("--api-insecure=off"), Some(Switch::Off));
    }

    #[test]
    fn the_last_of_two_counts_and_nonsense_is_usage() {
        let line = "--repair-delay 5s --listen x --capacity 1GiB --repair-delay 1h --capacity 2GiB";
        let given = parse(line).unwrap().settings;
        assert_eq!(given.repair_delay, Some(TimeSpan(Duration::from_hours(1))));
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
