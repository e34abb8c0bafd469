//! `testnet adversary`: runs one hostile member among temporary daemons and says whether what is promised to
//! the others held.

use std::path::PathBuf;

use mutualstore_contract::exit;
use mutualstore_contract::units::counted;
use mutualstore_daemon::adversary::{AVAILABLE, Role, RoleError};
use mutualstore_testnet::adversary::{self, AdversaryOptions};

use crate::output::{CliError, Screen};
use crate::testnet::run_options;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What the hostile member does: liar takes every shard and keeps none, claims everything, orders
    /// everybody to drop what they hold, and steals the shards of unfinished puts
    #[arg(value_name = "ROLE")]
    role: String,
    /// Number of members, the hostile one among them
    #[arg(long, default_value_t = 8, value_name = "N")]
    peers: usize,
    /// Files to put, every second one small
    #[arg(long, default_value_t = 200, value_name = "F")]
    files: usize,
    /// How long the hostile member acts after the last put
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    seconds: f64,
    /// Whether it claims four times the capacity of the others [default: drawn by the seed]
    #[arg(long, value_name = "true|false")]
    largest: Option<bool>,
    /// Honest members to kill before files are read: one at most
    #[arg(long, default_value_t = 0, value_name = "K")]
    kill: usize,
    /// Seed of what is drawn [default: random]
    #[arg(long, value_name = "X")]
    seed: Option<u64>,
    /// Where to make the temporary directory [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

/// Runs it; exit code 0 only if what is promised held.
pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    let usage = |error: RoleError| CliError::Usage(format!("{error}; nothing was started"));
    args.role.parse::<Role>().map_err(usage)?;
    if !AVAILABLE {
        return Err(usage(RoleError::Unavailable));
    }
    if !(0.0..=86_400.0).contains(&args.seconds) {
        return Err(CliError::Usage(format!(
            "--seconds is {}; 0 to 86400 are possible; nothing was started",
            args.seconds
        )));
    }
    let options = AdversaryOptions {
        run: run_options(args.dir, args.flags)?,
        role: args.role,
        peers: args.peers,
        files: args.files,
        seconds: args.seconds,
        largest: args.largest,
        kill: args.kill,
        seed: args.seed,
    };
    let report = adversary::run(&options, &|line| screen.note(line))?;
    if screen.json {
        screen.document(&report)?;
    } else {
        screen.line(&report)?;
        for failure in &report.failures {
            screen.complaint(failure);
        }
    }
    if report.is_good() {
        return Ok(());
    }
    Err(CliError::Found {
        code: exit::UNEXPECTED,
        message: format!(
            "{} lost, {} with wrong bytes, {} never acknowledged",
            counted(report.files_lost, "file"),
            report.wrong_bytes,
            counted(report.puts_failed, "put")
        ),
    })
}
