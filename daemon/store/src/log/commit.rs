//! The group commit, and what follows when it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, OnceLock};

use super::super::disk::DiskFile;
use super::super::segment::write_footer;
use super::{Inner, Log};

/// A group of so many bytes does not wait for a sync under way,
const BESIDE_BYTES: u64 = 1 << 20;
/// if there are fewer than so many.
const MAX_SYNCS: usize = 4;

/// Writers whose records one sync makes durable.
#[derive(Debug, Default)]
pub(crate) struct Group {
    outcome: OnceLock<Result<(), Arc<io::Error>>>,
}

impl Log {
    /// Waits until `group` is durable; syncs for it, and for everyone who wrote, if nobody does.
    pub(crate) fn settle(&self, group: &Group) -> Result<(), Arc<io::Error>> {
        let mut inner = self.lock();
        loop {
            if let Some(outcome) = group.outcome.get() {
                return outcome.clone();
            }
            // No outcome, and nobody's yet: it may still be joined, and be led by this writer.
            let open = std::ptr::eq(&raw const *inner.group, group);
            let syncing = inner.syncing.len();
            if open && (syncing == 0 || inner.group_bytes >= BESIDE_BYTES && syncing < MAX_SYNCS) {
                break;
            }
            inner = self.wait(inner);
        }
        let turn = inner.syncs_begun;
        inner.syncs_begun += 1;
        inner.syncing.insert(turn);
        inner.group_bytes = 0;
        let failures = inner.failures;
        let led = std::mem::take(&mut inner.group);
        let dirty = std::mem::take(&mut inner.dirty);
        drop(inner);
        let synced = dirty
            .values()
            .try_for_each(|(file, _)| self.sync(file.as_ref()))
            .map_err(Arc::new);
        let (mut inner, synced) = self.agree(turn, failures, dirty, synced);
        let durable: Vec<_> = durable_full(&mut inner);
        // Only the leader of a group sets its outcome.
        drop(led.outcome.set(synced.clone()));
        self.wake.notify_all();
        drop(inner);
        for id in durable {
            self.seal(id, &BTreeSet::new());
        }
        synced
    }

    /// The outcome of a sync once those beside it are known. The system may tell of a failure but once, to
    /// whichever of them ends first, so nobody believes a success before all have ended that were under way
    /// at its end. A failure counts at once: what was appended meanwhile may share pages with what failed.
    fn agree(
        &self,
        turn: u64,
        failures: u64,
        dirty: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
        synced: Result<(), Arc<io::Error>>,
    ) -> (MutexGuard<'_, Inner>, Result<(), Arc<io::Error>>) {
        let mut inner = self.lock();
        inner.syncing.remove(&turn);
        self.wake.notify_all();
        if let Err(error) = synced {
            inner.failures += 1;
            fail(&mut inner, dirty, &error);
            return (inner, Err(error));
        }
        let later = inner.syncs_begun;
        while inner.syncing.first().is_some_and(|first| *first < later) {
            inner = self.wait(inner);
        }
        if inner.failures > failures {
            let error = Arc::new(io::Error::other("a flush beside this one failed"));
            fail(&mut inner, dirty, &error);
            return (inner, Err(error));
        }
        for (id, (_, len)) in dirty {
            if let Some(segment) = inner.segments.get_mut(&id) {
                segment.synced = segment.synced.max(len);
            }
        }
        (inner, Ok(()))
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync()
    }

    /// Ends a segment that takes no more records. Should that fail, the next start after a crash scans it.
    pub(crate) fn seal(&self, id: u32, except: &BTreeSet<u64>) {
        let mut inner = self.lock();
        let Some(&segment) = inner.segments.get(&id) else {
            return;
        };
        let sequence = inner.next_sequence;
        inner.next_sequence += 1;
        drop(inner);
        let sealed = self
            .file(id)
            .and_then(|file| write_footer(file.as_ref(), segment.salt, segment.len, sequence, except));
        match sealed {
            Ok((trailer, len)) => {
                if let Some(segment) = self.lock().segments.get_mut(&id) {
                    segment.occupied += len - segment.len;
                    (segment.len, segment.synced) = (len, len);
                    segment.footer = Some(trailer.sequence);
                    segment.footer_bytes = len - trailer.footer_at;
                }
            }
            Err(error) => tracing::warn!(segment = id, %error, "segment left without a footer"),
        }
    }

    /// Refuses new operations, waits for those under way and ends the active segment. Returns the sequence of
    /// the last footer (0 without segments) and the number of shards; no sequence if that footer could not be
    /// written.
    pub(crate) fn close(&self) -> (Option<u64>, u64) {
        let mut inner = self.lock();
        inner.closed = true;
        self.wake.notify_all();
        while !inner.busy.is_empty() || !inner.syncing.is_empty() {
            inner = self.wait(inner);
        }
        let active = inner.active.take().map(|active| active.id);
        let full = std::mem::take(&mut inner.full);
        let marked = std::mem::take(&mut inner.marked);
        drop(inner);
        for id in marked {
            if let Err(error) = self.file(id).and_then(|file| file.sync()) {
                tracing::debug!(segment = id, %error, "dead records may come back should their removals be \
                    damaged");
            }
        }
        for id in full.into_iter().chain(active) {
            self.seal(id, &BTreeSet::new());
        }
        let inner = self.lock();
        let last = inner
            .segments
            .values()
            .next_back()
            .map_or(Some(0), |segment| segment.footer);
        (last, inner.shards + inner.tombstones)
    }
}

/// Full segments that have just become durable.
fn durable_full(inner: &mut Inner) -> Vec<u32> {
    let Inner { full, segments, .. } = inner;
    full.extract_if(.., |id| {
        segments
            .get(id)
            .is_none_or(|segment| segment.synced == segment.len)
    })
    .collect()
}

/// Fails the group that may still be joined along with the one whose sync failed: its records share the
/// segments.
fn fail(inner: &mut Inner, synced: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>, error: &Arc<io::Error>) {
    inner.group_bytes = 0;
    let joined = std::mem::take(&mut inner.group);
    drop(joined.outcome.set(Err(Arc::clone(error))));
    inner.active = None;
    let later = std::mem::take(&mut inner.dirty);
    for (id, (file, _)) in synced.into_iter().chain(later) {
        inner.full.remove(&id);
        inner.suspects.insert(id);
        let Some(segment) = inner.segments.get_mut(&id) else {
            continue;
        };
        if file.truncate(segment.synced).is_ok() {
            segment.occupied = segment.occupied.saturating_sub(segment.len - segment.synced);
            segment.len = segment.synced;
        }
    }
}
