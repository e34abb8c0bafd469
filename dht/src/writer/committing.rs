//! The holders of all stripes of a put make their shards permanent.
//!
//! Every holder is asked until it answers, the write time-out is over, or the ring counts it as dead. What it
//! does not confirm counts as lost, and is made good from the other shards where k of them are found, at most
//! [`ROUNDS`] times. The put is a file if each stripe has enough confirmed shards then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Placed;
use crate::{Flaw, Id, Peer, RingView, Time};

/// Between two questions to a holder that did not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Times that lost shards are made good.
const ROUNDS: usize = 3;
/// Stripes made good at the same time.
const AT_ONCE: usize = 3;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Have a holder commit what it holds of these stripes. Ends with
    /// [`handle_answer`](Committing::handle_answer).
    Ask {
        /// The holder.
        to: Peer,
        /// Stripes of the put.
        stripes: Vec<Id>,
    },
    /// Rebuild the missing shards of this stripe from the others and place them, pending. Ends with
    /// [`handle_completed`](Committing::handle_completed).
    Complete(Placed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asking,
    /// Which stripe is looked at next, and how many are being made good.
    Completing {
        next: usize,
        on_their_way: usize,
    },
    Over,
}

/// See the module head.
#[derive(Debug)]
pub struct Committing {
    stripes: Vec<Placed>,
    positions: BTreeMap<Id, usize>,
    /// What each holder has yet to confirm.
    asked: BTreeMap<Peer, BTreeSet<Id>>,
    /// When to ask whom: nobody who is being asked.
    due: BTreeSet<(Time, Peer)>,
    /// Holders found while shards were made good.
    added: BTreeMap<Peer, BTreeSet<Id>>,
    degraded: bool,
    write_timeout: Duration,
    until: Time,
    round: usize,
    stage: Stage,
}

impl Committing {
    /// Commits `stripes` with their holders, and with `held`, who hold anything else of them, such as a
    /// locator. With `degraded` k shards of each are enough.
    pub fn new(
        now: Time,
        stripes: Vec<Placed>,
        mut held: BTreeMap<Peer, BTreeSet<Id>>,
        degraded: bool,
        write_timeout: Duration,
    ) -> Self {
        for placed in &stripes {
            for (_, peer) in &placed.holders {
                held.entry(*peer).or_default().insert(placed.stripe);
            }
        }
        let positions = stripes.iter().enumerate();
        let mut committing = Self {
            positions: positions.map(|(at, placed)| (placed.stripe, at)).collect(),
            stripes,
            asked: BTreeMap::new(),
            due: BTreeSet::new(),
            added: BTreeMap::new(),
            degraded,
            write_timeout,
            until: now,
            round: 0,
            stage: Stage::Asking,
        };
        committing.ask(now, held);
        committing
    }

    /// Plants a flaw.
    pub fn plant(&mut self, flaw: Option<Flaw>) {
        if Flaw::AcknowledgeEarly.is_planted(flaw) {
            self.stage = Stage::Over;
        }
    }

    fn ask(&mut self, now: Time, held: BTreeMap<Peer, BTreeSet<Id>>) {
        self.due = held.keys().map(|peer| (now, *peer)).collect();
        self.asked = held;
        self.until = now + self.write_timeout;
        self.stage = Stage::Asking;
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Time) -> Option<Commit> {
        loop {
            match self.stage {
                Stage::Asking if self.asked.is_empty() => {
                    self.stage = if self.round < ROUNDS {
                        self.round += 1;
                        Stage::Completing {
                            next: 0,
                            on_their_way: 0,
                        }
                    } else {
                        Stage::Over
                    };
                }
                Stage::Asking => {
                    let (at, to) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
                    self.due.remove(&(at, to));
                    let stripes = self.asked.get(&to).into_iter().flatten().copied().collect();
                    return Some(Commit::Ask { to, stripes });
                }
                Stage::Completing { next, on_their_way } => {
                    let incomplete = |placed: &Placed| placed.holders.len() < usize::from(placed.n);
                    let mut rest = self.stripes.iter().enumerate().skip(next);
                    let found = rest.find(|(_, placed)| incomplete(placed));
                    match found.filter(|_| on_their_way < AT_ONCE) {
                        Some((at, placed)) => {
                            self.stage = Stage::Completing {
                                next: at + 1,
                                on_their_way: on_their_way + 1,
                            };
                            return Some(Commit::Complete(placed.clone()));
                        }
                        None if on_their_way > 0 => return None,
                        None if self.added.is_empty() => self.stage = Stage::Over,
                        None => {
                            let added = std::mem::take(&mut self.added);
                            self.ask(now, added);
                        }
                    }
                }
                Stage::Over => return None,
            }
        }
    }

