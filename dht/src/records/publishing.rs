//! A record of this writer goes to the holders of its set.
//!
//! It counts once a majority of the holders has it durably: of [`HOLDERS`], or of all peers that are not gone
//! where there are fewer. The rest is asked until the time-out, for as long as the ring counts a peer among
//! the living; who dies is replaced by the next peer from the id.
//!
//! A holder that has another record of this writer with the same sequence or a higher one says so. A writer's
//! own records only rise, so another device uses its number: a clone of its disk. Then the record does not
//! count, whoever has it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::asking::Asking;
use super::{HOLDERS, Stamp};
use crate::{Flaw, Peer, RingView, Time};

/// What a peer made of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publish {
    /// It has it, durably.
    Stored,
    /// It has these of the writer, which the writer did not send.
    Doubled(Vec<Stamp>),
    /// The key ended.
    Ended,
    /// It did not answer, or cannot take it now.
    Silent,
}

/// How it stands with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// A majority has it.
    Acknowledged,
    /// Too few have it so far.
    Short {
        /// Peers that have it.
        stored: usize,
        /// Peers that a majority is.
        needed: usize,
    },
    /// Another device uses this writer's number, and said this with it. It may turn out after a majority has
    /// the record.
    Doubled(Vec<Stamp>),
    /// The key ended.
    Ended,
}

/// See the module head.
#[derive(Debug)]
pub struct Publishing {
    known: usize,
    needed: usize,
    stored: BTreeSet<Peer>,
    asking: Asking,
    until: Time,
    doubled: Vec<Stamp>,
    ended: bool,
}

impl Publishing {
    /// Sends a record to the first of `near`, the living peers from the id that do not leave. `known` peers
    /// are not gone, this one and suspect ones included.
    pub fn new(now: Time, near: &[Peer], known: usize, timeout: Duration) -> Self {
        Self {
            known,
            needed: known.clamp(1, HOLDERS) / 2 + 1,
            stored: BTreeSet::new(),
            asking: Asking::new(now, near, HOLDERS),
            until: now + timeout,
            doubled: Vec::new(),
            ended: false,
        }
    }

    /// Plants a flaw.
    pub fn plant(&mut self, flaw: Option<Flaw>) {
        if Flaw::PublishToOne.is_planted(flaw) {
            self.needed = 1;
        }
    }

    /// The next peer to send it to. Ends with [`handle_answer`](Self::handle_answer).
    pub fn poll(&mut self, now: Time) -> Option<Peer> {
        self.asking.poll(now)
    }

    /// When to poll although nothing came.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.asking.poll_timeout()
    }

    /// A peer answered, or did not.
    pub fn handle_answer(&mut self, now: Time, ring: &impl RingView, from: Peer, answer: Publish) {
        if answer == Publish::Silent && now < self.until {
            return self.asking.was_silent(now, ring, from);
        }
        if !self.asking.answered(from) {
            return;
        }
        match answer {
            Publish::Stored => drop(self.stored.insert(from)),
            Publish::Silent => {}
            Publish::Doubled(stamps) => {
                self.doubled.extend(stamps);
                self.asking.end();
            }
            Publish::Ended => {
                self.ended = true;
                self.asking.end();
            }
        }
    }

    /// How many peers a majority is.
    pub fn needed(&self) -> usize {
        self.known.clamp(1, HOLDERS) / 2 + 1
    }

    /// How it stands.
    pub fn state(&self) -> Published {
        if self.ended {
            Published::Ended
        } else if !self.doubled.is_empty() {
            Published::Doubled(self.doubled.clone())
        } else if self.stored.len() >= self.needed {
            Published::Acknowledged
        } else {
            Published::Short {
                stored: self.stored.len(),
                needed: self.needed,
            }
        }
    }

    /// Whether nobody is asked any more. A record that counts may still be on its way to the rest.
    pub fn is_over(&self) -> bool {
        self.asking.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::peers;
    use crate::testing::Dead;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Drives it with what each peer answers, and says how often one was asked.
    fn drive(publishing: &mut Publishing, dead: &Dead, answer: impl Fn(Peer, Time) -> Publish) -> usize {
        let (mut now, mut asked) = (Time::ZERO, 0);
        while !publishing.is_over() {
            match publishing.poll(now) {
                Some(to) => {
                    asked += 1;
                    publishing.handle_answer(now, dead, to, answer(to, now));
                }
                None => now = publishing.poll_timeout().expect("something is to come"),
            }
        }
        asked
    }

    #[test]
    fn majority_counts_and_all_five_get_it() {
        let near = peers(8);
        let mut publishing = Publishing::new(Time::ZERO, &near, 30, TIMEOUT);
        for stored in 1..=5 {
            let peer = publishing.poll(Time::ZERO).unwrap();
            assert!(near[..5].contains(&peer));
            publishing.handle_answer(Time::ZERO, &Dead(vec![]), peer, Publish::Stored);
            let expected = if stored < 3 {
                Published::Short { stored, needed: 3 }
            } else {
                Published::Acknowledged
            };
            assert_eq!(
                (publishing.state(), publishing.is_over()),
                (expected, stored == 5)
            );
        }
    }

    #[test]
    fn fewer_peers_need_fewer() {
        for (known, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (100, 3)] {
            let publishing = Publishing::new(Time::ZERO, &peers(known.min(8)), known, TIMEOUT);
            assert_eq!(
                publishing.state(),
                Published::Short { stored: 0, needed },
                "{known} peers"
            );
        }
    }

    #[test]
    fn silent_peers_are_asked_until_the_time_out_and_dead_ones_replaced() {
        let near = peers(8);
        let says = |silent: usize| {
            let silent = near[..silent].to_vec();
            move |peer, _| {
                if silent.contains(&peer) {
                    Publish::Silent
                } else {
                    Publish::Stored
                }
            }
        };
        let mut publishing = Publishing::new(Time::ZERO, &near, 8, TIMEOUT);
        assert_eq!(drive(&mut publishing, &Dead(vec![]), says(3)), 2 + 3 * 21);
        assert_eq!(publishing.state(), Published::Short { stored: 2, needed: 3 });
        let mut publishing = Publishing::new(Time::ZERO, &near, 8, TIMEOUT);
        assert_eq!(drive(&mut publishing, &Dead(near[..3].to_vec()), says(3)), 5 + 3);
        assert_eq!(publishing.state(), Published::Acknowledged);
    }

    #[test]
    fn number_that_two_devices_use_ends_it() {
        let near = peers(5);
        let other = Stamp {
            writer: 1,
            sequence: 9,
            hash: [2; 32],
        };
        let mut publishing = Publishing::new(Time::ZERO, &near, 5, TIMEOUT);
        let doubled = |peer| {
            if peer == near[4] {
                Publish::Doubled(vec![other])
            } else {
                Publish::Stored
            }
        };
        let says = |peer, _| doubled(peer);
        drive(&mut publishing, &Dead(vec![]), says);
        assert_eq!(publishing.state(), Published::Doubled(vec![other]));
        let mut publishing = Publishing::new(Time::ZERO, &near, 5, TIMEOUT);
        assert_eq!(drive(&mut publishing, &Dead(vec![]), |_, _| Publish::Ended), 1);
        assert_eq!(publishing.state(), Published::Ended);
    }
}
