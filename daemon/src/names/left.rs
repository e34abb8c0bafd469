//! What a data directory knows of the account's buckets: for audits of what may lie on the ring.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::entry::{Entry, Pointer, Space, What};
use mutualstore_tree::head::Head;

use super::disk::Disk;
use super::{BUCKET, runs, write_key_of};
use crate::datadir::files::{FileError, read_optional};
use crate::datadir::keys::account;
use crate::datadir::network::Network;
use crate::format::link::Link;

/// What finds the files of buckets, and the files that list their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Links of files: all versions, as far as no list of names is needed for them.
    pub files: BTreeSet<String>,
    /// Links of lists of names, and how many of their bytes are entries; 0 where others replaced them.
    pub lists: BTreeMap<String, u32>,
}

/// Reads what is known of buckets in a data directory, which a daemon may be using.
pub fn left(data_dir: &Path) -> Result<Left, FileError> {
    let mut left = Left::default();
    let (Some(account), Some(network)) = (account(data_dir)?, network(data_dir)?) else {
        return Ok(left);
    };
    let home = account.home();
    let mut keys = vec![home.clone()];
    for entry in left.take(data_dir, &home, &network)? {
        let is_bucket = entry.name.space() == Space::Settings && entry.name.key().starts_with(BUCKET);
        keys.extend(write_key_of(&entry).filter(|_| is_bucket));
    }
    for key in &keys {
        left.take(data_dir, key, &network)?;
    }
    Ok(left)
}

/// Links of the files that a list of names has, of which so many bytes are entries.
pub fn listed_in(list: &Bytes, blocks: u32, data_dir: &Path) -> Result<BTreeSet<String>, FileError> {
    let tag = network(data_dir)?
        .map(|network| network.tag())
        .unwrap_or_default();
    let entries = runs::entries_of(list, blocks).unwrap_or_default();
    Ok(entries.iter().filter_map(|entry| link(entry, tag)).collect())
}

fn network(data_dir: &Path) -> Result<Option<Network>, FileError> {
    let content = read_optional(&data_dir.join("network.json"))?;
    Ok(content.and_then(|content| Network::from_json(&content).ok()))
}

fn text(pointer: &Pointer, tag: [u8; 4]) -> String {
    let link = Link {
        manifest: pointer.manifest,
        key: pointer.key.clone(),
        tag,
    };
    link.to_string()
}

fn link(entry: &Entry, tag: [u8; 4]) -> Option<String> {
    match &entry.what {
        What::File(file) => Some(text(&file.pointer, tag)),
        What::Directory { .. } | What::Deleted | What::Snapshot(_) | What::Setting(_) => None,
    }
}

impl Left {
    /// Takes in what is known of one bucket. The entries that no list is needed for.
    fn take(&mut self, data_dir: &Path, key: &WriteKey, network: &Network) -> Result<Vec<Entry>, FileError> {
        let disk = Disk::new(data_dir, key);
        let mut entries = disk.noted()?;
        let tag = network.tag();
        let own = disk.own(&network.id)?;
        for record in own.into_iter().chain(disk.seen(&network.id)?) {
            let content = record.open(&key.read_key()).ok();
            let Some(head) = content.and_then(|content| Head::parse(&content).ok()) else {
                continue;
            };
            for run in &head.runs {
                self.lists.insert(text(&run.pointer, tag), run.blocks);
            }
            for run in &head.dropped {
                self.lists.entry(text(&run.pointer, tag)).or_insert(0);
            }
            entries.extend(head.entries);
        }
        for run in disk.dropped()? {
            self.lists.entry(text(&run.pointer, tag)).or_insert(0);
        }
        self.files
            .extend(entries.iter().filter_map(|entry| link(entry, tag)));
        Ok(entries)
    }
}
