//! Puts of one stripe: drives `Placing` and `Committing` as the daemon does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mutualstore_dht::custody::{LOCATOR, Shape};
use mutualstore_dht::ring::LookupId;
use mutualstore_dht::writer::{Answer, Commit, Committing, Patience, Place, Placed, Placing};
use mutualstore_dht::{Contact, Id, Membership, Others, Peer, PeerState, Time};

use super::super::host::Host;
use super::super::policy::Policy;
use super::super::scenario::Keeping;
use super::super::world::{Event, Who, World, micros};
use super::{Client, DEADLINE, Message};

/// As in the daemon unless it is told otherwise: how long a put waits for holders, and for their commits.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Stage {
    Placing(Placing),
    /// The writer pauses before it commits, as one that uploads more first.
    Resting(Placed, u64),
    /// Locators are on their way; nobody waits for one that does not arrive.
    Locating(Placed),
    Committing(Committing),
    /// Shards that were lost since are made good.
    Completing(Committing, Placing),
}

impl Stage {
    fn placing(&mut self) -> Option<&mut Placing> {
        match self {
            Self::Placing(placing) | Self::Completing(_, placing) => Some(placing),
            Self::Resting(..) | Self::Locating(_) | Self::Committing(_) => None,
        }
    }

    fn committing(&mut self) -> Option<&mut Committing> {
        match self {
            Self::Committing(committing) | Self::Completing(committing, _) => Some(committing),
            Self::Placing(_) | Self::Resting(..) | Self::Locating(_) => None,
        }
    }
}

/// What comes after a step of a put.
enum Step {
    Go(Stage),
    /// Nothing before an answer, or before this time.
    Wait(Stage, Option<u64>),
    End,
}

#[derive(Debug)]
pub(super) struct Put {
    pub(super) writer: Who,
    pub(super) life: u32,
    stripe: Id,
    shape: Shape,
    /// None while a step of it is taken.
    stage: Option<Stage>,
    patience: Patience,
    /// Shards and locators on their way, to whom, and until when an answer is waited for.
    stores: BTreeMap<(u8, Who), u64>,
    /// Who was asked to commit, likewise.
    asks: BTreeMap<Who, u64>,
    /// Who holds anything of it.
    held: BTreeSet<Who>,
    dawdle: u64,
}

impl World {
    /// A client puts a stripe through `writer`. Nothing happens unless that host is in a ring.
    pub(crate) fn put(&mut self, writer: Who, (keeping, policy): (&Keeping, Policy), dawdle: Duration) {
        let life = self.host(writer).map_or(0, |host| host.life);
        let settled = self.ring(writer).is_some_and(Membership::is_settled);
        if !settled || !self.lives(writer, life) {
            return;
        }
        self.writers.next += 1;
        let number = self.writers.next;
        let stripe = super::super::stripe_id(self.setup.seed, number);
        let shape = keeping.shape(policy, self.setup.seed, number);
        let placed = Placed {
            stripe,
            k: shape.k,
            n: shape.n,
            holders: Vec::new(),
        };
        let put = Put {
            writer,
            life,
            stripe,
            shape,
            stage: Some(Stage::Placing(Placing::new(placed, self.may_return(writer)))),
            patience: Patience::new(WRITE_TIMEOUT),
            stores: BTreeMap::new(),
            asks: BTreeMap::new(),
            held: BTreeSet::new(),
            dawdle: micros(dawdle),
        };
        self.writers.clients.insert(number, Client::Put(Box::new(put)));
        self.advance(number);
    }

    fn may_return(&self, who: Who) -> bool {
        let others = |host: &Host| {
            let others = Others::new(host.ring()?, host.custody()?, host.moment(self.now));
            Some(others.may_return())
        };
        self.host(who).and_then(others).unwrap_or(false)
    }

    /// Takes all steps that a put can take. A put that goes on, and when at the latest.
    pub(super) fn advance_put(&mut self, number: u64, mut put: Box<Put>) -> Option<(Box<Put>, Option<u64>)> {
        self.expire(&mut put);
        if let (Some(found), Some(placing)) = (
            self.writers.found.remove(&number),
            put.stage.as_mut().and_then(Stage::placing),
        ) {
            placing.handle_candidates(found);
        }
        let mut stage = put.stage.take()?;
        loop {
            match self.put_step(number, &mut put, stage) {
                Step::Go(next) => stage = next,
                Step::Wait(stage, due) => {
                    put.stage = Some(stage);
                    let deadlines = put.stores.values().chain(put.asks.values()).copied();
                    let due = deadlines.chain(due).min();
                    return Some((put, due));
                }
                Step::End => return None,
            }
        }
    }

