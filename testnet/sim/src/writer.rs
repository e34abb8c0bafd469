//! Clients that put stripes through hosts, by the rules of the daemon's writer.
//!
//! A lookup finds the successors of the stripe; n shards go to the first accepting ones, pending under a
//! lease; who refuses or is silent is replaced by the next. When all are stored, or k + 1 after the write
//! time-out, the holders are told to commit; the client has its answer when all confirmed, or k + 1 did when
//! the time-out is over again. What cannot be finished is discarded, or left to the leases when the writer
//! dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mutualstore_dht::custody::{LOCATOR, Shape};
use mutualstore_dht::ring::LookupId;
use mutualstore_dht::{Flaw, Id, Membership, Peer, PeerState};

use super::disk::{Stored, Stripe, Tenure};
use super::host::Host;
use super::message::Body;
use super::pick;
use super::policy::Policy;
use super::scenario::Keeping;
use super::world::{Event, Who, World, micros};

/// As in the daemon: a put that lacks shards after this time makes do with fewer.
const WRITE_TIMEOUT: u64 = 10_000_000;
/// A holder silent for so long is replaced, and asked again to commit.
const PATIENCE: u64 = 1_000_000;

/// Between a writer and holders.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Keep {
        put: u64,
        stripe: Id,
        index: u8,
        shape: Shape,
        until: u64,
    },
    Kept {
        put: u64,
        index: u8,
        stored: bool,
    },
    /// Answered by `Kept` with the index of locators.
    Locate {
        put: u64,
        stripe: Id,
        shape: Shape,
        until: u64,
        holders: Vec<(u8, Who)>,
    },
    Commit {
        put: u64,
        stripe: Id,
    },
    Committed {
        put: u64,
        held: bool,
    },
    Discard {
        stripe: Id,
    },
    StoreTombstone {
        stripe: Id,
        shape: Shape,
    },
}

impl Message {
    /// What a closed port says to it.
    pub(crate) fn refused(&self) -> Option<Self> {
        let Self::Keep { put, index, .. } = *self else {
            return None;
        };
        let stored = false;
        Some(Self::Kept { put, index, stored })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Storing,
    Committing,
}

#[derive(Debug)]
struct Put {
    writer: Who,
    life: u32,
    stripe: Id,
    shape: Shape,
    stage: Stage,
    until: u64,
    /// Who was asked to keep what, when; whether it did.
    asked: BTreeMap<u8, (Who, u64, bool)>,
    tried: BTreeSet<Who>,
    committed: BTreeSet<Who>,
    /// Accepting peers, best first: those that the lookup found, or that the policy names.
    found: Vec<Who>,
    /// Who is to hold the locator: accepting peers that the lookup found, where that is not who holds the
    /// shards.
    near: Vec<Who>,
    /// The writer pauses before it commits, as one that uploads more first.
    dawdle: u64,
    rest: u64,
}

impl Put {
    fn stored(&self) -> usize {
        self.asked.values().filter(|(.., stored)| *stored).count()
    }

    fn holders(&self) -> Vec<Who> {
        let stored = self.asked.values().filter(|(.., stored)| *stored);
        stored.map(|(who, ..)| *who).collect()
    }
}

/// Puts in progress, and how earlier ones ended.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    puts: BTreeMap<u64, Put>,
    /// Lookups on their way: of which host, in which of its lives, for which put.
    looking: BTreeMap<(Who, u32, LookupId), u64>,
    next: u64,
    pub(crate) acknowledged: u64,
}

impl World {
    /// A client puts a stripe through `writer`. Nothing happens unless that host is in a ring with k + 1
    /// peers.
    pub(crate) fn put(&mut self, writer: Who, (keeping, policy): (&Keeping, Policy), dawdle: Duration) {
        let life = self.host(writer).map_or(0, |host| host.life);
        let settled = self.ring(writer).is_some_and(Membership::is_settled);
        if !settled || !self.lives(writer, life) {
            return;
        }
        self.writers.next += 1;
        let number = self.writers.next;
        let stripe = super::stripe_id(self.setup.seed, number);
        let shape = keeping.shape(policy, self.setup.seed, number);
        let put = Put {
            writer,
            life,
            stripe,
            shape,
            stage: Stage::Storing,
            until: self.now + WRITE_TIMEOUT,
            asked: BTreeMap::new(),
            tried: BTreeSet::new(),
            committed: BTreeSet::new(),
            found: Vec::new(),
            near: Vec::new(),
            dawdle: micros(dawdle),
            rest: 0,
        };
        self.writers.puts.insert(number, put);
        let r = self.setup.ring.r;
        let lookup = self.act(writer, |ring, now| ring.lookup(now, stripe, r));
        if let Some(lookup) = lookup {
            self.writers.looking.insert((writer, life, lookup), number);
            self.writer_found(writer, lookup);
        }
        self.schedule(self.now + WRITE_TIMEOUT, Event::Writer(number));
    }

