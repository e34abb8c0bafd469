//! Clients that put and delete stripes: the daemon's machines ([`mutualstore_dht::writer`]), driven over the
//! simulated network.
//!
//! A writer whose process is stopped goes on when that does; one that dies leaves its put to the leases, or
//! to a commit that got through and spreads.
//!
//! Simpler than in the daemon: a client has one stripe, never `--degraded`; it sees at once where shards
//! are that it looks for or rebuilds from; leases are not renewed, so that nothing is made good before the
//! commit; a second attempt to delete knows nothing of the first.

mod delete;
mod put;

use std::collections::BTreeMap;

use mutualstore_dht::custody::{LOCATOR, Shape, TOMBSTONE};
use mutualstore_dht::ring::LookupId;
use mutualstore_dht::writer::Answer;
use mutualstore_dht::{Contact, Id, Time};

use self::delete::Deletion;
use self::put::Put;
use super::disk::{Stored, Tenure};
use super::host::Host;
use super::message::Body;
use super::world::{Event, Who, World, micros};

/// A peer that has not answered after so long does not.
const DEADLINE: u64 = 1_000_000;

/// What a client asks a host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    /// To keep what has this index: a shard, a locator or a tombstone.
    Store(u8),
    Commit,
}

/// Between a writer and holders; `client` is the number of a put or a deletion.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Request {
        client: u64,
        ask: Ask,
        stripe: Id,
        shape: Shape,
        /// When the lease of what is kept ends.
        until: u64,
        /// What a locator says.
        holders: Vec<(u8, Who)>,
    },
    Response {
        client: u64,
        ask: Ask,
        answer: Answer,
    },
    Discard {
        stripe: Id,
    },
}

impl Message {
    /// What a closed port says to it.
    pub(crate) fn refused(&self) -> Option<Self> {
        let Self::Request { client, ask, .. } = *self else {
            return None;
        };
        let answer = Answer::Silent;
        Some(Self::Response { client, ask, answer })
    }
}

/// What puts and deletions have in common.
#[derive(Debug)]
struct Session {
    /// The number of the client.
    number: u64,
    /// Through which host, in which of its lives.
    through: Who,
    life: u32,
    stripe: Id,
    shape: Shape,
    /// What is on its way, to whom, and until when an answer is waited for.
    sent: BTreeMap<(Ask, Who), u64>,
    /// When it goes on at the latest.
    wake: u64,
}

/// What a client does.
#[derive(Debug)]
enum Task {
    Put(Box<Put>),
    Delete(Box<Deletion>),
}

#[derive(Debug)]
struct Client {
    session: Session,
    task: Task,
}

/// Clients that wait, and how earlier ones fared.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    clients: BTreeMap<u64, Client>,
    /// Lookups on their way: of which host, in which of its lives, for which put.
    looking: BTreeMap<(Who, u32, LookupId), u64>,
    /// What they found.
    found: BTreeMap<u64, Vec<Contact>>,
    next: u64,
    pub(crate) acknowledged: u64,
}

impl World {
    /// Whether clients still wait: those of hosts that died do not.
    pub(crate) fn is_writing(&self) -> bool {
        let mut sessions = self.writers.clients.values().map(|client| &client.session);
        sessions.any(|session| {
            let host = self.host(session.through);
            host.is_some_and(|host| host.is_up() && host.life == session.life)
        })
    }

    /// A client begins what it does with a stripe.
    fn open(&mut self, through: Who, stripe: Id, shape: Shape, task: Task) {
        self.writers.next += 1;
        let number = self.writers.next;
        let session = Session {
            number,
            through,
            life: self.host(through).map_or(0, |host| host.life),
            stripe,
            shape,
            sent: BTreeMap::new(),
            wake: u64::MAX,
        };
        self.writers.clients.insert(number, Client { session, task });
        self.advance(number);
    }

