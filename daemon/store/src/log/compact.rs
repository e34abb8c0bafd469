//! What compaction does to segments.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;

use super::super::record::{HEADER_BYTES, Kind, RecordHeader, record_bytes};
use super::super::segment::{Scanner, Trailer, file_name, read_body, write_footer};
use super::{Log, Relic, Segment, reserve_bytes};

/// Part of the store that may be dead, one in so many bytes.
const DEAD_SHARE: u64 = 32;

impl Segment {
    /// Dead bytes that compacting it may give back: not the part of the footer that is about live records.
    fn dead(&self) -> u64 {
        let records = self.len.saturating_sub(self.footer_bytes).max(1);
        let footer = u128::from(self.footer_bytes) * u128::from(self.live) / u128::from(records);
        let kept = self.live + self.stuck + u64::try_from(footer).unwrap_or(u64::MAX);
        self.occupied.saturating_sub(kept)
    }
}

impl Log {
    /// Bytes on the device.
    pub(crate) fn occupied(&self) -> u64 {
        self.lock().occupied()
    }

    /// The segment with most dead bytes in its size, if the store has more than its share of them and than
    /// `anyway`.
    pub(crate) fn deadest(&self, anyway: u64) -> Option<u32> {
        let inner = self.lock();
        let dead: u64 = inner.segments.values().map(Segment::dead).sum();
        if dead <= anyway.max(inner.occupied() / DEAD_SHARE) {
            return None;
        }
        // The last one may be written to, and its footer ends the log.
        let last = inner.segments.last_key_value().map(|(&id, _)| id)?;
        // There is as much room as the reserve has.
        let room = inner.free() + reserve_bytes(inner.capacity);
        let candidates = inner.segments.iter().filter(|&(&id, segment)| {
            id != last
                && !segment.unread
                && segment.footer.is_some()
                && segment.synced == segment.len
                && !inner.suspects.contains(&id)
                && segment.live <= room
                && segment.dead() > segment.occupied / DEAD_SHARE / 2
        });
        // Per mille of its size.
        let share = |segment: &Segment| segment.dead() * 1000 / segment.occupied.max(1);
        candidates
            .max_by_key(|(_, segment)| share(segment))
            .map(|(&id, _)| id)
    }

    /// Does not compact a segment again until more of it dies.
    pub(crate) fn exempt(&self, id: u32) {
        if let Some(segment) = self.lock().segments.get_mut(&id) {
            segment.stuck = segment.occupied.saturating_sub(segment.live);
        }
    }

    /// The segments before `id`.
    pub(crate) fn before(&self, id: u32) -> Vec<u32> {
        self.lock().segments.range(..id).map(|(&id, _)| id).collect()
    }

    /// The records of a segment that takes no more; `None` when not all can be known. Those that it shows as
    /// dead are dead for good, and what removed them may be forgotten.
    pub(crate) fn records(&self, id: u32) -> io::Result<Option<Vec<(u64, RecordHeader)>>> {
        let Some(segment) = self.lock().segments.get(&id).copied() else {
            return Ok(Some(Vec::new()));
        };
        if segment.unread {
            return Ok(None);
        }
        let file = self.file(id)?;
        let trailer = Trailer::read(file.as_ref(), segment.salt, segment.len)?;
        if let Some(trailer) = trailer
            && let Some(records) = trailer.records(file.as_ref(), segment.salt)?
        {
            return Ok(Some(records));
        }
        let mut scanner = Scanner::new(file.as_ref(), segment.salt, segment.len);
        let records = scanner.by_ref().collect();
        if scanner.errors > 0 {
            return Ok(None);
        }
        // Headers written over dead records are not made durable by whoever writes them.
        if let Err(error) = file.sync() {
            // Whether they ever will be nobody can know now.
            if let Some(segment) = self.lock().segments.get_mut(&id) {
                segment.unread = true;
            }
            return Err(error);
        }
        Ok(Some(records))
    }

    /// The body of a record; `None` if it is damaged.
    pub(crate) fn body(&self, id: u32, offset: u64, header: &RecordHeader) -> io::Result<Option<Vec<u8>>> {
        read_body(self.file(id)?.as_ref(), offset, header)
    }

    /// Replaces a segment by one with these records alone, or removes it if there are none; durable on
    /// return. Should it fail, or should the segment have live records (false), it stays as it was.
    pub(crate) fn rewrite(&self, id: u32, relics: &[Relic]) -> io::Result<bool> {
        if self
            .lock()
            .segments
            .get(&id)
            .is_none_or(|segment| segment.live > 0)
        {
            return Ok(false);
        }
        if relics.is_empty() {
            if let Some(segment) = self.lock().segments.get_mut(&id) {
                segment.controls = false;
            }
            self.drop_dead();
            return Ok(!self.lock().segments.contains_key(&id));
        }
        let sequence = {
            let mut inner = self.lock();
            inner.next_sequence += 1;
            inner.next_sequence - 1
        };
        let salt = rand::random();
        let path = self.dir.join(file_name(id, salt));
        let written = self.write_relics(&path, salt, sequence, relics);
        let replaced = match written {
            Ok(replacement) => replacement,
            Err(error) => {
                drop(self.disk.remove(&path));
                return Err(error);
            }
        };
        let old = {
            let mut inner = self.lock();
            let old = inner.segments.insert(id, replaced);
            inner.marked.remove(&id);
            old
        };
        self.files.lock().unwrap_or_else(PoisonError::into_inner).pop(&id);
        let Some(old) = old else { return Ok(true) };
        let removed = self.disk.remove(&self.dir.join(file_name(id, old.salt)));
        if let Err(error) = removed.and_then(|()| self.disk.sync_dir(&self.dir)) {
            tracing::warn!(segment = id, %error, "the old version of a compacted segment stays until the \
                next start");
            // What it says may come back, so nothing said against it may be forgotten.
            if let Some(segment) = self.lock().segments.get_mut(&id) {
                segment.unread = true;
            }
        }
        Ok(true)
    }

    fn write_relics(
        &self,
        path: &std::path::Path,
        salt: u64,
        sequence: u64,
        relics: &[Relic],
    ) -> io::Result<Segment> {
        let file = self.disk.create(path)?;
        let mut end = 0;
        for (header, body) in relics {
            let header = RecordHeader {
                payload_len: u32::try_from(body.len()).map_err(io::Error::other)?,
                body_crc: crc32fast::hash(body),
                ..header.clone()
            };
            debug_assert_ne!(header.kind, Kind::Put);
            let bytes = record_bytes(body.len() as u64);
            let pad = usize::try_from(bytes).map_err(io::Error::other)? - HEADER_BYTES - body.len();
            file.write_at(&[&header.encode(salt), body, &vec![0; pad]], end)?;
            end += bytes;
        }
        let (trailer, len) = write_footer(file.as_ref(), salt, end, sequence, &BTreeSet::new())?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Segment::new(salt, len, file.allocated()?, Some(&trailer)))
    }
}