    /// The owner of an acknowledged stripe deletes it through some host: those that follow the stripe in its
    /// view get a tombstone each, if the message comes through. The rest is up to custody.
    pub(crate) fn delete(&mut self, through: Who) {
        let deletable = |stripe: &Stripe| stripe.acked && !stripe.deleted;
        let stripes = self.truth.stripes.iter().filter(|(_, stripe)| deletable(stripe));
        let stripes: Vec<(Id, Shape)> = stripes.map(|(id, stripe)| (*id, stripe.shape)).collect();
        let Some((stripe, shape)) = pick(&mut self.rng, &stripes).copied() else {
            return;
        };
        let ring = self.ring(through);
        let near = ring.map(|ring| ring.successors(stripe).take(self.setup.ring.r));
        let near: Vec<Peer> = near.into_iter().flatten().map(|contact| contact.peer).collect();
        for to in near {
            if let Some(to) = self.who(to) {
                self.write(through, to, Message::StoreTombstone { stripe, shape });
            }
        }
    }

    fn write(&mut self, from: Who, to: Who, message: Message) {
        self.send(from, to, None, Body::Writer(message));
    }

    /// A lookup ended: if it was for a put, that goes on.
    pub(crate) fn writer_found(&mut self, who: Who, lookup: LookupId) {
        let life = self.host(who).map_or(0, |host| host.life);
        if !self.writers.looking.contains_key(&(who, life, lookup)) {
            return;
        }
        let ended = |(host, id, _): &(Who, LookupId, _)| (*host, *id) == (who, lookup);
        let Some(at) = self.lookups.iter().position(ended) else {
            return;
        };
        let number = self.writers.looking.remove(&(who, life, lookup));
        let outcome = self.lookups.remove(at);
        let (Some(number), Some((.., Ok(found)))) = (number, outcome) else {
            return;
        };
        let accepting = found
            .contacts
            .iter()
            .filter(|contact| contact.state == PeerState::Accepting);
        let found: Vec<Who> = accepting.filter_map(|contact| self.who(contact.peer)).collect();
        let wanted = self.writers.puts.get(&number).map(|put| (put.stripe, put.shape));
        let scattered = wanted.filter(|(_, shape)| shape.placement.needs_locators());
        let named = scattered.map(|(stripe, shape)| self.candidates(who, stripe, shape));
        if let Some(put) = self.writers.puts.get_mut(&number) {
            match named {
                Some(named) => (put.found, put.near) = (named, found),
                None => put.found = found,
            }
            self.schedule(self.now, Event::Writer(number));
        }
    }

    /// Whether clients still wait.
    pub(crate) fn is_writing(&self) -> bool {
        !self.writers.puts.is_empty()
    }

    pub(crate) fn writer_timeout(&mut self, number: u64) {
        self.advance(number);
    }

    fn advance(&mut self, number: u64) {
        let Some(mut put) = self.writers.puts.remove(&number) else {
            return;
        };
        let same = |host: &Host| host.is_up() && host.life == put.life;
        if !self.host(put.writer).is_some_and(same) {
            // The writer died: the leases run out, or a commit that got through spreads.
            return;
        }
        let done = match put.stage {
            Stage::Storing => self.advance_storing(number, &mut put),
            Stage::Committing => self.advance_committing(number, &put),
        };
        if !done {
            self.writers.puts.insert(number, put);
            self.schedule(self.now + PATIENCE / 2, Event::Writer(number));
        }
    }

    fn advance_storing(&mut self, number: u64, put: &mut Put) -> bool {
        let n = usize::from(put.shape.n);
        let enough = usize::from(put.shape.k) + 1;
        let late = self.now >= put.until;
        if put.stored() == n && put.dawdle > 0 {
            put.rest = self.now + std::mem::take(&mut put.dawdle);
            put.until = put.rest + WRITE_TIMEOUT;
        }
        if self.now < put.rest {
            return false;
        }
        if put.stored() == n || late && put.stored() >= enough.min(n) {
            put.stage = Stage::Committing;
            put.until = self.now + WRITE_TIMEOUT;
            self.send_locators(number, put);
            return self.advance_committing(number, put);
        }
        if late {
            for holder in put.holders() {
                self.write(put.writer, holder, Message::Discard { stripe: put.stripe });
            }
            return true;
        }
        for index in 0..put.shape.n {
            let waits = put
                .asked
                .get(&index)
                .is_some_and(|(_, at, stored)| *stored || self.now < at + PATIENCE);
            if !waits && let Some(holder) = Self::candidate(put) {
                put.tried.insert(holder);
                put.asked.insert(index, (holder, self.now, false));
                let message = Message::Keep {
                    put: number,
                    stripe: put.stripe,
                    index,
                    shape: put.shape,
                    until: self.now + self.lease(),
                };
                self.write(put.writer, holder, message);
            }
        }
        false
    }

