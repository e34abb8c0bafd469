//! Giving space back: holes, dead segments, and the reserve that lets deletes through on a full disk.

use super::super::disk::PAGE;
use super::super::index::Entry;
use super::super::record::HEADER_BYTES;
use super::super::segment::file_name;
use super::{Log, PoisonError, reserve_bytes};

impl Log {
    /// Gives the whole pages of dead bodies back. Headers stay for the scan.
    pub(in crate::store) fn punch(&self, entries: &[Entry]) {
        for entry in entries {
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

    /// Removes segments whose every record is dead. One with records that speak about older segments goes only when
    /// there are none.
    pub(in crate::store) fn drop_dead(&self) {
        let mut inner = self.lock();
        loop {
            let oldest = inner.segments.first_key_value().map(|(&id, _)| id);
            let active = inner.active.as_ref().map(|active| active.id);
            let dead = inner.segments.iter().find(|&(&id, segment)| {
                segment.live == 0
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
    pub(in crate::store) fn refill_reserve(&self) {
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
