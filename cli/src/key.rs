//! Identity and account as a file to keep elsewhere.

use std::path::PathBuf;

use clap::Subcommand;
use mutualstore_contract::exit;
use mutualstore_daemon::datadir::files::{DataDir, read_optional, write_atomic};
use mutualstore_daemon::datadir::keys::Keys;
use serde_json::json;

use crate::connect::data_dir;
use crate::output::{CliError, Screen};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write identity and account secret to a file (mode 0600): whoever has it is this peer and this account
    Export(FileArgs),
    /// Take identity and account secret from such a file, into a data directory without any
    Import(FileArgs),
}

#[derive(clap::Args, Debug)]
struct FileArgs {
    /// The file
    file: PathBuf,
    /// The data directory [default: the XDG data directory `mutualstore`; env: `MUTUALSTORE_DATA_DIR`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs a key command.
pub(crate) fn run(args: &Args, screen: &Screen) -> Result<(), CliError> {
    match &args.command {
        Command::Export(args) => export(args, screen),
        Command::Import(args) => import(args, screen),
    }
}

fn export(args: &FileArgs, screen: &Screen) -> Result<(), CliError> {
    let dir = data_dir(args.data_dir.as_deref())?;
    let Some(keys) = Keys::read(&dir).map_err(usage)? else {
        return Err(CliError::Found {
            code: exit::NOT_FOUND,
            message: format!(
                "no identity is in {}; a daemon makes it at its first start",
                dir.display()
            ),
        });
    };
    if args.file.exists() {
        let text = format!("{} exists; name a new file", args.file.display());
        return Err(CliError::Usage(text));
    }
    write_atomic(&args.file, keys.to_text().as_bytes(), 0o600).map_err(usage)?;
    done(
        screen,
        &keys,
        "is written; keep it where nobody else reads it, and never run two daemons with it",
    )
}

fn import(args: &FileArgs, screen: &Screen) -> Result<(), CliError> {
    let missing = || CliError::Found {
        code: exit::NOT_FOUND,
        message: format!("{} does not exist", args.file.display()),
    };
    let text = read_optional(&args.file).map_err(usage)?.ok_or_else(missing)?;
    let keys = Keys::from_text(&text).map_err(|problem| {
        CliError::Usage(format!(
            "{}: {problem}; nothing was imported",
            args.file.display()
        ))
    })?;
    let dir = DataDir::open(&data_dir(args.data_dir.as_deref())?).map_err(usage)?;
    dir.import(&keys).map_err(usage)?;
    done(
        screen,
        &keys,
        "is imported; start a daemon on this data directory",
    )
}

fn done(screen: &Screen, keys: &Keys, what: &str) -> Result<(), CliError> {
    let peer = keys.peer();
    if screen.json {
        screen.document(&json!({ "peer": peer.to_string() }))
    } else {
        screen.line(format!("the key of peer {peer} {what}"))
    }
}

fn usage(error: impl std::fmt::Display) -> CliError {
    CliError::Usage(error.to_string())
}
