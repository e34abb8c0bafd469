//! `testnet netns`: runs daemons in network namespaces of their own and prints, start by start, whether their
//! addresses became known.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use mutualstore_contract::exit;
use mutualstore_contract::units::Size;
use mutualstore_fleet::net;
use mutualstore_testnet::netns::{self, Family, NetnsOptions, NetnsReport};

use crate::output::{CliError, Rows, Screen};
use crate::testnet::{binary, run_options};

/// What `--help` adds.
pub(crate) const HELP: &str = "\
Makes one network namespace for each daemon, joined by bridges (needs `ip` of iproute2 and `unshare` of
util-linux; as another user than root, user namespaces too). Daemons start in a random order, each joining by
an invite. Checked: every contact on every daemon holds the right addresses and no loopback one; a file is put
and read; interfaces of one peer go down, during a put if another one leads to it, and come back with other
addresses, and within 30 s every contact is right again.
Exit codes: 0 all of it holds, 1 something does not, 2 wrong call, 5 no namespaces here (nothing was run).";

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Number of daemons
    #[arg(long, default_value_t = 8)]
    peers: usize,
    /// Interfaces of each, each on a bridge of its own
    #[arg(long, default_value_t = 2, value_name = "N")]
    interfaces: usize,
    /// Addresses the interfaces have; repeatable [default: each kind after the other]
    #[arg(long, value_enum)]
    family: Vec<FamilyArg>,
    /// Starts of each kind
    #[arg(long, default_value_t = 1, value_name = "K")]
    starts: usize,
    /// Seed of the order of starting and of who moves [default: random]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Size of the file
    #[arg(long, default_value = "32MiB")]
    size: Size,
    /// How long interfaces stay down
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    down: Duration,
    /// Where to make the temporary directory [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Set by the command itself for its second life, inside namespaces of its own
    #[arg(long, hide = true)]
    inside: bool,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum FamilyArg {
    Ipv4,
    Ipv6,
    Both,
}

/// Runs it; exit code 1 when something is not as it should be.
pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    if !args.inside {
        return Err(netns::enter(&binary()?, &inside(std::env::args_os().skip(1))).into());
    }
    let all = vec![FamilyArg::Ipv4, FamilyArg::Ipv6, FamilyArg::Both];
    let families = if args.family.is_empty() { all } else { args.family };
    let families = families.into_iter().map(|family| match family {
        FamilyArg::Ipv4 => Family::Ipv4,
        FamilyArg::Ipv6 => Family::Ipv6,
        FamilyArg::Both => Family::Both,
    });
    let options = NetnsOptions {
        run: run_options(args.dir, args.flags)?,
        peers: args.peers,
        interfaces: args.interfaces,
        families: families.collect(),
        starts: args.starts,
        seed: args.seed.unwrap_or_else(net::random_seed),
        size_bytes: args.size.0,
        down: args.down,
    };
    let report = netns::run(&options, &|line| screen.note(line))?;
    if screen.json {
        screen.document(&report)?;
    } else {
        screen.table(&table(&report))?;
    }
    if report.holds {
        return Ok(());
    }
    let broken = report.starts.iter().filter(|start| !start.problems.is_empty());
    let message = format!(
        "{} of {} starts had a problem; --seed {} repeats them",
        broken.count(),
        report.starts.len(),
        report.seed
    );
    Err(CliError::Found {
        code: exit::UNEXPECTED,
        message,
    })
}

/// The same command line with the mark of its second life, before what is meant for daemons.
fn inside(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut marked = Vec::new();
    let mut done = false;
    for argument in arguments {
        let here = !done && argument == "netns";
        marked.push(argument);
        if here {
            marked.push("--inside".into());
            done = true;
        }
    }
    marked
}

fn table(report: &NetnsReport) -> Rows {
    let mut rows = Rows::new(
        [
            "ADDRESSES",
            "START",
            "CONTACTS s",
            "PUT MB/s",
            "GET MB/s",
            "MOVED",
            "PUT MEANWHILE s",
            "HEALED s",
            "PUT AFTER s",
            "PROBLEMS",
        ],
        &[1, 2, 3, 4, 6, 7, 8],
    );
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for start in &report.starts {
        let interfaces: Vec<String> = start.moved_interfaces.iter().map(|n| format!("eth{n}")).collect();
        rows.add([
            start.family.to_string(),
            start.start.to_string(),
            number(start.contacts_seconds),
            number(start.put_mbps),
            number(start.get_mbps),
            format!("{} {}", start.moved_peer, interfaces.join(",")),
            number(start.put_meanwhile_seconds),
            number(start.healed_seconds),
            number(start.put_after_seconds),
            if start.problems.is_empty() {
                "none".to_owned()
            } else {
                start.problems.join("; ")
            },
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_life_is_marked_before_what_is_meant_for_daemons() {
        let words = [
            "testnet", "--json", "netns", "--peers", "3", "--", "--zone", "netns",
        ];
        let marked = inside(words.into_iter().map(OsString::from));
        let expected = [
            "testnet", "--json", "netns", "--inside", "--peers", "3", "--", "--zone", "netns",
        ];
        assert_eq!(marked, expected);
    }
}
