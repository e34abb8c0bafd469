//! Puts of one stripe: drives `Placing` and `Committing` as the daemon does.

use std::collections::BTreeSet;
use std::time::Duration;

use mutualstore_dht::custody::LOCATOR;
use mutualstore_dht::ring::LookupId;
use mutualstore_dht::writer::{Answer, Commit, Committing, Patience, Place, Placed, Placing};
use mutualstore_dht::{Contact, Others, Peer, PeerState, RingView, Time};

use super::super::disk::indices;
use super::super::host::Host;
use super::super::message::Body;
use super::super::policy::Policy;
use super::super::scenario::Keeping;
use super::super::world::{Event, Who, World, micros};
use super::{Ask, Message, Session, Task};

/// As in the daemon unless it is told otherwise: how long a put waits for holders, and for their commits.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Stage {
    /// Shards are placed; while it commits, those that were lost since.
    Placing(Placing, Option<Box<Committing>>),
    /// The writer pauses before it commits, as one that uploads more first.
    Resting(Placed, u64),
    /// Locators are on their way; nobody waits for one that does not arrive.
    Locating(Placed),
    Committing(Box<Committing>),
}

impl Stage {
    fn placing(&mut self) -> Option<&mut Placing> {
        match self {
            Self::Placing(placing, _) => Some(placing),
            Self::Resting(..) | Self::Locating(_) | Self::Committing(_) => None,
        }
    }

    fn committing(&mut self) -> Option<&mut Committing> {
        match self {
            Self::Committing(committing) | Self::Placing(_, Some(committing)) => Some(committing),
            Self::Placing(_, None) | Self::Resting(..) | Self::Locating(_) => None,
        }
    }
}

/// What comes after a step of a put.
enum Step {
    Go(Stage),
    /// Nothing before an answer, or before this time.
    Wait(Stage, u64),
    End,
}

#[derive(Debug)]
pub(super) struct Put {
    /// None while a step of it is taken.
    stage: Option<Stage>,
    patience: Patience,
    /// Who holds anything of it.
    pub(super) held: BTreeSet<Who>,
    dawdle: u64,
}

impl World {
    /// A client puts a stripe through `writer`. Nothing happens unless that host is in a ring.
    pub(crate) fn put(&mut self, writer: Who, (keeping, policy): (&Keeping, Policy), dawdle: Duration) {
        let settled = self.ring(writer).is_some_and(RingView::is_settled);
        if !settled || self.running(writer).is_none() {
            return;
        }
        let number = self.writers.next + 1;
        let stripe = super::super::stripe_id(self.setup.seed, number);
        let shape = keeping.shape(policy, self.setup.seed, number);
        let placed = Placed {
            stripe,
            k: shape.k,
            n: shape.n,
            holders: Vec::new(),
        };
        let placing = Placing::new(placed, self.may_return(writer));
        let put = Put {
            stage: Some(Stage::Placing(placing, None)),
            patience: Patience::new(WRITE_TIMEOUT),
            held: BTreeSet::new(),
            dawdle: micros(dawdle),
        };
        self.open(writer, stripe, shape, Task::Put(Box::new(put)));
    }

    fn may_return(&self, who: Who) -> bool {
        let others = |host: &Host| {
            let others = Others::new(host.ring()?, host.custody()?, host.moment(self.now));
            Some(others.may_return())
        };
        self.host(who).and_then(others).unwrap_or(false)
    }

    /// Takes all steps that a put can take. When it goes on at the latest; none when it has ended.
    pub(super) fn advance_put(&mut self, session: &mut Session, put: &mut Put) -> Option<u64> {
        if let Some(found) = self.writers.found.remove(&session.number)
            && let Some(placing) = put.stage.as_mut().and_then(Stage::placing)
        {
            placing.handle_candidates(found);
        }
        let mut stage = put.stage.take()?;
        loop {
            match self.put_step(session, put, stage) {
                Step::Go(next) => stage = next,
                Step::Wait(stage, due) => {
                    put.stage = Some(stage);
                    return Some(due);
                }
                Step::End => return None,
            }
        }
    }

