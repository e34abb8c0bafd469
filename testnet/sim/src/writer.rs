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

/// Between a writer and holders; `client` is the number of a put or a deletion.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Keep {
        client: u64,
        stripe: Id,
        index: u8,
        shape: Shape,
        until: u64,
    },
    Kept {
        client: u64,
        index: u8,
        answer: Answer,
    },
    /// Answered by `Kept` with the index of locators.
    Locate {
        client: u64,
        stripe: Id,
        shape: Shape,
        until: u64,
        holders: Vec<(u8, Who)>,
    },
    Commit {
        client: u64,
        stripe: Id,
    },
    /// None: there is no answer.
    Committed {
        client: u64,
        held: Option<bool>,
    },
    Discard {
        stripe: Id,
    },
    StoreTombstone {
        client: u64,
        stripe: Id,
        shape: Shape,
    },
    TombstoneStored {
        client: u64,
        taken: bool,
    },
}

impl Message {
    /// What a closed port says to it.
    pub(crate) fn refused(&self) -> Option<Self> {
        let answer = Answer::Silent;
        Some(match *self {
            Self::Keep { client, index, .. } => Self::Kept {
                client,
                index,
                answer,
            },
            Self::Locate { client, .. } => Self::Kept {
                client,
                index: LOCATOR,
                answer,
            },
            Self::Commit { client, .. } => Self::Committed { client, held: None },
            Self::StoreTombstone { client, .. } => Self::TombstoneStored { client, taken: false },
            Self::Discard { .. }
            | Self::Kept { .. }
            | Self::Committed { .. }
            | Self::TombstoneStored { .. } => return None,
        })
    }
}

/// What a client asked a host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    /// To keep what has this index: a shard, a locator or a tombstone.
    Store(u8),
    Commit,
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
    sent: BTreeMap<(Asked, Who), u64>,
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

    /// Sends off a message that is answered.
    fn ask(&mut self, session: &mut Session, asked: Asked, to: Who, message: Message) {
        session.sent.insert((asked, to), self.now + DEADLINE);
        self.send(session.through, to, None, Body::Writer(message));
    }

    /// Now, as the machines of clients count it.
    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn lease(&self) -> u64 {
        let custody = self.setup.custody.as_ref();
        custody.map_or(0, |custody| micros(custody.pending_lease))
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
        let answer = match message {
            Message::Keep {
                client,
                stripe,
                index,
                shape,
                until,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored = until > self.now && self.store(to, (stripe, index), Stored { shape, tenure });
                let answer = self.answer(to, stored);
                Message::Kept {
                    client,
                    index,
                    answer,
                }
            }
            Message::Locate {
                client,
                stripe,
                shape,
                until,
                holders,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored =
                    until > self.now && self.keep_locator(to, stripe, Stored { shape, tenure }, holders);
                Message::Kept {
                    client,
                    index: LOCATOR,
                    answer: self.answer(to, stored),
                }
            }
            Message::Commit { client, stripe } => Message::Committed {
                client,
                held: Some(self.commit(to, stripe)),
            },
            Message::Discard { stripe } => return self.take_back(to, stripe),
            Message::StoreTombstone {
                client,
                stripe,
                shape,
            } => Message::TombstoneStored {
                client,
                taken: self.store_tombstone(to, stripe, shape),
            },
            Message::Kept {
                client,
                index,
                answer,
            } => return self.heard(client, Asked::Store(index), from, answer),
            Message::Committed { client, held } => {
                let answer = held.map_or(Answer::Silent, taken);
                return self.heard(client, Asked::Commit, from, answer);
            }
            Message::TombstoneStored { client, taken: held } => {
                return self.heard(client, Asked::Store(TOMBSTONE), from, taken(held));
            }
        };
        self.send(to, from, Some(from_life), Body::Writer(answer));
    }

    /// Gives a client an answer, if it still waits.
    fn heard(&mut self, number: u64, asked: Asked, from: Who, answer: Answer) {
        let Some(mut client) = self.writers.clients.remove(&number) else {
            return;
        };
        self.answered(&mut client, asked, from, answer);
        self.writers.clients.insert(number, client);
        self.advance(number);
    }

    /// What was asked too long ago has no answer.
    fn expire(&self, client: &mut Client) {
        let sent = client.session.sent.iter();
        let late = sent.filter(|(_, due)| **due <= self.now).map(|(sent, _)| *sent);
        for (asked, who) in late.collect::<Vec<_>>() {
            self.answered(client, asked, who, Answer::Silent);
        }
    }

    /// A host answered, or does not.
    fn answered(&self, client: &mut Client, asked: Asked, from: Who, answer: Answer) {
        let Client { session, task } = client;
        let waited = session.sent.remove(&(asked, from)).is_some();
        let Some(peer) = self.peer(from) else { return };
        match (task, asked) {
            (Task::Put(put), Asked::Store(index)) => {
                if answer == Answer::Stored {
                    put.held.insert(from);
                }
                if waited {
                    put.settle_store(index, peer, answer);
                }
            }
            (Task::Put(put), Asked::Commit) if waited => self.settle_commit(session, put, peer, answer),
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

fn taken(taken: bool) -> Answer {
    if taken { Answer::Stored } else { Answer::Refused }
}
