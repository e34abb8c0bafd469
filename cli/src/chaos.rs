//! `testnet chaos`.

use std::path::PathBuf;

use mutualstore_testnet::chaos::{self, ChaosOptions};
use mutualstore_testnet::client::FAILURE;

use crate::corrupt::{Choice, damage};
use crate::output::{CliError, Screen};
use crate::testnet::binary;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long daemons are hurt; the audit afterwards takes a minute or two more
    #[arg(long, value_name = "M", default_value_t = 3.0)]
    minutes: f64,
    /// Go on after that until so many daemons were killed
    #[arg(long, default_value_t = 0, value_name = "K")]
    kills: u64,
    /// Number of daemons at the start
    #[arg(long, default_value_t = 12, value_name = "P")]
    peers: usize,
    /// Seed of who is hurt, when and how [default: random]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where to make the temporary directory [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

/// Runs it; exit code 1 when something happened that must not.
pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    let options = ChaosOptions {
        binary: binary()?,
        minutes: args.minutes,
        kills: args.kills,
        peers: args.peers,
        seed: args.seed,
        place: args.dir,
        flags: args.flags,
    };
    let spinner = screen.spinner("chaos");
    let corrupt = |dir: &std::path::Path, count, seed| Ok(damage(dir, Choice::Some { count, seed })?.len());
    let report = chaos::run(&options, &corrupt, &|text| spinner.set_message(text.to_owned()));
    spinner.finish_and_clear();
    let report = report?;
    if screen.json {
        screen.document(&report)?;
    } else {
        screen.line(&report)?;
    }
    if report.is_good() {
        return Ok(());
    }
    let message = format!("{} violations", report.operations.violations.len());
    Err(CliError::Found {
        code: FAILURE,
        message,
    })
}