    fn put_step(&mut self, number: u64, put: &mut Put, stage: Stage) -> Step {
        match stage {
            Stage::Placing(mut placing) => {
                if !self.place(number, put, &mut placing) {
                    let due = placing.poll_timeout().map(Time::as_micros);
                    return Step::Wait(Stage::Placing(placing), due);
                }
                let (placed, _) = placing.into_outcome();
                if placed.is_enough(false) {
                    return Step::Go(Stage::Resting(placed, self.now + put.dawdle));
                }
                self.give_up(put);
                Step::End
            }
            Stage::Resting(placed, until) if self.now < until => {
                Step::Wait(Stage::Resting(placed, until), Some(until))
            }
            Stage::Resting(placed, _) => {
                self.leave_locators(number, put, &placed);
                Step::Go(Stage::Locating(placed))
            }
            Stage::Locating(placed) if !put.stores.is_empty() => Step::Wait(Stage::Locating(placed), None),
            Stage::Locating(placed) => {
                let held = put.held.iter().filter_map(|who| Some(self.host(*who)?.peer));
                let held = held.map(|peer| (peer, BTreeSet::from([put.stripe]))).collect();
                let mut committing = Committing::new(self.time(), vec![placed], held, false, WRITE_TIMEOUT);
                committing.plant(self.setup.flaw);
                Step::Go(Stage::Committing(committing))
            }
            Stage::Committing(committing) => self.commit_step(number, put, committing),
            Stage::Completing(mut committing, mut placing) => {
                if !self.place(number, put, &mut placing) {
                    let due = placing.poll_timeout().map(Time::as_micros);
                    return Step::Wait(Stage::Completing(committing, placing), due);
                }
                committing.handle_completed(placing.into_outcome().0);
                Step::Go(Stage::Committing(committing))
            }
        }
    }

    fn commit_step(&mut self, number: u64, put: &mut Put, mut committing: Committing) -> Step {
        match committing.poll(self.time()) {
            Some(Commit::Ask { to, .. }) => {
                let Some(to) = self.who(to) else {
                    if let Some(ring) = self.ring(put.writer) {
                        committing.handle_answer(self.time(), ring, to, &[]);
                    }
                    return Step::Go(Stage::Committing(committing));
                };
                put.asks.insert(to, self.now + DEADLINE);
                let message = Message::Commit {
                    client: number,
                    stripe: put.stripe,
                };
                self.write(put.writer, to, message);
            }
            Some(Commit::Complete(placed)) if self.can_rebuild(put) => {
                let placing = Placing::new(placed, self.may_return(put.writer));
                return Step::Go(Stage::Completing(committing, placing));
            }
            Some(Commit::Complete(placed)) => committing.handle_completed(placed),
            None if committing.is_over() => {
                if committing.into_outcome().is_err() {
                    self.give_up(put);
                } else {
                    self.writers.acknowledged += 1;
                    self.acknowledge(put.stripe);
                }
                return Step::End;
            }
            None => {
                let due = committing.poll_timeout().map(Time::as_micros);
                return Step::Wait(Stage::Committing(committing), due);
            }
        }
        Step::Go(Stage::Committing(committing))
    }

    /// Sends off what is to be placed now. Whether that is over.
    fn place(&mut self, number: u64, put: &mut Put, placing: &mut Placing) -> bool {
        loop {
            match placing.poll(self.time(), &mut put.patience) {
                Some(Place::Find(count)) => match self.find(number, put, count) {
                    Some(found) => placing.handle_candidates(found),
                    None => return false,
                },
                Some(Place::Store { index, to }) => {
                    let Some(to) = self.who(to.peer) else {
                        placing.handle_answer(index, to.peer, Answer::Silent);
                        continue;
                    };
                    put.stores.insert((index, to), self.now + DEADLINE);
                    let message = Message::Keep {
                        client: number,
                        stripe: put.stripe,
                        index,
                        shape: put.shape,
                        until: self.now + self.lease(),
                    };
                    self.write(put.writer, to, message);
                }
                None => return placing.is_over(),
            }
        }
    }