    /// Asks a host for something; `holders` is what a locator says.
    fn ask(&mut self, session: &mut Session, ask: Ask, to: Who, holders: Vec<(u8, Who)>) {
        session.sent.insert((ask, to), self.now + DEADLINE);
        let lease = self.setup.custody.as_ref().map(|custody| custody.pending_lease);
        let request = Message::Request {
            client: session.number,
            ask,
            stripe: session.stripe,
            shape: session.shape,
            until: self.now + lease.map_or(0, micros),
            holders,
        };
        self.send(session.through, to, None, Body::Writer(request));
    }

    /// Now, as the machines of clients count it.
    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    /// A client may have something to do.
    pub(crate) fn advance(&mut self, number: u64) {
        let Some(mut client) = self.writers.clients.remove(&number) else {
            self.writers.found.remove(&number);
            return;
        };
        if client.session.wake <= self.now {
            client.session.wake = u64::MAX;
        }
        let (who, life) = (client.session.through, client.session.life);
        if !self.lives(who, life) {
            if self.stall(who, life, Event::Writer(number)) {
                self.writers.clients.insert(number, client);
            }
            return;
        }
        self.expire(&mut client);
        let Client { session, task } = &mut client;
        let next = match task {
            Task::Put(put) => self.advance_put(session, put),
            Task::Delete(deletion) => self.advance_delete(session, deletion),
        };
        let Some(due) = next else { return };
        let due = session.sent.values().copied().fold(due, u64::min);
        if due < session.wake {
            session.wake = due;
            self.schedule(due, Event::Writer(number));
        }
        self.writers.clients.insert(number, client);
    }

    pub(crate) fn writer_message(&mut self, to: Who, from: Who, from_life: u32, message: Message) {
        match message {
            Message::Request {
                client,
                ask,
                stripe,
                shape,
                until,
                holders,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored = Stored { shape, tenure };
                let done = match ask {
                    Ask::Commit => self.commit(to, stripe),
                    Ask::Store(TOMBSTONE) => self.store_tombstone(to, stripe, shape),
                    Ask::Store(_) if until <= self.now => false,
                    Ask::Store(LOCATOR) => self.keep_locator(to, stripe, stored, holders),
                    Ask::Store(index) => self.store(to, (stripe, index), stored),
                };
                let answer = self.answer(to, done);
                let response = Message::Response { client, ask, answer };
                self.send(to, from, Some(from_life), Body::Writer(response));
            }
            Message::Response { client, ask, answer } => self.heard(client, ask, from, answer),
            Message::Discard { stripe } => self.take_back(to, stripe),
        }
    }

    /// Gives a client an answer, if it still waits.
    fn heard(&mut self, number: u64, ask: Ask, from: Who, answer: Answer) {
        let Some(mut client) = self.writers.clients.remove(&number) else {
            return;
        };
        self.answered(&mut client, ask, from, answer);
        self.writers.clients.insert(number, client);
        self.advance(number);
    }

    /// What was asked too long ago has no answer.
    fn expire(&self, client: &mut Client) {
        let sent = client.session.sent.iter();
        let late = sent.filter(|(_, due)| **due <= self.now).map(|(sent, _)| *sent);
        for (ask, who) in late.collect::<Vec<_>>() {
            self.answered(client, ask, who, Answer::Silent);
        }
    }

    /// A host answered, or does not.
    fn answered(&self, client: &mut Client, ask: Ask, from: Who, answer: Answer) {
        let Client { session, task } = client;
        let waited = session.sent.remove(&(ask, from)).is_some();
        let Some(peer) = self.peer(from) else { return };
        match (task, ask) {
            (Task::Put(put), Ask::Store(index)) => {
                if answer == Answer::Stored {
                    put.held.insert(from);
                }
                if waited {
                    put.settle_store(index, peer, answer);
                }
            }
            (Task::Put(put), Ask::Commit) if waited => self.settle_commit(session, put, peer, answer),
            (Task::Delete(deletion), _) if waited => {
                deletion.settle(session, peer, answer == Answer::Stored);
            }
            (Task::Put(_) | Task::Delete(_), _) => {}
        }
    }

    fn answer(&self, who: Who, stored: bool) -> Answer {
        if stored {
            Answer::Stored
        } else if self.host(who).is_some_and(Host::is_full) {
            Answer::Full
        } else {
            Answer::Refused
        }
    }
}
