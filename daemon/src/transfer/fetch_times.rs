//! How long fetches of shards take, to know when one is late.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::format::manifest::MAX_SHARD_SIZE;

/// Remembers how long fetches took, to know when one is late.
pub(crate) struct FetchTimes {
    /// Decayed maximum in microseconds: close above the 95th percentile.
    late_after_us: AtomicU64,
    /// Shards asked for and not here yet, by all reads.
    asked: AtomicUsize,
}

/// A fetch under way, until dropped.
pub(super) struct UnderWay<'a>(&'a FetchTimes);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for FetchTimes {
    fn default() -> Self {
        Self {
            late_after_us: AtomicU64::new(500_000),
            asked: AtomicUsize::new(0),
        }
    }
}

impl FetchTimes {
    /// A fetch that took longer than 95 of 100 moves the mark up, the others let it sink (a stochastic
    /// quantile estimate: up by 19 parts for each part down).
    pub(super) fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mark = self.late_after_us.load(Ordering::Relaxed);
        let step = mark / 100 + 1;
        let next = if took > mark {
            mark + 19 * step
        } else {
            mark.saturating_sub(step)
        };
        self.late_after_us
            .store(next.clamp(20_000, 5_000_000), Ordering::Relaxed);
    }

    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// No shard is late before this side's own link could have brought all that were asked for: on a slow
    /// one, asking more peers would make everything later.
    pub(super) fn late_after(&self, config: &Config) -> Duration {
        let asked = self.asked.load(Ordering::Relaxed) as u64;
        let link = config
            .settings
            .link_time(asked.saturating_mul(u64::from(MAX_SHARD_SIZE)));
        link + Duration::from_micros(self.late_after_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_is_not_late_before_the_own_link_could_bring_what_was_asked_for() {
        let times = FetchTimes::default();
        let [free, slow] = ["", "link_rate = '1Mbit'"].map(Config::of);
        let mark = times.late_after(&free);
        assert_eq!(times.late_after(&slow), mark);
        let asked: Vec<_> = (0..4).map(|_| times.begin()).collect();
        assert_eq!(times.late_after(&free), mark);
        assert_eq!(times.late_after(&slow), mark + slow.settings.link_time(4 << 20));
        drop(asked);
        assert_eq!(times.late_after(&slow), mark);
    }
}
