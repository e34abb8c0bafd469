//! The rate of this peer's network link: one token bucket for what it sends, one for what it receives.
//!
//! The virtual scheduling form of the generic cell rate algorithm (ITU-T I.371, annex A): all a bucket
//! remembers is when it will be full again. Every frame of every connection goes through in pieces of at most
//! [`Bucket::piece`] bytes.
//!
//! Invariants:
//! * In any time `t`, at most `burst + rate · t` bytes pass.
//! * Class rpc goes first: a piece of it waits for the rate and for rpc before it, never for shards that
//!   wait.
//! * In each class, first come, first served. A connection has one piece at a time in the bucket, so those
//!   that are busy share the rate evenly, and what waits is bounded by the connections.
//! * Only the first of each class waits for tokens, the others for their turn, and tokens are taken when the
//!   wait is over: whoever is dropped while it waits leaves nothing to give back.
//!
//! Not the crate `governor`: it has neither turns nor classes (a waiter sleeps and tries again, and the
//! smallest wins), and it runs on its own clock, not on tokio's, which tests can stop.

use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Class;

/// Bounds of a piece, in bytes; between them 2 ms of the rate.
const PIECE: (u64, u64) = (4 * 1024, 64 * 1024);
/// The least burst, in bytes.
const BURST: u64 = 64 * 1024;
/// The burst is at least a piece and this part of a second: timers are late by milliseconds, and what they
/// lose has to be made good.
const SLACK: u64 = 128;

/// Both directions.
#[derive(Debug)]
pub(super) struct LinkRate {
    pub(super) sending: Bucket,
    pub(super) receiving: Bucket,
}

impl LinkRate {
    /// `rate` bytes per second each way.
    pub(super) fn new(rate: u64) -> Self {
        Self {
            sending: Bucket::new(rate),
            receiving: Bucket::new(rate),
        }
    }
}

/// One direction. Full in the beginning.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes per second.
    rate: u64,
    piece: u64,
    /// What a full bucket holds, as the time it takes to fill.
    depth: Duration,
    level: StdMutex<Level>,
    /// Whose turn it is, in the order of asking.
    rpc: Mutex<()>,
    shards: Mutex<()>,
}

#[derive(Debug)]
struct Level {
    /// When the bucket is full if nothing more is taken.
    full: Instant,
    /// Bytes of class rpc that wait.
    rpc: u64,
}

/// Bytes of class rpc that wait, until dropped.
struct Waiting<'a> {
    bucket: &'a Bucket,
    bytes: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.bucket.with(|level| level.rpc -= self.bytes);
    }
}

