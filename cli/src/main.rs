//! The `mutualstore` command line: parses, calls, prints, and ends with a documented exit code.
//!
//! Client commands are thin: what they do happens in the daemon, and
//! [`mutualstore_client`] talks to it. Deliberately absent: state of its own.

mod account;
mod adversary;
mod chaos;
mod connect;
mod corrupt;
mod daemon;
mod doctor;
mod experiment;
mod files;
mod key;
mod link;
mod local;
mod names;
mod netns;
mod output;
mod peers;
mod put;
mod sim;
mod store_bench;
mod target;
mod testnet;
mod tree;
mod upkeep;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use mutualstore_contract::escape;
use mutualstore_fleet::interrupt;

use crate::output::{CliError, Screen, error_line, write_out};

/// A daemon moves blocks of a mebibyte by the hundred. The allocator of glibc keeps what it once had of them;
/// this one gives it back within seconds, from a thread of its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXIT_CODES: &str = "Exit codes:
  0 done                      5 refused for now, a retry may help
  1 unexpected failure        6 no daemon answers
  2 usage or configuration    7 no space
  3 not found                 8 not allowed
  4 cannot be recovered now   130 interrupted";

/// How long a daemon that failed waits for somebody to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Peer-to-peer storage: give some disk, get reliable and private storage back.
#[derive(Debug, Parser)]
#[command(name = "mutualstore", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// Print one JSON document on standard output and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no remarks
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a peer: serve disk to the others and an API to the commands below
    Daemon(daemon::Args),
    #[command(flatten)]
    Client(ClientCommand),
}

/// What ends by itself.
#[derive(Debug, Subcommand)]
enum ClientCommand {
    /// Store a file, or with -r directories, under a name; print its link
    Put(put::PutArgs),
    /// Fetch a file by its link or /BUCKET/KEY, or with -r all below a key
    Get(files::GetArgs),
    /// List keys of a bucket, buckets, or what was put through this daemon without a name
    Ls(files::LsArgs),
    /// Show every stripe and shard of a file, asked now
    Stat(files::StatArgs),
    /// Delete a file on every holder (only the account that put it can), or mark a name as deleted
    Rm(files::RmArgs),
    /// Show this peer: capacity, use, ring, repair
    Status(peers::StatusArgs),
    /// Show the peers of the ring
    Ring(peers::RingArgs),
    /// Show who is responsible for an identifier, a link or /BUCKET/KEY
    Lookup(peers::LookupArgs),
    /// Rebuild what is missing now instead of in the background
    Repair(upkeep::RepairArgs),
    /// Read and verify every shard the daemon holds
    Scrub(upkeep::ScrubArgs),
    /// Hand everything over, then leave the ring and end the daemon
    Leave(upkeep::LeaveArgs),
    /// A peer is gone for good: rebuild what it held now instead of after `repair_delay`
    Forget(upkeep::ForgetArgs),
    /// Copy a key, or with -r all that begin with it
    Cp(names::MoveArgs),
    /// Move a key, or with -r all that begin with it
    Mv(names::MoveArgs),
    /// Have an old version of a key show again
    Restore(names::RestoreArgs),
    /// Make and list the buckets that names are in
    Bucket(names::BucketArgs),
    /// Keep the account, which all names belong to, as 24 words, or bring it back from them
    Account(account::Args),
    /// Keep identity and account secret elsewhere, or bring them back
    Key(key::Args),
    /// Print one line that lets another daemon join: addresses, network id and secret
    Invite(peers::InviteArgs),
    /// Check configuration, disk, clock and daemon; each finding with its cure
    Doctor(doctor::Args),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Run a local network of daemons: for trying, demonstrating and measuring
    Testnet(testnet::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_misuse(&error) => return misuse(&readable(error)),
        Err(help) => help.exit(),
    };
    let screen = Screen::new(cli.json, cli.quiet);
    match cli.command {
        // It handles its signals itself, and ends in time although nobody reads what it says.
        Command::Daemon(args) => daemon::run(args).unwrap_or_else(|error| {
            screen.report_within(&error, LAST_WORDS);
            ExitCode::from(error.exit_code())
        }),
        Command::Client(command) => match run(command, &screen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                screen.report(&error);
                ExitCode::from(error.exit_code())
            }
        },
    }
}

