//! Getting space back that holes do not reach: headers, partly used pages, small shards, records about what
//! is gone.
//!
//! One segment at a time. Its live records are copied behind all others, each under the claim of its key and
//! durable before the index points there. Records about shards in older segments stay where they stand in the
//! log, or what they say would come after what was said later: the segment is written again with nothing but
//! those of them that still mean something, under its old number. Both files exist until that is durable; a
//! start takes the one whose footer is the later one. A removal still means something while an older segment
//! has a record of its shard, dead or not; a change of state while the index points to an older segment.
//!
//! Write amplification: when more than one in 32 bytes of the whole store is dead, the segment with most of
//! it in its size is compacted first. A shard of some pages leaves holes when it is removed and next to
//! nothing to compact. At worst, small shards removed at random, some sixteen bytes are copied for one
//! gained.

use std::collections::{BTreeMap, HashSet};

use super::entry::Entry;
use super::log::{Draft, Placed, Relic};
use super::record::{Kind, RecordHeader, decode_keys, record_bytes};
use super::{Key, Store, UpdateError};

/// Bytes of shards copied between two flushes.
const BATCH_BYTES: u64 = 1 << 20;
/// Removals of one segment that are looked for in older ones; beyond it all are kept.
const MAX_REMOVALS: usize = 1 << 20;

/// What compacting a segment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of records written again.
    pub copied: u64,
    /// Bytes given back, less those.
    pub gained: u64,
}

/// Dead bytes that a store may have in any case.
const DEAD_ANYWAY: u64 = 512 << 10;

/// Why a segment stays as it is.
enum Stays {
    /// A live record cannot be read, and has to be found and dropped first; or a file cannot be removed.
    Damaged,
    Failed(UpdateError),
}

impl<T: Into<UpdateError>> From<T> for Stays {
    fn from(error: T) -> Self {
        Self::Failed(error.into())
    }
}

impl Store {
    /// Compacts the segment where that gains most; `None` when too little is dead, or no segment with dead
    /// space can be compacted. Reads, puts and removals go on meanwhile.
    pub fn compact(&self) -> Result<Option<Compacted>, UpdateError> {
        self.compact_above(DEAD_ANYWAY)
    }

    /// With so many dead bytes or more.
    pub(super) fn compact_above(&self, dead: u64) -> Result<Option<Compacted>, UpdateError> {
        let Some(id) = self.log.deadest(dead) else {
            return Ok(None);
        };
        let mut moved = Vec::new();
        let before = self.log.occupied();
        let outcome = self.compact_segment(id, &mut moved);
        self.log.exempt(id);
        if outcome.is_err() {
            // What was moved stands there twice; only one of them must come back should a removal be damaged.
            self.log.retire(&moved);
        }
        if let Err(Stays::Failed(UpdateError::Sync(_))) = outcome {
            self.reverify();
        }
        self.log.refill_reserve();
        match outcome {
            Ok(copied) => Ok(Some(Compacted {
                copied,
                gained: before.saturating_sub(self.log.occupied()),
            })),
            Err(Stays::Damaged) => Ok(Some(Compacted { copied: 0, gained: 0 })),
            Err(Stays::Failed(error)) => Err(error),
        }
    }

    /// Bytes copied.
    fn compact_segment(&self, id: u32, moved: &mut Vec<Entry>) -> Result<u64, Stays> {
        let records = self.records(id)?;
        let mut copied = 0;
        let mut batch: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
        let mut bytes = 0;
        for (offset, header) in records.iter().filter(|(_, header)| header.kind == Kind::Put) {
            // A key may have been put twice.
            batch.entry(header.key).or_default().push(*offset);
            bytes += header.record_bytes();
            if bytes >= BATCH_BYTES {
                copied += self.copy(id, &std::mem::take(&mut batch), moved)?;
                bytes = 0;
            }
        }
        copied += self.copy(id, &batch, moved)?;
        let relics = self.relics(id, records)?;
        let kept: u64 = relics
            .iter()
            .map(|(_, body)| record_bytes(body.len() as u64))
            .sum();
        let rewritten = self.log.rewrite(id, &relics).map_err(UpdateError::Io)?;
        rewritten.then_some(copied + kept).ok_or(Stays::Damaged)
    }

    fn records(&self, id: u32) -> Result<Vec<(u64, RecordHeader)>, Stays> {
        let records = self.log.records(id).map_err(UpdateError::Io)?;
        records.ok_or(Stays::Damaged)
    }

