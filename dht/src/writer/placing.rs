//! The shards of one stripe go to distinct peers, in the order of its policy.
//!
//! Each shard is sent to the next candidate; who refuses, is full or falls silent is replaced by the one
//! after it. When no candidate is left, the driver looks for more, every [`AGAIN`] until [`Patience`] ends;
//! who was silent or busy may be asked again then.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{Patience, Placed, SPARE};
use crate::{Contact, Peer, PeerState, Time};

/// Between two looks for holders when there are too few.
const AGAIN: Duration = Duration::from_millis(250);

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Find so many peers that the stripe's policy names, best first. Ends with
    /// [`handle_candidates`](Placing::handle_candidates).
    Find(usize),
    /// Store the shard with this index at a peer. Ends with [`handle_answer`](Placing::handle_answer).
    Store {
        /// Which of the n shards.
        index: u8,
        /// The peer that is to hold it.
        to: Contact,
    },
}

/// What a peer said to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is durable there.
    Stored,
    /// It takes this shard for none, or nothing from this peer: the next one, please.
    Refused,
    /// It, or this side, could not do it now.
    Busy,
    /// Its disk failed.
    Broken,
    /// It has no room.
    Full,
    /// Nothing. It may hold the shard all the same, pending.
    Silent,
}

/// Why shards were not placed, as far as it is not that peers are away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// A peer refused for want of space, and none for another reason.
    pub no_space: bool,
    /// So many peers' disks failed.
    pub broken_disks: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Candidates are to be found.
    Find,
    /// The driver looks for them.
    Finding,
    /// Shards are on their way, or go there.
    Storing,
    /// There are too few: the next look is at this time.
    Resting(Time),
    Over,
}

/// See the module head.
#[derive(Debug)]
pub struct Placing {
    placed: Placed,
    /// Indices without a holder, the next one first.
    left: VecDeque<u8>,
    queue: VecDeque<Contact>,
    tried: BTreeSet<Peer>,
    /// Who was silent or busy: to be asked again.
    later: Vec<Peer>,
    in_flight: usize,
    /// Whether anybody was asked since the last look for candidates.
    asked: bool,
    broken: BTreeSet<Peer>,
    no_space: bool,
    /// Peers that are away, or said no for a reason that passes, may take a shard later.
    may_return: bool,
    stage: Stage,
}

impl Placing {
    /// Places what is missing of a stripe. `may_return` says whether peers are away that may come back.
    pub fn new(placed: Placed, may_return: bool) -> Self {
        let left: VecDeque<u8> = placed.missing().into();
        Self {
            stage: if left.is_empty() { Stage::Over } else { Stage::Find },
            tried: placed.holders.iter().map(|(_, peer)| *peer).collect(),
            placed,
            left,
            queue: VecDeque::new(),
            later: Vec::new(),
            in_flight: 0,
            asked: false,
            broken: BTreeSet::new(),
            no_space: false,
            may_return,
        }
    }

    /// The next thing to do. `patience` is the put's.
    pub fn poll(&mut self, now: Time, patience: &mut Patience) -> Option<Place> {
        loop {
            match self.stage {
                Stage::Find => {
                    self.stage = Stage::Finding;
                    self.asked = false;
                    return Some(Place::Find(usize::from(self.placed.n) + SPARE + self.tried.len()));
                }
                Stage::Resting(until) if now >= until => {
                    for peer in self.later.drain(..) {
                        self.tried.remove(&peer);
                    }
                    self.stage = Stage::Find;
                }
                Stage::Storing => {
                    if let Some(store) = self.next_store() {
                        return Some(store);
                    }
                    if self.in_flight > 0 {
                        return None;
                    }
                    self.stage = if self.left.is_empty() || !self.asked && self.ends(now, patience) {
                        Stage::Over
                    } else if self.asked {
                        Stage::Find
                    } else {
                        Stage::Resting(now + AGAIN)
                    };
                }
                Stage::Finding | Stage::Resting(_) | Stage::Over => return None,
            }
        }
    }

