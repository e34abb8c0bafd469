//! What only the daemon's own code can do with a data directory: this crate knows daemons by their API.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// A shard in a store: stripe id in hexadecimal, index.
pub type ShardName = (String, u32);

/// Whoever can read data directories.
pub trait Inside: Sync {
    /// Flips bytes of so many shards, chosen by a seed; answers how many it found. The daemon may run.
    fn damage(&self, data_dir: &Path, count: usize, seed: u64) -> io::Result<usize>;

    /// Shards in the store. The daemon may run; what comes or goes meanwhile may be missed.
    fn shards(&self, data_dir: &Path) -> io::Result<BTreeSet<ShardName>>;

    /// What a daemon knew that ended.
    fn estate(&self, data_dir: &Path) -> io::Result<Estate>;
}

/// What a daemon knew that nobody else does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estate {
    /// Links of its list of files.
    pub links: BTreeSet<String>,
    /// Stripes, in hexadecimal, of puts that it had neither finished nor taken back.
    pub stripes: BTreeSet<String>,
}
