//! How often a peer outdoes versions of its own contact that it did not make in this life.
//!
//! One from before a restart is outdone once. Two live daemons with one key answer each other: what one
//! outdoes, the other outdoes again. The first few times are free, then each time costs a longer pause, so
//! that neither they nor somebody who saved up old contacts can keep a ring busy.

use std::time::Duration;

use crate::Time;

/// Times without a pause.
const FREE: u32 = 8;
/// The first pause, doubled each time,
const PAUSE: Duration = Duration::from_secs(10);
/// up to this one.
const LONGEST: Duration = Duration::from_hours(1);
/// After so long without one everything is forgiven.
const FORGIVEN: Duration = Duration::from_hours(4);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Contest {
    times: u32,
    last: Time,
}

impl Contest {
    /// Whether the own version may be raised now; it counts as raised then.
    pub(super) fn may_rise(&mut self, now: Time) -> bool {
        let since = now.since(self.last);
        if since >= FORGIVEN {
            self.times = 0;
        }
        let doublings = self.times.saturating_sub(FREE).min(16);
        let pause = PAUSE.saturating_mul(1 << doublings).min(LONGEST);
        if self.times >= FREE && since < pause {
            return false;
        }
        self.times = self.times.saturating_add(1);
        self.last = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contest_that_goes_on_backs_off() {
        let mut contest = Contest::default();
        let risen = |contest: &mut Contest, from: u64, to: u64| {
            (from..to)
                .filter(|second| contest.may_rise(Time::from_micros(second * 1_000_000)))
                .count()
        };
        assert_eq!(risen(&mut contest, 0, 8), 8);
        assert!(risen(&mut contest, 8, 3600) <= 9);
        assert!(risen(&mut contest, 3600, 36_000) <= 10);
        let later = Time::from_micros(60_000 * 1_000_000);
        assert!(contest.may_rise(later));
        assert_eq!(contest.times, 1);
    }
}