    fn put_step(&mut self, session: &mut Session, put: &mut Put, stage: Stage) -> Step {
        match stage {
            Stage::Placing(mut placing, committing) => {
                if !self.place(session, put, &mut placing) {
                    let due = at(placing.poll_timeout());
                    return Step::Wait(Stage::Placing(placing, committing), due);
                }
                let (placed, _) = placing.into_outcome();
                if let Some(mut committing) = committing {
                    committing.handle_completed(placed);
                    return Step::Go(Stage::Committing(committing));
                }
                if placed.is_enough(false) {
                    return Step::Go(Stage::Resting(placed, self.now + put.dawdle));
                }
                self.give_up(session, put);
                Step::End
            }
            Stage::Resting(placed, until) if self.now < until => {
                Step::Wait(Stage::Resting(placed, until), until)
            }
            Stage::Resting(placed, _) => {
                self.leave_locators(session, &placed);
                Step::Go(Stage::Locating(placed))
            }
            Stage::Locating(placed) if !session.sent.is_empty() => {
                Step::Wait(Stage::Locating(placed), u64::MAX)
            }
            Stage::Locating(placed) => {
                let held = put.held.iter().filter_map(|who| self.peer(*who));
                let held = held
                    .map(|peer| (peer, BTreeSet::from([session.stripe])))
                    .collect();
                let mut committing = Committing::new(self.time(), vec![placed], held, false, WRITE_TIMEOUT);
                committing.plant(self.setup.flaw);
                Step::Go(Stage::Committing(Box::new(committing)))
            }
            Stage::Committing(committing) => self.commit_step(session, put, committing),
        }
    }

    fn commit_step(&mut self, session: &mut Session, put: &mut Put, mut committing: Box<Committing>) -> Step {
        match committing.poll(self.time()) {
            Some(Commit::Ask { to, .. }) => {
                let Some(to) = self.who(to) else {
                    if let Some(ring) = self.ring(session.through) {
                        committing.handle_answer(self.time(), ring, to, &[]);
                    }
                    return Step::Go(Stage::Committing(committing));
                };
                self.ask(session, Ask::Commit, to, Vec::new());
            }
            Some(Commit::Complete(placed)) if self.can_rebuild(session) => {
                let placing = Placing::new(placed, self.may_return(session.through));
                return Step::Go(Stage::Placing(placing, Some(committing)));
            }
            Some(Commit::Complete(placed)) => committing.handle_completed(placed),
            None if committing.is_over() => {
                if committing.into_outcome().is_err() {
                    self.give_up(session, put);
                } else {
                    self.writers.acknowledged += 1;
                    self.acknowledge(session.stripe);
                }
                return Step::End;
            }
            None => {
                let due = at(committing.poll_timeout());
                return Step::Wait(Stage::Committing(committing), due);
            }
        }
        Step::Go(Stage::Committing(committing))
    }

    /// Sends off what is to be placed now. Whether that is over.
    fn place(&mut self, session: &mut Session, put: &mut Put, placing: &mut Placing) -> bool {
        loop {
            match placing.poll(self.time(), &mut put.patience) {
                Some(Place::Find(count)) => match self.find(session, count) {
                    Some(found) => placing.handle_candidates(found),
                    None => return false,
                },
                Some(Place::Store { index, to }) => {
                    let Some(to) = self.who(to.peer) else {
                        placing.handle_answer(index, to.peer, Answer::Silent);
                        continue;
                    };
                    self.ask(session, Ask::Store(index), to, Vec::new());
                }
                None => return placing.is_over(),
            }
        }
    }

