//! `testnet chaos`: flags into a run that hurts temporary daemons while clients use them, its report into an
//! exit code; and for the run, what only the daemon's code can read or damage in a data directory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use mutualstore_chaos::{self as chaos, ChaosOptions, Estate, Inside, NamedFiles, ShardName};
use mutualstore_contract::exit;
use mutualstore_daemon::datadir::files::DataDir;
use mutualstore_daemon::datadir::journal::Journal;
use mutualstore_daemon::datadir::list::FileList;
use mutualstore_daemon::{Left, left, listed_in};
use mutualstore_erasure::Header;
use mutualstore_store::{LOCATOR, RECORDS, TOMBSTONE, locate};

use crate::corrupt::{Choice, damage};
use crate::output::{CliError, Screen};
use crate::testnet::run_options;

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
        run: run_options(args.dir, args.flags)?,
        minutes: args.minutes,
        kills: args.kills,
        peers: args.peers,
        seed: args.seed,
    };
    let spinner = screen.spinner("chaos");
    let report = chaos::run(&options, &DaemonCode, &|text| {
        spinner.set_message(text.to_owned());
    });
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
        code: exit::UNEXPECTED,
        message,
    })
}

/// Reads data directories as daemons do.
#[derive(Debug)]
struct DaemonCode;

impl Inside for DaemonCode {
    fn damage(&self, data_dir: &Path, count: usize, seed: u64) -> io::Result<usize> {
        Ok(damage(data_dir, Choice::Some { count, seed })?.len())
    }

    fn shards(&self, data_dir: &Path) -> io::Result<BTreeSet<ShardName>> {
        let held = locate(&data_dir.join("shards"))?;
        let shards = held
            .into_keys()
            .filter(|key| ![TOMBSTONE, LOCATOR, RECORDS].contains(&key.index));
        Ok(shards
            .map(|key| (hex::encode(key.stripe), u32::from(key.index)))
            .collect())
    }

    fn named(&self, data_dir: &Path) -> io::Result<NamedFiles> {
        let Left { files, lists } = left(data_dir).map_err(io::Error::other)?;
        Ok(NamedFiles { files, lists })
    }

    fn listed_in(&self, list: Vec<u8>, entries: u32, data_dir: &Path) -> io::Result<BTreeSet<String>> {
        listed_in(&list.into(), entries, data_dir).map_err(io::Error::other)
    }

    fn estate(&self, data_dir: &Path) -> io::Result<Estate> {
        let account = DataDir::open(data_dir)
            .and_then(|dir| dir.account())
            .map_err(io::Error::other)?;
        let files =
            FileList::<()>::open(data_dir, &account).and_then(|list| list.page(None, usize::MAX, None));
        let (_, unfinished) = Journal::open(data_dir).map_err(io::Error::other)?;
        let mut estate = Estate {
            named: self.named(data_dir)?,
            ..Estate::default()
        };
        for (_, file) in files.map_err(io::Error::other)?.files {
            estate.links.insert(file.link);
        }
        for put in unfinished {
            let written = put
                .stripes
                .iter()
                .map(|(stripe, _)| hex::encode(stripe.as_bytes()));
            estate.stripes.extend(written);
            let exposed = put
                .exposed
                .and_then(|exposed| Header::decode(&exposed.header).ok());
            estate
                .stripes
                .extend(exposed.map(|header| hex::encode(header.id().as_bytes())));
        }
        Ok(estate)
    }
}

#[cfg(test)]
mod tests {
    use mutualstore_daemon::datadir::list::Listed;
    use mutualstore_daemon::format::link::{ANY_NETWORK, Link};
    use mutualstore_erasure::StripeId;

    use super::*;

    #[test]
    fn what_only_a_dead_daemon_knew_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let account = DataDir::open(dir.path()).unwrap().account().unwrap();
        let list = FileList::<()>::open(dir.path(), &account).unwrap();
        let link = |byte: u8| Link {
            manifest: [byte; 32],
            key: [byte; 32].into(),
            tag: ANY_NETWORK,
        };
        for byte in [1, 2] {
            let entry = Listed {
                name: String::new(),
                size_bytes: 1,
                created: 1,
                code: "copies:2".to_owned(),
                placement: "random".to_owned(),
                stripes: 1,
                named: false,
                link: link(byte),
            };
            list.append(&entry, ()).unwrap();
        }
        list.append_sealed(&list.seal_deletion(&link(1), None)).unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        let mut open = journal.begin(&[1; 16], 1).unwrap();
        open.stripe(&StripeId::from([3; 32]), &[]).unwrap();
        let mut finished = journal.begin(&[2; 16], 1).unwrap();
        finished.stripe(&StripeId::from([4; 32]), &[]).unwrap();
        finished.finish().unwrap();

        let estate = DaemonCode.estate(dir.path()).unwrap();
        assert_eq!(estate.links, BTreeSet::from([link(2).to_string()]));
        assert_eq!(estate.stripes, BTreeSet::from([hex::encode([3; 32])]));
    }
}
