//! The account as 24 words.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;

use clap::Subcommand;
use mutualstore_client::Client;
use mutualstore_contract::exit;
use mutualstore_daemon::account::Account;
use mutualstore_daemon::datadir::files::DataDir;
use mutualstore_daemon::datadir::keys::{account, import_account};
use mutualstore_daemon::format::names::harmless;
use serde_json::json;
use zeroize::Zeroizing;

use crate::connect::{Connect, data_dir};
use crate::output::{CliError, Rows, Screen};

/// Bytes read from standard input at most: far more than 24 words have.
const MOST: u64 = 4 << 10;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new account in a data directory without any; `phrase` shows its words
    New(Dir),
    /// Show the 24 words: whoever has them has all files. Write them down, away from this machine
    Phrase(Dir),
    /// List the accounts that a daemon serves
    List(Connect),
    /// List the devices that wrote names, and when they last did
    Devices(Connect),
    /// Take the 24 words from standard input into a data directory without any account
    Restore(RestoreArgs),
}

#[derive(clap::Args, Debug)]
struct RestoreArgs {
    /// Standard input, which the words come from in any case: they must not stand among the arguments
    #[arg(value_name = "-", num_args = 0..)]
    words: Vec<String>,
    #[command(flatten)]
    dir: Dir,
}

#[derive(clap::Args, Debug)]
struct Dir {
    /// The data directory [default: the XDG data directory `mutualstore`; env: `MUTUALSTORE_DATA_DIR`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs an account command.
pub(crate) fn run(args: &Args, screen: &Screen) -> Result<(), CliError> {
    match &args.command {
        Command::New(dir) => take(dir, &Account::random(), "is made", screen),
        Command::Phrase(dir) => phrase(dir, screen),
        Command::List(connect) => list(&connect.client()?, screen),
        Command::Devices(connect) => devices(&connect.client()?, screen),
        Command::Restore(RestoreArgs { dir, words: given }) => {
            if !given.is_empty() && *given != ["-"] {
                // What was given is not said again: it may be the words.
                return Err(CliError::Usage(
                    "the words come from standard input, never from arguments, which everybody here can see; \
                     nothing was restored"
                        .to_owned(),
                ));
            }
            let words = words(io::stdin().lock(), io::stdin().is_terminal()).map_err(CliError::Usage)?;
            let account = Account::from_words(&words)
                .map_err(|error| CliError::Usage(format!("{error}; nothing was restored")))?;
            take(dir, &account, "is restored", screen)
        }
    }
}

fn list(client: &Client, screen: &Screen) -> Result<(), CliError> {
    let reply = client.accounts()?;
    if screen.json {
        return screen.document(&reply.json);
    }
    for account in reply.body.accounts {
        screen.line(account.account)?;
    }
    Ok(())
}

fn devices(client: &Client, screen: &Screen) -> Result<(), CliError> {
    let reply = client.devices()?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let mut rows = Rows::new(["DEVICE", "BUCKET", "WRITER", "WRITTEN", ""], &[]);
    for device in reply.body.devices {
        let this = if device.this { "this one" } else { "" };
        rows.add([
            harmless(&device.device),
            device.bucket,
            device.writer,
            device.written.unwrap_or_else(|| "-".to_owned()),
            this.to_owned(),
        ]);
    }
    screen.table(&rows)
}

fn phrase(dir: &Dir, screen: &Screen) -> Result<(), CliError> {
    let dir = data_dir(dir.data_dir.as_deref())?;
    let Some(account) = account(&dir).map_err(|error| CliError::Usage(error.to_string()))? else {
        return Err(CliError::Found {
            code: exit::NOT_FOUND,
            message: format!(
                "no account is in {}; a daemon makes it at its first start",
                dir.display()
            ),
        });
    };
    let words = account.to_words();
    if screen.json {
        screen.document(&json!({ "words": words.as_str() }))
    } else {
        screen.line(words.as_str())
    }
}

fn take(dir: &Dir, account: &Account, what: &str, screen: &Screen) -> Result<(), CliError> {
    let path = data_dir(dir.data_dir.as_deref())?;
    let directory = DataDir::open(&path).map_err(|error| CliError::Usage(error.to_string()))?;
    import_account(&directory, account).map_err(|error| CliError::Usage(error.to_string()))?;
    if screen.json {
        return screen.document(&json!({ "data_dir": path.to_string_lossy() }));
    }
    screen.note(format!(
        "the account {what} in {}; start a daemon on it; then `mutualstore account devices` shows who wrote \
         last, and when",
        path.display()
    ));
    Ok(())
}

/// The words from `source`; of a terminal one line, of anything else all there is.
fn words(source: impl Read, terminal: bool) -> Result<Zeroizing<String>, String> {
    let unreadable = |error: io::Error| format!("cannot read the words from standard input: {error}");
    let mut text = Zeroizing::new(String::new());
    let mut source = BufReader::new(source.take(MOST));
    if terminal {
        source.read_line(&mut text).map_err(unreadable)?;
    } else {
        source.read_to_string(&mut text).map_err(unreadable)?;
    }
    Ok(text)
}
