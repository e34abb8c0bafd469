//! What only the daemon's own code can do with a data directory: this crate knows daemons by their API.

use std::collections::{BTreeMap, BTreeSet};
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

    /// Files of buckets that are known here. The daemon may run.
    fn named(&self, data_dir: &Path) -> io::Result<NamedFiles>;

    /// Links of the files that a list of names has, of which so many bytes are entries.
    fn listed_in(&self, list: Vec<u8>, entries: u32, data_dir: &Path) -> io::Result<BTreeSet<String>>;

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
    /// What it knew of the buckets of its account.
    pub named: NamedFiles,
}

/// Files of buckets, by what a data directory has of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedFiles {
    /// Links of files, those that only lists of names have excepted.
    pub files: BTreeSet<String>,
    /// Links of lists of names, and how many bytes of each are entries.
    pub lists: BTreeMap<String, u32>,
}

impl NamedFiles {
    /// Takes in what another data directory has.
    pub(super) fn extend(&mut self, other: Self) {
        self.files.extend(other.files);
        for (link, entries) in other.lists {
            let known = self.lists.entry(link).or_default();
            *known = entries.max(*known);
        }
    }
}
