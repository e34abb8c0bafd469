//! The sets of the first peers from an id are put together.
//!
//! A reader waits for all that are asked, but no longer than [`WAIT`] once one has answered. A *full* reading
//! waits for all of them until the time-out, and fails without one: what follows from it cannot be taken
//! back.

use std::time::Duration;

use super::asking::Asking;
use super::{ASKED, HOLDERS};
use crate::{Flaw, Peer, RingView, Time};

/// How long a reader waits for more answers than it has.
const WAIT: Duration = Duration::from_secs(1);

/// How it stands with a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// It goes on.
    Open,
    /// What came counts, from so many peers.
    Done(usize),
    /// It does not count: these did not answer.
    Silent(Vec<Peer>),
}

/// See the module head.
#[derive(Debug)]
pub struct Gathering {
    begun: Time,
    until: Time,
    full: bool,
    answered: usize,
    asking: Asking,
}

impl Gathering {
    /// Asks the first of `near`, the living peers from the id.
    pub fn new(now: Time, near: &[Peer], full: bool, timeout: Duration, flaw: Option<Flaw>) -> Self {
        let asked = if Flaw::AskHoldersAlone.is_planted(flaw) {
            HOLDERS
        } else {
            ASKED
        };
        Self {
            begun: now,
            until: now + timeout,
            full: full && !Flaw::FullReadOfSome.is_planted(flaw),
            answered: 0,
            asking: Asking::new(now, near, asked),
        }
    }

    /// The next peer to ask. Ends with [`handle_answer`](Self::handle_answer).
    pub fn poll(&mut self, now: Time) -> Option<Peer> {
        self.asking.poll(now)
    }

    /// When to poll, or to look how it stands, although nothing came.
    pub fn poll_timeout(&self) -> Time {
        let end = self.end();
        self.asking.poll_timeout().map_or(end, |at| at.min(end))
    }

    fn end(&self) -> Time {
        if self.full || self.answered == 0 {
            self.until
        } else {
            self.begun + WAIT
        }
    }

    /// A peer has said what it has (`said`), or did not answer.
    pub fn handle_answer(&mut self, now: Time, ring: &impl RingView, from: Peer, said: bool) {
        if said {
            self.answered += usize::from(self.asking.answered(from));
        } else {
            self.asking.was_silent(now, ring, from);
        }
    }

    /// How it stands.
    pub fn state(&self, now: Time) -> Gathered {
        let all = self.asking.is_over();
        if !all && now < self.end() {
            Gathered::Open
        } else if self.answered == 0 || self.full && !all {
            Gathered::Silent(self.asking.silent().collect())
        } else {
            Gathered::Done(self.answered)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::peers;
    use crate::testing::Dead;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Drives it: these are silent, all others answer. When it ended, and how.
    fn ended(near: &[Peer], full: bool, dead: &Dead, silent: &[Peer]) -> (Duration, Gathered) {
        let mut gathering = Gathering::new(Time::ZERO, near, full, TIMEOUT, None);
        let mut now = Time::ZERO;
        while gathering.state(now) == Gathered::Open {
            match gathering.poll(now) {
                Some(from) => gathering.handle_answer(now, dead, from, !silent.contains(&from)),
                None => now = gathering.poll_timeout(),
            }
        }
        (now.since(Time::ZERO), gathering.state(now))
    }

    #[test]
    fn eight_answers_are_waited_for_a_second() {
        let near = peers(12);
        let all_live = Dead(vec![]);
        let at_once = (Duration::ZERO, Gathered::Done(8));
        assert_eq!(ended(&near, false, &all_live, &[]), at_once);
        assert_eq!(ended(&near, true, &all_live, &[]), at_once);
        assert_eq!(
            ended(&near, false, &all_live, &near[..3]),
            (WAIT, Gathered::Done(5))
        );
        assert_eq!(
            ended(&near, true, &all_live, &near[2..3]),
            (TIMEOUT, Gathered::Silent(near[2..3].to_vec()))
        );
        // Not one: longer than a second.
        let (time, state) = ended(&near, false, &all_live, &near);
        assert!(time == TIMEOUT && matches!(state, Gathered::Silent(silent) if silent.len() == 8));
    }

    #[test]
    fn the_dead_are_replaced_while_there_are_others() {
        let near = peers(12);
        let dead = Dead(near[..3].to_vec());
        assert_eq!(
            ended(&near, true, &dead, &near[..3]),
            (Duration::ZERO, Gathered::Done(8))
        );
        let few = peers(4);
        let dead = Dead(few[..3].to_vec());
        assert_eq!(
            ended(&few, true, &dead, &few[..3]),
            (Duration::ZERO, Gathered::Done(1))
        );
    }
}