/// Whether something was wrong, as opposed to help being asked for or nothing being said at all.
fn is_misuse(error: &clap::Error) -> bool {
    error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// The error for the same arguments with what commands terminals in them made visible: `clap` takes it out of
/// its message, and says `''` of an argument that is nothing else.
fn readable(error: clap::Error) -> clap::Error {
    let words: Vec<String> = env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if !words.iter().any(|word| word.contains(escape::is_deceptive)) {
        return error;
    }
    let visible = words.iter().map(|word| escape::line(word).into_owned());
    match Cli::try_parse_from(visible) {
        Err(other) if other.kind() == error.kind() => other,
        Ok(_) | Err(_) => error,
    }
}

/// One line for what is wrong with the command line; clap would add the usage to it.
fn misuse(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let first: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    let shown = if first.is_empty() { text } else { first.join(" ") };
    error_line(&format!(
        "{}; see --help",
        escape::line(&escape::shortened(&shown))
    ));
    ExitCode::from(2)
}

fn run(command: ClientCommand, screen: &Screen) -> Result<(), CliError> {
    interrupt::watch().map_err(CliError::Signals)?;
    match command {
        ClientCommand::Put(args) => put::put(&args, screen),
        ClientCommand::Get(args) => files::get(&args, screen),
        ClientCommand::Ls(args) => files::ls(&args, screen),
        ClientCommand::Stat(args) => files::stat(&args, screen),
        ClientCommand::Rm(args) => files::rm(&args, screen),
        ClientCommand::Status(args) => peers::status(&args, screen),
        ClientCommand::Ring(args) => peers::ring(&args, screen),
        ClientCommand::Lookup(args) => peers::lookup(&args, screen),
        ClientCommand::Repair(args) => upkeep::repair(&args, screen),
        ClientCommand::Scrub(args) => upkeep::scrub(&args, screen),
        ClientCommand::Leave(args) => upkeep::leave(&args, screen),
        ClientCommand::Forget(args) => upkeep::forget(&args, screen),
        ClientCommand::Cp(args) => names::copy(&args, false, screen),
        ClientCommand::Mv(args) => names::copy(&args, true, screen),
        ClientCommand::Restore(args) => names::restore(&args, screen),
        ClientCommand::Bucket(args) => names::bucket(&args, screen),
        ClientCommand::Account(args) => account::run(&args, screen),
        ClientCommand::Key(args) => key::run(&args, screen),
        ClientCommand::Invite(args) => peers::invite(&args, screen),
        ClientCommand::Doctor(args) => doctor::run(&args, screen),
        ClientCommand::Completions { shell } => completions(shell),
        ClientCommand::Testnet(args) => testnet::run(args, screen),
    }
}

fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mutualstore", &mut script);
    write_out(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_forms_parse() {
        for line in [
            "put - --name x --code rs:4+2 --placement successors --shard-size 64KiB --degraded",
            "put file --placement buddies:9 --scope file --fragments 3 --data-dir /d",
            "get mutual1abc -o - --range 0-99 --without 1 --without 2",
            "get mutual1abc -o out --force --api http://127.0.0.1:1 --token-file t",
            "ls *.txt --json",
            "rm mutual1abc",
            "get - -o -",
            "stat -",
            "rm -",
            "lookup -",
            "daemon --join - --join @file --open",
            "status --check --quiet",
            "ring --walk --fingers --check",
            "repair --peer 12D3 --wait",
            "scrub --wait",
            "leave --wait --force",
            "forget 12D3KooWabc",
            "key export k",
            "key import k --data-dir d",
            "testnet corrupt --peer 1 --count 3 --seed 4",
            "testnet corrupt --peer 1 --shard \
             0011223344556677889900aabbccddeeff0011223344556677889900aabbccdd:2",
            "testnet up --peers 3 --capacity 1GiB,2GiB --api-base 7000 --seed 1 -- --repair off \
             --repair-delay 1h",
            "testnet kill --count 2 --seed 7",
            "testnet kill --peer 1 --peer 2 --wipe",
            "testnet start --dir /d --peer 1",
            "testnet demo --peers 12 --kill 2 --file a --file b --json",
            "testnet env --peer 3",
            "testnet experiment timing --quick --out o --sizes 10MB,15kB --repeat 2 --seed 3 --json -- \
             --stabilize 2s",
            "testnet experiment load --codes copies:3,auto --shard-sizes 256KiB,1MiB --dir /tmp",
            "testnet experiment churn --sessions 30,60 --repair-delays 2,10 --quiet",
            "testnet experiment all --quick",
            "completions bash",
            "daemon --data-dir d --capacity 1GiB --listen /ip4/0.0.0.0/tcp/0 --join a --join b --api \
             127.0.0.1:0",
        ] {
            let words = std::iter::once("mutualstore").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "get",
            "get x --range 5-4",
            "put x --placement nearby",
            "put x --placement buddies:0",
            "put x --scope all",
            "put x --fragments 0",
            "put x --fragments 65537",
            "testnet kill",
            "testnet kill --count 1 --peer 1",
            "testnet corrupt --peer 1 --shard ab:2",
            "testnet corrupt --peer 1",
        ] {
            let words = std::iter::once("mutualstore").chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
