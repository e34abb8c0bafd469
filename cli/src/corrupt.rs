//! `testnet corrupt`: flips bytes on a daemon's disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mutualstore_fleet::net::{FleetError, pick, random_seed};
use mutualstore_fleet::state::Testnet;
use mutualstore_store::{Key, Located, TOMBSTONE, locate};
use serde_json::json;

use crate::output::{CliError, Screen};
use crate::testnet::Dir;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: Dir,
    /// The daemon, running or not
    #[arg(long, value_name = "I")]
    peer: usize,
    #[command(flatten)]
    what: What,
    /// Seed of the choice [default: random]
    #[arg(long, conflicts_with = "shard")]
    seed: Option<u64>,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// So many of its shards
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// This shard: the stripe id in hexadecimal, a colon, the index
    #[arg(long, value_name = "STRIPE:INDEX", value_parser = shard)]
    shard: Option<Key>,
}

fn shard(text: &str) -> Result<Key, String> {
    let parse = || {
        let (stripe, index) = text.rsplit_once(':')?;
        let mut key = hex::decode(stripe).ok()?;
        key.push(index.parse().ok()?);
        Key::from_bytes(&key)
    };
    parse().ok_or_else(|| "expected 64 hexadecimal digits, a colon and a number".to_owned())
}

/// The command.
pub(crate) fn run(args: &Args, screen: &Screen) -> Result<(), CliError> {
    let testnet = Testnet::load(&args.dir.path()?).map_err(FleetError::from)?;
    let peer = testnet.peers.iter().find(|peer| peer.index == args.peer);
    let peer = peer.ok_or_else(|| CliError::Usage(format!("this testnet has no peer {}", args.peer)))?;
    let failed = |source| {
        CliError::Net(FleetError::Io {
            what: format!("cannot damage the shards in {}", peer.data_dir.display()),
            source,
        })
    };
    let chosen = match args.what {
        What { shard: Some(key), .. } => Choice::This(key),
        What { count, .. } => Choice::Some {
            count: count.unwrap_or(0),
            seed: args.seed.unwrap_or_else(random_seed),
        },
    };
    let damaged = damage(&peer.data_dir, chosen).map_err(failed)?;
    if let (Choice::This(key), []) = (chosen, damaged.as_slice()) {
        let (peer, name) = (args.peer, name(&key));
        return Err(CliError::Usage(format!("peer {peer} does not hold {name}")));
    }
    let damaged: Vec<String> = damaged.iter().map(name).collect();
    if screen.json {
        return screen.document(&json!({ "peer": args.peer, "shards": damaged }));
    }
    damaged.iter().try_for_each(|shard| screen.line(shard))
}

/// Which shards to damage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// This one.
    This(Key),
    /// So many, chosen by a seed.
    Some {
        /// How many.
        count: usize,
        /// The same seed chooses the same of the same.
        seed: u64,
    },
}

/// Flips a byte in the middle of shards that a daemon, running or not, keeps in `data_dir`; answers which.
pub(crate) fn damage(data_dir: &Path, choice: Choice) -> io::Result<Vec<Key>> {
    let mut held = locate(&data_dir.join("shards"))?;
    held.retain(|key, place| key.index != TOMBSTONE && place.len > 0);
    let mut chosen = match choice {
        Choice::This(key) => vec![key],
        Choice::Some { count, seed } => {
            let all: Vec<Key> = held.keys().copied().collect();
            pick(&all, count, seed)
        }
    };
    chosen.retain(|key| held.contains_key(key));
    chosen.iter().filter_map(|key| held.get(key)).try_for_each(flip)?;
    Ok(chosen)
}

fn name(key: &Key) -> String {
    format!("{}:{}", hex::encode(key.stripe), key.index)
}

fn flip(place: &Located) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(&place.file) {
        // Its segment went meanwhile, and the shard with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let at = place.offset + place.len / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&byte.map(|byte| !byte), at)?;
    file.sync_data()
}
