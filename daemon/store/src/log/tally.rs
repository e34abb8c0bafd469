//! The sums of what a log holds.

use std::collections::BTreeMap;

use super::Segment;
use crate::entry::Entry;
use crate::{Key, LOCATOR, RECORDS, State};

/// Segments with what the index says about them, and its sums.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) committed_bytes: u64,
    pub(crate) pending_bytes: u64,
    pub(crate) shards: u64,
    /// Counted among the shards too.
    pub(crate) locators: u64,
    /// Counted among the shards too.
    pub(crate) records: u64,
    /// Counted among the committed bytes too.
    pub(crate) records_bytes: u64,
    pub(crate) tombstones: u64,
}

impl Tally {
    /// Counts an entry; false if it points to nothing.
    pub(crate) fn add(&mut self, key: &Key, entry: &Entry) -> bool {
        let bytes = entry.record_bytes();
        let Some(segment) = self
            .segments
            .get_mut(&entry.segment)
            .filter(|segment| entry.offset + bytes <= segment.len)
        else {
            return false;
        };
        segment.live += bytes;
        match entry.state {
            State::Committed => self.committed_bytes += bytes,
            State::Pending { .. } => self.pending_bytes += bytes,
            State::Deleted { .. } => {
                self.tombstones += 1;
                return true;
            }
        }
        self.shards += 1;
        self.locators += u64::from(key.index == LOCATOR);
        if key.index == RECORDS {
            self.records += 1;
            self.records_bytes += bytes;
        }
        true
    }
}
