//! Giving space back: holes, dead segments, and the reserve that lets deletes through on a full disk.

use super::super::disk::PAGE;
use super::super::entry::Entry;
use super::super::record::{HEADER_BYTES, Kind, RecordHeader};
use super::super::segment::file_name;
use super::super::{Key, State};
use super::{Log, PoisonError, reserve_bytes};

impl Log {
    /// Marks records dead whose removal is durable, and gives the whole pages of their bodies back.
    pub(crate) fn retire(&self, entries: &[Entry]) {
        for entry in entries {
            let Some(salt) = self.salt(entry.segment) else {
                continue;
            };
            let marked = self
                .file(entry.segment)
                .and_then(|file| file.write_at(&[&dead(entry).encode(salt)], entry.offset));
            match marked {
                Ok(()) => drop(self.lock().marked.insert(entry.segment)),
                // The record of the removal says it too.
                Err(error) => tracing::debug!(segment = entry.segment, %error, "dead record not marked"),
            }
            let start = (entry.offset + HEADER_BYTES as u64).next_multiple_of(PAGE);
            let end = (entry.offset + entry.record_bytes()) / PAGE * PAGE;
            if start >= end {
                continue;
            }
            match self
                .file(entry.segment)
                .and_then(|file| file.punch(start, end - start))
            {
                Ok(()) => {
                    if let Some(segment) = self.lock().segments.get_mut(&entry.segment) {
                        segment.occupied = segment.occupied.saturating_sub(end - start);
                    }
                }
                // The space comes back with the segment.
                Err(error) => tracing::debug!(segment = entry.segment, %error, "hole not punched"),
            }
        }
    }

    /// Removes segments whose every record is dead. One with records that speak about older segments goes
    /// only when there are none.
    pub(crate) fn drop_dead(&self) {
        let mut inner = self.lock();
        loop {
            let oldest = inner.segments.first_key_value().map(|(&id, _)| id);
            let active = inner.active.as_ref().map(|active| active.id);
            let dead = inner.segments.iter().find(|&(&id, segment)| {
                segment.live == 0
                    && !segment.unread
                    && segment.synced == segment.len
                    && Some(id) != active
                    && (!segment.controls || Some(id) == oldest)
            });
            let Some((id, salt)) = dead.map(|(&id, segment)| (id, segment.salt)) else {
                break;
            };
            // Durable one by one: a tombstone must not go before what it hides.
            let removed = self.disk.remove(&self.dir.join(file_name(id, salt)));
            if let Err(error) = removed.and_then(|()| self.disk.sync_dir(&self.dir)) {
                tracing::warn!(segment = id, %error, "dead segment not removed");
                break;
            }
            inner.segments.remove(&id);
            inner.full.remove(&id);
            self.files.lock().unwrap_or_else(PoisonError::into_inner).pop(&id);
        }
    }

    /// Takes the reserve again after a full disk ate it.
    pub(crate) fn refill_reserve(&self) {
        let mut inner = self.lock();
        if inner.reserved == 0 {
            let bytes = reserve_bytes(inner.capacity);
            match self.disk.reserve(&self.reserve, bytes) {
                Ok(()) => inner.reserved = bytes,
                Err(error) => tracing::debug!(%error, "no reserve"),
            }
        }
    }
}

/// The header over a record that is dead: of the same length, so that a scan steps over it.
fn dead(entry: &Entry) -> RecordHeader {
    RecordHeader {
        kind: Kind::Dead,
        sequence: entry.sequence,
        key: Key {
            stripe: [0; 32],
            index: 0,
        },
        state: State::Committed,
        token: [0; 16],
        header_len: entry.header_len,
        payload_len: entry.payload_len,
        body_crc: 0,
    }
}
