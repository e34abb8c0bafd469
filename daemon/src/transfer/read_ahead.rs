//! The memory of all reads together: blocks that were fetched and that nobody has taken yet.
//!
//! Every block of a read has room [reserved](ReadAhead::reserve) before it is fetched, and gives it back when
//! its bytes are on their way to the client. A read waits only for the block it needs next, and only while it
//! holds no other; what it fetches beyond that it fetches when there is [room at
//! once](ReadAhead::try_reserve). So reads that wait never wait for each other.
//!
//! A reader that takes nothing gives its room back after [`HOLD`], or after [`GRACE`] when another read
//! [waits](ReadAhead::pressed) for room; it fetches again when its client goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// How long a reader that takes nothing keeps what was fetched for it.
const HOLD: Duration = Duration::from_secs(10);
/// The same while others wait for room.
const GRACE: Duration = Duration::from_millis(250);
/// What is reserved at once, bytes: a semaphore counts to 2^29 only.
const UNIT: u64 = 1024;

/// Room for the blocks of reads.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    room: Arc<Semaphore>,
    units: u32,
    waiting: AtomicUsize,
    pressure: Notify,
}

/// Room for one block, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ReadAhead {
    /// Room for `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, most);
        Self {
            room: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(1))),
            units,
            waiting: AtomicUsize::new(0),
            pressure: Notify::new(),
        }
    }

    /// What `bytes` take; a block larger than everything takes everything.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .clamp(1, self.units)
    }

    /// Waits for room for `bytes`. Whoever waits holds none.
    pub(crate) async fn reserve(&self, bytes: u64) -> Room {
        if let Some(room) = self.try_reserve(bytes) {
            return room;
        }
        let _waiting = Waiting::new(self);
        let permit = Arc::clone(&self.room).acquire_many_owned(self.units(bytes)).await;
        // The semaphore is never closed; without a permit the block would merely not be counted.
        Room { _permit: permit.ok() }
    }

    /// Room for `bytes`, if there is some that nobody waits for.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Room> {
        let permit = Arc::clone(&self.room)
            .try_acquire_many_owned(self.units(bytes))
            .ok()?;
        Some(Room {
            _permit: Some(permit),
        })
    }

    /// Returns when somebody waits for room.
    async fn pressed(&self) {
        loop {
            let pressure = self.pressure.notified();
            tokio::pin!(pressure);
            pressure.as_mut().enable();
            if self.waiting.load(Ordering::Acquire) > 0 {
                return;
            }
            pressure.await;
        }
    }

    /// Returns when a reader that takes nothing from now on has to give back its room.
    pub(crate) async fn patience(&self) {
        let asked_for = async {
            sleep(GRACE).await;
            self.pressed().await;
        };
        tokio::select! {
            () = sleep(HOLD) => {}
            () = asked_for => {}
        }
    }
}

/// Counts who waits.
struct Waiting<'a>(&'a ReadAhead);

impl<'a> Waiting<'a> {
    fn new(all: &'a ReadAhead) -> Self {
        all.waiting.fetch_add(1, Ordering::AcqRel);
        all.pressure.notify_waiters();
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::time::Instant;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn reader_that_takes_nothing_is_patient_until_others_wait() {
        let all = ReadAhead::new(4 * MIB);
        let begun = Instant::now();
        all.patience().await;
        assert_eq!(begun.elapsed(), HOLD);

        let held = all.reserve(4 * MIB).await;
        let next = all.reserve(MIB);
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        let begun = Instant::now();
        all.patience().await;
        assert_eq!(begun.elapsed(), GRACE.max(Duration::from_millis(1)));
        drop(held);
        let _next = next.await;
        let begun = Instant::now();
        all.patience().await;
        assert_eq!(begun.elapsed(), HOLD, "nobody waits any more");
    }

    #[tokio::test]
    async fn room_is_given_back_and_nobody_overtakes_who_waits() {
        let all = ReadAhead::new(4 * MIB);
        let first = all.try_reserve(3 * MIB).unwrap();
        assert!(all.try_reserve(2 * MIB).is_none());
        let waiting = all.reserve(4 * MIB);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(
            all.try_reserve(1).is_none(),
            "what is free is meant for who waits"
        );
        drop(first);
        let whole = waiting.await;
        assert!(all.try_reserve(1).is_none());
        drop(whole);
        assert!(
            all.try_reserve(100 * MIB).is_some(),
            "the largest block takes everything"
        );
    }
}