    /// When to poll although nothing came.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at).filter(|_| !self.is_over())
    }

    /// What a holder confirms and denies; about stripes not named it is asked again, while it lives and there
    /// is time.
    pub fn handle_answer(&mut self, now: Time, ring: &impl RingView, from: Peer, answer: &[(Id, bool)]) {
        let Some(mut asked) = self.asked.remove(&from) else {
            return;
        };
        for (stripe, held) in answer {
            if asked.remove(stripe) && !held {
                self.lose(from, *stripe);
            }
        }
        if asked.is_empty() {
            return;
        }
        if now >= self.until || !ring.is_alive(from) {
            for stripe in asked {
                self.lose(from, stripe);
            }
        } else {
            self.asked.insert(from, asked);
            self.due.insert((now + AGAIN, from));
        }
    }

    fn lose(&mut self, peer: Peer, stripe: Id) {
        let at = self.positions.get(&stripe);
        if let Some(placed) = at.and_then(|at| self.stripes.get_mut(*at)) {
            placed.holders.retain(|(_, holder)| *holder != peer);
        }
    }

    /// A stripe with the holders it has after the attempt to make it good.
    pub fn handle_completed(&mut self, completed: Placed) {
        let Stage::Completing { on_their_way, .. } = &mut self.stage else {
            return;
        };
        *on_their_way = on_their_way.saturating_sub(1);
        let at = self.positions.get(&completed.stripe);
        let Some(placed) = at.and_then(|at| self.stripes.get_mut(*at)) else {
            return;
        };
        for holder in completed.holders {
            if !placed.holders.contains(&holder) {
                self.added.entry(holder.1).or_default().insert(placed.stripe);
                placed.holders.push(holder);
            }
        }
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The stripes, each with who confirmed its shards, or one that too few confirmed: then the put is to be
    /// discarded. Nothing is confirmed before it is over.
    pub fn into_outcome(self) -> Result<Vec<Placed>, Placed> {
        let short = |placed: &&Placed| !self.is_over() || !placed.is_enough(self.degraded);
        match self.stripes.iter().find(short) {
            Some(short) => Err(short.clone()),
            None => Ok(self.stripes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dead, peer};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn stripe(number: u8) -> Id {
        Id::new([number; 32])
    }

    /// `count` stripes of 2 + 1 shards, each with peers 1 to 3.
    fn committing(count: u8) -> Committing {
        let placed = |number| Placed {
            stripe: stripe(number),
            k: 2,
            n: 3,
            holders: (0..3)
                .map(|index| (index, peer(usize::from(index) + 1)))
                .collect(),
        };
        let all: BTreeSet<Id> = (0..count).map(stripe).collect();
        let held = (1..4).map(|number| (peer(number), all.clone())).collect();
        Committing::new(Time::ZERO, (0..count).map(placed).collect(), held, false, TIMEOUT)
    }

    /// Drives it with what each holder says of a stripe, none being silence, and with who takes a rebuilt
    /// shard. Returns how often holders were asked.
    fn drive(
        committing: &mut Committing,
        dead: &Dead,
        says: impl Fn(Peer, Id) -> Option<bool>,
        taker: Option<Peer>,
    ) -> usize {
        let (mut now, mut questions) = (Time::ZERO, 0);
        while !committing.is_over() {
            match committing.poll(now) {
                Some(Commit::Ask { to, stripes }) => {
                    questions += 1;
                    let answer = stripes.iter();
                    let answer: Vec<(Id, bool)> = answer
                        .filter_map(|stripe| Some((*stripe, says(to, *stripe)?)))
                        .collect();
                    committing.handle_answer(now, dead, to, &answer);
                }
                Some(Commit::Complete(mut placed)) => {
                    if let (Some(taker), Some(index)) = (taker, placed.missing().first()) {
                        placed.holders.push((*index, taker));
                    }
                    committing.handle_completed(placed);
                }
                None if committing.is_over() => {}
                None => now = committing.poll_timeout().expect("something is to come"),
            }
        }
        questions
    }

    #[test]
    fn each_holder_is_asked_once_for_all_its_stripes() {
        let mut committing = committing(9);
        assert_eq!(
            drive(&mut committing, &Dead(Vec::new()), |_, _| Some(true), None),
            3
        );
        let stripes = committing.into_outcome().unwrap();
        assert!(stripes.iter().all(|placed| placed.holders.len() == 3));
    }

    #[test]
    fn nothing_is_confirmed_before_it_is_over() {
        assert!(committing(1).into_outcome().is_err());
    }

    #[test]
    fn lost_shard_is_made_good_and_committed() {
        let mut committing = committing(2);
        let says = |at, of| Some(at != peer(1) || of != stripe(1));
        assert_eq!(drive(&mut committing, &Dead(Vec::new()), says, Some(peer(7))), 4);
        let holders = |placed: &Placed| placed.holders.iter().any(|(_, holder)| *holder == peer(7));
        let stripes = committing.into_outcome().unwrap();
        assert_eq!(stripes.iter().map(holders).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn silent_holder_is_asked_until_the_time_out_and_a_dead_one_once() {
        let silent = |at, _| (at != peer(1)).then_some(true);
        let mut patient = committing(1);
        assert_eq!(drive(&mut patient, &Dead(Vec::new()), silent, None), 2 + 21);
        let mut dead = committing(1);
        assert_eq!(drive(&mut dead, &Dead(vec![peer(1)]), silent, None), 3);
        for committing in [patient, dead] {
            let short = committing
                .into_outcome()
                .expect_err("2 of 2 + 1 are too few without --degraded");
            assert_eq!(short.holders.len(), 2);
        }
    }

    #[test]
    fn holders_that_lose_everything_end_it() {
        let mut committing = committing(1);
        let questions = drive(
            &mut committing,
            &Dead(Vec::new()),
            |_, _| Some(false),
            Some(peer(7)),
        );
        assert_eq!(questions, 3 + ROUNDS);
        assert_eq!(committing.into_outcome().unwrap_err().holders, []);
    }
}