    /// Peers that the policy names in the view of the writer; none yet where the ring is asked first.
    fn find(&mut self, session: &Session, count: usize) -> Option<Vec<Contact>> {
        let (writer, stripe) = (session.through, session.stripe);
        if session.shape.placement.needs_locators() {
            return Some(self.candidates(writer, stripe, session.shape, count));
        }
        let lookup = self.act(writer, |ring, now| ring.lookup(now, stripe, count))?;
        let looking = (writer, session.life, lookup);
        self.writers.looking.insert(looking, session.number);
        self.writer_found(writer, lookup);
        None
    }

    /// A lookup ended: if it was for a put, that goes on.
    pub(crate) fn writer_found(&mut self, who: Who, lookup: LookupId) {
        let life = self.host(who).map_or(0, |host| host.life);
        let Some(number) = self.writers.looking.get(&(who, life, lookup)).copied() else {
            return;
        };
        let ended = |(host, id, _): &(Who, LookupId, _)| (*host, *id) == (who, lookup);
        let at = self.lookups.iter().position(ended);
        let Some((.., outcome)) = at.and_then(|at| self.lookups.remove(at)) else {
            return;
        };
        self.writers.looking.remove(&(who, life, lookup));
        let found = if let Ok(found) = outcome {
            found.contacts
        } else {
            let client = self.writers.clients.get(&number).zip(self.ring(who));
            let near = client.map(|(client, ring)| ring.successors(client.session.stripe));
            let near = near.map(|near| near.take(self.setup.ring.r));
            near.into_iter().flatten().cloned().collect()
        };
        self.writers.found.insert(number, found);
        self.schedule(self.now, Event::Writer(number));
    }

    /// Has those near the stripe's id keep its locator, where its holders lie elsewhere.
    fn leave_locators(&mut self, session: &mut Session, placed: &Placed) {
        if !session.shape.placement.needs_locators() {
            return;
        }
        let ring = self.ring(session.through).into_iter();
        let near = ring.flat_map(|ring| ring.successors(session.stripe).take(self.setup.ring.r));
        let accepting = near.filter(|contact| contact.state == PeerState::Accepting);
        let near: Vec<Who> = accepting.filter_map(|contact| self.who(contact.peer)).collect();
        let holders = self.by_number(&placed.holders);
        for to in near {
            self.ask(session, Ask::Store(LOCATOR), to, holders.clone());
        }
    }

    /// Whether the writer finds k shards to rebuild others from.
    fn can_rebuild(&self, session: &Session) -> bool {
        let stripe = self.truth.stripes.get(&session.stripe);
        let copies = stripe.into_iter().flat_map(|stripe| &stripe.copies);
        let there = copies.filter(|(_, who)| self.reaches(session.through, *who));
        indices(there).len() >= usize::from(session.shape.k)
    }

    /// Takes back everything stored; what does not arrive is left to the leases.
    fn give_up(&mut self, session: &Session, put: &Put) {
        let stripe = session.stripe;
        for holder in &put.held {
            let message = Body::Writer(Message::Discard { stripe });
            self.send(session.through, *holder, None, message);
        }
    }

    /// A holder committed, or has nothing to commit, or does not answer.
    pub(super) fn settle_commit(&self, session: &Session, put: &mut Put, peer: Peer, answer: Answer) {
        let committing = put.stage.as_mut().and_then(Stage::committing);
        if let (Some(committing), Some(ring)) = (committing, self.ring(session.through)) {
            let held = (answer != Answer::Silent).then_some(answer == Answer::Stored);
            let answer = held.map(|held| (session.stripe, held));
            committing.handle_answer(self.time(), ring, peer, answer.as_slice());
        }
    }
}

impl Put {
    /// A holder took a shard or a locator, or did not.
    pub(super) fn settle_store(&mut self, index: u8, peer: Peer, answer: Answer) {
        let placing = self.stage.as_mut().and_then(Stage::placing);
        if let Some(placing) = placing.filter(|_| index != LOCATOR) {
            placing.handle_answer(index, peer, answer);
        }
    }
}

/// The time of a deadline, if there is one.
pub(super) fn at(deadline: Option<Time>) -> u64 {
    deadline.map_or(u64::MAX, Time::as_micros)
}