    /// The next accepting successor not tried yet.
    fn candidate(put: &Put) -> Option<Who> {
        put.found.iter().copied().find(|who| !put.tried.contains(who))
    }

    /// Has those near the stripe's id keep its locator: once, and nothing waits for it.
    fn send_locators(&mut self, number: u64, put: &Put) {
        let stored = put.asked.iter().filter(|(_, (.., stored))| *stored);
        let holders: Vec<(u8, Who)> = stored.map(|(index, (who, ..))| (*index, *who)).collect();
        for near in &put.near {
            let message = Message::Locate {
                put: number,
                stripe: put.stripe,
                shape: put.shape,
                until: self.now + self.lease(),
                holders: holders.clone(),
            };
            self.write(put.writer, *near, message);
        }
    }

    fn lease(&self) -> u64 {
        let custody = self.setup.custody.as_ref();
        custody.map_or(0, |custody| micros(custody.pending_lease))
    }

    fn advance_committing(&mut self, number: u64, put: &Put) -> bool {
        if self.setup.flaw == Some(Flaw::AcknowledgeEarly) {
            self.acknowledge(put.stripe);
        }
        let holders = put.holders();
        let missing = holders.iter().filter(|who| !put.committed.contains(who));
        let missing: Vec<Who> = missing.copied().collect();
        let enough = usize::from(put.shape.k) + 1;
        let late = self.now >= put.until;
        if missing.is_empty() && holders.len() >= enough.min(usize::from(put.shape.n))
            || late && put.committed.len() >= enough
        {
            self.writers.acknowledged += 1;
            self.acknowledge(put.stripe);
            return true;
        }
        if late {
            return true;
        }
        for holder in missing {
            let message = Message::Commit {
                put: number,
                stripe: put.stripe,
            };
            self.write(put.writer, holder, message);
        }
        false
    }

    pub(crate) fn writer_message(&mut self, to: Who, from: Who, from_life: u32, message: Message) {
        let answer = match message {
            Message::Keep {
                put,
                stripe,
                index,
                shape,
                until,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored = until > self.now && self.store(to, (stripe, index), Stored { shape, tenure });
                Message::Kept { put, index, stored }
            }
            Message::Locate {
                put,
                stripe,
                shape,
                until,
                holders,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored =
                    until > self.now && self.keep_locator(to, stripe, Stored { shape, tenure }, holders);
                Message::Kept {
                    put,
                    index: LOCATOR,
                    stored,
                }
            }
            Message::Commit { put, stripe } => Message::Committed {
                put,
                held: self.commit(to, stripe),
            },
            Message::Discard { stripe } => {
                self.take_back(to, stripe);
                return;
            }
            Message::StoreTombstone { stripe, shape } => {
                self.store_tombstone(to, stripe, shape);
                return;
            }
            Message::Kept {
                put,
                index: LOCATOR,
                stored,
            } => {
                let stripe = self.writers.puts.get(&put).map(|put| put.stripe);
                if let Some(stripe) = stripe.filter(|_| stored) {
                    self.write(to, from, Message::Commit { put, stripe });
                }
                return;
            }
            Message::Kept { put, index, stored } => return self.kept(put, index, from, stored),
            Message::Committed { put, held } => {
                let waiting = self.writers.puts.get_mut(&put);
                if let Some(waiting) = waiting.filter(|put| held && put.holders().contains(&from)) {
                    waiting.committed.insert(from);
                    self.advance(put);
                }
                return;
            }
        };
        self.send(to, from, Some(from_life), Body::Writer(answer));
    }

    /// A holder took a shard, or refused it.
    fn kept(&mut self, put: u64, index: u8, from: Who, stored: bool) {
        let Some(waiting) = self.writers.puts.get_mut(&put) else {
            return;
        };
        if let Some((_, at, done)) = waiting.asked.get_mut(&index).filter(|(who, ..)| *who == from) {
            *done |= stored;
            // Refused: the next candidate at once.
            *at = if stored { *at } else { 0 };
            self.advance(put);
        }
    }
}
