//! The account that some daemons of a run share: made once, and restored from its words wherever a data
//! directory has none.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mutualstore_fleet::net::FleetError;

/// One in so many daemons is a device of the account.
const EVERY: usize = 3;

/// The 24 words, and the program that takes them.
#[derive(Debug)]
pub(super) struct Account {
    binary: PathBuf,
    words: Vec<u8>,
}

impl Account {
    /// A new account; `dir` is a place for its data directory.
    pub(super) fn make(binary: &Path, dir: &Path) -> Result<Self, FleetError> {
        let mut account = Self {
            binary: binary.to_owned(),
            words: Vec::new(),
        };
        account.run("new", dir)?;
        account.words = account.run("phrase", dir)?;
        Ok(account)
    }

    /// Whether the daemon of this number is a device of it.
    pub(super) fn has(number: usize) -> bool {
        number.is_multiple_of(EVERY)
    }

    /// Restores it in a data directory that has none.
    pub(super) fn restore(&self, data_dir: &Path) -> Result<(), FleetError> {
        if data_dir.join("account").exists() {
            return Ok(());
        }
        self.run("restore", data_dir).map(drop)
    }

    /// Runs an account command with the words on standard input. What it prints.
    fn run(&self, command: &str, data_dir: &Path) -> Result<Vec<u8>, FleetError> {
        let run = || -> io::Result<Output> {
            let mut child = Command::new(&self.binary)
                .args(["account", command, "--quiet", "--data-dir"])
                .arg(data_dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // `new` and `phrase` read nothing.
                drop(stdin.write_all(&self.words));
            }
            child.wait_with_output()
        };
        let failed = |source| FleetError::io(format!("account {command} failed"))(source);
        let output = run().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(io::Error::other(said)))
    }
}