    /// Copies those of these records that the index points to; bytes copied.
    fn copy(&self, id: u32, places: &BTreeMap<Key, Vec<u64>>, moved: &mut Vec<Entry>) -> Result<u64, Stays> {
        let keys: Vec<Key> = places.keys().copied().collect();
        let _claim = self.log.claim(&keys)?;
        let mut copies: Vec<(Key, Entry, Placed)> = Vec::new();
        let written = self.write_copies(id, places, &mut copies);
        let settled: Vec<_> = copies
            .iter()
            .map(|(_, _, copy)| self.log.settle(&copy.group))
            .collect();
        let mut bytes = 0;
        let mut failed = None;
        for ((key, held, copy), settled) in copies.into_iter().zip(settled) {
            if let Err(error) = settled {
                self.log.abandon(&copy);
                failed = Some(error);
                continue;
            }
            bytes += copy.header.record_bytes();
            let entry = Entry::new(copy.segment, copy.offset, &copy.header);
            let replaced = self.replace(&key, Some(&held), Some(&entry));
            replaced.map_err(UpdateError::Index)?;
            moved.push(held);
        }
        if let Some(error) = failed {
            return Err(UpdateError::Sync(error).into());
        }
        written.map(|()| bytes)
    }

    fn write_copies(
        &self,
        id: u32,
        places: &BTreeMap<Key, Vec<u64>>,
        copies: &mut Vec<(Key, Entry, Placed)>,
    ) -> Result<(), Stays> {
        for (key, offsets) in places {
            let held = self.index.get(key).map_err(UpdateError::Index)?;
            let Some(held) = held.filter(|held| held.segment == id && offsets.contains(&held.offset)) else {
                continue;
            };
            let stored = self.read(key, &held).map_err(UpdateError::Io)?;
            let stored = stored.ok_or(Stays::Damaged)?;
            let draft = Draft {
                kind: Kind::Put,
                key: *key,
                state: held.state,
                token: held.token,
                header: &stored.header,
                payload: &stored.payload,
                moved: true,
            };
            let copy = self.log.append(&draft)?;
            copies.push((*key, held, copy));
        }
        Ok(())
    }

    /// The records of the segment that still mean something for what is in older ones.
    fn relics(&self, id: u32, records: Vec<(u64, RecordHeader)>) -> Result<Vec<Relic>, Stays> {
        let mut controls: Vec<(RecordHeader, Vec<Key>)> = Vec::new();
        for (offset, header) in records {
            let keys = match header.kind {
                Kind::Restate => vec![header.key],
                Kind::Drop | Kind::Commit | Kind::Renew => {
                    let body = self.log.body(id, offset, &header).map_err(UpdateError::Io)?;
                    // What a damaged one said nobody knows, now or at a start.
                    decode_keys(&body.unwrap_or_default()).collect()
                }
                Kind::Put | Kind::Footer | Kind::Dead => continue,
            };
            controls.push((header, keys));
        }
        let removed = controls.iter().filter(|(header, _)| header.kind == Kind::Drop);
        let removed: HashSet<Key> = removed.flat_map(|(_, keys)| keys).copied().collect();
        let deleted = self.put_before(id, removed)?;
        let mut relics = Vec::new();
        for (header, mut keys) in controls {
            if header.kind == Kind::Drop {
                keys.retain(|key| deleted.contains(key));
            } else {
                let mut older = Vec::new();
                for key in keys {
                    let held = self.index.get(&key).map_err(UpdateError::Index)?;
                    older.extend(held.filter(|held| held.segment < id).map(|_| key));
                }
                keys = older;
            }
            if keys.is_empty() {
                continue;
            }
            let body = if header.kind == Kind::Restate {
                Vec::new()
            } else {
                keys.iter().flat_map(|key| key.to_bytes()).collect()
            };
            relics.push((header, body));
        }
        Ok(relics)
    }

    /// Those of the keys of which a segment before `id` has a record; all of them where that cannot be known.
    fn put_before(&self, id: u32, keys: HashSet<Key>) -> Result<HashSet<Key>, Stays> {
        if keys.is_empty() || keys.len() > MAX_REMOVALS {
            return Ok(keys);
        }
        let mut found = HashSet::new();
        for older in self.log.before(id) {
            let Some(records) = self.log.records(older).map_err(UpdateError::Io)? else {
                return Ok(keys);
            };
            let puts = records.iter().filter(|(_, header)| header.kind == Kind::Put);
            found.extend(
                puts.map(|(_, header)| header.key)
                    .filter(|key| keys.contains(key)),
            );
        }
        Ok(found)
    }
}