impl Bucket {
    pub(super) fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        let piece = (rate / 512).clamp(PIECE.0, PIECE.1);
        let burst = (piece + rate / SLACK).max(BURST);
        Self {
            rate,
            piece,
            depth: cost(burst, rate),
            level: StdMutex::new(Level {
                full: Instant::now(),
                rpc: 0,
            }),
            rpc: Mutex::new(()),
            shards: Mutex::new(()),
        }
    }

    /// Bytes to take at once at most.
    pub(super) fn piece(&self) -> usize {
        usize::try_from(self.piece).unwrap_or(usize::MAX)
    }

    /// Waits until `bytes`, at most a piece, may pass. Dropping the future gives up the place and costs
    /// nothing.
    pub(super) async fn take(&self, bytes: usize, class: Class) {
        let bytes = (bytes as u64).min(self.piece);
        let waiting = match class {
            Class::Rpc => {
                self.with(|level| level.rpc += bytes);
                Some(Waiting { bucket: self, bytes })
            }
            Class::Shards => None,
        };
        let turn = match class {
            Class::Rpc => self.rpc.lock().await,
            Class::Shards => self.shards.lock().await,
        };
        while let Err(again) = self.try_take(bytes, class) {
            sleep_until(again).await;
        }
        drop((waiting, turn));
    }

    /// Takes `bytes` now, or says when to try again.
    fn try_take(&self, bytes: u64, class: Class) -> Result<(), Instant> {
        let now = Instant::now();
        self.with(|level| {
            let from = level.full.max(now);
            let first = match class {
                Class::Rpc => 0,
                Class::Shards => level.rpc,
            };
            let full = from + cost(bytes + first, self.rate);
            let latest = now + self.depth;
            if full > latest {
                return Err(now + (full - latest));
            }
            level.full = from + cost(bytes, self.rate);
            Ok(())
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Level) -> T) -> T {
        work(&mut self.level.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long `bytes` take to flow in, rounded up.
fn cost(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000).div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt as _;
    use futures::future::join_all;
    use rand::RngExt as _;
    use tokio::time::sleep;

    use super::*;

    /// 1 Mbit/s.
    const RATE: u64 = 125_000;

    type Passed = Arc<StdMutex<Vec<(Instant, u64)>>>;

    /// Takes what may pass now.
    fn drain(bucket: &Bucket, bytes: usize, class: Class) -> u64 {
        let mut taken = 0;
        while bucket.take(bytes, class).now_or_never().is_some() {
            taken += bytes as u64;
        }
        taken
    }

    fn passed_by(passed: &Passed) -> u64 {
        passed.lock().unwrap().iter().map(|(_, bytes)| bytes).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_of_time_passes_more_than_burst_and_rate_and_none_is_wasted() {
        for rate in [RATE, 12_500_000, 1_250_000_000] {
            let bucket = Bucket::new(rate);
            let passed = Passed::default();
            let begun = Instant::now();
            let take = async |class| {
                let bytes = rand::rng().random_range(1..=bucket.piece());
                bucket.take(bytes, class).await;
                passed.lock().unwrap().push((Instant::now(), bytes as u64));
            };
            let shards = join_all((0..4).map(|_| async {
                for _ in 0..300 {
                    take(Class::Shards).await;
                }
            }));
            let calls = async {
                loop {
                    take(Class::Rpc).await;
                    sleep(cost(bucket.piece, rate) * 3).await;
                }
            };
            tokio::select! {
                _ = shards => {}
                () = calls => {}
            }
            let burst = cost(BURST.max(bucket.piece + rate / SLACK), rate);
            let passed = passed.lock().unwrap();
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (until, bytes) in &passed[first..] {
                    sum += bytes;
                    // Each cost is rounded up, so the sum of them is no less than the cost of the sum.
                    assert!(cost(sum, rate) <= burst + (*until - *from) + Duration::from_nanos(1));
                }
            }
            // Somebody waited nearly all the time, so nearly all of the rate was used.
            let total: u64 = passed.iter().map(|(_, bytes)| bytes).sum();
            let busy = begun.elapsed();
            assert!(cost(total, rate) >= busy.mul_f64(0.9), "{total} in {busy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_share_the_rate_evenly() {
        let bucket = Arc::new(Bucket::new(RATE));
        drain(&bucket, 1024, Class::Shards);
        let counts: Vec<Arc<AtomicU64>> = (0..3).map(|_| Arc::default()).collect();
        for count in &counts {
            let (bucket, count) = (Arc::clone(&bucket), Arc::clone(count));
            tokio::spawn(async move {
                loop {
                    bucket.take(bucket.piece(), Class::Shards).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sleep(Duration::from_mins(1)).await;
        let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 100 && most - least <= 1, "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn rpc_waits_for_a_piece_of_shards_at_most() {
        let bucket = Arc::new(Bucket::new(RATE));
        let passed = Passed::default();
        for _ in 0..50 {
            let (bucket, passed) = (Arc::clone(&bucket), Arc::clone(&passed));
            tokio::spawn(async move {
                loop {
                    bucket.take(bucket.piece(), Class::Shards).await;
                    passed.lock().unwrap().push((Instant::now(), bucket.piece));
                }
            });
        }
        sleep(Duration::from_secs(5)).await;
        for _ in 0..20 {
            let before = passed_by(&passed);
            bucket.take(bucket.piece(), Class::Rpc).await;
            assert!(passed_by(&passed) - before <= bucket.piece);
            sleep(Duration::from_millis(333)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_dropped_while_it_waits_costs_nothing() {
        let bucket = Bucket::new(RATE);
        let piece = bucket.piece();
        for class in [Class::Shards, Class::Rpc] {
            drain(&bucket, piece, class);
            let full = bucket.with(|level| level.full);
            for _ in 0..100 {
                assert_eq!(bucket.take(piece, class).now_or_never(), None);
            }
            assert_eq!(bucket.with(|level| (level.full, level.rpc)), (full, 0));
            let begun = Instant::now();
            bucket.take(piece, class).await;
            assert!(begun.elapsed() <= cost(bucket.piece, RATE) + Duration::from_millis(2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_bucket_fills_up_to_the_burst_and_not_beyond() {
        let bucket = Bucket::new(RATE);
        for _ in 0..3 {
            assert_eq!(drain(&bucket, 1024, Class::Shards), BURST);
            sleep(Duration::from_mins(10)).await;
        }
    }
}