    fn next_store(&mut self) -> Option<Place> {
        while !self.left.is_empty() {
            let to = self.queue.pop_front()?;
            if self.tried.insert(to.peer)
                && let Some(index) = self.left.pop_front()
            {
                self.in_flight += 1;
                self.asked = true;
                return Some(Place::Store { index, to });
            }
        }
        None
    }

    /// Whether to look no more. Full disks do not empty while a put waits.
    fn ends(&self, now: Time, patience: &mut Patience) -> bool {
        self.no_space && !self.may_return || now >= patience.until(now)
    }

    /// When to poll although nothing came.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Resting(until) => Some(until),
            Stage::Find | Stage::Finding | Stage::Storing | Stage::Over => None,
        }
    }

    /// Peers that the policy names, best first. Who leaves takes nothing; those that said they are full come
    /// last, for they may have room again.
    pub fn handle_candidates(&mut self, mut found: Vec<Contact>) {
        if self.stage == Stage::Finding {
            found.retain(|contact| {
                contact.state != PeerState::Draining && !self.tried.contains(&contact.peer)
            });
            found.sort_by_key(|contact| contact.state);
            self.queue = found.into();
            self.stage = Stage::Storing;
        }
    }

    /// What came of storing a shard at a peer: each [`Place::Store`] ends once.
    pub fn handle_answer(&mut self, index: u8, peer: Peer, answer: Answer) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.no_space |= answer == Answer::Full;
        self.may_return |= !matches!(answer, Answer::Full | Answer::Stored);
        match answer {
            Answer::Stored => return self.placed.holders.push((index, peer)),
            Answer::Silent | Answer::Busy => self.later.push(peer),
            Answer::Broken => drop(self.broken.insert(peer)),
            Answer::Refused | Answer::Full => {}
        }
        self.left.push_front(index);
    }

    /// Whether all shards have holders, or no more are looked for.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The stripe with the holders it has, and why there are not more.
    pub fn into_outcome(self) -> (Placed, Lacking) {
        let lacking = !self.left.is_empty();
        let why = Lacking {
            no_space: lacking && self.no_space && !self.may_return,
            broken_disks: if lacking { self.broken.len() } else { 0 },
        };
        (self.placed, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;
    use crate::testing::{contact, peer};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn placing(k: u8, n: u8, may_return: bool) -> (Placing, Patience) {
        let placed = Placed {
            stripe: Id::default(),
            k,
            n,
            holders: Vec::new(),
        };
        (Placing::new(placed, may_return), Patience::new(PATIENCE))
    }

    fn candidates(numbers: impl IntoIterator<Item = usize>) -> Vec<Contact> {
        let contacts = numbers.into_iter().map(|number| contact(number, 1, 1));
        contacts.collect()
    }

    /// Drives it: who is there by now, and what each says. Returns how long it took.
    fn drive(
        placing: &mut Placing,
        patience: &mut Patience,
        found: impl Fn(Time) -> Vec<Contact>,
        answer: impl Fn(Time, Peer) -> Answer,
    ) -> Duration {
        let mut now = Time::ZERO;
        while !placing.is_over() {
            match placing.poll(now, patience) {
                Some(Place::Find(_)) => placing.handle_candidates(found(now)),
                Some(Place::Store { index, to }) => {
                    placing.handle_answer(index, to.peer, answer(now, to.peer));
                }
                None if placing.is_over() => {}
                None => now = placing.poll_timeout().expect("something is to come"),
            }
        }
        now.since(Time::ZERO)
    }

    #[test]
    fn shards_go_to_candidates_in_order() {
        let (mut placing, mut patience) = placing(2, 3, false);
        let took = drive(
            &mut placing,
            &mut patience,
            |_| candidates(0..7),
            |_, _| Answer::Stored,
        );
        assert_eq!(took, Duration::ZERO);
        let expected: Vec<(u8, Peer)> = (0..3).map(|index| (index, peer(usize::from(index)))).collect();
        assert_eq!(placing.into_outcome().0.holders, expected);
    }

    #[test]
    fn who_fails_is_replaced_by_the_next() {
        let (mut placing, mut patience) = placing(2, 3, false);
        let answer = |_, at| match at {
            at if at == peer(0) => Answer::Broken,
            at if at == peer(1) => Answer::Full,
            at if at == peer(2) => Answer::Silent,
            _ => Answer::Stored,
        };
        drive(&mut placing, &mut patience, |_| candidates(0..7), answer);
        let (placed, why) = placing.into_outcome();
        let holders: BTreeSet<Peer> = placed.holders.iter().map(|(_, peer)| *peer).collect();
        assert_eq!(holders, (3..6).map(peer).collect());
        assert!(placed.missing().is_empty());
        assert_eq!(why, Lacking::default());
    }

    #[test]
    fn full_disks_end_it_at_once_unless_somebody_is_away() {
        let full = |_, at| {
            if at == peer(0) {
                Answer::Stored
            } else {
                Answer::Full
            }
        };
        for (away, took) in [(false, Duration::ZERO), (true, PATIENCE)] {
            let (mut placing, mut patience) = placing(2, 3, away);
            assert_eq!(
                drive(&mut placing, &mut patience, |_| candidates(0..3), full),
                took
            );
            assert_eq!(placing.into_outcome().1.no_space, !away);
        }
    }

    #[test]
    fn silent_or_busy_peer_is_asked_again() {
        for answer in [Answer::Silent, Answer::Busy] {
            let (mut placing, mut patience) = placing(2, 3, false);
            let back = Time::ZERO + Duration::from_secs(2);
            let says = |now, at| {
                if at == peer(2) && now < back {
                    answer
                } else {
                    Answer::Stored
                }
            };
            let took = drive(&mut placing, &mut patience, |_| candidates(0..3), says);
            assert!((Duration::from_secs(2)..PATIENCE).contains(&took), "{took:?}");
            assert_eq!(placing.into_outcome().0.holders.len(), 3);
        }
    }

    #[test]
    fn newcomer_takes_what_nobody_else_does() {
        let (mut placing, mut patience) = placing(2, 3, false);
        let there = |now: Time| {
            candidates(
                0..if now.since(Time::ZERO) < PATIENCE / 2 {
                    2
                } else {
                    3
                },
            )
        };
        assert!(drive(&mut placing, &mut patience, there, |_, _| Answer::Stored) >= PATIENCE / 2);
        assert_eq!(placing.into_outcome().0.holders.len(), 3);
    }

    #[test]
    fn stripes_of_one_put_wait_once() {
        let (mut first, mut patience) = placing(2, 3, false);
        drive(
            &mut first,
            &mut patience,
            |_| candidates(0..2),
            |_, _| Answer::Stored,
        );
        let (mut second, _) = placing(2, 3, false);
        let now = Time::ZERO + PATIENCE;
        assert_eq!(second.poll(now, &mut patience), Some(Place::Find(7)));
        second.handle_candidates(Vec::new());
        assert_eq!(second.poll(now, &mut patience), None);
        assert!(second.is_over());
    }

    #[test]
    fn who_leaves_is_not_asked_and_who_is_full_last() {
        let (mut placing, mut patience) = placing(1, 2, false);
        let mut all = candidates(0..4);
        for (contact, state) in all.iter_mut().zip([PeerState::Full, PeerState::Draining]) {
            contact.state = state;
        }
        drive(
            &mut placing,
            &mut patience,
            |_| all.clone(),
            |_, _| Answer::Stored,
        );
        assert_eq!(placing.into_outcome().0.holders, [(0, peer(2)), (1, peer(3))]);
    }
}