    /// Peers that the policy names in the view of the writer; none yet where the ring is asked first.
    fn find(&mut self, number: u64, put: &Put, count: usize) -> Option<Vec<Contact>> {
        let (writer, stripe) = (put.writer, put.stripe);
        if put.shape.placement.needs_locators() {
            return Some(self.candidates(writer, stripe, put.shape, count));
        }
        let lookup = self.act(writer, |ring, now| ring.lookup(now, stripe, count))?;
        self.writers.looking.insert((writer, put.life, lookup), number);
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
        let Some((.., outcome)) = self
            .lookups
            .iter()
            .position(ended)
            .and_then(|at| self.lookups.remove(at))
        else {
            return;
        };
        self.writers.looking.remove(&(who, life, lookup));
        let found = if let Ok(found) = outcome {
            found.contacts
        } else {
            let near = self.writers.stripe(number).zip(self.ring(who));
            let near = near.map(|(stripe, ring)| ring.successors(stripe).take(self.setup.ring.r));
            near.into_iter().flatten().cloned().collect()
        };
        self.writers.found.insert(number, found);
        self.schedule(self.now, Event::Writer(number));
    }

    /// Has those near the stripe's id keep its locator, where its holders lie elsewhere.
    fn leave_locators(&mut self, number: u64, put: &mut Put, placed: &Placed) {
        if !put.shape.placement.needs_locators() {
            return;
        }
        let near = self.ring(put.writer).map(|ring| {
            let near = ring.successors(put.stripe).take(self.setup.ring.r);
            let accepting = near.filter(|contact| contact.state == PeerState::Accepting);
            accepting.map(|contact| contact.peer).collect::<Vec<Peer>>()
        });
        let near: Vec<Who> = near
            .into_iter()
            .flatten()
            .filter_map(|peer| self.who(peer))
            .collect();
        let holders = placed.holders.iter();
        let holders: Vec<(u8, Who)> = holders
            .filter_map(|(index, peer)| Some((*index, self.who(*peer)?)))
            .collect();
        for to in near {
            put.stores.insert((LOCATOR, to), self.now + DEADLINE);
            let message = Message::Locate {
                client: number,
                stripe: put.stripe,
                shape: put.shape,
                until: self.now + self.lease(),
                holders: holders.clone(),
            };
            self.write(put.writer, to, message);
        }
    }

    /// Whether the writer finds k shards to rebuild others from.
    fn can_rebuild(&self, put: &Put) -> bool {
        let stripe = self.truth.stripes.get(&put.stripe);
        let copies = stripe.into_iter().flat_map(|stripe| &stripe.copies);
        let there = copies.filter(|(_, who)| self.reaches(put.writer, *who));
        let there: BTreeSet<u8> = there.map(|(index, _)| *index).collect();
        there.len() >= usize::from(put.shape.k)
    }

    /// Takes back everything stored; what does not arrive is left to the leases.
    fn give_up(&mut self, put: &Put) {
        for holder in &put.held {
            self.write(put.writer, *holder, Message::Discard { stripe: put.stripe });
        }
    }

    /// What was asked too long ago has no answer.
    fn expire(&mut self, put: &mut Put) {
        let late: Vec<(u8, Who)> = put
            .stores
            .iter()
            .filter(|(_, due)| **due <= self.now)
            .map(|(to, _)| *to)
            .collect();
        for (index, who) in late {
            self.settle_store(put, index, who, Answer::Silent);
        }
        let late: Vec<Who> = put
            .asks
            .iter()
            .filter(|(_, due)| **due <= self.now)
            .map(|(who, _)| *who)
            .collect();
        for who in late {
            self.settle_ask(put, who, None);
        }
    }

    /// A holder took a shard or a locator, or did not.
    pub(super) fn settle_store(&self, put: &mut Put, index: u8, from: Who, answer: Answer) {
        let waited = put.stores.remove(&(index, from)).is_some();
        if answer == Answer::Stored {
            put.held.insert(from);
        }
        let placing = put.stage.as_mut().and_then(Stage::placing);
        if let (Some(placing), Some(host)) = (placing, self.host(from))
            && waited
            && index != LOCATOR
        {
            placing.handle_answer(index, host.peer, answer);
        }
    }

    /// A holder committed, or has nothing to commit; none: it does not answer.
    pub(super) fn settle_ask(&self, put: &mut Put, from: Who, held: Option<bool>) {
        let waited = put.asks.remove(&from).is_some();
        let (Some(host), Some(ring)) = (self.host(from), self.ring(put.writer)) else {
            return;
        };
        if let Some(committing) = put.stage.as_mut().and_then(Stage::committing).filter(|_| waited) {
            let answer = held.map(|held| (put.stripe, held));
            committing.handle_answer(self.time(), ring, host.peer, answer.as_slice());
        }
    }
}

impl super::Writers {
    fn stripe(&self, client: u64) -> Option<Id> {
        match self.clients.get(&client)? {
            Client::Put(put) => Some(put.stripe),
            Client::Delete(_) => None,
        }
    }
}
