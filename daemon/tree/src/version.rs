//! Versions: when something was written and by whom, in one order for all devices.
//!
//! A version is a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014):
//! milliseconds of the writer's clock, a counter within one, and the writer's number, so that no two writes
//! share one. What is written later by somebody who saw an earlier version sorts above it, whatever the
//! clocks say.

use crate::codec::{Malformed, Reader};

/// Bytes of a version.
pub const VERSION: usize = 16;

/// How far ahead of a device's clock a version may be for the device to go along with it, milliseconds.
///
/// One from further ahead came from a clock that is wrong. What replaces it sorts above it still, and nothing
/// else that the device writes goes that far.
pub const MAX_AHEAD_MS: u64 = 5 * 60 * 1000;

/// The last millisecond that a version can name, in the year 10889.
const LAST_MS: u64 = (1 << 48) - 1;

/// When something was written and by whom: `ms u48 ‖ counter u16 ‖ writer u64`, big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Unix milliseconds of the writer's clock, below 2^48.
    pub ms: u64,
    /// Tells apart what one clock wrote within a millisecond.
    pub counter: u16,
    /// The number that the writer drew.
    pub writer: u64,
}

impl Version {
    /// Before all that is written.
    pub const ZERO: Self = Self {
        ms: 0,
        counter: 0,
        writer: 0,
    };

    /// The 16 bytes, which sort as the version does.
    pub fn to_bytes(self) -> [u8; VERSION] {
        let time = self.ms.min(LAST_MS) << 16 | u64::from(self.counter);
        (u128::from(time) << 64 | u128::from(self.writer)).to_be_bytes()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (time, writer) = (reader.u64()?, reader.u64()?);
        Ok(Self {
            ms: time >> 16,
            counter: u16::try_from(time & 0xffff).unwrap_or_default(),
            writer,
        })
    }
}

/// The clock of one writer. What it gives for a key is above what the key had, so never the same twice.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    writer: u64,
    last: (u64, u16),
}

impl Clock {
    /// The clock of `writer`, whose newest version so far is `last`.
    pub fn new(writer: u64, last: Version) -> Self {
        Self {
            writer,
            last: (last.ms, last.counter),
        }
    }

    /// The same clock, of another number.
    pub(crate) fn under(self, writer: u64) -> Self {
        Self { writer, ..self }
    }

    /// Whose clock it is.
    pub fn writer(&self) -> u64 {
        self.writer
    }

    /// What it gives next is above this version, which it gave before.
    pub fn saw(&mut self, version: Version) {
        self.last = self.last.max((version.ms, version.counter));
    }

    /// The version of something written at `now_ms` in place of `newest`.
    pub fn next(&mut self, now_ms: u64, newest: Version) -> Version {
        let after = |(ms, counter): (u64, u16)| match counter.checked_add(1) {
            Some(counter) => (ms, counter),
            None => (ms.saturating_add(1), 0),
        };
        let now = (now_ms.min(LAST_MS), 0);
        // One that was far ahead and was put right goes by the time again.
        let was_wrong = self.last.0 > now_ms.saturating_add(MAX_AHEAD_MS);
        let mut next = if was_wrong { now } else { now.max(after(self.last)) };
        let replaced = (newest.ms, newest.counter);
        if newest.ms > now_ms.saturating_add(MAX_AHEAD_MS) {
            // The clock itself does not go along.
            let (ms, counter) = next.max(after(replaced));
            if next > replaced {
                self.last = next;
            }
            return self.version(ms, counter);
        }
        next = next.max((newest.ms.saturating_add(1), 0));
        self.last = next;
        self.version(next.0, next.1)
    }

    fn version(self, ms: u64, counter: u16) -> Version {
        Version {
            ms,
            counter,
            writer: self.writer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clock_that_is_wrong_does_not_spread() {
        let mut clock = Clock::new(7, Version::ZERO);
        let wrong = Version {
            ms: 4_000_000_000_000,
            counter: 3,
            writer: 9,
        };
        let next = clock.next(1000, wrong);
        assert_eq!((next.ms, next.counter, next.writer), (wrong.ms, 4, 7));
        assert_eq!(clock.next(1001, Version::ZERO).ms, 1001);
    }

    #[test]
    fn clock_that_is_put_right_goes_by_the_time() {
        let mut clock = Clock::new(7, Version::ZERO);
        assert_eq!(clock.next(4_000_000_000_000, Version::ZERO).ms, 4_000_000_000_000);
        assert_eq!(clock.next(1000, Version::ZERO).ms, 1000);
        // A little is made good by waiting.
        assert_eq!(
            (
                clock.next(900, Version::ZERO).ms,
                clock.next(900, Version::ZERO).counter
            ),
            (1000, 2)
        );
    }

    #[test]
    fn bytes_are_these() {
        let version = Version {
            ms: 0x0102_0304_0506,
            counter: 0x0708,
            writer: 0x090a_0b0c_0d0e_0f10,
        };
        assert_eq!(
            hex::encode(version.to_bytes()),
            "0102030405060708090a0b0c0d0e0f10"
        );
    }

    fn versions() -> impl Strategy<Value = Version> {
        (0..1u64 << 48, any::<u16>(), any::<u64>()).prop_map(|(ms, counter, writer)| Version {
            ms,
            counter,
            writer,
        })
    }

    proptest! {
        #[test]
        fn bytes_sort_as_versions_do(a in versions(), b in versions()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Version::read(&mut Reader(&a.to_bytes())), Ok(a));
        }

        /// With clocks that jump, and versions replaced that are from anywhere.
        #[test]
        fn later_sorts_above_what_it_replaces(
            steps in prop::collection::vec((0..1u64 << 47, 0..1u64 << 47, any::<u16>()), 1..40),
        ) {
            let mut clock = Clock::new(1, Version::ZERO);
            for (now, ms, counter) in steps {
                let newest = Version { ms, counter, writer: 2 };
                let next = clock.next(now, newest);
                prop_assert!(next > newest);
            }
        }
    }
}
